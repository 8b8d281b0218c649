"""Brings an artifact from the store to a folder: in parallel ranges, each verified, nothing kept that is not whole.

A file is written as `<name>.partial` and gets its name when all its chunks have their digests. There is no journal of
what has arrived: what is there is hashed again, which is faster than any network, and which a crash cannot make a lie.
For the same reason nothing is flushed to the disk; after a crash of the machine, fetch again before you trust a name.
"""

import errno
import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgemodel.store.artifacts import ArtifactStore
from edgemodel.store.client import persistent
from edgemodel.store.errors import CorruptError, DiskFullError, NotFoundError
from edgemodel.store.manifest import PARTIAL, Chunk, File, Manifest
from edgemodel.store.parallel import Counter, Report, run_all

_BLOCK = 1 << 20


def fetch(store: ArtifactStore, key: str, digest: str, folder: Path, progress: Report | None = None) -> Manifest:
    """Makes `folder` hold the artifact whose manifest has this digest. May be killed anywhere and called again.

    Files that are there and right stay untouched; files that the manifest does not name are left alone.
    """
    published = store.read_manifest(key, digest)
    if published is None:
        raise NotFoundError(f"there is no artifact {key} in the store")
    manifest = published.manifest
    counter = Counter(manifest.size, progress)
    targets = [_Target(file, folder) for file in manifest.files]
    chunks = [(target, chunk) for target in targets for chunk in target.file.ranges()]

    def holds(place: tuple[_Target, Chunk]) -> bool:
        target, chunk = place
        held = target.holds(chunk)
        if held:
            counter.add(chunk.size)
        return held

    def download(place: tuple[_Target, Chunk]) -> None:
        target, chunk = place
        persistent(_Download(store, target, chunk))
        counter.add(chunk.size)

    held = run_all(holds, chunks)
    missing = [place for place, is_held in zip(chunks, held, strict=True) if not is_held]
    damaged = {target.final for target, _ in missing}
    unfinished = [target for target in targets if target.final in damaged or not target.has_size()]
    with _disk(folder):
        _check_room(folder, unfinished)
        for target in unfinished:
            target.prepare()
        run_all(download, missing)
        for target in unfinished:
            target.finish()
    return manifest


class _Target:
    """A file of the artifact in the folder."""

    def __init__(self, file: File, folder: Path) -> None:
        self.file = file
        self.final = folder / file.path
        self.partial = self.final.with_name(self.final.name + PARTIAL)

    def has_size(self) -> bool:
        """Whether there is a file of the right size under the final name."""
        return self.final.is_file() and self.final.stat().st_size == self.file.bytes

    def holds(self, chunk: Chunk) -> bool:
        """Whether the chunk is on the disk already, whichever name the file has."""
        try:
            stream = (self.final if self.final.is_file() else self.partial).open("rb", buffering=0)
        except FileNotFoundError:
            return False
        with stream:
            if _is_hole(stream.fileno(), chunk):
                return False
            digest = hashlib.sha256()
            for start in range(chunk.start, chunk.start + chunk.size, _BLOCK):
                digest.update(os.pread(stream.fileno(), min(_BLOCK, chunk.start + chunk.size - start), start))
            return chunk.sha256 == f"sha256:{digest.hexdigest()}"

    def allocated(self) -> int:
        """The bytes of disk that the unfinished file has."""
        path = self.final if self.final.is_file() else self.partial
        return min(path.stat().st_blocks * 512, self.file.bytes) if path.is_file() else 0

    def prepare(self) -> None:
        """Takes the final name away from what is not whole, and gets the disk space."""
        self.final.parent.mkdir(parents=True, exist_ok=True)
        if self.final.is_file():
            self.final.replace(self.partial)
        with self.partial.open("ab") as stream:
            stream.truncate(self.file.bytes)
            if sys.platform == "linux" and self.file.bytes:
                os.posix_fallocate(stream.fileno(), 0, self.file.bytes)

    def finish(self) -> None:
        """Gives the file its name. All its chunks have been verified."""
        self.partial.replace(self.final)


class _Download:
    """One chunk on its way. Called again after a failure, it goes on where it was, or after bad bytes at the start."""

    def __init__(self, store: ArtifactStore, target: _Target, chunk: Chunk) -> None:
        self._store = store
        self._target = target
        self._chunk = chunk
        self._done = 0
        self._digest = hashlib.sha256()

    def __call__(self) -> None:
        file, chunk = self._target.file, self._chunk
        with self._target.partial.open("r+b", buffering=0) as stream:
            for block in self._store.stream(file.sha256, chunk.start + self._done, chunk.size - self._done):
                self._digest.update(block)
                written = 0
                while written < len(block):
                    place = chunk.start + self._done + written
                    written += os.pwrite(stream.fileno(), memoryview(block)[written:], place)
                self._done += written
        digest = f"sha256:{self._digest.hexdigest()}"
        if digest != chunk.sha256:
            self._done = 0
            self._digest = hashlib.sha256()
            last = chunk.start + chunk.size - 1
            raise CorruptError(f"{file.path}, bytes {chunk.start}-{last}: expected {chunk.sha256}, got {digest}")


def _is_hole(descriptor: int, chunk: Chunk) -> bool:
    """Whether nothing was ever written there: then there is nothing to hash."""
    try:
        return os.lseek(descriptor, chunk.start, os.SEEK_DATA) >= chunk.start + chunk.size
    except OSError as error:
        return error.errno == errno.ENXIO


def _check_room(folder: Path, unfinished: list[_Target]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    needed = sum(target.file.bytes - target.allocated() for target in unfinished)
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    if needed > free:
        raise DiskFullError(f"{folder}: the artifact needs {needed} more bytes, and {free} are free")


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DiskFullError(f"{folder}: the disk became full while the artifact was fetched") from None
        raise
