"""llama.cpp as an engine that embeds, through its Python binding: what judges and measures its artifacts, as
llama-server serves them."""

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

import llama_cpp

from edgemodel.serve.engine import EngineSettings, ModelRefusedError

_NO_POOLING = 0
"""`LLAMA_POOLING_TYPE_NONE`"""


class LlamaCppEmbedder:
    """An engine that embeds. `model_dir` is the GGUF file."""

    def __init__(self, settings: EngineSettings) -> None:
        # The programs load the processor's backends by themselves; the binding does not.
        folder = os.environ["LLAMA_CPP_LIB_PATH"]
        ggml = ctypes.CDLL(str(Path(folder) / "libggml.so"), mode=ctypes.RTLD_GLOBAL)
        ggml.ggml_backend_load_all_from_path(folder.encode())
        size = settings.context_length
        self._model = llama_cpp.Llama(
            str(settings.model_dir),
            embedding=True,
            n_ctx=size,
            n_batch=size,
            n_ubatch=size,
            n_threads=settings.threads,
            n_threads_batch=settings.threads,
            use_mmap=False,
            verbose=False,
        )
        if self._model.pooling_type() == _NO_POOLING:
            raise ModelRefusedError("the GGUF file does not say how its embeddings are pooled")
        self._batch = llama_cpp.llama_batch_init(size, 0, 1)
        self.vocabulary: int = self._model.n_vocab()

    def encode(self, text: str) -> list[int]:
        """Token ids."""
        ids: list[int] = self._model.tokenize(text.encode())
        return ids

    def embed(self, texts: Sequence[Sequence[int]]) -> list[list[float]]:
        """The embedding of each text."""
        return [self._embedded(text) for text in texts]

    def _embedded(self, text: Sequence[int]) -> list[float]:
        context, batch = self._model.ctx, self._batch
        batch.n_tokens = len(text)
        for place, token in enumerate(text):
            batch.token[place], batch.pos[place] = token, place
            batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
            batch.logits[place] = True
        if memory := llama_cpp.llama_get_memory(context):
            llama_cpp.llama_memory_clear(memory, True)
        if llama_cpp.llama_decode(context, batch) != 0:
            raise RuntimeError("llama.cpp cannot embed with the model")
        found = llama_cpp.llama_get_embeddings_seq(context, 0)[: self._model.n_embd()]
        length = sum(value * value for value in found) ** 0.5
        return [value / (length or 1.0) for value in found]

    def close(self) -> None:
        """Gives back what it holds."""
        llama_cpp.llama_batch_free(self._batch)
        self._model.close()
