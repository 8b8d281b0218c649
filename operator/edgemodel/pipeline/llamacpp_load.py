"""Whether this llama.cpp knows a model: `python -m edgemodel.pipeline.llamacpp_load MODEL` says why not, and fails.

Only metadata and vocabulary are loaded. A process of its own, as `llamacpp_quantize` is. llama.cpp's own programs are
no judges of this: they log on a thread that they do not wait for, and one time in five the reason is lost.
"""

import ctypes
import sys

import llama_cpp


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _say(_level: int, text: bytes, _data: object) -> None:
    sys.stderr.buffer.write(text)
    sys.stderr.buffer.flush()


def log_at_once() -> None:
    """From now on, all that llama.cpp says is on stderr before it goes on."""
    llama_cpp.llama_log_set(_say, ctypes.c_void_p(0))


def main() -> None:
    """Loads the model's vocabulary."""
    (model,) = sys.argv[1:]
    log_at_once()
    parameters = llama_cpp.llama_model_default_params()
    parameters.vocab_only = True
    if not llama_cpp.llama_model_load_from_file(model.encode(), parameters):
        raise SystemExit("llama.cpp cannot load the model")


if __name__ == "__main__":
    main()
