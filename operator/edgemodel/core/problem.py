"""What stands in the way, and who has to act."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Policy = Literal["waiting", "retrying", "stalling"]


@dataclass(frozen=True)
class Problem:
    """Why something is not (yet) as it was asked for."""

    reason: str
    """One word, the reason of a condition and of an Event."""
    message: str
    """For people: what is wrong and what to do about it."""
    policy: Policy
    """waiting: passes by itself. retrying: is tried again. stalling: the user must act."""

    @staticmethod
    def waiting(reason: str, message: str) -> "Problem":
        """It passes by itself when the cluster changes."""
        return Problem(reason, message, "waiting")

    @staticmethod
    def retrying(reason: str, message: str) -> "Problem":
        """It can pass at the next try."""
        return Problem(reason, message, "retrying")

    @staticmethod
    def stalling(reason: str, message: str) -> "Problem":
        """It can't pass until the user changes something."""
        return Problem(reason, message, "stalling")


_REASON = re.compile(r"[A-Za-z]([A-Za-z0-9_,:]{0,61}[A-Za-z0-9_])?")
"""What a condition takes for a reason."""

_WAITING = {
    "ImagePullBackOff": "ImageNotFound",
    "ErrImagePull": "ImageNotFound",
    "InvalidImageName": "ImageNotFound",
    "ErrImageNeverPull": "ImageNotFound",
    "CreateContainerConfigError": "ContainerConfig",
    "CreateContainerError": "ContainerConfig",
    "RunContainerError": "ContainerConfig",
}

_BACK_OFF = re.compile(r'^Back-off pulling image ".*?": ErrImagePull: ')
"""What a kubelet puts before its last failure while it waits: without it, its going to and fro is no news."""
_TRANSIENT_PULL = re.compile(
    r"timeout|timed out|deadline exceeded|connection (refused|reset)|unreachable|server misbehaving|\bEOF\b"
    r"|too ?many ?requests|service unavailable|bad gateway|internal server error",
    re.IGNORECASE,
)
"""What a kubelet says of a registry that may answer next time. Whatever else it says, somebody must act."""


def _container_statuses(pod: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    status = pod.get("status", {})
    yield from status.get("initContainerStatuses", ())
    yield from status.get("containerStatuses", ())


def _terminations(pod: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """How the pod's containers ended; the time before, of those that wait or run again."""
    for container in _container_statuses(pod):
        ended = container.get("state", {}).get("terminated") or container.get("lastState", {}).get("terminated")
        if ended:
            yield ended


def termination_message(pod: Mapping[str, Any]) -> dict[str, Any] | None:
    """The JSON object that a container of the pod left, if one did."""
    for ended in _terminations(pod):
        try:
            said = json.loads(ended.get("message", ""))
        except ValueError:
            continue
        if isinstance(said, dict):
            return said
    return None


def _said(ended: Mapping[str, Any]) -> Problem | None:
    """What a container of ours said of why it failed."""
    try:
        said = json.loads(ended.get("message", ""))
        reason, message, retry = said["reason"], said["message"], said["retry"]
    except (ValueError, KeyError, TypeError):
        return None
    if not _REASON.fullmatch(str(reason)):
        return None
    return (Problem.retrying if retry else Problem.stalling)(str(reason), str(message))


def _pod_failure(pod: Mapping[str, Any]) -> Problem:
    """Its kubelet's words: some reasons hold a resource's name (`OutOfnvidia.com/gpu`), which ours can't."""
    status, name = pod["status"], pod["metadata"]["name"]
    reason = status.get("reason", "")
    message = f"pod {name}: {status.get('message', 'failed')}"
    return Problem.retrying(reason if _REASON.fullmatch(reason) else "PodFailed", message)


def pod_problem(pod: Mapping[str, Any]) -> Problem | None:
    """What is wrong with a pod, in our words; None while nothing is."""
    status = pod.get("status", {})
    name = pod.get("metadata", {}).get("name", "")
    if status.get("reason") == "Evicted":
        message = status.get("message", "")
        if "ephemeral" in message.lower() or "emptydir" in message.lower() or "disk" in message.lower():
            return Problem.stalling(
                "DiskFull", f"pod {name} was evicted: {message}. Give the node more disk, or use a smaller model"
            )
        return Problem.retrying("Evicted", f"pod {name} was evicted: {message}")
    for condition in status.get("conditions", ()):
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            # Room may come: another pod ends, an autoscaler adds a node.
            return Problem.waiting("Unschedulable", f"pod {name} fits no node yet: {condition.get('message', '')}")
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            return Problem.retrying("Disrupted", f"pod {name} was taken away: {condition.get('message', '')}")
    for container in _container_statuses(pod):
        waiting = container.get("state", {}).get("waiting", {})
        reason = _WAITING.get(waiting.get("reason", ""))
        if reason:
            message = f"pod {name}: {_BACK_OFF.sub('', waiting.get('message', '')) or waiting['reason']}"
            if reason == "ImageNotFound" and _TRANSIENT_PULL.search(message):
                return Problem.retrying("ImagePullFailed", message)
            return Problem.stalling(reason, message)
    for ended in _terminations(pod):
        if ended.get("reason") == "OOMKilled":
            return Problem.retrying("OutOfMemory", f"pod {name} was killed: it needed more memory than its limit")
        if ended.get("exitCode", 0) == 0:
            continue
        said = _said(ended)
        if said is None and status.get("reason"):
            break  # for example DeadlineExceeded: more telling than the exit code of what was killed for it
        return said or Problem.retrying(
            "ContainerFailed", f"pod {name}: a container ended with exit code {ended['exitCode']}"
        )
    return _pod_failure(pod) if status.get("phase") == "Failed" else None
