"""Every runtime on a real cluster: its artifact made in a Job, served by its image, read by the official client."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.edge import NAMESPACE, SMALL, Edge, Json, edge_model

LLAMACPP_TOKENS, OUR_TOKENS = "llamacpp:tokens_predicted_total", "edgemodel_serve_tokens_total"
VARIANTS = {
    # each on hardware of its own: its runtime, a scheme of it, and how its front counts the tokens of answers
    "llamacpp": ("llamacpp", "Q4_K_M", LLAMACPP_TOKENS),
    "llamacpp-big": ("llamacpp", "Q8_0", LLAMACPP_TOKENS),
    "mlx": ("mlx", "4bit", OUR_TOKENS),
    "onnx": ("onnx", "INT4_K_QUANT", OUR_TOKENS),
    "openvino-genai": ("openvino-genai", "INT4_SYM", OUR_TOKENS),
}
RUNTIMES = sorted({runtime for runtime, _, _ in VARIANTS.values()})
SHELF = "example.com/shelf"


def shelf(number: int) -> str:
    """A hardware class of these tests'."""
    return f"e2e-shelf-{number}"


@pytest.fixture(scope="module")
def fleet(edge: Edge) -> Iterator[Edge]:
    """The machine's node is of as many more classes as there are variants."""
    node = edge.list("nodes")[0]["metadata"]["name"]
    for number in range(len(VARIANTS)):
        requirement = {"key": f"{SHELF}-{number}", "operator": "Exists"}
        edge.apply(
            {
                "apiVersion": "edgemodel.dev/v1alpha1",
                "kind": "HardwareClass",
                "metadata": {"name": shelf(number)},
                "spec": {"labels": [requirement]},
            }
        )
        edge.deployed.kubectl("label", "node", node, f"{SHELF}-{number}=here", "--overwrite")
    for name in RUNTIMES:
        runtime = edge.get("er", name)
        spec = runtime["spec"] | {"hardware": [{"class": shelf(number)} for number in range(len(VARIANTS))]}
        spec["pipeline"]["cpu"] = "700m"  # two Jobs at a time: more would take each other the processors
        edge.apply(
            {
                "apiVersion": runtime["apiVersion"],
                "kind": "EdgeRuntime",
                "metadata": {"name": f"e2e-{name}"},
                "spec": spec,
            }
        )
    yield edge
    edge.clear()
    for number in range(len(VARIANTS)):
        edge.deployed.kubectl("label", "node", node, f"{SHELF}-{number}-")
        edge.delete("hc", shelf(number))
    for name in RUNTIMES:
        edge.delete("er", f"e2e-{name}")


def variants() -> list[Json]:
    """Each on hardware of its own."""
    return [
        {
            "name": name,
            "runtime": f"e2e-{runtime}",
            "hardware": shelf(number),
            "quantization": {"scheme": scheme},
            "resources": SMALL,
        }
        for number, (name, (runtime, scheme, _)) in enumerate(VARIANTS.items())
    ]


@pytest.fixture(scope="module")
def mixed(fleet: Edge) -> Json:
    """One EdgeModel for the whole fleet, Ready."""
    fleet.apply(edge_model("mixed", variants=variants()))
    return fleet.wait_ready("mixed", seconds=600)


def pods_of(edge: Edge, variant: str) -> list[Json]:
    """The pods that serve a variant."""
    return edge.list("pods", selector=f"edgemodel.dev/model=mixed,edgemodel.dev/variant={variant}")


def answered(edge: Edge, variant: str) -> float:
    """Tokens that a variant's pod has answered with."""
    (pod,) = pods_of(edge, variant)
    return edge.scrape(NAMESPACE, f"pod/{pod['metadata']['name']}", 8080)[VARIANTS[variant][2]]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_runtime_answers_from_its_artifact(fleet: Edge, mixed: Json, variant: str) -> None:
    (pod,) = pods_of(fleet, variant)
    with fleet.openai_at(f"pod/{pod['metadata']['name']}", 8080) as client:
        assert [model.id for model in client.models.list()] == ["mixed"]
        asked: dict[str, Any] = {"model": "mixed", "prompt": "Tom said", "max_tokens": 12, "temperature": 0}
        whole = client.completions.create(**asked)
        assert whole.usage
        assert whole.usage.completion_tokens == 12
        pieces = [chunk.choices[0].text for chunk in client.completions.create(**asked, stream=True)]
        assert len([piece for piece in pieces if piece]) > 3
        assert "".join(pieces) == whole.choices[0].text
    assert answered(fleet, variant) >= 24


@pytest.mark.parametrize("variant", VARIANTS)
def test_its_quality_size_and_speed_are_told(fleet: Edge, mixed: Json, variant: str) -> None:
    (told,) = [each for each in mixed["status"]["variants"] if each["name"] == variant]
    assert told["state"] == "Serving"
    assert 0.8 < float(told["quality"]["accuracy"]) < 1.1
    assert 0 < float(told["quality"]["klDivergence"]) < 0.5
    assert told["artifact"]["bytes"] < 2 * 3_700_000
    performance = told["performance"]
    assert float(performance["tokensPerSecond"]) > 0
    assert float(performance["speedup"]) > 0
    artifact = fleet.get("ma", told["artifact"]["key"])
    assert artifact["status"]["compression"] > "1"
    assert artifact["status"]["performance"] == performance


def test_all_answer_behind_one_service(fleet: Edge, mixed: Json) -> None:
    before = {variant: answered(fleet, variant) for variant in VARIANTS}
    (pod,) = pods_of(fleet, "mlx")  # its image has a Python
    asked = {"model": "mixed", "prompt": "Tom", "max_tokens": 2}
    fleet.ask_from_within(pod["metadata"]["name"], "http://mixed/v1/completions", asked, times=60)
    assert {variant for variant, count in before.items() if answered(fleet, variant) > count} == set(VARIANTS)
