"""The quantization Job: fetch, let the toolchain convert, calibrate, quantize and evaluate, publish.

An artifact is in the store whole or not at all, wherever this process ends; run again, it finds what is there.
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from edgemodel.api.artifact import QualityReport, Recipe, ResolvedSource, Source
from edgemodel.api.base import ApiModel, ArtifactKey, Bytes, Sha256
from edgemodel.pipeline.adapter import AdapterFiles
from edgemodel.pipeline.errors import InternalError, SourceChangedError
from edgemodel.pipeline.progress import Reporter
from edgemodel.pipeline.resolve import Resolution, resolve
from edgemodel.pipeline.sources import SourceReader, open_adapter, open_source
from edgemodel.pipeline.termination import log
from edgemodel.pipeline.toolchain import Product, toolchain
from edgemodel.store.artifacts import ArtifactStore, Published
from edgemodel.store.config import StoreConfig
from edgemodel.store.errors import StoreError
from edgemodel.store.manifest import Manifest, describe


class JobRequest(ApiModel):
    """What the operator asks for."""

    key: ArtifactKey
    """The artifact's key."""
    source: Source
    """Where to read the source."""
    resolved: ResolvedSource
    """The source as it was pinned."""
    recipe: Recipe
    """How to make the artifact."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> "JobRequest":
        """The request in EDGEMODEL_JOB."""
        try:
            return cls.model_validate_json(environ.get("EDGEMODEL_JOB", ""))
        except ValidationError:
            raise InternalError("EDGEMODEL_JOB is no request: operator and image are of different versions") from None


class JobResult(ApiModel):
    """What a Job that succeeded leaves behind."""

    manifest_digest: Sha256
    """Digest of the manifest in the store."""
    bytes: Bytes
    """Size of the artifact."""
    baseline_bytes: Bytes | None
    """Size of the unquantized model in the same format."""
    quality: QualityReport | None
    """What the artifact is worth."""


def run(environ: Mapping[str, str] = os.environ) -> JobResult:
    """Makes the artifact that the environment asks for, unless it is there."""
    request = JobRequest.from_env(environ)
    config = StoreConfig.from_env(environ)
    store = ArtifactStore(config)
    present = store.read_manifest(request.key)
    if present and store.is_whole(present.manifest):
        log("the artifact is there already", key=request.key, digest=present.digest)
        return _result(present)
    tools = toolchain(request.recipe.toolchain)
    tools.check(request.recipe)
    work = Path(environ.get("EDGEMODEL_WORK") or "/work")
    # The source's folder is named by its content, so that what an earlier process fetched can stay. Its last segment
    # is always the same: llama.cpp's converter takes it for the model's name, which is part of the artifact's bytes.
    source = work / "sources" / request.resolved.digest.removeprefix("sha256:") / "model"
    making = _empty_folder(work / "make")
    reporter = Reporter(lambda progress: store.write_progress(request.key, progress))
    try:
        source = fetch(request, environ, source, reporter)
        product = tools.make(source, request.resolved, request.recipe, making, reporter.step)
        # With patience from now on: there is work to lose.
        published = _publish(ArtifactStore(config, _waits), request, product, reporter)
    finally:
        reporter.close()
    return _result(published)


def fetch(request: JobRequest, environ: Mapping[str, str], folder: Path, reporter: Reporter) -> Path:
    """Brings the source to the folder. Returns that of the model with its adapter in its weights, if it has one.
    `SourceChangedError` if the source is no longer what was pinned."""
    step = reporter.step("Fetch", request.resolved.bytes)
    pinned = _pinned(request)
    reader: SourceReader = open_source(pinned, environ)
    found: Resolution = resolve(reader)
    adapter = open_adapter(pinned, environ)
    adapter_files = AdapterFiles.of(adapter) if adapter else None
    if adapter_files:
        found = adapter_files.pinned(found)
    if found.resolved.digest != request.resolved.digest:
        raise SourceChangedError(
            f"{request.source.uri} now has the digest {found.resolved.digest}, not {request.resolved.digest}: "
            "set another spec.source.revision or uri for the new files, or restore the old ones"
        )
    for file in found.files:
        reader.fetch(file, folder / file.path, step.add)
    if not adapter_files:
        return folder
    from edgemodel.pipeline.fuse import fuse  # with NumPy, which not every image must have

    adapter_folder, fused = folder.with_name("adapter"), folder.with_name("fused") / folder.name
    adapter_files.fetch(adapter_folder, step.add)
    _empty_folder(fused.parent)
    fuse(folder, adapter_folder, fused)
    return fused


def _pinned(request: JobRequest) -> Source:
    """The source at the revision that was found when it was resolved: a branch may have moved on since."""
    source, resolved = request.source, request.resolved
    adapter = source.adapter
    if adapter:
        adapter = adapter.model_copy(update={"revision": resolved.adapter_revision or adapter.revision})
    return source.model_copy(update={"revision": resolved.revision or source.revision, "adapter": adapter})


def _publish(store: ArtifactStore, request: JobRequest, product: Product, reporter: Reporter) -> Published:
    step = reporter.step("Publish")
    # Not in the manifest, for no two measurements are the same, and the manifests of the same artifact are to be.
    if product.performance:
        store.write_performance(request.key, product.performance)
    manifest = Manifest(
        key=request.key,
        format=product.format,
        files=describe(product.folder),
        entrypoint=product.entrypoint,
        recipe=request.recipe,
        source=request.resolved,
        source_uri=request.source.uri,
        tools=product.tools,
        quality=product.quality,
        baseline_bytes=product.baseline_bytes,
    )
    digest = store.publish(manifest, product.folder, step.bytes)
    if digest == manifest.digest():
        return Published(manifest, digest, "")
    published = store.read_manifest(request.key)
    if published is None:
        raise InternalError(f"the artifact {request.key} was removed while it was published: it will be made again")
    return published


def _waits(error: StoreError) -> None:
    log("the store is away: waiting for it", error=str(error))


def _result(published: Published) -> JobResult:
    manifest = published.manifest
    return JobResult(
        manifest_digest=published.digest,
        bytes=manifest.size,
        baseline_bytes=manifest.baseline_bytes,
        quality=manifest.quality,
    )


def _empty_folder(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path
