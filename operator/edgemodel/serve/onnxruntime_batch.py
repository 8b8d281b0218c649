"""ONNX Runtime itself, with continuous batching, for models in onnxruntime-genai's layout.

Its builder makes graphs whose attention keeps its cache in place: it writes the keys and values of new tokens behind
those of earlier ones, for each row of a batch where the attention mask says that the row ends. So requests of different
lengths are turned together, and one comes in or leaves while the others go on. The operator:
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.GroupQueryAttention
"""

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edgemodel.serve.engine import EngineSettings, ModelRefusedError, Output, Sampling
from edgemodel.serve.genai_layout import PROMPT_TOKENS, GenAiLayout
from edgemodel.serve.sampler import Sampler

_CPU = ("cpu", 0)
_INT, _FLOAT = "tensor(int64)", "tensor(float)"


class CannotBatchError(Exception):
    """The model is not one whose attention keeps its cache in place."""


class _Request:
    """A request that is in."""

    def __init__(self, number: int, prompt: Sequence[int], sampling: Sampling) -> None:
        self.number = number
        self.prompt = np.asarray(prompt, np.int64)
        self.length = 0
        """Tokens that the cache has of it."""
        self.last = 0
        """The token that came last."""
        self._sampler = Sampler(sampling)
        self._left = sampling.max_tokens

    def next(self, logits: NDArray[np.float32], ends: frozenset[int]) -> Output:
        """The next token."""
        token = self._sampler.draw(logits)
        if token.id in ends:
            return Output(self.number, (), "stop")
        self.last = token.id
        self._left -= 1
        return Output(self.number, (token,), None if self._left else "length")


class OnnxRuntimeBatchEngine(GenAiLayout):
    """A text engine. The requests that it answers have the first rows of the cache, the one that it reads the next."""

    def __init__(self, settings: EngineSettings) -> None:
        try:
            super().__init__(settings)
            self._graph = _Graph(self, settings)
        except (CannotBatchError, ModelRefusedError):
            raise
        except KeyError:  # a configuration that leaves to onnxruntime-genai what it knows by itself
            raise CannotBatchError from None
        except Exception as error:
            raise ModelRefusedError(f"ONNX Runtime cannot load the model ({error}): make the artifact anew") from None
        self._answering: list[_Request] = []
        self._reading: deque[_Request] = deque()

    def add(self, request: int, prompt: Sequence[int], sampling: Sampling) -> None:
        """Takes in a request."""
        self._reading.append(_Request(request, prompt, sampling))

    def step(self) -> list[Output]:
        """Brings each request that is being answered a token, and reads on in the prompts of the others."""
        return self._answer() + self._read()

    def cancel(self, request: int) -> None:
        """Drops a request."""
        for row in [row for row, answering in enumerate(self._answering) if answering.number == request]:
            self._vacate(row)
        self._reading = deque(reading for reading in self._reading if reading.number != request)

    def close(self) -> None:
        """Gives back what it holds."""
        self._answering.clear()
        self._reading.clear()
        del self._graph

    def _answer(self) -> list[Output]:
        if not self._answering:
            return []
        ids = np.array([[request.last] for request in self._answering], np.int64)
        for request in self._answering:
            request.length += 1
        logits = self._graph.run(0, ids, [request.length for request in self._answering])
        outputs = [request.next(found, self.ends) for request, found in zip(self._answering, logits, strict=True)]
        for row, output in reversed(list(enumerate(outputs))):
            if output.finish:
                self._vacate(row)
        return outputs

    def _read(self) -> list[Output]:
        outputs = []
        room = PROMPT_TOKENS
        while self._reading and room > 0:
            request = self._reading[0]
            piece = request.prompt[request.length : request.length + PROMPT_TOKENS]
            room -= len(piece)
            request.length += len(piece)
            (logits,) = self._graph.run(len(self._answering), piece[None], [request.length])
            if request.length == len(request.prompt):
                self._reading.popleft()
                output = request.next(logits, self.ends)
                outputs.append(output)
                if not output.finish:
                    self._answering.append(request)
        return outputs

    def _vacate(self, row: int) -> None:
        """Has the last row take the place of this one, and the one that is read follow."""
        moved = self._answering.pop()
        end = len(self._answering)
        if row < end:
            self._graph.move(end, row, moved.length)
            self._answering[row] = moved
        if self._reading and self._reading[0].length:
            self._graph.move(end + 1, end, self._reading[0].length)


class _Graph:
    """The model and its cache, which has a row for each request."""

    def __init__(self, layout: GenAiLayout, settings: EngineSettings) -> None:
        if not layout.search["past_present_share_buffer"]:
            raise CannotBatchError
        decoder = layout.model["decoder"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = settings.threads
        # Prompts come in every length: memory for the longest so far would be kept for each of them.
        options.enable_mem_pattern = False
        file = str(settings.model_dir / decoder["filename"])
        self._session = onnxruntime.InferenceSession(file, options, ["CPUExecutionProvider"])
        inputs, outputs, layers = decoder["inputs"], decoder["outputs"], range(decoder["num_hidden_layers"])
        self._ids, self._mask, self._logits = inputs["input_ids"], inputs["attention_mask"], outputs["logits"]
        self._vocabulary = layout.model["vocab_size"]
        past = [inputs[f"past_{kind}_names"] % layer for kind in ("key", "value") for layer in layers]
        present = [outputs[f"present_{kind}_names"] % layer for kind in ("key", "value") for layer in layers]
        types = {given.name: given.type for given in (*self._session.get_inputs(), *self._session.get_outputs())}
        known = {
            **dict.fromkeys((self._ids, self._mask), _INT),
            **dict.fromkeys((self._logits, *past, *present), _FLOAT),
        }
        if types != known:
            raise CannotBatchError
        shape = settings.parallel, decoder["num_key_value_heads"], settings.context_length, decoder["head_size"]
        # What was never written to takes no memory.
        self._cache = {names: np.zeros(shape, np.float32) for names in zip(past, present, strict=True)}
        self._bindings: dict[tuple[int, int], Any] = {}

    def run(self, row: int, ids: NDArray[np.int64], lengths: Sequence[int]) -> NDArray[np.float32]:
        """Logits of the last of these tokens, (rows, vocabulary). `ids` is (rows, tokens), for the rows from `row` on;
        `lengths` are the tokens of each row, with these."""
        rows, count = ids.shape
        mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
        logits = np.empty((rows, count, self._vocabulary), np.float32)
        binding = self._bindings.get((row, rows)) or self._bind(row, rows)
        for name, given in ((self._ids, ids), (self._mask, mask)):
            binding.bind_input(name, *_CPU, given.dtype, given.shape, given.ctypes.data)
        binding.bind_output(self._logits, *_CPU, logits.dtype, logits.shape, logits.ctypes.data)
        self._session.run_with_iobinding(binding)
        return logits[:, -1]

    def move(self, source: int, target: int, length: int) -> None:
        """Copies what the cache has of a row to another."""
        for memory in self._cache.values():
            memory[target, :, :length] = memory[source, :, :length]

    def _bind(self, row: int, rows: int) -> Any:
        """The cache of these rows as the model's input and output."""
        binding = self._bindings[row, rows] = self._session.io_binding()
        for (past, present), memory in self._cache.items():
            place = memory[row : row + rows]
            binding.bind_input(past, *_CPU, place.dtype, place.shape, place.ctypes.data)
            binding.bind_output(present, *_CPU, place.dtype, place.shape, place.ctypes.data)
        return binding
