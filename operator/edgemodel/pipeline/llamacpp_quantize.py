"""Quantizes one GGUF file through llama.cpp's Python binding:
`python -m edgemodel.pipeline.llamacpp_quantize SOURCE TARGET SCHEME THREADS [IMATRIX]`.

A process of its own, because llama.cpp ends the process when a model breaks one of its assertions.
"""

import ctypes
import sys
from pathlib import Path

import llama_cpp
import numpy as np

from edgemodel.pipeline.headers import Gguf, read_gguf
from edgemodel.pipeline.llamacpp_load import log_at_once
from edgemodel.pipeline.llamacpp_schemes import SCHEMES

IMATRIX_TEXT = b"calibration.txt"
"""What the importance matrix is measured on, as the artifact's metadata names it."""

_SUMS, _COUNTS = ".in_sum2", ".counts"
_INTEGER, _TEXT = 0, 3
"""`enum llama_model_kv_override_type`."""


def quantize(source: Path, target: Path, scheme: str, threads: int, imatrix: Path | None = None) -> None:
    """Writes `source` to `target` in the scheme. Weights that are quantized already are dequantized first."""
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = SCHEMES[scheme].ftype
    parameters.nthread = threads
    parameters.allow_requantize = True
    kept_alive: list[object] = []
    if imatrix:
        entries, overrides = _importance(imatrix, kept_alive)
        parameters.imatrix = entries
        parameters.kv_overrides = overrides
    if llama_cpp.llama_model_quantize(bytes(source), bytes(target), ctypes.byref(parameters)) != 0:
        raise SystemExit("llama.cpp refused to quantize the model")


def importance_matrix(path: Path) -> tuple[dict[str, np.ndarray], int]:
    """Mean squared activations for each tensor, and of how many chunks of text, from what `llama-imatrix` wrote."""
    header = _header(path)
    sums = {name.removesuffix(_SUMS): _floats(path, header, name) for name in header.tensors if name.endswith(_SUMS)}
    matrix = {}
    for name, values in sums.items():
        counts = np.rint(_floats(path, header, name + _COUNTS)).astype(np.float32)
        rows = values.reshape(len(counts), -1)  # a row for each expert
        means = np.divide(rows, counts[:, None], out=np.ones_like(rows), where=counts[:, None] > 0)
        matrix[name] = means.ravel()
    return matrix, header.number("imatrix.chunk_count")


def _importance(
    path: Path, kept_alive: list[object]
) -> tuple[ctypes.Array[llama_cpp.llama_model_imatrix_data], ctypes.Array[llama_cpp.llama_model_kv_override]]:
    """The matrix as llama.cpp takes it, and the metadata by which its own tool tells that there was one."""
    matrix, chunks = importance_matrix(path)
    entries = (llama_cpp.llama_model_imatrix_data * (len(matrix) + 1))()
    for entry, (name, values) in zip(entries, matrix.items(), strict=False):
        entry.name = name.encode()
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.size = values.size
    said = {
        b"quantize.imatrix.file": path.name.encode(),
        b"quantize.imatrix.dataset": IMATRIX_TEXT,
        b"quantize.imatrix.entries_count": len(matrix),
        b"quantize.imatrix.chunks_count": chunks,
    }
    overrides = (llama_cpp.llama_model_kv_override * (len(said) + 1))()
    for override, (key, value) in zip(overrides, said.items(), strict=False):
        override.key = key
        if isinstance(value, int):
            override.tag, override.value.val_i64 = _INTEGER, value
        else:
            override.tag, override.value.val_str = _TEXT, value
    kept_alive += [matrix, entries, overrides]
    return entries, overrides


def _header(path: Path) -> Gguf:
    with path.open("rb") as stream:

        def read(start: int, size: int) -> bytes:
            stream.seek(start)
            return stream.read(size)

        return read_gguf(path.name, path.stat().st_size, read)


def _floats(path: Path, header: Gguf, tensor: str) -> np.ndarray:
    _, _, start, size = header.tensors[tensor]
    return np.fromfile(path, dtype="<f4", count=size // 4, offset=start)


def main() -> None:
    """Quantizes as the command line says."""
    source, target, scheme, threads, *imatrix = sys.argv[1:]
    log_at_once()
    quantize(Path(source), Path(target), scheme, int(threads), Path(imatrix[0]) if imatrix else None)


if __name__ == "__main__":
    main()
