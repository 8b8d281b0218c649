import os
import shutil
from pathlib import Path

import pytest

from edgemodel.api.artifact import Source
from edgemodel.pipeline.embeddings import Pooling
from edgemodel.pipeline.errors import PathRefusedError, SourceChangedError, SourceNotFoundError
from edgemodel.pipeline.resolve import resolve
from edgemodel.pipeline.sources import SourceReader, open_source
from tests.minilm import CONTEXT_LENGTH, PARAMETERS, WIDTH
from tests.unit.pipeline.models import TINYSAWYER, llama_gguf


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    shutil.copytree(TINYSAWYER, tmp_path / "volume" / "models" / "tiny")
    return tmp_path / "volume"


def _open(volume: Path, path: str = "models/tiny", sha256: str | None = None) -> SourceReader:
    return open_source(Source(uri=f"pvc://claim/{path}", sha256=sha256), {"PVC_ROOT": str(volume)})


def test_the_digest_follows_the_bytes_alone(volume: Path) -> None:
    digest = resolve(_open(volume)).resolved.digest
    weights = volume / "models" / "tiny" / "model.safetensors"
    os.utime(weights, (1, 1))
    assert resolve(_open(volume)).resolved.digest == digest
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    os.utime(weights, (1, 1))
    assert resolve(_open(volume)).resolved.digest != digest


def test_nothing_is_copied(volume: Path, tmp_path: Path) -> None:
    reader = _open(volume)
    for file in resolve(reader).files:
        reader.fetch(file, tmp_path / "model" / file.path, lambda _: None)
    weights = tmp_path / "model" / "model.safetensors"
    assert weights.is_symlink()
    assert weights.read_bytes() == (TINYSAWYER / "model.safetensors").read_bytes()


def test_a_model_that_embeds_comes_with_what_says_how_it_pools(minilm: Path, tmp_path: Path) -> None:
    shutil.copytree(minilm, tmp_path / "volume" / "minilm")
    reader = _open(tmp_path / "volume", "minilm")
    found = resolve(reader)
    for file in found.files:
        reader.fetch(file, tmp_path / "model" / file.path, lambda _: None)
    assert Pooling.read(tmp_path / "model") == Pooling("mean", normalize=True)
    facts = found.resolved.model
    assert (facts.architecture, facts.parameters, facts.layers) == ("BertModel", PARAMETERS, 6)
    assert (facts.kv_heads, facts.head_size, facts.hidden_size) == (12, 32, WIDTH)
    assert (facts.vocabulary, facts.context_length) == (30_522, CONTEXT_LENGTH)
    assert found.resolved.weight_type == "F32"


def test_links_may_stay_in_the_volume_and_not_leave_it(volume: Path, tmp_path: Path) -> None:
    weights = volume / "models" / "tiny" / "model.safetensors"
    blob = volume / "blobs" / "1"
    blob.parent.mkdir()
    weights.rename(blob)
    weights.symlink_to(blob)
    assert resolve(_open(volume)).resolved.model.layers == 4
    outside = tmp_path / "outside"
    blob.rename(outside)
    weights.unlink()
    weights.symlink_to(outside)
    with pytest.raises(PathRefusedError, match="leads out of it"):
        resolve(_open(volume))


@pytest.mark.parametrize("path", ["../..", "models/../../etc", "models\\tiny"])
def test_a_path_that_leaves_the_volume_is_refused(volume: Path, path: str) -> None:
    # As if the API had let it through, which refuses a backslash.
    source = Source.model_construct(uri=f"pvc://claim/{path}", revision=None, sha256=None, secret_ref=None)
    with pytest.raises(PathRefusedError):
        open_source(source, {"PVC_ROOT": str(volume)})


def test_a_missing_folder_is_not_found(volume: Path) -> None:
    with pytest.raises(SourceNotFoundError, match="models/none"):
        resolve(_open(volume, "models/none"))


def test_one_file_may_have_to_have_a_digest(volume: Path) -> None:
    (volume / "tiny.gguf").write_bytes(llama_gguf())
    assert resolve(_open(volume, "tiny.gguf")).resolved.format == "gguf"
    with pytest.raises(SourceChangedError, match=r"spec\.source\.sha256"):
        resolve(_open(volume, "tiny.gguf", "sha256:" + 64 * "0"))


def test_the_readme_says_the_licence(volume: Path) -> None:
    (volume / "models" / "tiny" / "README.md").write_text("---\ntags: [a]\nlicense: 'mit'\n---\n# Tiny")
    assert resolve(_open(volume)).resolved.licence == "mit"
