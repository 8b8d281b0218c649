"""EdgeRuntime: a serving runtime as data. HardwareClass: which nodes are of a kind."""

from typing import Annotated, Literal

from pydantic import Field

from edgemodel.api.base import (
    LARGEST,
    ApiModel,
    Bytes,
    Decimal,
    Name,
    ObjectMeta,
    Resources,
    SchemeName,
    Sha256,
    ShortText,
    Task,
    keyed,
    rules,
)

Argument = Annotated[str, Field(max_length=1024)]
ImageRef = Annotated[str, Field(min_length=1, max_length=512)]
LabelKey = Annotated[str, Field(min_length=1, max_length=317)]
LabelValue = Annotated[str, Field(max_length=63)]
SourceFormat = Literal["safetensors", "gguf"]
Tasks = Annotated[list[Task], Field(max_length=2)]


class Scheme(ApiModel):
    """A quantization scheme that a runtime offers."""

    name: SchemeName
    """Its name."""
    bits_per_weight: Decimal
    """Average bits a weight, with scales: sizes pods and scratch disks before the artifact exists."""
    calibrated: bool = False
    """Whether calibration text goes into it."""
    tasks: Tasks = []
    """The tasks that it is for. Left out: all of the runtime's."""


class EnvVar(ApiModel):
    """An environment variable."""

    name: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    """Its name."""
    value: Annotated[str, Field(max_length=4096)] = ""
    """Its value; `$(VAR)` expands as in any pod."""


class Pipeline(ApiModel):
    """What makes the artifacts."""

    image: ImageRef
    """The image whose entrypoint runs the pipeline."""
    toolchain: Name
    """The toolchain in it."""
    sources: Annotated[list[SourceFormat], Field(min_length=1, max_length=2)] = ["safetensors", "gguf"]
    """The formats of sources that it reads."""
    version: Annotated[str, Field(min_length=1, max_length=63)]
    """The toolchain's version. It is part of the artifact's key: a new version makes new artifacts."""
    calibration: Sha256 | None = None
    """Digest of the calibration text in the image."""
    memory_overhead: Bytes = 1536 * 1024 * 1024
    """Bytes that the toolchain needs beside the weights."""
    memory_per_weight: Annotated[int, Field(ge=1, le=64)] = 2
    """Bytes that the toolchain has in memory for each weight, at the most: 2 for one copy at 16 bits."""
    scratch_per_weight: Annotated[int, Field(ge=1, le=64)] = 2
    """Bytes that the toolchain writes to its scratch disk for each weight, beside source and artifact."""
    cpu: Annotated[str, Field(max_length=24, pattern=r"^[0-9]{1,6}m?$")] = "1"
    """CPU that the Job requests. It has no limit: a Job may use what is idle."""
    architecture: Annotated[str, Field(min_length=1, max_length=32)] | None = None
    """The one `kubernetes.io/arch` that the toolchain runs on. Left out: any that the image is for."""


_OWN_VARIABLES = (
    "!self.env.exists(e, e.name in ['MODEL_DIR', 'MODEL_FILE', 'MODEL_NAME', 'PORT', 'CONTEXT_LENGTH', "
    "'TOTAL_CONTEXT_LENGTH', 'PARALLEL', 'THREADS', 'DRAIN_SECONDS', 'TASK', 'POWER_MODE'])",
    "env must not name a variable that the operator sets",
)


class TaskChoice(ApiModel):
    """What is different for models of a task."""

    task: Task
    """The task."""
    args: Annotated[list[Argument], Field(max_length=32)] = []
    """Arguments after those of `serving`."""


class Serve(ApiModel):
    """What serves the artifacts. `$(VAR)` in arguments expands over MODEL_DIR, MODEL_FILE, MODEL_NAME, PORT, TASK,
    CONTEXT_LENGTH (a request), TOTAL_CONTEXT_LENGTH (all parallel requests), PARALLEL, THREADS, DRAIN_SECONDS and
    POWER_MODE."""

    model_config = rules(_OWN_VARIABLES)

    image: ImageRef
    """The serving image."""
    command: Annotated[list[Argument], Field(max_length=16)] = []
    """Replaces the image's entrypoint."""
    args: Annotated[list[Argument], Field(max_length=64)] = []
    """Arguments."""
    env: Annotated[list[EnvVar], keyed("name", max_length=64)] = []
    """Environment beside the operator's own variables."""
    tasks: Annotated[list[TaskChoice], keyed("task", max_length=2)] = []
    """What is different for some tasks."""
    port: Annotated[int, Field(ge=1024, le=65535)] = 8080
    """Port of the OpenAI-compatible API."""
    health_path: Annotated[str, Field(max_length=256, pattern=r"^/")] = "/health"
    """Answers 200 only when the model answers."""
    metrics_path: Annotated[str, Field(max_length=256, pattern=r"^/")] = "/metrics"
    """Prometheus metrics, on the same port: pods have it as their annotation `edgemodel.dev/metrics-path`."""
    drain_command: Annotated[list[Argument], Field(max_length=16)] = []
    """Run before SIGTERM: returns when the requests in flight are answered. Left out: a pause of five seconds."""
    drain_seconds: Annotated[int, Field(ge=5, le=3600)] = 120
    """Longest time that draining may take."""
    startup_seconds: Annotated[int, Field(ge=10, le=7200)] = 600
    """Longest time that loading the model may take."""
    resources: Resources = Resources(cpu="1")
    """CPU and memory of a pod unless the variant says otherwise."""
    memory_overhead: Bytes = 256 * 1024 * 1024
    """Bytes that the runtime needs beside weights and KV cache."""
    kv_cache_element: Annotated[int, Field(ge=1, le=4)] = 2
    """Bytes of an element of the KV cache."""


class Device(ApiModel):
    """An extended resource that a pod holds."""

    model_config = rules(("self.name.contains('/')", "a device is an extended resource, for example nvidia.com/gpu"))

    name: Annotated[str, Field(min_length=1, max_length=317)]
    """The resource, for example `nvidia.com/gpu`."""
    count: Annotated[int, Field(ge=1, le=64)] = 1
    """How many of it."""


class NativeProcess(ApiModel):
    """How a pod runs as a process of its node's own, without a container."""

    command: Annotated[list[Argument], Field(min_length=1, max_length=16)]
    """The program and its first arguments; those of `serving` follow. `python3` is the Python that the node's agent was
    installed with; other programs are looked for beside it, and nowhere else. It must listen on $(HOST):$(PORT)."""


class HardwareChoice(ApiModel):
    """A class of hardware that a runtime serves, and what is different there."""

    model_config = rules(_OWN_VARIABLES)

    hardware_class: Annotated[Name, Field(alias="class")]
    """The HardwareClass."""
    preference: Annotated[int, Field(ge=0, le=1000)] = 100
    """How well: the highest wins where a variant leaves the choice open."""
    tasks: Tasks = []
    """What it does there. Left out: all of the runtime's tasks."""
    image: ImageRef | None = None
    """The serving image there. Left out: that of `serving`."""
    args: Annotated[list[Argument], Field(max_length=32)] = []
    """Arguments after those of `serving`, for example the device to use."""
    env: Annotated[list[EnvVar], keyed("name", max_length=32)] = []
    """Environment beside that of `serving`; takes the place of a variable of the same name."""
    target: Annotated[str, Field(max_length=63, pattern=r"^[A-Za-z0-9][-A-Za-z0-9_.]*$")] | None = None
    """What artifacts are compiled for there, in the toolchain's own words. It is part of their key."""
    devices: Annotated[list[Device], keyed("name", max_length=8)] = []
    """What a pod holds of the node's devices."""
    native: NativeProcess | None = None
    """Pods there are native processes, which the node's own agent (`edgemodel-node`) starts."""


class EdgeRuntimeSpec(ApiModel):
    """A runtime: what it reads, what makes that, what serves it, on which hardware."""

    model_config = rules(
        (
            "self.schemes.exists(s, s.name == self.defaultScheme && (!has(s.tasks) || size(s.tasks) == 0))",
            "defaultScheme must be one of the schemes, and for all tasks",
        ),
    )

    format: Annotated[str, Field(min_length=1, max_length=32)]
    """The artifact's format, for example `gguf`."""
    tasks: Annotated[list[Task], Field(min_length=1, max_length=2)] = ["TextGeneration"]
    """What it can do."""
    schemes: Annotated[list[Scheme], keyed("name", max_length=64, min_length=1)]
    """The schemes that it offers."""
    default_scheme: SchemeName
    """The scheme of a variant that names none."""
    hardware: Annotated[list[HardwareChoice], keyed("class", max_length=32, min_length=1)]
    """The classes of hardware that it serves."""
    pipeline: Pipeline
    """What makes the artifacts."""
    serving: Serve
    """What serves them."""


class LabelRequirement(ApiModel):
    """A requirement on a node's labels, as in a node affinity."""

    model_config = rules(
        (
            "self.operator in ['In', 'NotIn'] ? size(self.values) > 0 : size(self.values) == 0",
            "In and NotIn need values; Exists and DoesNotExist take none",
        ),
    )

    key: LabelKey
    """The label."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    """How its value is judged."""
    values: Annotated[list[LabelValue], Field(max_length=64)] = []
    """The values, for In and NotIn."""


class ResourceRequirement(ApiModel):
    """A resource that a node must offer."""

    model_config = rules(
        ("self.name.contains('/')", "classes are told apart by extended resources, for example nvidia.com/gpu"),
    )

    name: Annotated[str, Field(min_length=1, max_length=317)]
    """The resource, for example `nvidia.com/gpu`; `*` at the end stands for any rest."""
    minimum: Annotated[int, Field(ge=1, le=LARGEST)] = 1
    """How much of it must be allocatable."""


class Toleration(ApiModel):
    """A taint that pods put up with, as in a pod's tolerations."""

    model_config = rules(
        ("self.operator == 'Equal' || !has(self.value)", "only Equal takes a value"),
    )

    key: LabelKey
    """The taint's key."""
    operator: Literal["Exists", "Equal"] = "Exists"
    """How its value is judged."""
    value: LabelValue | None = None
    """The value, for Equal."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """The effect; left out: any."""


class HardwareClassSpec(ApiModel):
    """Which nodes are of the class: those that meet all that is given."""

    model_config = rules(
        (
            "size(self.architectures) + size(self.labels) + size(self.resources) > 0",
            "give architectures, labels or resources: a class must not match every node",
        ),
    )

    description: ShortText = ""
    """For people."""
    architectures: Annotated[list[Annotated[str, Field(max_length=32)]], Field(max_length=8)] = []
    """Any of these `kubernetes.io/arch`; empty: any."""
    operating_systems: Annotated[list[Annotated[str, Field(max_length=32)]], Field(max_length=4)] = ["linux"]
    """Any of these `kubernetes.io/os`."""
    labels: Annotated[list[LabelRequirement], Field(max_length=32)] = []
    """All of these, for example of Node Feature Discovery."""
    resources: Annotated[list[ResourceRequirement], Field(max_length=16)] = []
    """All of these."""
    tolerations: Annotated[list[Toleration], Field(max_length=16)] = []
    """Taints that its nodes usually have: pods that are made for the class put up with them."""
    priority: Annotated[int, Field(ge=0, le=1000)] = 0
    """A node of several classes is labelled with the one of the highest priority."""


class EdgeRuntime(ApiModel):
    """A serving runtime as data: its format and schemes, the image that makes them, the image that serves them."""

    metadata: ObjectMeta
    spec: EdgeRuntimeSpec
    """A runtime: what it reads, what makes that, what serves it, on which hardware."""


class HardwareClass(ApiModel):
    """A kind of hardware: which nodes are of it."""

    metadata: ObjectMeta
    spec: HardwareClassSpec
    """Which nodes are of the class: those that meet all that is given."""
