"""A text engine in a process of its own.

Some engines keep the interpreter's lock while they compute. In the front's process all else would stand still
meanwhile: the answers of others, whoever comes, the kubelet's probes.
"""

import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

from edgemodel.serve.engine import EngineSettings, ModelRefusedError, Output, Sampling, TextEngine, Texts


class EngineProcess:
    """A text engine. What the process brings is read by `step`; `texts` are had here."""

    def __init__(
        self,
        make: Callable[[EngineSettings], TextEngine],
        texts: Callable[[EngineSettings], Texts],
        settings: EngineSettings,
    ) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "edgemodel.serve.engine_process", str(theirs.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        self._pipe: Connection[Any, Any] = Connection(ours.detach())
        self._requests: set[int] = set()
        self._pipe.send((make, settings))
        try:
            self._texts = texts(settings)
            refusal: str = self._receive()
            if refusal:
                raise ModelRefusedError(refusal)
        except BaseException:
            self.close()
            raise

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return self._texts.vocabulary

    def chat_prompt(self, messages: Sequence[Mapping[str, str]]) -> str:
        """A conversation in the words of the model's chat template."""
        return self._texts.chat_prompt(messages)

    def encode(self, text: str, special: bool) -> list[int]:
        """Token ids."""
        return self._texts.encode(text, special)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids."""
        return self._texts.decode(ids)

    def add(self, request: int, prompt: Sequence[int], sampling: Sampling) -> None:
        """Takes in a request."""
        self._requests.add(request)
        self._pipe.send(("add", request, prompt, sampling))

    def step(self) -> list[Output]:
        """Waits for what the engine's next step brings."""
        # What was dropped meanwhile may have been under way.
        outputs: list[Output] = [output for output in self._receive() if output.request in self._requests]
        self._requests -= {output.request for output in outputs if output.finish}
        return outputs

    def cancel(self, request: int) -> None:
        """Drops a request."""
        if request in self._requests:
            self._requests.remove(request)
            self._pipe.send(("cancel", request))

    def close(self) -> None:
        """Ends the process, and with it all that the engine holds."""
        self._pipe.close()
        self._process.terminate()
        self._process.wait()

    def _receive(self) -> Any:
        try:
            return self._pipe.recv()
        except (EOFError, ConnectionError):
            raise RuntimeError(f"the engine's process ended with exit status {self._process.wait()}") from None


def _turn(pipe: "Connection[Any, Any]") -> None:
    """Turns an engine as long as there are requests and somebody at the other end."""
    make, settings = pipe.recv()
    try:
        engine: TextEngine = make(settings)
    except ModelRefusedError as error:
        pipe.send(str(error))
        return
    pipe.send("")
    requests: set[int] = set()
    try:
        while True:
            while not requests or pipe.poll():
                call, request, *what = pipe.recv()
                if call == "add":
                    engine.add(request, *what)
                    requests.add(request)
                else:
                    engine.cancel(request)
                    requests.discard(request)
            outputs = engine.step()
            requests -= {output.request for output in outputs if output.finish}
            pipe.send(outputs)
    except (EOFError, ConnectionError):
        pass
    finally:
        engine.close()


if __name__ == "__main__":
    _turn(Connection(int(sys.argv[1])))
