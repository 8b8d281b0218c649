"""What kstatus, and so Flux, Argo CD, kpt and `kubectl wait`-like tools, make of an object.

The rules of sigs.k8s.io/cli-utils/pkg/kstatus/status for a custom resource, in its own order: `checkGenericProperties`,
then `checkReadyCondition`, then "absence of any known conditions means current".
"""

from typing import Any, Literal

Kstatus = Literal["InProgress", "Failed", "Current", "Terminating"]


def kstatus(obj: dict[str, Any]) -> Kstatus:
    """The status of a custom resource."""
    metadata, status = obj["metadata"], obj.get("status", {})
    if metadata.get("deletionTimestamp"):
        return "Terminating"
    if "generation" in metadata and status.get("observedGeneration", metadata["generation"]) != metadata["generation"]:
        return "InProgress"
    conditions = status.get("conditions", [])
    for condition in conditions:
        if condition["status"] != "True":
            continue
        if condition["type"] == "Reconciling":
            return "InProgress"
        if condition["type"] == "Stalled":
            return "Failed"
    for condition in conditions:
        if condition["type"] == "Ready":
            return "Current" if condition["status"] == "True" else "InProgress"
    return "Current"
