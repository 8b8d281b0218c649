"""Turns a text engine by hand, as the front's batcher does on a thread: for scripts in an engine's own Python."""

from edgemodel.serve.engine import Output, Sampling, TextEngine, Token

SLOTS = 4
"""Requests that an engine has at a time."""
GREEDY = Sampling(max_tokens=8, temperature=0, logprobs=True)

Answer = tuple[list[Token], str | None]


class Turner:
    """An engine and what came out of it."""

    def __init__(self, engine: TextEngine) -> None:
        self.engine = engine
        self.prompt = self.engine.encode("Tom said to", special=True)
        assert max(self.prompt) < self.engine.vocabulary
        self.outputs: dict[int, list[Output]] = {}
        self.number = 0

    def add(self, sampling: Sampling, prompt: list[int] | None = None) -> int:
        """Adds a request. Its number."""
        self.number += 1
        self.outputs[self.number] = []
        self.engine.add(self.number, prompt or self.prompt, sampling)
        return self.number

    def step(self) -> None:
        """One step."""
        for output in self.engine.step():
            self.outputs[output.request].append(output)

    def open(self) -> list[int]:
        """Requests without an end."""
        return [number for number, outputs in self.outputs.items() if not (outputs and outputs[-1].finish)]

    def all(self, *samplings: Sampling, prompts: int = 1) -> list[Answer]:
        """The answers to requests, as many at a time as may be; their prompts up to so many times as long."""
        waiting, numbers = list(samplings), list[int]()
        while waiting or set(self.open()) & set(numbers):
            while waiting and len(self.open()) < SLOTS:
                numbers.append(self.add(waiting.pop(0), self.prompt * (1 + len(numbers) % prompts)))
            self.step()
        return [self.answer(number) for number in numbers]

    def answer(self, number: int) -> Answer:
        """Tokens and end of an answer; forgets it."""
        outputs = self.outputs.pop(number)
        return [token for output in outputs for token in output.tokens], outputs[-1].finish


def ids(answer: Answer) -> list[int]:
    """The tokens of an answer."""
    return [token.id for token in answer[0]]
