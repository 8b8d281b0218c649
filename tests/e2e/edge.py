"""What the end-to-end tests do to the cluster, in the words of a platform engineer."""

import json
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kubernetes.client import ApiClient, ApiException
from openai import OpenAI

from hack.cluster.shell import ClusterError
from hack.deploy import SOURCES, SYSTEM_NAMESPACE, Deployed
from tests.kstatus import kstatus

NAMESPACE = "edge-e2e"
OTHER_NAMESPACE = "edge-e2e-other"
Json = dict[str, Any]

_POST = """
import sys, urllib.request
url, body, times = sys.argv[1:]
for _ in range(int(times)):
    request = urllib.request.Request(url, body.encode(), {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=60).read()
"""

SMALL: Json = {"cpu": "250m"}
"""Several pods must fit the two cores of a test machine."""


def edge_model(name: str, scheme: str = "Q8_0", **spec: Any) -> Json:
    """An EdgeModel of the tiny model."""
    variant = {"name": "cpu", "runtime": "llamacpp", "quantization": {"scheme": scheme}, "resources": SMALL}
    return {
        "apiVersion": "edgemodel.dev/v1alpha1",
        "kind": "EdgeModel",
        "metadata": {"name": name},
        "spec": {
            "source": {"uri": f"s3://{SOURCES}/tiny", "secretRef": {"name": SOURCES}},
            "variants": [variant],
            "serving": {"contextLength": 256, "parallel": 2},
        }
        | spec,
    }


def condition(obj: Json, kind: str) -> Json:
    """A condition of an object; empty if it has none of this type."""
    found = obj.get("status", {}).get("conditions", [])
    return next((each for each in found if each["type"] == kind), {})


_EDGEMODEL, _CORE, _APPS = "/apis/edgemodel.dev/v1alpha1", "/api/v1", "/apis/apps/v1"
_NAMESPACED = {
    "em": f"{_EDGEMODEL}/*/edgemodels",
    "ma": f"{_EDGEMODEL}/*/modelartifacts",
    "pods": f"{_CORE}/*/pods",
    "secrets": f"{_CORE}/*/secrets",
    "services": f"{_CORE}/*/services",
    "events": f"{_CORE}/*/events",
    "jobs": "/apis/batch/v1/*/jobs",
    "deployments": f"{_APPS}/*/deployments",
    "daemonsets": f"{_APPS}/*/daemonsets",
    "replicasets": f"{_APPS}/*/replicasets",
    "endpointslices": "/apis/discovery.k8s.io/v1/*/endpointslices",
}
_CLUSTERWIDE = {
    "er": f"{_EDGEMODEL}/edgeruntimes",
    "hc": f"{_EDGEMODEL}/hardwareclasses",
    "nodes": f"{_CORE}/nodes",
    "csr": "/apis/certificates.k8s.io/v1/certificatesigningrequests",
}


def _path(kind: str, namespace: str) -> str:
    """Of a kind, by kubectl's short name for it, or its plural or singular."""
    paths = _CLUSTERWIDE | _NAMESPACED
    return (paths.get(kind) or paths[f"{kind}s"]).replace("*", f"namespaces/{namespace}")


def _shown(obj: Json) -> Json:
    """As kubectl shows it: without what it keeps of who wrote which field."""
    obj["metadata"].pop("managedFields", None)
    return obj


@dataclass
class Edge:
    """The cluster under test. What is written goes by kubectl; what is read, again and again while something is waited
    for, by the API itself: a kubectl each time would take a tenth of the machine."""

    deployed: Deployed
    api: ApiClient

    def apply(self, obj: Json, namespace: str = NAMESPACE) -> None:
        """kubectl apply."""
        self.deployed.kubectl("apply", "--namespace", namespace, "-f", "-", text=json.dumps(obj))

    def delete(self, kind: str, name: str, namespace: str = NAMESPACE) -> None:
        """kubectl delete, waiting until it is gone."""
        self.deployed.kubectl("delete", kind, name, "--namespace", namespace, "--ignore-not-found", "--timeout=180s")

    def get(self, kind: str, name: str, namespace: str = NAMESPACE) -> Json:
        """One object."""
        return _shown(self._read(f"{_path(kind, namespace)}/{name}"))

    def list(self, kinds: str, namespace: str = NAMESPACE, selector: str = "") -> list[Json]:
        """All objects of some kinds."""
        items = []
        for kind in kinds.split(","):
            found = self._read(_path(kind, namespace), labelSelector=selector)
            items += [{"kind": found["kind"].removesuffix("List")} | _shown(item) for item in found["items"]]
        return items

    def _read(self, path: str, **query: str) -> Json:
        try:
            found: Json = self.api.call_api(
                path,
                "GET",
                query_params=list(query.items()),
                response_types_map={200: "object"},
                auth_settings=["BearerToken"],
                _return_http_data_only=True,
            )
        except ApiException as error:
            raise ClusterError(f"GET {path}: {error.status} {error.body}") from None
        return found

    def wait(self, what: str, holds: Callable[[], bool], seconds: float = 180) -> None:
        """Waits until something holds."""
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                raise AssertionError(f"{what}: not so after {seconds:.0f} s\n{self.describe()}")
            time.sleep(0.5)

    def wait_ready(self, name: str, namespace: str = NAMESPACE, seconds: float = 300) -> Json:
        """What a GitOps pipeline does: waits for Ready of the latest generation. Fails at once when it stalls."""

        def ready() -> bool:
            model = self.get("em", name, namespace)
            if kstatus(model) == "Failed":
                raise AssertionError(f"stalled: {condition(model, 'Stalled')}")
            return kstatus(model) == "Current"

        self.wait(f"EdgeModel {name} ready", ready, seconds)
        return self.get("em", name, namespace)

    def wait_reason(self, name: str, reason: str, status: str, seconds: float = 180) -> Json:
        """Waits until an EdgeModel is not Ready for a reason and kstatus takes it for this."""
        seen: list[Json] = []

        def so() -> bool:
            seen.append(self.get("em", name))
            ready = condition(seen[-1], "Ready")
            return (ready.get("status"), ready.get("reason"), kstatus(seen[-1])) == ("False", reason, status)

        self.wait(f"EdgeModel {name}: {reason}", so, seconds)
        return seen[-1]

    def events(self, name: str, namespace: str = NAMESPACE) -> set[str]:
        """Reasons of the Events about an object."""
        found = self.list("events", namespace)
        return {event["reason"] for event in found if event["involvedObject"]["name"] == name}

    def describe(self) -> str:
        """The cluster, for whoever reads why a test failed: what went last stands last, for logs are cut."""
        in_namespace = ("--namespace", NAMESPACE)
        of_operator = ("--namespace", SYSTEM_NAMESPACE, "--selector", "app.kubernetes.io/component=operator")
        found = []
        for command in (
            ("get", "em", *in_namespace),
            ("get", "events", *in_namespace, "--sort-by=.metadata.creationTimestamp", "--no-headers"),
            ("get", "pods,jobs", *in_namespace),
            ("get", "pods", *of_operator),
            ("logs", *of_operator, "--prefix", "--tail=60"),
            ("get", "ma", *in_namespace, "-o", "jsonpath={range .items[*]}{.metadata.name} {.status}{'\\n'}{end}"),
        ):
            try:
                found.append("\n".join(self.deployed.kubectl(*command).splitlines()[-60:]))
            except ClusterError as error:
                found.append(str(error))
        return "\n".join(found)

    def clear(self) -> None:
        """Deletes what earlier tests left."""
        for namespace in (NAMESPACE, OTHER_NAMESPACE):
            self.deployed.kubectl("delete", "em,ma", "--all", "--namespace", namespace, "--timeout=180s")

    def blobs(self, namespace: str = NAMESPACE) -> set[str]:
        """Keys of all objects in the artifact store."""
        with self.deployed.store(namespace) as s3:
            buckets = [bucket["Name"] for bucket in s3.list_buckets()["Buckets"] if bucket["Name"] != SOURCES]
            pages = [s3.list_objects_v2(Bucket=bucket) for bucket in buckets]
        return {found["Key"] for page in pages for found in page.get("Contents", [])}

    @contextmanager
    def shelves(self, kind: str, runtimes: Sequence[str]) -> Iterator[Sequence[Json]]:
        """The machine's node is of one class more for each of these runtimes, which serves there: until the block ends.
        The variants of an EdgeModel that has one on each."""
        node = self.list("nodes")[0]["metadata"]["name"]
        names = {runtime: f"e2e-{kind}-{runtime}" for runtime in runtimes}
        for runtime, name in names.items():
            label = f"example.com/{name}"
            offered = self.get("er", runtime)
            spec = offered["spec"] | {"hardware": [{"class": name}]}
            head = {"apiVersion": offered["apiVersion"], "metadata": {"name": name}}
            requirement = {"key": label, "operator": "Exists"}
            self.apply(head | {"kind": "HardwareClass", "spec": {"labels": [requirement]}})
            self.apply(head | {"kind": "EdgeRuntime", "spec": spec})
            self.deployed.kubectl("label", "node", node, f"{label}=here", "--overwrite")
        yield [
            {"name": runtime, "runtime": name, "hardware": name, "resources": SMALL} for runtime, name in names.items()
        ]
        self.clear()
        for name in names.values():
            self.deployed.kubectl("label", "node", node, f"example.com/{name}-")
            self.delete("er", name)
            self.delete("hc", name)

    @contextmanager
    def openai(self, name: str, namespace: str = NAMESPACE) -> Iterator[OpenAI]:
        """The official client, on the model's Service."""
        with self.openai_at(f"service/{name}", 80, namespace) as client:
            yield client

    @contextmanager
    def openai_at(self, target: str, port: int, namespace: str = NAMESPACE) -> Iterator[OpenAI]:
        """The official client, on a Service or a pod."""
        with self.deployed.forwarded(namespace, target, port) as port:
            client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
            with client:
                yield client

    def ask_from_within(self, pod: str, url: str, body: Json, times: int) -> None:
        """Posts from a pod whose image has a Python, each time on another connection: what the Service does with it is
        the cluster's doing, while what is forwarded to a Service always reaches the same pod. Fails if one fails."""
        request = (url, json.dumps(body), str(times))
        self.deployed.kubectl("exec", "--namespace", NAMESPACE, pod, "--", "python3", "-c", _POST, *request)

    def scrape(self, namespace: str, target: str, port: int) -> Mapping[str, float]:
        """What Prometheus would get: sample name with labels -> value."""
        with (
            self.deployed.forwarded(namespace, target, port) as local,
            urllib.request.urlopen(f"http://127.0.0.1:{local}/metrics") as answer,
        ):
            lines = answer.read().decode().splitlines()
        samples = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}
