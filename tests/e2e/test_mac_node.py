"""A Mac's agent as the second node of a real cluster, beside a kubelet: MLX as a process, behind a Service.

The Mac is this machine: what of macOS that leaves open is in docs/architecture.md. Nothing can be forwarded to a pod
there, so what asks is on the machine itself, which routes to Services.
"""

import json
import os
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import urllib3
from openai import OpenAI

from hack.cluster import kind, network
from hack.cluster.cli import cluster
from hack.cluster.shell import REPOSITORY, run
from hack.deploy import RELEASE, SOURCES, STORE_PORT, SYSTEM_NAMESPACE, upload_sources
from tests.e2e.edge import NAMESPACE, SMALL, Edge, Json, edge_model
from tests.mac_node import LIKE_KUBEADM, NODE, Agent
from tests.mlx import Mlx
from tests.mlx import mlx as mlx
from tests.unit.pipeline.models import first_block

HARDWARE = RUNTIME = "e2e-mac"
LABEL = "example.com/e2e-mac"
ADDRESSES = ("10.213.251.1", "10.213.251.2", "10.213.251.3")
MODEL = "apple"


@dataclass
class Mac:
    """The node, as its owner and as a platform engineer see it."""

    edge: Edge
    agent: Agent

    def pods(self) -> list[Json]:
        """The model's pods that are not about to go."""
        found = self.edge.list("pods", selector=f"edgemodel.dev/model={MODEL},edgemodel.dev/role=serve")
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def pod(self) -> Json:
        """The one pod."""
        (pod,) = self.pods()
        return pod

    def is_ready(self, kind: str, name: str) -> bool:
        """Whether a node or a pod says so."""
        conditions = self.edge.get(kind, name).get("status", {}).get("conditions", ())
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    def service(self) -> str:
        """URL of the model's Service."""
        return f"http://{self.edge.get('service', MODEL)['spec']['clusterIP']}"

    def pid(self, pod: Json) -> int:
        """The process that serves a pod."""
        folder = self.agent.folder / "pods" / pod["metadata"]["uid"] / "serve"
        return int(json.loads((folder / "state.json").read_text())["pid"])


def python_with_mlx(mlx: Mlx, folder: Path) -> Path:
    """A Python that has MLX and this checkout, as that of a Mac has what was installed there."""
    path = folder / "python3"
    path.write_text(f'#!/bin/sh\nPYTHONPATH={REPOSITORY / "operator"} exec {mlx.python} "$@"\n')
    path.chmod(0o755)
    return path


@contextmanager
def addresses(interface: str) -> Iterator[None]:
    """The machine has the pods' addresses."""
    for address in ADDRESSES:
        run("ip", "address", "replace", f"{address}/32", "dev", interface)
    try:
        yield
    finally:
        for address in ADDRESSES:
            run("ip", "address", "delete", f"{address}/32", "dev", interface)


@pytest.fixture(scope="module")
def mac(edge: Edge, mlx: Mlx, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mac]:
    """The agent has joined, and its node is of a class that MLX serves as processes."""
    if kind.docker_answers():
        pytest.skip("the agent's pods have addresses of this machine, which kind's nodes do not route to")
    folder = tmp_path_factory.mktemp("mac")
    kubectl = edge.deployed.kubectl
    server = json.loads(edge.deployed.kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
    authority = cluster().kubeconfig.parent / "certificates" / "ca.crt"
    store = json.loads(kubectl("get", "service", "--namespace", SYSTEM_NAMESPACE, f"{RELEASE}-store", "-o", "json"))
    agent = Agent(folder / "agent")
    mac = Mac(edge, agent)
    for manifest in LIKE_KUBEADM:
        kubectl("apply", "--server-side", "-f", "-", text=json.dumps(manifest))
    offered = edge.get("er", "mlx")
    native = next(each["native"] for each in offered["spec"]["hardware"] if each["class"] == "apple-silicon")
    tolerations = edge.get("hc", "apple-silicon")["spec"]["tolerations"]
    head = {"apiVersion": offered["apiVersion"], "metadata": {"name": HARDWARE}}
    requirement = {"key": LABEL, "operator": "Exists"}
    edge.apply(head | {"kind": "HardwareClass", "spec": {"labels": [requirement], "tolerations": tolerations}})
    spec = offered["spec"] | {"hardware": [{"class": HARDWARE, "native": native}]}
    spec["pipeline"]["cpu"] = SMALL["cpu"]
    edge.apply(head | {"kind": "EdgeRuntime", "spec": spec})
    with ExitStack() as stack:
        stack.enter_context(addresses(network.INTERFACE))
        agent.join(
            *(server, authority, network.ADDRESS, f"{ADDRESSES[0]}-{ADDRESSES[-1]}"),
            *("--python", python_with_mlx(mlx, folder)),
            *("--store-endpoint", f"http://{store['spec']['clusterIP']}:{STORE_PORT}"),
        )
        agent.start()
        try:
            edge.wait("the node is ready", lambda: NODE in nodes(edge) and mac.is_ready("node", NODE), 60)
            kubectl("label", "node", NODE, f"{LABEL}=here")
            edge.wait("its port's certificate", lambda: approved(edge), 30)
            yield mac
            assert "Traceback" not in agent.log.read_text()
        finally:
            print(agent.log.read_text()[-8000:])
            edge.clear()
            if agent.running:
                agent.end()
            agent.command("leave")
            kubectl("delete", "node", NODE, "--ignore-not-found")
            for kind_ in ("er", "hc"):
                edge.delete(kind_, HARDWARE)


def nodes(edge: Edge) -> set[str]:
    """Names."""
    return {node["metadata"]["name"] for node in edge.list("nodes")}


def approved(edge: Edge) -> bool:
    """Approves the certificate that the agent asks for its port, as an admin does."""
    requests = [
        each["metadata"]["name"]
        for each in edge.list("csr")
        if each["spec"]["signerName"] == "kubernetes.io/kubelet-serving"
    ]
    for name in requests:
        edge.deployed.kubectl("certificate", "approve", name)
    return bool(requests)


def model(scheme: str, **variant: Any) -> Json:
    """An EdgeModel for the Mac."""
    wanted = {"name": "mac", "runtime": RUNTIME, "hardware": HARDWARE, "resources": SMALL} | variant
    source = {"uri": f"s3://{SOURCES}/block", "secretRef": {"name": SOURCES}}
    return edge_model(MODEL, source=source, variants=[wanted | {"quantization": {"scheme": scheme}}])


@pytest.fixture(scope="module")
def serving(mac: Mac, tmp_path_factory: pytest.TempPathFactory) -> Json:
    """The model, Ready on the Mac: one block, for what answers matters less here than who."""
    block = first_block(tmp_path_factory.mktemp("source") / "block")
    upload_sources(mac.edge.deployed, NAMESPACE, {f"block/{file.name}": file for file in block.iterdir()})
    mac.edge.apply(model("4bit"))
    return mac.edge.wait_ready(MODEL, seconds=300)


@dataclass
class Client:
    """Asks the Service without a pause and without retries, on a thread, and notes what it saw."""

    url: str
    answered: int = 0
    failed: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Client":
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _ask(self) -> None:
        body = json.dumps({"model": MODEL, "prompt": "Tom", "max_tokens": 4}).encode()
        with urllib3.PoolManager(retries=False, timeout=60) as pool:
            while not self._stop.wait(0.05):
                try:
                    answer = pool.request(
                        "POST", f"{self.url}/v1/completions", body=body, headers={"Content-Type": "application/json"}
                    )
                    if answer.status == 200:
                        self.answered += 1
                    else:
                        self.failed.append(f"{answer.status} {answer.data[:200]!r}")
                except Exception as error:
                    self.failed.append(repr(error))


def test_model_is_served_by_a_process_of_the_mac(mac: Mac, serving: Json) -> None:
    pod = mac.pod()
    assert pod["spec"]["nodeName"] == NODE
    assert pod["status"]["podIP"] in ADDRESSES
    assert NODE in mac.edge.deployed.kubectl("get", "pods", "--namespace", NAMESPACE, "-o", "wide")
    with OpenAI(base_url=f"{mac.service()}/v1", api_key="none", max_retries=0) as client:
        assert [each.id for each in client.models.list()] == [MODEL]
        asked: dict[str, Any] = {"model": MODEL, "prompt": "Tom said", "max_tokens": 12, "temperature": 0}
        whole = client.completions.create(**asked)
        assert whole.usage
        assert whole.usage.completion_tokens == 12
        pieces = [chunk.choices[0].text for chunk in client.completions.create(**asked, stream=True)]
        assert "".join(pieces) == whole.choices[0].text
    with urllib.request.urlopen(f"http://{pod['status']['podIP']}:8080/metrics") as answer:
        assert "edgemodel_serve_tokens_total" in answer.read().decode()


def test_its_logs_are_read_by_kubectl(mac: Mac, serving: Json) -> None:
    name = mac.pod()["metadata"]["name"]
    fetched = mac.edge.deployed.kubectl("logs", "--namespace", NAMESPACE, name, "--container", "fetch")
    assert '"event": "end"' in fetched
    mac.edge.deployed.kubectl("logs", "--namespace", NAMESPACE, name, "--container", "serve")


def test_process_that_is_killed_is_started_again_and_counted(mac: Mac, serving: Json) -> None:
    pod = mac.pod()
    os.kill(mac.pid(pod), signal.SIGKILL)

    def again() -> bool:
        (status,) = mac.edge.get("pod", pod["metadata"]["name"])["status"]["containerStatuses"]
        return bool(status["restartCount"] == 1 and status["ready"])

    mac.edge.wait("started again", again, 60)
    mac.edge.wait_ready(MODEL)


def test_agent_that_is_killed_takes_its_process_back(mac: Mac, serving: Json) -> None:
    pod, pid = mac.pod(), mac.pid(mac.pod())
    with Client(mac.service()) as client:
        mac.agent.end(signal.SIGKILL)
        time.sleep(3)
        mac.agent.start()
        time.sleep(15)
    assert client.failed == []
    assert client.answered > 20
    assert mac.pod()["metadata"]["uid"] == pod["metadata"]["uid"]
    assert mac.pid(mac.pod()) == pid
    before, now = (each["status"]["containerStatuses"][0]["restartCount"] for each in (pod, mac.pod()))
    assert before == now


def test_new_artifact_is_rolled_out_while_no_request_fails(mac: Mac, serving: Json) -> None:
    old = mac.pod()["metadata"]["uid"]
    with Client(mac.service()) as client:
        mac.edge.apply(model("8bit"))
        mac.edge.wait(
            "the new pod alone", lambda: [pod["metadata"]["uid"] for pod in mac.pods()] not in ([old], []), 300
        )
        told = mac.edge.wait_ready(MODEL)
        mac.edge.wait("the old process has ended", lambda: not (mac.agent.folder / "pods" / old).exists(), 60)
        time.sleep(3)
    assert told["status"]["variants"][0]["scheme"] == "8bit"
    assert client.failed == []
    assert client.answered > 20


def test_pod_too_large_for_the_mac_says_so(mac: Mac, serving: Json) -> None:
    name = "apple-too-large"
    template = mac.pod()
    spec = {name_: value for name_, value in template["spec"].items() if name_ not in ("nodeName", "nodeSelector")}
    (container,) = spec["containers"]
    container["resources"] = {
        kind_: amounts | {"memory": "2000Gi"} for kind_, amounts in container["resources"].items()
    }
    labels = template["metadata"]["labels"] | {"edgemodel.dev/model": "none"}
    labels.pop("pod-template-hash")
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}}
    mac.edge.apply(pod | {"spec": spec | {"nodeName": NODE}})
    mac.edge.wait("refused", lambda: mac.edge.get("pod", name)["status"].get("phase") == "Failed", 30)
    assert mac.edge.get("pod", name)["status"]["reason"] == "OutOfMemory"
    mac.edge.wait("an Event", lambda: "OutOfMemory" in mac.edge.events(name))
    mac.edge.delete("pod", name)


def test_command_that_no_runtime_declares_is_not_run(mac: Mac, serving: Json) -> None:
    name = "apple-foreign"
    template = mac.pod()
    spec = template["spec"] | {"nodeName": NODE}
    spec["containers"][0]["command"] = ["python3", "-c", "print('mine')"]
    labels = template["metadata"]["labels"] | {"edgemodel.dev/model": "none"}
    labels.pop("pod-template-hash")
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}}
    mac.edge.apply(pod | {"spec": spec})
    mac.edge.wait("refused", lambda: mac.edge.get("pod", name)["status"].get("phase") == "Failed", 30)
    assert mac.edge.get("pod", name)["status"]["reason"] == "NotNative"
    mac.edge.delete("pod", name)


def test_traffic_leaves_a_mac_whose_agent_is_gone_and_comes_back(mac: Mac, serving: Json) -> None:
    def endpoints() -> list[bool]:
        """Of each endpoint of the Service, whether it is ready."""
        slices = mac.edge.list("endpointslices", selector=f"kubernetes.io/service-name={MODEL}")
        return [each["conditions"]["ready"] for found in slices for each in found.get("endpoints") or ()]

    pod, pid = mac.pod(), mac.pid(mac.pod())
    assert endpoints() == [True]
    mac.agent.end()
    mac.edge.wait("the node is not ready", lambda: not mac.is_ready("node", NODE), 90)
    mac.edge.wait("no traffic", lambda: True not in endpoints(), 30)
    mac.agent.start()
    mac.edge.wait("traffic again", lambda: endpoints() == [True], 60)
    assert mac.pod()["metadata"]["uid"] == pod["metadata"]["uid"]
    assert mac.pid(mac.pod()) == pid


def test_deleted_model_leaves_nothing_on_the_mac(mac: Mac, serving: Json) -> None:
    pod, pid = mac.pod(), mac.pid(mac.pod())
    mac.edge.delete("em", MODEL)
    mac.edge.wait("nothing is left", lambda: not (mac.agent.folder / "pods" / pod["metadata"]["uid"]).exists())
    assert not Path(f"/proc/{pid}").exists()
    with socket.create_server((pod["status"]["podIP"], 8080)):  # nobody has its port
        pass
