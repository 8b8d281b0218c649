"""Memory and disk, from what the files' headers say: before a byte of weights was read."""

from dataclasses import dataclass

from edgemodel.api.artifact import ModelFacts, ResolvedSource
from edgemodel.api.model import Serving
from edgemodel.api.runtime import Scheme

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


def kv_cache_bytes(model: ModelFacts, tokens: int) -> int:
    """Keys and values of `tokens` tokens in float16: 2 tensors x layers x heads x head size x 2 bytes."""
    return 2 * 2 * model.layers * model.kv_heads * model.head_size * tokens


def job_size(resolved: ResolvedSource, scheme: Scheme, memory_overhead: int, attempt: int = 1) -> JobSize:
    """Memory: the unquantized model, the logits of the baseline, the artifact and a softmax between them, and what the
    toolchain needs; twice as much after each time that it was not enough. Scratch: the source, the unquantized model,
    the artifact, the baseline's log-probabilities at two bytes each, and a tenth more."""
    model = resolved.model
    unquantized = baseline_bytes(model)
    artifact = int(model.parameters * float(scheme.bits_per_weight) / 8)
    memory = unquantized + 3 * logits_bytes(model) + memory_overhead
    scratch = resolved.bytes + unquantized + artifact + 2 * model.vocabulary * HELD_OUT_TOKENS
    return JobSize(memory * 2 ** (attempt - 1), scratch + scratch // 10 + 64 * MIB)


def context_per_request(model: ModelFacts, serving: Serving) -> int:
    """The context asked for, but no more than the model was trained for."""
    return min(serving.context_length, model.context_length or serving.context_length)


def serving_memory(model: ModelFacts, artifact_bytes: int, serving: Serving, memory_overhead: int) -> int:
    """The artifact, the KV cache of all parallel requests, twice a batch's logits, and what the runtime needs."""
    tokens = context_per_request(model, serving) * serving.parallel
    return artifact_bytes + kv_cache_bytes(model, tokens) + 2 * logits_bytes(model) + memory_overhead


def volume_size(artifact_bytes: int) -> int:
    """A pod's own volume for the artifact: room for the fetch's journal too."""
    return artifact_bytes + artifact_bytes // 50 + 16 * MIB
