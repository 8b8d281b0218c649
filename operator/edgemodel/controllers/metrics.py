"""What the cluster's models look like to Prometheus, read from the cache when it is scraped."""

from collections import Counter
from collections.abc import Iterable

from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from edgemodel.engine.cache import Cache


def _ready_reason(obj: dict[str, object]) -> tuple[str, str]:
    status = obj.get("status")
    conditions = status.get("conditions", ()) if isinstance(status, dict) else ()
    for condition in conditions:
        if condition["type"] == "Ready":
            return condition["status"], condition["reason"]
    return "Unknown", "NotSeen"


class ModelCollector(Collector):
    """Counts by condition; the reasons are a closed set, so the labels are bounded."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def collect(self) -> Iterable[Metric]:
        """One gauge for each of our two namespaced resources, and the bytes that artifacts take and save."""
        for kind, name in (("EdgeModel", "edgemodel_models"), ("ModelArtifact", "edgemodel_artifacts")):
            family = GaugeMetricFamily(name, f"{kind}s by their Ready condition", labels=["ready", "reason"])
            counts = Counter(_ready_reason(obj) for obj in self._cache.list(kind))
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
