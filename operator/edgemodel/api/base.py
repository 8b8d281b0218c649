"""What the four resources share: the base type, bounded strings, conditions, metadata."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo


class ApiModel(BaseModel):
    """A frozen value; camelCase on the wire. Unknown fields are dropped, as an apiserver prunes them."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore", use_attribute_docstrings=True
    )

    def dump(self) -> dict[str, object]:
        """The object as it goes over the wire: camelCase, nothing that is unset."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


Task = Literal["TextGeneration", "Embeddings"]
"""What a model does."""

Name = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
"""A DNS label, as Kubernetes names most things."""

SchemeName = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")]
"""A quantization scheme's name, also a valid label value."""

Sha256 = Annotated[str, Field(max_length=71, pattern=r"^sha256:[0-9a-f]{64}$")]
"""A digest, `sha256:` and 64 hex digits."""

ArtifactKey = Annotated[str, Field(min_length=32, max_length=32, pattern=r"^[0-9a-f]{32}$")]
"""The first 128 bits of the hash of all that determines an artifact's content."""

Decimal = Annotated[str, Field(max_length=24, pattern=r"^-?[0-9]{1,12}(\.[0-9]{1,9})?$")]
"""A decimal number as a string: the Kubernetes API has no floats."""

Text = Annotated[str, Field(max_length=1024)]
ShortText = Annotated[str, Field(max_length=256)]
LARGEST = 2**53 - 1
"""Whole numbers up to here mean the same to every reader of JSON."""

Count = Annotated[int, Field(ge=0, le=LARGEST)]
Bytes = Count
Generation = Annotated[int, Field(ge=-1, le=LARGEST)]


def decimal(value: float, digits: int = 4) -> str:
    """A float as a `Decimal`, rounded to `digits`."""
    return f"{value:.{digits}f}"


def keyed(*keys: str, max_length: int, min_length: int | None = None) -> FieldInfo:
    """A list whose items are known by `keys`, so that two appliers can own an item each."""
    info: FieldInfo = Field(
        max_length=max_length,
        min_length=min_length,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)},
    )
    return info


def rules(*validations: tuple[str, str]) -> ConfigDict:
    """The type's CEL rules, each an expression and what to tell the user when it is false."""
    found: list[Any] = [{"rule": rule, "message": message} for rule, message in validations]
    return ConfigDict(json_schema_extra={"x-kubernetes-validations": found})


class ObjectMeta(ApiModel):
    """The part of `metav1.ObjectMeta` that the operator reads."""

    name: str
    """Name."""
    namespace: str = ""
    """Namespace; empty for what is cluster-scoped."""
    uid: str = ""
    """Identity: a new object of the same name has another."""
    generation: int = 0
    """Counts the changes of the spec."""
    resource_version: str = ""
    """Changes with each write."""
    creation_timestamp: str | None = None
    """When it was created."""
    deletion_timestamp: str | None = None
    """When it was deleted, while finalizers hold it."""
    labels: dict[str, str] = {}
    """Labels."""
    annotations: dict[str, str] = {}
    """Annotations."""
    finalizers: list[str] = []
    """Who must act before it goes."""


class Condition(ApiModel):
    """One condition, as in `metav1.Condition`."""

    type: Annotated[str, Field(max_length=63)]
    """What is judged: Ready, Reconciling or Stalled."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Annotated[str, Field(max_length=63, pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$")]
    """Why, as one word for programs."""
    message: Annotated[str, Field(max_length=2048)] = ""
    """Why, for people, and what to do about it."""
    observed_generation: Generation = -1
    """The generation of the spec that this was said of."""
    last_transition_time: Annotated[str, Field(max_length=32, json_schema_extra={"format": "date-time"})]
    """When the status last changed."""


class LocalRef(ApiModel):
    """A reference to an object in the same namespace."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """Its name."""


class Resources(ApiModel):
    """What a container asks of its node, as Kubernetes quantities."""

    cpu: Annotated[str, Field(max_length=24, pattern=r"^[0-9]{1,6}m?$")] | None = None
    """CPU, for example `2` or `500m`: both request and limit, so that threads can be sized from it."""
    memory: Annotated[str, Field(max_length=24, pattern=r"^[0-9]{1,12}(Ki|Mi|Gi|Ti)?$")] | None = None
    """Memory, for example `2Gi`: both request and limit."""
