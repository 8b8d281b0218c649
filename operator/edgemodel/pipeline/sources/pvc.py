"""A volume that is mounted: nothing is copied, the files are linked to.

A file's identity is the SHA-256 of all of it, so that the same bytes are the same model on every volume and at every
date.
"""

import os
from pathlib import Path

from edgemodel.pipeline.errors import PathRefusedError, SourceChangedError, SourceNotFoundError, SourceUnauthorizedError
from edgemodel.pipeline.sources.base import Report, SourceFile, safe_path, sha256_of


class VolumeReader:
    """`CLAIM/PATH`: the folder or file at PATH of the volume that is mounted at `root`."""

    revision = ""
    licence = ""

    def __init__(self, path: str, sha256: str | None, root: str) -> None:
        self._root = Path(root).resolve()
        inside = path.partition("/")[2].strip("/")
        self._place = self._root / safe_path(inside) if inside else self._root
        self._sha256 = sha256 or ""

    def files(self) -> list[SourceFile]:
        """The file, or the files in the folder and below it. Links may lead anywhere within the volume."""
        if not self._place.exists():
            raise SourceNotFoundError(
                f"the volume has no {self._place.relative_to(self._root)}: correct spec.source.uri"
            )
        if self._place.is_file():
            self._place, name = self._place.parent, self._place.name
            return [self._file(name)]
        found = [
            Path(folder, name).relative_to(self._place).as_posix()
            for folder, _, names in os.walk(self._place)
            for name in names
        ]
        return [self._file(path) for path in sorted(found)]

    def read(self, file: SourceFile, start: int, size: int) -> bytes:
        """A range of a file."""
        with self._within(file.path).open("rb") as stream:
            stream.seek(start)
            return stream.read(size)

    def identity(self, file: SourceFile) -> str:
        """The digest of the whole file, which is read for it."""
        try:
            digest = f"sha256:{sha256_of(self._within(file.path))}"
        except PermissionError:
            raise SourceUnauthorizedError(f"{file.path} on the volume is not readable for this pod's user") from None
        if self._sha256 and digest != self._sha256:
            raise SourceChangedError(f"{file.path} on the volume has the digest {digest}, not spec.source.sha256")
        return digest

    def fetch(self, file: SourceFile, target: Path, report: Report) -> None:
        """Links to the file."""
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.symlink_to(self._within(file.path))
        report(file.size)

    def _file(self, path: str) -> SourceFile:
        return SourceFile(path, self._within(safe_path(path)).stat().st_size)

    def _within(self, path: str) -> Path:
        place = (self._place / path).resolve()
        if not place.is_relative_to(self._root):
            raise PathRefusedError(f"{path} on the volume is a link that leads out of it: remove it")
        return place
