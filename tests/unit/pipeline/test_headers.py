import contextlib
import json
import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgemodel.pipeline.errors import MalformedError, PipelineError, TruncatedError
from edgemodel.pipeline.headers import (
    Gguf,
    Weights,
    config_facts,
    index_files,
    read_config,
    read_gguf,
    read_safetensors,
)
from tests.unit.pipeline.models import CONFIG, LLAMA, TINYSAWYER, entry, gguf, llama_gguf, safetensors, text

TWO = (("a", "BF16", [4, 8], 64), ("b", "F32", [3], 12))


def _safetensors(data: bytes) -> Weights:
    return read_safetensors("model.safetensors", len(data), lambda start, size: data[start : start + size])


def _gguf(data: bytes) -> Gguf:
    return read_gguf("model.gguf", len(data), lambda start, size: data[start : start + size])


def test_safetensors_are_counted_by_type() -> None:
    weights = _safetensors(safetensors(*TWO))
    assert weights.parameters == 35
    assert weights.type == "BF16"


def test_tinysawyer_is_as_its_config_says() -> None:
    data = (TINYSAWYER / "model.safetensors").read_bytes()
    facts = config_facts(read_config((TINYSAWYER / "config.json").read_bytes()), _safetensors(data))
    # Embedding and output 2 x 1024 x 256; a block: q and o 2 x 256 x 256, k and v 2 x 256 x 128, three of the
    # feed-forward 256 x 768, two norms of 256; one more norm.
    block = 2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 768 + 2 * 256
    assert facts.parameters == 2 * 1024 * 256 + 4 * block + 256
    assert (facts.architecture, facts.layers, facts.kv_heads, facts.head_size) == ("LlamaForCausalLM", 4, 2, 64)
    assert (facts.hidden_size, facts.vocabulary, facts.context_length) == (256, 1024, 512)


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({"model_type": "bert", "max_position_embeddings": 512, "pad_token_id": 0}, 512),
        ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}, 512),
        ({"model_type": "xlm-roberta", "max_position_embeddings": 8194}, 8192),
        ({"model_type": "roberta"}, 0),
    ],
)
def test_the_context_has_the_positions_that_tokens_can_have(config: dict[str, object], length: int) -> None:
    facts = config_facts({"architectures": ["AModel"]} | config, _safetensors(safetensors(*TWO)))
    assert facts.context_length == length


def test_only_the_header_of_safetensors_is_read() -> None:
    data = safetensors(("a", "F16", [1 << 19], 1 << 20))
    read: list[tuple[int, int]] = []

    def reader(start: int, size: int) -> bytes:
        read.append((start, size))
        return data[start : start + size]

    read_safetensors("model.safetensors", len(data), reader)
    assert sum(size for _, size in read) <= 1 << 18


@pytest.mark.parametrize("missing", [1, 64, 100])
def test_a_truncated_safetensors_file_is_told(missing: int) -> None:
    data = safetensors(*TWO)[:-missing]
    with pytest.raises(TruncatedError, match="upload it again"):
        _safetensors(data)


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<Q", 1 << 40) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 1) + b"{",
        struct.pack("<Q", 60_000) + b"[" * 60_000,
        safetensors(("a", "F99", [4], 8)),
        safetensors(("a", "F16", [4], 9)),
        safetensors(("a", "F16", [-4], 8)),
        safetensors(("a", "F16", [2**40, 2**40], 8)),
        safetensors(("a", "F16", [1] * 99, 2)),
    ],
)
def test_a_damaged_safetensors_header_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        _safetensors(data)


def test_gguf_says_what_the_model_is() -> None:
    header = _gguf(llama_gguf())
    facts = header.facts()
    assert (facts.architecture, facts.parameters, facts.layers) == ("llama", 256, 3)
    assert (facts.kv_heads, facts.head_size, facts.hidden_size) == (1, 32, 64)
    assert (facts.vocabulary, facts.context_length) == (3, 128)
    assert header.text("general.license") == "apache-2.0"
    assert header.weights.type == "F16"


def test_long_lists_are_counted_not_kept() -> None:
    header = _gguf(gguf(LLAMA | {"tokenizer.ggml.tokens": ["x"] * 5000}, {}, 0))
    assert header.metadata["tokenizer.ggml.tokens"] == 5000


def test_quantized_blocks_are_counted_as_weights() -> None:
    header = _gguf(llama_gguf(kind=3, block=(32, 20)))
    assert header.weights.type == "Q4_1"
    assert header.weights.parameters == 256


@pytest.mark.parametrize("missing", [1, 500, 600])
def test_a_truncated_gguf_file_is_told(missing: int) -> None:
    with pytest.raises(TruncatedError, match="upload it again"):
        _gguf(llama_gguf()[:-missing])


@pytest.mark.parametrize(
    "data",
    [
        b"GGML" + bytes(60),
        b"GGUF" + struct.pack("<IQQ", 1, 0, 0),
        b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1 << 60),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<I", 99) + bytes(60),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 9,
        gguf({"general.alignment": 0}, {}, 0),
        gguf(LLAMA, {"t": ([64], 77, 0)}, 128),
        gguf(LLAMA, {"t": ([63], 3, 0)}, 128),
        gguf(LLAMA, {"t": ([2**40, 2**40], 1, 0)}, 128),
        gguf(LLAMA, {"t": ([1] * 9, 1, 0)}, 128),
    ],
)
def test_a_damaged_gguf_header_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        _gguf(data)


def test_gguf_without_an_architecture_is_malformed() -> None:
    with pytest.raises(MalformedError, match="architecture"):
        _gguf(gguf({}, {}, 0)).facts()


@settings(max_examples=300)
@given(st.binary(max_size=400))
@example(safetensors(*TWO))
def test_no_bytes_make_the_safetensors_reader_fail_otherwise(data: bytes) -> None:
    for candidate in (data, struct.pack("<Q", len(data)) + data):
        with contextlib.suppress(PipelineError):
            _safetensors(candidate)


@settings(max_examples=300)
@given(st.binary(max_size=400))
@example(llama_gguf())
def test_no_bytes_make_the_gguf_reader_fail_otherwise(data: bytes) -> None:
    for candidate in (data, b"GGUF" + data, b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + entry("k", 1) + data):
        with contextlib.suppress(PipelineError):
            _gguf(candidate).facts()


@settings(max_examples=300)
@given(st.integers(0, len(llama_gguf()) - 1), st.integers(0, 255))
def test_no_changed_byte_makes_the_gguf_reader_fail_otherwise(place: int, value: int) -> None:
    data = bytearray(llama_gguf())
    data[place] = value
    with contextlib.suppress(PipelineError):
        _gguf(bytes(data)).facts()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=200)
@given(st.dictionaries(st.sampled_from([*CONFIG, "text_config", "head_dim", "multi_query", "model_type"]), JSON))
def test_no_config_makes_the_reader_fail_otherwise(config: dict[str, object]) -> None:
    with contextlib.suppress(PipelineError):
        config_facts(read_config(json.dumps(config).encode()), Weights())


@settings(max_examples=200)
@given(JSON)
def test_no_tensor_entry_makes_the_reader_fail_otherwise(value: object) -> None:
    head = json.dumps({"a": value}).encode()
    with contextlib.suppress(PipelineError):
        _safetensors(struct.pack("<Q", len(head)) + head)


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b'{"weight_map": [1]}', b'{"weight_map": {"a": 1}}'])
def test_a_damaged_index_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        index_files(data)


def test_a_model_that_also_sees_is_described_by_its_text_part() -> None:
    config = {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": CONFIG}
    facts = config_facts(config, Weights())
    assert (facts.architecture, facts.layers) == ("Gemma3ForConditionalGeneration", 3)
