"""Names that derive from content, so that nothing is made twice."""

import hashlib
import json
from typing import NamedTuple

from edgemodel.api.artifact import Recipe, ResolvedSource, Source
from edgemodel.api.model import SourceStatus


def short_hash(*parts: object, length: int = 8) -> str:
    """Hex digits that stand for the parts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:length]


def artifact_key(resolved: ResolvedSource, recipe: Recipe) -> str:
    """The artifact's content key: 128 bits of the hash of all that determines its bytes."""
    parts = recipe.dump()
    if recipe.task == "TextGeneration":  # keys of artifacts that are in stores are older than the field
        del parts["task"]
    return short_hash(resolved.digest, parts, length=32)


class SourceRequest(NamedTuple):
    """What identifies a request to resolve: the same request gets the same answer for as long as anyone uses it."""

    uri: str
    revision: str
    sha256: str
    adapter: str


def source_request(source: Source) -> SourceRequest:
    """The request that a source is."""
    adapter = f"{source.adapter.uri} {source.adapter.revision or ''}".rstrip() if source.adapter else ""
    return SourceRequest(source.uri, source.revision or "", source.sha256 or "", adapter)


def answered_request(status: SourceStatus) -> SourceRequest:
    """The request that a resolved source is the answer to."""
    return SourceRequest(
        status.uri, status.requested_revision, status.requested_sha256 or "", status.requested_adapter or ""
    )


def source_status(resolved: ResolvedSource, request: SourceRequest) -> SourceStatus:
    """The answer to a request, as a status keeps it."""
    asked = {
        "uri": request.uri,
        "requestedRevision": request.revision,
        "requestedSha256": request.sha256 or None,
        "requestedAdapter": request.adapter or None,
    }
    return SourceStatus.model_validate(resolved.dump() | asked)
