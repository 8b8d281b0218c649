"""The programs that Debian packages: what a native cluster and an image build need from the distribution.

They are installed without letting their services start: the cluster runs its own instances, beside those of the host.
"""

import shutil
from pathlib import Path

from hack.cluster import cache
from hack.cluster.shell import ClusterError, run, run_long, say

CLUSTER = {
    "etcd": "etcd-server",
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "nft": "nftables",
    "ip": "iproute2",
    "openssl": "openssl",
    "mount": "mount",
}
APISERVER = {"etcd": "etcd-server", "openssl": "openssl"}
IMAGES = {"buildah": "buildah", "runc": "runc", "debootstrap": "debootstrap", "zstd": "zstd"}

_POLICY = Path("/usr/sbin/policy-rc.d")
_CNI_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))
_CNI_PLUGINS = ("ptp", "host-local", "loopback")


def need(programs: dict[str, str]) -> None:
    """Installs the packages of those programs that are not there."""
    _install({package for program, package in programs.items() if shutil.which(program) is None})


def cni_plugins() -> Path:
    """The folder of the CNI plugins, installed if there is none."""
    for attempt in range(2):
        for folder in _CNI_FOLDERS:
            if all((folder / plugin).exists() for plugin in _CNI_PLUGINS):
                return folder
        if attempt == 0:
            _install({"containernetworking-plugins"})
    raise ClusterError(f"no CNI plugins in {' or '.join(map(str, _CNI_FOLDERS))}")


def _install(packages: set[str]) -> None:
    if not packages:
        return
    if shutil.which("apt-get") is None:
        raise ClusterError(f"please install (there is no apt-get here): {' '.join(sorted(packages))}")
    say(f"installing {' '.join(sorted(packages))}")
    policy_is_ours = not _POLICY.exists()
    if policy_is_ours:
        _POLICY.write_text("#!/bin/sh\nexit 101\n")
        _POLICY.chmod(0o755)
    try:
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        run("apt-get", "update", "-q", env=quiet)
        log = cache.root() / "apt.log"
        command = ("apt-get", "install", "-qy", "--no-install-recommends", *sorted(packages))
        run_long("apt-get install", *command, log=log, env=quiet)
    finally:
        if policy_is_ours:
            _POLICY.unlink()
