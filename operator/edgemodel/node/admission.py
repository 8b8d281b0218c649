"""May this pod run here, and as what? Pure.

A pod is refused unless it is one that the operator makes for an EdgeRuntime whose class of hardware is native: the
command and the arguments are those that the runtime declares, each variable is the operator's or the runtime's, and
nothing else is asked for. So whoever may create pods can choose a model, but not a program.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast, get_args

from edgemodel.api.base import Task
from edgemodel.api.runtime import EdgeRuntime, EnvVar, HardwareChoice
from edgemodel.core.hardware import HARDWARE_LABEL
from edgemodel.core.objects import FETCH, FETCH_COMMAND, MODEL_DIR, RUNTIME_LABEL, SERVE, STORE_CREDENTIALS, Startup
from edgemodel.engine.desired import parse_quantity
from edgemodel.engine.objects import Object
from edgemodel.node.lifecycle import Probe, Probes

NOT_NATIVE = "NotNative"
OUT_OF_MEMORY = "OutOfMemory"
OUT_OF_ADDRESSES = "OutOfAddresses"


class Refused(Exception):  # noqa: N818 - reads as what it is
    """Why a pod may not run here."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True)
class Plan:
    """What runs for a pod. Paths are those of a pod: where they are on this machine is settled when it starts."""

    fetch_env: Mapping[str, str]
    secret: str
    """Secret with the store's credentials; empty if there is none."""
    command: tuple[str, ...]
    env: Mapping[str, str]
    port: int
    memory: int
    """What the model needs, in bytes."""
    probes: Probes = field(default_factory=Probes)
    drain: tuple[str, ...] = ()
    """Run before SIGTERM; empty: a pause."""
    pause: float = 0
    grace: float = 30
    """Seconds from the pod's deletion to SIGKILL."""


_NUMBER = re.compile(r"[0-9]{1,12}")
_WORD = re.compile(r"[A-Za-z]{1,32}")
_PATH = re.compile(rf"{MODEL_DIR}(/[A-Za-z0-9_][A-Za-z0-9_.+=-]*)*")
_OPERATORS_VARIABLES = {
    "MODEL_DIR": _PATH,
    "MODEL_FILE": _PATH,
    "MODEL_NAME": re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?"),
    "PORT": _NUMBER,
    "CONTEXT_LENGTH": _NUMBER,
    "TOTAL_CONTEXT_LENGTH": _NUMBER,
    "PARALLEL": _NUMBER,
    "THREADS": _NUMBER,
    "DRAIN_SECONDS": _NUMBER,
    "TASK": _WORD,
    "POWER_MODE": _WORD,
}
"""What the operator sets, and what it may look like."""
_STORE_VARIABLES = {
    "EDGEMODEL_STORE_URI",
    "EDGEMODEL_STORE_ENDPOINT",
    "EDGEMODEL_STORE_REGION",
    "EDGEMODEL_STORE_SECRET",
    "EDGEMODEL_ARTIFACT_KEY",
    "EDGEMODEL_ARTIFACT_DIGEST",
}
_PLACES = {"EDGEMODEL_MODEL_DIR": MODEL_DIR, "EDGEMODEL_STORE_CREDENTIALS": STORE_CREDENTIALS}
_HOST_FIELDS = ("hostNetwork", "hostPID", "hostIPC", "ephemeralContainers")


def admit(pod: Object, runtime: EdgeRuntime | None) -> Plan:
    """What to run for a pod, given the EdgeRuntime that its label names. Raises Refused."""
    there = _native_choice(pod, runtime)
    assert runtime is not None
    spec = pod["spec"]
    for name in _HOST_FIELDS:
        if spec.get(name):
            raise _not_native(f"asks for {name}")
    if spec.get("restartPolicy", "Always") != "Always":
        raise _not_native(f"has the restartPolicy {spec['restartPolicy']}, where a model server's is Always")
    fetch, serve = _the_two(spec)
    if (fetch.get("command"), fetch.get("args", [])) != (FETCH_COMMAND, []):
        raise _not_native(f"its init container runs {_words(fetch)}, not {FETCH_COMMAND}")

    env = _environment(serve)
    startup = Startup.of(runtime, there, _task(env))
    if (serve.get("command", []), serve.get("args", [])) != (startup.command, startup.args):
        raise _not_native(
            f"it runs {_words(serve)}, where EdgeRuntime {runtime.metadata.name} declares "
            f"{[*startup.command, *startup.args]} for hardware {there.hardware_class}"
        )
    for program in (startup.command[0], *runtime.spec.serving.drain_command[:1]):
        if "/" in program:
            raise _not_native(f"EdgeRuntime {runtime.metadata.name} names {program}, which is a path, not a program")
    _check_variables(env, startup.env)
    serving = runtime.spec.serving
    ports = {port.get("name", ""): port["containerPort"] for port in serve.get("ports", ())}
    if list(ports.values()) != [serving.port] or env.get("PORT") != str(serving.port):
        raise _not_native(f"its port is not {serving.port}, that of EdgeRuntime {runtime.metadata.name}")
    drain, pause = _drain(serve, serving.drain_command)
    return Plan(
        fetch_env=_fetch_environment(fetch),
        secret=_store_secret(spec),
        command=(*startup.command, *startup.args),
        env=env,
        port=serving.port,
        memory=memory_of(pod),
        probes=Probes(*(_probe(serve.get(f"{kind}Probe"), ports) for kind in ("startup", "readiness", "liveness"))),
        drain=drain,
        pause=pause,
        grace=float(spec.get("terminationGracePeriodSeconds", 30)),
    )


def memory_of(pod: Object) -> int:
    """What the pod's model needs. One that doesn't say is refused: it can't be known to fit."""
    requests = [container.get("resources", {}).get("requests", {}) for container in pod["spec"]["containers"]]
    memory = parse_quantity(requests[0].get("memory", "0")) if requests else None
    if not memory or memory <= 0:
        raise Refused(OUT_OF_MEMORY, "the pod requests no memory, so that it can't be known to fit: give a request")
    return int(memory)


def check_room(memory: int, used: int, allocatable: int | None) -> None:
    """Refuses a pod that doesn't fit beside those that are here, or when nobody knows what there is."""
    if allocatable is None:
        raise Refused(OUT_OF_MEMORY, "the machine's memory could not be read, so that no pod is known to fit")
    if used + memory > allocatable:
        raise Refused(
            OUT_OF_MEMORY,
            f"the node has not enough memory: the model needs {memory} bytes, "
            f"{used} of {allocatable} are taken by other pods. Quantize it further, or remove another",
        )


def expand(text: str, env: Mapping[str, str]) -> str:
    """`$(VAR)` as Kubernetes expands it: `$$` is a dollar, and what is not known stays as it is."""
    return re.sub(
        r"\$(\$|\(([A-Za-z_][A-Za-z0-9_]*)\))",
        lambda found: "$" if found[1] == "$" else env.get(found[2], found[0]),
        text,
    )


def _not_native(message: str) -> Refused:
    return Refused(NOT_NATIVE, f"this node runs only what an EdgeRuntime declares as native: {message}")


def _native_choice(pod: Object, runtime: EdgeRuntime | None) -> HardwareChoice:
    labels: Mapping[str, str] = pod["metadata"].get("labels", {})
    if RUNTIME_LABEL not in labels or HARDWARE_LABEL not in labels:
        raise _not_native(f"the pod is of none, it lacks the labels {RUNTIME_LABEL} and {HARDWARE_LABEL}")
    if runtime is None:
        raise _not_native(f"there is no EdgeRuntime {labels[RUNTIME_LABEL]}")
    hardware = labels[HARDWARE_LABEL]
    there = next((one for one in runtime.spec.hardware if one.hardware_class == hardware), None)
    if there is None or there.native is None:
        raise _not_native(f"EdgeRuntime {runtime.metadata.name} has no native command for hardware {hardware}")
    return there


def _the_two(spec: Object) -> tuple[Object, Object]:
    """The container that fetches and the one that serves."""
    first, then = spec.get("initContainers", []), spec["containers"]
    if [each["name"] for each in first] != [FETCH] or [each["name"] for each in then] != [SERVE]:
        found = [each["name"] for each in (*first, *then)]
        raise _not_native(f"a pod of it has the containers {FETCH} and {SERVE}, this one has {', '.join(found)}")
    for container in (first[0], then[0]):
        if container.get("envFrom") or "postStart" in container.get("lifecycle", {}) or container.get("restartPolicy"):
            raise _not_native(f"container {container['name']} has envFrom, postStart or a restartPolicy")
    for volume in spec.get("volumes", ()):
        if not volume.keys() <= {"name", "emptyDir", "secret"}:
            raise _not_native(f"volume {volume['name']} is neither the pod's own nor a Secret")
    return first[0], then[0]


def _words(container: Object) -> list[str]:
    return [*container.get("command", ()), *container.get("args", ())]


def _environment(container: Object) -> dict[str, str]:
    """The variables, each expanded over those before it."""
    env: dict[str, str] = {}
    for variable in container.get("env", ()):
        name = variable["name"]
        if "valueFrom" not in variable:
            env[name] = expand(variable.get("value", ""), env)
        elif variable["valueFrom"].get("resourceFieldRef", {}).get("resource") == "limits.cpu":
            cpu = parse_quantity(container.get("resources", {}).get("limits", {}).get("cpu", "1"))
            env[name] = str(max(1, math.ceil(cpu or 1)))
        else:
            raise _not_native(f"variable {name} takes its value from elsewhere")
    return env


def _task(env: Mapping[str, str]) -> Task:
    task = env.get("TASK", "")
    if task not in get_args(Task):
        raise _not_native(f"TASK is {task!r}")
    return cast(Task, task)


def _check_variables(env: Mapping[str, str], declared: Mapping[str, EnvVar]) -> None:
    """Each is the operator's and looks like it, or is as the runtime declares it."""
    for name in _OPERATORS_VARIABLES.keys() & env.keys():
        if not _OPERATORS_VARIABLES[name].fullmatch(env[name]) or ".." in env[name]:
            raise _not_native(f"variable {name} is {env[name]!r}, which the operator never sets")
    for name in env.keys() - _OPERATORS_VARIABLES.keys():
        if name not in declared:
            raise _not_native(f"variable {name} is neither the operator's nor the runtime's")
        if env[name] != expand(declared[name].value, env):
            raise _not_native(f"variable {name} is not as the runtime declares it")


def _fetch_environment(container: Object) -> dict[str, str]:
    env = _environment(container)
    for name, value in env.items():
        if name not in _STORE_VARIABLES and _PLACES.get(name) != value:
            raise _not_native(f"variable {name} of its init container is not the operator's")
    return {name: value for name, value in env.items() if name in _STORE_VARIABLES}


def _store_secret(spec: Object) -> str:
    """The Secret that is mounted with the store's credentials."""
    mounts: Iterable[Any] = spec["initContainers"][0].get("volumeMounts", ())
    volume = next((mount["name"] for mount in mounts if mount["mountPath"] == STORE_CREDENTIALS), None)
    secrets = {each["name"]: each["secret"]["secretName"] for each in spec.get("volumes", ()) if "secret" in each}
    return str(secrets.get(volume, ""))


def _probe(probe: Object | None, ports: Mapping[str, int]) -> Probe | None:
    if probe is None:
        return None
    http = probe.get("httpGet")
    if http is None or http.get("host") or http.get("scheme", "HTTP") != "HTTP" or http.get("httpHeaders"):
        raise _not_native("a probe is not a plain GET on the pod's own address")
    if http["port"] not in (*ports, *ports.values()):
        raise _not_native(f"a probe asks port {http['port']}, which the pod does not have")
    return Probe(
        path=http.get("path", "/"),
        delay=probe.get("initialDelaySeconds", 0),
        period=probe.get("periodSeconds", 10),
        timeout=probe.get("timeoutSeconds", 1),
        successes=probe.get("successThreshold", 1),
        failures=probe.get("failureThreshold", 3),
    )


def _drain(container: Object, declared: list[str]) -> tuple[tuple[str, ...], float]:
    """What is run before SIGTERM, or for how long to wait."""
    hook = container.get("lifecycle", {}).get("preStop", {})
    if "exec" in hook:
        if hook["exec"].get("command") != declared:
            raise _not_native(f"its preStop runs {hook['exec'].get('command')}, not {declared}")
        return tuple(declared), 0
    if hook.keys() - {"sleep"}:
        raise _not_native("its preStop is neither a command nor a pause")
    return (), float(hook.get("sleep", {}).get("seconds", 0))
