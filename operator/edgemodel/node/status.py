"""What is told of a pod and of the node: pure functions of what was seen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edgemodel.core.objects import FETCH, SERVE
from edgemodel.engine.objects import Object
from edgemodel.node.machine import Machine
from edgemodel.node.processes import Run

TAINT = {"key": "edgemodel.dev/native", "value": "true", "effect": "NoSchedule"}
"""On these nodes, so that only pods that are made for them come."""

CRASH_LOOP = "CrashLoopBackOff"
PORT_IN_USE = "PortInUse"
MEMORY_LEFT, DISK_LEFT = 100 << 20, 2 << 30
"""Bytes that must be left, or the node is under pressure, and the scheduler passes it by."""


@dataclass(frozen=True)
class Container:
    """What was seen of one container."""

    run: Run | None = None
    """The latest run."""
    last: Run | None = None
    """The one before."""
    restarts: int = 0
    started: bool = False
    ready: bool = False
    waiting: tuple[str, str] = ("PodInitializing", "")
    """Reason and message, while no run goes on or has ended for good."""
    message: str = ""
    """The last words of a run that ended."""
    done: bool = False
    """It need not run again."""


@dataclass(frozen=True)
class Seen:
    """What was seen of a pod."""

    node_address: str
    address: str = ""
    refusal: tuple[str, str] | None = None
    """Reason and message."""
    accepted_at: str = ""
    """When it was first seen here."""
    fetch: Container = field(default_factory=Container)
    serve: Container = field(default_factory=Container)
    ended: bool = False
    """It was deleted, and nothing of it runs any more."""


def pod_status(pod: Object, before: Object, seen: Seen, now: str) -> Object:
    """The pod's status. `before` is the last one: a condition that is as it was keeps its time."""
    common: Object = {
        "startTime": before.get("startTime") or seen.accepted_at,
        "hostIP": seen.node_address,
        "hostIPs": [{"ip": seen.node_address}],
        "qosClass": before.get("qosClass") or pod.get("status", {}).get("qosClass", "Burstable"),
    }
    if seen.refusal:
        reason, message = seen.refusal
        return common | {"phase": "Failed", "reason": reason, "message": message}
    phase = "Failed" if seen.ended else "Running" if seen.serve.run else "Pending"
    return (
        common
        | {
            "phase": phase,
            "conditions": _conditions(pod, before, seen, now),
            "initContainerStatuses": _containers(pod, "initContainers", seen),
            "containerStatuses": _containers(pod, "containers", seen),
        }
        | ({"podIP": seen.address, "podIPs": [{"ip": seen.address}]} if seen.address else {})
    )


def _conditions(pod: Object, before: Object, seen: Seen, now: str) -> list[Object]:
    fetched = seen.fetch.done
    ready = seen.serve.ready and not seen.ended
    unready = ("ContainersNotReady", f"containers with unready status: [{SERVE}]")
    gates = [gate["conditionType"] for gate in pod["spec"].get("readinessGates", ())]
    given = {each["type"]: each["status"] for each in pod.get("status", {}).get("conditions", ())}
    closed = [gate for gate in gates if given.get(gate) != "True"]
    judged = [
        ("Initialized", fetched, ("ContainersNotInitialized", f"containers with incomplete status: [{FETCH}]")),
        ("ContainersReady", ready, unready),
        ("Ready", ready and not closed, unready if not ready else ("ReadinessGatesNotReady", ", ".join(closed))),
    ]
    return [_condition(before, kind, holds, *((("", "")) if holds else why), now) for kind, holds, why in judged]


def _condition(before: Object, kind: str, holds: bool, reason: str, message: str, now: str) -> Object:
    status = "True" if holds else "False"
    old: Mapping[str, str] = next((each for each in before.get("conditions", ()) if each["type"] == kind), {})
    since = old.get("lastTransitionTime") if old.get("status") == status else None
    words = {"reason": reason, "message": message}
    return {"type": kind, "status": status, "lastTransitionTime": since or now} | {
        name: word for name, word in words.items() if word
    }


def _containers(pod: Object, kind: str, seen: Seen) -> list[Object]:
    """Also of containers that are not ours: a pod that will be refused has any."""
    ours = {FETCH: seen.fetch, SERVE: seen.serve}
    others = Container(waiting=seen.serve.waiting)
    return [_container(spec, ours.get(spec["name"], others)) for spec in pod["spec"].get(kind, ())]


def _container(spec: Object, seen: Container) -> Object:
    run = seen.run
    status: Object = {
        "name": spec["name"],
        "image": spec["image"],
        "imageID": "",
        "restartCount": seen.restarts,
        "ready": seen.done or seen.ready,
        "started": seen.started,
    }
    if run and run.going_on:
        state: Object = {"running": {"startedAt": _seconds(run.started)}}
    elif run and seen.done:
        state = {"terminated": _terminated(run, seen.message)}
    else:
        reason, message = seen.waiting
        state = {"waiting": {"reason": reason} | ({"message": message} if message else {})}
    last = seen.last if run is None or run.going_on or seen.done else run
    return (
        status
        | {"state": state}
        | ({"containerID": container_id(run)} if run and run.pid else {})
        | ({"lastState": {"terminated": _terminated(last, seen.message if last is run else "")}} if last else {})
    )


def container_id(run: Run) -> str:
    """A process is told from others by its pid and its beginning."""
    return f"native://{run.pid}/{run.started}"


def _terminated(run: Run, message: str) -> Object:
    return {
        "exitCode": run.code,
        "reason": "Completed" if run.code == 0 else "Error",
        "startedAt": _seconds(run.started),
        "finishedAt": _seconds(run.finished),
        "containerID": container_id(run),
    } | {name: value for name, value in (("signal", run.signal), ("message", message or run.message)) if value}


def _seconds(time: str) -> str:
    """A time as objects have it, without fractions."""
    return time.partition(".")[0] + "Z"


@dataclass(frozen=True)
class NodeFacts:
    """What the installation says of the node."""

    name: str
    address: str
    port: int
    pods: int
    reserve: int
    """Bytes of memory that are the machine's own."""


def node_object(facts: NodeFacts, machine: Machine) -> Object:
    """The node as it registers itself."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": facts.name, "labels": node_labels(facts, machine)},
        "spec": {"taints": [TAINT]},
    }


def node_labels(facts: NodeFacts, machine: Machine) -> dict[str, str]:
    """The labels that a node sets itself. What it is made of the operator finds in them."""
    return {
        "kubernetes.io/hostname": facts.name,
        "kubernetes.io/os": machine.os,
        "kubernetes.io/arch": machine.arch,
    }


def allocatable_memory(facts: NodeFacts, machine: Machine) -> int | None:
    """Bytes for pods; None if nobody knows."""
    return None if machine.memory is None else max(0, machine.memory - facts.reserve)


def node_status(facts: NodeFacts, machine: Machine, before: Object, now: str, leaving: bool) -> Object:
    """The node's status. A condition that is as it was keeps its time."""
    memory = allocatable_memory(facts, machine)
    shared = {"cpu": str(machine.cpus), "pods": str(facts.pods)}
    little_memory = machine.memory_left is not None and machine.memory_left < MEMORY_LEFT
    little_disk = machine.disk_left is not None and machine.disk_left < DISK_LEFT
    unready = _why_unready(machine, leaving)
    judged: Sequence[tuple[str, bool, str, str]] = (
        ("MemoryPressure", little_memory, *_pressure(little_memory, "Memory")),
        ("DiskPressure", little_disk, *_pressure(little_disk, "Disk")),
        ("PIDPressure", False, "AgentHasSufficientPID", "the agent has enough process ids"),
        ("Ready", not unready, *(("AgentNotReady", unready) if unready else ("AgentReady", "the agent is ready"))),
    )
    return {
        "capacity": shared | {"memory": str(machine.memory or 0)},
        "allocatable": shared | {"memory": str(memory or 0)},
        "conditions": [
            _condition(before, kind, holds, reason, message, now) | {"lastHeartbeatTime": now}
            for kind, holds, reason, message in judged
        ],
        "addresses": [
            {"type": "InternalIP", "address": facts.address},
            {"type": "Hostname", "address": facts.name},
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": facts.port}},
        "nodeInfo": dict(machine.info),
    }


def node_differs(told: Object, wanted: Object) -> bool:
    """Whether the node's status must be written, the time of its heartbeat aside."""
    for name in wanted.keys() - {"conditions"}:
        there, here = told.get(name), wanted[name]
        if there != here and not (isinstance(there, dict) and isinstance(here, dict) and there.items() >= here.items()):
            return True
    found = {each["type"]: _timeless(each) for each in told.get("conditions", ())}
    return any(found.get(each["type"]) != _timeless(each) for each in wanted["conditions"])


def _timeless(condition: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in condition.items() if not name.endswith("Time")}


def _pressure(little: bool, what: str) -> tuple[str, str]:
    if little:
        return f"AgentHas{what}Pressure", f"the machine has little {what.lower()} left"
    return f"AgentHasSufficient{what}", f"the machine has {what.lower()} left"


def _why_unready(machine: Machine, leaving: bool) -> str:
    if leaving:
        return "the agent leaves the cluster"
    return "the machine's memory could not be read" if machine.memory is None else ""
