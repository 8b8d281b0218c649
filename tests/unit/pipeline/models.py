"""Tiny models in both formats, made byte by byte as the formats' descriptions have it."""

import json
import re
import shutil
import struct
from pathlib import Path
from typing import Any

TINYSAWYER = Path(__file__).parents[2] / "fixtures" / "tinysawyer-hf"

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 8,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_hidden_layers": 3,
    "vocab_size": 5,
    "max_position_embeddings": 64,
}


def safetensors(*tensors: tuple[str, str, list[int], int], size_of_data: int | None = None) -> bytes:
    """A file with tensors of (name, type, shape, bytes)."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, dtype, shape, size in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    head = json.dumps(header).encode()
    return struct.pack("<Q", len(head)) + head + bytes(end if size_of_data is None else size_of_data)


def first_block(folder: Path) -> Path:
    """Makes a folder with tinysawyer's first block, a third as wide between the matrices of its MLP: it has every kind
    of tensor, and an eighth of the weights that are slow to make."""
    width = 256
    model = Path(shutil.copytree(TINYSAWYER, folder))
    config = json.loads((model / "config.json").read_text())
    config |= {"num_hidden_layers": 1, "intermediate_size": width}
    (model / "config.json").write_text(json.dumps(config))
    weights = model / "model.safetensors"
    whole = weights.read_bytes()
    (size,) = struct.unpack_from("<Q", whole)
    tensors = json.loads(whole[8 : 8 + size])
    header, data = {"__metadata__": tensors.pop("__metadata__")}, b""
    for name, tensor in tensors.items():
        if re.search(r"\.layers\.[1-9]", name):
            continue
        start, end = tensor["data_offsets"]
        kept = whole[8 + size + start : 8 + size + end]
        row = len(kept) // tensor["shape"][0]
        if name.endswith(("gate_proj.weight", "up_proj.weight")):
            kept, tensor["shape"][0] = kept[: width * row], width
        elif name.endswith("down_proj.weight"):
            narrow = width * row // tensor["shape"][1]
            kept = b"".join(kept[at : at + narrow] for at in range(0, len(kept), row))
            tensor["shape"][1] = width
        header[name] = tensor | {"data_offsets": [len(data), len(data) + len(kept)]}
        data += kept
    head = json.dumps(header).encode()
    weights.write_bytes(struct.pack("<Q", len(head)) + head + data)
    return model


def text(value: str) -> bytes:
    """A string as GGUF has it."""
    return struct.pack("<Q", len(value)) + value.encode()


def entry(key: str, value: str | int | bool | list[str]) -> bytes:
    """A metadata entry as GGUF has it."""
    match value:
        case bool():
            return text(key) + struct.pack("<I?", 7, value)
        case int():
            return text(key) + struct.pack("<II", 4, value)
        case str():
            return text(key) + struct.pack("<I", 8) + text(value)
    return text(key) + struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))


def gguf(
    metadata: dict[str, str | int | bool | list[str]], tensors: dict[str, tuple[list[int], int, int]], data: int
) -> bytes:
    """A file with tensors name -> (shape, number of the type, offset) and so many bytes of data."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    head += b"".join(entry(key, value) for key, value in metadata.items())
    for name, (shape, kind, offset) in tensors.items():
        head += text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape) + struct.pack("<IQ", kind, offset)
    return head + bytes(-len(head) % 32) + bytes(data)


LLAMA: dict[str, str | int | bool | list[str]] = {
    "general.architecture": "llama",
    "general.license": "apache-2.0",
    "llama.block_count": 3,
    "llama.attention.head_count": 2,
    "llama.attention.head_count_kv": 1,
    "llama.embedding_length": 64,
    "llama.context_length": 128,
    "tokenizer.ggml.tokens": ["a", "b", "c"],
}


def llama_gguf(kind: int = 1, block: tuple[int, int] = (1, 2)) -> bytes:
    """A GGUF file with one matrix of 64 x 4 of a type."""
    size = 256 // block[0] * block[1]
    return gguf(LLAMA, {"blk.0.attn_q.weight": ([64, 4], kind, 0)}, size)
