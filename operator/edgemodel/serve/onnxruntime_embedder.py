"""ONNX Runtime behind the front: embeds texts. How they are pooled is in the model that the toolchain makes."""

from collections.abc import Sequence

import onnxruntime
from tokenizers import Tokenizer

from edgemodel.serve.engine import EngineSettings, ModelRefusedError
from edgemodel.serve.padding import padded

MODEL, TOKENIZER = "model.onnx", "tokenizer.json"
IDS, MASK, EMBEDDING = "input_ids", "attention_mask", "embedding"
"""The model's inputs, and its output."""


class OnnxRuntimeEmbedder:
    """An engine that embeds."""

    def __init__(self, settings: EngineSettings) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = settings.threads
        # Texts come in every length: memory for the longest batch so far would be kept for each of them.
        options.enable_mem_pattern = False
        providers = [settings.device or "CPUExecutionProvider"]
        try:
            self._session = onnxruntime.InferenceSession(str(settings.model_dir / MODEL), options, providers)
            self._tokenizer = Tokenizer.from_file(str(settings.model_dir / TOKENIZER))
        except Exception as error:
            raise ModelRefusedError(f"ONNX Runtime cannot load the model: {error}"[:400]) from None
        # What is too long is refused, and a batch is as long as its longest text: not as the model's maker had it.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.vocabulary: int = self._tokenizer.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """Token ids."""
        ids: list[int] = self._tokenizer.encode(text).ids
        return ids

    def embed(self, texts: Sequence[Sequence[int]]) -> list[list[float]]:
        """The embedding of each text."""
        ids, mask = padded(texts)
        embeddings: list[list[float]] = self._session.run([EMBEDDING], {IDS: ids, MASK: mask})[0].tolist()
        return embeddings

    def close(self) -> None:
        """Gives back what it holds."""
        del self._session
