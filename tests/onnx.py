"""A real ONNX Runtime for tests: the packages of both its images.

Import `onnx` and `onnx_artifacts` into a conftest to use them.
"""

import json
import shutil
from pathlib import Path

import pytest

from tests.packages import Packages, installed
from tests.unit.pipeline.models import TINYSAWYER

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
    (work / f"{name}.json").write_text(evaluate(*map(str, (source, work / "FP32", work / name, 1, work / "logits"))))
"""


@pytest.fixture(scope="session")
def onnx() -> Packages:
    """ONNX Runtime. With one thread in torch, as in the Job."""
    return Packages(installed("onnx", "onnx.txt", "onnx-serve.txt"), {"OMP_NUM_THREADS": "1"})


@pytest.fixture(scope="session")
def onnx_artifacts(onnx: Packages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tinysawyer, which has learnt to chat, in every scheme: SCHEME/ with the quality in SCHEME.json, and the same made
    once more in again/SCHEME/."""
    work = tmp_path_factory.mktemp("onnx")
    source = shutil.copytree(TINYSAWYER, work / "source")
    config = json.loads((source / "tokenizer_config.json").read_text())
    (source / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": CHAT_TEMPLATE}))
    done = onnx.run("-c", MAKE_ALL, source, work, folder=work)
    assert done.returncode == 0, done.stderr[-4000:]
    return work
