"""Brings an artifact from the store to a folder: in parallel ranges, verified chunk by chunk, nothing kept that is not
whole.

A file is written as `<name>.partial` and gets its name when all its chunks have their digests. There is no journal of
what has arrived: what is there is hashed again, which is faster than any network, and which a crash cannot make a lie.
For the same reason nothing is flushed to the disk; after a crash of the machine, fetch again before you trust a name.
"""

import errno
import hashlib
import os
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from edgemodel.store.artifacts import ArtifactStore
from edgemodel.store.client import PASSING, Waits, persistent
from edgemodel.store.errors import CorruptError, DiskFullError, NotFoundError
from edgemodel.store.manifest import PARTIAL, Chunk, File, Manifest
from edgemodel.store.parallel import WORKERS, Counter, Report, run_all

_BLOCK = 1 << 20
_LONGEST_RUN = 4
"""Chunks that are asked for at once."""


def fetch(
    store: ArtifactStore,
    key: str,
    digest: str,
    folder: Path,
    progress: Report | None = None,
    waits: Waits | None = None,
) -> Manifest:
    """Makes `folder` hold the artifact whose manifest has this digest. May be killed anywhere and called again.

    Files that are there and right stay untouched; files that the manifest does not name are left alone. If `waits` is
    given, a fetch that has begun waits a quarter of an hour for a store that goes away, and tells of it.
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

    held = run_all(holds, chunks)
    missing = [place for place, is_held in zip(chunks, held, strict=True) if not is_held]
    damaged = {target.final for target, _ in missing}
    unfinished = [target for target in targets if target.final in damaged or not target.has_size()]
    with _disk(folder):
        _check_room(folder, unfinished)
        for target in unfinished:
            target.prepare()
        run_all(lambda run: _Download(store, *run, counter, waits).run(), _runs(missing))
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


def _runs(missing: Sequence[tuple[_Target, Chunk]]) -> list[tuple[_Target, list[Chunk]]]:
    """Chunks that follow one another in a file, a request for each run: few requests, and work for all connections."""
    longest = max(1, min(_LONGEST_RUN, len(missing) // (2 * WORKERS)))
    runs: list[tuple[_Target, list[Chunk]]] = []
    for target, chunk in missing:
        before, chunks = runs[-1] if runs else (None, [])
        if before is target and len(chunks) < longest and chunks[-1].start + chunks[-1].size == chunk.start:
            chunks.append(chunk)
        else:
            runs.append((target, [chunk]))
    return runs


class _Download:
    """A run of chunks on its way. After a failure it goes on where it was, after bad bytes where their chunk begins."""

    def __init__(
        self, store: ArtifactStore, target: _Target, chunks: Sequence[Chunk], counter: Counter, waits: Waits | None
    ) -> None:
        self._store = store
        self._target = target
        self._left = deque(chunks)
        self._counter = counter
        self._waits = waits
        self._begin_chunk()

    def run(self) -> None:
        """All of it. With each chunk that is there, the tries are counted anew."""
        while self._left:
            persistent(self._try, self._waits)

    def _try(self) -> None:
        before = len(self._left)
        try:
            self._receive()
        except PASSING:
            if len(self._left) == before:
                raise

    def _receive(self) -> None:
        start = self._left[0].start + self._done
        size = self._left[-1].start + self._left[-1].size - start
        with self._target.partial.open("r+b", buffering=0) as stream:
            for block in self._store.stream(self._target.file.sha256, start, size):
                self._take(block, stream.fileno())

    def _take(self, block: memoryview, descriptor: int) -> None:
        while block:
            chunk = self._left[0]
            part = block[: chunk.size - self._done]
            self._digest.update(part)
            written = 0
            while written < len(part):
                written += os.pwrite(descriptor, part[written:], chunk.start + self._done + written)
            self._done += written
            if self._done == chunk.size:
                self._end_chunk()
            block = block[written:]

    def _begin_chunk(self) -> None:
        self._done = 0
        self._digest = hashlib.sha256()

    def _end_chunk(self) -> None:
        chunk, digest = self._left[0], f"sha256:{self._digest.hexdigest()}"
        self._begin_chunk()
        if digest != chunk.sha256:
            place = f"{self._target.file.path}, bytes {chunk.start}-{chunk.start + chunk.size - 1}"
            raise CorruptError(f"{place}: expected {chunk.sha256}, got {digest}")
        self._left.popleft()
        self._counter.add(chunk.size)


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
