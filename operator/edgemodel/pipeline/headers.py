"""Models as their headers describe them: safetensors, GGUF and config.json, read by ranges, not one weight among them.

Every number comes from a file that a stranger wrote. So all lengths are bounded before they are used, offsets are held
against the file's size, and whatever arrives, only `PipelineError`s leave.
"""

import json
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

from edgemodel.api.artifact import ModelFacts
from edgemodel.pipeline.errors import MalformedError, TruncatedError

Read = Callable[[int, int], bytes]
"""Reads `size` bytes from `start` of a file."""

MAX_SAFETENSORS_HEADER = 16 << 20
MAX_GGUF_HEADER = 64 << 20
MAX_TENSORS = 1 << 20
MAX_METADATA = 1 << 16
MAX_STRING = 16 << 20
MAX_DEPTH = 4
MAX_DIMENSIONS = 8
MAX_COUNT = 1 << 50
"""More elements than any tensor has."""

_SAFETENSORS_BITS = {
    "F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32,
    "F16": 16, "BF16": 16, "I16": 16, "U16": 16, "I8": 8, "U8": 8, "BOOL": 8,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip

_GGUF_TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18), 42: ("Q2_0", 64, 18),
}  # fmt: skip
"""Number -> name, elements of a block, bytes of a block."""

UNQUANTIZED = {"F64", "F32", "F16", "BF16"}

_GGUF_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_GGUF_STRING, _GGUF_ARRAY = 8, 9


@dataclass
class Weights:
    """The weights of one or more files, counted."""

    elements: Counter[str] = field(default_factory=Counter)
    """Elements of each type."""

    @property
    def parameters(self) -> int:
        """All elements."""
        return self.elements.total()

    @property
    def type(self) -> str:
        """The type of most of them."""
        return self.elements.most_common(1)[0][0] if self.elements else ""

    def add(self, other: "Weights") -> None:
        """Counts another file's too."""
        self.elements += other.elements


def read_safetensors(name: str, size: int, read: Read) -> Weights:
    """The weights of a safetensors file of `size` bytes."""
    if size < 8:
        raise TruncatedError(f"{name} has {size} bytes, less than a safetensors header: upload it again")
    head = read(0, min(size, 1 << 18))
    (length,) = struct.unpack_from("<Q", head)
    if length > MAX_SAFETENSORS_HEADER:
        raise MalformedError(f"{name} claims a header of {length} bytes: it is no safetensors file")
    if 8 + length > size:
        raise TruncatedError(f"{name} has {size} bytes, but its header alone has {8 + length}: upload it again")
    head = head[8 : 8 + length]
    tensors = _json(name, head + read(8 + len(head), length - len(head)) if len(head) < length else head)
    weights, end = Weights(), 0
    for tensor, entry in tensors.items():
        if tensor == "__metadata__":
            continue
        match entry:
            case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(start), int(stop)]} if (
                dtype in _SAFETENSORS_BITS and _is_shape(shape)
            ):
                count = prod(shape)
                if not 0 <= start <= stop or (stop - start) * 8 != count * _SAFETENSORS_BITS[dtype]:
                    raise MalformedError(f"{name}: a tensor's offsets do not fit its shape: it is damaged")
                weights.elements[dtype] += count
                end = max(end, stop)
            case _:
                raise MalformedError(
                    f"{name}: a tensor's entry in the header is not as safetensors has it: it is damaged"
                )
    _whole(name, size, 8 + length + end)
    return weights


@dataclass
class Gguf:
    """The header of a GGUF file."""

    metadata: dict[str, Any]
    """Scalars, strings and short lists of them. Of a long list, only its length."""
    weights: Weights
    tensors: dict[str, tuple[str, list[int], int, int]]
    """Name -> type, dimensions, start in the file, bytes."""

    def text(self, key: str) -> str:
        """A string of the metadata, or nothing."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else ""

    def number(self, key: str) -> int:
        """A count of the metadata: 0 if it is not there, the largest if there is one for each layer."""
        value = self.metadata.get(key)
        return max((_number(each) for each in value), default=0) if isinstance(value, list) else _number(value)

    def facts(self) -> ModelFacts:
        """What it says of the model."""
        architecture = self.text("general.architecture")
        if not architecture:
            raise MalformedError("the GGUF file names no architecture: convert it again with a current llama.cpp")

        def of(key: str) -> int:
            return self.number(f"{architecture}.{key}")

        heads, hidden = of("attention.head_count"), of("embedding_length")
        return ModelFacts(
            architecture=architecture[:256],
            parameters=self.weights.parameters,
            layers=of("block_count"),
            kv_heads=of("attention.head_count_kv") or heads,
            head_size=of("attention.key_length") or (hidden // heads if heads else 0),
            hidden_size=hidden,
            vocabulary=of("vocab_size") or self.number("tokenizer.ggml.tokens"),
            context_length=of("context_length"),
        )


def read_gguf(name: str, size: int, read: Read) -> Gguf:
    """The header of a GGUF file of `size` bytes."""
    cursor = _Cursor(name, size, read)
    if cursor.take(4) != b"GGUF":
        raise MalformedError(f"{name} is no GGUF file")
    version, tensor_count, metadata_count = cursor.unpack("<IQQ")
    if version not in (2, 3):
        raise MalformedError(f"{name} is GGUF of version {version}: convert it again with a current llama.cpp")
    if tensor_count > MAX_TENSORS or metadata_count > MAX_METADATA:
        raise MalformedError(f"{name} claims {tensor_count} tensors and {metadata_count} entries: it is damaged")
    metadata = {}
    for _ in range(metadata_count):
        key = cursor.string()
        metadata[key] = cursor.value(cursor.number("I"))
    infos = []
    for _ in range(tensor_count):
        tensor, dimensions = cursor.string(), cursor.number("I")
        if dimensions > MAX_DIMENSIONS:
            raise MalformedError(f"{name}: a tensor has {dimensions} dimensions: it is damaged")
        shape = [cursor.number("Q") for _ in range(dimensions)]
        infos.append((tensor, shape, cursor.number("I"), cursor.number("Q")))
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20:
        raise MalformedError(f"{name}: its alignment is none: it is damaged")
    data = -(-cursor.position // alignment) * alignment
    gguf, end = Gguf(metadata, Weights(), {}), cursor.position
    for tensor, shape, number, offset in infos:
        if number not in _GGUF_TYPES:
            raise MalformedError(f"{name}: weights of type {number}, which is not known here")
        kind, block, block_bytes = _GGUF_TYPES[number]
        count = prod(shape)
        if not _is_shape(shape) or count % block:
            raise MalformedError(f"{name}: a tensor's shape does not fit its type: it is damaged")
        start, length = data + offset, count // block * block_bytes
        gguf.tensors[tensor] = kind, shape, start, length
        gguf.weights.elements[kind] += count
        end = max(end, start + length)
    _whole(name, size, end)
    return gguf


def config_facts(config: Mapping[str, Any], weights: Weights) -> ModelFacts:
    """What config.json and the weights say of the model."""
    names = config.get("architectures")
    architecture = names[0] if isinstance(names, list) and names else config.get("model_type")
    if not isinstance(architecture, str) or not architecture:
        raise MalformedError("config.json names no architecture: the source is no whole model")
    text = config.get("text_config")
    if isinstance(text, dict):  # of a model that also sees or hears
        config = text

    def of(*keys: str) -> int:
        return next(filter(None, (_number(config.get(key)) for key in keys)), 0)

    heads, hidden = of("num_attention_heads", "n_head", "n_heads"), of("hidden_size", "n_embd", "d_model", "dim")
    shared = 1 if config.get("multi_query") is True else 0
    return ModelFacts(
        architecture=architecture[:256],
        parameters=weights.parameters,
        layers=of("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
        kv_heads=of("num_key_value_heads", "num_kv_heads", "n_kv_heads") or shared or heads,
        head_size=of("head_dim") or (hidden // heads if heads else 0),
        hidden_size=hidden,
        vocabulary=of("vocab_size", "padded_vocab_size"),
        context_length=max(0, of(*_POSITIONS) - _positions_lost(config)),
    )


_POSITIONS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length")
_COUNT_AFTER_PADDING = {"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "data2vec-text", "longformer"}


def _positions_lost(config: Mapping[str, Any]) -> int:
    """Positions that no token has: these models give their first token the one after the padding's id."""
    after_padding = str(config.get("model_type")) in _COUNT_AFTER_PADDING
    return 1 + _number(config.get("pad_token_id", 1)) if after_padding else 0


def read_config(data: bytes) -> dict[str, Any]:
    """config.json."""
    return _json("config.json", data)


def index_files(data: bytes) -> set[str]:
    """The weight files that a model.safetensors.index.json names."""
    places = _json("model.safetensors.index.json", data).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(place, str) for place in places.values()):
        raise MalformedError("model.safetensors.index.json has no weight_map: it is damaged")
    return set(places.values())


class _Cursor:
    """Reads a file forwards, ahead of what is asked for."""

    _AHEAD = 1 << 20

    def __init__(self, name: str, size: int, read: Read) -> None:
        self.position = 0
        self._name = name
        self._size = size
        self._read = read
        self._buffer = b""
        self._start = 0

    def take(self, count: int) -> bytes:
        if self.position + count > self._size:
            raise TruncatedError(f"{self._name} ends inside its header, after {self._size} bytes: upload it again")
        if self.position + count > MAX_GGUF_HEADER:
            raise MalformedError(f"{self._name} has a header of more than {MAX_GGUF_HEADER} bytes: it is damaged")
        if self.position + count > self._start + len(self._buffer):
            self._buffer = self._read(self.position, min(max(count, self._AHEAD), self._size - self.position))
            self._start = self.position
        offset = self.position - self._start
        self.position += count
        return self._buffer[offset : offset + count]

    def unpack(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))

    def number(self, letter: str) -> int:
        return int(self.unpack(f"<{letter}")[0])

    def string(self) -> str:
        length = self.number("Q")
        if length > MAX_STRING:
            raise MalformedError(f"{self._name} has a string of {length} bytes: it is damaged")
        return self.take(length).decode("utf-8", "replace")

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind == _GGUF_STRING:
            return self.string()
        if kind in _GGUF_SCALARS:
            return self.unpack(f"<{_GGUF_SCALARS[kind]}")[0]
        if kind != _GGUF_ARRAY or depth == MAX_DEPTH:
            raise MalformedError(f"{self._name} has a value of type {kind}: it is damaged")
        inner, count = self.number("I"), self.number("Q")
        if inner in _GGUF_SCALARS and count > 4096:
            left = count * struct.calcsize(_GGUF_SCALARS[inner])
            if self.position + left > min(self._size, MAX_GGUF_HEADER):
                raise TruncatedError(f"{self._name} ends inside its header: upload it again")
            self.position += left
            return count
        short = count <= 4096
        values = []
        for _ in range(count):
            value = self.value(inner, depth + 1)
            if short:
                values.append(value)
        return values if short and inner != _GGUF_STRING else count


def _json(name: str, data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise MalformedError(f"{name} is no JSON: it is damaged") from None
    if not isinstance(value, dict):
        raise MalformedError(f"{name} is no JSON object: it is damaged")
    return value


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT


def _is_shape(shape: list[Any]) -> bool:
    return len(shape) <= MAX_DIMENSIONS and all(map(_is_size, shape)) and _is_size(prod(shape))


def _number(value: object) -> int:
    return value if isinstance(value, int) and _is_size(value) else 0


def _whole(name: str, size: int, needed: int) -> None:
    if size < needed:
        raise TruncatedError(f"{name} has {size} of {needed} bytes: upload it again")


def combined(parts: Iterable[Weights]) -> Weights:
    """The weights of several files together."""
    weights = Weights()
    for part in parts:
        weights.add(part)
    return weights
