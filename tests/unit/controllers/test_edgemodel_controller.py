"""An EdgeModel from YAML to serving, write by write."""

import json
from typing import Any

import pytest

from edgemodel.controllers.resources import ARTIFACT_CONTROLLER, MODEL_CONTROLLER
from edgemodel.core.keys import artifact_key
from edgemodel.engine.errors import Conflict, Forbidden, Invalid
from edgemodel.engine.objects import Key, Object
from tests.unit.controllers.stand_ins import NAMESPACE, World, ago
from tests.unit.core.samples import URI, published, recipe, resolved, runtime

SPEC: Object = {"source": {"uri": URI, "revision": "main"}, "variants": [{"name": "cpu", "hardware": "x86-64"}]}
KEY = artifact_key(resolved(), recipe())
ANSWER = json.dumps(resolved().dump())


def world(**spec: Any) -> World:
    found = World()
    found.put("EdgeModel", SPEC | spec, name="m", status={"observedGeneration": -1})
    return found


def reconcile(found: World) -> float | None:
    return found.reconcile(MODEL_CONTROLLER, "m")


def ended(code: int, message: str = "", at: str = "2026-01-02T03:04:05Z") -> Object:
    state = {"terminated": {"exitCode": code, "finishedAt": at, "message": message}}
    return {
        "phase": "Failed" if code else "Succeeded",
        "containerStatuses": [{"name": "resolve", "ready": False, "state": state}],
    }


def resolver(found: World) -> str:
    name: str = found.one("Pod")["metadata"]["name"]
    return name


def ready(found: World) -> tuple[str, str, str]:
    """Status, reason and the other condition's type, of the EdgeModel."""
    conditions = found.one("EdgeModel")["status"]["conditions"]
    return conditions[0]["status"], conditions[0]["reason"], ",".join(item["type"] for item in conditions[1:])


def said(reason: str, retry: bool) -> str:
    return json.dumps({"reason": reason, "message": "said", "retry": retry})


def with_artifact(found: World, **status: Any) -> None:
    """The source is resolved, the artifact is asked for, and becomes this."""
    reconcile(found)
    found.change("Pod", resolver(found), status=ended(0, ANSWER))
    reconcile(found)
    found.change("ModelArtifact", KEY, status=published().status.dump() | status)


def serving(found: World) -> None:
    """All the way to pods that answer."""
    with_artifact(found)
    reconcile(found)
    done = {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1}
    found.change("Deployment", "m-cpu", status=done)
    reconcile(found)
    found.writes()


def test_life_of_an_edge_model_is_these_writes_in_this_order() -> None:
    found = world()
    reconcile(found)
    name = resolver(found)
    assert found.writes() == [f"apply Pod {name}", "status EdgeModel m", "event Normal ResolvingSource"]

    found.change("Pod", name, status=ended(0, ANSWER))
    reconcile(found)
    assert found.writes() == [f"apply ModelArtifact {KEY}", "status EdgeModel m", "event Normal MakingArtifact"]

    reconcile(found)
    assert found.writes() == [f"delete Pod {name}"], "the answer is kept before its pod goes"

    found.change("ModelArtifact", KEY, status=published().status.dump())
    reconcile(found)
    assert found.writes() == [
        "apply Deployment m-cpu",
        "apply Service m",
        "status EdgeModel m",
        "event Normal RollingOut",
    ]

    done = {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1}
    found.change("Deployment", "m-cpu", status=done)
    reconcile(found)
    assert found.writes() == ["status EdgeModel m", "event Normal Serving"]
    assert ready(found) == ("True", "Serving", "")

    assert reconcile(found) is None
    assert found.writes() == [], "an idle operator writes nothing"


def test_reconcile_between_any_two_events_writes_nothing_new() -> None:
    found = world()
    reconcile(found)
    found.writes()
    reconcile(found)
    assert found.writes() == []


def test_model_that_is_gone_or_going_is_left_alone() -> None:
    found = world()
    found.change("EdgeModel", "m", metadata={**found.one("EdgeModel")["metadata"], "deletionTimestamp": ago(1)})
    assert reconcile(found) is None
    found.lose("EdgeModel", "m")
    assert reconcile(found) is None
    assert found.writes() == []


def test_model_of_which_nothing_can_be_served_resolves_nothing() -> None:
    found = world(variants=[{"name": "cpu", "runtime": "missing"}])
    reconcile(found)
    assert found.writes() == ["status EdgeModel m", "event Warning UnknownRuntime"]


# The resolver


@pytest.mark.parametrize(
    ("name", "passed", "attempt", "wait"),
    [
        ("has just failed: it waits", 0, 1, 10.0),
        ("failed three seconds ago: it waits for the rest", 3, 1, 7.0),
        ("failed for the third time: it waits longer", 0, 3, 40.0),
    ],
)
def test_resolver_that_can_pass_next_time(name: str, passed: float, attempt: int, wait: float) -> None:
    found = world()
    reconcile(found)
    for number in range(1, attempt):
        found.change("Pod", resolver(found), status=ended(1, said("HubUnavailable", True), ago(3600)))
        reconcile(found)
        reconcile(found)
        assert resolver(found).endswith(f"-{number + 1}")
    found.change("Pod", resolver(found), status=ended(1, said("HubUnavailable", True), ago(passed)))
    again = reconcile(found)
    assert again is not None
    assert wait - 2 < again <= wait, name
    assert ready(found) == ("False", "HubUnavailable", "Reconciling")


def test_resolver_is_tried_again_under_another_name_before_the_failed_one_goes() -> None:
    found = world()
    reconcile(found)
    first = resolver(found)
    found.change("Pod", first, status=ended(1, said("HubUnavailable", True), ago(60)))
    found.writes()
    reconcile(found)
    second = first.removesuffix("1") + "2"
    assert found.writes()[0] == f"apply Pod {second}"
    reconcile(found)
    assert found.writes() == [f"delete Pod {first}", "status EdgeModel m"]
    assert [pod["metadata"]["name"] for pod in found.all("Pod")] == [second]


def test_resolver_that_can_never_pass_stalls_the_model_and_says_how_to_go_on() -> None:
    found = world()
    reconcile(found)
    name = resolver(found)
    found.change("Pod", name, status=ended(1, said("SourceNotFound", False), ago(3600)))
    assert reconcile(found) is None
    assert ready(found) == ("False", "SourceNotFound", "Stalled")
    message = found.one("EdgeModel")["status"]["conditions"][0]["message"]
    assert f"kubectl delete pod {name}" in message
    found.writes()
    reconcile(found)
    assert found.writes() == [], "it is not tried again by itself"
    found.lose("Pod", name)
    reconcile(found)
    assert found.writes()[0] == f"apply Pod {name}"


def test_resolver_whose_pod_was_refused_by_a_kubelet_is_not_tried_again_at_once() -> None:
    """Such a pod has no container that ended; without a pause there would be hundreds of them."""
    found = world()
    reconcile(found)
    pod = found.one("Pod")
    status = {"phase": "Failed", "reason": "OutOfcpu", "message": "Node didn't have enough resource: cpu"}
    found.change("Pod", resolver(found), status=status, metadata={**pod["metadata"], "creationTimestamp": ago(1)})
    again = reconcile(found)
    assert again is not None
    assert 7 < again <= 9
    assert len(found.all("Pod")) == 1


@pytest.mark.parametrize("answer", ["", "no JSON", "{}", '{"digest": 1}'])
def test_resolver_that_ended_well_and_said_nothing_of_use_stalls_the_model(answer: str) -> None:
    found = world()
    reconcile(found)
    found.change("Pod", resolver(found), status=ended(0, answer))
    reconcile(found)
    assert ready(found) == ("False", "ResolverAnswer", "Stalled")


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("another revision", {"revision": "v2"}),
        ("another uri", {"uri": "hf://other/model"}),
        ("another Secret", {"secretRef": {"name": "token"}}),
        ("another digest", {"sha256": f"sha256:{'0' * 64}"}),
    ],
)
def test_change_of_the_source_lets_a_stalled_resolver_try_again(name: str, source: Object) -> None:
    found = world()
    reconcile(found)
    before = resolver(found)
    found.change("Pod", before, status=ended(1, said("SourceNotFound", False)))
    reconcile(found)
    found.change("EdgeModel", "m", spec=SPEC | {"source": SPEC["source"] | source})
    reconcile(found)
    assert resolver(found) != before, name
    assert ready(found)[1:] == ("ResolvingSource", "Reconciling")


def test_source_that_another_model_has_had_resolved_is_not_resolved_again() -> None:
    found = world()
    with_artifact(found)
    found.put("EdgeModel", SPEC, name="twin", status={"observedGeneration": -1})
    found.writes()
    found.reconcile(MODEL_CONTROLLER, "twin")
    assert [line for line in found.writes() if "Pod" in line or "ModelArtifact" in line] == []


def test_answer_that_another_model_got_is_not_taken_where_a_digest_is_demanded() -> None:
    found = world()
    with_artifact(found)
    pinned = SPEC | {"source": SPEC["source"] | {"sha256": f"sha256:{'0' * 64}"}}
    found.put("EdgeModel", pinned, name="twin", status={"observedGeneration": -1})
    found.writes()
    found.reconcile(MODEL_CONTROLLER, "twin")
    assert [line for line in found.writes() if "apply Pod twin-resolve" in line]


def test_source_stays_pinned_when_its_artifacts_are_gone() -> None:
    found = world()
    serving(found)
    found.lose("ModelArtifact", KEY)
    reconcile(found)
    assert f"apply ModelArtifact {KEY}" in found.writes()
    assert found.all("Pod") == []


# Artifacts and pods


def test_artifact_that_is_on_its_way_out_is_waited_for() -> None:
    found = world()
    serving(found)
    artifact = found.one("ModelArtifact")
    found.change("ModelArtifact", KEY, metadata={**artifact["metadata"], "deletionTimestamp": ago(1)})
    reconcile(found)
    assert ready(found) == ("False", "MakingArtifact", "Reconciling")
    assert len(found.all("Deployment")) == 1, "what serves goes on serving"


def test_artifact_that_fails_the_gate_is_not_rolled_out() -> None:
    found = world(quality={"minAccuracy": "0.99"})
    with_artifact(found)
    reconcile(found)
    assert found.all("Deployment") == []
    assert ready(found) == ("False", "QualityTooLow", "Stalled")


def test_other_scheme_keeps_the_old_pods_until_its_artifact_is_there() -> None:
    found = world()
    serving(found)
    before = found.one("Deployment")
    variants = [SPEC["variants"][0] | {"quantization": {"scheme": "Q8_0"}}]
    found.change("EdgeModel", "m", spec=SPEC | {"variants": variants})
    reconcile(found)
    assert found.one("Deployment") == before
    other = artifact_key(resolved(), recipe(scheme="Q8_0"))
    assert f"apply ModelArtifact {other}" in found.writes()
    assert Key(ARTIFACT_CONTROLLER, NAMESPACE, KEY) in found.woken, "the old artifact learns that it may go"


def test_artifact_of_another_source_learns_that_it_may_go_when_the_status_no_longer_names_it() -> None:
    found = world()
    serving(found)
    found.change("EdgeModel", "m", spec=SPEC | {"source": {"uri": "hf://other/model"}})
    found.woken.clear()
    reconcile(found)
    assert Key(ARTIFACT_CONTROLLER, NAMESPACE, KEY) in found.woken


def test_workload_of_the_other_kind_goes_once_the_new_one_serves() -> None:
    found = world()
    serving(found)
    found.change("EdgeModel", "m", spec=SPEC | {"variants": [SPEC["variants"][0] | {"perNode": True}]})
    reconcile(found)
    assert len(found.all("Deployment")) == len(found.all("DaemonSet")) == 1
    counts = ("desiredNumberScheduled", "currentNumberScheduled", "updatedNumberScheduled", "numberReady")
    found.change("DaemonSet", "m-cpu", status={"observedGeneration": 1} | dict.fromkeys(counts, 1))
    found.writes()
    reconcile(found)
    assert "delete Deployment m-cpu" in found.writes()


def test_workload_of_a_variant_that_is_gone_goes() -> None:
    found = world()
    serving(found)
    found.change("EdgeModel", "m", spec=SPEC | {"variants": [{"name": "other"}]})
    reconcile(found)
    assert "delete Deployment m-cpu" in found.writes()


def test_workload_of_a_variant_that_can_no_longer_be_decided_stays() -> None:
    found = world()
    serving(found)
    found.lose("Node", "n1", namespace="")
    reconcile(found)
    assert ready(found) == ("False", "NoNode", "Reconciling")
    assert len(found.all("Deployment")) == 1


# What the API server refuses


def test_refusal_early_on_does_not_hide_what_still_serves() -> None:
    found = world()
    with_artifact(found)
    reconcile(found)
    before = found.one("EdgeModel")["status"]
    assert before["endpoint"]
    found.change(
        "EdgeModel", "m",
        spec=found.one("EdgeModel")["spec"] | {"variants": [{"name": "cpu", "quantization": {"scheme": "Q8_0"}}]},
    )  # fmt: skip
    found.client.refusals["apply ModelArtifact"] = Forbidden(403, "Forbidden", "exceeded quota")
    with pytest.raises(Forbidden):
        reconcile(found)
    status = found.one("EdgeModel")["status"]
    assert status["endpoint"] == before["endpoint"]
    assert status["variants"][0]["replicas"] == before["variants"][0]["replicas"]


@pytest.mark.parametrize(
    ("name", "error", "reason", "abnormal"),
    [
        ("for good", Invalid(422, "Invalid", "spec.x: too long"), "Rejected", "Stalled"),
        ("for want of a permission or a quota", Forbidden(403, "Forbidden", "exceeded quota"), "Forbidden",
         "Reconciling"),
    ],
)  # fmt: skip
def test_refusal_is_told_in_the_status_and_tried_again(
    name: str, error: Forbidden | Invalid, reason: str, abnormal: str
) -> None:
    found = world()
    with_artifact(found)
    found.client.refusals["apply Deployment"] = error
    with pytest.raises(type(error)):
        reconcile(found)
    assert ready(found) == ("False", reason, abnormal), name
    found.client.refusals.clear()
    reconcile(found)
    assert ready(found) == ("False", "RollingOut", "Reconciling")


def test_lost_race_leaves_the_status_as_it_was() -> None:
    found = world()
    with_artifact(found)
    before = found.one("EdgeModel")["status"]
    found.client.refusals["apply Deployment"] = Conflict(409, "Conflict", "another write came first")
    with pytest.raises(Conflict):
        reconcile(found)
    assert found.one("EdgeModel")["status"] == before


def test_event_is_told_only_when_the_reason_changes() -> None:
    found = world()
    serving(found)
    found.lose("Node", "n1", namespace="")
    reconcile(found)
    assert found.writes() == ["status EdgeModel m", "event Normal NoNode"]
    found.change("Deployment", "m-cpu", status={"observedGeneration": 1, "replicas": 2, "updatedReplicas": 1})
    reconcile(found)
    assert found.writes() == ["status EdgeModel m"]


def test_the_answer_decides_which_runtimes_can_read_the_source() -> None:
    found = world()
    spec: Object = runtime("openvino", {"x86-64": 300}).spec.dump()
    spec["pipeline"]["sources"] = ["safetensors"]
    found.put("EdgeRuntime", spec, name="openvino")
    reconcile(found)
    assert found.one("EdgeModel")["status"]["variants"][0]["runtime"] == "openvino"
    found.change("Pod", resolver(found), status=ended(0, json.dumps(resolved().dump() | {"format": "gguf"})))
    reconcile(found)
    assert found.one("ModelArtifact")["spec"]["runtime"] == "llamacpp"
    assert found.one("EdgeModel")["status"]["variants"][0]["runtime"] == "llamacpp"
