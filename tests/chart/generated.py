"""What the chart says of the llama.cpp pipeline, from the pipeline itself.

`python -m tests.chart.generated` writes it; `make generate` may do so as well.
"""

import tomllib
from pathlib import Path

import yaml

from edgemodel.pipeline.llamacpp_schemes import DEFAULT_SCHEME, runtime_schemes
from edgemodel.pipeline.texts import calibration_digest

REPOSITORY = Path(__file__).resolve().parents[2]
LLAMACPP = REPOSITORY / "charts" / "edgemodel" / "files" / "llamacpp.yaml"
HEADER = "# Generated from operator/edgemodel/pipeline and pyproject.toml. Change those, not this file.\n"


def _version() -> str:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned = "llama-cpp-python=="
    (found,) = (one for one in project["optional-dependencies"]["llamacpp"] if one.startswith(pinned))
    return str(found).removeprefix(pinned)


def llamacpp() -> str:
    """The content of files/llamacpp.yaml."""
    content = {
        "version": _version(),
        "calibration": calibration_digest(),
        "defaultScheme": DEFAULT_SCHEME,
        "schemes": [scheme.dump() for scheme in runtime_schemes()],
    }
    return HEADER + yaml.safe_dump(content, sort_keys=False)


if __name__ == "__main__":
    LLAMACPP.write_text(llamacpp(), encoding="utf-8")
