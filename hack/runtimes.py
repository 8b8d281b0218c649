"""What the chart says of the llama.cpp pipeline, from the pipeline itself."""

import tomllib

import yaml

from edgemodel.pipeline.llamacpp_schemes import DEFAULT_SCHEME, runtime_schemes
from edgemodel.pipeline.texts import calibration_digest
from hack.cluster.shell import REPOSITORY

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
