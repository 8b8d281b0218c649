"""The front of a model that embeds texts."""

import asyncio
import base64
from array import array
from collections.abc import Callable, Mapping, Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from edgemodel.serve.app import Front, Handler, parsed, unless_client_leaves
from edgemodel.serve.embedding_batcher import EmbeddingBatcher
from edgemodel.serve.engine import EmbeddingEngine
from edgemodel.serve.metrics import Metrics
from edgemodel.serve.protocol import ApiError, EmbeddingRequest, check_tokens


class EmbeddingFront(Front[EmbeddingEngine]):
    """A model that embeds."""

    def __init__(
        self,
        model: str,
        context_length: int,
        batcher: EmbeddingBatcher,
        engine_failed: Callable[[], None] = lambda: None,
    ) -> None:
        self._batcher = batcher
        super().__init__(model, context_length, batcher, Metrics(), engine_failed)

    def _endpoints(self) -> Mapping[str, Handler]:
        return {"/embeddings": self._embed}

    async def _embed(self, request: Request) -> Response:
        asked = await parsed(request, EmbeddingRequest)
        # Thousands of texts take a while, in which other clients are to be answered.
        texts = await asyncio.to_thread(self._read, asked.texts)
        embedding = self._batcher.submit(texts)
        tokens = sum(map(len, texts))
        self.metrics.prompt_tokens.inc(tokens)
        try:
            found = await unless_client_leaves(request, embedding.result())
        finally:
            embedding.close()
        worded = map(_base64, found) if asked.encoding_format == "base64" else found
        return JSONResponse(
            {
                "object": "list",
                "model": self._model,
                "data": [{"object": "embedding", "index": index, "embedding": one} for index, one in enumerate(worded)],
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            }
        )

    def _read(self, texts: Sequence[str | list[int]]) -> list[list[int]]:
        return [self._tokens(number, text) for number, text in enumerate(texts)]

    def _tokens(self, number: int, text: str | list[int]) -> list[int]:
        tokens = self._engine.encode(text) if isinstance(text, str) else text
        if len(tokens) > self._context_length:
            raise ApiError(
                400,
                f"the context is {self._context_length} tokens, and text {number} of the input has {len(tokens)}: "
                "embed it in parts",
                code="context_length_exceeded",
            )
        if not isinstance(text, str):
            check_tokens(tokens, self._engine.vocabulary)
        return tokens


def _base64(embedding: Sequence[float]) -> str:
    """As OpenAI has it: little-endian floats of 32 bits."""
    return base64.b64encode(array("f", embedding)).decode()
