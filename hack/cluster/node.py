"""A node of the native cluster: a containerd and a kubelet of its own, in a folder of its own.

Several nodes on one host differ by their ports; the network, kube-proxy and the kernel they share. What outlasts the
cluster is the first node's store of images, in the cache: unpacking them takes minutes.
"""

import json
import shutil
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hack.cluster import cache, cgroups, network, packages
from hack.cluster.controlplane import ControlPlane
from hack.cluster.oci import Layout
from hack.cluster.processes import Program
from hack.cluster.shell import ClusterError, filesystem, mounts, run, say, wait_for, write

PAUSE = "ghcr.io/edgemodel/pause:1"
_KUBELET_PORT = 21250
_CONTAINER_LOGS = Path("/var/log/containers")
_DEVICE_PLUGINS = Path("/var/lib/kubelet/device-plugins")
_RUN_FOLDERS = (Path("/run/containerd/runc/k8s.io"), Path("/run/containerd/s"))


@dataclass(frozen=True)
class Node:
    plane: ControlPlane
    number: int

    @property
    def name(self) -> str:
        return f"edgemodel-{self.number}"

    @property
    def folder(self) -> Path:
        return self.plane.folder / self.name

    @property
    def containerd(self) -> Program:
        return Program(self.plane.folder, f"containerd-{self.number}")

    @property
    def kubelet(self) -> Program:
        return Program(self.plane.folder, f"kubelet-{self.number}")

    def start_containerd(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        network.write_cni(self.folder / "cni", leases(self.plane.folder))
        configuration = self._containerd_config()
        self.containerd.ensure(["containerd", "--config", configuration], configuration)
        wait_for(f"containerd of {self.name}", self._containerd_answers, timeout=30)

    def start_kubelet(self, programs: Path) -> None:
        identity = self.plane.authority.issue(f"{self.name}-client", f"system:node:{self.name}", "system:nodes")
        kubeconfig = self.plane.kubeconfig(self.name, identity)
        configuration = self._kubelet_config()
        self.kubelet.ensure(
            [
                programs / "kubelet",
                f"--config={configuration}",
                f"--kubeconfig={kubeconfig}",
                f"--root-dir={self.folder / 'kubelet'}",
                f"--cert-dir={self.folder / 'kubelet' / 'pki'}",
                f"--hostname-override={self.name}",
                f"--node-ip={network.ADDRESS}",
            ],
            configuration,
        )

    def load(self, layout: Layout, reference: str) -> None:
        """Brings an image from the layout, unless that very image is there already."""
        listed = (line.split() for line in self._ctr("images", "list").splitlines())
        if any(fields[0] == reference and fields[2] == layout.images()[reference] for fields in listed):
            return
        say(f"loading {reference} on {self.name}")
        present = set(self._ctr("content", "list", "--quiet").split())
        command = [*self._ctr_command, "images", "import", "--snapshotter", self._snapshotter, "-"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as ctr:
            assert ctr.stdin is not None
            assert ctr.stdout is not None
            try:
                layout.send(reference, ctr.stdin, lambda digest: digest not in present)
                ctr.stdin.close()
            except BrokenPipeError:
                pass
            output = ctr.stdout.read().decode()
        if ctr.returncode:
            raise ClusterError(f"containerd did not take {reference}: {output}")

    def remove_containers(self) -> None:
        """Ends and removes every container, so that no shim, mount or network namespace of theirs stays."""
        for task in self._ctr("tasks", "list", "--quiet").split():
            subprocess.run([*self._ctr_command, "tasks", "delete", "--force", task], capture_output=True)
        for container in self._ctr("containers", "list", "--quiet").split():
            subprocess.run([*self._ctr_command, "containers", "delete", container], capture_output=True)

    def remove_images(self, layout: Layout) -> None:
        """Removes those that the layout does not have, or no longer: of a node without pods."""
        images = layout.images()
        gone = [reference for reference in self._ctr("images", "list", "--quiet").split() if reference not in images]
        if gone:
            self._ctr("images", "remove", "--sync", *gone)

    @property
    def store(self) -> Path:
        """The folder of its images and of its containers' files."""
        return (cache.root() if self.number == 1 else self.folder) / "containerd"

    @cached_property
    def _ctr_command(self) -> list[str]:
        return ["ctr", "--address", str(self._socket), "--namespace", "k8s.io"]

    def _ctr(self, *words: str) -> str:
        return run(*self._ctr_command, *words)

    @property
    def _socket(self) -> Path:
        return self.folder / "containerd.sock"

    @property
    def _snapshotter(self) -> str:
        # An overlay cannot be laid on an overlay, as the root of a container often is.
        return "native" if filesystem(self.store) == "overlay" else "overlayfs"

    def _containerd_answers(self) -> bool:
        try:
            self._ctr("version")
        except ClusterError:
            return False
        return True

    def _containerd_config(self) -> Path:
        return write(
            self.folder / "containerd.toml",
            f"""version = 2
root = "{self.store}"
state = "{self.folder}/containerd-state"
# Each takes a kernel module or a file system of its own, and says so in the log when it has none.
disabled_plugins = [
    "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
    "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp",
]
[grpc]
address = "{self._socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
# Without the right to lower it (CAP_SYS_RESOURCE) runc fails if asked for a lower score than our own.
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{packages.cni_plugins()}"
conf_dir = "{self.folder}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "{self._snapshotter}"
default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
""",
        )

    def _kubelet_config(self) -> Path:
        serving = self.plane.authority.issue(
            f"{self.name}-serving",
            f"system:node:{self.name}",
            "system:nodes",
            addresses=[f"DNS:{self.name}", f"IP:{network.ADDRESS}"],
        )
        configuration = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": network.ADDRESS,
            "port": _KUBELET_PORT + self.number,
            "healthzPort": 0,
            "readOnlyPort": 0,
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(self.plane.authority.root.certificate)},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(serving.certificate),
            "tlsPrivateKeyFile": str(serving.key),
            "containerRuntimeEndpoint": f"unix://{self._socket}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": cgroups.make(self.name),
            "failCgroupV1": False,
            "enforceNodeAllocatable": [],
            "failSwapOn": False,
            "makeIPTablesUtilChains": False,
            "clusterDNS": [network.DNS_SERVICE],
            "clusterDomain": "cluster.local",
            "resolvConf": str(resolv_conf()),
            "podLogsDir": str(self.folder / "pod-logs"),
            "volumePluginDir": str(self.folder / "volume-plugins"),
            # The disk is that of a developer's machine: only when it is all but full is that the pods' business.
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "200Mi", "imagefs.available": "200Mi"},
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
        }
        return write(self.folder / "kubelet.json", json.dumps(configuration, indent=2) + "\n")


def leases(folder: Path) -> Path:
    """Where the nodes in the folder note which pod has which address."""
    return folder / "leases"


def resolv_conf() -> Path:
    """The host's resolvers as they can be reached from elsewhere, past a resolver on the loopback interface."""
    behind = Path("/run/systemd/resolve/resolv.conf")
    return behind if behind.exists() else Path("/etc/resolv.conf")


def remove_leftovers(folder: Path) -> None:
    """What the nodes in the folder left in places that their programs have no setting for."""
    for link in _CONTAINER_LOGS.glob("*.log"):
        if link.is_symlink() and link.readlink().is_relative_to(folder):
            link.unlink()
    if not (_DEVICE_PLUGINS.parent / "config.yaml").exists():  # else that is the place of the host's own kubelet
        for name in ("kubelet.sock", "kubelet_internal_checkpoint"):
            (_DEVICE_PLUGINS / name).unlink(missing_ok=True)
    places = (_CONTAINER_LOGS, _DEVICE_PLUGINS, _DEVICE_PLUGINS.parent, *_RUN_FOLDERS, *_RUN_FOLDERS[0].parents[:2])
    for place in places:
        if place.is_dir() and not any(place.iterdir()):
            place.rmdir()


def remove_folder(folder: Path) -> None:
    """Takes a folder away with all that is mounted below it."""
    while below := [where for where, _ in mounts() if where.is_relative_to(folder)]:
        run("umount", "--lazy", "--recursive", min(below))
    shutil.rmtree(folder)
