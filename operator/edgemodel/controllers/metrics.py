"""What the cluster's models look like to Prometheus, read from the cache when it is scraped."""

from collections import Counter
from collections.abc import Iterable

from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from edgemodel.engine.cache import Cache
from edgemodel.engine.objects import Object

_LABELS = ("namespace", "state", "reason")


def _labels(obj: Object) -> tuple[str, str, str]:
    """Namespace, state and reason."""
    found = {condition["type"]: condition for condition in obj.get("status", {}).get("conditions", ())}
    ready = found.get("Ready", {"status": "Unknown", "reason": "NotSeen"})
    state = next(
        (kind for kind in ("Ready", "Stalled", "Reconciling") if found.get(kind, {}).get("status") == "True"), "Unknown"
    )
    return obj["metadata"]["namespace"], state, ready["reason"]


class ModelCollector(Collector):
    """Counts by condition. Each object is counted once, so there are no more label sets than objects."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def collect(self) -> Iterable[Metric]:
        """One gauge for each of our two namespaced resources, and the bytes that artifacts take and save."""
        for kind, name in (("EdgeModel", "edgemodel_models"), ("ModelArtifact", "edgemodel_artifacts")):
            family = GaugeMetricFamily(name, f"{kind}s by their conditions", labels=_LABELS)
            counts = Counter(_labels(obj) for obj in self._cache.list(kind))
            for labels, count in counts.items():
                family.add_metric(labels, count)
            yield family
        size = GaugeMetricFamily("edgemodel_artifact_bytes", "Size of all artifacts", labels=["scheme"])
        by_scheme: Counter[str] = Counter()
        for obj in self._cache.list("ModelArtifact"):
            by_scheme[obj["spec"]["recipe"]["scheme"]] += obj.get("status", {}).get("bytes", 0)
        for scheme, total in by_scheme.items():
            size.add_metric([scheme], total)
        yield size


def register(cache: Cache) -> None:
    """Has /metrics show what the cache holds."""
    REGISTRY.register(ModelCollector(cache))
