"""A cluster whose only node is the agent's: API server, controller-manager and scheduler are Kubernetes' own.

Nobody routes to Services here, and the store is a server of the test's; the end-to-end tests have all of it.
"""

import json
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from edgemodel.api.artifact import ModelArtifactStatus
from edgemodel.api.runtime import EdgeRuntime, HardwareClass
from edgemodel.core.hardware import NodeFacts
from edgemodel.core.settings import StoreSettings
from edgemodel.store.artifacts import ArtifactStore
from hack.cluster import binaries
from hack.cluster.certificates import Authority
from hack.cluster.shell import REPOSITORY, ClusterError, run
from tests.mac_node import LIKE_KUBEADM, NODE, Agent, workload
from tests.s3 import ACCESS_KEY, S3, SECRET_KEY, manifest_of

Json = dict[str, Any]
T = TypeVar("T")

ADDRESS = "127.0.0.1"
POD_ADDRESSES = ("127.0.7.1", "127.0.7.2")
"""All of 127.0.0.0/8 is this machine's."""
NAMESPACE = "edge"
HARDWARE = "test-mac"
RUNTIME = "native-test"
KEY = "0123456789abcdef" * 2
PAUSE = 1
"""Seconds before a process is asked to end; the operator wants five."""
GRACE = 30
"""Seconds after which a node whose Lease is not renewed counts as gone: it is renewed every ten, and an agent that is
started again on a busy machine takes a while."""
SERVER = Path(__file__).with_name("native_server.py")

CONTROLLERS = (
    "certificatesigningrequest-approving-controller",
    "certificatesigningrequest-signing-controller",
    "deployment-controller",
    "replicaset-controller",
    "node-lifecycle-controller",
    "taint-eviction-controller",
    "pod-garbage-collector-controller",
    "garbage-collector-controller",
)

CLASS = HardwareClass.model_validate(
    {
        "metadata": {"name": HARDWARE},
        "spec": {
            "labels": [{"key": "example.com/test-mac", "operator": "Exists"}],
            "tolerations": [{"key": "edgemodel.dev/native", "operator": "Exists"}],
        },
    }
)


def runtime(**serving: Any) -> Json:
    """An EdgeRuntime whose pods are processes on the class."""
    return {
        "apiVersion": "edgemodel.dev/v1alpha1",
        "kind": "EdgeRuntime",
        "metadata": {"name": RUNTIME},
        "spec": {
            "format": "text",
            "schemes": [{"name": "PLAIN", "bitsPerWeight": "8"}],
            "defaultScheme": "PLAIN",
            "hardware": [
                {"class": HARDWARE, "native": {"command": ["python3", str(SERVER)]}, "args": ["--for", "$(MODEL_NAME)"]}
            ],
            "pipeline": {"image": "pipeline:1", "toolchain": "none", "version": "1"},
            "serving": {
                "image": "serving:1",
                "args": ["--model", "$(MODEL_FILE)"],
                "env": [{"name": "HOST", "value": "0.0.0.0"}, {"name": "COLOUR", "value": "green"}],
                "drainSeconds": 5,
                "startupSeconds": 30,
            }
            | serving,
        },
    }


@dataclass
class Cluster:
    """Everything, as a platform engineer sees it."""

    kubeconfig: Path
    authority: Authority
    store: S3
    agent: Agent

    @property
    def server(self) -> str:
        """The API server's address."""
        return str(json.loads(self.kubeconfig.read_text())["clusters"][0]["cluster"]["server"])

    def kubectl(self, *words: str | Path, text: str | None = None) -> str:
        """As an admin."""
        return run(binaries.one("kubectl"), "--kubeconfig", self.kubeconfig, *words, text=text)

    def apply(self, *manifests: Json) -> None:
        """Server-side apply."""
        listed = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", text=json.dumps(listed))

    def get(self, kind: str, name: str, namespace: str = NAMESPACE) -> Json:
        """One object; empty if there is none."""
        said = self.kubectl("get", kind, name, "--namespace", namespace, "--ignore-not-found", "-o", "json")
        found: Json = json.loads(said or "{}")
        return found

    def all(self, kind: str, namespace: str = NAMESPACE, selector: str = "") -> list[Json]:
        """All of a kind."""
        said = self.kubectl("get", kind, "--namespace", namespace, "--selector", selector, "-o", "json")
        items: list[Json] = json.loads(said)["items"]
        return items

    def wait(self, what: str, holds: Callable[[], T | None], seconds: float = 40) -> T:
        """What a condition returns once it is true."""
        deadline = time.monotonic() + seconds
        while not (found := holds()):
            if time.monotonic() > deadline:
                pods = [(pod["metadata"]["name"], pod.get("status")) for pod in self.all("pods")]
                raise AssertionError(
                    f"{what}: not so after {seconds:.0f} s\n{pods}\n{self.agent.log.read_text()[-6000:]}"
                )
            time.sleep(0.2)
        return found

    def pods(self, model: str) -> list[Json]:
        """An EdgeModel's pods, but for those that are being deleted."""
        found = self.all("pods", selector=f"edgemodel.dev/model={model}")
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def ready_pod(self, model: str) -> Json:
        """The one pod of an EdgeModel, once it is ready."""

        def ready() -> Json | None:
            return next((pod for pod in self.pods(model) if is_ready(pod)), None)

        return self.wait(f"a ready pod of {model}", ready)

    def node_is(self, status: str) -> bool:
        """Whether the node's Ready is this."""
        conditions = self.get("node", NODE).get("status", {}).get("conditions", ())
        return any(each["type"] == "Ready" and each["status"] == status for each in conditions)

    def events(self, name: str) -> dict[str, str]:
        """Reason -> message of the Events about an object."""
        found = self.all("events")
        return {each["reason"]: each["message"] for each in found if each["involvedObject"]["name"] == name}

    def ask_node(self, path: str, client: Path | None = None, token: str = "") -> tuple[int, str]:
        """Asks the agent's port itself: status and text; 0 where no connection came about."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if client:
            context.load_cert_chain(client.with_suffix(".crt"), client.with_suffix(".key"))
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(f"https://{ADDRESS}:{self.agent.port}{path}", headers=headers)
        opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))
        try:
            with opener.open(request, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""


def is_ready(pod: Json) -> bool:
    """Whether a pod's Ready is True."""
    return any(
        each["type"] == "Ready" and each["status"] == "True" for each in pod.get("status", {}).get("conditions", ())
    )


def ask(pod: Json, path: str = "/health") -> Json:
    """What a pod's process says of itself."""
    with urllib.request.urlopen(f"http://{pod['status']['podIP']}:8080{path}", timeout=5) as answer:
        told: Json = json.load(answer)
    return told


def alive(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def deployment(cluster: Cluster, name: str, memory: str = "64Mi", digest: str = "") -> Json:
    """The Deployment that the operator makes for an EdgeModel of the one runtime; it ends and gets ready sooner."""
    published = ArtifactStore(cluster.store.config).read_manifest(KEY)
    assert published is not None
    store = cluster.store.env
    made = workload(
        name,
        NAMESPACE,
        EdgeRuntime.model_validate(runtime()),
        CLASS,
        NodeFacts(NODE, "arm64", "linux", {"example.com/test-mac": "yes"}, {}),
        StoreSettings(
            uri=store["EDGEMODEL_STORE_URI"], endpoint=store["EDGEMODEL_STORE_ENDPOINT"], secret_name="edgemodel-store"
        ),
        ModelArtifactStatus(digest=digest or published.digest, bytes=9, entrypoint=published.manifest.entrypoint),
        key=KEY,
        resources={"cpu": "100m", "memory": memory},
    )
    (container,) = made["spec"]["template"]["spec"]["containers"]
    container["lifecycle"] = {"preStop": {"sleep": {"seconds": PAUSE}}}
    container["readinessProbe"]["periodSeconds"] = 1
    return made


def publish(store: S3, folder: Path, text: str) -> None:
    """An artifact of one file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.txt").write_text(text)
    ArtifactStore(store.config).publish(manifest_of(folder, KEY), folder)


@contextmanager
def control_plane(kubeconfig: Path, authority: Authority, folder: Path) -> Iterator[None]:
    """The controllers and the scheduler."""
    programs, root = binaries.folder(), authority.root
    common = [f"--kubeconfig={kubeconfig}", "--leader-elect=false", "--secure-port=0"]
    commands = {
        "kube-controller-manager": [
            f"--controllers={','.join(CONTROLLERS)}",
            f"--cluster-signing-cert-file={root.certificate}",
            f"--cluster-signing-key-file={root.key}",
            f"--node-monitor-grace-period={GRACE}s",
            "--node-monitor-period=1s",
        ],
        "kube-scheduler": [],
    }
    processes = []
    for name, options in commands.items():
        with (folder / f"{name}.log").open("wb") as log:
            processes.append(subprocess.Popen([programs / name, *common, *options], stdout=log, stderr=log, cwd=folder))
    try:
        yield
        for process in processes:
            if process.poll() is not None:
                raise ClusterError(f"{process.args!r} ended")
    finally:
        for process in processes:
            process.terminate()
            process.wait(20)


def prepare(cluster: Cluster) -> None:
    """What an installation has: the definitions, the runtime, the store's Secret, the nodes' right to read runtimes."""
    cluster.kubectl("apply", "--server-side", "-f", REPOSITORY / "crds")
    for name in ("edgeruntimes", "edgemodels"):
        cluster.kubectl("wait", "--for=condition=Established", f"crd/{name}.edgemodel.dev", "--timeout=30s")
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    rights = run(
        *(binaries.one("helm"), "template", "edgemodel", REPOSITORY / "charts" / "edgemodel"),
        *("--show-only", "templates/macnodes.yaml", "--set", "macNodes.enabled=true,objectStore.embedded.enabled=true"),
    )
    cluster.kubectl("apply", "--server-side", "-f", "-", text=rights)
    secret = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    metadata = {"name": "edgemodel-store", "namespace": NAMESPACE}
    cluster.apply(
        *LIKE_KUBEADM, runtime(), {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": secret}
    )
