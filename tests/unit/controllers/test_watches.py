"""Whom an event wakes, and what the cache keeps."""

import json
from collections.abc import Callable

import pytest

from edgemodel.controllers.resources import ARTIFACT_CONTROLLER, MODEL_CONTROLLER, NODE_CONTROLLER
from edgemodel.engine.objects import Key, Object
from tests.unit.controllers.stand_ins import NAMESPACE, World
from tests.unit.core.samples import SETTINGS, model_artifact

KEY = model_artifact().spec.key
SPEC = model_artifact().spec.dump()
MODEL = {"source": SPEC["source"], "variants": [{"name": "cpu"}]}
COPY = MODEL | {"source": {"uri": "s3://bucket/the-same-files"}}
OTHER = {"source": {"uri": "hf://other/model"}}
OURS = {"app.kubernetes.io/managed-by": "edgemodel"}
OF_MODEL = OURS | {"edgemodel.dev/model": "m"}
OF_ARTIFACT = OURS | {"edgemodel.dev/artifact": KEY}
SERVING: Object = {"template": {"metadata": {"labels": OF_MODEL | OF_ARTIFACT}}, "replicas": 0}

M = Key(MODEL_CONTROLLER, NAMESPACE, "m")
COPY_M = Key(MODEL_CONTROLLER, NAMESPACE, "copy")
OTHER_M = Key(MODEL_CONTROLLER, NAMESPACE, "other")
A = Key(ARTIFACT_CONTROLLER, NAMESPACE, KEY)
N = Key(NODE_CONTROLLER, "", "n1")


def world() -> World:
    """Three EdgeModels, of which two want the artifact; one of these reads the same files elsewhere."""
    found = World()
    found.put("EdgeModel", MODEL, name="m", status={"variants": [{"name": "cpu", "artifact": {"key": KEY}}]})
    found.put("EdgeModel", COPY, name="copy", status={"variants": [{"name": "cpu", "artifact": {"key": KEY}}]})
    found.put("EdgeModel", OTHER, name="other", status={})
    found.put("ModelArtifact", SPEC, name=KEY, status={})
    found.put("Deployment", SERVING, name="m-cpu", labels=OF_MODEL, status={})
    found.put("DaemonSet", SERVING, name="m-cpu", labels=OF_MODEL, status={})
    found.put("Pod", {}, name="serve", labels=OF_MODEL | OF_ARTIFACT, status={})
    found.put("Pod", {}, name="resolve", labels=OF_MODEL, status={})
    found.put("Job", {}, name="quantize", labels=OF_ARTIFACT, status={})
    found.put("Service", {}, name="m", labels=OF_MODEL)
    found.woken.clear()
    return found


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("EdgeModel", "m", {M, A}),
        ("EdgeModel", "copy", {COPY_M, A}),
        ("EdgeModel", "other", {OTHER_M}),
        ("ModelArtifact", KEY, {A, M, COPY_M}),
        ("Deployment", "m-cpu", {M, A}),
        ("DaemonSet", "m-cpu", {M, A}),
        ("Pod", "serve", {M, A}),
        ("Pod", "resolve", {M}),
        ("Job", "quantize", {A}),
        ("Service", "m", {M}),
        ("EdgeRuntime", "llamacpp", {M, COPY_M, OTHER_M, A}),
        ("HardwareClass", "x86-64", {M, COPY_M, OTHER_M, N}),
        ("Node", "n1", {M, COPY_M, OTHER_M, N}),
    ],
)
def test_object_that_goes_wakes(kind: str, name: str, expected: set[Key]) -> None:
    found = world()
    namespaced = kind not in ("EdgeRuntime", "HardwareClass", "Node")
    found.lose(kind, name, namespace=NAMESPACE if namespaced else "")
    assert set(found.woken) == expected


def test_model_that_wants_another_source_now_wakes_the_artifact_of_the_old_one() -> None:
    found = world()
    found.change("EdgeModel", "m", spec=OTHER)
    assert set(found.woken) == {M, A}


PROGRESSING = {"type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated", "message": "is progressing"}


@pytest.mark.parametrize(
    ("name", "kind", "obj", "change"),
    [
        ("a node's heartbeat", "Node", "n1", lambda obj: {"status": {"conditions": [{"lastHeartbeatTime": "now"}]}}),
        ("a node's free memory", "Node", "n1", lambda obj: {"status": {"allocatable": {"memory": "1Gi"}}}),
        ("a pod's address", "Pod", "serve", lambda obj: {"status": {"podIP": "10.0.0.1"}}),
        ("a rollout's news", "Deployment", "m-cpu", lambda obj: {"status": {"conditions": [PROGRESSING]}}),
        ("a write that changes nothing", "EdgeModel", "m", lambda obj: {}),
    ],
)
def test_nobody_is_woken_by(name: str, kind: str, obj: str, change: Callable[[Object], Object]) -> None:
    found = world()
    found.change(kind, obj, namespace="" if kind == "Node" else NAMESPACE, **change({}))
    assert found.woken == [], name


@pytest.mark.parametrize(
    ("name", "kind", "obj", "change"),
    [
        ("a node's accelerator", "Node", "n1", {"status": {"allocatable": {"nvidia.com/gpu": "1"}}}),
        ("a pod's end", "Pod", "serve", {"status": {"phase": "Failed"}}),
        ("a rollout's progress", "Deployment", "m-cpu", {"status": {"readyReplicas": 1}}),
        ("a rollout's end", "Deployment", "m-cpu", {"status": {"conditions": [PROGRESSING | {"status": "False"}]}}),
        ("a Job's end", "Job", "quantize", {"status": {"conditions": [{"type": "Complete", "status": "True"}]}}),
    ],
)
def test_somebody_is_woken_by(name: str, kind: str, obj: str, change: Object) -> None:
    found = world()
    found.change(kind, obj, namespace="" if kind == "Node" else NAMESPACE, **change)
    assert found.woken != [], name


def test_landscape_is_seen_anew_when_a_node_comes() -> None:
    found = world()
    assert found.context.landscape().fleet.any_rank == {"x86-64": 1}
    labels = {"kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux"}
    found.put("Node", {}, name="n2", namespace="", labels=labels)
    assert found.context.landscape().fleet.any_rank == {"x86-64": 2}


# The Node controller


def labelled(found: World) -> dict[str, str]:
    labels: dict[str, str] = found.one("Node")["metadata"]["labels"]
    return {name: value for name, value in labels.items() if "edgemodel.dev" in name}


OF_X86 = {"edgemodel.dev/hardware": "x86-64", "hardware.edgemodel.dev/x86-64": "true"}


def seen(found: World) -> None:
    """The informer sees the node as it is now."""
    found.see(found.one("Node"))


def test_node_is_labelled_once() -> None:
    found = world()
    found.reconcile(NODE_CONTROLLER, "n1", namespace="")
    assert found.writes() == ["merge Node n1"]
    assert labelled(found) == OF_X86
    seen(found)
    found.reconcile(NODE_CONTROLLER, "n1", namespace="")
    assert found.writes() == []


def test_node_loses_the_labels_of_a_class_that_is_gone_and_no_other() -> None:
    found = world()
    found.reconcile(NODE_CONTROLLER, "n1", namespace="")
    seen(found)
    found.lose("HardwareClass", "x86-64", namespace="")
    found.reconcile(NODE_CONTROLLER, "n1", namespace="")
    assert labelled(found) == {}
    assert found.one("Node")["metadata"]["labels"]["kubernetes.io/arch"] == "amd64"


def test_node_that_is_gone_is_left_alone() -> None:
    found = world()
    found.lose("Node", "n1", namespace="")
    found.reconcile(NODE_CONTROLLER, "n1", namespace="")
    assert found.writes() == []


# What the probe says


AVX2 = "feature.edgemodel.dev/cpu-cpuid.AVX2"
WIDE: Object = {"labels": [{"key": "feature.node.kubernetes.io/cpu-cpuid.AVX2", "operator": "Exists"}], "priority": 20}


def probed(found: World, *features: str, namespace: str = SETTINGS.namespace, name: str = "probe") -> None:
    """A pod of the probe on the node has said which features the processor has."""
    facts = {f"feature.node.kubernetes.io/cpu-cpuid.{feature}": "true" for feature in features}
    ended = {"terminated": {"exitCode": 0, "message": json.dumps({"facts": facts})}}
    status = {"phase": "Running", "initContainerStatuses": [{"name": "probe", "ready": True, "state": ended}]}
    labels = {"app.kubernetes.io/managed-by": "edgemodel", "edgemodel.dev/role": "probe"}
    found.put("Pod", {"nodeName": "n1"}, name=name, namespace=namespace, labels=labels, status=status)


def probing() -> World:
    found = World()
    found.put("HardwareClass", WIDE, name="wide", namespace="")
    probed(found, "AVX2", "AVX")
    assert Key(NODE_CONTROLLER, "", "n1") in found.woken
    found.reconcile(NODE_CONTROLLER, "n1", namespace="")
    seen(found)
    found.writes()
    return found


def test_node_is_labelled_with_what_the_probe_found_and_its_classes_follow() -> None:
    found = probing()
    assert labelled(found)[AVX2] == "true"
    assert labelled(found)["edgemodel.dev/hardware"] == "wide"
    assert found.context.landscape().fleet.any_rank == {"wide": 1, "x86-64": 1}
    found.reconcile(NODE_CONTROLLER, "n1", namespace="")
    assert found.writes() == []


def test_what_the_probe_found_stays_while_no_probe_speaks() -> None:
    found = probing()
    found.lose("Pod", "probe", namespace=SETTINGS.namespace)
    found.reconcile(NODE_CONTROLLER, "n1", namespace="")
    assert found.writes() == []


def test_what_the_probe_no_longer_finds_goes() -> None:
    found = probing()
    probed(found, "AVX")
    found.reconcile(NODE_CONTROLLER, "n1", namespace="")
    assert AVX2 not in labelled(found)
    assert labelled(found)["edgemodel.dev/hardware"] == "x86-64"


def test_pod_of_another_namespace_is_not_believed() -> None:
    found = World()
    probed(found, "AVX2", namespace="stranger")
    found.reconcile(NODE_CONTROLLER, "n1", namespace="")
    assert labelled(found) == OF_X86
