"""MLX's engine, on the CPU: what it answers, how it batches, and what it leaves behind."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.mlx import Mlx

pytestmark = pytest.mark.xdist_group("mlx")  # they share what takes long to make

TEMPLATE = (
    "{% for message in messages %}[{{ message.role }}] {{ message.content }} {% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)

FIFTH = 971
"""The fifth token of the model's greedy answer."""


@pytest.fixture(scope="module")
def turned(mlx: Mlx, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `mlx_turn.py` says. That its process ends well is part of it: MLX's threads can prevent it."""
    folder = tmp_path_factory.mktemp("turned")
    script = Path(__file__).with_name("mlx_turn.py")
    fixture = Path(__file__).parents[1] / "fixtures" / "tinysawyer-hf"
    mlx.said(
        "-m", "edgemodel.pipeline.steps", "edgemodel.pipeline.mlx_convert:convert", fixture, folder / "model", "BF16"
    )
    ending = shutil.copytree(folder / "model", folder / "ending")
    (ending / "chat_template.jinja").write_text(TEMPLATE)
    generation = json.loads((ending / "generation_config.json").read_text())
    (ending / "generation_config.json").write_text(json.dumps(generation | {"eos_token_id": [2, FIFTH]}))
    found: dict[str, Any] = json.loads(mlx.said(script, folder / "model", ending).splitlines()[-1])
    return found


def test_greedy_tokens_are_the_models_likeliest(turned: dict[str, Any]) -> None:
    greedy = turned["greedy"]
    assert greedy["ids"] == greedy["expected_ids"] == greedy["together"]
    assert greedy["finish"] == "length"
    assert greedy["logprobs"] == pytest.approx(greedy["expected"], abs=0.05)  # computed in 16 bits, in other shapes
    assert greedy["without"] is None
    assert greedy["text"].strip()


def test_a_seed_gives_the_same_answer_whoever_else_is_answered(turned: dict[str, Any]) -> None:
    sampled = turned["sampled"]
    assert sampled["seeded"] == sampled["again"]
    different = {tuple(answer) for answer in [sampled["seeded"], *sampled["others"]]}
    assert len(different) == 4


def test_the_smallest_share_leaves_the_likeliest_token(turned: dict[str, Any]) -> None:
    assert turned["sampled"]["certain"] == turned["greedy"]["ids"]


def test_more_requests_than_slots_all_get_their_tokens(turned: dict[str, Any]) -> None:
    many = turned["many"]
    assert len(many["lengths"]) == 32
    for got, wanted in zip(many["lengths"], many["wanted"], strict=True):
        assert got in (wanted, None)


def test_answers_leave_no_memory_behind(turned: dict[str, Any]) -> None:
    assert turned["many"]["grown"] < 100_000


def test_what_is_cancelled_says_no_more_and_hurts_nobody(turned: dict[str, Any]) -> None:
    cancelled = turned["cancelled"]
    assert cancelled["unbegun"] == cancelled["prefilled"] == cancelled["after"] == 0
    assert cancelled["kept"] == cancelled["next"] == turned["greedy"]["ids"]


def test_texts_are_had_from_any_thread(turned: dict[str, Any]) -> None:
    texts = turned["texts"]
    assert texts["special"] == [1, *texts["bare"]]
    assert texts["decoded"] == "Tom"
    assert "no chat template" in texts["refused"]


def test_a_chat_template_is_filled_in(turned: dict[str, Any]) -> None:
    assert turned["ending"]["chat"] == "[system] Be brief. [user] Hello [assistant]"


def test_any_token_that_ends_is_left_out(turned: dict[str, Any]) -> None:
    ending = turned["ending"]
    assert ending["finish"] == ending["last"] == "stop"
    assert turned["greedy"]["ids"][:5] == [*ending["ids"], FIFTH]


def test_a_folder_without_a_model_is_refused(turned: dict[str, Any]) -> None:
    assert "make its artifact anew" in turned["refused"]
