"""QNN's engine on its simulator of the HTP: what it answers, what it refuses, and the front on it."""

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI

from hack.cluster.controlplane import free_ports
from hack.cluster.shell import wait_for
from tests.packages import Packages
from tests.qnn import VOCABULARY, WIDTH

pytestmark = pytest.mark.xdist_group("qnn")  # they share what takes long to make


@pytest.fixture(scope="module")
def engine(qnn_turned: dict[str, Any]) -> dict[str, Any]:
    """What the engine did."""
    found: dict[str, Any] = qnn_turned["engine"]
    return found


def test_embeddings_have_the_length_that_the_model_gives_them(engine: dict[str, Any]) -> None:
    assert engine["lengths"] == pytest.approx([1.0] * 4)


def test_texts_side_by_side_do_not_mix(engine: dict[str, Any]) -> None:
    assert engine["in a batch"]


def test_it_reads_as_the_model_does(engine: dict[str, Any]) -> None:
    read = [VOCABULARY[number] for number in engine["encoded"]]
    assert read == ["[CLS]", "a", "c", "##a", "##t", "[SEP]"]
    assert engine["vocabulary"] == len(VOCABULARY)


def test_the_processor_answers_alike_where_it_is_asked_to(engine: dict[str, Any]) -> None:
    assert min(engine["on the processor"]) > 0.9999


def test_what_the_htp_fails_at_is_not_tried_on_the_processor(engine: dict[str, Any]) -> None:
    assert "QNN graph execute error" in engine["failed"]


def test_every_power_mode_is_one_that_qnn_knows(engine: dict[str, Any]) -> None:
    assert engine["power modes"] == [True] * 3


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("other soc", "compiled for SM8650 (HTP v75), and this node is a SM8550 (HTP v73)"),
        ("sdk", "compiled by QNN 2.40.0, and this image has QNN"),
        ("cut", "cannot load the model on the htp"),
        ("length", "at most 64 tokens: set serving.contextLength to that, not to 65"),
        ("device", "use htp, or cpu"),
        ("nothing", "the artifact cannot be read"),
    ],
)
def test_it_refuses_what_it_cannot_serve(qnn_turned: dict[str, Any], what: str, told: str) -> None:
    assert told in qnn_turned["refusals"][what]


@pytest.mark.parametrize("what", ["same soc", "unknown soc"])
def test_it_serves_on_the_soc_that_it_is_for_and_lets_qnn_judge_one_that_nobody_knows(
    qnn_turned: dict[str, Any], what: str
) -> None:
    assert qnn_turned["refusals"][what] == "it was not refused"


@pytest.fixture(scope="module")
def front(qnn: Packages, qnn_turned: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a front, started as the operator's pods do."""
    (port,) = free_ports(1)
    environ = {
        "MODEL_DIR": qnn_turned["folder"],
        "MODEL_NAME": "letters",
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "TASK": "Embeddings",
        "POWER_MODE": "PowerSaver",
        "CONTEXT_LENGTH": "64",
        "PARALLEL": "2",
    }
    log = tmp_path_factory.mktemp("front") / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [qnn.python, "-m", "edgemodel.serve", "qnn"], env=qnn.env | environ, stdout=output, stderr=output
        )
    address = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{address}/health"):
                return True
        except OSError:
            return False

    try:
        wait_for("a front that answers", answers, timeout=300)
        yield address
    finally:
        process.terminate()
        assert process.wait(120) == 0, log.read_text()


def test_the_official_client_gets_embeddings_through_the_front(front: str) -> None:
    with OpenAI(base_url=f"{front}/v1", api_key="none") as client:
        answer = client.embeddings.create(model="letters", input=["A cat sat.", "Tom went to the river."])
    first, second = (one.embedding for one in answer.data)
    assert len(first) == len(second) == WIDTH
    assert sum(value * value for value in first) == pytest.approx(1, abs=1e-4)
    assert first != second
    assert answer.usage.prompt_tokens == 10 + 20


def test_the_front_counts(front: str) -> None:
    with urllib.request.urlopen(f"{front}/metrics") as response:
        assert "prompt_tokens" in response.read().decode()
    with urllib.request.urlopen(f"{front}/v1/models") as response:
        assert json.load(response)["data"][0]["id"] == "letters"
