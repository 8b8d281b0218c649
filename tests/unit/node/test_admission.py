"""What may run on a Mac."""

from collections.abc import Callable

import pytest

from edgemodel.node.admission import Refused, admit, check_room, expand, memory_of
from tests.unit.node.samples import Json, pod, runtime


def test_pod_of_the_operator_is_taken_as_its_runtime_declares_it() -> None:
    plan = admit(pod(), runtime())
    assert plan.command == ("python3", "-m", "edgemodel.serve", "mlx", "--model", "$(MODEL_DIR)", "--fast")
    assert plan.env["MODEL_NAME"] == "llama"
    assert plan.env["CACHE"] == "/models/cache"
    assert plan.env["THREADS"] == "2"  # the CPU limit, rounded up
    assert plan.secret == "edgemodel-store"
    assert plan.fetch_env["EDGEMODEL_STORE_URI"] == "s3://models/edge"
    assert "EDGEMODEL_STORE_CREDENTIALS" not in plan.fetch_env  # where that is here is ours to say
    assert plan.port == 8080
    assert plan.pause == 5
    assert plan.grace == 135
    assert plan.probes.startup is not None
    assert plan.probes.startup.failures == 600


def test_arguments_of_the_task_belong_to_it() -> None:
    assert "--embed" in admit(pod(task="Embeddings"), runtime()).command


def test_command_that_drains_is_the_runtimes() -> None:
    declared = runtime()
    serving = declared.spec.serving.model_copy(update={"drain_command": ["drain"]})
    declared = declared.model_copy(update={"spec": declared.spec.model_copy(update={"serving": serving})})
    given = pod()
    given["spec"]["containers"][0]["lifecycle"] = {"preStop": {"exec": {"command": ["drain"]}}}
    assert admit(given, declared).drain == ("drain",)


def _serve(change: Callable[[Json], object]) -> Callable[[Json], object]:
    return lambda pod: change(pod["spec"]["containers"][0])


def _env(name: str, value: str) -> Callable[[Json], object]:
    def change(container: Json) -> None:
        container["env"] = [each for each in container["env"] if each["name"] != name] + [
            {"name": name, "value": value}
        ]

    return _serve(change)


FOREIGN: dict[str, tuple[Callable[[Json], object], str]] = {
    # what is wrong with a pod: what makes it so, and what its owner must be told
    "no runtime's": (lambda pod: pod["metadata"]["labels"].pop("edgemodel.dev/runtime"), "edgemodel.dev/runtime"),
    "another class": (
        lambda pod: pod["metadata"]["labels"].update({"edgemodel.dev/hardware": "x86-64"}),
        "no native command for hardware x86-64",
    ),
    "another command": (_serve(lambda it: it.update(command=["/bin/sh", "-c", "id"])), "/bin/sh"),
    "another argument": (_serve(lambda it: it["args"].append("--evil")), "--evil"),
    "a library of its own": (_env("DYLD_INSERT_LIBRARIES", "/tmp/x"), "DYLD_INSERT_LIBRARIES"),
    "a path of its own": (_env("PYTHONPATH", "/tmp"), "PYTHONPATH"),
    "a declared variable with another value": (_env("CACHE", "/etc"), "CACHE"),
    "a model outside of its folder": (_env("MODEL_FILE", "/models/../../etc/passwd"), "MODEL_FILE"),
    "a model elsewhere": (_env("MODEL_DIR", "/Users/jane"), "MODEL_DIR"),
    "a name that is an option": (_env("MODEL_NAME", "--trust-remote-code"), "MODEL_NAME"),
    "a number that is none": (_env("CONTEXT_LENGTH", "4096 --evil"), "CONTEXT_LENGTH"),
    "an unknown task": (_env("TASK", "Mining"), "Mining"),
    "another port": (_env("PORT", "22"), "port"),
    "a variable out of a Secret": (
        _serve(lambda it: it["env"].append({"name": "X", "valueFrom": {"secretKeyRef": {"name": "a", "key": "b"}}})),
        "X",
    ),
    "variables from elsewhere": (_serve(lambda it: it.update(envFrom=[{"secretRef": {"name": "s"}}])), "envFrom"),
    "another fetch": (lambda pod: pod["spec"]["initContainers"][0].update(command=["curl"]), "curl"),
    "a fetch with a variable": (
        lambda pod: pod["spec"]["initContainers"][0]["env"].append({"name": "LD_PRELOAD", "value": "x"}),
        "LD_PRELOAD",
    ),
    "a third container": (lambda pod: pod["spec"]["containers"].append({"name": "side", "image": "i"}), "side"),
    "a folder of the machine": (
        lambda pod: pod["spec"]["volumes"].append({"name": "root", "hostPath": {"path": "/"}}),
        "root",
    ),
    "the machine's network": (lambda pod: pod["spec"].update(hostNetwork=True), "hostNetwork"),
    "a hook that runs": (
        _serve(lambda it: it.update(lifecycle={"preStop": {"exec": {"command": ["rm", "-rf", "/"]}}})),
        "rm",
    ),
    "a probe that runs": (_serve(lambda it: it.update(livenessProbe={"exec": {"command": ["id"]}})), "probe"),
    "a probe elsewhere": (
        _serve(lambda it: it["readinessProbe"]["httpGet"].update(host="192.0.2.1")),
        "probe",
    ),
    "a life that ends": (lambda pod: pod["spec"].update(restartPolicy="Never"), "restartPolicy"),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_pod_is_refused_that_has(what: str) -> None:
    change, told = FOREIGN[what]
    given = pod()
    change(given)
    with pytest.raises(Refused) as refused:
        admit(given, runtime())
    assert refused.value.reason == "NotNative"
    assert told in refused.value.message


def test_pod_of_a_runtime_that_is_gone_is_refused() -> None:
    with pytest.raises(Refused, match="no EdgeRuntime mlx"):
        admit(pod(), None)


def test_runtime_without_a_native_command_runs_nothing() -> None:
    with pytest.raises(Refused, match="no native command"):
        admit(pod(), runtime(native=None))


def test_runtime_names_programs_and_no_paths() -> None:
    given = pod()
    given["spec"]["containers"][0]["command"] = ["/usr/bin/python3"]
    with pytest.raises(Refused, match="is a path"):
        admit(given, runtime(native={"command": ["/usr/bin/python3"]}))


def test_pod_that_says_no_memory_is_not_known_to_fit() -> None:
    given = pod()
    del given["spec"]["containers"][0]["resources"]["requests"]["memory"]
    with pytest.raises(Refused) as refused:
        memory_of(given)
    assert refused.value.reason == "OutOfMemory"


@pytest.mark.parametrize(
    ("memory", "used", "allocatable", "fits"),
    [(4, 0, 4, True), (4, 4, 8, True), (5, 4, 8, False), (1, 0, 0, False), (1, 0, None, False)],
)
def test_pod_fits_beside_the_others_or_is_refused(memory: int, used: int, allocatable: int | None, fits: bool) -> None:
    if fits:
        check_room(memory, used, allocatable)
    else:
        with pytest.raises(Refused) as refused:
            check_room(memory, used, allocatable)
        assert refused.value.reason == "OutOfMemory"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$(PORT)", "8080"),
        ("a$(PORT)b$(PORT)", "a8080b8080"),
        ("$$(PORT)", "$(PORT)"),
        ("$$$(PORT)", "$8080"),
        ("$(NONE)", "$(NONE)"),
        ("$PORT ${PORT} $", "$PORT ${PORT} $"),
    ],
)
def test_variables_expand_as_in_any_pod(text: str, expected: str) -> None:
    assert expand(text, {"PORT": "8080"}) == expected
