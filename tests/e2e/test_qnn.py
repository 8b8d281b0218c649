"""QNN on a real cluster: a node that is labelled as a Snapdragon, and QNN's simulator of the HTP in its place."""

from collections.abc import Iterator

import pytest

from hack.deploy import SOURCES, upload_sources
from tests.e2e.edge import NAMESPACE, SMALL, Edge, Json, edge_model
from tests.qnn import WIDTH, write_bert

HARDWARE = "snapdragon-sm8650"


@pytest.fixture(scope="module")
def snapdragon(edge: Edge) -> Iterator[str]:
    """The machine's node, which says that it is one."""
    node: str = edge.list("nodes")[0]["metadata"]["name"]
    edge.deployed.kubectl("label", "node", node, "edgemodel.dev/soc=SM8650", "--overwrite")
    yield node
    edge.clear()
    edge.deployed.kubectl("label", "node", node, "edgemodel.dev/soc-")


@pytest.fixture(scope="module")
def embedder(edge: Edge, snapdragon: str, tmp_path_factory: pytest.TempPathFactory) -> Json:
    """An EdgeModel for it, Ready."""
    model = write_bert(tmp_path_factory.mktemp("bert") / "model")
    files = {f"bert/{file.relative_to(model)}": file for file in model.rglob("*") if file.is_file()}
    upload_sources(edge.deployed, NAMESPACE, files)
    source = {"uri": f"s3://{SOURCES}/bert", "secretRef": {"name": SOURCES}}
    variants = [{"name": "board", "runtime": "qnn", "hardware": HARDWARE, "resources": SMALL}]
    edge.apply(edge_model("letters", task="Embeddings", source=source, variants=variants))
    return edge.wait_ready("letters", seconds=600)


def test_the_official_client_gets_embeddings_of_the_simulated_htp(edge: Edge, embedder: Json) -> None:
    with edge.openai("letters") as client:
        answer = client.embeddings.create(model="letters", input=["A cat sat.", "Tom went to the river."])
    first, second = (one.embedding for one in answer.data)
    assert len(first) == WIDTH
    assert sum(value * value for value in first) == pytest.approx(1, abs=1e-3)
    assert first != second


def test_the_artifact_is_for_the_chip_and_says_what_it_is_worth(edge: Edge, embedder: Json) -> None:
    (told,) = embedder["status"]["variants"]
    assert float(told["quality"]["cosine"]) > 0.999
    assert "performance" not in told, "the simulator says nothing of speed"
    artifact = edge.get("ma", told["artifact"]["key"])
    assert artifact["spec"]["recipe"]["target"] == "sm8650-v75"
    (pod,) = edge.list("pods", selector="edgemodel.dev/model=letters,edgemodel.dev/variant=board")
    samples = edge.scrape(NAMESPACE, f"pod/{pod['metadata']['name']}", 8080)
    assert samples["edgemodel_serve_prompt_tokens_total"] > 0
