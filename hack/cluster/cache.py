"""The folder of what is slow to make, keyed by the content that went into it.

`$EDGEMODEL_CACHE/<name>-<key>/` is there whole or not at all: it is filled under another name and renamed. So an
interrupted build leaves nothing to trust by mistake, a folder that was made elsewhere can be dropped in, and deleting
the cache costs time and nothing else.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_NOT_CONTENT = {"__pycache__", ".git", ".mypy_cache", ".pytest_cache", ".ruff_cache"}


def root() -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(os.environ.get("EDGEMODEL_CACHE") or home / "edgemodel")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def entry(name: str, key: str, fill: Callable[[Path], None]) -> Path:
    """The folder `<name>-<key>`, filled now if it is not there yet."""
    folder = root() / f"{name}-{key}"
    if folder.is_dir():
        return folder
    with lock(name):
        if not folder.is_dir():
            unfinished = root() / f".{name}-{key}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            fill(unfinished)
            unfinished.rename(folder)
    return folder


@contextmanager
def lock(name: str, folder: Path | None = None) -> Iterator[None]:
    """Lets one process at a time work on something in the cache, or in a folder. It ends with the process."""
    with ((folder or root()) / f".{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def key_of(base: Path, paths: Iterable[Path], *more: str) -> str:
    """A short hash of the files at and below `paths` (their names within `base`, modes and bytes), and of `more`."""
    digest = hashlib.sha256()
    for text in more:
        digest.update(f"{len(text)}:{text}".encode())
    for file in sorted({file for path in paths for file in _files(path)}):
        executable = os.access(file, os.X_OK)
        content = file.read_bytes()
        digest.update(f"{file.relative_to(base)}:{executable:d}:{len(content)}:".encode())
        digest.update(content)
    return digest.hexdigest()[:12]


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    for child in path.iterdir() if path.is_dir() else ():
        if child.name not in _NOT_CONTENT and not child.name.endswith(".egg-info"):
            yield from _files(child)


def machine() -> str:
    """The processor's architecture, as the kernel calls it."""
    return os.uname().machine
