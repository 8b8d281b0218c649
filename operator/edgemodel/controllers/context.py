"""What all controllers share: the cache, the applier, the store, and the cluster as decisions see it."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, TypeVar

from pydantic import ValidationError

from edgemodel.api.base import ApiModel
from edgemodel.api.runtime import EdgeRuntime, HardwareClass
from edgemodel.core.facts import with_probed
from edgemodel.core.hardware import NodeFacts, fleet_of
from edgemodel.core.plan import Landscape
from edgemodel.core.problem import Problem
from edgemodel.core.settings import Settings
from edgemodel.engine.applier import Applier
from edgemodel.engine.cache import Cache
from edgemodel.engine.client import Client
from edgemodel.engine.errors import ApiError, Forbidden, Invalid
from edgemodel.engine.events import Events
from edgemodel.engine.objects import Object
from edgemodel.store.artifacts import ArtifactStore
from edgemodel.store.errors import StoreError

_log = logging.getLogger(__name__)

Model = TypeVar("Model", bound=ApiModel)
Answer = TypeVar("Answer")
EventType = Literal["Normal", "Warning"]


def node_facts(node: Object) -> NodeFacts:
    """What decides a Node's classes."""
    labels = node["metadata"].get("labels", {})
    return NodeFacts(
        name=node["metadata"]["name"],
        architecture=labels.get("kubernetes.io/arch", ""),
        operating_system=labels.get("kubernetes.io/os", ""),
        labels=with_probed(labels),
        allocatable=node.get("status", {}).get("allocatable", {}),
    )


def now() -> datetime:
    """This moment."""
    return datetime.now(UTC)


def timestamp() -> str:
    """This moment as the Kubernetes API writes it."""
    return now().strftime("%Y-%m-%dT%H:%M:%SZ")


def api_problem(error: ApiError) -> Problem | None:
    """What the user can do about the API server's refusal; None where trying again is all there is to do."""
    if isinstance(error, Invalid):
        return Problem.stalling("Rejected", f"the API server rejects an object of ours: {error.message}")
    if isinstance(error, Forbidden):
        return Problem.retrying("Forbidden", f"the API server forbids it: {error.message}")
    return None


def store_problem(error: StoreError) -> Problem:
    """A failure of the object store in the words of a condition."""
    make = Problem.retrying if error.retry else Problem.stalling
    return make(error.reason, str(error))


@dataclass
class Context:
    """What a controller works with."""

    cache: Cache
    client: Client
    applier: Applier
    events: Events
    store: ArtifactStore
    settings: Settings
    wake: Callable[[str, str], None] = lambda namespace, name: None
    """Has a ModelArtifact looked at."""
    _landscape: Landscape | None = None

    def forget_landscape(self) -> None:
        """A node, a runtime or a class has changed."""
        self._landscape = None

    def landscape(self) -> Landscape:
        """What the cluster offers, kept until something of it changes."""
        if self._landscape is None:
            classes = {item.metadata.name: item for item in self.parsed("HardwareClass", HardwareClass)}
            runtimes = {item.metadata.name: item for item in self.parsed("EdgeRuntime", EdgeRuntime)}
            nodes = [node_facts(node) for node in self.cache.list("Node")]
            self._landscape = Landscape(runtimes, classes, fleet_of(nodes, classes.values()))
        return self._landscape

    def parsed(self, kind: str, model: type[Model]) -> list[Model]:
        """All objects of a kind. One that this version can't read is left out, and said so."""
        found = []
        for obj in self.cache.list(kind):
            try:
                found.append(model.model_validate(obj))
            except ValidationError as error:
                _log.warning("%s %s is left out: %s", kind, obj["metadata"]["name"], error)
        return found

    async def ask_store(self, call: Callable[[], Answer]) -> Answer:
        """A blocking call of the store, on a thread."""
        return await asyncio.to_thread(call)
