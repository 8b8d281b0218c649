"""OpenVINO GenAI's engine, turned in a Python with OpenVINO: `openvino_turn.py MODEL ENDING` prints as JSON what it did
with the model in MODEL, and with the same one in ENDING, which has a chat template and ends its answers with a token of
ours."""

import json
import sys
from pathlib import Path
from typing import Any

from edgemodel.pipeline.openvino_steps import predictor
from edgemodel.pipeline.quality import _log_softmax
from edgemodel.serve.engine import EngineSettings, ModelRefusedError, NoChatTemplateError, Sampling
from edgemodel.serve.openvino_genai import OpenVinoGenAiEngine
from tests.engines.turner import GREEDY, SLOTS, Turner, ids

CONTEXT = 96


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def greedy(turner: Turner, folder: Path) -> dict[str, Any]:
    """An answer, and what the model itself says of it."""
    (answer,) = turner.all(GREEDY)
    whole = turner.prompt + ids(answer)
    found = _log_softmax(predictor(str(folder))(whole))[len(turner.prompt) - 1 : -1]
    return {
        "ids": ids(answer),
        "finish": answer[1],
        "text": turner.engine.decode(ids(answer)),
        "logprobs": [token.logprob for token in answer[0]],
        "expected": found.max(axis=-1).tolist(),
        "expected_ids": found.argmax(axis=-1).tolist(),
        "together": [ids(one) for one in turner.all(*[GREEDY] * SLOTS)],
        "without": turner.all(Sampling(max_tokens=1, temperature=0))[0][0][0].logprob,
    }


def sampled(turner: Turner) -> dict[str, Any]:
    """What randomness does."""
    seeded = Sampling(max_tokens=12, temperature=1.5, seed=7)
    other, free = Sampling(max_tokens=12, temperature=1.5, seed=-7), Sampling(max_tokens=12, temperature=1.5)
    among = turner.all(other, seeded, free, free)
    return {
        "seeded": ids(turner.all(seeded)[0]),
        "again": ids(among[1]),
        "others": [ids(among[0]), ids(among[2]), ids(among[3])],
        "certain": ids(turner.all(Sampling(max_tokens=8, temperature=2.0, top_p=0.001))[0]),
    }


def many(turner: Turner) -> dict[str, Any]:
    """32 requests over 4 slots, then many more, and what memory they take."""
    wanted = [Sampling(max_tokens=1 + number % 7, temperature=number % 2) for number in range(32)]
    answers = turner.all(*wanted)
    short = [Sampling(max_tokens=2, temperature=number % 2) for number in range(1000)]
    turner.all(*short)
    before = resident()
    turner.all(*short)
    return {
        "lengths": [len(ids(answer)) if answer[1] == "length" else None for answer in answers],
        "wanted": [sampling.max_tokens for sampling in wanted],
        "grown": resident() - before,
    }


def full(turner: Turner) -> dict[str, Any]:
    """Requests as long as may be, in every slot, one of them given up and replaced; and one that is too long."""
    long = Sampling(max_tokens=CONTEXT - len(turner.prompt), temperature=1, seed=3)
    numbers = [turner.add(long) for _ in range(SLOTS)]
    for _ in range(CONTEXT // 2):
        turner.step()
    turner.engine.cancel(numbers[0])
    had = len(turner.outputs.pop(numbers.pop(0)))
    numbers.append(turner.add(long))
    while turner.open():
        turner.step()
    answers = [turner.answer(number) for number in numbers]
    for number in (*numbers, 10**6):
        turner.engine.cancel(number)
    idle = turner.engine.step()
    too_long = turner.add(GREEDY, turner.prompt * 2 * CONTEXT)
    while turner.open():
        turner.step()
    return {
        "had": had,
        "lengths": [len(answer[0]) for answer in answers],
        "wanted": long.max_tokens,
        "idle": idle,
        "too_long": (ids(given_up := turner.answer(too_long)), given_up[1]),
        "next": ids(turner.all(GREEDY)[0]),
    }


def texts(turner: Turner) -> dict[str, Any]:
    """What becomes of text."""
    engine = turner.engine
    found: dict[str, Any] = {"special": engine.encode("Tom", special=True), "bare": engine.encode("Tom", special=False)}
    found["none"] = engine.encode("", special=False)
    found["decoded"] = engine.decode(found["special"])
    try:
        engine.chat_prompt([{"role": "user", "content": "Hello"}])
    except NoChatTemplateError as error:
        found["refused"] = str(error)
    return found


def ending(folder: Path) -> dict[str, Any]:
    """A model that chats and ends."""
    turner = Turner(OpenVinoGenAiEngine(EngineSettings(folder, CONTEXT, SLOTS, 1)))
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    answer = turner.all(GREEDY)[0]
    found = {"chat": turner.engine.chat_prompt(messages), "ids": ids(answer), "finish": answer[1]}
    turner.engine.close()
    return found


def refused(folder: Path, device: str = "") -> str:
    """What is said of a model that can't be served."""
    try:
        OpenVinoGenAiEngine(EngineSettings(folder, CONTEXT, 1, 1, device))
    except ModelRefusedError as error:
        return str(error)
    return ""


def main() -> None:
    """Does it all."""
    folder, other = map(Path, sys.argv[1:])
    turner = Turner(OpenVinoGenAiEngine(EngineSettings(folder, CONTEXT, SLOTS, 1)))
    found = {
        "greedy": greedy(turner, folder),
        "sampled": sampled(turner),
        "many": many(turner),
        "full": full(turner),
        "texts": texts(turner),
    }
    turner.engine.close()
    found["ending"] = ending(other)
    found["refused"] = {"folder": refused(other.parent), "device": refused(folder, "NOTHING")}
    print(json.dumps(found))


main()
