import pytest

from edgemodel.api.runtime import HardwareClassSpec
from edgemodel.core.hardware import Fleet, NodeFacts, classes_of, fleet_of, hardware_labels, is_of_class
from tests.unit.core.samples import ARM, GPU, X86, hardware_class, node

GPU_NODE = NodeFacts(
    "g", "amd64", "linux", {"zone": "a", "empty": ""}, {"nvidia.com/gpu": "2", "example.com/odd": "1900m"}
)


@pytest.mark.parametrize(
    ("name", "spec", "expected"),
    [
        ("architecture is among those named", {"architectures": ["arm64", "amd64"]}, True),
        ("architecture is another", {"architectures": ["arm64"]}, False),
        ("operating system is linux unless said otherwise", {"architectures": ["amd64"]}, True),
        ("operating system is another", {"operatingSystems": ["windows"]}, False),
        ("any operating system will do", {"operatingSystems": []}, True),
        ("label has one of the values", {"labels": [{"key": "zone", "operator": "In", "values": ["b", "a"]}]}, True),
        ("label has another value", {"labels": [{"key": "zone", "operator": "In", "values": ["b"]}]}, False),
        ("label that is missing is in nothing", {"labels": [{"key": "x", "operator": "In", "values": ["a"]}]}, False),
        ("label has an excluded value", {"labels": [{"key": "zone", "operator": "NotIn", "values": ["a"]}]}, False),
        ("label that is missing is excluded by nothing, as in a node affinity",
         {"labels": [{"key": "x", "operator": "NotIn", "values": ["a"]}]}, True),
        ("label exists", {"labels": [{"key": "zone", "operator": "Exists"}]}, True),
        ("empty label exists too", {"labels": [{"key": "empty", "operator": "Exists"}]}, True),
        ("label exists but must not", {"labels": [{"key": "zone", "operator": "DoesNotExist"}]}, False),
        ("label does not exist and must not", {"labels": [{"key": "x", "operator": "DoesNotExist"}]}, True),
        ("one of two labels fails",
         {"labels": [{"key": "zone", "operator": "Exists"}, {"key": "x", "operator": "Exists"}]}, False),
        ("resource is there", {"resources": [{"name": "nvidia.com/gpu"}]}, True),
        ("resource is there, enough of it", {"resources": [{"name": "nvidia.com/gpu", "minimum": 2}]}, True),
        ("resource is there, too little of it", {"resources": [{"name": "nvidia.com/gpu", "minimum": 3}]}, False),
        ("resource is found by its start", {"resources": [{"name": "nvidia.com/*"}]}, True),
        ("resource has a longer name than the one asked for", {"resources": [{"name": "nvidia.com/gp"}]}, False),
        ("resource is missing", {"resources": [{"name": "npu.intel.com/accel"}]}, False),
        ("amount that is no whole number counts as none", {"resources": [{"name": "example.com/odd"}]}, False),
        ("all of several kinds are met", {"architectures": ["amd64"], "resources": [{"name": "nvidia.com/gpu"}]}, True),
        ("one of several kinds is not met", {"architectures": ["arm64"], "resources": [{"name": "nvidia.com/gpu"}]},
         False),
    ],
)  # fmt: skip
def test_node_is_of_a_class_when(name: str, spec: dict[str, object], expected: bool) -> None:
    assert is_of_class(GPU_NODE, HardwareClassSpec.model_validate(spec)) is expected, name


def test_parts_of_a_gpu_count_together_when_a_star_asks_for_any() -> None:
    mig = NodeFacts("g", "amd64", "linux", {}, {"nvidia.com/mig-1g.10gb": "2", "nvidia.com/mig-2g.20gb": "1"})
    spec = HardwareClassSpec.model_validate({"resources": [{"name": "nvidia.com/mig-*", "minimum": 3}]})
    assert is_of_class(mig, spec)


def test_classes_of_a_node_come_by_priority_then_by_name() -> None:
    classes = [hardware_class(name, architectures=["amd64"]) for name in ("b", "a")]
    assert classes_of(GPU_NODE, [*classes, GPU, ARM]) == ("gpu", "a", "b")


def test_node_is_labelled_with_its_best_class_and_with_each() -> None:
    assert hardware_labels(("gpu", "x86-64")) == {
        "edgemodel.dev/hardware": "gpu",
        "hardware.edgemodel.dev/gpu": "true",
        "hardware.edgemodel.dev/x86-64": "true",
    }


def test_node_of_no_class_gets_no_label() -> None:
    assert hardware_labels(()) == {}


def test_fleet_counts_each_node_once_by_its_classes() -> None:
    nodes = [GPU_NODE, node("n1"), node("n2"), node("n3", arch="s390x")]
    fleet = fleet_of(nodes, iter([X86, ARM, GPU]))
    assert fleet == Fleet({("gpu", "x86-64"): 1, ("x86-64",): 2})
    assert fleet.any_rank == {"gpu": 1, "x86-64": 3}
