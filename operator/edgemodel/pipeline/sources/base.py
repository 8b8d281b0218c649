"""What a source is to the rest of the pipeline, and how any remote one is fetched."""

import hashlib
import json
import os
import random
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from edgemodel.pipeline.errors import PathRefusedError, SourceChangedError, SourceNotFoundError, SourceUnavailableError
from edgemodel.store.parallel import run_all

RANGE = 16 << 20
"""Bytes that one request asks for."""
WORKERS = 8
PAUSES = (0.2, 1.0, 3.0, 6.0)
"""Seconds between attempts, before jitter."""
_BLOCK = 1 << 20

Report = Callable[[int], None]
"""Hears of each lot of bytes that arrived."""


class SourceFile(NamedTuple):
    """A file of a source."""

    path: str
    size: int
    digest: str = ""
    """`sha256:HEX`, or `git:HEX` for the SHA-1 of a git blob, where the source tells one to check against."""
    version: str = ""
    """What else changes when the content does: an ETag, a version id."""


class SourceReader(Protocol):
    """Reads a model where it is."""

    revision: str
    """The revision that was found, if the source has revisions."""
    licence: str
    """The licence that the source states beside its files, if it does."""

    def files(self) -> list[SourceFile]:
        """All files, with paths that stay in their folder."""

    def identity(self, file: SourceFile) -> str:
        """What stands for the file's content."""

    def read(self, file: SourceFile, start: int, size: int) -> bytes:
        """A range of a file."""

    def fetch(self, file: SourceFile, target: Path, report: Report) -> None:
        """Brings a file to `target`, whole and verified."""


_UNSAFE = re.compile(r"[\x00-\x1f\x7f\\]")


def safe_path(path: str) -> str:
    """The path, if it stays in its folder on any system."""
    segments = path.split("/")
    if _UNSAFE.search(path) or len(path) > 512 or any(segment in {"", ".", ".."} for segment in segments):
        raise PathRefusedError(
            f"the source has a file named {path[:80]!r}, which leaves its folder: rename or remove it"
        )
    return path


class RemoteReader(ABC):
    """A source behind a network: files come in parallel ranges, each continued where its body broke off."""

    revision = ""
    licence = ""

    @abstractmethod
    def files(self) -> list[SourceFile]:
        """All files."""

    @abstractmethod
    def stream(self, file: SourceFile, start: int, size: int) -> Iterator[bytes]:
        """A range, in pieces. It may end early."""

    def identity(self, file: SourceFile) -> str:
        """The digest if the source tells one, else the version."""
        return file.digest or file.version

    def read(self, file: SourceFile, start: int, size: int) -> bytes:
        """A range of a file."""
        return b"".join(self._pieces(file, start, size))

    def fetch(self, file: SourceFile, target: Path, report: Report) -> None:
        """Brings a file to `target`. What an earlier try wrote stays. A wrong digest is given a second chance."""
        if target.exists():  # it got its name when it was verified
            report(file.size)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(target.name + ".partial")
        journal = target.with_name(target.name + ".journal")
        try:
            self._fetch_ranges(file, partial, journal, report)
            check_digest(file, partial)
        except SourceChangedError:
            partial.unlink()
            report(-file.size)
            self._fetch_ranges(file, partial, journal, report)
            check_digest(file, partial)
        partial.replace(target)

    def _fetch_ranges(self, file: SourceFile, partial: Path, place: Path, report: Report) -> None:
        if not partial.exists():
            place.unlink(missing_ok=True)
            partial.touch()
        journal = _Journal(place, file)
        report(journal.bytes_done())
        with partial.open("r+b") as stream:
            stream.truncate(file.size)

            def bring(start: int) -> None:
                position = start
                for piece in self._pieces(file, start, min(RANGE, file.size - start)):
                    os.pwrite(stream.fileno(), piece, position)
                    position += len(piece)
                    report(len(piece))
                journal.add(start)

            run_all(bring, [start for start in range(0, file.size, RANGE) if start not in journal.done], WORKERS)
        place.unlink()

    def _pieces(self, file: SourceFile, start: int, size: int) -> Iterator[bytes]:
        """The whole range. A body that ends early is asked for again from there; progress earns new attempts."""
        end, failures = start + size, 0
        while start < end:
            problem = SourceUnavailableError(f"{file.path}: the body ended early at byte {start}")
            try:
                for piece in self.stream(file, start, end - start):
                    yield piece
                    start += len(piece)
                    failures = 0
            except SourceUnavailableError as error:
                problem = error
            if start < end:
                if failures == len(PAUSES):
                    raise problem
                pause(failures)
                failures += 1


class _Journal:
    """Which ranges of a partial file are written. It survives the process, not the machine."""

    def __init__(self, path: Path, file: SourceFile) -> None:
        self.path = path
        self.done: set[int] = set()
        self._size = file.size
        self._lock = threading.Lock()
        head = json.dumps(file)
        try:
            lines = path.read_text().splitlines()
        except FileNotFoundError:
            lines = []
        if lines[:1] == [head]:
            self.done = {int(line) for line in lines[1:] if line.isdecimal()}
        else:
            path.write_text(head + "\n")

    def add(self, start: int) -> None:
        with self._lock, self.path.open("a") as stream:
            stream.write(f"{start}\n")

    def bytes_done(self) -> int:
        return sum(min(RANGE, self._size - start) for start in self.done)


def pause(failures: int) -> None:
    """Waits before another attempt."""
    time.sleep(PAUSES[failures] * random.uniform(0.5, 1))  # noqa: S311


def check_digest(file: SourceFile, place: Path) -> None:
    """Holds the bytes on the disk against what the source promised."""
    kind, _, wanted = file.digest.partition(":")
    if kind and _digest(kind, file.size, place) != wanted:
        raise SourceChangedError(
            f"{file.path} does not have the digest {file.digest}: its bytes were changed or damaged"
        )


def _digest(kind: str, size: int, place: Path) -> str:
    hasher = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False) if kind == "git" else hashlib.sha256()
    with place.open("rb") as stream:
        while block := stream.read(_BLOCK):
            hasher.update(block)
    return hasher.hexdigest()


def sha256_of(place: Path) -> str:
    """The SHA-256 of a file on the disk, in hex."""
    return _digest("sha256", 0, place)


def below(files: list[SourceFile], path: str) -> tuple[str, list[SourceFile]]:
    """The one file at `path`, or those below it: what to put before their names, and the files named from there."""
    if any(file.path == path for file in files):
        prefix = path[: path.rfind("/") + 1]
        found = [file for file in files if file.path == path]
    else:
        prefix = path and path + "/"
        found = [file for file in files if file.path.startswith(prefix)]
    if not found:
        raise SourceNotFoundError(f"the source has nothing at {path!r}: correct spec.source.uri")
    return prefix, [file._replace(path=file.path.removeprefix(prefix)) for file in found]
