"""Small objects that the tests of the pure rooms start from. Each takes what a test wants to be different."""

from collections.abc import Mapping, Sequence
from typing import Any

from edgemodel.api.artifact import ModelArtifact, ModelFacts, PerformanceReport, QualityReport, Recipe, ResolvedSource
from edgemodel.api.model import EdgeModel
from edgemodel.api.runtime import EdgeRuntime, HardwareClass
from edgemodel.core.hardware import NodeFacts, fleet_of
from edgemodel.core.keys import artifact_key
from edgemodel.core.plan import Landscape
from edgemodel.core.settings import Settings, StoreSettings

DIGEST = f"sha256:{'0123456789abcdef' * 4}"
OTHER_DIGEST = f"sha256:{'fedcba9876543210' * 4}"
URI = "hf://HuggingFaceTB/SmolLM2-135M-Instruct"
NOW = "2026-01-02T03:04:05Z"
EARLIER = "2026-01-02T03:00:00Z"

SMOLLM2 = ModelFacts(
    architecture="LlamaForCausalLM",
    parameters=134_515_008,
    layers=30,
    kv_heads=3,
    head_size=64,
    hidden_size=576,
    vocabulary=49_152,
    context_length=8192,
)

SETTINGS = Settings(
    operator_image="registry.example/edgemodel:1",
    store=StoreSettings(uri="s3://models/edge"),
    owner="cluster",
    namespace="edgemodel-system",
)


def resolved(**fields: Any) -> ResolvedSource:
    """SmolLM2-135M as the resolver finds it."""
    return ResolvedSource.model_validate(
        {
            "digest": DIGEST,
            "revision": "12fd25f",
            "format": "safetensors",
            "weightType": "BF16",
            "bytes": 271_000_000,
            "licence": "apache-2.0",
            "model": SMOLLM2,
        }
        | fields
    )


def recipe(**fields: Any) -> Recipe:
    """A recipe of llama.cpp."""
    return Recipe.model_validate({"toolchain": "llamacpp", "toolchainVersion": "b1", "scheme": "Q4_K_M"} | fields)


def performance() -> PerformanceReport:
    """A performance report."""
    return PerformanceReport(
        engine="llama.cpp 1", processor="a processor", threads=2,
        tokens_per_second="20.0", baseline_tokens_per_second="10.0", speedup="2.00",
        memory_bytes=300, baseline_memory_bytes=1000, memory_saved="0.70",
    )  # fmt: skip


def quality(accuracy: str = "0.9812") -> QualityReport:
    """A quality report."""
    return QualityReport(
        perplexity="16.4000",
        baseline_perplexity="16.1000",
        accuracy=accuracy,
        kl_divergence="0.0210",
        top_token_agreement="0.9300",
        tokens=4096,
        text_digest=DIGEST,
    )


def runtime(
    name: str = "llamacpp",
    hardware: Mapping[str, int] | None = None,
    choices: Sequence[Mapping[str, Any]] | None = None,
    **spec: Any,
) -> EdgeRuntime:
    """A runtime that serves `hardware`: class -> preference; or these choices of hardware."""
    preferences = {"x86-64": 100} if hardware is None else hardware
    return EdgeRuntime.model_validate(
        {
            "metadata": {"name": name},
            "spec": {
                "format": "gguf",
                "schemes": [
                    {"name": "Q4_K_M", "bitsPerWeight": "4.85", "calibrated": True},
                    {"name": "Q8_0", "bitsPerWeight": "8.5"},
                ],
                "defaultScheme": "Q4_K_M",
                "hardware": choices
                or [{"class": known, "preference": preference} for known, preference in preferences.items()],
                "pipeline": {"image": "registry.example/pipeline:1", "toolchain": "llamacpp", "version": "b1"},
                "serving": {"image": "registry.example/llamacpp:1"},
            }
            | spec,
        }
    )


def hardware_class(name: str, **spec: Any) -> HardwareClass:
    """A class; by default of the nodes whose architecture has its name."""
    return HardwareClass.model_validate({"metadata": {"name": name}, "spec": spec or {"architectures": [name]}})


def node(name: str = "n1", arch: str = "amd64", **labels: str) -> NodeFacts:
    """A Linux node with nothing but a CPU."""
    return NodeFacts(name, arch, "linux", labels, {})


def landscape(
    runtimes: tuple[EdgeRuntime, ...] = (), classes: tuple[HardwareClass, ...] = (), nodes: tuple[NodeFacts, ...] = ()
) -> Landscape:
    """What a cluster offers."""
    return Landscape(
        {item.metadata.name: item for item in runtimes},
        {item.metadata.name: item for item in classes},
        fleet_of(nodes, classes),
    )


X86 = hardware_class("x86-64", architectures=["amd64"])
ARM = hardware_class("arm64", architectures=["arm64"])
GPU = hardware_class("gpu", resources=[{"name": "nvidia.com/gpu"}], priority=10)
ONE_X86_NODE = landscape((runtime(),), (X86, ARM), (node(),))


def edge_model(
    *variants: Mapping[str, Any], status: Mapping[str, Any] | None = None, name: str = "smollm2", **spec: Any
) -> EdgeModel:
    """An EdgeModel; with no variants given, one for each kind of hardware."""
    body: dict[str, Any] = {"source": {"uri": URI, "revision": "main"}} | spec
    if variants:
        body["variants"] = list(variants)
    return EdgeModel.model_validate(
        {
            "metadata": {"name": name, "namespace": "retail", "uid": "model-uid", "generation": 3},
            "spec": body,
            "status": status or {"observedGeneration": -1},
        }
    )


def condition(kind: str, status: str = "True", reason: str = "Testing", message: str = "said by a test") -> Any:
    """A condition as it lies in a status."""
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": EARLIER}


def model_artifact(made: ResolvedSource | None = None, how: Recipe | None = None, **status: Any) -> ModelArtifact:
    """A ModelArtifact with this status."""
    source, made_by = made or resolved(), how or recipe()
    key = artifact_key(source, made_by)
    return ModelArtifact.model_validate(
        {
            "metadata": {"name": key, "namespace": "retail", "uid": "artifact-uid", "generation": 1},
            "spec": {
                "key": key,
                "source": {"uri": URI, "revision": "main"},
                "resolved": source.dump(),
                "recipe": made_by.dump(),
                "runtime": "llamacpp",
            },
            "status": status or {"observedGeneration": -1},
        }
    )


def published(accuracy: str = "0.9812", how: Recipe | None = None) -> ModelArtifact:
    """An artifact that is in the store."""
    return model_artifact(
        how=how,
        observedGeneration=1,
        conditions=[condition("Ready", reason="Published")],
        digest=OTHER_DIGEST,
        bytes=105_000_000,
        entrypoint="model.gguf",
        quality=quality(accuracy).dump(),
    )
