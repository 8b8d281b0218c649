"""ONNX Runtime with Qualcomm's QNN execution provider, behind the front: embeds texts on a Snapdragon's HTP.

What the HTP runs is compiled for one SoC, in one shape: each text is padded to the artifact's length, and runs alone.
On x86-64, QNN's simulator of the HTP runs it, whatever SoC it is for. Nothing falls back to the processor in silence:
DEVICE `cpu` runs all of the quantized model there.
"""

import platform
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import onnxruntime_qnn
from onnxruntime_qnn.build_and_package_info import qnn_version
from tokenizers import Tokenizer

from edgemodel.serve.engine import EngineSettings, ModelRefusedError
from edgemodel.serve.qnn_artifact import CONTEXT, EMBEDDING, MODEL, TOKENIZER, Description, inputs

_MACHINE = Path("/sys/devices/soc0/machine")
_POWER_MODES = {"Balanced": "balanced", "HighPerformance": "high_performance", "PowerSaver": "power_saver"}
_SHORTEST = 1e-12
_ERRORS = 3
"""The severity from which on ONNX Runtime tells."""


class QnnEmbedder:
    """An engine that embeds."""

    def __init__(self, settings: EngineSettings) -> None:
        folder = settings.model_dir
        try:
            self._description = Description.read(folder)
            self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        except Exception as error:
            raise ModelRefusedError(f"the artifact cannot be read: {error}"[:400]) from None
        if settings.context_length > self._description.length:
            raise ModelRefusedError(
                f"the artifact takes texts of at most {self._description.length} tokens: "
                f"set serving.contextLength to that, not to {settings.context_length}"
            )
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.vocabulary: int = self._tokenizer.get_vocab_size()
        self._session = self._load(settings)

    def encode(self, text: str) -> list[int]:
        """Token ids."""
        ids: list[int] = self._tokenizer.encode(text).ids
        return ids

    def embed(self, texts: Sequence[Sequence[int]]) -> list[list[float]]:
        """The embedding of each text."""
        return [self._embed(text) for text in texts]

    def close(self) -> None:
        """Gives back what it holds."""
        del self._session

    def _embed(self, text: Sequence[int]) -> list[float]:
        feed = inputs(text, self._description.length, self._description.pooling)
        found = self._session.run([EMBEDDING], feed)[0].astype(np.float64).ravel()
        if self._description.normalize:
            found /= max(float(np.linalg.norm(found)), _SHORTEST)
        embedding: list[float] = found.tolist()
        return embedding

    def _load(self, settings: EngineSettings) -> Any:
        device = settings.device.lower() or "htp"
        if device not in ("htp", "cpu"):
            raise ModelRefusedError(f"DEVICE is {settings.device!r}: use htp, or cpu")
        if device == "htp":
            machine = _MACHINE.read_text().strip().upper() if _MACHINE.exists() else ""
            self._description.refuse_elsewhere(machine, qnn_version)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = settings.threads
        try:
            if device == "cpu":
                providers = ["CPUExecutionProvider"]
                return onnxruntime.InferenceSession(str(settings.model_dir / MODEL), options, providers)
            mode = {"htp_performance_mode": _POWER_MODES[settings.power_mode]} if settings.power_mode else {}
            use_htp(options, mode)
            session = onnxruntime.InferenceSession(str(settings.model_dir / CONTEXT), options)
        except Exception as error:
            where = f"{device} of this {platform.machine()} node"
            raise ModelRefusedError(f"ONNX Runtime cannot load the model on the {where}: {error}"[:600]) from None
        session.disable_fallback()  # else Python's binding goes on without the HTP where a run fails
        return session


def use_htp(options: onnxruntime.SessionOptions, asked: Mapping[str, str]) -> None:
    """Has all of a session run on the HTP, or its simulator, with these options of QNN's execution provider."""
    options.log_severity_level = _ERRORS
    options.add_provider_for_devices(_devices(), {"backend_path": onnxruntime_qnn.get_qnn_htp_path(), **asked})
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")


@cache
def _devices() -> list[Any]:
    """Where QNN's execution provider can run: a library that is loaded once in a process."""
    name = onnxruntime_qnn.get_ep_name()
    onnxruntime.register_execution_provider_library(name, onnxruntime_qnn.get_library_path())
    found = [device for device in onnxruntime.get_ep_devices() if device.ep_name == name]
    if not found:
        raise LookupError("QNN finds no device that it can use")
    return found[:1]
