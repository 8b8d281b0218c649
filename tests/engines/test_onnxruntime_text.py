"""The engines on ONNX Runtime and on onnxruntime-genai, with what the toolchain makes."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from edgemodel.pipeline.onnx_schemes import DEFAULT_SCHEME, SCHEMES
from tests.packages import Packages

pytestmark = pytest.mark.xdist_group("onnx")  # they share what takes long to make

ENGINE = """
import json, sys
from pathlib import Path
from edgemodel.serve.engine import EngineSettings, ModelRefusedError, NoChatTemplateError, Sampling
from edgemodel.serve.genai_layout import PROMPT_TOKENS
from edgemodel.serve.MODULE import CLASS

def load(folder, context_length=512, device=""):
    return CLASS(EngineSettings(Path(folder), context_length, 4, 1, device))

def turn(engine, answers, finishes):
    for output in engine.step():
        assert output.request not in finishes
        answers.setdefault(output.request, []).extend(output.tokens)
        if output.finish:
            finishes[output.request] = output.finish

def answer(engine, *requests):
    answers, finishes = {}, {}
    for number, (prompt, sampling) in enumerate(requests):
        engine.add(number, prompt, sampling)
    while len(finishes) < len(requests):
        turn(engine, answers, finishes)
    return [([token.id for token in answers[number]], finishes[number]) for number in range(len(requests))]

def say(what):
    print(json.dumps(what))

folder = sys.argv[1]
"""
PROMPTS = """
engine = load(folder)
short, other = (engine.encode(text, special=True) for text in ("Tom went to the river and", "The old lady"))
greedy = Sampling(max_tokens=20, temperature=0)
"""


BATCH = "onnxruntime_batch", "OnnxRuntimeBatchEngine"
GENAI = "onnxruntime_genai", "OnnxRuntimeGenAiEngine"
CHOICE = "onnxruntime_text", "onnx_engine"
Run = Callable[[Path, str], Any]


def _run(onnx: Packages, engine: tuple[str, str], folder: Path, code: str) -> Any:
    """What the code says about the artifact in the folder."""
    module, name = engine
    done = onnx.run("-c", ENGINE.replace("MODULE", module).replace("CLASS", name) + code, folder)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def batch(onnx: Packages) -> Run:
    """Runs code with the engine that batches."""
    return partial(_run, onnx, BATCH)


@pytest.fixture(params=[BATCH, GENAI], ids=["batch", "genai"])
def each(onnx: Packages, request: pytest.FixtureRequest) -> Run:
    """Runs code with either engine."""
    return partial(_run, onnx, request.param)


@pytest.fixture
def folder(onnx_artifacts: Path) -> Path:
    """An artifact in the default scheme."""
    return onnx_artifacts / DEFAULT_SCHEME


def test_every_scheme_answers(batch: Run, onnx_artifacts: Path) -> None:
    code = """
found = {}
for name in names:
    engine = load(Path(folder, name))
    prompt = engine.encode("Tom went to the river and", special=True)
    ((ids, finish),) = answer(engine, (prompt, Sampling(max_tokens=20, temperature=0)))
    found[name] = [engine.decode(ids), len(ids), finish]
    engine.close()
say(found)
"""
    found = batch(onnx_artifacts, f"names = {list(SCHEMES)}" + code)
    assert found.keys() == SCHEMES.keys()
    for text, count, finish in found.values():
        assert (count, finish) == (20, "length")
        assert text.startswith("\nsaid:")


def test_requests_side_by_side_answer_as_alone(each: Run, folder: Path) -> None:
    code = """
long = (short + other) * 20
requests = [(short, greedy), (long, greedy), (other, Sampling(3, 0)), (short, Sampling(1, 0))]
together = answer(engine, *requests)
say([together == [answer(engine, one)[0] for one in requests], [len(ids) for ids, _ in together], len(long)])
"""
    same, counts, prompt = each(folder, PROMPTS + code)
    assert same
    assert counts == [20, 20, 3, 1]
    assert prompt > 128  # it is read in pieces


def test_who_comes_later_is_answered_at_once_and_none_waits_for_a_long_prompt(each: Run, folder: Path) -> None:
    code = """
answers, finishes = {}, {}
engine.add(1, short, Sampling(100, 0))
for _ in range(5):
    turn(engine, answers, finishes)
engine.add(2, other, Sampling(1, 0))
turn(engine, answers, finishes)
second = finishes.get(2)
engine.add(3, (short * 60)[: 3 * PROMPT_TOKENS], Sampling(5, 0))
before = len(answers[1])
for _ in range(3):
    turn(engine, answers, finishes)
say([second, len(answers[1]) - before, len(answers[3])])
"""
    assert each(folder, PROMPTS + code) == ["length", 3, 1]


def test_requests_that_come_and_leave_answer_as_alone(each: Run, folder: Path) -> None:
    """Some end while others go on, and one is dropped while a long prompt is read."""
    code = """
long = (short + other) * 20
prompts = [short, other, long, short[:3], other[:2], long[:150], other, short]
lengths = [3, 30, 6, 17, 1, 9, 12, 2]
waiting = [(number, prompt, Sampling(length, 0)) for number, (prompt, length) in enumerate(zip(prompts, lengths))]
alone = [answer(engine, (prompt, sampling))[0] for _, prompt, sampling in waiting]
answers, finishes, open, turns = {}, {}, set(), 0
while waiting or open:
    while waiting and len(open) < 3:
        engine.add(*waiting[0])
        open.add(waiting.pop(0)[0])
    if turns in (3, 9):
        engine.add(90 + turns, long, Sampling(50, 0))
    if turns in (4, 11):
        engine.cancel(93 if turns == 4 else 99)
    turn(engine, answers, finishes)
    open -= set(finishes)
    turns += 1
say([([token.id for token in answers[number]], finishes[number]) for number in range(8)] == alone)
"""
    assert each(folder, PROMPTS + code)


def test_a_seed_gives_the_same_answer_again(each: Run, folder: Path) -> None:
    code = """
seven, eight = (Sampling(20, 1.0, 0.9, seed=seed) for seed in (7, 2**63 + 8))
say([ids for ids, _ in answer(engine, (short, seven), (short, seven), (short, eight), (short, Sampling(20, 1e-4)))]
    + [ids for ids, _ in answer(engine, (short, seven), (short, greedy), (short, Sampling(20, 2.0, 1e-6)))])
"""
    seven, same, eight, cold, again, greedy, narrow = each(folder, PROMPTS + code)
    assert seven == same == again
    assert seven != eight
    assert cold == narrow == greedy


def test_log_probabilities_are_those_of_the_model(each: Run, onnx_artifacts: Path) -> None:
    code = """
import numpy as np
from edgemodel.pipeline.onnx_evaluate import _predict
for number, temperature in enumerate((0, 1.5)):
    engine.add(number, short, Sampling(20, temperature, seed=1, logprobs=True))
engine.add(2, short, greedy)
answers, finishes = {}, {}
while len(finishes) < 3:
    turn(engine, answers, finishes)
worst = 0
for tokens in (answers[0], answers[1]):
    logits = _predict(Path(folder), 1)(short + [token.id for token in tokens])[len(short) - 1 : -1].astype(np.float64)
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    worst = max([worst] + [abs(row[token.id] - token.logprob) for row, token in zip(expected, tokens)])
say([worst, [token.logprob for token in answers[2]]])
"""
    # Of the unquantized model: others round activations, in a batch of another shape elsewhere.
    worst, unasked = each(onnx_artifacts / "FP32", PROMPTS + code)
    assert worst < 1e-4
    assert unasked == [None] * 20


@pytest.mark.parametrize("as_list", [False, True])
def test_the_token_that_ends_an_answer_is_not_in_it(each: Run, folder: Path, tmp_path: Path, as_list: bool) -> None:
    ((ids, _),) = each(folder, PROMPTS + "say(answer(engine, (short, greedy)))")
    changed = shutil.copytree(folder, tmp_path / "model")
    config = json.loads((changed / "genai_config.json").read_text())
    config["model"]["eos_token_id"] = [2, ids[6]] if as_list else ids[6]
    (changed / "genai_config.json").write_text(json.dumps(config))
    code = "say(answer(engine, (short, greedy), (short, Sampling(len(ids), 0))))".replace("len(ids)", str(len(ids)))
    assert each(changed, PROMPTS + code) == [[ids[: ids.index(ids[6])], "stop"]] * 2


def test_a_cancelled_request_is_heard_of_no_more(each: Run, folder: Path) -> None:
    code = """
for number in (1, 2):
    engine.add(number, short, greedy)
engine.step()
engine.cancel(1)
outputs = {output.request for output in engine.step()}
engine.cancel(1)
engine.cancel(99)
answers, finishes = {}, {}
while 2 not in finishes:
    turn(engine, answers, finishes)
engine.cancel(2)
say([list(outputs), engine.step(), answer(engine, (short, greedy))[0][1]])
"""
    assert each(folder, PROMPTS + code) == [[2], [], "length"]


def test_thousands_of_requests_leave_no_memory_behind(batch: Run, folder: Path) -> None:
    code = """
import resource
for number in range(2500):
    if number == 500:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    engine.add(number, short, Sampling(2, 0.7 if number % 2 else 0, 0.9, logprobs=number % 3 == 0))
    engine.step()
    engine.cancel(number) if number % 5 == 0 else engine.step()
say(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    assert batch(folder, PROMPTS + code) < 2048  # KiB


def test_texts_are_split_as_by_the_tokenizer_that_the_model_was_trained_with(batch: Run, onnx_artifacts: Path) -> None:
    code = """
from transformers import AutoTokenizer
theirs = AutoTokenizer.from_pretrained(Path(folder, "source"))
engine = load(Path(folder, "INT4"))
texts = ["", " ", "\\n", "Tom went", " Tom", "a\\n\\nb  c", "é日本🙂", "<s>hi</s>", "</s>", "hello <unk> x"]
for text in texts:
    for special in (True, False):
        ids = engine.encode(text, special)
        assert ids == theirs(text, add_special_tokens=special)["input_ids"], text
        assert engine.decode(ids) == theirs.decode(ids, skip_special_tokens=True), text
say(engine.decode([]))
"""
    assert batch(onnx_artifacts, code) == ""


def test_a_conversation_is_put_as_transformers_puts_it(batch: Run, onnx_artifacts: Path) -> None:
    code = """
from transformers import AutoTokenizer
theirs = AutoTokenizer.from_pretrained(Path(folder, "source"))
engine = load(Path(folder, "INT4"))
messages = [{"role": "system", "content": "Be <brief>."}, {"role": "user", "content": "Wer ist Tom? 🙂"}]
found = engine.chat_prompt(messages)
assert found == theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True), found
try:
    engine.chat_prompt([{"role": "tool", "content": "x"}])
except NoChatTemplateError as error:
    say([found, str(error)])
"""
    prompt, refusal = batch(onnx_artifacts, code)
    assert prompt.endswith("assistant:")
    assert "🙂" in prompt
    assert "there are no tools here" in refusal


def test_a_model_without_chat_template_cannot_chat(batch: Run, folder: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(folder, tmp_path / "model", ignore=shutil.ignore_patterns("chat_template.jinja"))
    code = """
try:
    load(folder).chat_prompt([{"role": "user", "content": "x"}])
except NoChatTemplateError as error:
    say(str(error))
"""
    assert "no chat template" in batch(bare, code)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [('Path(folder, "nothing")', "genai_config.json"), ("folder, 513", "context"), ('folder, device="cuda"', "device")],
)
def test_a_model_that_cannot_be_served_is_refused(onnx: Packages, folder: Path, arguments: str, why: str) -> None:
    code = f"""
try:
    load({arguments})
except ModelRefusedError as error:
    say(str(error))
"""
    assert why in _run(onnx, CHOICE, folder, code)


def test_both_engines_answer_alike(onnx: Packages, onnx_artifacts: Path) -> None:
    code = """
requests = [(short, greedy), (other, greedy), ((short + other) * 20, greedy)]
say([ids for ids, _ in answer(engine, *requests)])
"""
    for scheme in (DEFAULT_SCHEME, "FP32"):
        batched, turned = (_run(onnx, engine, onnx_artifacts / scheme, PROMPTS + code) for engine in (BATCH, GENAI))
        assert batched == turned


@pytest.mark.parametrize("unlike", ["a cache that grows", "an input that is not named"])
def test_what_cannot_be_batched_is_for_onnxruntime_genai(
    onnx: Packages, folder: Path, tmp_path: Path, unlike: str
) -> None:
    changed = shutil.copytree(folder, tmp_path / "model")
    config = json.loads((changed / "genai_config.json").read_text())
    if unlike == "a cache that grows":
        config["search"]["past_present_share_buffer"] = False
    else:
        del config["model"]["decoder"]["inputs"]["attention_mask"]  # onnxruntime-genai knows what it is called
    (changed / "genai_config.json").write_text(json.dumps(config))
    code = f"""
engines = [load(each) for each in (folder, {str(changed)!r})]
prompt = engines[0].encode("Tom went to the river and", special=True)
said = [answer(engine, (prompt, Sampling(5, 0))) for engine in engines]
say([type(engine).__name__ for engine in engines] + [said[0] == said[1]])
"""
    assert _run(onnx, CHOICE, folder, code) == [BATCH[1], GENAI[1], True]
