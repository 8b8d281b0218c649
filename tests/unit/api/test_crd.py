"""The CustomResourceDefinitions: what is written in crds/, and what every field of it must have."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgemodel.api.__main__ import render
from edgemodel.api.crd import CUSTOM_RESOURCES, CustomResource, custom_resource_definition

CRDS = Path(__file__).parents[3] / "crds"
BY_KIND = {resource.kind: resource for resource in CUSTOM_RESOURCES}
KINDS = sorted(BY_KIND)


def schema_of(resource: CustomResource) -> dict[str, Any]:
    (version,) = custom_resource_definition(resource)["spec"]["versions"]
    found: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return found


def walk(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """All schemas below, with their paths."""
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from walk(child, f"{path}.{name}")
    for part in ("items", "additionalProperties"):
        if isinstance(schema.get(part), dict):
            yield from walk(schema[part], f"{path}[]")


def parts(kind: str) -> list[tuple[str, dict[str, Any]]]:
    """All schemas of spec and status."""
    properties = schema_of(BY_KIND[kind])["properties"]
    return [found for part in ("spec", "status") if part in properties for found in walk(properties[part], part)]


@pytest.mark.parametrize("name", sorted(render()))
def test_file_is_what_the_types_generate(name: str) -> None:
    assert (CRDS / name).read_text(encoding="utf-8") == render()[name], "run `make generate`"


def test_folder_holds_nothing_else() -> None:
    assert sorted(path.name for path in CRDS.iterdir()) == sorted(render())


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_is_described(kind: str) -> None:
    fields = [(path, schema) for path, schema in parts(kind) if not path.endswith("[]")]
    assert fields
    assert [path for path, schema in fields if not schema.get("description")] == []


def missing_bounds(schema: dict[str, Any]) -> set[str]:
    """What a schema of this type must say and does not, so that CEL's cost and an object's size are bounded."""
    needed = {
        "string": {"maxLength"},
        "integer": {"minimum", "maximum"},
        "array": {"maxItems", "items", "x-kubernetes-list-type"},
        "object": {"properties"},
        "boolean": set[str](),
    }[schema["type"]]
    if "enum" in schema:
        needed = needed - {"maxLength"}
    if "additionalProperties" in schema:
        needed = {"maxProperties"}
    return needed - schema.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_every_value_is_typed_and_bounded(kind: str) -> None:
    assert {path: missing for path, schema in parts(kind) if (missing := missing_bounds(schema))} == {}


@pytest.mark.parametrize("kind", KINDS)
def test_schema_is_structural(kind: str) -> None:
    """An apiserver refuses the first three, and pydantic writes all of them."""
    for path, schema in parts(kind):
        assert not schema.keys() & {"$ref", "$defs", "anyOf", "oneOf", "title", "const", "exclusiveMinimum"}, path


@pytest.mark.parametrize("kind", KINDS)
def test_lists_of_objects_merge_by_keys_that_each_item_has(kind: str) -> None:
    for path, schema in parts(kind):
        if schema.get("x-kubernetes-list-type") == "map":
            keys = schema["x-kubernetes-list-map-keys"]
            assert set(keys) <= set(schema["items"]["required"]), path
        elif schema["type"] == "array":
            assert schema["items"]["type"] != "object" or path.endswith(("labels", "resources", "tolerations")), path


@pytest.mark.parametrize("kind", ["EdgeModel", "ModelArtifact"])
def test_status_of_an_object_that_nobody_has_seen_says_so(kind: str) -> None:
    (version,) = custom_resource_definition(BY_KIND[kind])["spec"]["versions"]
    assert version["subresources"] == {"status": {}}
    assert version["schema"]["openAPIV3Schema"]["properties"]["status"]["default"] == {"observedGeneration": -1}


@pytest.mark.parametrize("kind", ["EdgeModel", "ModelArtifact"])
def test_status_has_no_other_default(kind: str) -> None:
    """A default in a status would be applied by the apiserver, and then be taken for a difference by the operator."""
    assert [path for path, schema in parts(kind) if path.startswith("status.") and "default" in schema] == []


def defaults(kind: str) -> dict[str, Any]:
    return {path: schema["default"] for path, schema in parts(kind) if path.startswith("spec") and "default" in schema}


def test_defaults_of_an_edge_model() -> None:
    assert defaults("EdgeModel") == {
        "spec.task": "TextGeneration",
        "spec.variants[].perNode": False,
        "spec.serving": {"contextLength": 4096, "parallel": 4, "powerMode": "Balanced", "rollout": "Surge"},
        "spec.serving.contextLength": 4096,
        "spec.serving.parallel": 4,
        "spec.serving.powerMode": "Balanced",
        "spec.serving.rollout": "Surge",
    }


def test_defaults_of_a_hardware_class() -> None:
    assert defaults("HardwareClass") == {
        "spec.description": "",
        "spec.architectures": [],
        "spec.operatingSystems": ["linux"],
        "spec.labels": [],
        "spec.labels[].values": [],
        "spec.resources": [],
        "spec.resources[].minimum": 1,
        "spec.tolerations": [],
        "spec.tolerations[].operator": "Exists",
        "spec.priority": 0,
    }


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("EdgeModel", "Ready Reason Variants Schemes Source* Endpoint* Message* Age"),
        (
            "ModelArtifact",
            "Ready Reason Scheme Step Percent Bytes Compression Accuracy Speedup* Memory Saved* Source* Message* Age",
        ),
        ("EdgeRuntime", "Format Default Image* Age"),
        ("HardwareClass", "Priority Architectures Description Age"),
    ],
)
def test_printed_columns_of(kind: str, expected: str) -> None:
    """A star stands at those of `-o wide`."""
    columns = BY_KIND[kind].columns
    assert " ".join(column.name + "*" * column.priority for column in columns) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_printed_columns_read_fields_that_exist(kind: str) -> None:
    known = {path.replace("[]", "") for path, _ in parts(kind)} | {"metadata.creationTimestamp"}
    for column in BY_KIND[kind].columns:
        path = column.path.replace('[?(@.type=="Ready")]', "").replace("[*]", "").removeprefix(".")
        assert path in known, column.name


@pytest.mark.parametrize(
    ("kind", "plural", "short", "scope"),
    [
        ("EdgeModel", "edgemodels", "em", "Namespaced"),
        ("ModelArtifact", "modelartifacts", "ma", "Namespaced"),
        ("EdgeRuntime", "edgeruntimes", "er", "Cluster"),
        ("HardwareClass", "hardwareclasses", "hc", "Cluster"),
    ],
)
def test_resource_is_named(kind: str, plural: str, short: str, scope: str) -> None:
    definition = custom_resource_definition(BY_KIND[kind])
    assert definition["metadata"] == {
        "name": f"{plural}.edgemodel.dev",
        "annotations": {"helm.sh/resource-policy": "keep"},
    }
    names = definition["spec"]["names"]
    assert (names["plural"], names["shortNames"], definition["spec"]["scope"]) == (plural, [short], scope)
