"""A runtime that is none of ours, added by an EdgeRuntime and an image alone: docs/examples/numpy-runtime."""

import shutil
from collections.abc import Iterator

import pytest
import yaml

from hack.cluster import images
from hack.cluster.cli import cluster
from hack.cluster.shell import REPOSITORY
from tests.e2e.edge import NAMESPACE, SMALL, Edge, Json, edge_model

EXAMPLE = REPOSITORY / "docs" / "examples" / "numpy-runtime"


@pytest.fixture(scope="module")
def runtime(edge: Edge, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What a third party does: builds its image on ours, and applies its EdgeRuntime."""
    home = tmp_path_factory.mktemp("third-party")
    folder = shutil.copytree(EXAMPLE, home / EXAMPLE.name, ignore=shutil.ignore_patterns("__pycache__"))
    ours = images.build("operator")["operator"]
    text = (EXAMPLE / "Dockerfile").read_text().replace("ghcr.io/edgemodel/operator:0.1.0", ours)
    assert ours in text
    (folder / "Dockerfile").write_text(text)
    image = images.build_image(images.Image(EXAMPLE.name, home=home, context=folder))
    cluster().load([image])
    manifest = yaml.safe_load((EXAMPLE / "runtime.yaml").read_text())
    for part in (manifest["spec"]["pipeline"], manifest["spec"]["serving"]):
        part["image"] = image
    edge.apply(manifest)
    yield manifest["metadata"]["name"]
    edge.clear()
    edge.delete("er", manifest["metadata"]["name"])


@pytest.fixture(scope="module")
def served(edge: Edge, runtime: str, hub_source: Json) -> Json:
    """An EdgeModel of a hub's model that asks for it, Ready."""
    variants = [{"name": "cpu", "runtime": runtime, "resources": SMALL}]
    edge.apply(edge_model("tiny-numpy", source=hub_source, variants=variants))
    return edge.wait_ready("tiny-numpy")


def test_it_quantizes_and_proves(served: Json) -> None:
    (variant,) = served["status"]["variants"]
    assert (variant["runtime"], variant["scheme"]) == ("numpy", "INT8")
    assert 0.98 < float(variant["quality"]["accuracy"]) < 1.02
    assert float(variant["quality"]["klDivergence"]) < 0.01
    assert variant["artifact"]["bytes"] < 1.1 * 3_700_000
    assert variant["performance"]["engine"].startswith("numpy ")


def test_it_serves(edge: Edge, served: Json) -> None:
    with edge.openai("tiny-numpy") as client:
        answer = client.completions.create(model="tiny-numpy", prompt="Tom said", max_tokens=12, temperature=0)
        stream = client.completions.create(
            model="tiny-numpy", prompt="Tom said", max_tokens=12, temperature=0, stream=True
        )
        assert "".join(chunk.choices[0].text for chunk in stream) == answer.choices[0].text
    (pod,) = edge.list("pods", selector="edgemodel.dev/model=tiny-numpy,edgemodel.dev/role=serve")
    assert edge.scrape(NAMESPACE, f"pod/{pod['metadata']['name']}", 8080)["edgemodel_serve_tokens_total"] >= 24
