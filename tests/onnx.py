"""A real ONNX Runtime for tests: a Python with the packages of both its images, out of the cache.

Import `onnx` and `onnx_artifacts` into a conftest to use them. The Python is made on first use, which takes minutes and
700 MB of downloads.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from hack.cluster import cache
from hack.cluster.shell import REPOSITORY
from tests.unit.pipeline.models import TINYSAWYER

REQUIREMENTS = [REPOSITORY / "requirements" / name for name in ("onnx.txt", "onnx-serve.txt")]
CPU_TORCH = REPOSITORY / "runtime-images" / "cpu_torch.py"

CHAT_TEMPLATE = """\
{%- for message in messages %}
    {%- if message.role == 'tool' %}{{ raise_exception('there are no tools here') }}{% endif %}
{{ bos_token }}{{ message.role }}: {{ message.content | tojson }}
{% endfor %}
{%- if add_generation_prompt %}assistant:{% endif %}"""

MAKE_ALL = """
import sys
from pathlib import Path
from edgemodel.pipeline.onnx_evaluate import evaluate
from edgemodel.pipeline.onnx_olive import run_passes
from edgemodel.pipeline.onnx_schemes import SCHEMES, UNQUANTIZED
source, work = map(Path, sys.argv[1:])
for made in (work, work / "again"):
    full = made / "FP32"
    run_passes(source, full, full, [UNQUANTIZED])
    for name, scheme in SCHEMES.items():
        if scheme.passes:
            run_passes(source, full, made / name, scheme.passes)
for name in SCHEMES:
    report = evaluate(source, work / "FP32", work / name, 1, work / "logits")
    (work / f"{name}.json").write_text(report.model_dump_json())
"""


@dataclass(frozen=True)
class Onnx:
    """Where it is."""

    python: Path

    @property
    def env(self) -> dict[str, str]:
        """The environment of a process that uses it."""
        # One thread in torch, as in the Job.
        return {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(map(str, (REPOSITORY / "operator", REPOSITORY))),
        }

    def run(self, *arguments: str | Path, folder: Path | None = None) -> "subprocess.CompletedProcess[str]":
        """Runs Python with these arguments."""
        return subprocess.run(
            [self.python, *arguments], cwd=folder, env=self.env, capture_output=True, text=True, check=False
        )


def find() -> Onnx:
    """The Python, made now if need be."""
    key = cache.key_of(REPOSITORY, [*REQUIREMENTS, CPU_TORCH], sys.version)
    return Onnx(cache.entry("venv-onnx", key, _fill) / "bin" / "python")


def _fill(folder: Path) -> None:
    def run(*command: str | Path) -> None:
        subprocess.run(command, check=True)

    files = [part for file in REQUIREMENTS for part in ("-r", file)]
    run(sys.executable, "-m", "venv", folder)
    run(folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes", *files)
    (packages,) = folder.glob("lib/python*/site-packages")
    run(sys.executable, CPU_TORCH, packages)


@pytest.fixture(scope="session")
def onnx() -> Onnx:
    """ONNX Runtime, or why there is none."""
    try:
        return find()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"the packages of requirements/onnx*.txt could not be installed: {error}")


@pytest.fixture(scope="session")
def onnx_artifacts(onnx: Onnx, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tinysawyer, which has learnt to chat, in every scheme: SCHEME/ with the quality in SCHEME.json, and the same made
    once more in again/SCHEME/."""
    work = tmp_path_factory.mktemp("onnx")
    source = shutil.copytree(TINYSAWYER, work / "source")
    config = json.loads((source / "tokenizer_config.json").read_text())
    (source / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": CHAT_TEMPLATE}))
    done = onnx.run("-c", MAKE_ALL, source, work, folder=work)
    assert done.returncode == 0, done.stderr[-4000:]
    return work
