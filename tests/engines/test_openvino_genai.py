"""OpenVINO GenAI's engine, on the CPU: what it answers, how it batches, and what it leaves behind."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.packages import Packages
from tests.unit.pipeline.models import TINYSAWYER

pytestmark = pytest.mark.xdist_group("openvino")  # they share what takes long to make

TEMPLATE = (
    "{% for message in messages %}[{{ message.role }}] {{ message.content }} {% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)

FIFTH = 971
"""The fifth token of the model's greedy answer."""

CONVERT = """
import sys
from edgemodel.pipeline.openvino_steps import convert
for model in sys.argv[1:]:
    convert(model, model + "/made", model + "/windows.json")
"""


@pytest.fixture(scope="module")
def turned(openvino: Packages, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `openvino_turn.py` says."""
    folder = tmp_path_factory.mktemp("turned")
    model = shutil.copytree(TINYSAWYER, folder / "model")
    ending = shutil.copytree(TINYSAWYER, folder / "ending")
    (ending / "chat_template.jinja").write_text(TEMPLATE)
    made = openvino.run("-c", CONVERT, model, ending)
    assert made.returncode == 0, made.stderr[-4000:]
    generation = ending / "made" / "generation_config.json"
    generation.write_text(json.dumps(json.loads(generation.read_text()) | {"eos_token_id": [2, FIFTH]}))
    done = openvino.run(Path(__file__).with_name("openvino_turn.py"), model / "made", ending / "made")
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_it_answers_as_the_model_would(turned: dict[str, Any]) -> None:
    greedy = turned["greedy"]
    assert greedy["ids"] == greedy["expected_ids"]
    assert greedy["ids"][4] == FIFTH
    assert greedy["finish"] == "length"
    assert "himself" in greedy["text"]
    assert greedy["logprobs"] == pytest.approx(greedy["expected"], abs=0.01)
    assert greedy["without"] is None


def test_requests_side_by_side_do_not_mix(turned: dict[str, Any]) -> None:
    assert turned["greedy"]["together"] == 4 * [turned["greedy"]["ids"]]


def test_a_seed_repeats_an_answer_whatever_else_is_asked(turned: dict[str, Any]) -> None:
    sampled = turned["sampled"]
    assert sampled["seeded"] == sampled["again"]
    answers = [sampled["seeded"], *sampled["others"]]
    assert all(answers.count(answer) == 1 for answer in answers)
    assert sampled["certain"] == turned["greedy"]["ids"]


def test_thirty_two_requests_over_four_slots(turned: dict[str, Any]) -> None:
    many = turned["many"]
    assert all(length in (None, wanted) for length, wanted in zip(many["lengths"], many["wanted"], strict=True))
    assert many["lengths"].count(None) < 8


def test_memory_does_not_grow_with_requests(turned: dict[str, Any]) -> None:
    assert turned["many"]["grown"] < 4 << 20


def test_every_slot_has_a_whole_context_also_after_one_was_given_up(turned: dict[str, Any]) -> None:
    full = turned["full"]
    assert full["had"] > 10
    assert full["lengths"] == 4 * [full["wanted"]]
    assert full["idle"] == []
    assert full["too_long"] == [[], "length"]
    assert full["next"] == turned["greedy"]["ids"]


def test_text_becomes_tokens_and_text_again(turned: dict[str, Any]) -> None:
    texts = turned["texts"]
    assert texts["special"] == [1, *texts["bare"]]
    assert texts["none"] == []
    assert texts["decoded"] == "Tom"


def test_a_model_without_a_chat_template_says_so(turned: dict[str, Any]) -> None:
    assert "no chat template" in turned["texts"]["refused"]


def test_a_chat_is_in_the_words_of_the_template_of_the_source(turned: dict[str, Any]) -> None:
    assert turned["ending"]["chat"] == "[system] Be brief. [user] Hello [assistant]"


def test_the_token_that_ends_an_answer_is_not_part_of_it(turned: dict[str, Any]) -> None:
    assert turned["ending"]["ids"] == turned["greedy"]["ids"][:4]
    assert turned["ending"]["finish"] == "stop"


def test_a_folder_without_a_model_and_a_device_that_is_not_there_are_told(turned: dict[str, Any]) -> None:
    assert "Could not find a model" in turned["refused"]["folder"]
    assert "NOTHING" in turned["refused"]["device"]
    assert "/home" not in str(turned["refused"])
