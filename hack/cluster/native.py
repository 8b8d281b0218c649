"""The cluster where there is no Docker: Kubernetes' own components as processes of this host (Linux, root).

All of it is in one folder: certificates, data, logs, and for each program the record of its process. Each step of
`up` makes what is missing, so that the same call starts a cluster, finds one that runs, and repairs one that is half
dead. `down` undoes the steps in reverse. Everything it listens on is at the cluster's own address (network.py).
"""

import json
import os
import socket
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hack.cluster import binaries, cgroups, network, oci, packages
from hack.cluster.controlplane import ControlPlane
from hack.cluster.node import PAUSE, Node, leases, remove_folder, remove_leftovers, resolv_conf
from hack.cluster.processes import Program
from hack.cluster.shell import ClusterError, mounts, run, say, wait_for, write

_API_PORT, _ETCD_PORT, _ETCD_PEER_PORT = 26443, 23790, 23800
_PROXY_HEALTH_PORT, _PROXY_METRICS_PORT = 21256, 21249
_DNS_PORT, _DNS_READY_PORT = 20053, 20081
_VOLUMES = 4


@dataclass(frozen=True)
class Native:
    folder: Path

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "admin.kubeconfig"

    def up(self, nodes: int) -> None:
        if not sys.platform.startswith("linux") or os.geteuid() != 0:
            raise ClusterError("no Docker engine answers; without one a cluster takes Linux, as root")
        nodes = max(nodes, self._node_count())
        programs = binaries.folder()
        packages.need(packages.CLUSTER)
        self._make_folder()
        network.up(self._network_record)
        self._start_control_plane(programs)
        for node in self._nodes(nodes):
            node.start_containerd()
            node.load(self._pause(programs), PAUSE)
            node.start_kubelet(programs)
        self._start_proxy(programs)
        self._start_dns(programs)
        self._offer_volumes(programs)
        names = [node.name for node in self._nodes(nodes)]
        wait_for(f"readiness of {', '.join(names)}", lambda: set(names) <= self._ready_nodes(programs), timeout=180)
        wait_for("an answer by the cluster's DNS", _dns_answers, timeout=60)
        say(f"the cluster is up: {', '.join(names)} ready, DNS answers")

    def down(self) -> None:
        if not self.folder.exists():
            say("there is no cluster to take down")
            return
        nodes = self._nodes(self._node_count())
        for node in nodes:
            node.kubelet.stop()
        for node in nodes:
            node.start_containerd()
            node.remove_containers()
            node.remove_images(oci.layout())
            node.containerd.stop()
        cgroups.remove()
        for name in ("coredns", "kube-proxy", "kube-scheduler", "kube-controller-manager", "kube-apiserver", "etcd"):
            Program(self.folder, name).stop()
        network.down(self._network_record, leases(self.folder))
        remove_leftovers(self.folder)
        remove_folder(self.folder)
        say("the cluster is down")

    def load(self, references: Sequence[str]) -> None:
        layout = oci.layout()
        missing = sorted(set(references) - layout.images().keys())
        if missing:
            raise ClusterError(f"not in the cache: {', '.join(missing)}")
        for node in self._nodes(self._node_count()):
            for reference in references:
                node.load(layout, reference)

    def status(self) -> str:
        if not self.folder.exists():
            return "native: no cluster"
        records = sorted((self.folder / "run").glob("*.json"))
        programs = [Program(self.folder, record.stem) for record in records]
        states = [f"  {each.name}: {f'pid {each.pid}' if each.pid else 'dead'}" for each in programs]
        return "\n".join([f"native, in {self.folder}", *states])

    @cached_property
    def _plane(self) -> ControlPlane:
        return ControlPlane(
            self.folder,
            address=network.ADDRESS,
            port=_API_PORT,
            etcd_port=_ETCD_PORT,
            etcd_peer_port=_ETCD_PEER_PORT,
            services=network.SERVICES,
            first_service=network.FIRST_SERVICE,
        )

    @property
    def _network_record(self) -> Path:
        return self.folder / "network.json"

    def _nodes(self, count: int) -> list[Node]:
        return [Node(self._plane, number) for number in range(1, count + 1)]

    def _node_count(self) -> int:
        return len(list(self.folder.glob("edgemodel-*/containerd.toml")))

    def _make_folder(self) -> None:
        """The folder is a mount that is shared, as a node's is, so that what one pod mounts in it others can see."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.folder not in [where for where, _ in mounts()]:
            run("mount", "--bind", self.folder, self.folder)
            run("mount", "--make-private", self.folder)
            run("mount", "--make-shared", self.folder)

    def _start_control_plane(self, programs: Path) -> None:
        plane = self._plane
        Program(self.folder, "etcd").ensure(plane.etcd())
        Program(self.folder, "kube-apiserver").ensure(plane.apiserver(programs / "kube-apiserver"))
        wait_for("an API server that is ready", plane.is_ready, timeout=180)
        plane.authority.kubeconfig(self.kubeconfig, plane.server, plane.admin())
        for name in ("kube-controller-manager", "kube-scheduler"):
            kubeconfig = plane.kubeconfig(name, plane.authority.issue(name, f"system:{name}"))
            options = self._controller_manager_options() if name == "kube-controller-manager" else []
            Program(self.folder, name).ensure(
                [
                    programs / name,
                    f"--kubeconfig={kubeconfig}",
                    "--leader-elect=false",
                    "--secure-port=0",
                    *options,
                ]
            )

    def _controller_manager_options(self) -> list[str]:
        root = self._plane.authority.root
        private, _ = self._plane.authority.token_keys()
        return [
            "--controllers=*,bootstrapsigner,tokencleaner",
            f"--root-ca-file={root.certificate}",
            f"--service-account-private-key-file={private}",
            "--use-service-account-credentials",
            "--node-monitor-grace-period=40s",  # four times that a kubelet says that it lives
            f"--flex-volume-plugin-dir={self.folder / 'volume-plugins'}",
            f"--cluster-signing-cert-file={root.certificate}",
            f"--cluster-signing-key-file={root.key}",
        ]

    def _pause(self, programs: Path) -> oci.Layout:
        layout = oci.layout()
        if PAUSE not in layout.images():
            layout.add_program(PAUSE, programs / "pause")
        return layout

    def _start_proxy(self, programs: Path) -> None:
        identity = self._plane.authority.issue("kube-proxy", "system:kube-proxy")
        configuration = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": str(self._plane.kubeconfig("kube-proxy", identity))},
            "hostnameOverride": self._nodes(1)[0].name,
            "mode": "nftables",
            "clusterCIDR": network.PODS,
            "nodePortAddresses": [f"{network.ADDRESS}/32"],
            "healthzBindAddress": f"{network.ADDRESS}:{_PROXY_HEALTH_PORT}",
            "metricsBindAddress": f"{network.ADDRESS}:{_PROXY_METRICS_PORT}",
            "conntrack": {"maxPerCore": 0, "min": 0},
            "oomScoreAdj": 0,
        }
        path = write(self.folder / "kube-proxy.json", json.dumps(configuration, indent=2) + "\n")
        Program(self.folder, "kube-proxy").ensure([programs / "kube-proxy", f"--config={path}"], path)

    def _start_dns(self, programs: Path) -> None:
        identity = self._plane.authority.issue("coredns", "edgemodel-coredns")
        kubeconfig = self._plane.kubeconfig("coredns", identity)
        run(programs / "kubectl", "--kubeconfig", self.kubeconfig, "apply", "-f", "-", text=json.dumps(_DNS_OBJECTS))
        upstream = resolv_conf()
        forward = f"forward . {upstream}" if "nameserver" in upstream.read_text() else ""
        corefile = write(
            self.folder / "Corefile",
            f""".:{_DNS_PORT} {{
    bind {network.ADDRESS}
    errors
    ready {network.ADDRESS}:{_DNS_READY_PORT}
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        kubeconfig {kubeconfig} edgemodel
        pods insecure
        ttl 5
        fallthrough in-addr.arpa ip6.arpa
    }}
    {forward}
    cache 5
    loadbalance
}}
""",
        )
        Program(self.folder, "coredns").ensure([programs / "coredns", "-conf", corefile], corefile)

    def _offer_volumes(self, programs: Path) -> None:
        """A default class of storage, as kind has one. Its volumes are folders, ready to be claimed."""
        meta = {"name": "standard", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}
        items: list[dict[str, Any]] = [
            {
                "apiVersion": "storage.k8s.io/v1",
                "kind": "StorageClass",
                "metadata": meta,
                "provisioner": "kubernetes.io/no-provisioner",
            }
        ]
        for number in range(_VOLUMES):
            path = self.folder / "volumes" / str(number)
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(0o777)  # pods are of any user
            items.append(
                {
                    "apiVersion": "v1",
                    "kind": "PersistentVolume",
                    "metadata": {"name": f"volume-{number}"},
                    "spec": {
                        "accessModes": ["ReadWriteOnce"],
                        "capacity": {"storage": "100Gi"},
                        "hostPath": {"path": str(path)},
                        "storageClassName": "standard",
                    },
                }
            )
        offered = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
        run(programs / "kubectl", "--kubeconfig", self.kubeconfig, "apply", "-f", "-", text=offered)

    def _ready_nodes(self, programs: Path) -> set[str]:
        ready = '{range .items[*]}{.metadata.name}={.status.conditions[?(@.type=="Ready")].status} {end}'
        command = ("get", "nodes", "-o", f"jsonpath={ready}")
        listed = run(programs / "kubectl", "--kubeconfig", self.kubeconfig, *command)
        return {name for name, _, status in (node.partition("=") for node in listed.split()) if status == "True"}


_DNS_META = {"name": "kube-dns", "namespace": "kube-system", "labels": {"kubernetes.io/service-name": "kube-dns"}}
_DNS_OBJECTS = {
    "apiVersion": "v1",
    "kind": "List",
    "items": [
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "edgemodel-coredns"},
            "rules": [
                {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
            ],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "edgemodel-coredns"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edgemodel-coredns"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "edgemodel-coredns"}],
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": "kube-system"},
            "spec": {
                "clusterIP": network.DNS_SERVICE,
                "ports": [
                    {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": _DNS_PORT},
                    {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": _DNS_PORT},
                ],
            },
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": _DNS_META,
            "addressType": "IPv4",
            "endpoints": [{"addresses": [network.ADDRESS]}],
            "ports": [
                {"name": "dns", "port": _DNS_PORT, "protocol": "UDP"},
                {"name": "dns-tcp", "port": _DNS_PORT, "protocol": "TCP"},
            ],
        },
    ],
}


def _dns_answers() -> bool:
    """Whether the cluster's DNS Service knows the API server's: this passes kube-proxy, as a pod's question does."""
    name = b"".join(bytes([len(label)]) + label for label in b"kubernetes.default.svc.cluster.local".split(b"."))
    question = struct.pack(">6H", 1, 0x0100, 1, 0, 0, 0) + name + b"\0" + struct.pack(">2H", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(1)
        try:
            asking.sendto(question, (network.DNS_SERVICE, 53))
            answer = asking.recv(512)
        except OSError:
            return False
    return answer.endswith(socket.inet_aton(network.FIRST_SERVICE))
