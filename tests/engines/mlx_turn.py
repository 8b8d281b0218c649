"""MLX's engine, turned in a Python with MLX: `mlx_turn.py MODEL ENDING` prints as JSON what it did with the model in
MODEL, and with the same one in ENDING, which has a chat template and ends its answers with a token of ours."""

import json
import sys
import threading
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.utils import load_model

from edgemodel.serve.engine import EngineSettings, ModelRefusedError, NoChatTemplateError, Sampling
from edgemodel.serve.mlx import PREFILL_TOKENS, MlxEngine
from tests.engines.turner import GREEDY, SLOTS, Turner, ids


def greedy(turner: Turner, folder: Path) -> dict[str, Any]:
    """An answer, and what the model itself says of it."""
    (answer,) = turner.all(GREEDY)
    together = turner.all(*[GREEDY] * SLOTS, prompts=3)
    model, _ = load_model(folder)
    logits = model(mx.array([turner.prompt + ids(answer)]))[0].astype(mx.float32)[len(turner.prompt) - 1 : -1]
    found = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    return {
        "ids": ids(answer),
        "finish": answer[1],
        "text": turner.engine.decode(ids(answer)),
        "logprobs": [token.logprob for token in answer[0]],
        "expected": found.max(axis=-1).tolist(),
        "expected_ids": found.argmax(axis=-1).tolist(),
        "together": ids(together[0]),
        "without": turner.all(Sampling(max_tokens=1, temperature=0))[0][0][0].logprob,
    }


def sampled(turner: Turner) -> dict[str, Any]:
    """What randomness does."""
    seeded = Sampling(max_tokens=12, temperature=1.5, seed=7)
    other, free = Sampling(max_tokens=12, temperature=1.5, seed=-7), Sampling(max_tokens=12, temperature=1.5)
    alone = turner.all(seeded)[0]
    among = turner.all(other, seeded, free, free)
    certain = Sampling(max_tokens=8, temperature=2.0, top_p=0.001)
    return {
        "seeded": ids(alone),
        "again": ids(among[1]),
        "others": [ids(among[0]), ids(among[2]), ids(among[3])],
        "certain": ids(turner.all(certain)[0]),
    }


def many(turner: Turner) -> dict[str, Any]:
    """32 requests over 4 slots, then many more, and what memory they take."""
    wanted = [Sampling(max_tokens=1 + number % 7, temperature=number % 2) for number in range(32)]
    answers = turner.all(*wanted, prompts=5)
    short = [Sampling(max_tokens=2, temperature=number % 2) for number in range(100)]
    turner.all(*short)
    before = mx.get_active_memory()
    turner.all(*short)
    return {
        "lengths": [len(ids(answer)) if answer[1] == "length" else None for answer in answers],
        "wanted": [sampling.max_tokens for sampling in wanted],
        "grown": mx.get_active_memory() - before,
    }


def cancelled(turner: Turner) -> dict[str, Any]:
    """Requests that nobody wants any more, before, during and after everything."""
    long = (turner.prompt * PREFILL_TOKENS)[: PREFILL_TOKENS + 100]
    kept = turner.add(GREEDY)
    unbegun = turner.add(GREEDY)
    turner.engine.cancel(unbegun)
    prefilled = turner.add(GREEDY, long)
    turner.step()
    turner.engine.cancel(prefilled)
    while not turner.outputs[kept]:
        turner.step()
    answering = turner.add(GREEDY)
    while not turner.outputs[answering]:
        turner.step()
    turner.engine.cancel(answering)
    had = len(turner.outputs[answering])
    while kept in turner.open():
        turner.step()
    for number in (kept, answering, unbegun, 10**6):
        turner.engine.cancel(number)
    return {
        "kept": ids(turner.answer(kept)),
        "unbegun": len(turner.outputs.pop(unbegun)),
        "prefilled": len(turner.outputs.pop(prefilled)),
        "after": len(turner.outputs.pop(answering)) - had,
        "next": ids(turner.all(GREEDY)[0]),
    }


def texts(turner: Turner) -> dict[str, Any]:
    """What is asked from another thread."""
    engine = turner.engine
    found: dict[str, Any] = {"special": engine.encode("Tom", special=True), "bare": engine.encode("Tom", special=False)}
    found["decoded"] = engine.decode(found["special"])
    try:
        engine.chat_prompt([{"role": "user", "content": "Hello"}])
    except NoChatTemplateError as error:
        found["refused"] = str(error)
    return found


def ending(folder: Path) -> dict[str, Any]:
    """A model that chats and ends."""
    turner = Turner(MlxEngine(EngineSettings(folder, 1024, SLOTS, 1)))
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    answer = turner.all(GREEDY)[0]
    last = turner.all(Sampling(max_tokens=len(answer[0]) + 1, temperature=0))[0]
    found = {"chat": turner.engine.chat_prompt(messages), "ids": ids(answer), "finish": answer[1], "last": last[1]}
    turner.engine.close()
    return found


def refused(folder: Path) -> str:
    """A folder without a model."""
    try:
        MlxEngine(EngineSettings(folder, 512, 1, 1))
    except ModelRefusedError as error:
        return str(error)
    return ""


def main() -> None:
    """Does it all, each engine on a thread of its own, and neither the one that began."""
    folder, other = map(Path, sys.argv[1:])
    found: dict[str, Any] = {}

    def first() -> None:
        turner = Turner(MlxEngine(EngineSettings(folder, 1024, SLOTS, 1)))
        elsewhere = threading.Thread(target=lambda: found.update(texts=texts(turner)))
        elsewhere.start()
        found["greedy"] = greedy(turner, folder)
        elsewhere.join()
        found["sampled"] = sampled(turner)
        found["cancelled"] = cancelled(turner)
        found["many"] = many(turner)
        turner.engine.close()

    def second() -> None:
        found["ending"] = ending(other)

    def third() -> None:
        found["refused"] = refused(other.parent)

    for task in (first, second, third):
        thread = threading.Thread(target=task)
        thread.start()
        thread.join()
    print(json.dumps(found))


main()
