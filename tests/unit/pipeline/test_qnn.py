"""QNN's toolchain and engine, as far as they need none of its packages."""

from pathlib import Path
from typing import Any

import pytest

from edgemodel.api.artifact import Recipe, ResolvedSource, Source
from edgemodel.pipeline.children import ChildFailedError
from edgemodel.pipeline.errors import (
    CalibrationMismatchError,
    EvaluationFailedError,
    PipelineError,
    QuantizationFailedError,
    SourceUnsupportedError,
    TargetUnsupportedError,
    TaskUnsupportedError,
    UnknownSchemeError,
)
from edgemodel.pipeline.progress import Reporter
from edgemodel.pipeline.qnn import Qnn, failure
from edgemodel.pipeline.qnn_schemes import SCHEMES, Node, tensor_types
from edgemodel.pipeline.resolve import resolve
from edgemodel.pipeline.sources import open_source
from edgemodel.pipeline.texts import calibration_digest
from edgemodel.serve.engine import ModelRefusedError
from edgemodel.serve.qnn_artifact import MASKED, Description, inputs
from tests.unit.pipeline.models import llama_gguf

RECIPE = Recipe(
    toolchain="qnn",
    toolchain_version="test",
    scheme="A16W8",
    task="Embeddings",
    calibration=calibration_digest(),
    target="sm8650-v75",
)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_passes_the_check(scheme: str) -> None:
    Qnn().check(RECIPE.model_copy(update={"scheme": scheme}))


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ({"scheme": "A4W4"}, UnknownSchemeError, "A16W8_MIXED"),
        ({"task": "TextGeneration"}, TaskUnsupportedError, "set spec.task to Embeddings"),
        ({"target": ""}, TargetUnsupportedError, "for example sm8650-v75"),
        ({"target": "sm1-v1"}, TargetUnsupportedError, "correct the class's target"),
        ({"target": "sm8650-v73"}, TargetUnsupportedError, "use sm8650-v75"),
        ({"calibration": "sha256:" + 64 * "0"}, CalibrationMismatchError, "calibrates A16W8"),
    ],
)
def test_a_recipe_that_cannot_be_made_is_refused(change: dict[str, Any], error: type[PipelineError], told: str) -> None:
    with pytest.raises(error, match=told):
        Qnn().check(RECIPE.model_copy(update=change))


def test_a_gguf_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(llama_gguf())
    resolved: ResolvedSource = resolve(
        open_source(Source(uri="pvc://claim/model.gguf"), {"PVC_ROOT": str(tmp_path)})
    ).resolved
    reporter = Reporter(lambda _: None)
    with pytest.raises(SourceUnsupportedError, match="safetensors"):
        Qnn().make(tmp_path, resolved, RECIPE, tmp_path, reporter.step)
    reporter.close()


@pytest.mark.parametrize(
    ("step", "said", "error", "told"),
    [
        ("compile", "[E] Unsupported nodes in QNN EP: { name: /a, type: Where }{ name: /b, type: Erf }\nFail: x",
         QuantizationFailedError, "does not have Erf, Where, which"),
        ("quantize", "ValueError: this", QuantizationFailedError, "could not quantize the model: ValueError: this"),
        ("evaluate", "Fail: that", EvaluationFailedError, "Fail: that"),
    ],
)  # fmt: skip
def test_what_a_step_ended_with_is_told(step: str, said: str, error: type[PipelineError], told: str) -> None:
    found = failure(step, ChildFailedError(1, said))
    assert type(found) is error
    assert told in str(found)


ATTENTION = (
    Node("Gather", ("words", "input_ids"), ("embedded",)),
    Node("MatMul", ("embedded", "query"), ("queries",)),
    Node("MatMul", ("queries", "keys"), ("scores",)),
    Node("Add", ("scores", "attention_mask"), ("masked",)),
    Node("MatMul", ("pooling", "states"), ("embedding",)),
)
WEIGHTS = ("words", "query")


def types(scheme: str) -> dict[str, str]:
    found = tensor_types(SCHEMES[scheme], ATTENTION, WEIGHTS)
    return {name: options["quant_type"] for name, options in found.items()}


def test_weights_have_eight_bits_and_matrices_a_range_for_each_channel() -> None:
    found = tensor_types(SCHEMES["A16W8"], ATTENTION, WEIGHTS)
    assert found["query"] == {"quant_type": "QInt8", "axis": 1, "symmetric": True}
    assert found["words"] == {"quant_type": "QUInt8"}
    assert found["embedded"] == {"quant_type": "QUInt8", "convert": {"quant_type": "QUInt16"}}


def test_only_what_attention_multiplies_has_fewer_bits_in_the_mixed_scheme() -> None:
    mixed, wide = types("A16W8_MIXED"), types("A16W8")
    assert {name: kind for name, kind in mixed.items() if name not in wide} == {"queries": "QUInt8", "keys": "QUInt8"}
    assert not {"queries", "keys"} & types("A8W8").keys()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_tokens_share_of_a_long_text_is_told_apart(scheme: str) -> None:
    assert types(scheme)["pooling"] == "QUInt16"


def test_a_text_is_padded_and_what_is_padded_does_not_count() -> None:
    found = inputs([7, 8, 9], 5, "mean")
    assert found["input_ids"].tolist() == [[7, 8, 9, 0, 0]]
    assert found["attention_mask"].tolist() == [[[[0, 0, 0, MASKED, MASKED]]]]
    assert found["pooling"].ravel().tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0, 0])


@pytest.mark.parametrize(("pool", "place"), [("cls", 0), ("last", 2)])
def test_one_token_may_stand_for_the_text(pool: Any, place: int) -> None:
    assert inputs([7, 8, 9], 5, pool)["pooling"].ravel().tolist() == [float(number == place) for number in range(5)]


SM8650 = Description(
    length=64, pooling="mean", normalize=True, soc="SM8650", soc_model=57, htp_architecture="v75", qnn_sdk="2.51.0"
)


@pytest.mark.parametrize("machine", ["SM8650", "", "SM9999"])
def test_an_artifact_runs_where_nothing_speaks_against_it(machine: str) -> None:
    SM8650.refuse_elsewhere(machine, "2.51.0")


def test_two_names_of_one_chip_are_the_same() -> None:
    elite = SM8650.model_copy(update={"soc": "SC8380XP", "soc_model": 60, "htp_architecture": "v73"})
    elite.refuse_elsewhere("X1E80100", "2.51.0")


@pytest.mark.parametrize(
    ("machine", "sdk", "told"),
    [("SM8750", "2.51.0", "this node is a SM8750"), ("SM8650", "2.52.0", "this image has QNN 2.52.0")],
)
def test_an_artifact_is_refused_elsewhere(machine: str, sdk: str, told: str) -> None:
    with pytest.raises(ModelRefusedError, match=told):
        SM8650.refuse_elsewhere(machine, sdk)
