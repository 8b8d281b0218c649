"""The native cluster's network on its host: an interface that holds its address, and a table of the packet filter.

The address is the cluster's own, so that nothing of it is reachable from other machines or depends on how this one is
connected. Pods hang on point-to-point links (the CNI plugin ptp): what they send is routed by the host, which
therefore also sees the replies of a Service's pods and can translate them back. A bridge would hide these unless
another module is loaded.
"""

import json
from pathlib import Path

from hack.cluster.shell import ClusterError, run, say, write

ADDRESS = "10.213.255.254"
PODS = "10.213.0.0/16"
FIRST_POD, LAST_POD = "10.213.0.10", "10.213.250.254"
SERVICES = "10.214.0.0/16"
FIRST_SERVICE = "10.214.0.1"
DNS_SERVICE = "10.214.0.10"

INTERFACE = "edgemodel0"
_TABLE = "edgemodel-cluster"
# Outside, what pods send comes from this host.
_MASQUERADE = f"""table ip {_TABLE} {{
    chain postrouting {{
        type nat hook postrouting priority srcnat;
        ip saddr {PODS} ip daddr != {{ {PODS}, {SERVICES} }} masquerade
    }}
}}
"""
_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
_PROXY_TABLES = (("ip", "kube-proxy"), ("ip6", "kube-proxy"))
_CNI_RESULTS = Path("/var/lib/cni/results")
_CNI_NETWORK = "edgemodel-cluster"


def up(record: Path) -> None:
    """Makes what is missing. The record says that it was made here, and how the host was before."""
    exists = Path("/sys/class/net", INTERFACE).exists()
    if not record.exists():
        if exists or any(_has_table(family, name) for family, name in _PROXY_TABLES):
            raise ClusterError(f"this host has an interface {INTERFACE} or a kube-proxy of another cluster")
        record.write_text(json.dumps({"forwarding": _FORWARDING.read_text().strip()}))
    if not exists:
        say(f"making the interface {INTERFACE} with {ADDRESS}")
        run("ip", "link", "add", INTERFACE, "type", "bridge")
        run("ip", "address", "add", f"{ADDRESS}/32", "dev", INTERFACE)
        run("ip", "link", "set", INTERFACE, "up")
    _FORWARDING.write_text("1")
    if not _has_table("ip", _TABLE):
        run("nft", "--file", "-", text=_MASQUERADE)


def down(record: Path, leases: Path) -> None:
    """Undoes it, and forgets the pods that had an address."""
    if not record.exists():
        return
    if Path("/sys/class/net", INTERFACE).exists():
        run("ip", "link", "delete", INTERFACE)
    for family, name in (("ip", _TABLE), *_PROXY_TABLES):
        if _has_table(family, name):
            run("nft", "delete", "table", family, name)
    _FORWARDING.write_text(json.loads(record.read_text())["forwarding"])
    pods = {lease.read_text().split()[0] for lease in (leases / _CNI_NETWORK).glob("10.*")}
    for result in [each for pod in pods for each in _CNI_RESULTS.glob(f"*-{pod}-*")]:
        result.unlink()
    for folder in (_CNI_RESULTS, _CNI_RESULTS.parent):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    record.unlink()


def write_cni(folder: Path, leases: Path) -> None:
    """The CNI configuration of a node. All nodes share the leases, so that no two pods share an address."""
    folder.mkdir(parents=True, exist_ok=True)
    pods = {"subnet": PODS, "rangeStart": FIRST_POD, "rangeEnd": LAST_POD}
    everywhere = {"dst": "0.0.0.0/0"}
    addresses = {"type": "host-local", "dataDir": str(leases), "ranges": [[pods]], "routes": [everywhere]}
    plugin = {"type": "ptp", "ipMasq": False, "mtu": _mtu(), "ipam": addresses}
    configuration = {"cniVersion": "0.4.0", "name": _CNI_NETWORK, "plugins": [plugin]}
    write(folder / "10-edgemodel.conflist", json.dumps(configuration, indent=2) + "\n")


def _has_table(family: str, name: str) -> bool:
    return f"table {family} {name}" in run("nft", "list", "tables").splitlines()


def _mtu() -> int:
    """That of the interface of the default route, so that what pods send outside fits."""
    routes = json.loads(run("ip", "-json", "route", "show", "default") or "[]")
    return int(Path("/sys/class/net", routes[0]["dev"], "mtu").read_text()) if routes else 1500
