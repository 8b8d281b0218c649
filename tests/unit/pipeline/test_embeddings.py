import json
from pathlib import Path

import pytest

from edgemodel.pipeline.embeddings import (
    PASSAGES,
    Pooling,
    calibration_passages,
    compare_embeddings,
    held_out_passages,
)
from edgemodel.pipeline.errors import EvaluationFailedError, SourceUnsupportedError


def folder(home: Path, modules: list[str], **pooling: object) -> Path:
    """A folder as sentence-transformers keeps it."""
    described = [
        {
            "idx": number,
            "path": "" if not number else f"{number}_{kind}",
            "type": f"sentence_transformers.models.{kind}",
        }
        for number, kind in enumerate(modules)
    ]
    (home / "modules.json").write_text(json.dumps(described))
    for module in described:
        (home / str(module["path"])).mkdir(exist_ok=True)
        (home / str(module["path"]) / "config.json").write_text(json.dumps({"word_embedding_dimension": 4} | pooling))
    return home


@pytest.mark.parametrize(
    ("modules", "pooling", "expected"),
    [
        (["Transformer", "Pooling", "Normalize"], {"pooling_mode_mean_tokens": True}, Pooling("mean", True)),
        (["Transformer", "Pooling"], {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
         Pooling("cls", False)),
        (["Transformer", "Pooling"], {"pooling_mode_lasttoken": True}, Pooling("last", False)),
    ],
)  # fmt: skip
def test_pooling_is_as_the_model_says(
    tmp_path: Path, modules: list[str], pooling: dict[str, object], expected: Pooling
) -> None:
    assert Pooling.read(folder(tmp_path, modules, **pooling)) == expected


@pytest.mark.parametrize("pooling", [Pooling("mean", True), Pooling("cls", False), Pooling("last", True)])
def test_pooling_can_be_written_and_read_again(tmp_path: Path, pooling: Pooling) -> None:
    pooling.write(tmp_path)
    assert Pooling.read(tmp_path) == pooling


def test_pooling_of_a_model_that_says_nothing(tmp_path: Path) -> None:
    assert Pooling.read(tmp_path) == Pooling("mean", True)


@pytest.mark.parametrize(
    ("modules", "pooling", "told"),
    [
        (["Transformer", "Pooling", "Dense"], {"pooling_mode_mean_tokens": True}, "'Dense'"),
        (["Transformer", "Pooling"], {"pooling_mode_max_tokens": True}, "pooling_mode_max_tokens"),
        (["Transformer", "Pooling"], {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "cls_token"),
        (["Transformer", "Pooling"], {}, "nothing"),
    ],
)
def test_what_cannot_be_pooled_is_refused(
    tmp_path: Path, modules: list[str], pooling: dict[str, object], told: str
) -> None:
    with pytest.raises(SourceUnsupportedError, match=told):
        Pooling.read(folder(tmp_path, modules, **pooling))


def test_a_model_is_as_good_as_itself_at_any_length() -> None:
    report = compare_embeddings([[1, 0], [0, 2]], [[3, 0], [0, 1]], 7)
    assert (report.accuracy, report.cosine, report.least_cosine, report.tokens) == ("1.0000", "1.0000", "1.0000", 7)


def test_the_worst_text_is_told() -> None:
    report = compare_embeddings([[1, 0], [1, 0]], [[1, 0], [3, 4]], 7)
    assert (report.cosine, report.least_cosine) == ("0.8000", "0.6000")


@pytest.mark.parametrize("broken", [[0.0, 0.0], [float("nan"), 1.0]])
def test_nonsense_is_no_figure(broken: list[float]) -> None:
    with pytest.raises(EvaluationFailedError, match="no sense"):
        compare_embeddings([[1, 0]], [broken], 7)


def test_what_is_judged_by_was_not_calibrated_on() -> None:
    held_out, calibration = held_out_passages(), calibration_passages()
    assert len(held_out) == len(calibration) == PASSAGES
    assert not set(held_out) & set(calibration)
