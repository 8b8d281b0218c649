"""Adapters as PEFT and mlx-lm write them, fused into weights that were worked out by hand."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgemodel.api.artifact import Adapter, Recipe, Source
from edgemodel.core.keys import artifact_key
from edgemodel.pipeline.adapter import AdapterFiles
from edgemodel.pipeline.errors import MalformedError, PipelineError, SourceChangedError, SourceUnsupportedError
from edgemodel.pipeline.fuse import fuse
from edgemodel.pipeline.job import JobRequest, fetch
from edgemodel.pipeline.progress import Reporter
from edgemodel.pipeline.resolve import resolve
from edgemodel.pipeline.sources import SourceReader, open_adapter, open_source
from tests.unit.pipeline.models import CONFIG

MODULE = "model.layers.0.self_attn.q_proj"
WEIGHT = f"{MODULE}.weight"
W = np.arange(12, dtype=np.float32).reshape(3, 4)
A = np.array([[1, 0, 2, 0], [0, 1, 0, -1]], np.float32)
B = np.array([[1, 0], [0, 1], [1, 1]], np.float32)
PEFT = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
MLX = {"fine_tune_type": "lora", "lora_parameters": {"rank": 2, "scale": 2.0}}

Tensors = Mapping[str, NDArray[Any]]


def write(path: Path, tensors: Tensors, dtype: str = "F32") -> Path:
    """A safetensors file."""
    header: dict[str, Any] = {}
    data = b""
    for name, array in tensors.items():
        raw = array.astype({"F32": "<f4", "F16": "<f2", "BF16": "<f4"}[dtype])
        packed = (raw.view("<u4") >> 16).astype("<u2").tobytes() if dtype == "BF16" else raw.tobytes()
        header[name] = {
            "dtype": dtype, "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(packed)],
        }  # fmt: skip
        data += packed
    head = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(head)) + head + data)
    return path


def values(path: Path, dtype: str, count: int) -> NDArray[np.float32]:
    """The first tensor of a file."""
    raw = path.read_bytes()
    start = 8 + struct.unpack_from("<Q", raw)[0]
    if dtype == "BF16":
        return (np.frombuffer(raw, "<u2", count, start).astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(raw, {"F32": "<f4", "F16": "<f2"}[dtype], count, start).astype(np.float32)


def peft_adapter(folder: Path, tensors: Tensors | None = None, **config: Any) -> Path:
    """An adapter as PEFT writes it."""
    prefix = f"base_model.model.{MODULE}"
    write(folder / "adapter_model.safetensors",
          {f"{prefix}.lora_A.weight": A, f"{prefix}.lora_B.weight": B} if tensors is None else tensors)  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(PEFT | config))
    return folder


def mlx_adapter(folder: Path, **config: Any) -> Path:
    """The same as mlx-lm writes it."""
    write(folder / "adapters.safetensors", {f"{MODULE}.lora_a": A.T, f"{MODULE}.lora_b": B.T})
    (folder / "adapter_config.json").write_text(json.dumps(MLX | config))
    return folder


def model(folder: Path, dtype: str = "F32", name: str = WEIGHT) -> Path:
    """A model of one matrix."""
    write(folder / "model.safetensors", {name: W, "model.norm.weight": np.ones(4, np.float32)}, dtype)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("adapter", [peft_adapter, mlx_adapter])
def test_a_weight_becomes_itself_and_the_scaled_product(tmp_path: Path, dtype: str, adapter: Any) -> None:
    fuse(model(tmp_path / "model", dtype), adapter(tmp_path / "adapter"), tmp_path / "fused")
    fused = tmp_path / "fused" / "model.safetensors"
    assert (values(fused, dtype, 12).reshape(3, 4) == W + 2 * (B @ A)).all()
    assert fused.stat().st_size == (tmp_path / "model" / "model.safetensors").stat().st_size
    assert (tmp_path / "fused" / "config.json").exists()


def test_the_source_stays_as_it_was(tmp_path: Path) -> None:
    before = (model(tmp_path / "model") / "model.safetensors").read_bytes()
    fuse(tmp_path / "model", peft_adapter(tmp_path / "adapter"), tmp_path / "fused")
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before
    assert (tmp_path / "fused" / "model.safetensors").read_bytes() != before


def test_what_is_between_two_of_16_bits_goes_to_the_nearest(tmp_path: Path) -> None:
    """Of bfloat16 there are 256 and 258, and none between them."""
    small = {f"base_model.model.{MODULE}.lora_A.weight": np.array([[0.75, 1.5, 0, 0]], np.float32),
             f"base_model.model.{MODULE}.lora_B.weight": np.ones((1, 1), np.float32)}  # fmt: skip
    folder = tmp_path / "model"
    write(folder / "model.safetensors", {WEIGHT: np.full((1, 4), 256, np.float32)}, "BF16")
    fuse(folder, peft_adapter(tmp_path / "adapter", small, lora_alpha=1), tmp_path / "fused")
    assert values(tmp_path / "fused" / "model.safetensors", "BF16", 4).tolist() == [256, 258, 256, 256]


def test_rank_stabilized_lora_has_another_scale(tmp_path: Path) -> None:
    fuse(model(tmp_path / "model"), peft_adapter(tmp_path / "adapter", use_rslora=True), tmp_path / "fused")
    found = values(tmp_path / "fused" / "model.safetensors", "F32", 12).reshape(3, 4)
    assert found == pytest.approx(W + 4 / np.sqrt(2) * (B @ A))


ONE_HALF = {f"base_model.model.{MODULE}.lora_A.weight": A}


@pytest.mark.parametrize(
    ("name", "prepare", "error", "told"),
    [
        ("it is of another model", lambda home: model(home / "model", name="other.weight"), SourceUnsupportedError,
         f"changes {WEIGHT}, which the model has not"),
        ("a half is missing", lambda home: peft_adapter(home / "adapter", ONE_HALF), MalformedError, "lacks a half"),
        ("it is empty", lambda home: peft_adapter(home / "adapter", {}), MalformedError, "lacks a half of everything"),
        ("it is of DoRA", lambda home: peft_adapter(home / "adapter", use_dora=True), SourceUnsupportedError,
         "use_dora"),
        ("it is no LoRA", lambda home: peft_adapter(home / "adapter", peft_type="LOHA"), SourceUnsupportedError,
         "LOHA"),
        ("it has whole layers too", lambda home: peft_adapter(home / "adapter", {"lm_head.weight": W}),
         SourceUnsupportedError, "lm_head.weight, which is not LoRA's"),
        ("its shape is another", lambda home: peft_adapter(home / "adapter", {
            f"{MODULE}.lora_A.weight": A[:, :3], f"{MODULE}.lora_B.weight": B}), SourceUnsupportedError, "shape"),
        ("its halves do not fit", lambda home: peft_adapter(home / "adapter", {
            f"{MODULE}.lora_A.weight": A[:1], f"{MODULE}.lora_B.weight": B}), MalformedError, "does not fit"),
        ("its configuration is no JSON", lambda home: (home / "adapter" / "adapter_config.json").write_text("{"),
         MalformedError, "not JSON"),
        ("its weights are cut off", lambda home: (home / "adapter" / "adapter_model.safetensors").write_bytes(b"12"),
         MalformedError, "damaged"),
    ],
)  # fmt: skip
def test_it_is_refused_when(tmp_path: Path, name: str, prepare: Any, error: type[PipelineError], told: str) -> None:
    model(tmp_path / "model")
    peft_adapter(tmp_path / "adapter")
    prepare(tmp_path)
    with pytest.raises(error, match=told):
        fuse(tmp_path / "model", tmp_path / "adapter", tmp_path / "fused")


def reader(root: Path, name: str) -> SourceReader:
    """A folder of a volume."""
    return open_source(Source(uri=f"pvc://claim/{name}"), {"PVC_ROOT": str(root)})


def test_an_adapter_is_part_of_what_is_pinned(tmp_path: Path) -> None:
    model(tmp_path / "model")
    alone = resolve(reader(tmp_path, "model"))
    digests = {alone.resolved.digest}
    for alpha in (4, 8):
        peft_adapter(tmp_path / "adapter", lora_alpha=alpha, note="x" * alpha)
        pinned = AdapterFiles.of(reader(tmp_path, "adapter")).pinned(alone)
        digests.add(pinned.resolved.digest)
        assert pinned.resolved.bytes > alone.resolved.bytes
        assert pinned.resolved.adapter_revision == ""
        assert pinned.files == alone.files
    assert len(digests) == 3


def test_a_folder_that_is_no_adapter_is_refused(tmp_path: Path) -> None:
    model(tmp_path / "model")
    with pytest.raises(SourceUnsupportedError, match=r"adapter has no adapter_config\.json"):
        AdapterFiles.of(reader(tmp_path, "model"))


def test_an_adapter_is_read_with_credentials_of_its_own(tmp_path: Path) -> None:
    peft_adapter(tmp_path / "mine" / "adapter")
    source = Source(uri="s3://bucket/model", adapter=Adapter(uri="pvc://claim/adapter"))
    found = open_adapter(source, {"ADAPTER_PVC_ROOT": str(tmp_path / "mine"), "PVC_ROOT": str(tmp_path / "other")})
    assert found is not None
    assert [file.path for file in AdapterFiles.of(found).files] == ["adapter_config.json", "adapter_model.safetensors"]
    assert open_adapter(Source(uri="s3://bucket/model"), {}) is None


@pytest.fixture
def request_with_adapter(tmp_path: Path) -> JobRequest:
    """A Job's request for a model and an adapter on a volume."""
    model(tmp_path / "model")
    peft_adapter(tmp_path / "adapter")
    source = Source(uri="pvc://claim/model", adapter=Adapter(uri="pvc://claim/adapter"))
    resolved = AdapterFiles.of(reader(tmp_path, "adapter")).pinned(resolve(reader(tmp_path, "model"))).resolved
    how = Recipe(toolchain="mlx", toolchain_version="1", scheme="4bit")
    return JobRequest(key=artifact_key(resolved, how), source=source, resolved=resolved, recipe=how)


def fetched(request: JobRequest, home: Path) -> Path:
    """The folder that the Job would make its artifact of."""
    reporter = Reporter(lambda _: None)
    try:
        environ = {"PVC_ROOT": str(home), "ADAPTER_PVC_ROOT": str(home)}
        return fetch(request, environ, home / "sources" / "digest" / "model", reporter)
    finally:
        reporter.close()


def test_the_job_makes_its_artifact_of_the_fused_model(tmp_path: Path, request_with_adapter: JobRequest) -> None:
    for _ in range(2):  # a Job that was killed finds what it fetched
        found = fetched(request_with_adapter, tmp_path)
        assert (values(found / "model.safetensors", "F32", 12).reshape(3, 4) == W + 2 * (B @ A)).all()
        assert found.name == "model"


def test_the_job_refuses_an_adapter_that_has_changed(tmp_path: Path, request_with_adapter: JobRequest) -> None:
    peft_adapter(tmp_path / "adapter", lora_alpha=64, note="another")
    with pytest.raises(SourceChangedError, match="now has the digest"):
        fetched(request_with_adapter, tmp_path)
