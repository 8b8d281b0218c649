"""What OpenVINO's Python packages do for the pipeline, in the steps `convert`, `quantize`, `remember` and `compare`."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemodel.api.base import Task
from edgemodel.pipeline import quality, texts
from edgemodel.pipeline.cpus import threads
from edgemodel.pipeline.embeddings import Pooling
from edgemodel.pipeline.errors import SourceUnsupportedError, UnsupportedArchitectureError
from edgemodel.pipeline.openvino_schemes import SCHEMES
from edgemodel.pipeline.pretrained import Pretrained, refuse_without_tokenizer
from edgemodel.pipeline.steps import tell
from edgemodel.serve.padding import feed, padded

MODEL = "openvino_model.xml"
CALIBRATION_TOKENS = 8192

_EXPORTS: dict[Task, str] = {"TextGeneration": "text-generation-with-past", "Embeddings": "feature-extraction"}
"""What OpenVINO's exporter calls our tasks."""
_DETOKENIZER = "openvino_detokenizer.xml"

_GRAPH = """\
input_stream: "HTTP_REQUEST_PAYLOAD:input"
output_stream: "HTTP_RESPONSE_PAYLOAD:output"
node {
  name: "LLMExecutor"
  calculator: "HttpLLMCalculator"
  input_side_packet: "LLM_NODE_RESOURCES:llm"
  input_stream: "HTTP_REQUEST_PAYLOAD:input"
  input_stream: "LOOPBACK:loopback"
  input_stream_info { tag_index: "LOOPBACK:0" back_edge: true }
  output_stream: "HTTP_RESPONSE_PAYLOAD:output"
  output_stream: "LOOPBACK:loopback"
  input_stream_handler {
    input_stream_handler: "SyncSetInputStreamHandler"
    options {
      [mediapipe.SyncSetInputStreamHandlerOptions.ext] { sync_set { tag_index: "LOOPBACK:0" } }
    }
  }
  node_options {
    [type.googleapis.com/mediapipe.LLMCalculatorOptions] { models_path: "./" }
  }
}
"""
"""graph.pbtxt, by which OpenVINO Model Server serves a folder as a language model; all options are its defaults."""

_EMBEDDINGS_GRAPH = """\
input_stream: "REQUEST_PAYLOAD:input"
output_stream: "RESPONSE_PAYLOAD:output"
node {
  name: "EmbeddingsExecutor"
  calculator: "EmbeddingsCalculatorOV"
  input_side_packet: "EMBEDDINGS_NODE_RESOURCES:embeddings_servable"
  input_stream: "REQUEST_PAYLOAD:input"
  output_stream: "RESPONSE_PAYLOAD:output"
  node_options {
    [type.googleapis.com/mediapipe.EmbeddingsCalculatorOVOptions] { models_path: "./" }
  }
}
"""
"""The same for a model that embeds: how it pools, the server reads in the folder's `1_Pooling/config.json`."""

_EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
"""Nothing is rounded but the weights. By itself OpenVINO rounds activations too, on each kind of CPU in another way."""


def convert(source: str, target: str, windows: str, task: Task = "TextGeneration") -> None:
    """The model in the folder `source` as OpenVINO has it, in FP16, with all that a server needs, in the folder
    `target`; and the texts as this model reads them, in the file `windows`."""
    import torch
    from optimum.exporters.openvino import export_from_model
    from optimum.exporters.openvino.convert import export_tokenizer
    from optimum.intel.openvino import OVConfig
    from transformers import AutoModel, AutoModelForCausalLM

    folder = Path(target)
    pretrained = Pretrained.at(Path(source))
    embeds = task == "Embeddings"
    pooling = Pooling.read(pretrained.folder) if embeds else None
    _know(pretrained.config, task)
    tokenizer = pretrained.tokenizer()
    model = pretrained.load(AutoModel if embeds else AutoModelForCausalLM, dtype=torch.float16)
    tell(0.2)
    export_from_model(
        model,
        folder,
        task=_EXPORTS[task],
        ov_config=OVConfig(dtype="fp16"),
        preprocessors=[tokenizer],
        patch_16bit_model=True,
    )
    tell(0.9)
    export_tokenizer(tokenizer, folder, task=_EXPORTS[task])
    if not (folder / _DETOKENIZER).exists():
        raise UnsupportedArchitectureError("OpenVINO Tokenizers does not know the model's tokenizer: use another model")
    refuse_without_tokenizer(folder)
    (folder / "graph.pbtxt").write_text(_EMBEDDINGS_GRAPH if embeds else _GRAPH)
    if pooling:
        pooling.write(folder)
        read = {"calibration": pretrained.calibration_passages()}
    else:
        read = {
            "calibration": pretrained.calibration_windows(CALIBRATION_TOKENS),
            "held out": pretrained.held_out_windows(),
        }
    Path(windows).write_text(json.dumps(read))


def quantize(full: str, target: str, scheme_name: str, windows: str) -> None:
    """The model in the folder `full` in the scheme, into the folder `target`."""
    import nncf
    import openvino

    scheme = SCHEMES[scheme_name]
    model = openvino.Core().read_model(Path(full, MODEL))
    options: dict[str, Any] = {}
    if scheme.calibrated:
        inputs = _names(model)
        calibration = json.loads(Path(windows).read_text())["calibration"]
        options["dataset"] = nncf.Dataset(calibration, lambda window: feed(*padded([window]), inputs))
        options["subset_size"] = len(calibration)
        options["awq"] = scheme.awq
        options["scale_estimation"] = scheme.scale_estimation
    model = nncf.compress_weights(
        model,
        mode=nncf.CompressWeightsMode[str(scheme.mode)],
        group_size=scheme.group_size,
        ratio=scheme.ratio,
        advanced_parameters=nncf.AdvancedCompressionParameters(
            group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST
        ),
        **options,
    )
    if model.has_rt_info("runtime_options"):
        options = model.get_rt_info("runtime_options").value
        options.pop("KV_CACHE_PRECISION", None)  # what the exporter asks for where weights have 16 bits
        model.set_rt_info(options, "runtime_options")
    _number_anew(model)
    openvino.save_model(model, Path(target, MODEL), compress_to_fp16=False)


def remember(folder: str, windows: str, logits: str) -> str:
    """Writes what the unquantized model predicts. The result is its perplexity."""
    return str(quality.remember(predictor(folder), _held_out(windows), Path(logits), tell))


def compare(folder: str, windows: str, logits: str, baseline: str) -> str:
    """The quantized model beside what `remember` wrote. The result is the quality report."""
    digest = texts.digest(texts.held_out_text())
    report = quality.compare(predictor(folder), _held_out(windows), Path(logits), float(baseline), digest, tell)
    return report.model_dump_json()


def _know(config: dict[str, Any], task: Task) -> None:
    """Refuses a model that is none of the task's to transformers, or one that OpenVINO's exporter does not know."""
    if config.get("quantization_config"):
        raise SourceUnsupportedError("the model is quantized already: name its unquantized repository")

    from optimum.exporters.tasks import TasksManager
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_MAPPING_NAMES

    kind = str(config.get("model_type"))
    name = str((config.get("architectures") or [kind])[0])
    try:
        tasks = TasksManager.get_supported_tasks_for_model_type(kind, "openvino", library_name="transformers")
    except KeyError:
        tasks = {}
    if task == "Embeddings":  # the states of any model can be pooled, whatever head it has
        what, known = "a model that embeds", kind in MODEL_MAPPING_NAMES
    else:
        heads = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind, ())
        what, known = "a language model", name in ((heads,) if isinstance(heads, str) else heads)
    if _EXPORTS[task] not in tasks or not known:
        raise UnsupportedArchitectureError(
            f"OpenVINO's exporter does not know the architecture {name} as {what}: use another model"
        )


def _number_anew(model: Any) -> None:
    """Nodes without a name are called by a number that counts all nodes that this process has made, those among them
    that a model has on this machine's CPU. The file is to be the same on every machine."""
    for number, node in enumerate(model.get_ordered_ops()):
        kind = node.get_type_name()
        if re.fullmatch(rf"{kind}_\d+", node.get_friendly_name()):
            node.set_friendly_name(f"{kind}_{number}")


def predictor(folder: str) -> quality.Predict:
    """The model in a folder."""
    import openvino

    compiled = openvino.Core().compile_model(
        Path(folder, MODEL), "CPU", _EXACT | {"INFERENCE_NUM_THREADS": str(threads())}
    )
    request = compiled.create_infer_request()
    inputs = _names(compiled)

    def predict(window: Sequence[int]) -> NDArray[np.float32]:
        request.reset_state()
        logits: NDArray[np.float32] = request.infer(feed(*padded([window]), inputs))["logits"][0]
        return logits

    return predict


def _names(model: Any) -> set[str]:
    return {name for tensor in model.inputs for name in tensor.names}


def _held_out(windows: str) -> list[list[int]]:
    found: list[list[int]] = json.loads(Path(windows).read_text())["held out"]
    return found
