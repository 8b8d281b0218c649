"""What the code can say is in the pages for those who read it: the reasons of conditions, and the metrics."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from edgemodel.core.problem import _WAITING
from edgemodel.node import admission
from edgemodel.pipeline.errors import PipelineError
from edgemodel.store.errors import StoreError

Error = TypeVar("Error", bound=Exception)
ROOT = Path(__file__).parents[3]
REASONS = ROOT / "docs" / "platform-engineer.md"
METRICS = ROOT / "docs" / "sre.md"


def called(folder: str, *functions: str) -> Iterator[ast.expr]:
    """The first argument of each call of these functions in a folder of the package."""
    for file in (ROOT / "operator" / "edgemodel" / folder).glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and node.args and ast.unparse(node.func) in functions:
                yield node.args[0]


def written_out(arguments: Iterator[ast.expr]) -> set[str]:
    """The texts among them; what a variable holds comes from elsewhere."""
    nodes = (node for argument in arguments for node in ast.walk(argument))
    return {str(node.value) for node in nodes if isinstance(node, ast.Constant)}


def derived(kind: type[Error]) -> Iterator[type[Error]]:
    """All that are derived from a kind of error."""
    for each in kind.__subclasses__():
        yield each
        yield from derived(each)


def problems() -> set[str]:
    """What the operator says itself, and makes of a kubelet's words."""
    makers = ("Problem.waiting", "Problem.retrying", "Problem.stalling")
    found = {reason for folder in ("core", "controllers") for reason in written_out(called(folder, *makers))}
    return found | set(_WAITING.values()) | {"DeadlineExceeded"}


def last_words() -> set[str]:
    """What pods of ours leave as their termination message."""
    store = {StoreError.reason, *(kind.reason for kind in derived(StoreError))}
    pipeline = {kind("").reason for kind in derived(PipelineError) if not kind.__subclasses__()}
    return store | pipeline | written_out(called("store", "_end")) | {"Stopped"}


def refusals() -> set[str]:
    """Why a Mac's agent does not take a pod."""
    return {getattr(admission, ast.unparse(argument)) for argument in called("node", "Refused")}


@pytest.mark.parametrize(
    ("reasons", "among_them"),
    [
        (problems(), {"NoNode", "Serving", "PodFailed", "ImageNotFound"}),
        (last_words(), {"StoreDenied", "StoreFailed", "PickleRefused", "FetchFailed", "Internal"}),
        (refusals(), {"NotNative", "OutOfMemory", "OutOfAddresses"}),
    ],
    ids=["problems", "last words", "refusals"],
)
def test_each_reason_is_in_the_page(reasons: set[str], among_them: set[str]) -> None:
    """A new one gets a line that says what it means or what to do."""
    assert among_them <= reasons
    section = REASONS.read_text(encoding="utf-8").partition("## When it is not Ready")[2].partition("\n## ")[0]
    assert {reason for reason in reasons if f"`{reason}`" not in section} == set()


def test_each_metric_is_in_the_page() -> None:
    """Those of ours: not what a Mac's agent tells as a kubelet does."""
    found = set()
    for folder in ("engine", "controllers", "serve", "node"):
        found |= {f"{name}_total" for name in written_out(called(folder, "Counter"))}
        found |= written_out(called(folder, "Gauge", "Histogram", "GaugeMetricFamily"))
    found |= {"edgemodel_models", "edgemodel_artifacts"}
    ours = {name for name in found if name.startswith(("edgemodel_", "workqueue_"))}
    assert len(ours) > 20
    page = METRICS.read_text(encoding="utf-8")
    assert {name for name in ours if not re.search(rf"`{name}[`{{]", page)} == set()
