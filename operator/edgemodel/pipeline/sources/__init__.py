"""Models where they are: `open_source` gives a reader of the hub, S3, HTTPS or a mounted volume."""

import os
from collections.abc import Mapping

from edgemodel.api.artifact import Source
from edgemodel.core.objects import ADAPTER_PREFIX
from edgemodel.pipeline.sources.base import SourceFile, SourceReader
from edgemodel.pipeline.sources.credentials import Credentials

__all__ = ["SourceFile", "SourceReader", "open_adapter", "open_source"]


def open_source(source: Source, environ: Mapping[str, str] = os.environ) -> SourceReader:
    """A reader of the source, with the credentials that are mounted."""
    scheme, _, rest = source.uri.partition("://")
    credentials = Credentials.from_env(environ)
    match scheme:
        case "hf":
            from edgemodel.pipeline.sources.hf import HubReader

            return HubReader(rest, source.revision, credentials, environ.get("HF_ENDPOINT", ""))
        case "s3":
            from edgemodel.pipeline.sources.s3 import S3Reader

            return S3Reader(rest, source.revision, source.sha256, credentials)
        case "https":
            from edgemodel.pipeline.sources.https import HttpsReader

            return HttpsReader(source.uri, source.sha256, credentials)
    from edgemodel.pipeline.sources.pvc import VolumeReader

    return VolumeReader(rest, source.sha256, environ.get("PVC_ROOT", "/source"))


def open_adapter(source: Source, environ: Mapping[str, str] = os.environ) -> SourceReader | None:
    """A reader of the source's adapter, if it has one."""
    if source.adapter is None:
        return None
    own = {
        name.removeprefix(ADAPTER_PREFIX): value for name, value in environ.items() if name.startswith(ADAPTER_PREFIX)
    }
    place = source.adapter
    return open_source(Source(uri=place.uri, revision=place.revision, secret_ref=place.secret_ref), own)
