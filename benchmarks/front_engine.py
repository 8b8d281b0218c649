"""One engine without our front, in that engine's own Python: what benchmarks/front.py compares with.

`make ENGINE SOURCE FOLDER` makes an artifact as the pipeline's toolchain does. `answer ENGINE FOLDER PARALLEL TOKENS
PROMPT` loads it and, for each line of standard input that is a number, answers the prompt that many times at once by
the engine's own pipeline, greedily and on one thread, and prints tokens and seconds as JSON.
"""

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Answer = Callable[[int], int]
"""Answers the prompt so many times at once. Returns the tokens of all answers."""


def make_onnx(source: Path, folder: Path) -> None:
    """INT4, rounded: what takes least time to make."""
    from edgemodel.pipeline.onnx_olive import run_passes
    from edgemodel.pipeline.onnx_schemes import SCHEMES, UNQUANTIZED

    full = folder / "full"
    run_passes(source, full, full, [UNQUANTIZED])
    run_passes(source, full, folder / "model", SCHEMES["INT4"].passes)


def make_openvino(source: Path, folder: Path) -> None:
    """INT4, without calibration."""
    from edgemodel.pipeline import openvino_steps

    full, made, windows = folder / "full", folder / "model", folder / "windows.json"
    openvino_steps.convert(str(source), str(full), str(windows))
    made.mkdir()
    openvino_steps.quantize(str(full), str(made), "INT4_ASYM", str(windows))
    for file in full.iterdir():
        if not (made / file.name).exists():
            shutil.copyfile(file, made / file.name)


def make_mlx(source: Path, folder: Path) -> None:
    """16 bits: on a CPU, MLX takes five times as long for a token of 4."""
    from edgemodel.pipeline.mlx_convert import convert

    convert(str(source), str(folder / "model"), "BF16")


def onnx(folder: Path, parallel: int, tokens: int, prompt: str) -> Answer:
    """onnxruntime-genai's generator: of one prompt, or of a batch that begins and ends together."""
    import numpy as np
    import onnxruntime_genai as og
    from tokenizers import Tokenizer

    config = og.Config(str(folder))
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": 1}}}}))
    model = og.Model(config)
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(prompt).ids

    def answer(count: int) -> int:
        parameters = og.GeneratorParams(model)
        parameters.set_search_options(max_length=len(ids) + tokens, batch_size=count, do_sample=False)
        generator = og.Generator(model, parameters)
        generator.append_tokens(np.array([ids] * count, np.int32))
        while not generator.is_done():
            generator.generate_next_token()
        return sum(len(generator.get_sequence(number)) - len(ids) for number in range(count))

    return answer


def openvino(folder: Path, parallel: int, tokens: int, prompt: str) -> Answer:
    """OpenVINO GenAI's pipeline with continuous batching."""
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.max_num_seqs = parallel
    scheduler.num_kv_blocks = parallel * 64
    # As the engine of our front has it: see operator/edgemodel/serve/openvino_genai.py.
    properties = {"INFERENCE_NUM_THREADS": 1, "ENABLE_CPU_PINNING": False, "INFERENCE_PRECISION_HINT": "f32"}
    pipeline = openvino_genai.ContinuousBatchingPipeline(folder, scheduler, "CPU", properties)
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = tokens
    ids = openvino_genai.Tokenizer(folder).encode(prompt).input_ids

    def answer(count: int) -> int:
        results: list[Any] = pipeline.generate([ids] * count, [config] * count)
        return sum(len(result.m_generation_ids[0]) for result in results)

    return answer


def mlx(folder: Path, parallel: int, tokens: int, prompt: str) -> Answer:
    """mlx-lm's batch generator, by its own function."""
    import mlx.core as mx
    from mlx_lm.generate import batch_generate
    from mlx_lm.utils import load

    mx.disable_compile()  # as in an image, which has no compiler
    model, tokenizer, *_ = load(str(folder))
    ids = tokenizer.encode(prompt)

    def answer(count: int) -> int:
        batch = {"completion_batch_size": parallel, "prefill_batch_size": parallel}
        done = batch_generate(model, tokenizer, [ids] * count, max_tokens=tokens, return_token_ids=True, **batch)
        return sum(len(found) for found in done.token_ids)

    return answer


MAKE: dict[str, Callable[[Path, Path], None]] = {
    "mlx": make_mlx,
    "onnxruntime-genai": make_onnx,
    "openvino-genai": make_openvino,
}
ANSWER: dict[str, Callable[[Path, int, int, str], Answer]] = {
    "mlx": mlx,
    "onnxruntime-genai": onnx,
    "openvino-genai": openvino,
}


def main() -> None:
    """Carries out what is asked for."""
    what, engine, *arguments = sys.argv[1:]
    if what == "make":
        MAKE[engine](*map(Path, arguments))
        return
    folder, parallel, tokens, prompt = arguments
    answer = ANSWER[engine](Path(folder), int(parallel), int(tokens), prompt)
    print("ready", flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        count = answer(int(line))
        print(json.dumps([count, time.perf_counter() - started]), flush=True)


if __name__ == "__main__":
    main()
