"""Runs passes of Olive, in the step `olive`."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from olive.data.registry import Registry
from olive.model import HfModelHandler, ONNXModelHandler
from olive.package_config import OlivePackageConfig
from olive.passes.olive_pass import create_pass_from_dict
from transformers import AutoConfig, AutoModelForCausalLM

from edgemodel.api.base import Task
from edgemodel.pipeline.errors import UnsupportedArchitectureError
from edgemodel.pipeline.onnx_schemes import CALIBRATION_WINDOWS, OlivePass
from edgemodel.pipeline.pretrained import Pretrained, refuse_without_tokenizer

CALIBRATION_TOKENS = 8192
MODEL = "model.onnx"
WEIGHTS = "model.onnx.data"

_NOT_SERVED = ("config.json", "generation_config.json", "*.py")
"""What `transformers` reads and onnxruntime-genai does not."""


def olive(source: str, full: str, target: str, passes: str, task: Task) -> None:
    """`run_passes`, of passes that are JSON."""
    run_passes(Path(source), Path(full), Path(target), json.loads(passes), task)


def run_passes(
    source: Path, full: Path, target: Path, passes: Sequence[OlivePass], task: Task = "TextGeneration"
) -> None:
    """Makes `target` out of the source, as `transformers` keeps it, or of the unquantized ONNX model, by these
    passes."""
    pretrained = Pretrained.at(source)
    refuse_unknown(pretrained)
    Registry.register_dataset(CALIBRATION_WINDOWS)(lambda: _calibration(pretrained, task))
    offered = OlivePackageConfig.load_default_config()
    # Passes over ONNX are called so: Onnx...
    model = _onnx(full) if passes[0]["type"].startswith("Onnx") else HfModelHandler(str(source))
    between: list[Path] = []
    for number, asked in enumerate(passes, 1):
        options = {name: value for name, value in asked.items() if name != "type"}
        made = target if number == len(passes) else target.with_name(f"{target.name}-{number}")
        apply = create_pass_from_dict(offered.import_pass_module(asked["type"]), options, disable_search=True)
        try:
            model = apply.run(model, str(made))
        except NotImplementedError:  # how the model builder says that it does not know an architecture
            raise _unknown(pretrained) from None
        for folder in between:
            shutil.rmtree(folder)
        between = [made]
    if target == full:
        pretrained.load(AutoModelForCausalLM)  # the builder draws at random what is missing of the weights
    for pattern in _NOT_SERVED:
        for path in target.glob(pattern):
            path.unlink()
    refuse_without_tokenizer(target)


def _onnx(folder: Path) -> ONNXModelHandler:
    beside = [str(path) for path in sorted(folder.iterdir()) if path.name not in (MODEL, WEIGHTS)]
    return ONNXModelHandler(str(folder), onnx_file_name=MODEL, model_attributes={"additional_files": beside})


def _calibration(pretrained: Pretrained, task: Task) -> list[tuple[dict[str, torch.Tensor], int]]:
    """The calibration text as Olive takes it: inputs and a label, which nobody asks for."""
    embeds = task == "Embeddings"
    read = pretrained.calibration_passages() if embeds else pretrained.calibration_windows(CALIBRATION_TOKENS)
    windows = map(torch.tensor, read)
    return [({"input_ids": window, "attention_mask": torch.ones_like(window)}, 0) for window in windows]


def refuse_unknown(pretrained: Pretrained) -> None:
    """Refuses what `transformers` does not know without code out of the source."""
    try:
        AutoConfig.from_pretrained(pretrained.folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, KeyError):
        raise _unknown(pretrained) from None
    pretrained.tokenizer()


def _unknown(pretrained: Pretrained) -> UnsupportedArchitectureError:
    (name, *_) = pretrained.config.get("architectures") or [pretrained.config.get("model_type")]
    return UnsupportedArchitectureError(
        f"Olive, or the builder that it drives, does not know the architecture {name}: use another model"
    )
