"""Names that derive from content, so that nothing is made twice."""

import hashlib
import json

from edgemodel.api.artifact import Recipe, ResolvedSource, Source


def short_hash(*parts: object, length: int = 8) -> str:
    """Hex digits that stand for the parts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:length]


def artifact_key(resolved: ResolvedSource, recipe: Recipe) -> str:
    """The artifact's content key: 128 bits of the hash of all that determines its bytes."""
    return short_hash(resolved.digest, recipe.dump(), length=32)


def source_request(source: Source) -> tuple[str, str]:
    """What identifies a request to resolve: the same request gets the same answer for as long as anyone uses it."""
    return source.uri, source.revision or ""
