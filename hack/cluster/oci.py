"""Images as files: one OCI layout in the cache that holds them all.

Layers are kept uncompressed. Then a layer has the same digest wherever it goes, so that images share what they have
in common, a builder finds what it wrote before, and a node is sent only what it lacks: after a change in a few Python
files that is a few kilobytes of an image of gigabytes.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from hack.cluster import cache
from hack.cluster.shell import run

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_NAME = "org.opencontainers.image.ref.name"
_CONTAINERD_NAME = "io.containerd.image.name"

Json = dict[str, Any]


@dataclass(frozen=True)
class Layout:
    folder: Path

    def images(self) -> dict[str, str]:
        """What is here: reference -> digest of its manifest."""
        return {image["annotations"][_NAME]: image["digest"] for image in self._index()["manifests"]}

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Lets one process at a time add images or remove them."""
        with cache.lock("layout", self.folder):
            yield

    def layers(self, reference: str) -> list[Path]:
        return [self._blob(layer["digest"]) for layer in self._manifest(reference)["layers"]]

    def config(self, reference: str) -> Json:
        """What the image says of itself: its user, its environment, its command."""
        config: Json = json.loads(self._blob(self._manifest(reference)["config"]["digest"]).read_text())
        return config

    def uncompress(self, reference: str) -> None:
        """Stores the image's layers as plain tar files, if a builder wrote them compressed."""
        manifest = self._manifest(reference)
        for layer in manifest["layers"]:
            if layer["mediaType"] == _LAYER:
                continue
            compressed = self._blob(layer["digest"])
            plain = compressed.with_suffix(".tar")
            run("zstd", "-q", "-d", "-f", compressed, "-o", plain)
            with plain.open("rb") as content:
                digest = f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}"
            layer.update(mediaType=_LAYER, digest=digest, size=plain.stat().st_size)
            plain.rename(self._blob(digest))
            compressed.unlink()
        self._name(reference, self._add(json.dumps(manifest).encode(), _MANIFEST))

    def add_program(self, reference: str, program: Path) -> None:
        """Makes an image of one static program and nothing else."""
        layer = io.BytesIO()
        with tarfile.open(fileobj=layer, mode="w") as tar:
            entry = tarfile.TarInfo(program.name)
            entry.size, entry.mode = program.stat().st_size, 0o755
            with program.open("rb") as content:
                tar.addfile(entry, content)
        with self.changing():
            stored = self._add(layer.getvalue(), _LAYER)
            config = {
                "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[cache.machine()],
                "os": "linux",
                "config": {"Entrypoint": [f"/{program.name}"], "User": "65535:65535"},
                "rootfs": {"type": "layers", "diff_ids": [stored["digest"]]},
            }
            manifest = {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "config": self._add(json.dumps(config).encode(), _CONFIG),
                "layers": [stored],
            }
            self._name(reference, self._add(json.dumps(manifest).encode(), _MANIFEST))

    def send(self, reference: str, into: IO[bytes], lacking: Callable[[str], bool]) -> None:
        """Writes the image as an OCI archive, without the blobs that the other side has."""
        digest = self.images()[reference]
        manifest = self._manifest(reference)
        blobs = [digest, *(blob["digest"] for blob in [manifest["config"], *manifest["layers"]])]
        descriptor = {
            "mediaType": _MANIFEST,
            "digest": digest,
            "size": self._blob(digest).stat().st_size,
            "annotations": {_CONTAINERD_NAME: reference},
        }
        index = {"schemaVersion": 2, "manifests": [descriptor]}
        with tarfile.open(fileobj=into, mode="w|") as tar:
            for name, content in (("oci-layout", {"imageLayoutVersion": "1.0.0"}), ("index.json", index)):
                encoded = json.dumps(content).encode()
                entry = tarfile.TarInfo(name)
                entry.size = len(encoded)
                tar.addfile(entry, io.BytesIO(encoded))
            for blob in dict.fromkeys(blobs):
                if blob == digest or lacking(blob):
                    tar.add(self._blob(blob), f"blobs/sha256/{blob.removeprefix('sha256:')}")

    def remove(self, references: Collection[str]) -> None:
        """Forgets images, and the blobs that no other image has."""
        index = self._index()
        index["manifests"] = [each for each in index["manifests"] if each["annotations"][_NAME] not in references]
        self._write_index(index)
        kept = set()
        for reference, digest in self.images().items():
            manifest = self._manifest(reference)
            kept |= {digest, *(blob["digest"] for blob in [manifest["config"], *manifest["layers"]])}
        for blob in (self.folder / "blobs" / "sha256").iterdir():
            if f"sha256:{blob.name}" not in kept:
                blob.unlink()

    def _manifest(self, reference: str) -> Json:
        manifest: Json = json.loads(self._blob(self.images()[reference]).read_text())
        return manifest

    def _blob(self, digest: str) -> Path:
        return self.folder / "blobs" / "sha256" / digest.removeprefix("sha256:")

    def _add(self, content: bytes, media_type: str) -> Json:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        blob = self._blob(digest)
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        return {"mediaType": media_type, "digest": digest, "size": len(content)}

    def _name(self, reference: str, descriptor: Json) -> None:
        index = self._index()
        others = [each for each in index["manifests"] if each["annotations"][_NAME] != reference]
        self._write_index({**index, "manifests": [*others, {**descriptor, "annotations": {_NAME: reference}}]})

    def _index(self) -> Json:
        try:
            index: Json = json.loads((self.folder / "index.json").read_text())
        except FileNotFoundError:
            return {"schemaVersion": 2, "manifests": []}
        return index

    def _write_index(self, index: Json) -> None:
        (self.folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        unfinished = self.folder / "index.json.unfinished"
        unfinished.write_text(json.dumps(index))
        unfinished.replace(self.folder / "index.json")


def layout() -> Layout:
    """The layout in the cache."""
    folder = cache.root() / "images"
    folder.mkdir(exist_ok=True)
    return Layout(folder)
