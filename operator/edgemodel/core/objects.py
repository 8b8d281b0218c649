"""The Kubernetes objects that the operator wants, as plain manifests: pure functions of what was decided.

Every pod passes Pod Security `restricted`. No pod has a token of the API: what a pod has to say, it says by its
termination message or in the object store.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgemodel.api import API_VERSION
from edgemodel.api.artifact import Adapter, ModelArtifact, ModelArtifactSpec, ResolvedSource, Source
from edgemodel.api.base import Task
from edgemodel.api.model import EdgeModel
from edgemodel.api.runtime import EdgeRuntime, EnvVar, HardwareChoice, Scheme
from edgemodel.core.hardware import HARDWARE_LABEL, class_label
from edgemodel.core.keys import short_hash
from edgemodel.core.plan import Choice
from edgemodel.core.settings import Settings
from edgemodel.core.sizing import context_per_request, job_size, quantity, serving_memory, volume_size

Manifest = dict[str, Any]

MODEL_LABEL = "edgemodel.dev/model"
VARIANT_LABEL = "edgemodel.dev/variant"
RUNTIME_LABEL = "edgemodel.dev/runtime"
ARTIFACT_LABEL = "edgemodel.dev/artifact"
ROLE_LABEL = "edgemodel.dev/role"
PROBE_ROLE = "probe"
"""The role of the chart's pods that say what their node is made of."""
ATTEMPT_LABEL = "edgemodel.dev/attempt"
"""On a resolver pod and a Job: which attempt it is."""
MEMORY_ATTEMPT_LABEL = "edgemodel.dev/memory-attempt"
"""On a Job: one more each time that the memory was not enough."""

METRICS_PATH = "edgemodel.dev/metrics-path"
"""The annotation of a serving pod by which its metrics are found: the chart's PodMonitor reads it."""

STORE_FINALIZER = "edgemodel.dev/store"

USER = 65532
MODEL_DIR = "/models"
CREDENTIALS = "/var/run/edgemodel"
STORE_CREDENTIALS = f"{CREDENTIALS}/store"
ADAPTER_PREFIX = "ADAPTER_"
"""What begins the names of the variables that say how the adapter is read."""

FETCH, SERVE = "fetch", "serve"
"""The containers of a serving pod: the first brings the artifact."""
FETCH_COMMAND = ["edgemodel-fetch"]


def _labels(role: str, **more: str) -> dict[str, str]:
    names = {"model": MODEL_LABEL, "variant": VARIANT_LABEL, "runtime": RUNTIME_LABEL, "artifact": ARTIFACT_LABEL}
    return {
        "app.kubernetes.io/managed-by": "edgemodel",
        "app.kubernetes.io/component": role,
        ROLE_LABEL: role,
    } | {names[name]: value for name, value in more.items()}


def _owner(owner: EdgeModel | ModelArtifact) -> list[Manifest]:
    return [
        {
            "apiVersion": API_VERSION,
            "kind": type(owner).__name__,
            "name": owner.metadata.name,
            "uid": owner.metadata.uid,
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ]


def _container(name: str, image: str, settings: Settings, **fields: Any) -> Manifest:
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": settings.image_pull_policy,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
    } | {key: value for key, value in fields.items() if value}


def _pod(settings: Settings, **fields: Any) -> Manifest:
    pod: Manifest = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    if settings.service_account:
        pod["serviceAccountName"] = settings.service_account
    if settings.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    return pod | fields


def _env(variables: Mapping[str, str]) -> list[Manifest]:
    return [{"name": name, "value": value} for name, value in variables.items() if value]


@dataclass(frozen=True)
class _Part:
    """Environment, mounts and volumes that belong together."""

    env: list[Manifest]
    mounts: list[Manifest]
    volumes: list[Manifest]

    def __add__(self, other: "_Part") -> "_Part":
        return _Part(self.env + other.env, self.mounts + other.mounts, self.volumes + other.volumes)


def _secret(volume: str, secret: str, path: str, variables: Mapping[str, str]) -> _Part:
    """Optional on purpose: a pod that finds no Secret says so itself, where a missing volume would only hang."""
    return _Part(
        _env(variables),
        [{"name": volume, "mountPath": path, "readOnly": True}],
        [{"name": volume, "secret": {"secretName": secret, "optional": True, "defaultMode": 0o440}}],
    )


def _store(settings: Settings) -> _Part:
    store = settings.store
    part = _Part(
        _env(
            {
                "EDGEMODEL_STORE_URI": store.uri,
                "EDGEMODEL_STORE_ENDPOINT": store.endpoint,
                "EDGEMODEL_STORE_REGION": store.region,
            }
        ),
        [],
        [],
    )
    if not store.secret_name:
        return part
    return part + _secret(
        "store-credentials",
        store.secret_name,
        STORE_CREDENTIALS,
        {"EDGEMODEL_STORE_CREDENTIALS": STORE_CREDENTIALS, "EDGEMODEL_STORE_SECRET": store.secret_name},
    )


def _source(source: Source, settings: Settings) -> _Part:
    """What a pod needs to read the source, and its adapter if it has one."""
    part = _place(source, "source", "", settings)
    return part + _place(source.adapter, "adapter", ADAPTER_PREFIX, settings) if source.adapter else part


def _place(place: Source | Adapter, name: str, prefix: str, settings: Settings) -> _Part:
    """What a pod needs to read files there. All variables' names begin with the prefix."""
    part = _Part([], [], [])
    if place.uri.startswith("hf://"):
        part += _Part(_env({f"{prefix}HF_ENDPOINT": settings.hub_endpoint}), [], [])
    if place.uri.startswith("pvc://"):
        claim = place.uri.removeprefix("pvc://").partition("/")[0]
        part += _Part(
            _env({f"{prefix}PVC_ROOT": f"/{name}"}),
            [{"name": name, "mountPath": f"/{name}", "readOnly": True}],
            [{"name": name, "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}],
        )
    if place.secret_ref:
        folder = f"{CREDENTIALS}/{name}"
        variables = {"EDGEMODEL_SOURCE_CREDENTIALS": folder, "EDGEMODEL_SOURCE_SECRET": place.secret_ref.name}
        part += _secret(
            f"{name}-credentials",
            place.secret_ref.name,
            folder,
            {prefix + variable: value for variable, value in variables.items()},
        )
    return part


def _scratch(name: str, path: str, size: int) -> _Part:
    return _Part([], [{"name": name, "mountPath": path}], [{"name": name, "emptyDir": {"sizeLimit": quantity(size)}}])


def _tmp() -> _Part:
    return _scratch("tmp", "/tmp", 256 * 1024 * 1024)  # noqa: S108 - the pod's own volume


_JOB_SECONDS = 24 * 60 * 60
"""How long the pod of a quantization Job may run. None takes a day; one that hangs would be waited for for ever."""
_SMALL = {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}}
"""For containers that only read headers or move bytes."""


def resolver_pod(model: EdgeModel, attempt: int, settings: Settings) -> Manifest:
    """The short pod that reads the source's headers and answers by its termination message."""
    source = model.spec.source
    name = f"{model.metadata.name}-resolve-{short_hash(source.dump())}-{attempt}"
    part = _source(source, settings) + _tmp()
    part += _Part([{"name": "EDGEMODEL_SOURCE", "value": json.dumps(source.dump(), sort_keys=True)}], [], [])
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": model.metadata.namespace,
            "labels": _labels("resolve", model=model.metadata.name) | {ATTEMPT_LABEL: str(attempt)},
            "ownerReferences": _owner(model),
        },
        "spec": _pod(
            settings,
            restartPolicy="Never",
            activeDeadlineSeconds=900,
            terminationGracePeriodSeconds=5,
            containers=[
                _container(
                    "resolve",
                    settings.operator_image,
                    settings,
                    command=["python3", "-m", "edgemodel.pipeline.resolve_main"],
                    env=part.env,
                    resources=_SMALL,
                    volumeMounts=part.mounts,
                )
            ],
            volumes=part.volumes,
        ),
    }


def model_artifact(model: EdgeModel, choice: Choice, resolved: ResolvedSource) -> Manifest:
    """The record of the artifact that a variant wants. Owned by no EdgeModel: two that want the same share it."""
    key = choice.key(resolved)
    spec = ModelArtifactSpec(
        key=key,
        source=model.spec.source,
        resolved=resolved,
        recipe=choice.recipe,
        runtime=choice.runtime.metadata.name,
    )
    return {
        "apiVersion": API_VERSION,
        "kind": "ModelArtifact",
        "metadata": {
            "name": key,
            "namespace": model.metadata.namespace,
            "labels": _labels("artifact", runtime=choice.runtime.metadata.name),
            "finalizers": [STORE_FINALIZER],
        },
        "spec": spec.dump(),
    }


def quantization_job(
    artifact: ModelArtifact, runtime: EdgeRuntime, scheme: Scheme, attempt: int, memory_attempt: int, settings: Settings
) -> Manifest:
    """The Job that makes the artifact: one pod, tried once; whether to try again is decided by why it failed."""
    spec = artifact.spec
    pipeline = runtime.spec.pipeline
    size = job_size(spec.resolved, scheme, pipeline, spec.recipe.task, memory_attempt)
    request = {
        "key": spec.key,
        "source": spec.source.dump(),
        "resolved": spec.resolved.dump(),
        "recipe": spec.recipe.dump(),
    }
    part = _store(settings) + _source(spec.source, settings) + _scratch("work", "/work", size.scratch) + _tmp()
    part += _Part(
        [
            {"name": "EDGEMODEL_JOB", "value": json.dumps(request, sort_keys=True)},
            {"name": "EDGEMODEL_WORK", "value": "/work"},
        ],
        [],
        [],
    )
    labels = _labels("quantize", artifact=spec.key, runtime=runtime.metadata.name)
    memory, disk = quantity(size.memory), quantity(size.scratch)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": f"quantize-{spec.key}-{attempt}",
            "namespace": artifact.metadata.namespace,
            "labels": labels | {ATTEMPT_LABEL: str(attempt), MEMORY_ATTEMPT_LABEL: str(memory_attempt)},
            "ownerReferences": _owner(artifact),
        },
        "spec": {
            "backoffLimit": 0,
            "ttlSecondsAfterFinished": 3600,
            "template": {
                "metadata": {"labels": labels},
                "spec": _pod(
                    settings,
                    restartPolicy="Never",
                    activeDeadlineSeconds=_JOB_SECONDS,
                    terminationGracePeriodSeconds=15,
                    nodeSelector={"kubernetes.io/os": "linux"}
                    | ({"kubernetes.io/arch": pipeline.architecture} if pipeline.architecture else {}),
                    containers=[
                        _container(
                            "quantize",
                            pipeline.image,
                            settings,
                            env=part.env,
                            resources={
                                "requests": {"cpu": pipeline.cpu, "memory": memory, "ephemeral-storage": disk},
                                "limits": {"memory": memory},
                            },
                            volumeMounts=part.mounts,
                        )
                    ],
                    volumes=part.volumes,
                ),
            },
        },
    }


def workload_name(model: EdgeModel, variant: str) -> str:
    """Name of the variant's Deployment or DaemonSet."""
    return f"{model.metadata.name}-{variant}"


@dataclass(frozen=True)
class Startup:
    """What a runtime's pods start, beside what the operator tells each."""

    command: list[str]
    args: list[str]
    env: dict[str, EnvVar]

    @classmethod
    def of(cls, runtime: EdgeRuntime, there: HardwareChoice, task: Task) -> "Startup":
        """As the runtime declares it for a class of hardware and a task."""
        serve = runtime.spec.serving
        for_task = next((one.args for one in serve.tasks if one.task == task), [])
        return cls(
            there.native.command if there.native else serve.command,
            serve.args + for_task + there.args,
            {variable.name: variable for variable in (*serve.env, *there.env)},
        )


def _serving_pod(
    model: EdgeModel, choice: Choice, artifact: ModelArtifact, resolved: ResolvedSource, settings: Settings
) -> Manifest:
    serve = choice.runtime.spec.serving
    serving = model.spec.serving
    artifact_bytes = artifact.status.bytes or 0
    asked = choice.variant.resources
    cpu = (asked and asked.cpu) or serve.resources.cpu or "1"
    memory = (
        (asked and asked.memory)
        or serve.resources.memory
        or quantity(serving_memory(resolved.model, artifact_bytes, serving, serve, model.spec.task))
    )
    context = context_per_request(resolved.model, serving)
    volume = _scratch("model", MODEL_DIR, volume_size(artifact_bytes))
    store = _store(settings)
    fetch = _Part(
        _env(
            {
                "EDGEMODEL_ARTIFACT_KEY": artifact.spec.key,
                "EDGEMODEL_ARTIFACT_DIGEST": artifact.status.digest or "",
                "EDGEMODEL_MODEL_DIR": MODEL_DIR,
            }
        ),
        [],
        [],
    )
    variables = _env(
        {
            "MODEL_DIR": MODEL_DIR,
            "MODEL_FILE": f"{MODEL_DIR}/{artifact.status.entrypoint}",
            "MODEL_NAME": model.metadata.name,
            "PORT": str(serve.port),
            "CONTEXT_LENGTH": str(context),
            "TOTAL_CONTEXT_LENGTH": str(context * serving.parallel),
            "PARALLEL": str(serving.parallel),
            "DRAIN_SECONDS": str(serve.drain_seconds),
            "TASK": model.spec.task,
            "POWER_MODE": serving.power_mode,
        }
    )
    # The pod's own CPU limit, rounded up: what its cgroup will let it use.
    variables.append({"name": "THREADS", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}})
    there = choice.on_hardware
    startup = Startup.of(choice.runtime, there, model.spec.task)
    resources = {"cpu": cpu, "memory": memory} | {device.name: str(device.count) for device in there.devices}
    probe = {"httpGet": {"path": serve.health_path, "port": "http"}, "timeoutSeconds": 5}
    drain = {"exec": {"command": serve.drain_command}} if serve.drain_command else {"sleep": {"seconds": 5}}
    tmp = _tmp()
    tolerations = [toleration.dump() for toleration in choice.tolerations]
    return _pod(
        settings,
        nodeSelector={class_label(choice.hardware): "true"},
        **({"tolerations": tolerations} if tolerations else {}),
        terminationGracePeriodSeconds=serve.drain_seconds + 15,
        initContainers=[
            _container(
                FETCH,
                settings.operator_image,
                settings,
                command=FETCH_COMMAND,
                env=store.env + fetch.env,
                resources=_SMALL,
                volumeMounts=store.mounts + volume.mounts + tmp.mounts,
            )
        ],
        containers=[
            _container(
                SERVE,
                there.image or serve.image,
                settings,
                command=startup.command,
                args=startup.args,
                env=variables + [variable.dump() for variable in startup.env.values()],
                ports=[{"name": "http", "containerPort": serve.port, "protocol": "TCP"}],
                resources={"requests": resources, "limits": resources},
                startupProbe=probe | {"periodSeconds": 1, "failureThreshold": serve.startup_seconds},
                readinessProbe=probe | {"periodSeconds": 5, "failureThreshold": 3},
                livenessProbe=probe | {"periodSeconds": 20, "failureThreshold": 6},
                lifecycle={"preStop": drain},
                volumeMounts=[mount | {"readOnly": True} for mount in volume.mounts] + tmp.mounts,
            )
        ],
        volumes=store.volumes + volume.volumes + tmp.volumes,
    )


def workload(
    model: EdgeModel, choice: Choice, artifact: ModelArtifact, resolved: ResolvedSource, settings: Settings
) -> Manifest:
    """The variant's Deployment, or its DaemonSet if it wants a pod on each node."""
    variant = choice.variant
    selector = {MODEL_LABEL: model.metadata.name, VARIANT_LABEL: variant.name, ROLE_LABEL: "serve"}
    labels = _labels("serve", model=model.metadata.name, variant=variant.name, runtime=choice.runtime.metadata.name)
    labels[HARDWARE_LABEL] = choice.hardware
    # The old pods serve until the new ones answer. But a device is held until its pod has ended: where no other is
    # free, a new pod beside the old one would wait for it for ever.
    surge = 0 if choice.on_hardware.devices or model.spec.serving.rollout == "Replace" else 1
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1 - surge, "maxSurge": surge}}
    spec: Manifest = {
        "selector": {"matchLabels": selector},
        "template": {
            "metadata": {
                "annotations": {METRICS_PATH: choice.runtime.spec.serving.metrics_path},
                "labels": labels | {ARTIFACT_LABEL: artifact.spec.key},
            },
            "spec": _serving_pod(model, choice, artifact, resolved, settings),
        },
    }
    if variant.per_node:
        kind, spec["updateStrategy"] = "DaemonSet", rolling
    else:
        kind, spec["strategy"] = "Deployment", rolling
        spec["replicas"] = 1 if variant.replicas is None else variant.replicas
        # Kubernetes' own verdict comes after ours.
        spec["progressDeadlineSeconds"] = choice.runtime.spec.serving.startup_seconds + 600
    return {
        "apiVersion": "apps/v1",
        "kind": kind,
        "metadata": {
            "name": workload_name(model, variant.name),
            "namespace": model.metadata.namespace,
            "labels": labels,
            "ownerReferences": _owner(model),
        },
        "spec": spec,
    }


def service(model: EdgeModel) -> Manifest:
    """The one Service behind which all variants answer."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": model.metadata.name,
            "namespace": model.metadata.namespace,
            "labels": _labels("serve", model=model.metadata.name),
            "ownerReferences": _owner(model),
        },
        "spec": {
            "selector": {MODEL_LABEL: model.metadata.name, ROLE_LABEL: "serve"},
            "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}],
        },
    }


def endpoint(model: EdgeModel) -> str:
    """Base URL of the model's API inside the cluster."""
    return f"http://{model.metadata.name}.{model.metadata.namespace}.svc/v1"
