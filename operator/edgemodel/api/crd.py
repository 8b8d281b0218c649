"""CustomResourceDefinitions, generated from the types: what a field means is written down once.

A pydantic JSON schema becomes a structural schema as an apiserver wants it: references inlined, titles dropped,
`X | None` is an optional X, lists say how they merge, and only the spec carries defaults (a status has one:
observedGeneration -1, so that an object that no operator has seen never looks ready).
"""

from dataclasses import dataclass, field
from typing import Any

from edgemodel.api import GROUP, VERSION
from edgemodel.api.artifact import ModelArtifact
from edgemodel.api.base import ApiModel
from edgemodel.api.model import EdgeModel
from edgemodel.api.runtime import EdgeRuntime, HardwareClass

Schema = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """A column of `kubectl get`. Priority 1 is shown by `-o wide`."""

    name: str
    path: str
    type: str = "string"
    priority: int = 0


@dataclass(frozen=True)
class CustomResource:
    """What a CustomResourceDefinition says beside its schema."""

    model: type[ApiModel]
    plural: str
    short: str
    namespaced: bool
    columns: tuple[Column, ...]
    rules: tuple[tuple[str, str], ...] = field(default=())

    @property
    def kind(self) -> str:
        """The kind: the type's own name."""
        return self.model.__name__


LABEL_NAME = (
    "size(self.metadata.name) <= 63 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
    "the name becomes a label's value: at most 63 of a-z, 0-9 and '-'",
)

READY = Column("Ready", '.status.conditions[?(@.type=="Ready")].status')
REASON = Column("Reason", '.status.conditions[?(@.type=="Ready")].reason')
MESSAGE = Column("Message", '.status.conditions[?(@.type=="Ready")].message', priority=1)
AGE = Column("Age", ".metadata.creationTimestamp", "date")

CUSTOM_RESOURCES = (
    CustomResource(
        EdgeModel,
        "edgemodels",
        "em",
        True,
        (
            READY,
            REASON,
            Column("Variants", ".status.readyVariants"),
            Column("Schemes", ".status.summary"),
            Column("Source", ".spec.source.uri", priority=1),
            Column("Endpoint", ".status.endpoint", priority=1),
            MESSAGE,
            AGE,
        ),
        (
            (
                "size(self.metadata.name) <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
                "the name becomes a Service's: at most 40 of a-z, 0-9 and '-', starting with a letter",
            ),
        ),
    ),
    CustomResource(
        ModelArtifact,
        "modelartifacts",
        "ma",
        True,
        (
            READY,
            REASON,
            Column("Scheme", ".spec.recipe.scheme"),
            Column("Step", ".status.progress.step"),
            Column("Percent", ".status.progress.percent", "integer"),
            Column("Bytes", ".status.bytes", "integer"),
            Column("Compression", ".status.compression"),
            Column("Accuracy", ".status.quality.accuracy"),
            Column("Speedup", ".status.performance.speedup", priority=1),
            Column("Memory Saved", ".status.performance.memorySaved", priority=1),
            Column("Source", ".spec.source.uri", priority=1),
            MESSAGE,
            AGE,
        ),
    ),
    CustomResource(
        EdgeRuntime,
        "edgeruntimes",
        "er",
        False,
        (
            Column("Format", ".spec.format"),
            Column("Default", ".spec.defaultScheme"),
            Column("Image", ".spec.serving.image", priority=1),
            AGE,
        ),
        (LABEL_NAME,),
    ),
    CustomResource(
        HardwareClass,
        "hardwareclasses",
        "hc",
        False,
        (
            Column("Priority", ".spec.priority", "integer"),
            Column("Architectures", ".spec.architectures"),
            Column("Description", ".spec.description"),
            AGE,
        ),
        (LABEL_NAME,),
    ),
)


def _without_nulls(value: Any) -> Any:
    """A default as a schema may hold it: what is unset is not there."""
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    return value


def _inline(node: Any, definitions: Schema, defaults: bool) -> Any:
    """The structural schema of `node`."""
    if isinstance(node, list):
        return [_inline(item, definitions, defaults) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        referred = definitions[node["$ref"].rsplit("/", 1)[1]]
        return _inline(referred | {k: v for k, v in node.items() if k != "$ref"}, definitions, defaults)
    if "anyOf" in node:
        (only,) = [option for option in node["anyOf"] if option != {"type": "null"}]
        rest = {k: v for k, v in node.items() if k not in ("anyOf", "default")}
        return _inline(only | rest, definitions, defaults)
    out: Schema = {}
    for key, value in node.items():
        if key in ("title", "const") or (key == "default" and not defaults):
            continue
        if key == "default":
            out[key] = _without_nulls(value)
        elif key == "properties":
            out[key] = {name: _inline(child, definitions, defaults) for name, child in value.items()}
        elif key == "description":
            out[key] = " ".join(value.split())
        else:
            out[key] = _inline(value, definitions, defaults)
    if out.get("type") == "array":
        out.setdefault("x-kubernetes-list-type", "atomic")
    return out


def _schema(resource: CustomResource) -> Schema:
    generated = resource.model.model_json_schema(by_alias=True, mode="validation")
    definitions = generated.get("$defs", {})
    properties: Schema = {
        "apiVersion": {"type": "string", "description": "Version of this representation of the object."},
        "kind": {"type": "string", "description": "The kind of the object."},
        "metadata": {"type": "object"},
    }
    for part in ("spec", "status"):
        if part in generated["properties"]:
            properties[part] = _inline(generated["properties"][part], definitions, defaults=part == "spec")
    if "status" in properties:
        properties["status"]["default"] = {"observedGeneration": -1}
    schema: Schema = {
        "type": "object",
        "description": " ".join((resource.model.__doc__ or "").split()),
        "properties": properties,
        "required": ["spec"],
    }
    if resource.rules:
        schema["x-kubernetes-validations"] = [{"rule": rule, "message": message} for rule, message in resource.rules]
    return schema


def _column(column: Column) -> Schema:
    shown: Schema = {"name": column.name, "type": column.type, "jsonPath": column.path}
    return shown | ({"priority": column.priority} if column.priority else {})


def custom_resource_definition(resource: CustomResource) -> Schema:
    """The CustomResourceDefinition, ready to be applied."""
    version: Schema = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [_column(column) for column in resource.columns],
        "schema": {"openAPIV3Schema": _schema(resource)},
    }
    if "status" in resource.model.model_fields:
        version["subresources"] = {"status": {}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{resource.plural}.{GROUP}", "annotations": {"helm.sh/resource-policy": "keep"}},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": resource.kind,
                "listKind": f"{resource.kind}List",
                "plural": resource.plural,
                "singular": resource.kind.lower(),
                "shortNames": [resource.short],
                "categories": ["edgemodel"],
            },
            "scope": "Namespaced" if resource.namespaced else "Cluster",
            "versions": [version],
        },
    }
