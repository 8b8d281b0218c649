"""The agent as a node of a real control plane: what a kubelet does, for processes."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from edgemodel.node.identity import public_key_hash
from hack.cluster import binaries
from hack.cluster.certificates import Identity
from hack.cluster.shell import ClusterError
from tests.apiserver.node.cluster import (
    GRACE,
    NAMESPACE,
    POD_ADDRESSES,
    Cluster,
    Json,
    alive,
    ask,
    deployment,
    is_ready,
)
from tests.mac_node import NODE, Agent, cluster_info

pytestmark = pytest.mark.xdist_group("node")


@pytest.fixture(scope="module")
def served(cluster: Cluster) -> Json:
    """A pod that serves, of a Deployment that all tests here leave as it is."""
    cluster.apply(deployment(cluster, "first"))
    return cluster.ready_pod("first")


@pytest.fixture
def second(cluster: Cluster, served: Json) -> Iterator[Json]:
    """A Deployment beside it, not applied yet. Afterwards it is gone."""
    yield deployment(cluster, "second")
    cluster.kubectl("delete", "deployment", "--namespace", NAMESPACE, "--ignore-not-found", "second-mac")
    cluster.wait("its pods are gone", lambda: not cluster.all("pods", selector="edgemodel.dev/model=second"))


def now_of(cluster: Cluster, pod: Json) -> Json:
    """The pod as it is now."""
    return cluster.get("pod", pod["metadata"]["name"])


def serving(pod: Json) -> Json:
    """The status of its container that serves."""
    (status,) = pod["status"]["containerStatuses"]
    found: Json = status
    return found


def logs(cluster: Cluster, pod: Json, *more: str) -> list[str]:
    """`kubectl logs`."""
    name = pod["metadata"]["name"]
    return cluster.kubectl("logs", "--namespace", NAMESPACE, name, "--container", "serve", *more).splitlines()


def bound_by_hand(manifest: Json, name: str, **spec: Any) -> Json:
    """A pod of a Deployment's template that no scheduler has looked at."""
    template = manifest["spec"]["template"]
    metadata = template["metadata"] | {"name": name, "namespace": NAMESPACE}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": template["spec"] | {"nodeName": NODE} | spec,
    }


def about_to_end(pem: bytes, authority: Identity) -> bytes:
    """The same identity by the same authority, in a certificate that has a day left."""
    key = serialization.load_pem_private_key(pem, None)
    signer = serialization.load_pem_private_key(authority.key.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.load_pem_x509_certificate(pem).subject)
        .issuer_name(x509.load_pem_x509_certificate(authority.certificate.read_bytes()).subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=30))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(signer, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + certificate.public_bytes(serialization.Encoding.PEM)


# The node


def test_node_says_what_it_is_and_takes_only_who_tolerates_it(cluster: Cluster) -> None:
    node = cluster.get("node", NODE)
    assert node["metadata"]["labels"]["kubernetes.io/os"] == "linux"
    assert node["metadata"]["labels"]["kubernetes.io/arch"] in ("amd64", "arm64")
    assert {"key": "edgemodel.dev/native", "value": "true", "effect": "NoSchedule"} in node["spec"]["taints"]
    status = node["status"]
    assert status["capacity"]["pods"] == str(len(POD_ADDRESSES))
    assert int(status["capacity"]["memory"]) - int(status["allocatable"]["memory"]) == 1 << 30
    assert {each["type"]: each["status"] for each in status["conditions"]} == {
        "Ready": "True",
        "MemoryPressure": "False",
        "DiskPressure": "False",
        "PIDPressure": "False",
    }


def test_lease_is_renewed_and_nothing_else_is_written_while_nothing_changes(cluster: Cluster, served: Json) -> None:
    def lease() -> Json:
        return cluster.get("lease", NODE, "kube-node-lease")

    def versions() -> list[str]:
        return [each["metadata"]["resourceVersion"] for each in (cluster.get("node", NODE), now_of(cluster, served))]

    before, first = versions(), lease()

    def renewed() -> Json | None:
        now = lease()
        return now if now["spec"]["renewTime"] > first["spec"]["renewTime"] else None

    time.sleep(12)
    now = cluster.wait("renewed", renewed)
    assert now["spec"]["holderIdentity"] == NODE
    assert [owner["kind"] for owner in now["metadata"]["ownerReferences"]] == ["Node"]
    assert versions() == before


def test_identity_is_the_nodes_own_and_nobody_elses_to_read(cluster: Cluster) -> None:
    folder = cluster.agent.folder
    assert not (folder / "bootstrap-token").exists()
    assert {(folder / name).stat().st_mode & 0o777 for name in ("client.pem", "serving.pem")} == {0o600}
    said = subprocess.run(
        ["openssl", "x509", "-noout", "-subject", "-in", folder / "client.pem"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"O = system:nodes, CN = system:node:{NODE}" in said.stdout


def test_cluster_is_known_by_the_hash_of_its_authority(cluster: Cluster, tmp_path: Path) -> None:
    cluster.apply(*cluster_info(cluster.kubeconfig))
    authority = cluster.authority.root.certificate
    hashed = public_key_hash(authority.read_bytes())
    other = Agent(tmp_path / "other")
    words = ("join", "--server", cluster.server, "--token", "abcdef.0123456789abcdef", "--ca-hash")
    with pytest.raises(ClusterError, match="this is another cluster"):
        other.command(*words, f"sha256:{'0' * 64}")
    assert not other.folder.exists()
    other.command(*words, hashed)
    assert (other.folder / "authority.crt").read_text() == authority.read_text()


def test_node_may_see_what_its_pods_need_and_no_more(cluster: Cluster, served: Json) -> None:
    def may(*words: str) -> bool:
        who = ("--as", f"system:node:{NODE}", "--as-group", "system:nodes")
        kubectl = (binaries.one("kubectl"), "--kubeconfig", cluster.kubeconfig)
        command = [str(word) for word in (*kubectl, "auth", "can-i", *words, *who)]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() == "yes"

    assert may("get", "secret/edgemodel-store", "--namespace", NAMESPACE)
    assert may("get", "edgeruntimes.edgemodel.dev")
    assert not may("list", "secrets", "--namespace", NAMESPACE)
    assert not may("get", "secret/bootstrap-token-abcdef", "--namespace", "kube-system")
    assert not may("update", "edgeruntimes.edgemodel.dev")


# A pod


def test_pod_is_scheduled_fetched_started_and_ready(cluster: Cluster, served: Json) -> None:
    status = served["status"]
    assert served["spec"]["nodeName"] == NODE
    assert status["podIP"] in POD_ADDRESSES
    assert status["phase"] == "Running"
    (fetched,) = status["initContainerStatuses"]
    assert fetched["state"]["terminated"]["reason"] == "Completed"
    assert json.loads(fetched["state"]["terminated"]["message"])["bytes"] == 9
    assert serving(served)["started"]
    assert serving(served)["restartCount"] == 0
    told = ask(served)
    assert told["model"] == "weights 1"
    assert f"native://{told['pid']}/" in serving(served)["containerID"]


def test_process_gets_what_was_declared_and_nothing_of_the_machine(cluster: Cluster, served: Json) -> None:
    told = ask(served)
    folder = cluster.agent.folder / "pods" / served["metadata"]["uid"]
    assert told["argv"] == ["--model", f"{folder}/model/model.txt", "--for", "first"]
    assert told["env"]["HOST"] == served["status"]["podIP"]
    assert told["env"]["COLOUR"] == "green"
    assert told["env"]["THREADS"] == "1"
    assert not {"AWS_PROFILE", "PYTHONPATH", "EDGEMODEL_STORE_CREDENTIALS"} & told["env"].keys()
    assert told["env"]["HOME"].startswith(str(folder))
    assert not (folder / "credentials").exists()


def test_logs_are_read_by_kubectl(cluster: Cluster, served: Json) -> None:
    pid = ask(served)["pid"]
    assert sorted(logs(cluster, served)) == ["a word on stderr", f"serving as {pid}"]
    assert len(logs(cluster, served, "--tail=1")) == 1
    (line, _) = logs(cluster, served, "--timestamps")
    assert datetime.fromisoformat(line.partition(" ")[0]).year >= 2026
    assert logs(cluster, served, "--since=1s") == []
    assert '"event": "end"' in cluster.kubectl(
        "logs", "--namespace", NAMESPACE, served["metadata"]["name"], "--container", "fetch"
    )


@pytest.mark.parametrize(
    ("who", "expected"),
    [("nobody", 401), ("a-wrong-token", 401), ("the-node-itself", 403), ("a-stranger", 403), ("an-admin", 200)],
)
def test_nobody_reads_logs_who_may_not(cluster: Cluster, served: Json, who: str, expected: int) -> None:
    path = f"/containerLogs/{NAMESPACE}/{served['metadata']['name']}/serve"
    token = "not-a-token" if who == "a-wrong-token" else ""
    users = {
        "the-node-itself": (f"system:node:{NODE}", "system:nodes"),
        "a-stranger": ("jane", ""),
        "an-admin": ("edgemodel-admin", "system:masters"),
    }
    client = cluster.authority.issue(who, *users[who]).certificate if who in users else None
    status, said = cluster.ask_node(path, client, token)
    assert status == expected
    assert ("serving as" in said) == (expected == 200)


def test_metrics_tell_what_pods_take(cluster: Cluster, served: Json) -> None:
    admin = cluster.authority.issue("an-admin", "edgemodel-admin", "system:masters").certificate
    _, said = cluster.ask_node("/metrics/resource", admin)
    samples = dict(line.rsplit(" ", 1) for line in said.splitlines() if not line.startswith("#"))
    labels = f'{{container="serve",namespace="{NAMESPACE}",pod="{served["metadata"]["name"]}"}}'
    assert float(samples[f"container_memory_working_set_bytes{labels}"]) > 5 << 20
    assert float(samples[f"container_cpu_usage_seconds_total{labels}"]) > 0
    assert float(samples["node_memory_working_set_bytes"]) > 100 << 20
    status, said = cluster.ask_node("/metrics", admin)
    assert (status, "edgemodel_api_requests_total" in said) == (200, True)


def test_killed_process_is_started_again_and_counted(cluster: Cluster, second: Json) -> None:
    cluster.apply(second)
    pod = cluster.ready_pod("second")
    pid = ask(pod)["pid"]
    os.kill(pid, signal.SIGKILL)

    def again() -> Json | None:
        now = now_of(cluster, pod)
        return now if serving(now)["restartCount"] == 1 and is_ready(now) else None

    now = cluster.wait("started again", again)
    assert ask(now)["pid"] != pid
    assert serving(now)["lastState"]["terminated"]["exitCode"] == 137
    assert f"serving as {pid}" in logs(cluster, now, "--previous")
    os.kill(ask(now)["pid"], signal.SIGKILL)
    waiting = cluster.wait("waiting", lambda: serving(now_of(cluster, pod))["state"].get("waiting"))
    assert waiting["reason"] == "CrashLoopBackOff"
    assert not is_ready(now_of(cluster, pod))


def test_process_that_does_not_answer_is_not_ready(cluster: Cluster, second: Json) -> None:
    cluster.apply(second)
    pod = cluster.ready_pod("second")
    sick = cluster.agent.folder / "pods" / pod["metadata"]["uid"] / "sick"
    sick.touch()
    cluster.wait("not ready", lambda: not is_ready(now_of(cluster, pod)))
    sick.unlink()
    cluster.wait("ready", lambda: is_ready(now_of(cluster, pod)))
    assert serving(now_of(cluster, pod))["restartCount"] == 0


def test_deleted_pod_ends_its_process(cluster: Cluster, second: Json) -> None:
    (container,) = second["spec"]["template"]["spec"]["containers"]
    container["lifecycle"]["preStop"]["sleep"]["seconds"] = 10  # there is time to see that it goes on
    cluster.apply(second)
    pod = cluster.ready_pod("second")
    pid = ask(pod)["pid"]
    cluster.kubectl("delete", "deployment", "--namespace", NAMESPACE, "second-mac")
    cluster.wait("deleted", lambda: "deletionTimestamp" in now_of(cluster, pod).get("metadata", {}))
    assert alive(pid)  # its preStop gives clients time to go elsewhere
    cluster.wait("gone", lambda: not cluster.get("pod", pod["metadata"]["name"]))
    assert not alive(pid)
    folder = cluster.agent.folder / "pods" / pod["metadata"]["uid"]
    cluster.wait("forgotten", lambda: not folder.exists())  # after the API server has been told


def test_pod_that_is_no_more_ends_its_process(cluster: Cluster, second: Json) -> None:
    cluster.apply(second)
    pod = cluster.ready_pod("second")
    pid = ask(pod)["pid"]
    cluster.kubectl(
        "delete",
        "pod",
        "--namespace",
        NAMESPACE,
        pod["metadata"]["name"],
        "--grace-period=0",
        "--force",
        "--wait=false",
    )
    cluster.wait("ended", lambda: not alive(pid), 60)


def test_evicted_pod_ends_its_process(cluster: Cluster, second: Json) -> None:
    cluster.apply(second)
    pod = cluster.ready_pod("second")
    pid = ask(pod)["pid"]
    try:
        of_second = ("--pod-selector", "edgemodel.dev/model=second")
        cluster.kubectl("drain", NODE, *of_second, "--delete-emptydir-data", "--timeout=60s")
    finally:
        cluster.kubectl("uncordon", NODE)
    assert not alive(pid)
    assert not cluster.get("pod", pod["metadata"]["name"])


def test_artifact_that_is_not_what_was_promised_never_serves(cluster: Cluster, served: Json) -> None:
    cluster.apply(bound_by_hand(deployment(cluster, "other", digest=f"sha256:{'1' * 64}"), "wrong-digest"))

    def failed() -> Json | None:
        (status,) = cluster.get("pod", "wrong-digest").get("status", {}).get("initContainerStatuses", [{}])
        ended: Json | None = status.get("lastState", {}).get("terminated")
        return ended

    ended = cluster.wait("fetching failed", failed)
    assert json.loads(ended["message"])["reason"] == "ArtifactCorrupt"
    assert not serving(cluster.get("pod", "wrong-digest"))["started"]
    cluster.kubectl("delete", "pod", "--namespace", NAMESPACE, "wrong-digest")


def test_port_that_somebody_else_has_is_waited_for(cluster: Cluster, served: Json, second: Json) -> None:
    (free,) = set(POD_ADDRESSES) - {served["status"]["podIP"]}
    with socket.create_server((free, 8080)):
        cluster.apply(second)

        def waiting() -> Json | None:
            for pod in cluster.pods("second"):
                for status in pod.get("status", {}).get("containerStatuses", ()):
                    if status["state"].get("waiting", {}).get("reason") == "PortInUse":
                        return pod
            return None

        pod = cluster.wait("PortInUse", waiting)
        assert f"{free}:8080" in serving(pod)["state"]["waiting"]["message"]
    assert cluster.ready_pod("second")["metadata"]["name"] == pod["metadata"]["name"]


# What is refused


def refused(cluster: Cluster, name: str) -> tuple[str, str]:
    """Reason and message, once a pod has failed."""

    def failed() -> Json | None:
        status: Json = cluster.get("pod", name).get("status", {})
        return status if status.get("phase") == "Failed" else None

    status = cluster.wait(f"{name} refused", failed)
    assert status["reason"] in cluster.wait("an Event", lambda: cluster.events(name))
    cluster.kubectl("delete", "pod", "--namespace", NAMESPACE, name)
    return status["reason"], status["message"]


def test_pod_that_is_too_large_is_refused_with_the_figures(cluster: Cluster, served: Json) -> None:
    cluster.apply(bound_by_hand(deployment(cluster, "large", memory="2000Gi"), "too-large"))
    reason, message = refused(cluster, "too-large")
    assert reason == "OutOfMemory"
    assert str(2000 << 30) in message


def test_scheduler_sends_no_pod_that_is_too_large(cluster: Cluster, served: Json) -> None:
    cluster.apply(deployment(cluster, "huge", memory="2000Gi"))

    def unschedulable() -> bool:
        conditions = [each for pod in cluster.pods("huge") for each in pod.get("status", {}).get("conditions", ())]
        return any(each["type"] == "PodScheduled" and "Insufficient memory" in each["message"] for each in conditions)

    cluster.wait("unschedulable", unschedulable)
    cluster.kubectl("delete", "deployment", "--namespace", NAMESPACE, "huge-mac")


def test_pod_beyond_the_last_address_is_refused(cluster: Cluster, second: Json) -> None:
    cluster.apply(second)
    cluster.ready_pod("second")
    cluster.apply(bound_by_hand(deployment(cluster, "third"), "one-too-many"))
    assert refused(cluster, "one-too-many")[0] == "OutOfAddresses"


def test_command_that_no_runtime_declares_is_refused(cluster: Cluster, served: Json) -> None:
    pod = bound_by_hand(deployment(cluster, "foreign"), "foreign-command")
    pod["spec"]["containers"][0]["command"] = ["python3", "-c", "print('mine')"]
    cluster.apply(pod)
    reason, message = refused(cluster, "foreign-command")
    assert reason == "NotNative"
    assert "print('mine')" in message


def test_pod_of_nobody_is_refused_though_it_tolerates_everything(cluster: Cluster, served: Json) -> None:
    spec = {
        "nodeName": NODE,
        "tolerations": [{"operator": "Exists"}],
        "containers": [{"name": "any", "image": "any:1"}],
    }
    cluster.apply(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "daemon", "namespace": NAMESPACE}, "spec": spec}
    )
    assert refused(cluster, "daemon")[0] == "NotNative"


def test_controller_that_makes_foreign_pods_makes_few(cluster: Cluster, served: Json) -> None:
    foreign = deployment(cluster, "storm")
    foreign["spec"]["template"]["spec"]["containers"][0]["args"] = ["--another"]
    cluster.apply(foreign)
    cluster.wait("refused", lambda: any(pod["status"]["phase"] == "Failed" for pod in cluster.pods("storm")))
    time.sleep(5)
    assert len(cluster.pods("storm")) <= 2
    cluster.kubectl("delete", "deployment", "--namespace", NAMESPACE, "storm-mac")
    cluster.wait("gone", lambda: not cluster.all("pods", selector="edgemodel.dev/model=storm"))


# The agent's own life


def test_killed_agent_takes_its_processes_back(cluster: Cluster, served: Json) -> None:
    pid = ask(served)["pid"]
    cluster.agent.end(signal.SIGKILL)
    assert ask(served)["pid"] == pid
    cluster.agent.start()
    cluster.wait("it answers", lambda: cluster.ask_node("/healthz")[0] == 401)
    time.sleep(3)
    now = now_of(cluster, served)
    assert is_ready(now)
    assert ask(now)["pid"] == pid
    assert serving(now)["restartCount"] == serving(served)["restartCount"]
    assert serving(now)["containerID"] == serving(served)["containerID"]
    changed = {each["type"]: each["lastTransitionTime"] for each in served["status"]["conditions"]}
    assert {each["type"]: each["lastTransitionTime"] for each in now["status"]["conditions"]} == changed


def test_what_ends_while_there_is_no_agent_is_counted(cluster: Cluster, second: Json) -> None:
    cluster.apply(second)
    pod = cluster.ready_pod("second")
    pid = ask(pod)["pid"]
    cluster.agent.end()
    os.kill(pid, signal.SIGKILL)
    cluster.agent.start()

    def again() -> bool:
        now = now_of(cluster, pod)
        return serving(now)["restartCount"] == 1 and is_ready(now)

    cluster.wait("started again", again)


def test_what_is_deleted_while_there_is_no_agent_ends(cluster: Cluster, second: Json) -> None:
    cluster.apply(second)
    pod = cluster.ready_pod("second")
    pid = ask(pod)["pid"]
    cluster.agent.end()
    cluster.kubectl(
        *("delete", "deployment", "--namespace", NAMESPACE, "second-mac"),
        *("--cascade=orphan", "--wait=false"),
    )
    for kind in ("replicaset", "pod"):
        cluster.kubectl(
            *("delete", kind, "--namespace", NAMESPACE, "--selector", "edgemodel.dev/model=second"),
            *("--grace-period=0", "--force", "--wait=false"),
        )
    cluster.wait("gone", lambda: not cluster.get("pod", pod["metadata"]["name"]))
    assert alive(pid)
    cluster.agent.start()
    cluster.wait("ended", lambda: not alive(pid))


def test_node_whose_agent_is_not_heard_is_not_ready_and_its_pods_neither_until_it_is(
    cluster: Cluster, served: Json
) -> None:
    """The control plane has written into the pods' status then; the agent, which has not, must see that."""
    pid = ask(served)["pid"]
    with cluster.agent.stopped():
        cluster.wait("not ready", lambda: cluster.node_is("Unknown"), GRACE + 40)
        cluster.wait("its pod neither", lambda: not is_ready(now_of(cluster, served)))
    cluster.wait("ready again", lambda: cluster.node_is("True") and is_ready(now_of(cluster, served)))
    assert ask(served)["pid"] == pid


def test_certificate_that_is_about_to_end_is_renewed(cluster: Cluster, served: Json) -> None:
    path = cluster.agent.folder / "client.pem"
    cluster.agent.end()
    path.write_bytes(about_to_end(path.read_bytes(), cluster.authority.root))

    def end() -> datetime:
        return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc

    assert end() < datetime.now(UTC) + timedelta(days=2)
    cluster.agent.start()
    cluster.wait("renewed", lambda: end() > datetime.now(UTC) + timedelta(days=300))
    cluster.wait("ready", lambda: is_ready(now_of(cluster, served)))


def test_second_agent_in_the_same_folder_is_refused(cluster: Cluster, served: Json) -> None:
    with pytest.raises(ClusterError, match="another agent runs"):
        cluster.agent.command("run")


def test_agent_that_leaves_ends_its_pods(cluster: Cluster, served: Json) -> None:
    pid = ask(served)["pid"]
    said = cluster.agent.command("leave")
    assert f"kubectl delete node {NODE}" in said
    assert not alive(pid)
    cluster.wait("the agent has ended", lambda: not cluster.agent.running)
    assert cluster.get("node", NODE)["spec"]["unschedulable"]
    assert not list(Path(cluster.agent.folder / "pods").iterdir())
    cluster.agent.start()
    cluster.wait("it stays away", lambda: not cluster.agent.running)
