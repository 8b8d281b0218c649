"""A toy operator on the engine, run as a process of its own: a Toy becomes a Deployment and a Service."""

import os
from collections.abc import Iterable

from edgemodel.engine.cache import Watch
from edgemodel.engine.objects import Key, Object, Resource
from edgemodel.engine.runtime import Options, Runtime

TOYS = Resource("engine.test", "v1", "toys", "Toy")
DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment")
SERVICES = Resource("", "v1", "services", "Service")
LABELS = {"app.kubernetes.io/managed-by": "toy"}
SELECTOR = "app.kubernetes.io/managed-by=toy"


def itself(obj: Object) -> Iterable[Key]:
    """The key of a Toy."""
    yield Key("toy", obj["metadata"]["namespace"], obj["metadata"]["name"])


def of_owner(obj: Object) -> Iterable[Key]:
    """The keys of the Toys that own this."""
    for owner in obj["metadata"].get("ownerReferences", ()):
        if owner["kind"] == TOYS.kind:
            yield Key("toy", obj["metadata"]["namespace"], owner["name"])


WATCHES = (
    Watch(TOYS, keys=itself),
    Watch(DEPLOYMENTS, keys=of_owner, label_selector=SELECTOR),
    Watch(SERVICES, keys=of_owner, label_selector=SELECTOR),
)


def deployment(toy: Object) -> Object:
    """What is to run."""
    return {
        **_child(toy, DEPLOYMENTS),
        "spec": {
            "replicas": toy["spec"]["size"],
            "selector": {"matchLabels": {"toy": toy["metadata"]["name"]}},
            "template": {
                "metadata": {"labels": {"toy": toy["metadata"]["name"]}},
                "spec": {
                    "containers": [
                        {
                            "name": "main",
                            "image": "toy:1",
                            "ports": [{"name": "http", "containerPort": 8080}],
                            "env": [{"name": f"VARIABLE_{i}", "value": str(i)} for i in range(8)],
                            "resources": {"limits": {"cpu": "1000m", "memory": "1024Mi"}},
                            "readinessProbe": {"httpGet": {"path": "/health", "port": "http"}},
                            "volumeMounts": [{"name": "models", "mountPath": "/models", "readOnly": True}],
                        }
                    ],
                    "volumes": [{"name": "models", "emptyDir": {}}],
                },
            },
        },
    }


def service(toy: Object) -> Object:
    """Where it answers."""
    selector = {"toy": toy["metadata"]["name"]}
    return {**_child(toy, SERVICES), "spec": {"selector": selector, "ports": [{"port": 80, "targetPort": "http"}]}}


def _child(toy: Object, resource: Resource) -> Object:
    metadata = toy["metadata"]
    owner = {
        "apiVersion": TOYS.api_version,
        "kind": TOYS.kind,
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
    }
    return {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "labels": LABELS,
            "ownerReferences": [owner],
        },
    }


class Toys:
    """The controller."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def reconcile(self, key: Key) -> float | None:
        """One Toy."""
        toy = self._runtime.cache.get(TOYS.kind, key.namespace, key.name)
        if toy is None or "deletionTimestamp" in toy["metadata"]:
            return None
        match toy["spec"]["size"]:
            case 0:
                return 0.1  # a size is awaited
            case 13:
                raise RuntimeError("thirteen")
        applier = self._runtime.applier
        await applier.ensure(deployment(toy))
        address = (await applier.ensure(service(toy)))["spec"]["clusterIP"]
        status = {"observedGeneration": toy["metadata"]["generation"], "address": address}
        if status != toy.get("status"):
            await self._runtime.events.emit(toy, "Placed", f"placed at {address}")
        await applier.ensure_status(toy, status)
        return None


if __name__ == "__main__":
    options = Options(
        component="toy",
        lease=os.environ.get("TOY_LEASE", ""),
        namespace="default",
        lease_seconds=int(os.environ.get("TOY_LEASE_SECONDS", "15")),
        port=int(os.environ["TOY_PORT"]),
    )
    runtime = Runtime(WATCHES, options=options)
    runtime.main({"toy": Toys(runtime).reconcile})
