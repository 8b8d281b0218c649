"""`python -m edgemodel.api FOLDER` writes the CustomResourceDefinitions there, a file each."""

import sys
from pathlib import Path

import yaml

from edgemodel.api.crd import CUSTOM_RESOURCES, custom_resource_definition

HEADER = "# Generated from operator/edgemodel/api by `make generate`. Change the types, not this file.\n"


def render() -> dict[str, str]:
    """File name -> content."""
    return {
        f"{resource.plural}.yaml": HEADER
        + yaml.safe_dump(custom_resource_definition(resource), sort_keys=False, width=120, allow_unicode=True)
        for resource in CUSTOM_RESOURCES
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for name, content in render().items():
        (folder / name).write_text(content, encoding="utf-8")
