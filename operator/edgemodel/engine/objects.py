"""Names of things in a cluster: resources, references to objects, work-queue keys."""

from dataclasses import dataclass
from typing import Any, NamedTuple

Object = dict[str, Any]
"""A Kubernetes object as JSON."""


class Ref(NamedTuple):
    """Which object. `namespace` is empty for what is cluster-scoped."""

    kind: str
    namespace: str
    name: str

    @classmethod
    def of(cls, obj: Object) -> "Ref":
        """The reference to an object at hand."""
        metadata = obj["metadata"]
        return cls(obj["kind"], metadata.get("namespace", ""), metadata["name"])

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


class Key(NamedTuple):
    """A unit of work: one object, as one controller sees it."""

    controller: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.controller} {self.namespace}/{self.name}" if self.namespace else f"{self.controller} {self.name}"


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of object and where the API serves it."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """What stands in an object's `apiVersion`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def root(self) -> str:
        """The path of the group and version."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The path of one object, or without a name of the collection; without a namespace that of all namespaces."""
        parts = [self.root]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts += [self.plural, name, subresource]
        return "/".join(part for part in parts if part)

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural
