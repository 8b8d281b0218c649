import pytest
from pydantic import ValidationError

from edgemodel.api.artifact import Source
from edgemodel.api.base import decimal
from edgemodel.api.model import EdgeModel, EdgeModelStatus, Quality, Variant
from edgemodel.api.runtime import HardwareChoice

WRITTEN = {
    "apiVersion": "edgemodel.dev/v1alpha1",
    "kind": "EdgeModel",
    "metadata": {"name": "m", "namespace": "n", "managedFields": [{"manager": "kubectl"}], "generation": 1},
    "spec": {"source": {"uri": "hf://a/b"}, "serving": {"contextLength": 256}, "fromTheFuture": True},
    "status": {"observedGeneration": -1},
}


def test_object_of_the_wire_is_read() -> None:
    model = EdgeModel.model_validate(WRITTEN)
    assert model.spec.serving.context_length == 256
    assert model.spec.task == "TextGeneration"
    assert model.status.observed_generation == -1


def test_field_of_a_newer_version_is_passed_over() -> None:
    assert "fromTheFuture" not in EdgeModel.model_validate(WRITTEN).spec.dump()


def test_dump_is_camel_case_and_without_what_is_unset() -> None:
    assert Variant(name="cpu", per_node=True).dump() == {"name": "cpu", "perNode": True}
    nothing: dict[str, list[str]] = {"tasks": [], "args": [], "env": [], "devices": []}
    assert HardwareChoice(hardware_class="gpu").dump() == {"class": "gpu", "preference": 100} | nothing


def test_dump_is_read_back_the_same() -> None:
    spec = EdgeModel.model_validate(WRITTEN).spec
    assert type(spec).model_validate(spec.dump()) == spec


def test_value_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        EdgeModelStatus().observed_generation = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("value", "digits", "expected"),
    [(1.0, 4, "1.0000"), (0.98765, 4, "0.9877"), (3.14159, 2, "3.14"), (-0.00001, 4, "-0.0000"), (1e3, 0, "1000")],
)  # fmt: skip
def test_decimal_is_rounded(value: float, digits: int, expected: str) -> None:
    assert decimal(value, digits) == expected


@pytest.mark.parametrize("share", ["0", "0.5", "0.95", "0.999999", "1", "1.0"])
def test_accuracy_is_a_share(share: str) -> None:
    assert Quality(min_accuracy=share).min_accuracy == share


@pytest.mark.parametrize("share", ["", "1.1", "95", "95%", "-0.5", ".95", "0.", "1.01", "0.1234567", "nan"])
def test_accuracy_is_nothing_else(share: str) -> None:
    with pytest.raises(ValidationError):
        Quality(min_accuracy=share)


@pytest.mark.parametrize(
    "uri", ["hf://a/b", "s3://bucket/a/b.gguf", "https://host/x.gguf?a=b", "pvc://claim/x", "s3://bücket/modèle"]
)
def test_uri_names_a_source(uri: str) -> None:
    assert Source(uri=uri).uri == uri


@pytest.mark.parametrize(
    "uri",
    ["http://host/x", "file:///etc/passwd", "hf://", "s3://a b", "s3://a\tb", "s3://a\\b", "s3://a\u00a0b", "s3://a\x0bb",
     "s3://a\u2028b", "s3://a\x00b", "HF://a/b", " hf://a/b", "hf://a/b\n"],
)  # fmt: skip
def test_uri_with_a_space_a_control_or_an_unknown_scheme_names_none(uri: str) -> None:
    with pytest.raises(ValidationError):
        Source(uri=uri)
