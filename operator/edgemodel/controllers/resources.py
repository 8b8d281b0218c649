"""Which resources the controllers watch, what they keep of each, and whom a change wakes."""

from collections.abc import Callable, Iterable

from edgemodel.api import GROUP, VERSION
from edgemodel.core.objects import ARTIFACT_LABEL, MODEL_LABEL, PROBE_ROLE, ROLE_LABEL
from edgemodel.core.rollout import artifact_of
from edgemodel.engine.cache import Cache, Watch
from edgemodel.engine.objects import Key, Object, Resource

EDGE_MODEL = Resource(GROUP, VERSION, "edgemodels", "EdgeModel")
MODEL_ARTIFACT = Resource(GROUP, VERSION, "modelartifacts", "ModelArtifact")
EDGE_RUNTIME = Resource(GROUP, VERSION, "edgeruntimes", "EdgeRuntime", namespaced=False)
HARDWARE_CLASS = Resource(GROUP, VERSION, "hardwareclasses", "HardwareClass", namespaced=False)
NODE = Resource("", "v1", "nodes", "Node", namespaced=False)
POD = Resource("", "v1", "pods", "Pod")
SERVICE = Resource("", "v1", "services", "Service")
DEPLOYMENT = Resource("apps", "v1", "deployments", "Deployment")
DAEMON_SET = Resource("apps", "v1", "daemonsets", "DaemonSet")
JOB = Resource("batch", "v1", "jobs", "Job")
NAMESPACE = Resource("", "v1", "namespaces", "Namespace", namespaced=False)

MODEL_CONTROLLER = "edgemodel"
ARTIFACT_CONTROLLER = "modelartifact"
NODE_CONTROLLER = "node"

OURS = "app.kubernetes.io/managed-by=edgemodel"

BY_MODEL = "model"
"""Index of children: by `NAMESPACE/EDGEMODEL`."""
BY_ARTIFACT = "artifact"
"""Index of Jobs, pods, workloads and, by their status, EdgeModels: by `NAMESPACE/KEY`."""
BY_NODE = "node"
"""Index of the probe's pods: by `NAMESPACE/NODE`."""
BY_SOURCE = "source"
"""Index of EdgeModels and ModelArtifacts: by `NAMESPACE/URI`."""


def model_key(namespace: str, name: str) -> Key:
    """The work-queue key of an EdgeModel."""
    return Key(MODEL_CONTROLLER, namespace, name)


def artifact_key(namespace: str, name: str) -> Key:
    """The work-queue key of a ModelArtifact."""
    return Key(ARTIFACT_CONTROLLER, namespace, name)


def _labels(obj: Object) -> dict[str, str]:
    labels: dict[str, str] = obj["metadata"].get("labels", {})
    return labels


def _index(obj: Object, value: str) -> list[str]:
    return [f"{obj['metadata']['namespace']}/{value}"] if value else []


def _by_model(obj: Object) -> list[str]:
    return _index(obj, _labels(obj).get(MODEL_LABEL, ""))


def _by_artifact(obj: Object) -> list[str]:
    return _index(obj, _labels(obj).get(ARTIFACT_LABEL, ""))


def _by_served_artifact(obj: Object) -> list[str]:
    return _index(obj, artifact_of(obj))


def _by_node(obj: Object) -> list[str]:
    return _index(obj, obj.get("spec", {}).get("nodeName", ""))


def _by_wanted_artifacts(obj: Object) -> list[str]:
    return [name for key in _wanted_artifacts(obj) for name in _index(obj, key)]


def _wanted_artifacts(model: Object) -> list[str]:
    """The keys in an EdgeModel's status."""
    variants = model.get("status", {}).get("variants", ())
    return [variant["artifact"]["key"] for variant in variants if variant.get("artifact")]


def _by_source(obj: Object) -> list[str]:
    return _index(obj, obj["spec"]["source"]["uri"])


def _without_status(obj: Object) -> Object:
    return {name: value for name, value in obj.items() if name != "status"}


_WORKLOAD_STATUS = frozenset(
    {
        "observedGeneration",
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "desiredNumberScheduled",
        "updatedNumberScheduled",
        "currentNumberScheduled",
        "numberReady",
    }
)


_WORKLOAD_TROUBLE = {("ReplicaFailure", "True"), ("Progressing", "False")}


def _workload(obj: Object) -> Object:
    status = obj.get("status", {})
    kept = {name: value for name, value in status.items() if name in _WORKLOAD_STATUS}
    conditions = status.get("conditions", ())
    kept["conditions"] = [each for each in conditions if (each["type"], each["status"]) in _WORKLOAD_TROUBLE]
    return obj | {"status": kept}


def _pod(obj: Object) -> Object:
    """How it is doing; what it is made of is known. Of the probe's, also where it is."""
    status = obj.get("status", {})
    told = {"PodScheduled", "DisruptionTarget"}
    kept = {name: status[name] for name in ("phase", "reason", "message") if name in status}
    kept["conditions"] = [condition for condition in status.get("conditions", ()) if condition["type"] in told]
    for group in ("initContainerStatuses", "containerStatuses"):
        if group in status:
            kept[group] = [
                {name: container[name] for name in ("name", "ready", "state", "lastState") if name in container}
                for container in status[group]
            ]
    place = {"spec": {"nodeName": obj["spec"].get("nodeName", "")}} if _is_probe(obj) else {}
    return {name: obj[name] for name in ("apiVersion", "kind", "metadata")} | place | {"status": kept}


def _is_probe(pod: Object) -> bool:
    return _labels(pod).get(ROLE_LABEL) == PROBE_ROLE


def _job(obj: Object) -> Object:
    return {name: obj[name] for name in ("apiVersion", "kind", "metadata")} | {"status": obj.get("status", {})}


def _node(obj: Object) -> Object:
    """What a hardware class may ask: not the heartbeat, nor the resources that every node has."""
    allocatable = obj.get("status", {}).get("allocatable", {})
    return {name: obj[name] for name in ("apiVersion", "kind", "metadata")} | {
        "status": {"allocatable": {name: amount for name, amount in allocatable.items() if "/" in name}}
    }


class Watches:
    """The watches. Whom an event wakes may depend on other objects, so they look into the cache that they fill."""

    def __init__(self, landscape_changed: Callable[[], None]) -> None:
        self.cache: Cache | None = None
        """Set once the cache is made from `all`."""
        self._landscape_changed = landscape_changed
        self.all = (
            Watch(EDGE_MODEL, self._model, indices={BY_SOURCE: _by_source, BY_ARTIFACT: _by_wanted_artifacts}),
            Watch(MODEL_ARTIFACT, self._artifact, indices={BY_SOURCE: _by_source}),
            Watch(EDGE_RUNTIME, self._landscape),
            Watch(HARDWARE_CLASS, self._landscape),
            Watch(NODE, self._landscape, project=_node),
            Watch(SERVICE, self._child, OURS, project=_without_status, indices={BY_MODEL: _by_model}),
            Watch(POD, self._pod, OURS, _pod, {BY_MODEL: _by_model, BY_ARTIFACT: _by_artifact, BY_NODE: _by_node}),
            Watch(JOB, self._child, OURS, _job, {BY_ARTIFACT: _by_artifact}),
            Watch(DEPLOYMENT, self._workload, OURS, _workload, {BY_MODEL: _by_model, BY_ARTIFACT: _by_served_artifact}),
            Watch(DAEMON_SET, self._workload, OURS, _workload, {BY_MODEL: _by_model, BY_ARTIFACT: _by_served_artifact}),
        )

    def _indexed(self, kind: str, index: str, values: Iterable[str]) -> Iterable[tuple[str, str]]:
        if self.cache is not None:
            for value in values:
                for ref in self.cache.by_index(kind, index, value):
                    yield ref.namespace, ref.name

    def _model(self, obj: Object) -> Iterable[Key]:
        """Also artifacts that it may have wanted until now: nobody may want them any more."""
        namespace = obj["metadata"]["namespace"]
        yield model_key(namespace, obj["metadata"]["name"])
        for found in self._indexed("ModelArtifact", BY_SOURCE, _by_source(obj)):
            yield artifact_key(*found)
        for key in _wanted_artifacts(obj):
            yield artifact_key(namespace, key)

    def _artifact(self, obj: Object) -> Iterable[Key]:
        """Also EdgeModels that want it, or may: of the same source, or of one that holds the same files."""
        yield artifact_key(obj["metadata"]["namespace"], obj["metadata"]["name"])
        for found in self._indexed("EdgeModel", BY_SOURCE, _by_source(obj)):
            yield model_key(*found)
        for found in self._indexed("EdgeModel", BY_ARTIFACT, _index(obj, obj["metadata"]["name"])):
            yield model_key(*found)

    def _workload(self, obj: Object) -> Iterable[Key]:
        """Also the artifact that it serves, which may go with it: a workload scaled to none has no pods to tell."""
        yield from self._child(obj)
        if key := artifact_of(obj):
            yield artifact_key(obj["metadata"]["namespace"], key)

    def _pod(self, obj: Object) -> Iterable[Key]:
        yield from self._child(obj)
        if _is_probe(obj):
            yield Key(NODE_CONTROLLER, "", obj["spec"]["nodeName"])

    def _child(self, obj: Object) -> Iterable[Key]:
        namespace, labels = obj["metadata"]["namespace"], _labels(obj)
        if MODEL_LABEL in labels:
            yield model_key(namespace, labels[MODEL_LABEL])
        if ARTIFACT_LABEL in labels:
            yield artifact_key(namespace, labels[ARTIFACT_LABEL])

    def _landscape(self, obj: Object) -> Iterable[Key]:
        """What the cluster offers has changed: every decision is looked at again."""
        self._landscape_changed()
        if self.cache is None:
            return
        if obj["kind"] == "HardwareClass":
            for ref in self.cache.refs("Node"):
                yield Key(NODE_CONTROLLER, "", ref.name)
        if obj["kind"] == "Node":
            yield Key(NODE_CONTROLLER, "", obj["metadata"]["name"])
        for ref in self.cache.refs("EdgeModel"):
            yield model_key(ref.namespace, ref.name)
        if obj["kind"] == "EdgeRuntime":
            for ref in self.cache.refs("ModelArtifact"):
                yield artifact_key(ref.namespace, ref.name)
