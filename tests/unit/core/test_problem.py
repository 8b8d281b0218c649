"""Pods as kubelet, the scheduler and the eviction manager really write them."""

import json
from typing import Any

import pytest

from edgemodel.core.problem import Problem, pod_problem, termination_message

SCHEDULED = {"type": "PodScheduled", "status": "True"}


def pod(*containers: dict[str, Any], init: tuple[dict[str, Any], ...] = (), **status: Any) -> dict[str, Any]:
    body: dict[str, Any] = {"phase": "Pending", "conditions": [SCHEDULED]} | status
    if containers:
        body["containerStatuses"] = list(containers)
    if init:
        body["initContainerStatuses"] = list(init)
    return {"metadata": {"name": "p"}, "status": body}


def waiting(reason: str, message: str = "", last: dict[str, Any] | None = None) -> dict[str, Any]:
    state: dict[str, Any] = {"reason": reason} | ({"message": message} if message else {})
    return {"name": "c", "ready": False, "state": {"waiting": state}, "lastState": last or {}}


def ended(code: int, reason: str = "Error", message: str | None = None) -> dict[str, Any]:
    state: dict[str, Any] = {
        "exitCode": code,
        "reason": reason,
        "startedAt": "2026-01-02T03:04:05Z",
        "finishedAt": "2026-01-02T03:04:06Z",
        "containerID": "containerd://0123",
    }
    return {"terminated": state | ({"message": message} if message is not None else {})}


def terminated(code: int, reason: str = "Error", message: str | None = None) -> dict[str, Any]:
    return {"name": "c", "ready": False, "state": ended(code, reason, message), "lastState": {}}


RUNNING = {"name": "c", "ready": True, "state": {"running": {"startedAt": "2026-01-02T03:04:05Z"}}, "lastState": {}}


def said(**fields: Any) -> str:
    return json.dumps({"reason": "SourceNotFound", "message": "no such model", "retry": False} | fields)


PULL = 'failed to pull and unpack image "r.example/x:1": failed to resolve reference "r.example/x:1": '
CRASHING = waiting("CrashLoopBackOff", "back-off 10s restarting failed container", ended(1))


@pytest.mark.parametrize(
    ("name", "observed", "reason", "policy", "told"),
    [
        ("no node has room",
         pod(conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                          "message": "0/3 nodes are available: 3 Insufficient memory."}]),
         "Unschedulable", "waiting", "pod p fits no node yet: 0/3 nodes are available: 3 Insufficient memory."),
        ("image is not there", pod(waiting("ImagePullBackOff", 'Back-off pulling image "x"')),
         "ImageNotFound", "stalling", 'Back-off pulling image "x"'),
        ("image cannot be pulled just now", pod(waiting("ErrImagePull", "401 Unauthorized")),
         "ImageNotFound", "stalling", "401 Unauthorized"),
        ("registry does not answer", pod(waiting("ErrImagePull", PULL + "dial tcp 10.0.0.9:443: connect: connection "
                                                 "refused")), "ImagePullFailed", "retrying", "connection refused"),
        ("registry is slow", pod(waiting("ImagePullBackOff", f'Back-off pulling image "x": ErrImagePull: {PULL}'
                                         "net/http: TLS handshake timeout")), "ImagePullFailed", "retrying", "timeout"),
        ("registry has had enough", pod(waiting("ErrImagePull", PULL + "429 Too Many Requests - toomanyrequests")),
         "ImagePullFailed", "retrying", "429"),
        ("registry is broken", pod(waiting("ErrImagePull", PULL + "unexpected status: 503 Service Unavailable")),
         "ImagePullFailed", "retrying", "503"),
        ("registry does not have it", pod(waiting("ErrImagePull", PULL + "r.example/x:1.5.429: not found")),
         "ImageNotFound", "stalling", "not found"),
        ("registry has a wrong name", pod(waiting("ErrImagePull", PULL + "dial tcp: lookup r.example: no such host")),
         "ImageNotFound", "stalling", "no such host"),
        ("registry does not tell strangers",
         pod(waiting("ErrImagePull", PULL + "pull access denied, repository does not exist or may require "
                     "authorization")),
         "ImageNotFound", "stalling", "access denied"),
        ("image name is wrong", pod(waiting("InvalidImageName")), "ImageNotFound", "stalling", "InvalidImageName"),
        ("image may not be pulled", pod(waiting("ErrImageNeverPull")), "ImageNotFound", "stalling", "NeverPull"),
        ("container cannot be configured",
         pod(waiting("CreateContainerConfigError", "container has runAsNonRoot and image will run as root")),
         "ContainerConfig", "stalling", "image will run as root"),
        ("container cannot be made", pod(waiting("CreateContainerError")), "ContainerConfig", "stalling", "Error"),
        ("container cannot be started", pod(waiting("RunContainerError", "exec: not found")), "ContainerConfig",
         "stalling", "exec: not found"),
        ("init container's image is not there",
         pod(waiting("PodInitializing"), init=(waiting("ImagePullBackOff", "gone"),)),
         "ImageNotFound", "stalling", "gone"),
        ("container needs more memory than it may have", pod(terminated(137, "OOMKilled"), phase="Failed"),
         "OutOfMemory", "retrying", "more memory than its limit"),
        ("container needed more memory and waits to start again",
         pod(waiting("CrashLoopBackOff", "back-off", ended(137, "OOMKilled")), phase="Running"),
         "OutOfMemory", "retrying", "more memory than its limit"),
        ("container said why, for good", pod(terminated(1, message=said()), phase="Failed"),
         "SourceNotFound", "stalling", "no such model"),
        ("container said why, for now", pod(terminated(1, message=said(reason="HubUnavailable", retry=True))),
         "HubUnavailable", "retrying", "no such model"),
        ("init container said why and waits to start again",
         pod(waiting("PodInitializing"), init=(waiting("CrashLoopBackOff", "", ended(1, message=said())),)),
         "SourceNotFound", "stalling", "no such model"),
        ("container ended and said nothing", pod(terminated(2), phase="Failed"),
         "ContainerFailed", "retrying", "exit code 2"),
        ("container's log stands where its word should",
         pod(terminated(1, message="Traceback (most recent call last):\n")), "ContainerFailed", "retrying", "code 1"),
        ("container said something else", pod(terminated(1, message='{"error": "x"}')), "ContainerFailed", "retrying",
         "code 1"),
        ("container said a list", pod(terminated(1, message="[1]")), "ContainerFailed", "retrying", "code 1"),
        ("container's word was cut off at 4096 bytes", pod(terminated(1, message=said()[:-5])), "ContainerFailed",
         "retrying", "code 1"),
        ("container said a reason that no condition can have", pod(terminated(1, message=said(reason="no model!"))),
         "ContainerFailed", "retrying", "code 1"),
        ("container crashes", pod(CRASHING, phase="Running"), "ContainerFailed", "retrying", "exit code 1"),
        ("container crashed and runs again", pod(RUNNING | {"lastState": ended(139)}, phase="Running"),
         "ContainerFailed", "retrying", "exit code 139"),
        ("node had too little memory",
         pod(phase="Failed", reason="Evicted", message="The node was low on resource: memory. Threshold quantity: "
             "100Mi, available: 50Mi."), "Evicted", "retrying", "low on resource: memory"),
        ("node had too little disk",
         pod(phase="Failed", reason="Evicted", message="The node was low on resource: ephemeral-storage. Threshold "
             "quantity: 1Gi, available: 900Mi."), "DiskFull", "stalling", "Give the node more disk"),
        ("volume was too small",
         pod(phase="Failed", reason="Evicted", message='Usage of EmptyDir volume "work" exceeds the limit "1Gi". '),
         "DiskFull", "stalling", "exceeds the limit"),
        ("pod wrote too much",
         pod(phase="Failed", reason="Evicted",
             message="Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. "),
         "DiskFull", "stalling", "exceeds the total limit"),
        ("pod was evicted by its kubelet, which says so in a condition as well",
         pod(terminated(137), phase="Failed", reason="Evicted", message="The node was low on resource: memory. ",
             conditions=[{"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}]),
         "Evicted", "retrying", "low on resource"),
        ("node was drained",
         pod(RUNNING, phase="Running", conditions=[SCHEDULED, {
             "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
             "message": "Eviction API: evicting"}]), "Disrupted", "retrying", "Eviction API: evicting"),
        ("pod ran too long",
         pod(terminated(137), phase="Failed", reason="DeadlineExceeded",
             message="Pod was active on the node longer than the specified deadline"),
         "DeadlineExceeded", "retrying", "longer than the specified deadline"),
        ("kubelet refused it",
         pod(phase="Failed", reason="OutOfcpu", message="Pod was rejected: Node didn't have enough resource: cpu"),
         "OutOfcpu", "retrying", "enough resource: cpu"),
        ("kubelet refused it for a device, whose name no reason can have",
         pod(phase="Failed", reason="OutOfnvidia.com/gpu", message="Node didn't have enough resource"),
         "PodFailed", "retrying", "enough resource"),
        ("node is gone", pod(phase="Failed"), "PodFailed", "retrying", "failed"),
    ],
)  # fmt: skip
def test_something_is_wrong_when(name: str, observed: dict[str, Any], reason: str, policy: str, told: str) -> None:
    problem = pod_problem(observed)
    assert problem is not None, name
    assert (problem.reason, problem.policy) == (reason, policy), name
    assert told in problem.message, name


@pytest.mark.parametrize(
    ("name", "observed"),
    [
        ("nobody has seen it", {"metadata": {"name": "p"}}),
        ("it waits for the scheduler", pod(conditions=[])),
        ("its containers are being made", pod(waiting("ContainerCreating"))),
        ("its init container runs", pod(waiting("PodInitializing"), init=(RUNNING,))),
        ("it runs", pod(RUNNING, phase="Running")),
        ("it ended well", pod(terminated(0, "Completed"), phase="Succeeded")),
        ("its init container failed once and has succeeded since",
         pod(RUNNING, phase="Running", init=(terminated(0, "Completed") | {"lastState": ended(1, message=said())},))),
        ("it may be disrupted, but is not",
         pod(RUNNING, phase="Running", conditions=[{"type": "DisruptionTarget", "status": "False"}])),
    ],
)  # fmt: skip
def test_nothing_is_wrong_when(name: str, observed: dict[str, Any]) -> None:
    assert pod_problem(observed) is None, name


@pytest.mark.parametrize(
    ("name", "observed", "expected"),
    [
        ("it said an object", pod(terminated(0, "Completed", '{"digest": "d"}')), {"digest": "d"}),
        ("it said nothing", pod(terminated(0, "Completed")), None),
        ("it said no JSON", pod(terminated(0, "Completed", "hello")), None),
        ("it said something else than an object", pod(terminated(0, "Completed", "[1]")), None),
        ("it runs", pod(RUNNING), None),
        ("it has no containers yet", pod(), None),
    ],
)
def test_answer_of_a_pod_when(name: str, observed: dict[str, Any], expected: object) -> None:
    assert termination_message(observed) == expected, name


def test_policies_have_a_maker_each() -> None:
    assert Problem.waiting("R", "m") == Problem("R", "m", "waiting")
    assert Problem.retrying("R", "m") == Problem("R", "m", "retrying")
    assert Problem.stalling("R", "m") == Problem("R", "m", "stalling")


def test_the_same_is_said_of_an_image_while_it_is_pulled_and_while_its_kubelet_waits() -> None:
    tried = pod_problem(pod(waiting("ErrImagePull", PULL + "not found")))
    waits = pod_problem(pod(waiting("ImagePullBackOff", f'Back-off pulling image "x": ErrImagePull: {PULL}not found')))
    assert tried == waits
