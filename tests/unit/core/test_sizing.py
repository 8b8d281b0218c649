import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgemodel.api.artifact import ModelFacts
from edgemodel.api.base import Task
from edgemodel.api.model import Serving
from edgemodel.api.runtime import Pipeline, Scheme, Serve
from edgemodel.core.sizing import (
    MIB,
    baseline_bytes,
    context_per_request,
    embedding_bytes,
    job_size,
    kv_cache_bytes,
    logits_bytes,
    quantity,
    serving_memory,
    volume_size,
)
from tests.unit.core.samples import SMOLLM2, resolved

Q4 = Scheme(name="Q4_K_M", bits_per_weight="4.85")


def pipeline(overhead: int = 0, **fields: int) -> Pipeline:
    """What a runtime says of its pipeline."""
    told = {"image": "i", "toolchain": "t", "version": "1", "memory_overhead": overhead, **fields}
    return Pipeline.model_validate(told, by_name=True)


def serve(overhead: int = 0, **fields: int) -> Serve:
    """What a runtime says of its server."""
    return Serve.model_validate({"image": "i", "memory_overhead": overhead, **fields}, by_name=True)


# SmolLM2-135M by hand: 134 515 008 weights, 30 layers, 3 KV heads of 64, 49 152 tokens in the vocabulary.


def test_unquantized_model_takes_two_bytes_a_weight() -> None:
    assert baseline_bytes(SMOLLM2) == 269_030_016


def test_logits_of_a_batch_are_96_mib() -> None:
    assert logits_bytes(SMOLLM2) == 512 * 49_152 * 4 == 96 * MIB


def test_a_token_of_context_takes_22_5_kib_of_kv_cache() -> None:
    assert kv_cache_bytes(SMOLLM2, 1) == 2 * 30 * 3 * 64 * 2 == 23_040
    assert kv_cache_bytes(SMOLLM2, 4096) == 90 * MIB


def test_job_memory_is_model_logits_and_overhead() -> None:
    assert job_size(resolved(), Q4, pipeline(1536 * MIB)).memory == 269_030_016 + 3 * 96 * MIB + 1536 * MIB


def test_job_scratch_is_source_model_artifact_and_baseline_with_room() -> None:
    artifact = 81_549_723  # 134 515 008 x 4.85 / 8
    scores = 2 * 49_152 * 4096
    total = 271_000_000 + 269_030_016 + artifact + scores
    assert job_size(resolved(), Q4, pipeline()).scratch == total + total // 10 + 64 * MIB


def test_job_scratch_has_room_for_the_source_with_an_adapter_in_it() -> None:
    alone, fused = (job_size(resolved(adapterRevision=found), Q4, pipeline()).scratch for found in (None, ""))
    assert fused - alone == pytest.approx(1.1 * resolved().bytes, abs=1)


def test_job_gets_twice_the_memory_each_time_it_was_not_enough() -> None:
    sizes = [job_size(resolved(), Q4, pipeline(MIB), attempt=attempt) for attempt in (1, 2, 3)]
    assert [size.memory for size in sizes] == [sizes[0].memory * factor for factor in (1, 2, 4)]
    assert len({size.scratch for size in sizes}) == 1


def test_serving_memory_is_artifact_cache_logits_and_overhead() -> None:
    serving = Serving(context_length=4096, parallel=4)
    assert serving_memory(SMOLLM2, 105_000_000, serving, serve(256 * MIB)) == (
        105_000_000 + 4 * 90 * MIB + 2 * 96 * MIB + 256 * MIB
    )


def test_a_toolchain_and_a_runtime_may_take_more_for_a_weight_and_for_the_cache() -> None:
    plain, wide = pipeline(), pipeline(memory_per_weight=14, scratch_per_weight=8)
    more = job_size(resolved(), Q4, wide).memory - job_size(resolved(), Q4, plain).memory
    assert more == 12 * 134_515_008
    room = job_size(resolved(), Q4, wide).scratch - job_size(resolved(), Q4, plain).scratch
    assert abs(room - 6.6 * 134_515_008) <= 1
    serving = Serving(context_length=4096, parallel=1)
    assert serving_memory(SMOLLM2, 0, serving, serve(kv_cache_element=4)) == 2 * 90 * MIB + 2 * 96 * MIB


# MiniLM-L6 by hand: 22 713 728 weights, 12 heads of 32 in states of 384, contexts of 512.
MINILM = ModelFacts(
    architecture="BertModel",
    parameters=22_713_728,
    layers=6,
    kv_heads=12,
    head_size=32,
    hidden_size=384,
    vocabulary=30_522,
    context_length=512,
)


def test_a_text_that_is_embedded_takes_attention_and_states() -> None:
    assert embedding_bytes(MINILM, 512) == 2 * 12 * 512 * 512 * 4 + 16 * 384 * 512 * 4 == 36 * MIB


def test_heads_that_share_keys_have_attention_of_their_own() -> None:
    shared = MINILM.model_copy(update={"kv_heads": 2})
    assert embedding_bytes(shared, 512) == embedding_bytes(MINILM, 512)


def test_a_pod_that_embeds_has_no_cache_and_no_logits() -> None:
    serving = Serving(context_length=4096, parallel=4)
    assert serving_memory(MINILM, 25 * MIB, serving, serve(256 * MIB), "Embeddings") == (25 + 4 * 36 + 256) * MIB


def test_a_job_for_embeddings_computes_no_logits() -> None:
    source = resolved(model=MINILM, bytes=91 * MIB)
    size = job_size(source, Q4, pipeline(1536 * MIB), "Embeddings")
    assert size.memory == 2 * 22_713_728 + 36 * MIB + 1536 * MIB
    total = 91 * MIB + 2 * 22_713_728 + 13_770_197
    assert size.scratch == total + total // 10 + 64 * MIB


def test_context_is_no_longer_than_the_model_was_trained_for() -> None:
    assert context_per_request(SMOLLM2, Serving(context_length=4096)) == 4096
    assert context_per_request(SMOLLM2, Serving(context_length=100_000)) == 8192


def test_context_is_as_asked_when_the_headers_do_not_tell() -> None:
    silent = SMOLLM2.model_copy(update={"context_length": 0})
    assert context_per_request(silent, Serving(context_length=100_000)) == 100_000


def test_quantity_is_rounded_up_to_whole_mib() -> None:
    assert [quantity(size) for size in (0, 1, MIB, MIB + 1)] == ["0Mi", "1Mi", "1Mi", "2Mi"]


def test_volume_holds_the_artifact_and_the_journal() -> None:
    assert volume_size(0) == 16 * MIB
    assert volume_size(100_000_000) == 102_000_000 + 16 * MIB


_count = st.integers(0, 10**12)
_facts = st.builds(
    ModelFacts,
    architecture=st.just("llama"),
    parameters=_count,
    layers=st.integers(0, 200),
    kv_heads=st.integers(0, 128),
    head_size=st.integers(0, 256),
    hidden_size=st.integers(0, 20_000),
    vocabulary=st.integers(0, 300_000),
    context_length=st.integers(0, 1_000_000),
)
_TASKS: list[Task] = ["TextGeneration", "Embeddings"]
_SIZES = ("parameters", "layers", "kv_heads", "head_size", "vocabulary")


@settings(derandomize=True)
@given(_facts, st.sampled_from(_SIZES), st.integers(1, 1000), st.integers(0, 10**11), _count)
def test_a_bigger_model_never_gets_less(facts: ModelFacts, field: str, more: int, artifact: int, overhead: int) -> None:
    bigger = facts.model_copy(update={field: getattr(facts, field) + more})
    small, big = (job_size(resolved(model=model, bytes=artifact), Q4, pipeline(overhead)) for model in (facts, bigger))
    assert big.memory >= small.memory
    assert big.scratch >= small.scratch
    for serving in (Serving(), Serving(context_length=1_000_000, parallel=256)):
        assert serving_memory(bigger, artifact, serving, serve(overhead)) >= serving_memory(
            facts, artifact, serving, serve(overhead)
        )


@settings(derandomize=True)
@given(_facts, st.integers(128, 10**6), st.integers(1, 255), st.integers(0, 10**11), st.sampled_from(_TASKS))
def test_more_context_and_more_requests_never_get_less(
    facts: ModelFacts, context: int, parallel: int, artifact: int, task: Task
) -> None:
    def memory(context: int, parallel: int) -> int:
        return serving_memory(facts, artifact, Serving(context_length=context, parallel=parallel), serve(), task)

    assert memory(context, parallel) >= artifact
    assert memory(context + 1, parallel) >= memory(context, parallel)
    assert memory(context, parallel + 1) >= memory(context, parallel)
