"""OpenVINO GenAI: serves what the OpenVINO toolchain makes, with continuous batching. It computes under Python's lock.

Its sampling is used as it is. Its tokenizer is a model that it runs as it runs the large one: beside that, half a
millisecond for each token, and with threads of its own.
"""

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino
import openvino_genai

from edgemodel.serve.artifact_texts import ArtifactTexts
from edgemodel.serve.engine import (
    EngineSettings,
    Finish,
    ModelRefusedError,
    Output,
    Sampling,
    Token,
)

_CPU_BLOCK, _OTHER_BLOCK = 32, 16
"""Tokens in a block of the KV cache, by device."""

_KERNELS = 64
"""Kernels of a kind that OpenVINO keeps, those it used last; by itself 5000. A model has up to ten of a kind, and each
number of tokens in a step wants its own."""

_FINISHES: dict[Any, Finish] = {
    openvino_genai.GenerationFinishReason.STOP: "stop",
    openvino_genai.GenerationFinishReason.LENGTH: "length",
}


@dataclass(frozen=True)
class _Running:
    """A request that is in."""

    handle: Any
    logprobs: bool

    def read(self, stops: set[int]) -> tuple[list[Token], Finish | None]:
        """What came since the last time."""
        tokens: list[Token] = []
        finish: Finish | None = None
        while self.handle.can_read():
            outputs = self.handle.read().values()
            if not outputs:  # it was given up, because it needs more than all of the cache
                return tokens, "length"
            for output in outputs:
                likely = output.generated_log_probs if self.logprobs else [None] * len(output.generated_ids)
                tokens += map(Token, output.generated_ids, likely)
                finish = _FINISHES.get(output.finish_reason)
        if finish == "stop" and tokens and tokens[-1].id in stops:
            tokens.pop()
        return tokens, finish


class OpenVinoGenAiEngine(ArtifactTexts):
    """A text engine. In the process that the front has it in, nobody asks for texts, and none are loaded."""

    texts = ArtifactTexts

    def __init__(self, settings: EngineSettings) -> None:
        super().__init__(settings, may_wait=True)
        device = settings.device or "CPU"
        on_cpu = device.startswith("CPU")
        blocks = -(-settings.context_length // (_CPU_BLOCK if on_cpu else _OTHER_BLOCK))
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.max_num_seqs = settings.parallel
        scheduler.num_kv_blocks = settings.parallel * blocks
        properties = cpu_properties(settings.threads) if on_cpu else {}
        try:
            tokenizer = openvino_genai.Tokenizer(settings.model_dir)
            self._pipeline: Any = openvino_genai.ContinuousBatchingPipeline(
                settings.model_dir, tokenizer, scheduler, device, **properties
            )
        except Exception as error:
            # Before the reason are the places in OpenVINO's source that it came through.
            reason = re.split(r":\d+:\s+", str(error))[-1].strip()
            raise ModelRefusedError(f"OpenVINO GenAI cannot load the model on {device}: {reason[:300]}") from None
        defaults = self._pipeline.get_config()
        self._stops: set[int] = {*defaults.stop_token_ids, tokenizer.get_eos_token_id()} - {-1}
        self._running: dict[int, _Running] = {}

    def add(self, request: int, prompt: Sequence[int], sampling: Sampling) -> None:
        """Takes in a request."""
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = sampling.max_tokens
        config.stop_token_ids = self._stops
        config.logprobs = int(sampling.logprobs)
        if sampling.temperature > 0:
            config.do_sample = True
            config.temperature = sampling.temperature
            config.top_p = sampling.top_p
            config.rng_seed = secrets.randbits(64) if sampling.seed is None else sampling.seed % 2**64
        ids = openvino.Tensor(np.array([prompt], np.int64))
        handle = self._pipeline.add_request(request, ids, config)
        self._running[request] = _Running(handle, sampling.logprobs)

    def step(self) -> list[Output]:
        """Brings the requests that are in further."""
        self._pipeline.step()
        outputs = []
        for request, running in list(self._running.items()):
            tokens, finish = running.read(self._stops)
            if finish:
                del self._running[request]
            if tokens or finish:
                outputs.append(Output(request, tuple(tokens), finish))
        return outputs

    def cancel(self, request: int) -> None:
        """Drops a request."""
        if running := self._running.pop(request, None):
            running.handle.cancel()

    def close(self) -> None:
        """Gives back what it holds."""
        self._running.clear()
        self._pipeline = None


def cpu_properties(threads: int) -> dict[str, Any]:
    """How a CPU is used."""
    properties: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,  # each pod would pin its threads to the same first cores
        "CPU_RUNTIME_CACHE_CAPACITY": _KERNELS,
    }
    if threads == 1:
        # With one thread, a kernel for BF16 divides by zero: https://github.com/openvinotoolkit/openvino/issues/33300
        properties["INFERENCE_PRECISION_HINT"] = "f32"
    return properties
