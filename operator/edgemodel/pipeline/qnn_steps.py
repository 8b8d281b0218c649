"""What ONNX Runtime and QNN do for the pipeline, in the steps `convert`, `quantize`, `compile` and `evaluate`."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime_qnn.build_and_package_info import qnn_version
from tokenizers import Tokenizer

from edgemodel.core.snapdragons import SNAPDRAGONS, soc_of
from edgemodel.pipeline.embeddings import Pooling, calibration_passages, compare_embeddings, held_out_passages
from edgemodel.pipeline.errors import SourceUnsupportedError, UnsupportedArchitectureError
from edgemodel.pipeline.pretrained import Pretrained, refuse_without_tokenizer
from edgemodel.pipeline.qnn_schemes import SCHEMES, Node, tensor_types
from edgemodel.pipeline.steps import tell
from edgemodel.serve.engine import EngineSettings
from edgemodel.serve.qnn import QnnEmbedder, use_htp
from edgemodel.serve.qnn_artifact import (
    CONTEXT,
    DESCRIPTION,
    EMBEDDING,
    IDS,
    MASK,
    MASKED,
    MODEL,
    POOLING,
    TOKENIZER,
    Description,
    inputs,
)

EVALUATED = 16
"""Passages that are judged by: QNN's simulator takes seconds for each."""
LONGEST = 512
"""Tokens of a text, at the most: what is compiled has one shape, and every text takes as long as the longest."""

_OPSET = 20
"""The first with Gelu as one operation, and the last that torch's exporter writes without `torch.export`."""
_THOROUGHLY = "3"
_PARTS = 4
"""Of some passages, only a half, a third or a fourth is calibrated on: texts come in every length."""


class _Passages:
    """What is calibrated on, as the quantizer asks for it."""

    def __init__(self, feeds: Iterator[dict[str, NDArray[Any]]]) -> None:
        self._feeds = feeds

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self._feeds, None)


def convert(source: str, full: str) -> None:
    """The model in the folder `source` in floats, as ONNX of one shape, in the file `full`."""
    import torch

    pretrained = Pretrained.at(Path(source))
    _know(pretrained)
    model = pretrained.load_encoder()

    class Embedder(torch.nn.Module):  # type: ignore[misc]  # torch is not installed where types are checked
        def __init__(self) -> None:
            super().__init__()
            self.model = model.eval()

        def forward(self, ids: torch.Tensor, mask: torch.Tensor, pooling: torch.Tensor) -> torch.Tensor:
            states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
            return torch.matmul(pooling, states)

    example = inputs([3, 2, 1], _length(pretrained), "mean")
    tensors = {name: torch.from_numpy(value) for name, value in example.items()}
    embedder = Embedder()
    with torch.no_grad():
        known = embedder(tensors[IDS], (tensors[MASK][0, 0] == 0).long(), tensors[POOLING])
        if not torch.allclose(embedder(*tensors.values()), known, atol=1e-3):
            raise UnsupportedArchitectureError("the model does not look at a text's tokens alike: use another model")
    exported = Path(full).with_suffix(".exported")
    torch.onnx.export(
        embedder,
        tuple(tensors.values()),
        str(exported),
        input_names=list(tensors),
        output_names=[EMBEDDING],
        opset_version=_OPSET,
        dynamo=False,
    )
    _fold(exported, full)
    exported.unlink()


def quantize(source: str, full: str, folder: str, scheme_name: str) -> None:
    """The model in the file `full` in the scheme, with its tokenizer, into `folder`."""
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization import quantize as quantize_model
    from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config

    pretrained, scheme = Pretrained.at(Path(source)), SCHEMES[scheme_name]
    model = onnx.load(full)
    tokenizer = _tokenizer(pretrained, Path(folder))

    def typed(options: dict[str, Any]) -> dict[str, Any]:
        within = {"convert": typed(options["convert"])} if "convert" in options else {}
        return options | within | {"quant_type": QuantType[options["quant_type"]]}

    nodes = [Node(node.op_type, tuple(node.input), tuple(node.output)) for node in model.graph.node]
    weights = {weight.name for weight in model.graph.initializer}
    types = tensor_types(scheme, nodes, weights)
    for name, lowest, highest in ((MASK, MASKED, 0.0), (POOLING, 0.0, 1.0)):
        types[name] |= {"rmin": np.float32(lowest), "rmax": np.float32(highest)}
    config = get_qnn_qdq_config(
        full,
        _Passages(_feeds(pretrained, tokenizer, calibration_passages())),
        activation_type=QuantType.QUInt16 if scheme.activations == 16 else QuantType.QUInt8,
        weight_type=QuantType.QUInt8,
        init_overrides={name: [typed(options)] for name, options in types.items()},
    )
    config.extra_options["UseQDQContribOps"] = True  # ONNX itself has 16 bits only in newer opsets
    quantize_model(full, str(Path(folder, MODEL)), config)


def compile(source: str, folder: str, target: str) -> None:
    """What the target's HTP runs, of the quantized model in `folder`, into the same folder."""
    pretrained, soc = Pretrained.at(Path(source)), soc_of(target)
    snapdragon = SNAPDRAGONS[soc]
    options = onnxruntime.SessionOptions()
    asked = {"soc_model": str(snapdragon.model), "htp_arch": snapdragon.htp.removeprefix("v")}
    use_htp(options, asked | {"htp_graph_finalization_optimization_mode": _THOROUGHLY})
    options.add_session_config_entry("ep.context_enable", "1")
    options.add_session_config_entry("ep.context_file_path", CONTEXT)
    options.add_session_config_entry("ep.context_embed_mode", "0")
    os.chdir(folder)  # the path becomes part of what is compiled
    onnxruntime.InferenceSession(MODEL, options)
    pooling = Pooling.read(pretrained.folder)
    description = Description(
        length=_length(pretrained),
        pooling=pooling.mode,
        normalize=pooling.normalize,
        soc=soc,
        soc_model=snapdragon.model,
        htp_architecture=snapdragon.htp,
        qnn_sdk=qnn_version,
    )
    Path(DESCRIPTION).write_text(description.model_dump_json(by_alias=True, indent=1) + "\n")


def evaluate(full: str, folder: str, threads: str) -> str:
    """The artifact on the HTP's simulator beside the unquantized model. The result is the quality report."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(threads)
    session = onnxruntime.InferenceSession(full, options, ["CPUExecutionProvider"])
    description = Description.read(Path(folder))
    engine = QnnEmbedder(EngineSettings(Path(folder), description.length, parallel=1, threads=int(threads)))
    baseline, artifact, tokens = [], [], 0
    passages = held_out_passages()[:EVALUATED]
    for number, passage in enumerate(passages, 1):
        text = engine.encode(passage)[: description.length]
        feed = inputs(text, description.length, description.pooling)
        baseline.append(session.run([EMBEDDING], feed)[0].ravel().tolist())
        artifact += engine.embed([text])
        tokens += len(text)
        tell(number / len(passages))
    engine.close()
    return compare_embeddings(baseline, artifact, tokens).model_dump_json()


def _know(pretrained: Pretrained) -> None:
    """Refuses a model that `transformers` does not know as one that reads text, or that is quantized already."""
    from transformers import AutoConfig

    if pretrained.config.get("quantization_config"):
        raise SourceUnsupportedError("the model is quantized already: name its unquantized repository")
    (name, *_) = pretrained.config.get("architectures") or [pretrained.config.get("model_type")]
    try:
        config = AutoConfig.from_pretrained(pretrained.folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, KeyError):
        config = None
    if config is None or config.is_encoder_decoder:
        raise UnsupportedArchitectureError(f"the architecture {name} cannot be converted: use another model")


def _length(pretrained: Pretrained) -> int:
    """Tokens that a text has once it is padded."""
    return min(pretrained.context_length or LONGEST, LONGEST)


def _fold(exported: Path, target: str) -> None:
    """Works out beforehand what does not depend on the inputs: most of what is not the model's own arithmetic. Sums
    stay apart from matrices, whose ranges of channels QNN takes only so."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = target
    onnxruntime.InferenceSession(
        str(exported), options, ["CPUExecutionProvider"], disabled_optimizers=["MatMulAddFusion"]
    )


def _tokenizer(pretrained: Pretrained, folder: Path) -> Tokenizer:
    """The model's tokenizer, which is put into the folder too."""
    refuse_without_tokenizer(pretrained.folder)
    tokenizer = Tokenizer.from_file(str(shutil.copyfile(pretrained.folder / TOKENIZER, folder / TOKENIZER)))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _feeds(pretrained: Pretrained, tokenizer: Tokenizer, passages: list[str]) -> Iterator[dict[str, NDArray[Any]]]:
    length, pooling = _length(pretrained), Pooling.read(pretrained.folder)
    for number, passage in enumerate(passages, 1):
        part = passage[: len(passage) // (1 + number % _PARTS)]
        yield inputs(tokenizer.encode(part).ids[:length], length, pooling.mode)
        tell(0.8 * number / len(passages))
