"""What an EdgeModel comes to on this cluster: for each variant a runtime, hardware and a scheme, or why not."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from edgemodel.api.artifact import Recipe, ResolvedSource
from edgemodel.api.base import Task
from edgemodel.api.model import EdgeModelSpec, Variant
from edgemodel.api.runtime import EdgeRuntime, HardwareChoice, HardwareClass, Scheme, Toleration
from edgemodel.core.hardware import Fleet
from edgemodel.core.keys import artifact_key, short_hash
from edgemodel.core.problem import Problem

MAX_VARIANTS = 16
"""As many as an EdgeModel may name."""


@dataclass(frozen=True)
class Landscape:
    """What the cluster offers."""

    runtimes: Mapping[str, EdgeRuntime]
    classes: Mapping[str, HardwareClass]
    fleet: Fleet


@dataclass(frozen=True)
class Choice:
    """A variant decided."""

    variant: Variant
    runtime: EdgeRuntime
    hardware: str
    tolerations: Sequence[Toleration]
    scheme: Scheme
    task: Task
    why: str

    @property
    def on_hardware(self) -> HardwareChoice:
        """What the runtime does differently on that hardware."""
        return next(one for one in self.runtime.spec.hardware if one.hardware_class == self.hardware)

    @property
    def recipe(self) -> Recipe:
        """How the variant's artifact is made."""
        pipeline = self.runtime.spec.pipeline
        return Recipe(
            toolchain=pipeline.toolchain,
            toolchain_version=pipeline.version,
            scheme=self.scheme.name,
            task=self.task,
            calibration=pipeline.calibration if self.scheme.calibrated else None,
            target=self.on_hardware.target or "",
        )

    def key(self, resolved: ResolvedSource) -> str:
        """The key of the variant's artifact."""
        return artifact_key(resolved, self.recipe)


@dataclass(frozen=True)
class Undecided:
    """A variant that can't be served as things are."""

    variant: Variant
    problem: Problem


Decision = Choice | Undecided


def _names(found: Iterable[str]) -> str:
    return ", ".join(sorted(found)) or "none"


def _preference(runtime: EdgeRuntime, hardware: str) -> int:
    return next((choice.preference for choice in runtime.spec.hardware if choice.hardware_class == hardware), -1)


def _can(runtime: EdgeRuntime, spec: EdgeModelSpec, source_format: str) -> bool:
    """Whether a runtime does the task and reads the source; of a source that is not known yet, any may."""
    return spec.task in runtime.spec.tasks and (not source_format or source_format in runtime.spec.pipeline.sources)


def _served(runtime: EdgeRuntime, task: Task) -> list[HardwareChoice]:
    """The hardware on which a runtime does the task."""
    return [choice for choice in runtime.spec.hardware if not choice.tasks or task in choice.tasks]


def _default_variants(spec: EdgeModelSpec, landscape: Landscape, source_format: str) -> Iterator[Variant]:
    """One for each class that is, of those that a runtime serves, the best of some node."""
    served = {
        choice.hardware_class
        for runtime in landscape.runtimes.values()
        if _can(runtime, spec, source_format)
        for choice in _served(runtime, spec.task)
    }
    best = {name for classes in landscape.fleet.nodes for name in [name for name in classes if name in served][:1]}
    for name in sorted(best)[:MAX_VARIANTS]:
        yield Variant(name=_variant_name(name), hardware=name)


def _variant_name(hardware: str) -> str:
    return hardware if len(hardware) <= 20 else f"{hardware[:13].rstrip('-')}-{short_hash(hardware, length=6)}"


def _choose_runtime(
    spec: EdgeModelSpec, variant: Variant, landscape: Landscape, source_format: str
) -> tuple[EdgeRuntime, str] | Problem:
    known = landscape.runtimes
    if variant.runtime is not None:
        runtime = known.get(variant.runtime)
        if runtime is None:
            return Problem.stalling(
                "UnknownRuntime",
                f"there is no EdgeRuntime {variant.runtime!r}; there are: {_names(known)}",
            )
        if spec.task not in runtime.spec.tasks:
            return Problem.stalling(
                "TaskNotSupported",
                f"EdgeRuntime {variant.runtime!r} does not do {spec.task}; it does: {_names(runtime.spec.tasks)}",
            )
        if not _can(runtime, spec, source_format):
            return Problem.stalling(
                "SourceNotSupported",
                f"EdgeRuntime {variant.runtime!r} does not read {source_format}; it reads: "
                f"{_names(runtime.spec.pipeline.sources)}",
            )
        return runtime, f"runtime {variant.runtime} as asked"
    offers = sorted(
        (-choice.preference, runtime.metadata.name, choice.hardware_class)
        for runtime in known.values()
        if _can(runtime, spec, source_format)
        for choice in _served(runtime, spec.task)
        if variant.hardware in (None, choice.hardware_class)
    )
    if not offers:
        what = f"{spec.task} of {source_format}" if source_format else spec.task
        where = f" on {variant.hardware}" if variant.hardware else ""
        return Problem.stalling("NoRuntime", f"no EdgeRuntime does {what}{where}; there are: {_names(known)}")
    there = [offer for offer in offers if variant.hardware or landscape.fleet.any_rank.get(offer[2])]
    if not there:
        return Problem.waiting(
            "NoNode",
            f"no node is of a class that an EdgeRuntime for {spec.task} serves "
            f"({_names({hardware for _, _, hardware in offers})}): waiting for one to join",
        )
    name = there[0][1]
    others = sorted({other for _, other, _ in there} - {name})
    return known[name], f"runtime {name} serves it best" + (f", before {', '.join(others)}" if others else "")


def _choose_hardware(
    runtime: EdgeRuntime, task: Task, variant: Variant, landscape: Landscape
) -> tuple[str, str] | Problem:
    served = [choice.hardware_class for choice in _served(runtime, task)]
    runtime_name = runtime.metadata.name
    if variant.hardware is not None:
        if variant.hardware not in served:
            return Problem.stalling(
                "HardwareNotSupported",
                f"EdgeRuntime {runtime_name!r} does not do {task} on {variant.hardware!r}; "
                f"it does on: {_names(served)}",
            )
        if not landscape.fleet.any_rank.get(variant.hardware):
            return Problem.waiting(
                "NoNode",
                f"no node is of HardwareClass {variant.hardware!r}: waiting for one to join. "
                f"Classes with nodes: {_names(landscape.fleet.any_rank)}",
            )
        return variant.hardware, f"hardware {variant.hardware} as asked"
    there = [name for name in served if landscape.fleet.any_rank.get(name)]
    if not there:
        return Problem.waiting(
            "NoNode",
            f"no node is of a class that EdgeRuntime {runtime_name!r} serves ({_names(served)}): "
            "waiting for one to join",
        )
    best = min(there, key=lambda name: (-_preference(runtime, name), name))
    return best, f"hardware {best} is the best that has nodes"


def _choose_scheme(runtime: EdgeRuntime, task: Task, variant: Variant) -> tuple[Scheme, str] | Problem:
    schemes = {scheme.name: scheme for scheme in runtime.spec.schemes if not scheme.tasks or task in scheme.tasks}
    if variant.quantization is None:
        return schemes[runtime.spec.default_scheme], f"scheme {runtime.spec.default_scheme} is the runtime's default"
    scheme = schemes.get(variant.quantization.scheme)
    if scheme is None:
        return Problem.stalling(
            "UnknownScheme",
            f"EdgeRuntime {runtime.metadata.name!r} has no scheme {variant.quantization.scheme!r} for {task}; "
            f"it has: {_names(schemes)}",
        )
    return scheme, f"scheme {scheme.name} as asked"


def _decide(spec: EdgeModelSpec, variant: Variant, landscape: Landscape, source_format: str) -> Decision:
    if variant.hardware is not None and variant.hardware not in landscape.classes:
        known = _names(landscape.classes)
        unknown = f"there is no HardwareClass {variant.hardware!r}; there are: {known}"
        return Undecided(variant, Problem.stalling("UnknownHardware", unknown))
    runtime = _choose_runtime(spec, variant, landscape, source_format)
    if isinstance(runtime, Problem):
        return Undecided(variant, runtime)
    hardware = _choose_hardware(runtime[0], spec.task, variant, landscape)
    if isinstance(hardware, Problem):
        return Undecided(variant, hardware)
    scheme = _choose_scheme(runtime[0], spec.task, variant)
    if isinstance(scheme, Problem):
        return Undecided(variant, scheme)
    why = "; ".join((runtime[1], hardware[1], scheme[1]))
    tolerations = landscape.classes[hardware[0]].spec.tolerations
    return Choice(variant, runtime[0], hardware[0], tolerations, scheme[0], spec.task, why)


def decide(spec: EdgeModelSpec, landscape: Landscape, source_format: str = "") -> list[Decision]:
    """A decision for each variant, in the order of the spec. The format is empty while the source is not resolved."""
    default = _default_variants(spec, landscape, source_format)
    variants = spec.variants if spec.variants is not None else list(default)
    return [_decide(spec, variant, landscape, source_format) for variant in variants]


def wanted_keys(spec: EdgeModelSpec, resolved: ResolvedSource, landscape: Landscape) -> set[str]:
    """Keys of the artifacts that an EdgeModel wants."""
    decisions = decide(spec, landscape, resolved.format)
    return {decision.key(resolved) for decision in decisions if isinstance(decision, Choice)}
