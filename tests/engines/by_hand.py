"""The quality report again, on its own: `by_hand.py FULL QUANTIZED TEXT CONTEXT CHUNKS` prints the figures as JSON.

It asks the two models for their logits through the binding and does the arithmetic in numpy, in double precision.
"""

import ctypes
import json
import os
import sys
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

ggml = ctypes.CDLL(str(Path(os.environ["LLAMA_CPP_LIB_PATH"]) / "libggml.so"), mode=ctypes.RTLD_GLOBAL)
ggml.ggml_backend_load_all_from_path(os.environ["LLAMA_CPP_LIB_PATH"].encode())


def log_probabilities(path: str, text: bytes, context: int, chunks: int) -> tuple[Any, Any]:
    """Log-probabilities and the tokens that came, at each position of each chunk's second half but the last."""
    model = llama_cpp.Llama(path, n_ctx=context, n_batch=context, n_threads_batch=1, logits_all=True, verbose=False)
    tokens = model.tokenize(text)
    found, truth = [], []
    for start in range(0, chunks * context, context):
        chunk = tokens[start : start + context]
        model.reset()
        model.eval([model.token_bos(), *chunk[1:]])
        first = context // 2
        logits = model.scores[first : context - 1].astype(np.float64)
        top = logits.max(axis=1, keepdims=True)
        found.append(logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True)))
        truth += chunk[first + 1 :]
    return np.concatenate(found), np.array(truth)


def main() -> None:
    """Prints the figures."""
    full, quantized, text, context, chunks = sys.argv[1:]
    data = Path(text).read_bytes()
    base, tokens = log_probabilities(full, data, int(context), int(chunks))
    other, _ = log_probabilities(quantized, data, int(context), int(chunks))
    rows = np.arange(len(tokens))
    figures = {
        "perplexity": np.exp(-other[rows, tokens].mean()),
        "baseline": np.exp(-base[rows, tokens].mean()),
        "divergence": (np.exp(base) * (base - other)).sum(axis=1).mean(),
        "agreement": (base.argmax(axis=1) == other.argmax(axis=1)).mean(),
        "tokens": len(tokens),
    }
    print(json.dumps({name: float(value) for name, value in figures.items()}))


main()
