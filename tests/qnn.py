"""A real ONNX Runtime with QNN for tests: the packages of both its images, a model that its simulator runs quickly, and
what becomes of that.

Import `qnn`, `qnn_source` and `qnn_turned` into a conftest to use them.
"""

import json
import struct
from pathlib import Path
from string import ascii_lowercase, digits
from typing import Any

import numpy as np
import pytest

from tests.packages import Packages, installed

WIDTH, LAYERS, HEADS, CONTEXT = 64, 2, 4, 64
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_CHARACTERS = (*ascii_lowercase, *digits, *"-',.;:!?()\"")
VOCABULARY = (*_SPECIAL, *_CHARACTERS, *(f"##{character}" for character in _CHARACTERS))


@pytest.fixture(scope="session")
def qnn() -> Packages:
    """ONNX Runtime and QNN."""
    return Packages(installed("qnn", "qnn.txt", "qnn-serve.txt"))


@pytest.fixture(scope="session")
def qnn_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of a hundred thousand parameters, drawn at random, that reads letter by letter: a folder as
    sentence-transformers keeps it."""
    return write_bert(tmp_path_factory.mktemp("bert") / "model")


@pytest.fixture(scope="session")
def qnn_turned(
    qnn: Packages, qnn_source: Path, minilm: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What `engines/qnn_turn.py` says of that model, and of MiniLM."""
    script = Path(__file__).parent / "engines" / "qnn_turn.py"
    done = qnn.run(script, qnn_source, minilm, tmp_path_factory.mktemp("qnn"))
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def write_bert(folder: Path) -> Path:
    """Writes that model."""
    (folder / "1_Pooling").mkdir(parents=True)
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "max_position_embeddings": CONTEXT,
        "type_vocab_size": 2,
        "vocab_size": len(VOCABULARY),
        "pad_token_id": 0,
    }
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    pooling = {"word_embedding_dimension": WIDTH, "pooling_mode_mean_tokens": True}
    for name, content in {
        "config.json": config,
        "modules.json": modules,
        "1_Pooling/config.json": pooling,
        "tokenizer.json": _tokenizer(),
        "tokenizer_config.json": {"tokenizer_class": "BertTokenizer", "model_max_length": CONTEXT},
    }.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "model.safetensors").write_bytes(_safetensors(_shapes()))
    return folder


def _tokenizer() -> dict[str, object]:
    ends = [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"SpecialToken": {"id": "[SEP]", "type_id": 0}}]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": number, "content": token, "special": True}
            | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
            for number, token in enumerate(_SPECIAL)
        ],
        "normalizer": {"type": "BertNormalizer"}
        | {"clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [ends[0], {"Sequence": {"id": "A", "type_id": 0}}, ends[1]],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {
                token: {"id": token, "ids": [VOCABULARY.index(token)], "tokens": [token]}
                for token in ("[CLS]", "[SEP]")
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {token: number for number, token in enumerate(VOCABULARY)},
        },
    }


def _shapes() -> dict[str, tuple[int, ...]]:
    def dense(name: str, inside: int, outside: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (outside, inside), f"{name}.bias": (outside,)}

    def norm(name: str) -> dict[str, tuple[int, ...]]:
        return {f"{name}.LayerNorm.weight": (WIDTH,), f"{name}.LayerNorm.bias": (WIDTH,)}

    shapes = {
        "embeddings.word_embeddings.weight": (len(VOCABULARY), WIDTH),
        "embeddings.position_embeddings.weight": (CONTEXT, WIDTH),
        "embeddings.token_type_embeddings.weight": (2, WIDTH),
        **norm("embeddings"),
    }
    for number in range(LAYERS):
        layer = f"encoder.layer.{number}"
        for part in ("query", "key", "value"):
            shapes |= dense(f"{layer}.attention.self.{part}", WIDTH, WIDTH)
        shapes |= dense(f"{layer}.attention.output.dense", WIDTH, WIDTH) | norm(f"{layer}.attention.output")
        shapes |= dense(f"{layer}.intermediate.dense", WIDTH, 2 * WIDTH)
        shapes |= dense(f"{layer}.output.dense", 2 * WIDTH, WIDTH) | norm(f"{layer}.output")
    return shapes


def _safetensors(shapes: dict[str, tuple[int, ...]]) -> bytes:
    drawn = np.random.default_rng(7)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, shape in shapes.items():
        value = drawn.standard_normal(shape) * (0.5 if "embeddings" in name else shape[-1] ** -0.5)
        if name.endswith("LayerNorm.weight"):
            value = 1 + value / 10
        values = value.astype("<f4").tobytes()
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    head = json.dumps(header).encode()
    return struct.pack("<Q", len(head)) + head + data
