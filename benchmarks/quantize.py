"""How long the pipeline takes to quantize a file beside llama.cpp's own `llama-quantize`, to the same bytes.

    python -m benchmarks.quantize [--model FILE] [--scheme Q4_K_M] [--threads 2] [--rounds 5] [--layers 8]

Both are whole processes, Python's start included, and take turns on the same file in one run. The figures are medians.
The exit code is 1 if the pipeline takes more than the bound of the other's time.
Without a model, one of random F16 weights is made: 100 MB for each layer, shaped like Llama's.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.llamacpp import LlamaCpp, find

BOUND = 1.05
"""Of the other's time."""
MAKE = """
import sys
import gguf
import numpy as np

path, layers, width, hidden = sys.argv[1], int(sys.argv[2]), 2048, 5632
writer = gguf.GGUFWriter(path, "llama")
writer.add_block_count(layers)
writer.add_context_length(2048)
writer.add_embedding_length(width)
writer.add_feed_forward_length(hidden)
writer.add_head_count(16)
writer.add_head_count_kv(4)
writer.add_layer_norm_rms_eps(1e-6)
writer.add_vocab_size(8192)
random = np.random.default_rng(0)
shapes = {"token_embd": (8192, width), "output": (8192, width)}
for layer in range(layers):
    for name, rows, columns in (
        ("attn_q", width, width), ("attn_k", 512, width), ("attn_v", 512, width), ("attn_output", width, width),
        ("ffn_gate", hidden, width), ("ffn_up", hidden, width), ("ffn_down", width, hidden),
    ):
        shapes[f"blk.{layer}.{name}"] = rows, columns
for name, shape in shapes.items():
    weights = random.standard_normal(shape, dtype=np.float32) * 0.02
    writer.add_tensor(f"{name}.weight", weights.astype(np.float16))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", type=Path, help="an unquantized GGUF file")
    arguments.add_argument("--scheme", default="Q4_K_M")
    arguments.add_argument("--threads", default="2")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--layers", type=int, default=8)
    options = arguments.parse_args()
    llamacpp = find()
    if llamacpp is None:
        raise SystemExit("llama.cpp is not built: `python3 hack/cluster llamacpp` builds it")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = options.model.resolve() if options.model else make(llamacpp, folder / "model.gguf", options.layers)
        ratio = compare(llamacpp, folder, model, options.scheme, options.threads, options.rounds)
    sys.exit(0 if ratio <= BOUND else 1)


def make(llamacpp: LlamaCpp, path: Path, layers: int) -> Path:
    """A model of random weights."""
    made = llamacpp.run("-c", MAKE, path, str(layers))
    if made.returncode:
        raise SystemExit(made.stderr)
    return path


def compare(llamacpp: LlamaCpp, folder: Path, model: Path, scheme: str, threads: str, rounds: int) -> float:
    """Times both in turn and holds their files against each other. Returns our time, of the other's."""
    module = (llamacpp.python, "-m", "edgemodel.pipeline.llamacpp_quantize")
    contenders = {
        "edgemodel": (*module, model, folder / "edgemodel", scheme, threads),
        "llama-quantize": (llamacpp.home / "bin" / "llama-quantize", model, folder / "llama-quantize", scheme, threads),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, command in contenders.items():
            (folder / name).unlink(missing_ok=True)
            started = time.perf_counter()
            subprocess.run([str(word) for word in command], env=llamacpp.env, capture_output=True, check=True)
            if turn:  # the first round warms up
                seconds[name].append(time.perf_counter() - started)
    same = subprocess.run(["cmp", *(folder / name for name in contenders)], check=False).returncode == 0
    if not same:
        raise SystemExit("the two files differ")
    size = model.stat().st_size
    print(f"{size / 1e6:.0f} MB to {scheme}, {threads} threads, {rounds} rounds; both files are the same bytes")
    for name, taken in seconds.items():
        print(f"{name:16} median {statistics.median(taken):7.2f} s   {min(taken):.2f} to {max(taken):.2f}")
    ours, theirs = (statistics.median(taken) for taken in seconds.values())
    print(f"ratio            {ours / theirs:.3f}   {'PASS' if ours <= BOUND * theirs else 'FAIL'} (at most {BOUND})")
    return ours / theirs


if __name__ == "__main__":
    main()
