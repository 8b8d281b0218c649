"""The manifest: which files make an artifact, and how it came to be.

Its bytes are canonical and carry no time, so that the same artifact always has the same digest. A digest for each chunk
of a file lets ranges be verified as they arrive, in any order, and lets an upload hand the server the digest to check.
"""

import hashlib
import json
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from edgemodel.api.artifact import QualityReport, Recipe, ResolvedSource, SourceUri
from edgemodel.api.base import ApiModel, ArtifactKey, Bytes, Sha256, ShortText
from edgemodel.store.errors import CorruptError

CHUNK = 8 << 20
"""Bytes of a chunk. A chunk is a part of a multipart upload, which S3 wants at 5 MiB or more."""
MAX_CHUNKS = 10_000
"""S3's limit on the parts of an upload."""
PARTIAL = ".partial"
"""What `fetch` adds to the name of a file that is not whole."""
_BLOCK = 1 << 20


def _safe(path: str) -> str:
    segments = path.split("/")
    if "\\" in path or any(unicodedata.category(character).startswith("C") for character in path):
        raise ValueError("has a backslash or a control character")
    if any(segment in {"", ".", ".."} for segment in segments):
        raise ValueError("is absolute, or has an empty, '.' or '..' segment")
    if any(len(segment.encode()) > 255 - len(PARTIAL) for segment in segments):
        raise ValueError("has a segment that is too long for a file system")
    if any(segment.casefold().endswith(PARTIAL) for segment in segments):
        raise ValueError(f"has a segment that ends in {PARTIAL}")
    return path


SafePath = Annotated[str, Field(min_length=1, max_length=512), AfterValidator(_safe)]
"""A relative path that stays in its folder, on any file system."""


class Chunk(NamedTuple):
    """A range of a file."""

    start: int
    size: int
    sha256: str


class File(ApiModel):
    """One file of an artifact."""

    path: SafePath
    """Its place in the artifact's folder."""
    bytes: Annotated[Bytes, Field(le=1 << 50)]
    """Its size."""
    sha256: Sha256
    """Its digest, which also names its blob."""
    chunk_bytes: Annotated[int, Field(ge=5 << 20, le=5 << 30)]
    """The size of every chunk but the last."""
    chunks: Annotated[list[Sha256], Field(max_length=MAX_CHUNKS)]
    """The digest of each chunk, in order."""

    @model_validator(mode="after")
    def _covered(self) -> Self:
        if len(self.chunks) != -(-self.bytes // self.chunk_bytes):
            raise ValueError("chunks do not add up to the file")
        return self

    def ranges(self) -> Iterator[Chunk]:
        """The chunks, with their place in the file."""
        for start, sha256 in zip(range(0, self.bytes, self.chunk_bytes), self.chunks, strict=True):
            yield Chunk(start, min(self.chunk_bytes, self.bytes - start), sha256)


class Manifest(ApiModel):
    """What belongs to an artifact, and how it came to be."""

    schema_version: Literal[1] = 1
    """The version of this format."""
    key: ArtifactKey
    """The artifact's key."""
    format: Annotated[str, Field(min_length=1, max_length=32)]
    """The format of the model, for example `gguf`."""
    files: Annotated[list[File], Field(min_length=1, max_length=1000)]
    """Every file, in the order of their paths."""
    entrypoint: SafePath
    """The file that a runtime opens, for example `model.gguf`."""
    recipe: Recipe
    """How it was made."""
    source: ResolvedSource
    """What it was made from."""
    source_uri: SourceUri
    """Where that was read."""
    tools: Annotated[dict[ShortText, ShortText], Field(max_length=64, default_factory=dict)]
    """The programs that made it, and their versions."""
    quality: QualityReport | None = None
    """What it is worth beside the unquantized model."""
    baseline_bytes: Bytes | None = None
    """Size of the unquantized model in the same format."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        paths = [file.path for file in self.files]
        if paths != sorted(paths):
            raise ValueError("files are not in the order of their paths")
        if self.entrypoint not in paths:
            raise ValueError("entrypoint is none of the files")
        # A Mac's file system takes A and a, and both ways to write é, for the same name.
        names = [unicodedata.normalize("NFC", path).casefold() for path in paths]
        folders = {str(parent) for name in names for parent in PurePosixPath(name).parents}
        if len(set(names)) < len(names) or not folders.isdisjoint(names):
            raise ValueError("two files have the same name, or one is also a folder")
        return self

    @property
    def size(self) -> int:
        """Size of all files."""
        return sum(file.bytes for file in self.files)

    def canonical(self) -> bytes:
        """The manifest as it is stored."""
        return json.dumps(self.dump(), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    def digest(self) -> str:
        """The digest of the stored bytes."""
        return sha256(self.canonical())

    def blobs(self) -> dict[str, File]:
        """The files by their digests: of those with the same content, one."""
        return {file.sha256: file for file in self.files}

    @classmethod
    def parse(cls, data: bytes, what: str) -> Self:
        """The manifest in `data`; `what` names it in the error if it is none."""
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            place = ".".join(map(str, first["loc"])) or "it"
            raise CorruptError(f"{what} is no manifest of version 1: {place}: {first['msg']}") from None


def sha256(data: bytes) -> str:
    """The digest of `data`."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def describe_file(file: Path, path: str) -> File:
    """The entry of `file`, which is read once. `path` is its place in the artifact."""
    whole = hashlib.sha256()
    chunks: list[str] = []
    size = file.stat().st_size
    chunk_bytes = CHUNK
    while size > chunk_bytes * MAX_CHUNKS:
        chunk_bytes *= 2
    with file.open("rb", buffering=0) as stream:
        block = memoryview(bytearray(_BLOCK))
        for start in range(0, size, chunk_bytes):
            chunk = hashlib.sha256()
            left = min(chunk_bytes, size - start)
            while left and (count := stream.readinto(block[: min(left, _BLOCK)])):
                chunk.update(block[:count])
                whole.update(block[:count])
                left -= count
            chunks.append(f"sha256:{chunk.hexdigest()}")
    return File(path=path, bytes=size, sha256=f"sha256:{whole.hexdigest()}", chunk_bytes=chunk_bytes, chunks=chunks)


def describe(folder: Path) -> list[File]:
    """The entries of all files in `folder` and below it."""
    files = []
    for parent, names, leaves in os.walk(folder):
        for name in (*names, *leaves):
            entry = Path(parent, name)
            if entry.is_symlink() or not (entry.is_dir() or entry.is_file()):
                raise ValueError(f"{entry} is neither a file nor a folder")
        files += [Path(parent, leaf) for leaf in leaves]
    named = sorted((file.relative_to(folder).as_posix(), file) for file in files)
    return [describe_file(file, path) for path, file in named]
