"""Memory and disk, from what the files' headers say: before a byte of weights was read."""

from dataclasses import dataclass

from edgemodel.api.artifact import ModelFacts, ResolvedSource
from edgemodel.api.model import Serving
from edgemodel.api.runtime import Pipeline, Scheme, Serve

MIB = 1024 * 1024

BATCH_TOKENS = 512
"""Tokens that llama.cpp computes at once (its `n_ubatch`), and the window that perplexity is measured over."""

HELD_OUT_TOKENS = 4096
"""Most tokens that the evaluation scores: the baseline's log-probabilities of these lie on the scratch disk."""


@dataclass(frozen=True)
class JobSize:
    """What a quantization Job asks for, in bytes."""

    memory: int
    scratch: int


def quantity(size: int) -> str:
    """Bytes as a Kubernetes quantity, rounded up to whole MiB."""
    return f"{-(-size // MIB)}Mi"


def baseline_bytes(model: ModelFacts) -> int:
    """The unquantized model at two bytes a weight."""
    return 2 * model.parameters


def logits_bytes(model: ModelFacts) -> int:
    """The output layer's result for a batch, in float32."""
    return 4 * model.vocabulary * BATCH_TOKENS


def kv_cache_bytes(model: ModelFacts, tokens: int, element: int = 2) -> int:
    """Keys and values of `tokens` tokens: 2 tensors x layers x heads x head size x bytes of an element."""
    return 2 * element * model.layers * model.kv_heads * model.head_size * tokens


def job_size(resolved: ResolvedSource, scheme: Scheme, pipeline: Pipeline, attempt: int = 1) -> JobSize:
    """Memory: the weights as the toolchain holds them, the logits of the baseline, the artifact and a softmax between
    them, and what the toolchain needs besides; twice as much after each time that it was not enough. Scratch: the
    source, once more with an adapter in it, the weights as the toolchain writes them, the artifact, the baseline's
    log-probabilities at two bytes each, and a tenth more."""
    model = resolved.model
    artifact = int(model.parameters * float(scheme.bits_per_weight) / 8)
    memory = pipeline.memory_per_weight * model.parameters + 3 * logits_bytes(model) + pipeline.memory_overhead
    copies = 1 if resolved.adapter_revision is None else 2
    scratch = copies * resolved.bytes + pipeline.scratch_per_weight * model.parameters + artifact
    scratch += 2 * model.vocabulary * HELD_OUT_TOKENS
    return JobSize(memory * 2 ** (attempt - 1), scratch + scratch // 10 + 64 * MIB)


def context_per_request(model: ModelFacts, serving: Serving) -> int:
    """The context asked for, but no more than the model was trained for."""
    return min(serving.context_length, model.context_length or serving.context_length)


def serving_memory(model: ModelFacts, artifact_bytes: int, serving: Serving, runtime: Serve) -> int:
    """The artifact, the KV cache of all parallel requests, twice a batch's logits, and what the runtime needs."""
    cache = kv_cache_bytes(model, context_per_request(model, serving) * serving.parallel, runtime.kv_cache_element)
    return artifact_bytes + cache + 2 * logits_bytes(model) + runtime.memory_overhead


def volume_size(artifact_bytes: int) -> int:
    """A pod's own volume for the artifact: room for the fetch's journal too."""
    return artifact_bytes + artifact_bytes // 50 + 16 * MIB
