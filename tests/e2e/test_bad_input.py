"""Whatever a user gets wrong ends in a clear condition and an Event: no crash, no hot loop, no half-made artifact."""

import copy
import json
import struct
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from hack.cluster import kind
from hack.cluster.shell import REPOSITORY
from hack.deploy import SOURCES, SYSTEM_NAMESPACE, upload_sources
from tests.e2e.edge import NAMESPACE, SMALL, Edge, Json, condition, edge_model

TINY = REPOSITORY / "tests" / "fixtures" / "tinysawyer-hf"


def source(path: str, secret: str = SOURCES) -> Json:
    """spec.source of something in the store."""
    return {"source": {"uri": f"s3://{SOURCES}/{path}", "secretRef": {"name": secret}}}


def variant(**fields: Any) -> Json:
    """spec.variants with one variant."""
    usual = {"name": "cpu", "runtime": "llamacpp", "quantization": {"scheme": "Q8_0"}, "resources": SMALL}
    return {"variants": [usual | fields]}


CASES: dict[str, tuple[Json, str, str]] = {
    # name: what is asked for, the reason, and what the message must say
    "bad-runtime": (variant(runtime="lamacpp"), "UnknownRuntime", "there are: "),
    "bad-scheme": (variant(quantization={"scheme": "Q4_K_X"}), "UnknownScheme", "Q4_K_M"),
    "bad-hardware": (variant(hardware="quantum"), "UnknownHardware", "x86-64"),
    "bad-no-secret": (source("copy-1", "no-such-secret"), "SecretNotFound", "no-such-secret"),
    "bad-wrong-secret": (source("copy-2", "wrong-secret"), "SourceUnauthorized", "secretRef"),
    "bad-not-found": (source("nothing-here"), "SourceNotFound", "nothing-here"),
    "bad-architecture": (source("strange"), "UnsupportedArchitecture", "StrangeForCausalLM"),
    "bad-pickle": (source("pickle"), "PickleRefused", "safetensors"),
    "bad-truncated": (source("truncated"), "Truncated", "model.safetensors"),
    "bad-oom": (variant(runtime="no-memory"), "OutOfMemory", "memory"),
    "bad-image": (variant(runtime="no-image"), "ImageNotFound", "no-such-image"),
}
GOES_ON = {"bad-no-secret"}
"""Tried again by itself: the Secret may come."""


def write_bad_models(folder: Path) -> dict[str, Path]:
    """Name in the bucket -> file."""
    config = json.loads((TINY / "config.json").read_text())
    strange = folder / "strange.json"
    strange.write_text(json.dumps(config | {"architectures": ["StrangeForCausalLM"], "model_type": "strange"}))
    weights = TINY / "model.safetensors"
    truncated = folder / "truncated.safetensors"
    truncated.write_bytes(weights.read_bytes()[:-1000])
    pickle = folder / "pytorch_model.bin"
    pickle.write_bytes(b"\x80\x02}q\x00." + struct.pack("<Q", 0))
    files = {f"strange/{file.name}": file for file in TINY.iterdir()} | {"strange/config.json": strange}
    files |= {f"truncated/{file.name}": file for file in TINY.iterdir()} | {"truncated/model.safetensors": truncated}
    # An answer that one EdgeModel got is taken for another that asks the same: these ask for something of their own.
    files |= {f"{copy}/{file.name}": file for file in TINY.iterdir() for copy in ("copy-1", "copy-2")}
    return files | {"pickle/config.json": TINY / "config.json", "pickle/pytorch_model.bin": pickle}


def runtime_like_llamacpp(edge: Edge, name: str, **pipeline: Any) -> Json:
    """The built-in runtime under another name, with another pipeline."""
    runtime = edge.get("er", "llamacpp")
    spec = copy.deepcopy(runtime["spec"])
    spec["pipeline"] |= pipeline
    return {"apiVersion": runtime["apiVersion"], "kind": "EdgeRuntime", "metadata": {"name": name}, "spec": spec}


class _HasNothing(BaseHTTPRequestHandler):
    """A registry without images."""

    def do_GET(self) -> None:
        self.send_error(404)

    do_HEAD = do_GET  # noqa: N815 - as http.server calls it

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def missing_image() -> Iterator[str]:
    """An image that its registry does not have: one on this machine. A node of kind's does not reach that: it asks
    where ours would be."""
    if kind.docker_answers():
        yield "ghcr.io/edgemodel/no-such-image:1"
        return
    with ThreadingHTTPServer(("127.0.0.1", 0), _HasNothing) as registry:
        threading.Thread(target=registry.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{registry.server_port}/no-such-image:1"
        registry.shutdown()


@pytest.fixture(scope="module")
def asked(edge: Edge, missing_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """All the bad EdgeModels, applied at once, and gone when these tests are: others count what is left."""
    upload_sources(edge.deployed, NAMESPACE, write_bad_models(tmp_path_factory.mktemp("bad")))
    secret = edge.get("secret", SOURCES)
    wrong = {name: value for name, value in secret["data"].items() if name != "AWS_SECRET_ACCESS_KEY"}
    edge.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "wrong-secret"},
            "data": wrong,
            "stringData": {"AWS_SECRET_ACCESS_KEY": "not-the-right-one"},
        }
    )
    # Another toolchain version, so that no other test's artifact is taken for these; and little CPU, for a Job that
    # waits for its image holds what it asked for, and a test machine has two cores.
    edge.apply(runtime_like_llamacpp(edge, "no-memory", memoryOverhead=0, version="none-1", cpu="100m"))
    edge.apply(runtime_like_llamacpp(edge, "no-image", image=missing_image, version="none-2", cpu="100m"))
    for name, (spec, _, _) in CASES.items():
        edge.apply(edge_model(name, **spec))
    yield edge
    edge.clear()


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_said_in_a_condition_and_an_event(asked: Edge, name: str) -> None:
    _, reason, words = CASES[name]
    model = asked.wait_reason(name, reason, "InProgress" if name in GOES_ON else "Failed", 400)
    assert words in condition(model, "Ready")["message"]
    # Events come after the statuses that they are about.
    asked.wait(f"an Event of {name}: {reason}", lambda: reason in asked.events(name))
    assert not asked.list("deployments,daemonsets", selector=f"edgemodel.dev/model={name}")


def test_nothing_of_it_makes_the_operator_busy_or_crash(asked: Edge) -> None:
    def writes() -> float:
        total = 0.0
        for pod in asked.list("pods", SYSTEM_NAMESPACE, "app.kubernetes.io/component=operator"):
            samples = asked.scrape(SYSTEM_NAMESPACE, f"pod/{pod['metadata']['name']}", 8080)
            total += sum(
                value
                for name, value in samples.items()
                if name.startswith("edgemodel_api_requests_total")
                and 'resource="leases"' not in name
                and not any(f'verb="{verb}"' in name for verb in ("get", "list", "discover"))
            )
        return total

    before = writes()
    time.sleep(15)
    assert writes() - before <= 6  # the one that waits for its Secret may be tried once more
    for pod in asked.list("pods", SYSTEM_NAMESPACE, "app.kubernetes.io/component=operator"):
        assert [status["restartCount"] for status in pod["status"]["containerStatuses"]] == [0]
    assert not [key for key in asked.blobs() if key.endswith("manifest.json")]


def test_what_was_missing_is_taken_up_when_it_comes(asked: Edge) -> None:
    secret = asked.get("secret", SOURCES)
    asked.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "no-such-secret"}, "data": secret["data"]})
    asked.apply(edge_model("bad-runtime"))
    asked.wait_ready("bad-runtime", seconds=400)
    asked.wait_ready("bad-no-secret", seconds=400)


def test_a_variant_waits_for_its_node_and_starts_when_one_joins(asked: Edge) -> None:
    asked.apply(
        {
            "apiVersion": "edgemodel.dev/v1alpha1",
            "kind": "HardwareClass",
            "metadata": {"name": "e2e-shelf"},
            "spec": {"labels": [{"key": "example.com/shelf", "operator": "Exists"}]},
        }
    )
    runtime = runtime_like_llamacpp(asked, "e2e-shelf")
    runtime["spec"]["hardware"] = [{"class": "e2e-shelf"}]
    asked.apply(runtime)
    asked.apply(edge_model("shelf", **variant(runtime="e2e-shelf", hardware="e2e-shelf")))
    asked.wait_reason("shelf", "NoNode", "InProgress")
    node = asked.list("nodes")[0]["metadata"]["name"]
    asked.deployed.kubectl("label", "node", node, "example.com/shelf=3", "--overwrite")
    try:
        asked.wait_ready("shelf")
    finally:
        asked.deployed.kubectl("label", "node", node, "example.com/shelf-")
        asked.delete("em", "shelf")
        asked.delete("er", "e2e-shelf")
        asked.delete("hc", "e2e-shelf")


def test_the_api_server_itself_refuses_what_is_wrong_on_its_face(edge: Edge) -> None:
    for spec, words in (
        ({"source": {"uri": "hf://a/b/../c"}}, "leave its folder"),
        ({"source": {"uri": "https://169.254.169.254/x.gguf"}}, "link-local"),
        ({"source": {"uri": "https://user:word@example.com/x.gguf"}}, "Secret"),
        (variant(replicas=2, perNode=True), "exclude each other"),
    ):
        with pytest.raises(Exception, match=words):
            edge.apply(edge_model("refused", **spec))
