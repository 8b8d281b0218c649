"""What an engine is to the front, and which there are.

A text engine batches by itself: the front adds requests and turns it step by step, on one thread, and each step brings
some requests some tokens. Text is the front's business: engines take and give token ids.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from edgemodel.serve.plugins import plugin


@dataclass(frozen=True)
class EngineSettings:
    """What an engine is made with."""

    model_dir: Path
    """The folder of the artifact's files."""
    context_length: int
    """Tokens of a request, prompt and answer together."""
    parallel: int
    """Requests at a time."""
    threads: int
    """CPU threads."""
    device: str = ""
    """The device to run on, in the engine's own words; empty: its default."""
    power_mode: str = ""
    """What an accelerator is to spare, as `serving.powerMode` of an EdgeModel; empty: its default."""


@dataclass(frozen=True)
class Sampling:
    """How the next tokens of a request are chosen."""

    max_tokens: int
    """At least 1."""
    temperature: float = 1.0
    """0: always the most likely token."""
    top_p: float = 1.0
    """The share of probability that is sampled from; more than 0."""
    seed: int | None = None
    """The same seed gives the same answer, as far as the engine can."""
    logprobs: bool = False
    """Whether the log-probability of each token is wanted."""


@dataclass(frozen=True)
class Token:
    """A token of an answer."""

    id: int
    logprob: float | None = None
    """Natural logarithm of its probability, if it was asked for and the engine has it."""


Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Output:
    """What a step brought to a request."""

    request: int
    """The request's number."""
    tokens: tuple[Token, ...]
    """The next tokens; the one that ends the answer is not among them."""
    finish: Finish | None = None
    """stop: the model ended its answer; length: `max_tokens` are reached. Nothing comes after either."""


class ModelRefusedError(Exception):
    """The engine cannot serve this model. The message says why, and what to do."""


class NoChatTemplateError(Exception):
    """The model has no chat template: it can complete, not chat."""


class Texts(Protocol):
    """A model's texts: from any thread."""

    @property
    def vocabulary(self) -> int:
        """How many tokens there are: every id is below."""

    def chat_prompt(self, messages: Sequence[Mapping[str, str]]) -> str:
        """A conversation (role, content) in the words of the model's chat template, ready to be answered."""

    def encode(self, text: str, special: bool) -> list[int]:
        """Token ids; with those that the tokenizer adds to a bare text if `special`."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, without special tokens."""


class TextEngine(Texts, Protocol):
    """Generates text. Made, turned and closed on one thread; its texts are for any.

    One that keeps the interpreter's lock while it computes says how its texts are had without it: its class (or what
    else makes it) has an attribute `texts`, which takes the settings. The front has it in a process of its own then.
    """

    def add(self, request: int, prompt: Sequence[int], sampling: Sampling) -> None:
        """Takes in a request under a number that no other has; at most `parallel` at a time."""

    def step(self) -> list[Output]:
        """Brings the requests that are in further. Called only while there are some."""

    def cancel(self, request: int) -> None:
        """Drops a request: no output of it comes any more."""

    def close(self) -> None:
        """Gives back what it holds."""


class EmbeddingEngine(Protocol):
    """Embeds texts. Made, called and closed on one thread; `encode` may be called from any."""

    vocabulary: int
    """How many tokens there are: every id is below."""

    def encode(self, text: str) -> list[int]:
        """Token ids, with those that the model wants at both ends."""

    def embed(self, texts: Sequence[Sequence[int]]) -> list[list[float]]:
        """The embedding of each text, of length 1 where the model's are; at most `parallel` texts at a time, each of at
        most `context_length` tokens."""

    def close(self) -> None:
        """Gives back what it holds."""


_TEXT_ENGINES = {
    "mlx": "edgemodel.serve.mlx:MlxEngine",
    "onnxruntime-genai": "edgemodel.serve.onnxruntime_text:onnx_engine",
    "openvino-genai": "edgemodel.serve.openvino_genai:OpenVinoGenAiEngine",
}
"""Name -> where it is."""

_EMBEDDING_ENGINES = {
    "onnxruntime": "edgemodel.serve.onnxruntime_embedder:OnnxRuntimeEmbedder",
    "openvino": "edgemodel.serve.openvino_embedder:OpenVinoEmbedder",
    "qnn": "edgemodel.serve.qnn:QnnEmbedder",
}
"""The same, of those that embed."""


def engine_maker(name: str) -> Callable[[EngineSettings], TextEngine]:
    """What makes the engine of that name. KeyError if there is none."""
    maker: Callable[[EngineSettings], TextEngine] = plugin("edgemodel.engines", name, _TEXT_ENGINES)
    return maker


def embedder_maker(name: str) -> Callable[[EngineSettings], EmbeddingEngine]:
    """What makes the engine of that name that embeds. KeyError if there is none."""
    maker: Callable[[EngineSettings], EmbeddingEngine] = plugin("edgemodel.embedders", name, _EMBEDDING_ENGINES)
    return maker
