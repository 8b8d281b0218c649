"""ONNX Runtime behind the front: which engine turns a model in onnxruntime-genai's layout."""

from edgemodel.serve.engine import EngineSettings, TextEngine
from edgemodel.serve.onnxruntime_batch import CannotBatchError, OnnxRuntimeBatchEngine
from edgemodel.serve.onnxruntime_genai import OnnxRuntimeGenAiEngine


def onnx_engine(settings: EngineSettings) -> TextEngine:
    """What batches, for a model on the CPU that can be batched; else onnxruntime-genai itself."""
    if not settings.device:
        try:
            return OnnxRuntimeBatchEngine(settings)
        except CannotBatchError:
            pass
    return OnnxRuntimeGenAiEngine(settings)
