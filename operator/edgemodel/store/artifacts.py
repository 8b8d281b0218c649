"""Artifacts in the store: published whole or not at all, removed when nobody refers to them.

Publishers and removers do not know of each other, and S3 has no lock. Two rules keep them apart, each of the form "say
what you will do, then look what others said", so that of any two at least one sees the other:

- A publisher first writes its manifest as pending, then waits for removals that name its blobs. A remover first writes
  which blobs it may delete, then spares those that any manifest, pending or not, names.
- Whoever adds a reference first writes it, then looks for removals of this artifact. A remover first writes that it
  removes, then looks for references.

A remover gives up after `REMOVAL_SECONDS`. One that is `ABANDONED_SECONDS` old is dead, and whoever meets it ends it.
"""

import re
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import suppress
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field, TypeAdapter, ValidationError

from edgemodel.api.artifact import PerformanceReport, Progress
from edgemodel.api.base import ApiModel, ArtifactKey, Sha256
from edgemodel.store.client import Bucket, Waits
from edgemodel.store.config import StoreConfig
from edgemodel.store.errors import ConflictError, CorruptError, NotFoundError, StoreError, TransientError
from edgemodel.store.manifest import File, Manifest, sha256
from edgemodel.store.parallel import Counter, Report, run_all

REMOVAL_SECONDS = 60
"""How long a removal goes on deleting. A last call may outlive it by its own attempts, about four minutes."""
ABANDONED_SECONDS = 600
"""The age of a removal that nobody is at any more."""
_POLL_SECONDS = 1.0
_COMPLETION_SECONDS = 10
"""How long a store may go on putting a blob together after it said that the upload is complete."""
_COMPLETION_SPEED = 20 << 20
"""Bytes that it puts together in each second beyond these."""
_ATTEMPTS = 3

_OWNER = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?")
_KEY: TypeAdapter[str] = TypeAdapter(ArtifactKey)


class Published(NamedTuple):
    """A manifest in the store."""

    manifest: Manifest
    digest: str
    """The digest of its bytes."""
    etag: str


class Removed(NamedTuple):
    """What a removal deleted."""

    artifact: bool
    """Whether the artifact went: false while others refer to it."""
    blobs: frozenset[str]
    """The digests of the blobs that went."""


class _Removal(ApiModel):
    """A removal under way."""

    key: ArtifactKey
    blobs: Annotated[list[Sha256], Field(max_length=100_000)]
    """The blobs that it may delete."""


class ArtifactStore:
    """The artifacts under the store's prefix. Its methods block; they may be called from any thread.

    If `waits` is given, it waits a quarter of an hour for a store that is away, and tells of it.
    """

    def __init__(self, config: StoreConfig, waits: Waits | None = None) -> None:
        self._bucket = Bucket(config, waits)

    def read_manifest(self, key: str, digest: str | None = None) -> Published | None:
        """The manifest of an artifact, or None.

        One that is damaged, belongs to another key, or does not have the digest that is asked for: `CorruptError`.
        """
        place = _manifest(key)
        document = self._bucket.get(place, digest)
        if document is None:
            return None
        manifest = Manifest.parse(document.data, place)
        if manifest.key != key:
            raise CorruptError(f"{place} is the manifest of {manifest.key}")
        return Published(manifest, sha256(document.data), document.etag)

    def is_whole(self, manifest: Manifest) -> bool:
        """Whether every blob is there and has its size."""
        return all(run_all(self._has, manifest.files))

    def stream(self, digest: str, start: int, size: int) -> Iterator[memoryview]:
        """A range of a blob as it arrives, not verified: blocks, each of which is good until the next one. This is one
        attempt."""
        return self._bucket.stream(_blob(digest), start, size)

    def publish(self, manifest: Manifest, folder: Path, progress: Report | None = None) -> str:
        """Publishes the files in `folder`. Returns the digest of the artifact's manifest.

        If the artifact is there already, whole, it stays as it is, and its digest is returned.
        """
        present = self.read_manifest(manifest.key)
        if present and self.is_whole(present.manifest):
            return present.digest
        digest = manifest.digest()
        blobs = manifest.blobs()
        pending = _pending(manifest.key, digest)
        self._bucket.put(pending, manifest.canonical())
        counter = Counter(sum(file.bytes for file in blobs.values()), progress)
        self._await_removals(blobs.keys())
        self._upload_missing(blobs, folder, counter)
        winner: Published | None
        winner, seen = self._put_manifest(manifest)
        if winner.digest == digest:
            # A removal that had not seen the pending manifest may have taken a blob until now. From now on none does.
            self._await_removals(blobs.keys())
            self._upload_missing(blobs, folder, Counter(0, None))
            # It may be another's by now, which missed that blob in ours; or the artifact was removed.
            winner = self.read_manifest(manifest.key)
        needless = blobs.keys() | seen | (present.manifest.blobs().keys() if present else set())
        needless -= winner.manifest.blobs().keys() if winner else set()
        if needless:
            self._sweep(_removal(manifest.key), manifest.key, needless, [pending])
        else:
            self._bucket.delete(pending)
        return winner.digest if winner else digest

    def add_reference(self, key: str, owner: str) -> None:
        """Keeps the artifact from being removed, there or still to come. Look whether it is there only after this.

        `owner` is who wants it, unique among all that share the bucket. If the artifact is being removed just now:
        `TransientError`.
        """
        self._bucket.put(_reference(key, owner), b"")
        if any(removal.key == key for removal in self._removals()):
            raise TransientError(f"artifact {key} is being removed; it can be made again when that has ended")

    def remove(self, key: str, owner: str) -> Removed:
        """Removes the owner's reference, and with the last one the artifact and the blobs that no other needs.

        Call it again after any failure. An owner removes an artifact from one place at a time.
        """
        self._bucket.delete(_reference(key, owner))
        earlier = {place: data for place in self._markers(key, owner) if (data := self._bucket.get(place))}
        if not earlier and self._bucket.below(_references(key)):
            return Removed(artifact=False, blobs=frozenset())
        documents = [_manifest(key), *(entry.key for entry in self._bucket.below(_pendings(key)))]
        found = {document: data for document in documents if (data := self._bucket.get(document))}
        beside = [_performance(key), _progress(key)]
        if not earlier and not found and all(self._bucket.size(document) is None for document in beside):
            # An owner that saw its own removal late: nobody would come back for a marker that is left now.
            return Removed(artifact=True, blobs=frozenset())
        blobs: set[str] = set()
        for place, removal in earlier.items():
            blobs |= set(_parse_removal(removal.data, place).blobs)
        for document, content in found.items():
            # One that cannot be read would otherwise be there for ever, and keep every other removal from ending.
            with suppress(CorruptError):
                blobs |= Manifest.parse(content.data, document).blobs().keys()
        return self._sweep(_removal(key, owner), key, blobs, [*found, *beside], earlier, unless=_references(key))

    def write_progress(self, key: str, progress: Progress) -> None:
        """Tells how far the Job is."""
        self._bucket.put(_progress(key), progress.model_dump_json(by_alias=True).encode())

    def read_progress(self, key: str) -> Progress | None:
        """How far the Job is; None where nothing readable is known."""
        document = self._bucket.get(_progress(key))
        try:
            return document and Progress.model_validate_json(document.data)
        except ValidationError:
            return None

    def write_performance(self, key: str, performance: PerformanceReport) -> None:
        """Keeps what was measured of the artifact. Written before it is published, so that who finds it finds this."""
        self._bucket.put(_performance(key), performance.model_dump_json(by_alias=True).encode())

    def read_performance(self, key: str) -> PerformanceReport | None:
        """What was measured of the artifact; None where nothing readable is known."""
        document = self._bucket.get(_performance(key))
        try:
            return document and PerformanceReport.model_validate_json(document.data)
        except ValidationError:
            return None

    def _has(self, file: File) -> bool:
        return self._bucket.size(_blob(file.sha256)) == file.bytes

    def _upload_missing(self, blobs: Mapping[str, File], folder: Path, counter: Counter) -> None:
        """Ends with every blob seen in the store with its size."""
        there = run_all(self._has, blobs.values())
        for file, is_there in zip(blobs.values(), there, strict=True):
            if is_there:
                counter.add(file.bytes)
            else:
                self._upload(file, folder / file.path, counter)

    def _upload(self, file: File, source: Path, counter: Counter) -> None:
        blob = _blob(file.sha256)
        for _ in range(_ATTEMPTS):
            # Another publisher that has completed this blob, or a removal of it, drops our upload. Some stores have no
            # better word for that than 500.
            failure: StoreError | None = None
            try:
                self._bucket.upload(blob, source, file, counter.add)
            except (NotFoundError, TransientError) as error:
                failure = error
            if self._has(file) if failure else self._appears(file):
                self._bucket.abort_uploads(blob)
                return
            if isinstance(failure, TransientError):
                raise failure
        raise CorruptError(f"{blob} does not have the {file.bytes} bytes of {file.path} after it was uploaded")

    def _appears(self, file: File) -> bool:
        """Whether an uploaded blob is there, or comes soon."""
        end = time.monotonic() + _COMPLETION_SECONDS + file.bytes / _COMPLETION_SPEED
        while not self._has(file):
            if time.monotonic() > end:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def _put_manifest(self, manifest: Manifest) -> tuple[Published, set[str]]:
        """The manifest that is in place now: ours, or that of a whole artifact which someone else published. And the
        blobs of those that were in its place before."""
        data, place = manifest.canonical(), _manifest(manifest.key)
        seen: set[str] = set()
        for _ in range(_ATTEMPTS):
            present = self.read_manifest(manifest.key)
            if present and (present.digest == manifest.digest() or self.is_whole(present.manifest)):
                return present, seen
            try:
                if present:
                    seen |= present.manifest.blobs().keys()
                    self._bucket.replace(place, data, present.etag)
                else:
                    self._bucket.put_new(place, data)
            except (ConflictError, NotFoundError):  # the latter if it was removed meanwhile
                continue
        raise ConflictError(f"{place} keeps changing")

    def _markers(self, key: str, owner: str) -> Iterator[str]:
        """The markers of the owner's earlier attempts to remove the artifact."""
        prefix = _removals_of(key, owner)
        for entry in self._bucket.below(prefix):
            # The prefix is also that of owners whose names begin with this one. Attempts had no part of their own once.
            if re.fullmatch(r"(\.[0-9a-f]{32})?\.json", entry.key.removeprefix(prefix)):
                yield entry.key

    def _sweep(
        self,
        marker: str,
        key: str,
        blobs: set[str],
        documents: list[str],
        earlier: Iterable[str] = (),
        unless: str | None = None,
    ) -> Removed:
        """Deletes the documents, and those of the blobs that no manifest names then, unless there is `unless`.

        The new marker says what the `earlier` ones say as well. Its name is new: who takes one of those for abandoned
        deletes only that.
        """
        started = time.monotonic()
        removal = _Removal(key=key, blobs=sorted(blobs))
        self._bucket.put(marker, removal.model_dump_json(by_alias=True).encode())

        def delete(place: str) -> None:
            if time.monotonic() - started > REMOVAL_SECONDS:
                raise TransientError(f"removing {key} takes too long; the rest goes next time")
            self._bucket.delete(place)

        def delete_blob(digest: str) -> None:
            delete(_blob(digest))
            self._bucket.abort_uploads(_blob(digest))

        for place in earlier:
            delete(place)
        kept = bool(unless and self._bucket.below(unless))
        for document in () if kept else documents:
            delete(document)
        needless = blobs - self._needed() if blobs else set()
        run_all(delete_blob, needless)
        self._bucket.delete(marker)
        return Removed(artifact=not kept, blobs=frozenset(needless))

    def _needed(self) -> set[str]:
        """The blobs that any manifest names, pending or not."""
        documents = [entry.key for entry in self._bucket.below("artifacts/") if entry.key.endswith(".json")]

        def blobs(document: str) -> set[str]:
            found = self._bucket.get(document)
            return set(Manifest.parse(found.data, document).blobs()) if found else set()

        return set().union(*run_all(blobs, documents))

    def _removals(self) -> Iterator[_Removal]:
        """The removals under way. Those that nobody is at any more are ended."""
        for entry in self._bucket.below("removals/"):
            document = self._bucket.get(entry.key)
            if document is None:
                continue
            removal = _parse_removal(document.data, entry.key)
            if entry.age < ABANDONED_SECONDS:
                yield removal
            else:
                self._sweep(_removal(removal.key), removal.key, set(removal.blobs), [], [entry.key])

    def _await_removals(self, blobs: Set[str]) -> None:
        while any(not blobs.isdisjoint(removal.blobs) for removal in self._removals()):
            time.sleep(_POLL_SECONDS)


def _manifest(key: str) -> str:
    return f"artifacts/{_KEY.validate_python(key)}/manifest.json"


def _pendings(key: str) -> str:
    return f"artifacts/{_KEY.validate_python(key)}/pending/"


def _pending(key: str, digest: str) -> str:
    return f"{_pendings(key)}{digest.removeprefix('sha256:')}.json"


def _references(key: str) -> str:
    return f"artifacts/{_KEY.validate_python(key)}/refs/"


def _reference(key: str, owner: str) -> str:
    return f"{_references(key)}{_owner(owner)}"


def _removals_of(key: str, owner: str = "") -> str:
    """What the names of the artifact's removals begin with; of those by this owner, if one is given."""
    begin = f"removals/{_KEY.validate_python(key)}"
    return f"{begin}.{_owner(owner)}" if owner else begin


def _removal(key: str, owner: str = "") -> str:
    """A name that no removal has."""
    return f"{_removals_of(key, owner)}.{uuid.uuid4().hex}.json"


def _progress(key: str) -> str:
    return f"progress/{_KEY.validate_python(key)}.json"


def _performance(key: str) -> str:
    return f"performance/{_KEY.validate_python(key)}.json"


def _blob(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def _owner(owner: str) -> str:
    if _OWNER.fullmatch(owner) is None:
        raise ValueError(f"{owner!r} is no name for an owner: letters, digits, '.', '_' and '-' only")
    return owner


def _parse_removal(data: bytes, what: str) -> _Removal:
    try:
        return _Removal.model_validate_json(data)
    except ValidationError:
        raise CorruptError(f"{what} is no list of blobs; delete it when no removal runs") from None
