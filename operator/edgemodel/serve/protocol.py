"""OpenAI's requests, as far as a front can answer them. What it can't is refused by name, never passed over in silence.

Source of the fields: OpenAI's API reference for chat completions, completions and embeddings.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

_Item = TypeVar("_Item")
_Several = Annotated[list[_Item], Field(min_length=1, max_length=2048)]
_Tokens = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class ApiError(Exception):
    """An answer that is an error, in OpenAI's form."""

    def __init__(self, status: int, message: str, kind: str = "invalid_request_error", code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": None, "code": code}}


class StreamOptions(BaseModel):
    """What a stream has besides text."""

    include_usage: bool = False


class _Request(BaseModel):
    """What all requests have."""

    model_config = ConfigDict(extra="ignore")

    neutral: ClassVar[Mapping[str, Sequence[Any]]] = {}
    """Parameters that are not supported -> the values at which they ask for nothing."""

    model: str = ""

    @model_validator(mode="before")
    @classmethod
    def _only_what_is_supported(cls, given: Any) -> Any:
        for name, values in cls.neutral.items():
            if isinstance(given, Mapping) and given.get(name) is not None and given[name] not in values:
                raise ValueError(f"{name} is not supported: leave it out")
        return given


class _Generation(_Request):
    """What requests for text have."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: int | None = None
    stop: Annotated[list[str], Field(max_length=16)] = []
    stream: bool | None = False
    stream_options: StreamOptions | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _as_list(cls, given: Any) -> Any:
        return [given] if isinstance(given, str) else given or []

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with its usage."""
        return self.stream_options is not None and self.stream_options.include_usage


class Message(BaseModel):
    """A message of a conversation."""

    role: Annotated[str, Field(max_length=64)]
    content: str = ""

    @field_validator("content", mode="before")
    @classmethod
    def _as_text(cls, given: Any) -> Any:
        if not isinstance(given, list):
            return given or ""
        if not all(isinstance(part, Mapping) and part.get("type") == "text" for part in given):
            raise ValueError("only parts of type text are supported")
        return "".join(str(part.get("text", "")) for part in given)


class ChatRequest(_Generation):
    """POST /v1/chat/completions."""

    neutral = {
        "n": (1,),
        "tools": ([],),
        "functions": ([],),
        "tool_choice": ("none", "auto"),
        "response_format": ({"type": "text"},),
        "logit_bias": ({},),
        "frequency_penalty": (0,),
        "presence_penalty": (0,),
        "top_logprobs": (0,),
        "modalities": (["text"],),
    }

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = False


class CompletionRequest(_Generation):
    """POST /v1/completions."""

    neutral = {
        "n": (1,),
        "best_of": (1,),
        "echo": (False,),
        "suffix": ("",),
        "logit_bias": ({},),
        "frequency_penalty": (0,),
        "presence_penalty": (0,),
    }

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)] | _Tokens
    max_tokens: Annotated[int, Field(ge=1)] | None = 16
    logprobs: Annotated[int, Field(ge=0, le=1)] | None = None


class EmbeddingRequest(_Request):
    """POST /v1/embeddings."""

    neutral = {"dimensions": ()}

    input: (
        Annotated[str, Field(min_length=1)]
        | _Several[Annotated[str, Field(min_length=1)]]
        | _Tokens
        | _Several[_Tokens]
    )
    encoding_format: Literal["float", "base64"] | None = "float"

    @property
    def texts(self) -> Sequence[str | list[int]]:
        """What to embed: text, or token ids."""
        if isinstance(self.input, str):
            return [self.input]
        return [self.input] if isinstance(self.input[0], int) else self.input


def check_tokens(tokens: Sequence[int], vocabulary: int) -> None:
    """Refuses token ids that a client made up: an engine may end over them."""
    if max(tokens) >= vocabulary:
        raise ApiError(400, f"the model has no token {max(tokens)}: its last is {vocabulary - 1}")


def explained(error: ValidationError) -> str:
    """What is wrong with a request, in one line."""
    found = []
    for each in error.errors(include_url=False, include_input=False, include_context=False):
        place = ".".join(str(part) for part in each["loc"])
        message = each["msg"].removeprefix("Value error, ")
        found.append(f"{place}: {message}" if place else message)
    return "; ".join(dict.fromkeys(found))[:1000]
