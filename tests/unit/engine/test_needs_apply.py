import copy
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemodel.engine.desired import APPLIED, needs_apply, needs_status, parse_quantity, stamped

Object = dict[str, Any]

_names = st.text("abcdefgh", min_size=1, max_size=4)
_scalars = st.text("abc0", max_size=4) | st.integers(-5, 5) | st.booleans()
_values = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(_names, inner, max_size=3)
        | st.lists(
            st.fixed_dictionaries({"name": _names, "value": inner}), max_size=3, unique_by=lambda item: item["name"]
        )
    ),
    max_leaves=12,
)
_specs = st.dictionaries(_names, _values, max_size=4)


def an_object(spec: Object) -> Object:
    return {"apiVersion": "v1", "kind": "Thing", "metadata": {"name": "a", "labels": {"l": "v"}}, "spec": spec}


def grown(value: Any) -> Any:
    """As an API server returns it: with defaults in every object."""
    if isinstance(value, dict):
        return {"defaulted": "by the server", **{name: grown(item) for name, item in value.items()}}
    if isinstance(value, list):
        return [grown(item) for item in value]
    return value


@given(_specs)
def test_what_was_applied_needs_no_apply_whatever_the_server_adds(spec: Object) -> None:
    desired = an_object(spec)
    assert not needs_apply(desired, grown(stamped(desired)))


@given(_specs, _specs)
def test_another_wish_needs_an_apply(spec: Object, other: Object) -> None:
    observed = grown(stamped(an_object(spec)))
    assert needs_apply(an_object(other), observed) == (spec != other or _types(spec) != _types(other))


def _types(value: Any) -> Any:
    """True and 1 are equal for Python, not for JSON."""
    if isinstance(value, dict):
        return {name: _types(item) for name, item in value.items()}
    return [_types(item) for item in value] if isinstance(value, list) else type(value)


@given(_specs, st.data())
def test_a_field_of_ours_that_others_changed_needs_an_apply(spec: Object, data: st.DataObject) -> None:
    desired = an_object({**spec, "ours": "x"})
    observed = grown(stamped(desired))
    observed["spec"]["ours"] = data.draw(_scalars.filter(lambda value: value != "x"))
    assert needs_apply(desired, observed)


@given(_specs)
def test_nothing_is_changed_by_looking(spec: Object) -> None:
    desired = an_object(spec)
    before = copy.deepcopy(desired)
    observed = stamped(desired)
    needs_apply(desired, observed)
    assert desired == before


def test_what_is_not_there_needs_an_apply() -> None:
    assert needs_apply(an_object({}), None)


def test_a_missing_stamp_needs_an_apply() -> None:
    observed = stamped(an_object({}))
    del observed["metadata"]["annotations"][APPLIED]
    assert needs_apply(an_object({}), observed)


def test_a_stamp_keeps_other_annotations() -> None:
    desired = an_object({})
    desired["metadata"]["annotations"] = {"mine": "kept"}
    assert stamped(desired)["metadata"]["annotations"]["mine"] == "kept"
    assert desired["metadata"]["annotations"] == {"mine": "kept"}


def observe(desired: Object, **spec: Any) -> Object:
    observed = stamped(desired)
    return {**observed, "spec": {**observed["spec"], **spec}}


@pytest.mark.parametrize(
    ("wanted", "found", "needed"),
    [
        pytest.param(
            [{"name": "main", "image": "a"}],
            [{"name": "sidecar", "image": "s"}, {"name": "main", "image": "a", "pull": "Always"}],
            False,
            id="a container that another added, and another order",
        ),
        pytest.param([{"name": "main", "image": "a"}], [{"name": "main", "image": "b"}], True, id="another image"),
        pytest.param([{"name": "main"}], [{"name": "sidecar"}], True, id="our container is gone"),
        pytest.param(
            [{"name": "v", "mountPath": "/a"}, {"name": "v", "mountPath": "/b"}],
            [{"name": "v", "mountPath": "/b"}, {"name": "v", "mountPath": "/a"}],
            False,
            id="one volume mounted twice is told apart by path",
        ),
        pytest.param(
            [{"containerPort": 53, "protocol": "UDP"}, {"containerPort": 53}],
            [{"containerPort": 53, "protocol": "TCP"}, {"containerPort": 53, "protocol": "UDP"}],
            False,
            id="one port over two protocols, one of them defaulted",
        ),
        pytest.param(["a", "b"], ["b", "a"], True, id="the order of plain values counts"),
        pytest.param(["a"], ["a", "b"], True, id="a plain value that another added"),
        pytest.param([{"x": 1}], [{"x": 1}, {"x": 2}], True, id="objects with nothing to tell them apart are a whole"),
        pytest.param([], None, False, id="empty is the same as absent"),
        pytest.param([{"name": "a"}], None, True, id="all gone"),
    ],
)
def test_lists(wanted: list[Any], found: list[Any] | None, needed: bool) -> None:
    desired = an_object({"list": wanted})
    assert needs_apply(desired, observe(desired, list=found)) == needed


@pytest.mark.parametrize(
    ("wanted", "found", "needed"),
    [("1000m", "1", False), ("0.5", "500m", False), ("1024Mi", "1Gi", False), (2, "2", False), ("1", "2", True)],
)
def test_quantities_are_compared_by_value_in_resources(wanted: str | int, found: str, needed: bool) -> None:
    desired = an_object({"resources": {"limits": {"cpu": wanted}}})
    assert needs_apply(desired, observe(desired, resources={"limits": {"cpu": found}})) == needed


def test_quantities_are_text_elsewhere() -> None:
    desired = an_object({"value": "1000m"})
    assert needs_apply(desired, observe(desired, value="1"))


def test_a_status_is_not_applied_with_the_object() -> None:
    desired = an_object({}) | {"status": {"a": 1}}
    assert not needs_apply(desired, stamped(desired) | {"status": {"a": 2}})


def test_the_time_of_a_condition_alone_needs_no_status() -> None:
    condition = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    later = {"conditions": [condition | {"lastTransitionTime": "2026-01-02T00:00:00Z"}]}
    assert not needs_status(later, {"conditions": [condition]})
    assert needs_status({"conditions": [condition | {"status": "False"}]}, {"conditions": [condition]})


def test_a_status_is_compared_as_a_whole_but_for_what_is_empty() -> None:
    assert needs_status({"a": 1}, {"a": 1, "stale": 2})
    assert needs_status({"a": 1}, None)
    assert not needs_status({"a": 1, "empty": []}, {"a": 1, "nothing": None})


@given(st.integers(0, 10**6), st.sampled_from(["", "k", "M", "G", "Ki", "Mi", "Gi"]))
def test_a_quantity_is_its_milli_quantity(number: int, suffix: str) -> None:
    whole = parse_quantity(f"{number}{suffix}")
    assert whole is not None
    assert parse_quantity(f"{whole * 1000:f}m") == whole


@pytest.mark.parametrize(
    ("text", "value"), [("1e3", Decimal(1000)), ("12E2", Decimal(1200)), ("2E", Decimal(2 * 10**18))]
)
def test_quantities_with_exponents(text: str, value: Decimal) -> None:
    assert parse_quantity(text) == value


@pytest.mark.parametrize("text", ["", "x", "1x", "Mi", "1 Gi", "true"])
def test_what_is_no_quantity(text: str) -> None:
    assert parse_quantity(text) is None
