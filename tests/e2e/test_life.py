"""The life of an EdgeModel on a real cluster, from apply to nothing left."""

import json
import time

import pytest

from edgemodel.core.facts import is_probed, probed_labels
from edgemodel.node.probe import facts
from hack.deploy import RELEASE, SYSTEM_NAMESPACE
from tests.e2e.edge import NAMESPACE, SMALL, Edge, Json, condition, edge_model
from tests.kstatus import kstatus


def test_the_chart_says_itself_that_it_works(edge: Edge) -> None:
    assert "Phase:          Succeeded" in edge.deployed.helm("test", RELEASE, "--timeout", "2m")


def test_the_probe_tells_what_the_processor_can(edge: Edge) -> None:
    """The node is this machine, so its labels are what this machine says of itself."""
    expected = probed_labels(facts())
    if not expected:
        pytest.skip("the probe knows nothing of this machine's processor")

    def labels() -> dict[str, str]:
        nodes = edge.list("nodes")
        return {name: value for name, value in nodes[0]["metadata"]["labels"].items() if is_probed(name)}

    edge.wait("the node is labelled", lambda: labels() == expected, 60)


def test_apply_leads_to_a_streamed_answer_and_to_metrics(edge: Edge) -> None:
    edge.apply(edge_model("life", "Q8_0"))
    stages: list[tuple[str, str]] = []

    def ready() -> bool:
        model = edge.get("em", "life")
        stage = (kstatus(model), condition(model, "Ready").get("reason", ""))
        if stage not in stages:
            stages.append(stage)
        return stage[0] in ("Current", "Failed")

    edge.wait("ready or stalled", ready, 300)
    assert stages[-1] == ("Current", "Serving")
    assert {status for status, _ in stages[:-1]} == {"InProgress"}
    reasons = [reason for _, reason in stages]
    assert [reason for reason in reasons if reason in ("MakingArtifact", "RollingOut", "Serving")] == [
        "MakingArtifact",
        "RollingOut",
        "Serving",
    ]
    edge.deployed.kubectl("wait", "--for=condition=Ready", "em/life", "--namespace", NAMESPACE, "--timeout=10s")

    model = edge.get("em", "life")
    (variant,) = model["status"]["variants"]
    assert variant["scheme"] == "Q8_0"
    assert variant["hardware"] in ("x86-64", "arm64")
    assert 0.9 < float(variant["quality"]["accuracy"]) < 1.1
    assert model["status"]["endpoint"] == f"http://life.{NAMESPACE}.svc/v1"

    with edge.openai("life") as client:
        assert [served.id for served in client.models.list()] == ["life"]
        answer = client.chat.completions.create(
            model="life", messages=[{"role": "user", "content": "Tom"}], max_tokens=8, temperature=0
        )
        assert answer.choices[0].message.content
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 8
        stream = client.chat.completions.create(
            model="life", messages=[{"role": "user", "content": "Tom"}], max_tokens=8, temperature=0, stream=True
        )
        pieces = [
            chunk.choices[0].delta.content for chunk in stream if chunk.choices and chunk.choices[0].delta.content
        ]
        assert len(pieces) > 1
        assert "".join(pieces) == answer.choices[0].message.content

    (pod,) = edge.list("pods", selector="edgemodel.dev/model=life,edgemodel.dev/role=serve")
    served = edge.scrape(NAMESPACE, f"pod/{pod['metadata']['name']}", 8080)
    assert served["llamacpp:tokens_predicted_total"] >= 16
    leaders = 0.0
    for operator in edge.list("pods", SYSTEM_NAMESPACE, "app.kubernetes.io/component=operator"):
        seen = edge.scrape(SYSTEM_NAMESPACE, f"pod/{operator['metadata']['name']}", 8080)
        assert seen[f'edgemodel_models{{namespace="{NAMESPACE}",reason="Serving",state="Ready"}}'] >= 1
        leaders += seen["edgemodel_leading"]
    assert leaders == 1


def test_a_second_edgemodel_of_the_same_model_makes_no_second_job(edge: Edge) -> None:
    jobs = {job["metadata"]["uid"] for job in edge.list("jobs")}
    edge.apply(edge_model("twin", "Q8_0"))
    edge.wait_ready("twin")
    assert {job["metadata"]["uid"] for job in edge.list("jobs")} <= jobs
    first, second = (edge.get("em", name)["status"]["variants"][0]["artifact"] for name in ("life", "twin"))
    assert first == second
    edge.delete("em", "twin")
    edge.wait("its pods are gone", lambda: not edge.list("pods", selector="edgemodel.dev/model=twin"))
    assert edge.get("ma", first["key"])["status"]["digest"] == first["digest"]  # the other still serves it


def test_a_new_scheme_is_rolled_out_while_no_request_fails(edge: Edge) -> None:
    old = edge.get("em", "life")["status"]["variants"][0]["artifact"]["key"]
    image = edge.list("deployments", SYSTEM_NAMESPACE, "app.kubernetes.io/component=operator")[0]
    client = _client_pod(image["spec"]["template"]["spec"]["containers"][0]["image"], f"http://life.{NAMESPACE}.svc")
    edge.apply(client)
    edge.wait("the client runs", lambda: edge.get("pod", "client")["status"].get("phase") == "Running")

    edge.apply(edge_model("life", "Q4_K_M"))
    edge.wait("the change is seen", lambda: kstatus(edge.get("em", "life")) == "InProgress", 20)
    model = edge.wait_ready("life")
    assert model["status"]["variants"][0]["scheme"] == "Q4_K_M"
    time.sleep(5)
    edge.deployed.kubectl("exec", "--namespace", NAMESPACE, "client", "--", "touch", "/tmp/stop")
    edge.wait("the client ends", lambda: edge.get("pod", "client")["status"]["phase"] == "Succeeded", 30)
    said = json.loads(edge.deployed.kubectl("logs", "--namespace", NAMESPACE, "client").splitlines()[-1])
    edge.delete("pod", "client")
    assert said["failed"] == []
    assert said["answered"] > 20
    selector = "edgemodel.dev/model=life,edgemodel.dev/role=serve"
    edge.wait("the old pod has ended", lambda: len(edge.list("pods", selector=selector)) == 1, 120)

    edge.wait("the old artifact is gone", lambda: old not in {each["metadata"]["name"] for each in edge.list("ma")})
    assert not [key for key in edge.blobs() if old in key]


def test_a_killed_pod_comes_back_with_its_verified_artifact(edge: Edge) -> None:
    """Also where the store is killed with it: what that has is on a volume."""
    in_store = edge.blobs()
    for namespace, selector in (
        (SYSTEM_NAMESPACE, "app.kubernetes.io/component=store"),
        (NAMESPACE, "edgemodel.dev/model=life,edgemodel.dev/role=serve"),
    ):
        (pod,) = edge.list("pods", namespace, selector)
        name = pod["metadata"]["name"]
        edge.deployed.kubectl("delete", "pod", name, "--namespace", namespace, "--grace-period=0", "--force")
    edge.wait("noticed", lambda: condition(edge.get("em", "life"), "Ready").get("status") == "False", 30)
    edge.wait_ready("life")
    with edge.openai("life") as client:
        assert client.completions.create(model="life", prompt="Tom", max_tokens=4).choices[0].text
    assert edge.blobs() == in_store


def test_where_there_is_no_room_for_two_the_old_pod_goes_first_if_asked_to(edge: Edge) -> None:
    (node,) = edge.list("nodes")
    memory = int(node["status"]["allocatable"]["memory"].removesuffix("Ki")) * 6 // 10

    def large(scheme: str, **serving: str) -> Json:
        model = edge_model("life", scheme)
        model["spec"]["serving"] |= serving
        model["spec"]["variants"][0]["resources"] = SMALL | {"memory": f"{memory}Ki"}
        return model

    edge.apply(large("Q4_K_M"))
    edge.wait("the change is seen", lambda: kstatus(edge.get("em", "life")) == "InProgress", 20)
    edge.wait_ready("life")
    edge.apply(large("Q8_0"))
    told = condition(edge.wait_reason("life", "Unschedulable", "InProgress"), "Ready")["message"]
    assert "Insufficient memory" in told
    assert "serving.rollout: Replace" in told
    with edge.openai("life") as client:
        assert client.completions.create(model="life", prompt="Tom", max_tokens=4).choices[0].text
    edge.apply(large("Q8_0", rollout="Replace"))
    assert edge.wait_ready("life")["status"]["variants"][0]["scheme"] == "Q8_0"


def test_one_pod_on_each_node(edge: Edge) -> None:
    wanted = edge_model("life", "Q8_0")
    wanted["spec"]["variants"][0]["perNode"] = True
    edge.apply(wanted)
    edge.wait("a DaemonSet in place of the Deployment", lambda: [
        each["kind"] for each in edge.list("deployments,daemonsets", selector="edgemodel.dev/model=life")
    ] == ["DaemonSet"])  # fmt: skip
    edge.wait_ready("life")


def test_deleted_leaves_no_object_and_no_blob(edge: Edge) -> None:
    edge.delete("em", "life")
    kinds = "em,ma,jobs,deployments,daemonsets,replicasets,services,pods"
    edge.wait("nothing is left", lambda: not edge.list(kinds, selector="app.kubernetes.io/managed-by=edgemodel"))
    edge.wait("no artifact", lambda: not edge.list("ma"))
    assert edge.blobs() == set()


def _client_pod(image: str, url: str) -> dict[str, object]:
    """A client in the cluster that asks without a pause and without retries, and in the end says what it saw."""
    script = f"""
import json, pathlib, time, urllib3
pool = urllib3.PoolManager(retries=False, timeout=60)
body = json.dumps({{"model": "life", "prompt": "Tom", "max_tokens": 4}})
answered, failed = 0, []
while not pathlib.Path("/tmp/stop").exists():
    try:
        answer = pool.request("POST", "{url}/v1/completions", body=body, headers={{"Content-Type": "application/json"}})
        if answer.status == 200:
            answered += 1
        else:
            failed.append([answer.status, answer.data.decode()[:200]])
    except Exception as error:
        failed.append([0, repr(error)[:200]])
    time.sleep(0.05)
print(json.dumps({{"answered": answered, "failed": failed}}))
"""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "client"},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "client",
                    "image": image,
                    "command": ["python3", "-c", script],
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
            ],
        },
    }
