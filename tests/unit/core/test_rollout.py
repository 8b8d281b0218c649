from typing import Any

import pytest

from edgemodel.api.model import ReplicaStatus
from edgemodel.core.rollout import artifact_of, is_rolled_out, pods_refused, replicas_of


def deployment(generation: int = 2, wanted: int | None = 2, **status: int) -> dict[str, Any]:
    spec: dict[str, Any] = {"template": {"metadata": {"labels": {"edgemodel.dev/artifact": "k"}}}}
    if wanted is not None:
        spec["replicas"] = wanted
    return {"kind": "Deployment", "metadata": {"generation": generation}, "spec": spec, "status": status}


def daemon_set(generation: int = 2, **status: int) -> dict[str, Any]:
    spec: dict[str, Any] = {"template": {"metadata": {}}}
    return {"kind": "DaemonSet", "metadata": {"generation": generation}, "spec": spec, "status": status}


def test_counts_of_a_deployment() -> None:
    found = replicas_of(deployment(updatedReplicas=1, readyReplicas=2))
    assert found == ReplicaStatus(desired=2, updated=1, ready=2)


def test_counts_of_a_daemon_set() -> None:
    found = replicas_of(daemon_set(desiredNumberScheduled=3, updatedNumberScheduled=2, numberReady=1))
    assert found == ReplicaStatus(desired=3, updated=2, ready=1)


def test_workload_that_its_controller_has_not_seen_has_none() -> None:
    assert replicas_of({"kind": "DaemonSet", "spec": {}}) == ReplicaStatus()
    assert replicas_of(deployment(wanted=None)) == ReplicaStatus(desired=1)


def test_refused_pods_are_told_by_the_reason_that_the_cluster_gives() -> None:
    failing = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota: q"}
    assert pods_refused({"status": {"conditions": [failing]}}) == "exceeded quota: q"
    assert pods_refused({"status": {"conditions": [failing | {"status": "False"}]}}) == ""
    assert pods_refused(deployment()) == ""


def test_artifact_is_read_from_the_pods_label() -> None:
    assert artifact_of(deployment()) == "k"
    assert artifact_of(daemon_set()) == ""


DONE = {"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2}
ALL_NODES = {
    "observedGeneration": 2,
    "desiredNumberScheduled": 2,
    "currentNumberScheduled": 2,
    "updatedNumberScheduled": 2,
    "numberReady": 2,
}


@pytest.mark.parametrize(
    ("name", "workload", "expected"),
    [
        ("all pods are new and ready", deployment(**DONE), True),
        ("its controller has not seen the latest spec", deployment(3, **DONE), False),
        ("its controller has seen nothing yet", deployment(), False),
        ("a pod is of the old revision", deployment(**DONE | {"updatedReplicas": 1}), False),
        ("a pod is not ready", deployment(**DONE | {"readyReplicas": 1}), False),
        ("an old pod still serves beside the new ones", deployment(**DONE | {"replicas": 3}), False),
        ("more was asked for a moment ago", deployment(wanted=3, **DONE), False),
        ("no pod is asked for and none is there", deployment(wanted=0, observedGeneration=2), True),
        ("no pod is asked for and one is left", deployment(wanted=0, observedGeneration=2, replicas=1), False),
        ("each node has a new, ready pod", daemon_set(**ALL_NODES), True),
        ("a node has none yet", daemon_set(**ALL_NODES | {"currentNumberScheduled": 1}), False),
        ("a node's pod is old", daemon_set(**ALL_NODES | {"updatedNumberScheduled": 1}), False),
        ("a node's pod is not ready", daemon_set(**ALL_NODES | {"numberReady": 1}), False),
        ("the DaemonSet's latest spec is not seen", daemon_set(3, **ALL_NODES), False),
        ("a pod outlives a taint that its node has got since", daemon_set(**ALL_NODES | {"numberMisscheduled": 1}),
         True),
        ("no node is of the class", daemon_set(observedGeneration=2), True),
    ],
)  # fmt: skip
def test_rolled_out_when(name: str, workload: dict[str, Any], expected: bool) -> None:
    assert is_rolled_out(workload) is expected, name
