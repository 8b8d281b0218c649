import re

import pytest

from edgemodel.api.artifact import Source
from edgemodel.core.keys import artifact_key, short_hash, source_request
from tests.unit.core.samples import DIGEST, OTHER_DIGEST, SMOLLM2, recipe, resolved

BASE = recipe(calibration=DIGEST, target="npu3720")


def test_key_is_128_bits_in_hex() -> None:
    assert re.fullmatch("[0-9a-f]{32}", artifact_key(resolved(), BASE))


def test_key_never_changes_for_what_is_in_stores_already() -> None:
    """A literal on purpose: another value means that every artifact in the world is made again."""
    assert artifact_key(resolved(), BASE) == "4a8a852fe27a7cee1974c8dad113df2b"


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("toolchain", "openvino"),
        ("toolchainVersion", "b2"),
        ("scheme", "Q8_0"),
        ("calibration", OTHER_DIGEST),
        ("calibration", None),
        ("target", "npu4000"),
        ("target", ""),
        ("task", "Embeddings"),
    ],
)
def test_every_part_of_the_recipe_changes_the_key(part: str, value: str | None) -> None:
    changed = recipe(**(BASE.dump() | {part: value}))
    assert artifact_key(resolved(), changed) != artifact_key(resolved(), BASE)


def test_every_field_of_the_recipe_is_in_the_table_above() -> None:
    assert set(BASE.dump()) == {"toolchain", "toolchainVersion", "scheme", "calibration", "target", "task"}


def test_other_bytes_of_the_source_change_the_key() -> None:
    assert artifact_key(resolved(digest=OTHER_DIGEST), BASE) != artifact_key(resolved(), BASE)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("the revision's name", {"revision": "main"}),
        ("the licence", {"licence": "mit"}),
        ("the note", {"note": "dequantized"}),
        ("how the headers are read", {"model": SMOLLM2.model_copy(update={"layers": 31})}),
    ],
)
def test_what_is_only_said_of_the_same_bytes_leaves_the_key(name: str, fields: dict[str, object]) -> None:
    assert artifact_key(resolved(**fields), BASE) == artifact_key(resolved(), BASE), name


def test_short_hash_tells_apart_where_one_part_ends() -> None:
    assert short_hash("ab", "c") != short_hash("a", "bc")


def test_short_hash_does_not_depend_on_the_order_of_fields() -> None:
    assert short_hash({"a": 1, "b": 2}) == short_hash({"b": 2, "a": 1})


def test_request_to_resolve_is_the_uri_the_revision_and_the_digest_that_is_demanded() -> None:
    assert source_request(Source(uri="s3://bucket/model")) == ("s3://bucket/model", "", "", "")
    assert source_request(Source(uri="hf://a/b", revision="main")) == ("hf://a/b", "main", "", "")
    pinned = "sha256:" + 64 * "a"
    assert source_request(Source(uri="https://h/m.gguf", sha256=pinned)) == ("https://h/m.gguf", "", pinned, "")
