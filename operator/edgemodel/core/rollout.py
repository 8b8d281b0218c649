"""How far a Deployment or a DaemonSet is."""

from collections.abc import Mapping
from typing import Any

from edgemodel.api.model import ReplicaStatus
from edgemodel.core.objects import ARTIFACT_LABEL


def artifact_of(workload: Mapping[str, Any]) -> str:
    """Key of the artifact that the workload's new pods serve."""
    labels: Mapping[str, str] = workload["spec"]["template"]["metadata"].get("labels", {})
    return labels.get(ARTIFACT_LABEL, "")


def replicas_of(workload: Mapping[str, Any]) -> ReplicaStatus:
    """Counts, as the workload's own controller last wrote them."""
    status = workload.get("status", {})
    if workload["kind"] == "DaemonSet":
        return ReplicaStatus(
            desired=status.get("desiredNumberScheduled", 0),
            updated=status.get("updatedNumberScheduled", 0),
            ready=status.get("numberReady", 0),
        )
    return ReplicaStatus(
        desired=workload["spec"].get("replicas", 1),
        updated=status.get("updatedReplicas", 0),
        ready=status.get("readyReplicas", 0),
    )


def pods_refused(workload: Mapping[str, Any]) -> str:
    """Why a Deployment could not create its pods (a quota, Pod Security, a webhook); empty if it could."""
    for condition in workload.get("status", {}).get("conditions", ()):
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            return str(condition.get("message", ""))
    return ""


def given_up(workload: Mapping[str, Any]) -> bool:
    """Whether a Deployment has come no further for `progressDeadlineSeconds`. A DaemonSet has no such time."""
    return _is_observed(workload) and any(
        (condition["type"], condition["status"]) == ("Progressing", "False")
        for condition in workload["status"].get("conditions", ())
    )


def _is_observed(workload: Mapping[str, Any]) -> bool:
    observed: int = workload.get("status", {}).get("observedGeneration", -1)
    return bool(observed >= workload["metadata"].get("generation", 0))


def is_rolled_out(workload: Mapping[str, Any]) -> bool:
    """Whether every pod that there should be is of the latest revision and ready, and no other is left."""
    if not _is_observed(workload):
        return False
    replicas = replicas_of(workload)
    total = workload["status"].get("currentNumberScheduled" if workload["kind"] == "DaemonSet" else "replicas", 0)
    return bool(replicas.desired == replicas.updated == replicas.ready == total)
