"""Toolchains and engines by their name: ours, and those that a package brings which someone added to an image.

Such a package names its classes as entry points, in the groups `edgemodel.toolchains`, `edgemodel.engines` (those that
generate text) and `edgemodel.embedders`.
"""

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any


def plugin(group: str, name: str, built_in: Mapping[str, str]) -> Any:
    """The class of that name. `built_in` has ours: name -> where it is, imported only when it is used, since each image
    has the packages of one. KeyError if there is none."""
    if name in built_in:
        module, _, cls = built_in[name].partition(":")
        return getattr(import_module(module), cls)
    found = list(entry_points(group=group, name=name))
    if not found:
        raise KeyError(name)
    return found[0].load()
