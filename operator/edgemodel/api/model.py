"""EdgeModel: what the user wants."""

from typing import Annotated, Literal

from pydantic import Field

from edgemodel.api.artifact import PerformanceReport, QualityReport, ResolvedSource, Source
from edgemodel.api.base import (
    ApiModel,
    ArtifactKey,
    Bytes,
    Condition,
    Count,
    Generation,
    Name,
    ObjectMeta,
    Resources,
    SchemeName,
    Sha256,
    ShortText,
    Task,
    Text,
    keyed,
    rules,
)

TASK_IS_FIXED = "task is fixed: clients of the Service rely on it; create another EdgeModel"


class Quantization(ApiModel):
    """How the weights are made smaller."""

    scheme: SchemeName
    """One of the schemes that the EdgeRuntime offers, for example `Q4_K_M`."""


class Variant(ApiModel):
    """The model as one kind of hardware gets it."""

    model_config = rules(
        (
            "!(has(self.replicas) && has(self.perNode) && self.perNode)",
            "replicas and perNode exclude each other: perNode runs one pod on each node of the class",
        ),
    )

    name: Annotated[str, Field(min_length=1, max_length=20, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
    """Names the variant and its pods; unique in the EdgeModel."""
    runtime: Name | None = None
    """The EdgeRuntime that serves it. Left out: the one that serves the hardware best."""
    quantization: Quantization | None = None
    """Left out: the runtime's default scheme."""
    hardware: Name | None = None
    """The HardwareClass whose nodes serve it. Left out: the runtime's most preferred class that has nodes."""
    replicas: Annotated[int, Field(ge=0, le=1000)] | None = None
    """How many pods; 1 if left out. Not together with perNode."""
    per_node: bool = False
    """One pod on each node of the hardware class, also on nodes that join later."""
    resources: Resources | None = None
    """CPU and memory of a pod. Left out: CPU from the runtime, memory computed from the artifact and the context."""


class Quality(ApiModel):
    """What the artifact must be worth before it is served."""

    min_accuracy: Annotated[str, Field(max_length=8, pattern=r"^(0(\.[0-9]{1,6})?|1(\.0{1,6})?)$")]
    """Least accuracy, as a share of the unquantized model's on held-out text: `0.95`."""


class Serving(ApiModel):
    """How the model is served."""

    context_length: Annotated[int, Field(ge=128, le=1048576)] = 4096
    """Tokens of context that each request can have."""
    parallel: Annotated[int, Field(ge=1, le=256)] = 4
    """Requests that a pod serves at the same time."""
    power_mode: Literal["Balanced", "HighPerformance", "PowerSaver"] = "Balanced"
    """What an accelerator is to spare, where the runtime can tell it: time or power."""
    rollout: Literal["Surge", "Replace"] = "Surge"
    """What comes first when a pod is replaced. Surge: the new one, which takes over once it answers; its node needs
    room for both. Replace: the old one goes, for nodes that have room for one. So it is with Surge, too, where pods
    hold a device."""


class EdgeModelSpec(ApiModel):
    """What the user wants."""

    source: Source
    """Where the unquantized model comes from."""
    task: Annotated[Task, Field(json_schema_extra=rules(("self == oldSelf", TASK_IS_FIXED))["json_schema_extra"])] = (
        "TextGeneration"
    )
    """What the model does. Fixed once created."""
    variants: Annotated[list[Variant], keyed("name", max_length=16, min_length=1)] | None = None
    """One for each kind of hardware. Left out: one for each hardware class that has nodes and a runtime."""
    quality: Quality | None = None
    """The gate that an artifact must pass. Left out: any artifact that could be made is served."""
    serving: Serving = Serving()
    """How the model is served."""


class ArtifactStatus(ApiModel):
    """The artifact that a variant serves."""

    key: ArtifactKey
    """Name of the ModelArtifact."""
    digest: Sha256 | None = None
    """Digest of its manifest."""
    bytes: Bytes | None = None
    """Size."""


class ReplicaStatus(ApiModel):
    """The variant's pods."""

    desired: Count = 0
    """How many there should be."""
    updated: Count = 0
    """How many are of the latest revision."""
    ready: Count = 0
    """How many answer."""


class VariantStatus(ApiModel):
    """How one variant is doing."""

    name: Annotated[str, Field(max_length=20)]
    """The variant."""
    runtime: Annotated[str, Field(max_length=63)] = ""
    """The EdgeRuntime."""
    hardware: Annotated[str, Field(max_length=63)] = ""
    """The HardwareClass."""
    scheme: Annotated[str, Field(max_length=63)] = ""
    """The quantization scheme."""
    chosen: Text = ""
    """Why this runtime, hardware and scheme, and what was passed over."""
    artifact: ArtifactStatus | None = None
    """The artifact that the pods serve, or will."""
    quality: QualityReport | None = None
    """The artifact's quality report."""
    performance: PerformanceReport | None = None
    """How fast and how large the artifact is beside the unquantized model, where it was made."""
    replicas: ReplicaStatus = ReplicaStatus()
    """Its pods."""
    state: Annotated[str, Field(max_length=63)] = ""
    """One word: the reason that the variant adds to the conditions."""
    message: Text = ""
    """The same for people."""


class SourceStatus(ResolvedSource):
    """The pinned source and the request that it answers."""

    uri: Annotated[str, Field(max_length=1024)]
    """spec.source.uri as it was resolved."""
    requested_revision: ShortText = ""
    """spec.source.revision as it was resolved."""
    requested_sha256: Sha256 | None = None
    """spec.source.sha256 as it was resolved."""
    requested_adapter: Annotated[str, Field(max_length=1200)] | None = None
    """spec.source.adapter as it was resolved: its URI and, after a space, its revision."""


class EdgeModelStatus(ApiModel):
    """How the model is doing."""

    observed_generation: Generation = -1
    """The generation of the spec that was last acted on."""
    conditions: Annotated[list[Condition], keyed("type", max_length=8)] = []
    """Ready; Reconciling while something is under way; Stalled when the user must act."""
    source: SourceStatus | None = None
    """The source, pinned."""
    variants: Annotated[list[VariantStatus], keyed("name", max_length=32)] = []
    """A line for each variant."""
    ready_variants: Annotated[str, Field(max_length=16)] = ""
    """Ready of all, for example `1/2`."""
    summary: ShortText = ""
    """Schemes, for the printed column."""
    endpoint: ShortText = ""
    """Base URL of the OpenAI-compatible API inside the cluster."""


class EdgeModel(ApiModel):
    """A model, served on every kind of hardware that it names, from an artifact made and proven for each."""

    metadata: ObjectMeta
    spec: EdgeModelSpec
    """What the user wants."""
    status: EdgeModelStatus = EdgeModelStatus()
    """How the model is doing."""
