"""Which nodes are of which hardware class."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from edgemodel.api.runtime import HardwareClass, HardwareClassSpec, LabelRequirement, ResourceRequirement

HARDWARE_LABEL = "edgemodel.dev/hardware"
"""On a node: the class of the highest priority that it is of. On a pod: the class that it was made for."""

CLASS_LABEL_DOMAIN = "hardware.edgemodel.dev"
"""On a node: `hardware.edgemodel.dev/CLASS: "true"` for each class that it is of. Pods select nodes by it."""


def class_label(name: str) -> str:
    """The node label that says that a node is of this class."""
    return f"{CLASS_LABEL_DOMAIN}/{name}"


@dataclass(frozen=True)
class NodeFacts:
    """What decides a node's classes."""

    name: str
    architecture: str
    operating_system: str
    labels: Mapping[str, str]
    allocatable: Mapping[str, str]


def _meets_label(requirement: LabelRequirement, labels: Mapping[str, str]) -> bool:
    value = labels.get(requirement.key)
    match requirement.operator:
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "In":
            return value in requirement.values
        case "NotIn":
            return value not in requirement.values


def _meets_resource(requirement: ResourceRequirement, allocatable: Mapping[str, str]) -> bool:
    """Extended resources are whole numbers; others (`cpu: 1900m`) are not what a class is told apart by."""
    prefix = requirement.name.removesuffix("*")
    exact = prefix == requirement.name
    amounts = (
        int(amount)
        for name, amount in allocatable.items()
        if (name == prefix if exact else name.startswith(prefix)) and amount.isdigit()
    )
    return sum(amounts) >= requirement.minimum


def is_of_class(node: NodeFacts, spec: HardwareClassSpec) -> bool:
    """Whether the node meets all that the class asks."""
    return (
        (not spec.architectures or node.architecture in spec.architectures)
        and (not spec.operating_systems or node.operating_system in spec.operating_systems)
        and all(_meets_label(requirement, node.labels) for requirement in spec.labels)
        and all(_meets_resource(requirement, node.allocatable) for requirement in spec.resources)
    )


def classes_of(node: NodeFacts, classes: Iterable[HardwareClass]) -> tuple[str, ...]:
    """Names of the node's classes, the best first: by priority, then by name so that the answer never wavers."""
    found = [hardware for hardware in classes if is_of_class(node, hardware.spec)]
    found.sort(key=lambda hardware: (-hardware.spec.priority, hardware.metadata.name))
    return tuple(hardware.metadata.name for hardware in found)


def hardware_labels(classes: tuple[str, ...]) -> dict[str, str]:
    """The labels of a node of these classes."""
    labels = {class_label(name): "true" for name in classes}
    if classes:
        labels[HARDWARE_LABEL] = classes[0]
    return labels


@dataclass(frozen=True)
class Fleet:
    """How many nodes there are of each class."""

    nodes: Mapping[tuple[str, ...], int]
    """Classes, the best first -> nodes that are of just these."""

    @cached_property
    def any_rank(self) -> Mapping[str, int]:
        """Class -> nodes that are of it."""
        found: Counter[str] = Counter()
        for classes, count in self.nodes.items():
            found.update(dict.fromkeys(classes, count))
        return found


def fleet_of(nodes: Iterable[NodeFacts], classes: Iterable[HardwareClass]) -> Fleet:
    """Count the nodes."""
    known = tuple(classes)
    return Fleet(Counter(filter(None, (classes_of(node, known) for node in nodes))))
