"""Memory and disk, from what the files' headers say: before a byte of weights was read."""

from dataclasses import dataclass

from edgemodel.api.artifact import ModelFacts, ResolvedSource
from edgemodel.api.base import Task
from edgemodel.api.model import Serving
from edgemodel.api.runtime import Pipeline, Scheme, Serve

MIB = 1024 * 1024

BATCH_TOKENS = 512
"""Tokens that llama.cpp computes at once (its `n_ubatch`), and the window that perplexity is measured over."""

_STATES = 16
"""States of a token that a layer has at a time, with room: what went in, query, key, value, what attention gives, and
a feed-forward layer's four, twice."""

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


def embedding_bytes(model: ModelFacts, tokens: int) -> int:
    """What a text of `tokens` tokens takes while a layer computes it, in float32: the attention of each token to each
    other, before and after the softmax, and the tokens' states, of which feed-forward layers have several at a time."""
    heads = model.hidden_size // model.head_size if model.head_size else model.kv_heads
    return 4 * tokens * (2 * heads * tokens + _STATES * model.hidden_size)


def job_size(
    resolved: ResolvedSource, scheme: Scheme, pipeline: Pipeline, task: Task = "TextGeneration", attempt: int = 1
) -> JobSize:
    """Memory: the weights as the toolchain holds them, the logits of the baseline, the artifact and a softmax between
    them (or a text that is embedded), and what the toolchain needs besides; twice as much after each time that it was
    not enough. Scratch: the source, once more with an adapter in it, the weights as the toolchain writes them, the
    artifact, the baseline's log-probabilities at two bytes each, and a tenth more."""
    model = resolved.model
    artifact = int(model.parameters * float(scheme.bits_per_weight) / 8)
    memory = pipeline.memory_per_weight * model.parameters + pipeline.memory_overhead
    copies = 1 if resolved.adapter_revision is None else 2
    scratch = copies * resolved.bytes + pipeline.scratch_per_weight * model.parameters + artifact
    if task == "Embeddings":
        memory += embedding_bytes(model, min(BATCH_TOKENS, model.context_length or BATCH_TOKENS))
    else:
        memory += 3 * logits_bytes(model)
        scratch += 2 * model.vocabulary * HELD_OUT_TOKENS
    return JobSize(memory * 2 ** (attempt - 1), scratch + scratch // 10 + 64 * MIB)


def context_per_request(model: ModelFacts, serving: Serving) -> int:
    """The context asked for, but no more than the model was trained for."""
    return min(serving.context_length, model.context_length or serving.context_length)


def serving_memory(
    model: ModelFacts, artifact_bytes: int, serving: Serving, runtime: Serve, task: Task = "TextGeneration"
) -> int:
    """The artifact, the KV cache of all parallel requests and twice a batch's logits (or as many texts that are
    embedded), and what the runtime needs."""
    context = context_per_request(model, serving)
    if task == "Embeddings":
        return artifact_bytes + serving.parallel * embedding_bytes(model, context) + runtime.memory_overhead
    cache = kv_cache_bytes(model, context * serving.parallel, runtime.kv_cache_element)
    return artifact_bytes + cache + 2 * logits_bytes(model) + runtime.memory_overhead


def volume_size(artifact_bytes: int) -> int:
    """A pod's own volume for the artifact: room for the fetch's journal too."""
    return artifact_bytes + artifact_bytes // 50 + 16 * MIB
