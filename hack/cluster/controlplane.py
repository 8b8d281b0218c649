"""etcd and the API server, and the identities that talk to it.

The native cluster is this and a node. Alone, and with its data in memory, it is what tests and benchmarks of a
controller need: a real API server (server-side apply, CEL, pruning, managed fields) that is up in seconds and needs
no root. There no one acts on the objects: no Deployment gets pods, and a deleted namespace stays Terminating.
"""

import os
import random
import shutil
import socket
import ssl
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from hack.cluster import binaries, packages
from hack.cluster.certificates import Authority, Identity
from hack.cluster.processes import started_at
from hack.cluster.shell import ClusterError, say, wait_for

_ETCD_NEEDS_BYTES = 1 << 30
_DATA = "edgemodel-apiserver-"
_TRIES = 5
# Where the kernel can do so, it ends a server whose starter was killed.
_ENDING_WITH_US = ("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") else ()


@dataclass(frozen=True)
class ControlPlane:
    """Where it listens, and the folder it lives in."""

    folder: Path
    address: str = "127.0.0.1"
    port: int = 0
    etcd_port: int = 0
    etcd_peer_port: int = 0
    services: str = "10.214.0.0/16"
    first_service: str = "10.214.0.1"
    data: Path | None = None
    options: tuple[str, ...] = ()
    authority: Authority = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "authority", Authority(self.folder / "certificates"))

    @property
    def server(self) -> str:
        return f"https://{self.address}:{self.port}"

    def admin(self) -> Identity:
        return self.authority.issue("admin", "edgemodel-admin", "system:masters")

    def kubeconfig(self, name: str, identity: Identity) -> Path:
        return self.authority.kubeconfig(self.folder / f"{name}.kubeconfig", self.server, identity)

    def etcd(self) -> list[str]:
        identity = self.authority.issue("etcd", "etcd", addresses=[f"IP:{self.address}"])
        client, peer = (f"https://{self.address}:{port}" for port in (self.etcd_port, self.etcd_peer_port))
        certificate, key, root = identity.certificate, identity.key, self.authority.root.certificate
        return [
            "etcd",
            "--name=edgemodel",
            f"--data-dir={self.data or self.folder / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=edgemodel={peer}",
            *("--client-cert-auth", f"--trusted-ca-file={root}", f"--cert-file={certificate}", f"--key-file={key}"),
            *("--peer-client-cert-auth", f"--peer-trusted-ca-file={root}"),
            *(f"--peer-cert-file={certificate}", f"--peer-key-file={key}"),
            "--auto-compaction-mode=periodic",
            "--auto-compaction-retention=10m",
            "--quota-backend-bytes=4294967296",
            "--log-level=warn",
        ]

    def apiserver(self, program: Path) -> list[str]:
        names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
        addresses = {self.address, "127.0.0.1", self.first_service}
        alternatives = [*(f"DNS:{name}" for name in [*names, "localhost"]), *(f"IP:{ip}" for ip in sorted(addresses))]
        serving = self.authority.issue("apiserver", "kube-apiserver", addresses=alternatives)
        etcd = self.authority.issue("apiserver-etcd", "kube-apiserver")
        kubelet = self.authority.issue("apiserver-kubelet", "kube-apiserver-kubelet-client", "system:masters")
        private, public = self.authority.token_keys()
        return [
            str(program),
            f"--advertise-address={self.address}",
            f"--bind-address={self.address}",
            f"--secure-port={self.port}",
            f"--tls-cert-file={serving.certificate}",
            f"--tls-private-key-file={serving.key}",
            f"--client-ca-file={self.authority.root.certificate}",
            f"--etcd-servers=https://{self.address}:{self.etcd_port}",
            f"--etcd-cafile={self.authority.root.certificate}",
            f"--etcd-certfile={etcd.certificate}",
            f"--etcd-keyfile={etcd.key}",
            "--authorization-mode=Node,RBAC",
            "--enable-bootstrap-token-auth",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged",
            f"--service-cluster-ip-range={self.services}",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-signing-key-file={private}",
            f"--service-account-key-file={public}",
            f"--kubelet-certificate-authority={self.authority.root.certificate}",
            f"--kubelet-client-certificate={kubelet.certificate}",
            f"--kubelet-client-key={kubelet.key}",
            "--kubelet-preferred-address-types=InternalIP",
            *self.options,
        ]

    def is_ready(self) -> bool:
        admin = self.admin()
        context = ssl.create_default_context(cafile=str(self.authority.root.certificate))
        context.load_cert_chain(admin.certificate, admin.key)
        straight = (urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
        try:
            with urllib.request.build_opener(*straight).open(f"{self.server}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@contextmanager
def apiserver(folder: Path) -> Iterator[Path]:
    """An API server of one's own until the block ends. Yields the path of the admin's kubeconfig."""
    packages.need(packages.APISERVER)
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        for tries_left in reversed(range(_TRIES)):
            try:
                plane = stack.enter_context(_started(folder))
                break
            except _EndedError as error:
                # Where several start side by side, one may take a port that another has just found free.
                if "address already in use" not in str(error) or not tries_left:
                    raise
        say(f"API server ready at {plane.server}")
        yield plane.kubeconfig("admin", plane.admin())


class _EndedError(ClusterError):
    """A server ended when it should have become ready."""


@contextmanager
def _started(folder: Path) -> Iterator[ControlPlane]:
    """etcd and an API server on ports that were free, until the block ends."""
    program = binaries.folder() / "kube-apiserver"
    with ExitStack() as stack:
        port, etcd_port, etcd_peer_port = free_ports(3)
        plane = ControlPlane(
            folder,
            port=port,
            etcd_port=etcd_port,
            etcd_peer_port=etcd_peer_port,
            data=stack.enter_context(_fast_folder(folder)),
            # Nothing makes the default service accounts that this plugin would ask of every pod.
            options=("--disable-admission-plugins=ServiceAccount",),
        )
        etcd = stack.enter_context(_running(plane.etcd(), folder / "etcd.log"))
        server = stack.enter_context(_running(plane.apiserver(program), folder / "kube-apiserver.log"))

        def ready() -> bool:
            for process, log in ((etcd, "etcd.log"), (server, "kube-apiserver.log")):
                if process.poll() is not None:
                    raise _EndedError(f"{process.args!r} ended:\n{(folder / log).read_text()[-2000:]}")
            return plane.is_ready()

        wait_for("an API server that is ready", ready, timeout=120)
        yield plane


@contextmanager
def _running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*_ENDING_WITH_US, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=log.parent,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def _fast_folder(otherwise: Path) -> Iterator[Path]:
    """A folder in memory, where etcd's syncs cost nothing; on disk where there is too little shared memory."""
    memory = Path("/dev/shm")  # noqa: S108
    roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > _ETCD_NEEDS_BYTES
    for left in memory.glob(f"{_DATA}*") if roomy else ():
        if started_at(int(left.name.removeprefix(_DATA).partition("-")[0])) is None:  # its maker was killed
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{_DATA}{os.getpid()}-", dir=memory if roomy else otherwise) as folder:
        yield Path(folder)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, and that the kernel gives to no connection that begins here: those are higher."""
    with ExitStack() as stack:
        found: list[int] = []
        while len(found) < count:
            one = stack.enter_context(socket.socket())
            with suppress(OSError):
                one.bind(("127.0.0.1", random.randrange(10240, 32768)))  # noqa: S311 - no secret
                found.append(one.getsockname()[1])
        return found
