from typing import Any

import pytest

from edgemodel.core.hardware import NodeFacts
from edgemodel.core.keys import artifact_key
from edgemodel.core.plan import Choice, Landscape, Undecided, decide, wanted_keys
from tests.unit.core.samples import (
    ARM,
    DIGEST,
    GPU,
    ONE_X86_NODE,
    X86,
    edge_model,
    hardware_class,
    landscape,
    node,
    recipe,
    resolved,
    runtime,
)

CPU = runtime("llamacpp", {"x86-64": 100, "arm64": 50})
CUDA = runtime("cuda", {"gpu": 200})
GPU_NODE = NodeFacts("g", "amd64", "linux", {}, {"nvidia.com/gpu": "1"})
MIXED = landscape((CPU, CUDA), (X86, ARM, GPU), (node("a"), node("b", arch="arm64"), GPU_NODE))


def one(
    variant: dict[str, object], offered: Landscape, task: str = "TextGeneration", source: str = ""
) -> Choice | Undecided:
    (decision,) = decide(edge_model({"name": "v"} | variant, task=task).spec, offered, source)
    return decision


def chosen(variant: dict[str, object], offered: Landscape) -> Choice:
    decision = one(variant, offered)
    assert isinstance(decision, Choice), decision
    return decision


EMBEDDER = runtime("embedder", {"x86-64": 1}, tasks=["Embeddings"])
NO_NODES = landscape((CPU,), (X86, ARM))
S390 = hardware_class("s390x")


@pytest.mark.parametrize(
    ("name", "variant", "offered", "reason", "policy", "told"),
    [
        ("runtime is not there", {"runtime": "vllm"}, ONE_X86_NODE, "UnknownRuntime", "stalling",
         "there is no EdgeRuntime 'vllm'; there are: llamacpp"),
        ("runtime is not there, nor any other", {"runtime": "vllm"}, landscape(), "UnknownRuntime", "stalling",
         "there are: none"),
        ("runtime does another task", {"runtime": "embedder"}, landscape((EMBEDDER,), (X86,), (node(),)),
         "TaskNotSupported", "stalling", "does not do TextGeneration; it does: Embeddings"),
        ("no runtime does the task", {}, landscape((EMBEDDER,), (X86,), (node(),)), "NoRuntime", "stalling",
         "no EdgeRuntime does TextGeneration; there are: embedder"),
        ("no runtime serves the hardware", {"hardware": "gpu"}, landscape((CPU,), (X86, GPU), (GPU_NODE,)),
         "NoRuntime", "stalling", "no EdgeRuntime does TextGeneration on gpu; there are: llamacpp"),
        ("hardware is not there", {"runtime": "llamacpp", "hardware": "x86_64"[:3]}, ONE_X86_NODE, "UnknownHardware",
         "stalling", "there is no HardwareClass 'x86'; there are: arm64, x86-64"),
        ("hardware is not there and the runtime is open", {"hardware": "x86"}, ONE_X86_NODE, "UnknownHardware",
         "stalling", "there is no HardwareClass 'x86'; there are: arm64, x86-64"),
        ("runtime does not serve the hardware", {"runtime": "llamacpp", "hardware": "gpu"}, MIXED,
         "HardwareNotSupported", "stalling", "does not do TextGeneration on 'gpu'; it does on: arm64, x86-64"),
        ("hardware has no node", {"runtime": "llamacpp", "hardware": "arm64"},
         landscape((CPU,), (X86, ARM), (node(),)), "NoNode", "waiting",
         "no node is of HardwareClass 'arm64': waiting for one to join. Classes with nodes: x86-64"),
        ("hardware has no node and the runtime is open", {"hardware": "arm64"}, NO_NODES, "NoNode", "waiting",
         "no node is of HardwareClass 'arm64'"),
        ("runtime serves no class that has nodes", {"runtime": "cuda"},
         landscape((CUDA,), (X86, GPU), (node(),)), "NoNode", "waiting", "EdgeRuntime 'cuda' serves (gpu)"),
        ("all is open and the cluster has no node yet", {}, NO_NODES, "NoNode", "waiting", "waiting for one to join"),
        ("all is open and no node is of a class that is served", {},
         landscape((CPU,), (X86, S390), (node(arch="s390x"),)), "NoNode", "waiting", "waiting for one to join"),
        ("scheme is not offered", {"quantization": {"scheme": "Q2_K"}}, ONE_X86_NODE, "UnknownScheme", "stalling",
         "has no scheme 'Q2_K' for TextGeneration; it has: Q4_K_M, Q8_0"),
    ],
)  # fmt: skip
def test_variant_is_undecided_when(
    name: str, variant: dict[str, object], offered: Landscape, reason: str, policy: str, told: str
) -> None:
    decision = one(variant, offered)
    assert isinstance(decision, Undecided), name
    assert (decision.problem.reason, decision.problem.policy) == (reason, policy), name
    assert told in decision.problem.message, name


@pytest.mark.parametrize(
    ("name", "variant", "expected"),
    [
        ("all is open: the best of all pairs that have nodes", {}, ("cuda", "gpu", "Q4_K_M")),
        ("the hardware is given", {"hardware": "arm64"}, ("llamacpp", "arm64", "Q4_K_M")),
        ("the runtime is given", {"runtime": "llamacpp"}, ("llamacpp", "x86-64", "Q4_K_M")),
        ("all is given", {"runtime": "llamacpp", "hardware": "arm64", "quantization": {"scheme": "Q8_0"}},
         ("llamacpp", "arm64", "Q8_0")),
    ],
)  # fmt: skip
def test_what_is_left_open_is_chosen_when(name: str, variant: dict[str, object], expected: tuple[str, ...]) -> None:
    decision = chosen(variant, MIXED)
    found = (decision.runtime.metadata.name, decision.hardware, decision.scheme.name)
    assert found == expected, name


def test_preferred_hardware_without_nodes_is_passed_over() -> None:
    offered = landscape((runtime(hardware={"gpu": 200, "x86-64": 1}),), (X86, GPU), (node(),))
    assert chosen({"runtime": "llamacpp"}, offered).hardware == "x86-64"


def test_runtime_that_is_best_on_hardware_without_nodes_is_passed_over() -> None:
    offered = landscape((runtime("best", {"gpu": 200}), runtime("good", {"x86-64": 1})), (X86, GPU), (node(),))
    decision = chosen({}, offered)
    assert (decision.runtime.metadata.name, decision.hardware) == ("good", "x86-64")
    assert decision.why.startswith("runtime good serves it best; ")


def test_equals_are_chosen_by_name_whatever_their_order() -> None:
    twins = (runtime("b", {"x86-64": 5}), runtime("a", {"x86-64": 5}))
    for runtimes in (twins, twins[::-1]):
        assert chosen({}, landscape(runtimes, (X86,), (node(),))).runtime.metadata.name == "a"
    both = landscape((runtime(hardware={"x86-64": 5, "arm64": 5}),), (X86, ARM), (node(), node("n2", arch="arm64")))
    assert chosen({}, both).hardware == "arm64"


def test_runtime_of_preference_zero_still_serves() -> None:
    assert chosen({}, landscape((runtime(hardware={"x86-64": 0}),), (X86,), (node(),))).hardware == "x86-64"


@pytest.mark.parametrize(
    ("variant", "why"),
    [
        ({"runtime": "llamacpp", "hardware": "x86-64", "quantization": {"scheme": "Q8_0"}},
         "runtime llamacpp as asked; hardware x86-64 as asked; scheme Q8_0 as asked"),
        ({"runtime": "llamacpp"},
         "runtime llamacpp as asked; hardware x86-64 is the best that has nodes; "
         "scheme Q4_K_M is the runtime's default"),
        ({}, "runtime cuda serves it best, before llamacpp; hardware gpu is the best that has nodes; "
             "scheme Q4_K_M is the runtime's default"),
    ],
)  # fmt: skip
def test_reason_names_what_was_asked_what_was_chosen_and_what_was_passed_over(
    variant: dict[str, object], why: str
) -> None:
    assert chosen(variant, MIXED).why == why


def names(offered: Landscape, **spec: Any) -> list[str]:
    return [decision.variant.name for decision in decide(edge_model(**spec).spec, offered)]


def test_without_variants_each_class_with_nodes_and_a_runtime_gets_one() -> None:
    assert names(MIXED) == ["arm64", "gpu", "x86-64"]
    assert all(isinstance(decision, Choice) for decision in decide(edge_model().spec, MIXED))


@pytest.mark.parametrize(
    ("name", "offered", "expected"),
    [
        ("a class without nodes is left out", landscape((CPU,), (X86, ARM), (node(),)), ["x86-64"]),
        ("a class that no runtime serves is left out", landscape((CPU,), (X86, S390), (node(), node("s", "s390x"))),
         ["x86-64"]),
        ("a runtime for another task does not count", landscape((EMBEDDER,), (X86,), (node(),)), []),
        ("a node is served once, as the best class it is of", landscape((CPU, CUDA), (X86, GPU), (GPU_NODE,)),
         ["gpu"]),
        ("a node whose best class no runtime serves is served as its next", landscape((CPU,), (X86, GPU), (GPU_NODE,)),
         ["x86-64"]),
        ("an empty cluster has none", landscape(), []),
    ],
)  # fmt: skip
def test_default_variants(name: str, offered: Landscape, expected: list[str]) -> None:
    assert names(offered) == expected, name


def test_default_variants_of_long_class_names_stay_apart() -> None:
    long = [
        hardware_class(f"nvidia-tegra-orin-nx-{size}gb", labels=[{"key": "size", "operator": "In", "values": [size]}])
        for size in ("8", "16")
    ]
    able = runtime(hardware={item.metadata.name: 1 for item in long})
    found = names(landscape((able,), tuple(long), (node("a", "arm64", size="8"), node("b", "arm64", size="16"))))
    assert len(set(found)) == 2
    assert all(name.startswith("nvidia-tegra") for name in found)


def test_default_variants_are_no_more_than_an_edge_model_may_name() -> None:
    classes = tuple(hardware_class(f"c{number:02}") for number in range(40))
    nodes = tuple(node(item.metadata.name, item.metadata.name) for item in classes)
    able = runtime(hardware={item.metadata.name: 1 for item in classes[:32]})
    assert len(names(landscape((able,), classes, nodes))) == 16


def test_calibration_is_part_of_the_recipe_only_where_the_scheme_uses_it() -> None:
    pipeline = {"image": "i", "toolchain": "llamacpp", "version": "b1", "calibration": DIGEST}
    offered = landscape((runtime(pipeline=pipeline),), (X86,), (node(),))
    assert chosen({}, offered).recipe == recipe(calibration=DIGEST)
    assert chosen({"quantization": {"scheme": "Q8_0"}}, offered).recipe == recipe(scheme="Q8_0")


def test_wanted_keys_are_those_of_the_decided_variants() -> None:
    variants = ({"name": "a"}, {"name": "b", "quantization": {"scheme": "Q8_0"}}, {"name": "c", "runtime": "none"})
    source = resolved()
    expected = {artifact_key(source, recipe()), artifact_key(source, recipe(scheme="Q8_0"))}
    assert wanted_keys(edge_model(*variants).spec, source, ONE_X86_NODE) == expected


def test_same_recipe_on_other_hardware_is_the_same_artifact() -> None:
    spec = edge_model({"name": "a", "hardware": "arm64"}, {"name": "x", "hardware": "x86-64"}).spec
    assert len(wanted_keys(spec, resolved(), MIXED)) == 1


def test_what_is_compiled_for_a_chip_is_made_for_each() -> None:
    hardware = [{"class": "x86-64", "target": "v75"}, {"class": "arm64", "target": "v79"}]
    offered = landscape((runtime(choices=hardware),), (X86, ARM), (node("a"), node("b", arch="arm64")))
    wanted = edge_model({"name": "a", "hardware": "arm64"}, {"name": "x", "hardware": "x86-64"}).spec
    decisions = [decision for decision in decide(wanted, offered) if isinstance(decision, Choice)]
    assert [decision.recipe.target for decision in decisions] == ["v79", "v75"]
    assert len(wanted_keys(wanted, resolved(), offered)) == 2


def test_another_task_is_another_artifact() -> None:
    able = runtime(tasks=["TextGeneration", "Embeddings"])
    offered = landscape((able,), (X86,), (node(),))
    keys = [wanted_keys(edge_model({"name": "a"}, task=task).spec, resolved(), offered) for task in able.spec.tasks]
    assert keys[0].isdisjoint(keys[1])


BOTH = ["TextGeneration", "Embeddings"]


def test_a_scheme_may_be_for_one_task() -> None:
    schemes = [
        {"name": "Q4_K_M", "bitsPerWeight": "4.85"},
        {"name": "GPTQ", "bitsPerWeight": "4.5", "tasks": ["TextGeneration"]},
    ]
    offered = landscape((runtime(tasks=BOTH, schemes=schemes),), (X86,), (node(),))
    asked: dict[str, object] = {"quantization": {"scheme": "GPTQ"}}
    assert isinstance(one(asked, offered), Choice)
    found = one(asked, offered, task="Embeddings")
    assert isinstance(found, Undecided)
    assert found.problem.reason == "UnknownScheme"
    assert "has no scheme 'GPTQ' for Embeddings; it has: Q4_K_M" in found.problem.message


def test_hardware_may_be_for_one_task() -> None:
    hardware = [{"class": "x86-64", "preference": 1}, {"class": "gpu", "preference": 9, "tasks": ["TextGeneration"]}]
    offered = landscape((runtime(tasks=BOTH, choices=hardware),), (X86, GPU), (node(), GPU_NODE))
    found = [one({}, offered, task=task) for task in BOTH]
    assert [isinstance(each, Choice) and each.hardware for each in found] == ["gpu", "x86-64"]
    (default,) = decide(edge_model(task="Embeddings").spec, offered)
    assert default.variant.hardware == "x86-64"
    refused = one({"runtime": "llamacpp", "hardware": "gpu"}, offered, task="Embeddings")
    assert isinstance(refused, Undecided)
    assert refused.problem.reason == "HardwareNotSupported"
    assert "does not do Embeddings on 'gpu'; it does on: x86-64" in refused.problem.message
    unserved = one({"hardware": "gpu"}, offered, task="Embeddings")
    assert isinstance(unserved, Undecided)
    assert "no EdgeRuntime does Embeddings on gpu" in unserved.problem.message


PIPELINE = {"image": "registry.example/pipeline:1", "toolchain": "openvino", "version": "1", "sources": ["safetensors"]}
SAFETENSORS_ONLY = runtime("openvino", {"x86-64": 300}, pipeline=PIPELINE)
READERS = landscape((CPU, SAFETENSORS_ONLY), (X86,), (node(),))


@pytest.mark.parametrize(("source", "expected"), [("", "openvino"), ("safetensors", "openvino"), ("gguf", "llamacpp")])
def test_a_runtime_must_read_the_source(source: str, expected: str) -> None:
    found = one({}, READERS, source=source)
    assert isinstance(found, Choice)
    assert found.runtime.metadata.name == expected
    (default,) = decide(edge_model().spec, READERS, source)
    assert isinstance(default, Choice)
    assert default.runtime.metadata.name == expected


def test_a_runtime_that_is_asked_for_and_cannot_read_the_source_is_said_so() -> None:
    found = one({"runtime": "openvino"}, READERS, source="gguf")
    assert isinstance(found, Undecided)
    assert (found.problem.reason, found.problem.policy) == ("SourceNotSupported", "stalling")
    assert "does not read gguf; it reads: safetensors" in found.problem.message


def test_no_runtime_reads_the_source() -> None:
    found = one({}, landscape((SAFETENSORS_ONLY,), (X86,), (node(),)), source="gguf")
    assert isinstance(found, Undecided)
    assert "no EdgeRuntime does TextGeneration of gguf" in found.problem.message
