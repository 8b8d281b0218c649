"""What a real API server takes and refuses: CEL, bounds, immutability, pruning, defaults."""

import copy
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hack.cluster import binaries
from tests.apiserver.api.conftest import CRDS, Object, Server, conditions

DIGEST = f"sha256:{'0123456789abcdef' * 4}"
KEY = "0123456789abcdef" * 2
API = "edgemodel.dev/v1alpha1"
GOOD: dict[str, Object] = {
    "EdgeModel": {"source": {"uri": "hf://HuggingFaceTB/SmolLM2-135M-Instruct", "revision": "main"},
                  "variants": [{"name": "cpu"}]},
    "ModelArtifact": {
        "key": KEY, "source": {"uri": "hf://a/b"}, "runtime": "llamacpp",
        "recipe": {"toolchain": "llamacpp", "toolchainVersion": "b1", "scheme": "Q4_K_M"},
        "resolved": {"digest": DIGEST, "format": "gguf", "bytes": 1,
                     "model": {"architecture": "llama", "parameters": 1}},
    },
    "EdgeRuntime": {
        "format": "gguf", "schemes": [{"name": "Q4_K_M", "bitsPerWeight": "4.85"}], "defaultScheme": "Q4_K_M",
        "hardware": [{"class": "x86-64"}], "serving": {"image": "i"},
        "pipeline": {"image": "i", "toolchain": "llamacpp", "version": "b1"},
    },
    "HardwareClass": {"architectures": ["amd64"]},
}  # fmt: skip


def good(kind: str, name: str = "good", **spec: Any) -> Object:
    """An object that is all right, but for what a test changes."""
    body = copy.deepcopy(GOOD[kind]) | spec
    metadata = {"name": name} | ({"namespace": "default"} if kind in ("EdgeModel", "ModelArtifact") else {})
    return {"apiVersion": API, "kind": kind, "metadata": metadata, "spec": body}


@pytest.mark.parametrize("path", sorted(CRDS.glob("*.yaml")), ids=lambda path: path.stem)
def test_definition_is_established_and_its_schema_is_structural(server: Server, path: Path) -> None:
    where = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{path.stem}.edgemodel.dev"
    found = conditions(server.send("GET", where).body)
    assert found["Established"] == found["NamesAccepted"] == "True"
    assert "NonStructuralSchema" not in found


@pytest.mark.parametrize("kind", sorted(GOOD))
def test_good_object_is_accepted_without_a_warning(server: Server, kind: str) -> None:
    answer = server.create(good(kind))
    assert answer.accepted, answer.message
    assert answer.warnings == ()


def source(uri: str, **fields: Any) -> Object:
    return {"source": {"uri": uri} | fields}


def variant(**fields: Any) -> Object:
    return {"variants": [{"name": "v"} | fields]}


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("the shortest", source("hf://a/b") | {"variants": None}),
        ("a folder in a bucket", source("s3://bucket/some/folder", revision="version-id")),
        ("a file of the web", source("https://host.example/model.gguf", sha256=DIGEST)),
        ("a file of a volume", source("pvc://claim/folder/model.gguf")),
        ("a revision with slashes", source("hf://a/b", revision="refs/pr/1")),
        ("a Secret", source("hf://a/b", secretRef={"name": "hub-token"})),
        ("an IPv6 address that is not link-local", source("https://[2001:db8::1]/model.gguf")),
        ("a host whose name only begins like the metadata address", source("https://169.255.0.1/model.gguf")),
        ("replicas", variant(replicas=2)),
        ("no pods for now", variant(replicas=0)),
        ("a pod on each node", variant(perNode=True)),
        ("replicas and perNode: false", variant(replicas=2, perNode=False)),
        ("resources", variant(resources={"cpu": "500m", "memory": "2Gi"})),
        ("a gate", {"quality": {"minAccuracy": "0.95"}}),
        ("embeddings", {"task": "Embeddings"}),
        ("sixteen variants", {"variants": [{"name": f"v{number}"} for number in range(16)]}),
    ],
)
def test_edge_model_is_accepted_with(server: Server, name: str, spec: Object) -> None:
    obj = good("EdgeModel", **spec)
    obj["spec"] = {field: value for field, value in obj["spec"].items() if value is not None}
    answer = server.create(obj)
    assert answer.accepted, f"{name}: {answer.message}"


LINK_LOCAL = "a source must not be on a link-local address"


@pytest.mark.parametrize(
    ("name", "spec", "message"),
    [
        ("no source", {"source": {}}, "spec.source.uri: Required value"),
        ("an unknown scheme", source("http://host/x.gguf"), "should match"),
        ("a space", source("s3://bucket/a b"), "should match"),
        ("a space that only Unicode knows", source("s3://bucket/a\u00a0b"), "should match"),
        ("a revision of a file of the web", source("https://host/x.gguf", revision="main"),
         "revision is for hf:// and s3:// sources; leave it out for this one"),
        ("a revision of a volume", source("pvc://claim/x", revision="main"), "revision is for hf:// and s3:// sources"),
        ("a model without owner", source("hf://model"), "an hf:// source is hf://OWNER/NAME"),
        ("a model with a path", source("hf://a/b/c"), "an hf:// source is hf://OWNER/NAME"),
        ("a way out of its folder", source("s3://bucket/../other"), "must not leave its folder: take '..' out of uri"),
        ("a way out of a volume", source("pvc://claim/a/.."), "must not leave its folder"),
        ("the cloud's metadata", source("https://169.254.169.254/latest"), LINK_LOCAL),
        ("a link-local address of IPv6", source("https://[fe80::1]/x"), LINK_LOCAL),
        ("a link-local address of IPv6, shouted", source("https://[FE80::1]/x"), LINK_LOCAL),
        ("a link-local address of IPv4 in one of IPv6", source("https://[::ffff:169.254.169.254]/x"), LINK_LOCAL),
        ("a password", source("https://user:password@host/x"), "credentials do not belong in a URI"),
        ("a digest that is none", source("hf://a/b", sha256="abc"), "spec.source.sha256"),
        ("replicas and a pod on each node", variant(replicas=1, perNode=True), "replicas and perNode exclude each"),
        ("two variants of a name", {"variants": [{"name": "v"}, {"name": "v"}]}, "Duplicate value"),
        ("no variant in a list of them", {"variants": []}, "should have at least 1 items"),
        ("seventeen variants", {"variants": [{"name": f"v{number}"} for number in range(17)]}, "at most 16 items"),
        ("a variant with a long name", variant(name="v" * 21), "Too long: may not be more than 20"),
        ("a variant whose name is no label", variant(name="V_1"), "should match"),
        ("a runtime that is no name", variant(runtime="a/b"), "should match"),
        ("half a pod", variant(replicas=-1), "greater than or equal to 0"),
        ("an accuracy in percent", {"quality": {"minAccuracy": "95"}}, "should match"),
        ("memory in no unit", variant(resources={"memory": "2 gigs"}), "should match"),
        ("no context", {"serving": {"contextLength": 1}}, "greater than or equal to 128"),
        ("an unknown task", {"task": "Dreaming"}, "Unsupported value"),
    ],
)  # fmt: skip
def test_edge_model_is_refused_for(server: Server, name: str, spec: Object, message: str) -> None:
    answer = server.create(good("EdgeModel", **spec))
    assert answer.status == 422, f"{name}: {answer.body}"
    assert message in answer.message, name


NO_SERVICE = "the name becomes a Service's: at most 40 of a-z, 0-9 and '-', starting with a letter"


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("EdgeModel", "a" * 40, None),
        ("EdgeModel", "a" * 41, NO_SERVICE),
        ("EdgeModel", "1st", NO_SERVICE),
        ("EdgeModel", "a.b", NO_SERVICE),
        ("EdgeRuntime", "a" * 63, None),
        ("EdgeRuntime", "a" * 64, "the name becomes a label's value"),
        ("EdgeRuntime", "a.b", "the name becomes a label's value"),
        ("HardwareClass", "a" * 63, None),
        ("HardwareClass", "a" * 64, "the name becomes a label's value"),
        ("HardwareClass", "a.b", "the name becomes a label's value"),
    ],
)
def test_name_fits_what_is_made_of_it(server: Server, kind: str, name: str, message: str | None) -> None:
    answer = server.create(good(kind, name))
    assert answer.accepted == (message is None), answer.body
    assert (message or "") in answer.message


@pytest.mark.parametrize(
    ("name", "spec", "message"),
    [
        ("a default that it does not offer", {"defaultScheme": "Q2_K"}, "defaultScheme must be one of the schemes"),
        (
            "a default for one task alone",
            {"schemes": [{"name": "Q4_K_M", "bitsPerWeight": "4.85", "tasks": ["Embeddings"]}]},
            "and for all tasks",
        ),
        ("no scheme", {"schemes": []}, "should have at least 1 items"),
        ("two schemes of a name", {"schemes": [{"name": "Q4_K_M", "bitsPerWeight": "4.85"}] * 2}, "Duplicate value"),
        ("bits that are no number", {"schemes": [{"name": "Q4_K_M", "bitsPerWeight": "many"}]}, "should match"),
        ("no hardware", {"hardware": []}, "should have at least 1 items"),
        ("a port of the system's", {"serving": {"image": "i", "port": 80}}, "greater than or equal to 1024"),
        ("a variable of ours", {"serving": {"image": "i", "env": [{"name": "PORT"}]}}, "that the operator sets"),
        ("an unknown task", {"tasks": ["Dreaming"]}, "Unsupported value"),
    ],
)
def test_edge_runtime_is_refused_for(server: Server, name: str, spec: Object, message: str) -> None:
    answer = server.create(good("EdgeRuntime", **spec))
    assert answer.status == 422, f"{name}: {answer.body}"
    assert message in answer.message, name


def label(**fields: Any) -> Object:
    return {"labels": [{"key": "zone"} | fields]}


@pytest.mark.parametrize(
    ("name", "spec", "message"),
    [
        ("is all nodes", {"architectures": []}, "a class must not match every node"),
        ("is all nodes of an operating system", {"architectures": [], "operatingSystems": ["linux"]},
         "a class must not match every node"),
        ("wants a label to be in nothing", label(operator="In"), "In and NotIn need values"),
        ("wants a label not to be in nothing", label(operator="NotIn", values=[]), "In and NotIn need values"),
        ("wants a label to exist with a value", label(operator="Exists", values=["a"]), "Exists and DoesNotExist take"),
        ("wants a label in an unknown way", label(operator="Gt", values=["1"]), "Unsupported value"),
        ("wants a resource that every node has", {"resources": [{"name": "cpu", "minimum": 4}]},
         "classes are told apart by extended resources, for example nvidia.com/gpu"),
        ("wants none of a resource", {"resources": [{"name": "nvidia.com/gpu", "minimum": 0}]},
         "greater than or equal to 1"),
        ("puts up with any value and names one", {"tolerations": [{"key": "pool", "value": "gpu"}]},
         "only Equal takes a value"),
    ],
)  # fmt: skip
def test_hardware_class_is_refused_when_it(server: Server, name: str, spec: Object, message: str) -> None:
    answer = server.create(good("HardwareClass", **spec))
    assert answer.status == 422, f"{name}: {answer.body}"
    assert message in answer.message, name


@pytest.mark.parametrize(
    ("name", "there", "message"),
    [
        ("sets a variable of the operator's", {"env": [{"name": "PORT", "value": "1"}]},
         "env must not name a variable that the operator sets"),
        ("takes for a device what every node has", {"devices": [{"name": "cpu"}]},
         "a device is an extended resource, for example nvidia.com/gpu"),
        ("holds none of a device", {"devices": [{"name": "nvidia.com/gpu", "count": 0}]}, "greater than or equal to 1"),
        ("names a device twice", {"devices": 2 * [{"name": "nvidia.com/gpu"}]}, "Duplicate value"),
    ],
)  # fmt: skip
def test_runtime_is_refused_when_on_some_hardware_it(server: Server, name: str, there: Object, message: str) -> None:
    answer = server.create(good("EdgeRuntime", hardware=[{"class": "gpu"} | there]))
    assert answer.status == 422, f"{name}: {answer.body}"
    assert message in answer.message, name


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("labels", {"architectures": []} | label(operator="In", values=["a"])),
        ("a label that must not be there", {"architectures": []} | label(operator="DoesNotExist")),
        ("a resource", {"architectures": [], "resources": [{"name": "nvidia.com/gpu"}]}),
        ("any resource of a vendor", {"architectures": [], "resources": [{"name": "nvidia.com/*"}]}),
    ],
)
def test_hardware_class_is_accepted_by(server: Server, name: str, spec: Object) -> None:
    answer = server.create(good("HardwareClass", **spec))
    assert answer.accepted, f"{name}: {answer.message}"


def test_artifact_never_changes(server: Server) -> None:
    artifact = good("ModelArtifact", KEY)
    assert server.create(artifact, dry_run=False).accepted
    answer = server.merge(artifact, {"spec": {"runtime": "other"}})
    assert answer.status == 422
    assert "a ModelArtifact is a record and never changes" in answer.message
    assert server.merge(artifact, {"metadata": {"labels": {"a": "b"}}}).accepted


def test_task_of_an_edge_model_never_changes(server: Server) -> None:
    model = good("EdgeModel", "fixed-task")
    assert server.create(model, dry_run=False).accepted
    answer = server.merge(model, {"spec": {"task": "Embeddings"}})
    assert answer.status == 422
    assert "task is fixed: clients of the Service rely on it; create another EdgeModel" in answer.message
    assert server.merge(model, {"spec": {"serving": {"parallel": 8}}}).accepted


def test_field_that_nobody_knows_is_told_and_dropped(server: Server) -> None:
    answer = server.create(good("EdgeModel", quantisation={"scheme": "Q4_K_M"}))
    assert answer.accepted
    assert any('unknown field \\"spec.quantisation\\"' in warning for warning in answer.warnings), answer.warnings
    assert "quantisation" not in answer.body["spec"]


def test_field_that_nobody_knows_is_refused_as_kubectl_asks_for(server: Server) -> None:
    answer = server.create(good("EdgeModel", quantisation={}), validation="Strict")
    assert answer.status == 400
    assert 'unknown field "spec.quantisation"' in answer.message


@pytest.mark.parametrize("kind", ["EdgeModel", "ModelArtifact"])
def test_new_object_looks_unseen_whatever_its_author_says(server: Server, kind: str) -> None:
    obj = good(kind) | {"status": {"observedGeneration": 1, "conditions": []}}
    assert server.create(obj).body["status"] == {"observedGeneration": -1}


def test_status_is_written_beside_the_spec(server: Server) -> None:
    model = good("EdgeModel", "with-status")
    assert server.create(model, dry_run=False).accepted
    changed = server.merge(model, {"status": {"observedGeneration": 1, "summary": "Q4_K_M"}}, "/status")
    assert changed.accepted, changed.message
    assert changed.body["status"]["summary"] == "Q4_K_M"
    assert changed.body["metadata"]["generation"] == 1


def test_defaults_are_filled_in(server: Server) -> None:
    spec = server.create(good("EdgeModel")).body["spec"]
    assert spec["task"] == "TextGeneration"
    assert spec["serving"] == {"contextLength": 4096, "parallel": 4, "powerMode": "Balanced", "rollout": "Surge"}
    assert spec["variants"] == [{"name": "cpu", "perNode": False}]


def kubectl(kubeconfig: Path, *arguments: str) -> str:
    built = binaries.built()
    assert built is not None
    environment = os.environ | {"KUBECONFIG": str(kubeconfig)}
    command = [str(built / "kubectl"), *arguments]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=60).stdout


def test_kubectl_explains_a_field_in_our_words(server: Server, kubeconfig: Path) -> None:
    told = " ".join(kubectl(kubeconfig, "explain", "em.spec.variants").split())
    assert "One for each kind of hardware. Left out: one for each hardware class that has nodes and a runtime." in told
    assert "One pod on each node of the hardware class, also on nodes that join later." in told


def test_kubectl_prints_our_columns(server: Server, kubeconfig: Path) -> None:
    model = good("EdgeModel", "printed")
    assert server.create(model, dry_run=False).accepted
    ready = {"type": "Ready", "status": "False", "reason": "NoNode", "lastTransitionTime": "2026-01-02T03:04:05Z"}
    status = {"observedGeneration": 1, "readyVariants": "0/1", "summary": "Q4_K_M", "conditions": [ready]}
    assert server.merge(model, {"status": status}, "/status").accepted
    header, line = kubectl(kubeconfig, "get", "em", "printed").splitlines()
    assert header.split() == ["NAME", "READY", "REASON", "VARIANTS", "SCHEMES", "AGE"]
    assert line.split()[:5] == ["printed", "False", "NoNode", "0/1", "Q4_K_M"]
