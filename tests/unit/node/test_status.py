"""What is told of pods and of the node."""

from dataclasses import replace
from typing import Any

import pytest

from edgemodel.node.machine import Machine
from edgemodel.node.processes import Run
from edgemodel.node.status import (
    Container,
    NodeFacts,
    Seen,
    allocatable_memory,
    node_differs,
    node_object,
    node_status,
    pod_status,
)
from tests.unit.node.samples import Json, pod

EARLIER, NOW = "2026-01-02T03:00:00Z", "2026-01-02T03:04:05Z"
FETCHED = Container(run=Run(1, 7, EARLIER, EARLIER), message='{"bytes": 9}', done=True)
RUN = Run(1, 42, "2026-01-02T03:01:00.5Z")
FACTS = NodeFacts("mac-1", "192.0.2.1", 10250, pods=4, reserve=4 << 30)
MAC = Machine("darwin", "arm64", 10, 32 << 30, 20 << 30, 100 << 30, {"operatingSystem": "darwin"})


def told(before: Json | None = None, **seen: Any) -> Json:
    """A pod's status."""
    fields: dict[str, Any] = {"node_address": "192.0.2.1", "address": "192.0.2.10", "accepted_at": EARLIER}
    return pod_status(pod(), before or {}, Seen(**fields | seen), NOW)


def conditions(status: Json) -> dict[str, str]:
    """Type -> status."""
    return {each["type"]: each["status"] for each in status["conditions"]}


def test_pod_that_is_fetching_is_pending() -> None:
    status = told(fetch=Container(run=RUN))
    assert status["phase"] == "Pending"
    assert conditions(status) == {"Initialized": "False", "ContainersReady": "False", "Ready": "False"}
    assert status["initContainerStatuses"][0]["state"] == {"running": {"startedAt": "2026-01-02T03:01:00Z"}}
    assert status["containerStatuses"][0]["state"] == {"waiting": {"reason": "PodInitializing"}}


def test_pod_that_serves_is_ready_at_its_address() -> None:
    status = told(fetch=FETCHED, serve=Container(run=RUN, started=True, ready=True))
    assert status["phase"] == "Running"
    assert set(conditions(status).values()) == {"True"}
    assert (status["podIP"], status["hostIP"]) == ("192.0.2.10", "192.0.2.1")
    fetched = status["initContainerStatuses"][0]
    assert fetched["ready"]
    assert fetched["state"]["terminated"]["message"] == '{"bytes": 9}'
    assert status["containerStatuses"][0]["containerID"] == "native://42/2026-01-02T03:01:00.5Z"


def test_process_that_crashed_waits_and_says_how_it_ended() -> None:
    ended = replace(RUN, finished="2026-01-02T03:02:00.9Z", code=137, signal=9)
    crashed = Container(run=ended, restarts=2, waiting=("CrashLoopBackOff", "tried again in 20 s"))
    (container,) = told(fetch=FETCHED, serve=crashed)["containerStatuses"]
    assert container["state"] == {"waiting": {"reason": "CrashLoopBackOff", "message": "tried again in 20 s"}}
    last = container["lastState"]["terminated"]
    assert (last["exitCode"], last["signal"], last["reason"]) == (137, 9, "Error")
    assert last["finishedAt"] == "2026-01-02T03:02:00Z"
    assert container["restartCount"] == 2
    assert not container["ready"]


def test_run_before_is_told_while_the_next_goes_on() -> None:
    before = Run(1, 41, EARLIER, EARLIER, code=1, message="no memory")
    (container,) = told(fetch=FETCHED, serve=Container(run=RUN, last=before, restarts=1))["containerStatuses"]
    assert "running" in container["state"]
    assert container["lastState"]["terminated"]["message"] == "no memory"


def test_refused_pod_has_failed_and_says_why() -> None:
    status = told(refusal=("OutOfMemory", "too large"))
    assert (status["phase"], status["reason"], status["message"]) == ("Failed", "OutOfMemory", "too large")


def test_pod_with_other_containers_is_told_of_too() -> None:
    other = {"spec": {"containers": [{"name": "any", "image": "any:1"}]}}
    status = pod_status(other, {}, Seen("192.0.2.1", serve=Container(waiting=("NotNative", "why"))), NOW)
    assert status["initContainerStatuses"] == []
    (container,) = status["containerStatuses"]
    assert container["state"] == {"waiting": {"reason": "NotNative", "message": "why"}}


def test_condition_keeps_its_time_until_it_changes() -> None:
    ready = Container(run=RUN, started=True, ready=True)
    before = {"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": EARLIER}]}
    since = {
        each["type"]: each["lastTransitionTime"] for each in told(before, fetch=FETCHED, serve=ready)["conditions"]
    }
    assert since == {"Ready": EARLIER, "ContainersReady": NOW, "Initialized": NOW}
    unready = told(before, fetch=FETCHED, serve=replace(ready, ready=False))["conditions"]
    assert {each["lastTransitionTime"] for each in unready if each["type"] == "Ready"} == {NOW}


def test_readiness_gate_of_somebody_else_holds_the_pod_back() -> None:
    gated = pod()
    gated["spec"]["readinessGates"] = [{"conditionType": "example.com/ready"}]
    seen = Seen("192.0.2.1", "192.0.2.10", fetch=FETCHED, serve=Container(run=RUN, started=True, ready=True))
    assert conditions(pod_status(gated, {}, seen, NOW))["Ready"] == "False"
    gated["status"] = {"conditions": [{"type": "example.com/ready", "status": "True"}]}
    assert conditions(pod_status(gated, {}, seen, NOW))["Ready"] == "True"


def test_node_registers_with_a_taint_and_the_labels_that_a_node_may_set() -> None:
    node = node_object(FACTS, MAC)
    assert node["metadata"]["labels"] == {
        "kubernetes.io/hostname": "mac-1",
        "kubernetes.io/os": "darwin",
        "kubernetes.io/arch": "arm64",
    }
    assert [taint["key"] for taint in node["spec"]["taints"]] == ["edgemodel.dev/native"]


def test_node_offers_its_memory_but_for_the_reserve_and_a_pod_for_each_address() -> None:
    status = node_status(FACTS, MAC, {}, NOW, leaving=False)
    assert status["capacity"] == {"cpu": "10", "pods": "4", "memory": str(32 << 30)}
    assert status["allocatable"]["memory"] == str(28 << 30)
    assert conditions(status) == {
        "Ready": "True", "MemoryPressure": "False", "DiskPressure": "False", "PIDPressure": "False"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("machine", "changed"),
    [
        (replace(MAC, memory_left=50 << 20), {"MemoryPressure": "True"}),
        (replace(MAC, disk_left=1 << 30), {"DiskPressure": "True"}),
        (replace(MAC, memory=None), {"Ready": "False"}),
    ],
)
def test_node_says_what_it_lacks(machine: Machine, changed: dict[str, str]) -> None:
    usual = conditions(node_status(FACTS, MAC, {}, NOW, leaving=False))
    assert conditions(node_status(FACTS, machine, {}, NOW, leaving=False)) == usual | changed


def test_memory_that_nobody_can_read_is_none() -> None:
    assert allocatable_memory(FACTS, replace(MAC, memory=None)) is None
    assert allocatable_memory(FACTS, replace(MAC, memory=1 << 30)) == 0
    status = node_status(FACTS, replace(MAC, memory=None), {}, NOW, leaving=False)
    assert status["allocatable"]["memory"] == "0"


def test_node_that_leaves_is_not_ready() -> None:
    assert conditions(node_status(FACTS, MAC, {}, NOW, leaving=True))["Ready"] == "False"


def test_node_status_is_written_only_if_it_says_something_new() -> None:
    before = node_status(FACTS, MAC, {}, EARLIER, leaving=False)
    again = node_status(FACTS, MAC, before, NOW, leaving=False)
    assert not node_differs(before, again)
    assert not node_differs(before | {"images": [], "nodeInfo": before["nodeInfo"] | {"swap": "0"}}, again)
    gone = [each | {"status": "Unknown"} if each["type"] == "Ready" else each for each in before["conditions"]]
    assert node_differs(before | {"conditions": gone}, again)  # the cluster took us for dead
    assert node_differs(before, node_status(FACTS, replace(MAC, cpus=8), before, NOW, leaving=False))
