"""A stand-in for the kubelet and the controller-manager on a bare API server, and a small client to it.

On an API server alone nobody acts on objects: no pod starts, no Job ends, nothing is collected. `StandIn` does just so
much of it, in milliseconds, that an operator's whole life can be tested on a real API server:

- a resolver pod ends as its namespace's `Behaviour` says, with a termination message;
- a Job gets a pod, which ends the same way; if well, a small real artifact is published by `ArtifactStore.publish`;
- a Deployment or DaemonSet gets pods, reports the rollout in two steps, and its old pods go last;
- what an owner reference names goes with its owner, in the background or the foreground.

What it doesn't prove: that an image, a command or a probe works; scheduling, quotas and Pod Security; that a pod takes
time to die (its pods are on no node, so they go at once); Job TTLs; ReplicaSets; rollouts that stop half-way by
themselves; what the real pipeline, resolver and fetcher say. `tests/e2e` runs on a real node.
"""

import asyncio
import base64
import hashlib
import json
import ssl
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, TypeVar

import aiohttp
import yaml

from edgemodel.api.artifact import ModelFacts, QualityReport, Recipe, ResolvedSource
from edgemodel.store.artifacts import ArtifactStore
from edgemodel.store.config import StoreConfig
from edgemodel.store.manifest import Manifest, describe

Obj = dict[str, Any]
T = TypeVar("T")

KINDS = {
    "Namespace": ("/api/v1", "namespaces", False),
    "Node": ("/api/v1", "nodes", False),
    "Pod": ("/api/v1", "pods", True),
    "Service": ("/api/v1", "services", True),
    "Secret": ("/api/v1", "secrets", True),
    "Event": ("/apis/events.k8s.io/v1", "events", True),
    "Deployment": ("/apis/apps/v1", "deployments", True),
    "DaemonSet": ("/apis/apps/v1", "daemonsets", True),
    "Job": ("/apis/batch/v1", "jobs", True),
    "Lease": ("/apis/coordination.k8s.io/v1", "leases", True),
    "ClusterRole": ("/apis/rbac.authorization.k8s.io/v1", "clusterroles", False),
    "ClusterRoleBinding": ("/apis/rbac.authorization.k8s.io/v1", "clusterrolebindings", False),
    "Role": ("/apis/rbac.authorization.k8s.io/v1", "roles", True),
    "RoleBinding": ("/apis/rbac.authorization.k8s.io/v1", "rolebindings", True),
    "EdgeModel": ("/apis/edgemodel.dev/v1alpha1", "edgemodels", True),
    "ModelArtifact": ("/apis/edgemodel.dev/v1alpha1", "modelartifacts", True),
    "EdgeRuntime": ("/apis/edgemodel.dev/v1alpha1", "edgeruntimes", False),
    "HardwareClass": ("/apis/edgemodel.dev/v1alpha1", "hardwareclasses", False),
    "CustomResourceDefinition": ("/apis/apiextensions.k8s.io/v1", "customresourcedefinitions", False),
}
MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"


class ApiError(Exception):
    """An answer that is not 2xx."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


def path_of(kind: str, namespace: str = "", name: str = "", subresource: str = "") -> str:
    """Where the API serves it; without a namespace that of all namespaces, without a name the collection."""
    root, plural, namespaced = KINDS[kind]
    parts = [root, *(["namespaces", namespace] if namespaced and namespace else []), plural, name, subresource]
    return "/".join(part for part in parts if part)


class Api:
    """JSON over HTTP to an API server, as its kubeconfig says. Knows nothing of the operator."""

    def __init__(self, kubeconfig: Path, user: str = "edgemodel-tests") -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, identity = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self.server: str = cluster["server"]
        self._user = user
        self._ssl = ssl.create_default_context(cadata=_pem(cluster, "certificate-authority").decode())
        with tempfile.NamedTemporaryFile() as pair:
            pair.write(_pem(identity, "client-certificate") + b"\n" + _pem(identity, "client-key"))
            pair.flush()
            self._ssl.load_cert_chain(pair.name)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = self.session()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session:
            await self._session.close()

    def session(self) -> aiohttp.ClientSession:
        """A session that is who we are."""
        connector = aiohttp.TCPConnector(ssl=self._ssl, limit=0)
        return aiohttp.ClientSession(connector=connector, headers={"User-Agent": self._user})

    async def send(
        self, method: str, path: str, body: Obj | bytes | None = None, content: str = "application/json", **query: str
    ) -> bytes:
        """One request's answer."""
        assert self._session
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        headers = {"Content-Type": content} if data is not None else {}
        async with self._session.request(
            method, self.server + path, data=data, headers=headers, params=query
        ) as answer:
            text = await answer.read()
            if answer.status >= 300:
                with suppress(ValueError):
                    raise ApiError(answer.status, json.loads(text).get("message", ""))
                raise ApiError(answer.status, text[:300].decode(errors="replace"))
            return text

    async def get(self, kind: str, namespace: str, name: str) -> Obj | None:
        """One object, or None."""
        try:
            found: Obj = json.loads(await self.send("GET", path_of(kind, namespace, name)))
        except ApiError as error:
            if error.code == 404:
                return None
            raise
        return found

    async def list(self, kind: str, namespace: str = "") -> list[Obj]:
        """All of a kind."""
        found = json.loads(await self.send("GET", path_of(kind, namespace)))
        return [{"apiVersion": found["apiVersion"], "kind": kind, **item} for item in found["items"]]

    async def create(self, obj: Obj) -> Obj:
        """Creates an object."""
        path = path_of(obj["kind"], obj["metadata"].get("namespace", ""))
        made: Obj = json.loads(await self.send("POST", path, obj))
        return made

    async def apply(self, obj: Obj, subresource: str = "") -> Obj:
        """Server-side apply."""
        path = path_of(obj["kind"], obj["metadata"].get("namespace", ""), obj["metadata"]["name"], subresource)
        made: Obj = json.loads(await self.send("PATCH", path, obj, APPLY, fieldManager=self._user, force="true"))
        return made

    async def merge(self, obj: Obj, patch: Obj, subresource: str = "") -> Obj:
        """A merge patch of an object at hand."""
        path = path_of(obj["kind"], obj["metadata"].get("namespace", ""), obj["metadata"]["name"], subresource)
        made: Obj = json.loads(await self.send("PATCH", path, patch, MERGE))
        return made

    async def delete(self, obj: Obj, propagation: str = "Background") -> None:
        """Deletes an object; it may be gone already."""
        path = path_of(obj["kind"], obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
        options = {"propagationPolicy": propagation, "gracePeriodSeconds": 0}
        try:
            await self.send("DELETE", path, options)
        except ApiError as error:
            if error.code != 404:
                raise

    async def watch(self, kind: str, namespace: str = "", metadata_only: bool = False) -> AsyncIterator[Obj]:
        """Everything there is as ADDED, then a {"type": "LISTED"}, then what happens, until the server ends it."""
        assert self._session
        path = self.server + path_of(kind, namespace)
        form = ";as=PartialObjectMetadata{};g=meta.k8s.io;v=v1" if metadata_only else ""
        accept = {"Accept": f"application/json{form}".replace("{}", "List")}
        async with self._session.get(path, headers=accept) as answer:
            listed = await answer.json()
            answer.raise_for_status()
        for item in listed["items"] or ():
            yield {"type": "ADDED", "object": {"apiVersion": listed["apiVersion"], "kind": kind, **item}}
        yield {"type": "LISTED"}
        query = {"watch": "1", "resourceVersion": listed["metadata"]["resourceVersion"], "timeoutSeconds": "3600"}
        accept = {"Accept": f"application/json{form}".replace("{}", "")}
        timeout = aiohttp.ClientTimeout(total=None)
        async with self._session.get(
            path, params=query, headers=accept, timeout=timeout, read_bufsize=1 << 22
        ) as stream:
            stream.raise_for_status()
            async for line in stream.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    return
                event["object"]["kind"] = kind
                yield event

    async def install(self, crds: Path) -> None:
        """Applies the definitions in a folder and waits until they are served."""
        definitions = await asyncio.to_thread(_documents, crds)
        for definition in definitions:
            await self.apply(definition)
        for definition in definitions:
            while True:
                found = await self.get("CustomResourceDefinition", "", definition["metadata"]["name"])
                conditions = (found or {}).get("status", {}).get("conditions") or ()
                if any(item["type"] == "Established" and item["status"] == "True" for item in conditions):
                    break
                await asyncio.sleep(0.05)


def _documents(folder: Path) -> list[Obj]:
    return [yaml.safe_load(file.read_text()) for file in sorted(folder.glob("*.yaml"))]


def _pem(section: Obj, name: str) -> bytes:
    if data := section.get(f"{name}-data"):
        return base64.b64decode(data)
    return Path(section[name]).read_bytes()


# How a pod ends


@dataclass(frozen=True)
class Ends:
    """Its container ended, with what it left to say."""

    message: str
    code: int = 0
    reason: str = ""

    def status(self) -> Obj:
        """As the kubelet would write it."""
        reason = self.reason or ("Error" if self.code else "Completed")
        ended = {"exitCode": self.code, "reason": reason, "message": self.message, "finishedAt": _now()}
        return {"phase": "Failed" if self.code else "Succeeded"} | _container({"terminated": ended})


@dataclass(frozen=True)
class Waits:
    """Its container can't start."""

    reason: str
    message: str

    def status(self) -> Obj:
        """As the kubelet would write it."""
        return {"phase": "Pending"} | _container({"waiting": {"reason": self.reason, "message": self.message}})


@dataclass(frozen=True)
class Evicted:
    """The kubelet took it away."""

    message: str

    def status(self) -> Obj:
        """As the kubelet would write it."""
        return {"phase": "Failed", "reason": "Evicted", "message": self.message}


@dataclass(frozen=True)
class Runs:
    """It runs on, ready or not."""

    ready: bool = True

    def status(self) -> Obj:
        """As the kubelet would write it."""
        return {"phase": "Running"} | _container({"running": {"startedAt": _now()}}, self.ready)


End = Ends | Waits | Evicted | Runs


def fails(reason: str, message: str, retry: bool = False) -> Ends:
    """A failure that the pod itself can name."""
    return Ends(json.dumps({"reason": reason, "message": message, "retry": retry}), code=1)


OUT_OF_MEMORY = Ends("", code=137, reason="OOMKilled")


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _container(state: Obj, ready: bool = False) -> Obj:
    status = {"name": "main", "image": "", "imageID": "", "ready": ready, "restartCount": 0, "state": state}
    return {
        "containerStatuses": [status],
        "conditions": [{"type": "Ready", "status": str(ready)}, {"type": "PodScheduled", "status": "True"}],
    }


def resolved(uri: str, revision: str = "") -> ResolvedSource:
    """The source as the resolver would pin it: another URI or revision has another digest."""
    return ResolvedSource(
        digest=f"sha256:{hashlib.sha256(f'{uri}@{revision}'.encode()).hexdigest()}",
        revision="0123456789ab",
        format="safetensors",
        weight_type="BF16",
        bytes=270_000_000,
        licence="apache-2.0",
        model=ModelFacts(
            architecture="LlamaForCausalLM",
            parameters=134_515_008,
            layers=30,
            kv_heads=3,
            head_size=64,
            hidden_size=576,
            vocabulary=49152,
            context_length=8192,
        ),
    )


QUALITY = QualityReport(
    perplexity="39.9000",
    baseline_perplexity="39.7000",
    accuracy="0.9950",
    kl_divergence="0.0100",
    top_token_agreement="0.9700",
    tokens=4096,
    text_digest=f"sha256:{'a' * 64}",
)


def answers(pod: Obj) -> End:
    """The resolver answers with a source that stands for the URI and revision it was asked for."""
    source = json.loads(_variables(pod["spec"])["EDGEMODEL_SOURCE"])
    answer = resolved(source["uri"], source.get("revision", ""))
    return Ends(answer.model_dump_json(by_alias=True, exclude_none=True))


def publishes(_: Obj) -> End:
    """The Job makes its artifact."""
    return Ends("")


def serves(_: Obj) -> End:
    """The pod is ready."""
    return Runs()


@dataclass
class Behaviour:
    """What becomes of the pods in a namespace. Each is asked with the pod, or for Jobs with the Job."""

    resolver: Callable[[Obj], End] = answers
    job: Callable[[Obj], End] = publishes
    serving: Callable[[Obj], End] = serves
    started: list[tuple[str, str]] = field(default_factory=list)
    """Every resolver pod and Job ever seen, by kind and name, once for each uid."""


def _variables(pod_spec: Obj) -> dict[str, str]:
    return {entry["name"]: entry.get("value", "") for entry in pod_spec["containers"][0].get("env", ())}


Key = tuple[str, str]
"""Kind and uid."""


class StandIn:
    """Acts on all namespaces of one API server until its task is cancelled."""

    _OWNERS = ("EdgeModel", "ModelArtifact", "Job", "Deployment", "DaemonSet")
    _OWNED = ("Pod", "Service", "Deployment", "DaemonSet", "Job")

    def __init__(self, api: Api, store: StoreConfig | None = None) -> None:
        self._api = api
        self._store = store
        self._objects: dict[Key, Obj] = {}
        self._dependents: dict[str, set[Key]] = {}
        self._gone: set[str] = set()
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self._again: set[Key] = set()
        self._seen: set[str] = set()
        self.behaviours: dict[str, Behaviour] = {}
        self.errors: list[str] = []
        """What went wrong in here; a test should find it empty."""

    def behaviour(self, namespace: str) -> Behaviour:
        """That of a namespace; by default all goes well."""
        return self.behaviours.setdefault(namespace, Behaviour())

    async def run(self) -> None:
        """Watches and acts."""
        async with asyncio.TaskGroup() as group:
            for kind in dict.fromkeys((*self._OWNERS, *self._OWNED, "Node")):
                group.create_task(self._follow(kind))

    def objects(self, kind: str, namespace: str) -> list[Obj]:
        """What the watches have shown of a kind: a moment late, and for nothing. For any thread; not to be changed."""
        everything = self._objects.copy()  # at once: a list of the items may be interrupted by the watches' thread
        return [obj for key, obj in everything.items() if key[0] == kind and obj["metadata"]["namespace"] == namespace]

    def settle_again(self, namespace: str) -> None:
        """Has all objects of a namespace looked at again, after its behaviour changed."""
        for key, obj in self._objects.items():
            if obj["metadata"].get("namespace") == namespace:
                self._wake(key)

    async def _follow(self, kind: str) -> None:
        while True:
            known = {key for key in self._objects if key[0] == kind}
            with suppress(aiohttp.ClientError, ApiError, OSError, TimeoutError):
                async for event in self._api.watch(kind):
                    if event["type"] == "LISTED":
                        for key in known:
                            self._drop(key)
                        continue
                    key = (kind, event["object"]["metadata"]["uid"])
                    known.discard(key)
                    if event["type"] == "DELETED":
                        self._drop(key)
                    else:
                        self._take(key, event["object"])
            await asyncio.sleep(0.2)

    def _take(self, key: Key, obj: Obj) -> None:
        self._objects[key] = obj
        kind, identity = key
        for owner in obj["metadata"].get("ownerReferences", ()):
            self._dependents.setdefault(owner["uid"], set()).add(key)
            if kind == "Pod":
                self._wake((owner["kind"], owner["uid"]))
        if identity not in self._seen:
            self._seen.add(identity)
            if kind == "Job" or (kind == "Pod" and _role(obj) == "resolve"):
                self.behaviour(obj["metadata"]["namespace"]).started.append((kind, obj["metadata"]["name"]))
        self._wake(key)
        if kind == "Node":
            for other in [other for other in self._objects if other[0] == "DaemonSet"]:
                self._wake(other)

    def _drop(self, key: Key) -> None:
        obj = self._objects.pop(key, None)
        self._gone.add(key[1])
        for dependent in self._dependents.pop(key[1], ()):
            self._wake(dependent)
        for owner in obj["metadata"].get("ownerReferences", ()) if obj else ():
            self._dependents.get(owner["uid"], set()).discard(key)
            self._wake((owner["kind"], owner["uid"]))

    def _wake(self, key: Key) -> None:
        """One task an object at a time."""
        if key in self._tasks:
            self._again.add(key)
        elif key in self._objects:
            self._tasks[key] = asyncio.create_task(self._work(key))

    async def _work(self, key: Key) -> None:
        try:
            if key in self._objects:
                await self._settle(key[0], self._objects[key])
        except ApiError as error:
            if error.code in (409, 429) or error.code >= 500:
                self._again.add(key)
                await asyncio.sleep(0.05)
            elif error.code != 404:
                self.errors.append(f"{key}: {error}")
        except (aiohttp.ClientError, OSError, TimeoutError):
            self._again.add(key)
            await asyncio.sleep(0.2)
        except Exception as error:
            self.errors.append(f"{key}: {error!r}")
        finally:
            del self._tasks[key]
            if key in self._again:
                self._again.discard(key)
                self._wake(key)

    async def _settle(self, kind: str, obj: Obj) -> None:
        if await self._collect(obj):
            return
        match kind:
            case "Pod" if _role(obj) == "resolve" and not _ended(obj):
                await self._say(obj, self.behaviour(obj["metadata"]["namespace"]).resolver(obj))
            case "Job":
                await self._run_job(obj)
            case "Deployment" | "DaemonSet":
                await self._roll_out(obj)

    # Garbage

    async def _collect(self, obj: Obj) -> bool:
        """Whether the object is on its way out."""
        metadata = obj["metadata"]
        dependents = [self._objects[key] for key in self._dependents.get(metadata["uid"], ()) if key in self._objects]
        if "deletionTimestamp" in metadata:
            if "foregroundDeletion" in metadata.get("finalizers", ()):
                for dependent in dependents:
                    if "deletionTimestamp" not in dependent["metadata"]:
                        await self._api.delete(dependent)
                if not dependents:
                    rest = [name for name in metadata["finalizers"] if name != "foregroundDeletion"]
                    version = metadata["resourceVersion"]
                    await self._api.merge(obj, {"metadata": {"finalizers": rest, "resourceVersion": version}})
            elif obj["kind"] == "Pod":
                # An API server whose client dies in the middle of a deletion has marked the pod and no more. A kubelet,
                # or the pod garbage collector where none has it, deletes it then.
                await self._api.delete(obj)
            return True
        owners = metadata.get("ownerReferences", ())
        if owners and all([await self._is_gone(obj, owner) for owner in owners]):
            await self._api.delete(obj)
            return True
        return False

    async def _is_gone(self, obj: Obj, owner: Obj) -> bool:
        if owner["uid"] in self._gone or (owner["kind"], owner["uid"]) in self._objects:
            return owner["uid"] in self._gone
        found = await self._api.get(owner["kind"], obj["metadata"]["namespace"], owner["name"])
        return found is None or found["metadata"]["uid"] != owner["uid"]

    # Pods

    async def _say(self, pod: Obj, end: End) -> None:
        wanted = end.status()
        if _settled(pod.get("status", {})) != _settled(wanted):
            await self._api.merge(pod, {"status": wanted}, "status")

    async def _pod_of(self, owner: Obj, name: str, template: Obj, labels: dict[str, str]) -> Obj:
        metadata = owner["metadata"]
        reference = {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": metadata["name"]}
        return await self._api.create(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": name,
                    "namespace": metadata["namespace"],
                    "labels": template["metadata"].get("labels", {}) | labels,
                    "ownerReferences": [reference | {"uid": metadata["uid"], "controller": True}],
                },
                "spec": template["spec"],
            }
        )

    def _pods(self, owner: Obj) -> list[Obj]:
        keys = self._dependents.get(owner["metadata"]["uid"], ())
        found = [self._objects[key] for key in keys if key in self._objects and key[0] == "Pod"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    # Jobs

    async def _run_job(self, job: Obj) -> None:
        if any(item["type"] in ("Complete", "Failed") for item in job.get("status", {}).get("conditions", ())):
            return
        name = job["metadata"]["name"]
        pod = next(iter(self._pods(job)), None)
        if pod is None:
            labels = {"batch.kubernetes.io/job-name": name}
            with suppress(ApiError):  # there already; its event is on the way
                await self._pod_of(job, f"{name}-{job['metadata']['uid'][:5]}", job["spec"]["template"], labels)
            return  # its pod wakes it
        end = self.behaviour(job["metadata"]["namespace"]).job(job)
        if isinstance(end, Ends) and end.code == 0:
            await asyncio.to_thread(self._publish, job)
        await self._say(pod, end)
        if isinstance(end, Ends | Evicted):
            good = isinstance(end, Ends) and end.code == 0
            version = {"resourceVersion": job["metadata"]["resourceVersion"]}  # else a late look would end it twice
            await self._api.merge(job, {"metadata": version, "status": _job_status(good)}, "status")

    def _publish(self, job: Obj) -> None:
        variables = _variables(job["spec"]["template"]["spec"])
        order = json.loads(variables["EDGEMODEL_JOB"])
        assert self._store
        bucket, _, prefix = variables["EDGEMODEL_STORE_URI"].removeprefix("s3://").partition("/")
        store = ArtifactStore(replace(self._store, bucket=bucket, prefix=prefix))
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "model.gguf").write_bytes(order["key"].encode() * 64)
            store.publish(manifest(order, folder), folder)

    # Workloads

    async def _roll_out(self, workload: Obj) -> None:
        """New pods, then the old ones go; the status says so at both points."""
        metadata, spec = workload["metadata"], workload["spec"]
        template = json.dumps((metadata["uid"], spec["template"]), sort_keys=True)
        revision = hashlib.sha256(template.encode()).hexdigest()[:10]
        count = spec["replicas"] if workload["kind"] == "Deployment" else self._nodes(spec["template"]["spec"])
        pods = self._pods(workload)
        new = [pod for pod in pods if pod["metadata"]["labels"].get("pod-template-hash") == revision]
        old = [pod for pod in pods if pod not in new]
        taken = {pod["metadata"]["name"] for pod in new}
        names = [f"{metadata['name']}-{revision}-{number}" for number in range(count)]
        for name in names:
            if name not in taken:
                with suppress(ApiError):  # there already; its event is on the way
                    await self._pod_of(workload, name, spec["template"], {"pod-template-hash": revision})
        if [pod for pod in new if pod["metadata"]["name"] in names] != new or len(new) < count:
            for pod in new:
                if pod["metadata"]["name"] not in names:
                    await self._api.delete(pod)
            if new or old:
                await self._report(workload, count, [*new, *old], new)
            return  # pods wake it
        for pod in new:
            await self._say(pod, self.behaviour(metadata["namespace"]).serving(pod))
        await self._report(workload, count, [*new, *old], new)
        if all(_is_ready(pod) for pod in new):
            for pod in old:
                await self._api.delete(pod)

    async def _report(self, workload: Obj, count: int, pods: list[Obj], new: list[Obj]) -> None:
        ready = sum(1 for pod in pods if _is_ready(pod))
        status: Obj = {"observedGeneration": workload["metadata"]["generation"]}
        if workload["kind"] == "Deployment":
            status |= {"replicas": len(pods), "updatedReplicas": len(new), "readyReplicas": ready}
            status |= {"availableReplicas": ready, "unavailableReplicas": max(0, count - ready)}
        else:
            status |= {"desiredNumberScheduled": count, "currentNumberScheduled": count, "numberMisscheduled": 0}
            status |= {"updatedNumberScheduled": len(new), "numberReady": min(count, ready)}
        known = workload.get("status", {})
        if any(known.get(name, 0) != value for name, value in status.items()):
            await self._api.merge(workload, {"status": status}, "status")

    def _nodes(self, pod_spec: Obj) -> int:
        selector = pod_spec.get("nodeSelector", {})
        nodes = (obj for key, obj in self._objects.items() if key[0] == "Node")
        return sum(1 for node in nodes if selector.items() <= node["metadata"].get("labels", {}).items())


def _role(obj: Obj) -> str:
    role: str = obj["metadata"].get("labels", {}).get("edgemodel.dev/role", "")
    return role


def _ended(pod: Obj) -> bool:
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def _is_ready(pod: Obj) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


def _settled(status: Obj) -> Obj:
    """What matters of a pod's status: times don't, nor what the server fills in."""
    containers = [
        {state: {name: value for name, value in said.items() if not name.endswith("At")}
         for state, said in container["state"].items()} | {"ready": container["ready"]}
        for container in status.get("containerStatuses", ())
    ]  # fmt: skip
    return {"phase": status.get("phase"), "reason": status.get("reason", ""), "containers": containers}


def _job_status(good: bool) -> Obj:
    now = _now()
    kinds = ("SuccessCriteriaMet", "Complete") if good else ("FailureTarget", "Failed")
    reason = "CompletionsReached" if good else "BackoffLimitExceeded"
    conditions = [
        {"type": kind, "status": "True", "reason": reason, "lastProbeTime": now, "lastTransitionTime": now}
        for kind in kinds
    ]
    counts = {"succeeded": 1, "completionTime": now} if good else {"failed": 1}
    return {"startTime": now, "conditions": conditions, "uncountedTerminatedPods": {}} | counts


def manifest(order: Obj, folder: Path) -> Manifest:
    """The manifest of an artifact as a Job was asked for it."""
    source = ResolvedSource.model_validate(order["resolved"])
    return Manifest(
        key=order["key"],
        format="gguf",
        files=describe(folder),
        entrypoint="model.gguf",
        recipe=Recipe.model_validate(order["recipe"]),
        source=source,
        source_uri=order["source"]["uri"],
        tools={"stand-in": "1"},
        quality=QUALITY,
        baseline_bytes=2 * source.model.parameters,
    )


class Loop:
    """An event loop on a thread of its own, for tests that are not coroutines."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="stand-in", daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T], timeout: float = 120) -> T:
        """What a coroutine returns."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout)

    def start(self, work: Coroutine[Any, Any, None]) -> Callable[[], None]:
        """Runs a coroutine until the returned function is called."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)

        def stop() -> None:
            future.cancel()
            with suppress(BaseException):
                future.result(10)

        return stop

    def soon(self, function: Callable[[], None]) -> None:
        """Calls a function on the loop."""
        self._loop.call_soon_threadsafe(function)

    def close(self) -> None:
        """Ends the thread."""

        async def finish() -> None:
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(0.1)  # connections close

        self.call(finish())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
