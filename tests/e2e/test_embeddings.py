"""A model that embeds, on a real cluster: an artifact for each runtime that can, read by the official client."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.e2e.edge import NAMESPACE, Edge, Json, edge_model
from tests.minilm import WIDTH
from tests.minilm import minilm as minilm

RUNTIMES = {
    # the runtime, the least cosine of its default scheme, and how its front counts the tokens that it read
    "llamacpp": (0.985, "llamacpp:prompt_tokens_total"),
    "onnx": (0.95, "edgemodel_serve_prompt_tokens_total"),
    "openvino-genai": (0.93, "edgemodel_serve_prompt_tokens_total"),
}


@pytest.fixture(scope="module")
def variants(edge: Edge) -> Iterator[Sequence[Json]]:
    """One for each runtime, each on hardware of its own."""
    with edge.shelves("embed", list(RUNTIMES)) as variants:
        yield variants


@pytest.fixture(scope="module")
def embedder(edge: Edge, variants: Sequence[Json], volume: Callable[[Path], Json], minilm: Path) -> Json:
    """One EdgeModel of MiniLM, which is on a volume, for all of them, Ready."""
    edge.apply(edge_model("embedder", task="Embeddings", source=volume(minilm), variants=variants))
    return edge.wait_ready("embedder", seconds=900)


def embedding(edge: Edge, target: str, port: int) -> list[list[float]]:
    """The official client's embeddings of two texts that are alike and one that is not; it asks for base64."""
    texts = ["A cat sat on the mat.", "A kitten was sitting on a rug.", "The stock market fell sharply."]
    with edge.openai_at(target, port) as client:
        assert [model.id for model in client.models.list()] == ["embedder"]
        answer = client.embeddings.create(model="embedder", input=texts)
    assert answer.usage.prompt_tokens > 20
    return [one.embedding for one in answer.data]


def cosine(one: list[float], other: list[float]) -> float:
    """Of two vectors of length 1."""
    return sum(map(float.__mul__, one, other))


def pod_of(edge: Edge, variant: str) -> str:
    """Name of the pod that serves a variant."""
    (pod,) = edge.list("pods", selector=f"edgemodel.dev/model=embedder,edgemodel.dev/variant={variant}")
    return str(pod["metadata"]["name"])


def embedded(edge: Edge, variant: str) -> float:
    """Tokens that a variant's pod has embedded."""
    return edge.scrape(NAMESPACE, f"pod/{pod_of(edge, variant)}", 8080)[RUNTIMES[variant][1]]


@pytest.mark.parametrize("variant", RUNTIMES)
def test_a_runtime_embeds_with_its_artifact(edge: Edge, embedder: Json, variant: str) -> None:
    target = f"pod/{pod_of(edge, variant)}"
    cat, kitten, market = embedding(edge, target, 8080)
    assert len(cat) == WIDTH
    assert cosine(cat, cat) == pytest.approx(1, abs=1e-3)
    assert cosine(cat, kitten) > 0.5 > 0.3 > cosine(cat, market)
    assert embedded(edge, variant) > 20


@pytest.mark.parametrize("variant", RUNTIMES)
def test_its_cosine_size_and_speed_are_told(edge: Edge, embedder: Json, variant: str) -> None:
    (told,) = [each for each in embedder["status"]["variants"] if each["name"] == variant]
    assert told["state"] == "Serving"
    assert RUNTIMES[variant][0] < float(told["quality"]["cosine"]) < 1
    assert told["quality"]["accuracy"] == told["quality"]["cosine"]
    assert "perplexity" not in told["quality"]
    assert float(told["performance"]["tokensPerSecond"]) > 0
    artifact = edge.get("ma", told["artifact"]["key"])
    assert artifact["spec"]["recipe"]["task"] == "Embeddings"
    assert float(artifact["status"]["compression"]) > 2


def test_all_answer_behind_one_service(edge: Edge, embedder: Json) -> None:
    before = {variant: embedded(edge, variant) for variant in RUNTIMES}
    asked = {"model": "embedder", "input": "A cat sat on the mat."}
    edge.ask_from_within(pod_of(edge, "onnx"), "http://embedder/v1/embeddings", asked, times=60)
    assert {variant for variant, count in before.items() if embedded(edge, variant) > count} == set(RUNTIMES)


def test_a_runtime_that_does_not_embed_says_so(edge: Edge, embedder: Json) -> None:
    model = edge_model("unable", task="Embeddings", source=embedder["spec"]["source"])
    model["spec"]["variants"][0] |= {"runtime": "mlx", "quantization": {"scheme": "4bit"}}
    edge.apply(model)
    told = edge.wait_reason("unable", "TaskNotSupported", "Failed")
    assert "does not do Embeddings" in str(told["status"])
    edge.delete("em", "unable")
