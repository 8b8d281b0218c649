"""What an EdgeModel comes to on this cluster: for each variant a runtime, hardware and a scheme, or why not."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from edgemodel.api.artifact import Recipe, ResolvedSource
from edgemodel.api.model import EdgeModelSpec, Variant
from edgemodel.api.runtime import EdgeRuntime, HardwareClass, Scheme
from edgemodel.core.hardware import Fleet
from edgemodel.core.keys import artifact_key
from edgemodel.core.problem import Problem


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
    scheme: Scheme
    why: str

    @property
    def recipe(self) -> Recipe:
        """How the variant's artifact is made."""
        pipeline = self.runtime.spec.pipeline
        return Recipe(
            toolchain=pipeline.toolchain,
            toolchain_version=pipeline.version,
            scheme=self.scheme.name,
            calibration=pipeline.calibration if self.scheme.calibrated else None,
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


def _default_variants(spec: EdgeModelSpec, landscape: Landscape) -> Iterator[Variant]:
    """One for each class that is the best of some node and that a runtime serves."""
    for name in sorted(landscape.fleet.best):
        able = (
            runtime
            for runtime in landscape.runtimes.values()
            if spec.task in runtime.spec.tasks and _preference(runtime, name) >= 0
        )
        if any(able):
            yield Variant(name=name[:20].rstrip("-"), hardware=name)


def _choose_runtime(spec: EdgeModelSpec, variant: Variant, landscape: Landscape) -> tuple[EdgeRuntime, str] | Problem:
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
        return runtime, f"runtime {variant.runtime} as asked"
    able = [runtime for runtime in known.values() if spec.task in runtime.spec.tasks]
    wanted = [variant.hardware] if variant.hardware else list(landscape.fleet.any_rank)
    ranked = sorted(
        ((-_preference(runtime, hardware), runtime.metadata.name) for runtime in able for hardware in wanted),
    )
    ranked = [entry for entry in ranked if entry[0] <= 0]
    if not ranked:
        return Problem.stalling(
            "NoRuntime",
            f"no EdgeRuntime does {spec.task} on {_names(wanted)}; there are: {_names(known)}",
        )
    name = ranked[0][1]
    others = sorted({other for _, other in ranked[1:]} - {name})
    return known[name], f"runtime {name} serves it best" + (f", before {', '.join(others)}" if others else "")


def _choose_hardware(runtime: EdgeRuntime, variant: Variant, landscape: Landscape) -> tuple[str, str] | Problem:
    served = [choice.hardware_class for choice in runtime.spec.hardware]
    runtime_name = runtime.metadata.name
    if variant.hardware is not None:
        if variant.hardware not in landscape.classes:
            return Problem.stalling(
                "UnknownHardware",
                f"there is no HardwareClass {variant.hardware!r}; there are: {_names(landscape.classes)}",
            )
        if variant.hardware not in served:
            return Problem.stalling(
                "HardwareNotSupported",
                f"EdgeRuntime {runtime_name!r} does not serve {variant.hardware!r}; it serves: {_names(served)}",
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


def _choose_scheme(runtime: EdgeRuntime, variant: Variant) -> tuple[Scheme, str] | Problem:
    schemes = {scheme.name: scheme for scheme in runtime.spec.schemes}
    if variant.quantization is None:
        return schemes[runtime.spec.default_scheme], f"scheme {runtime.spec.default_scheme} is the runtime's default"
    scheme = schemes.get(variant.quantization.scheme)
    if scheme is None:
        return Problem.stalling(
            "UnknownScheme",
            f"EdgeRuntime {runtime.metadata.name!r} has no scheme {variant.quantization.scheme!r}; "
            f"it has: {_names(schemes)}",
        )
    return scheme, f"scheme {scheme.name} as asked"


def _decide(spec: EdgeModelSpec, variant: Variant, landscape: Landscape) -> Decision:
    runtime = _choose_runtime(spec, variant, landscape)
    if isinstance(runtime, Problem):
        return Undecided(variant, runtime)
    hardware = _choose_hardware(runtime[0], variant, landscape)
    if isinstance(hardware, Problem):
        return Undecided(variant, hardware)
    scheme = _choose_scheme(runtime[0], variant)
    if isinstance(scheme, Problem):
        return Undecided(variant, scheme)
    return Choice(variant, runtime[0], hardware[0], scheme[0], "; ".join((runtime[1], hardware[1], scheme[1])))


def decide(spec: EdgeModelSpec, landscape: Landscape) -> list[Decision]:
    """A decision for each variant, in the order of the spec."""
    variants = spec.variants if spec.variants is not None else list(_default_variants(spec, landscape))
    return [_decide(spec, variant, landscape) for variant in variants]


def wanted_keys(spec: EdgeModelSpec, resolved: ResolvedSource, landscape: Landscape) -> set[str]:
    """Keys of the artifacts that an EdgeModel wants."""
    return {decision.key(resolved) for decision in decide(spec, landscape) if isinstance(decision, Choice)}
