"""What the chart says of the pipeline's toolchains, from the pipeline itself."""

import tomllib
from importlib import import_module
from pathlib import Path

import yaml

from edgemodel.pipeline.texts import calibration_digest
from hack.cluster.shell import REPOSITORY

FOLDER = REPOSITORY / "charts" / "edgemodel" / "files" / "toolchains"
HEADER = "# Generated from operator/edgemodel/pipeline and pyproject.toml. Change those, not this file.\n"
TOOLS = {
    "llamacpp": ("llama-cpp-python",),
    "mlx": ("mlx-lm", "mlx[cpu]"),
    "onnx": ("olive-ai", "onnxruntime-genai"),
    "openvino": ("openvino", "nncf", "optimum-intel"),
    "qnn": ("onnxruntime-qnn", "onnxruntime"),
}
"""Toolchain -> the packages whose versions are its version."""


def _version(toolchain: str) -> str:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned = dict(one.split("==") for one in project["optional-dependencies"][toolchain] if "==" in one)
    return "-".join(pinned[package] for package in TOOLS[toolchain])


def _content(toolchain: str) -> str:
    schemes = import_module(f"edgemodel.pipeline.{toolchain}_schemes")
    content = {
        "version": _version(toolchain),
        "calibration": calibration_digest(),
        "defaultScheme": schemes.DEFAULT_SCHEME,
        "schemes": [
            {name: value for name, value in scheme.dump().items() if value != []}
            for scheme in schemes.runtime_schemes()
        ],
    }
    return HEADER + yaml.safe_dump(content, sort_keys=False)


def toolchains() -> dict[Path, str]:
    """File below the chart -> its content."""
    return {FOLDER / f"{toolchain}.yaml": _content(toolchain) for toolchain in TOOLS}
