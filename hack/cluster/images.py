"""The project's images, built from their Dockerfiles by Docker or, where no engine answers, by buildah.

A reference ends in the hash of what the image is made of: the stages of the Dockerfile and the files that these copy.
So an image that exists under its reference need not be built, and a pod that names it runs what this checkout says.

Without Docker, finished images are kept in the cache (see oci.py). A stage that is slow to make is an image of its
own in the table below: others start from it, so that what they add to it is all there is to build, whatever became of
buildah's own layer cache.
"""

import functools
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import environ
from pathlib import Path

from hack.cluster import cache, dockerfile, kind, oci, packages
from hack.cluster.shell import REPOSITORY, ClusterError, filesystem, run, run_long, say

_DEBIAN = "debian:bookworm-slim"
_PULL_SECONDS = 60.0
_CERTIFICATES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
_BUILD_FOLDER = "/run/edgemodel-build"
_NOT_NEEDED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "var/lib/apt/lists", "var/cache/apt", "var/log")

_KEEP_NO_PACKAGES = """// As in the image of this name in registries: what apt downloads stays in no layer.
DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb || true"; };
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
"""


@dataclass(frozen=True)
class Image:
    """A stage of a Dockerfile that is an image. Its name is that of its folder, and of its stage unless it serves or is
    called like the folder; one that serves on special hardware is called by that."""

    folder: str
    stage: str = "serve"
    home: Path = REPOSITORY / "runtime-images"
    context: Path = REPOSITORY

    @property
    def name(self) -> str:
        kind = self.stage.removeprefix(self.folder).removeprefix("serve").removeprefix("-")
        return f"{self.folder}-{kind}" if kind else self.folder

    @property
    def file(self) -> Path:
        return self.home / self.folder / "Dockerfile"

    def parsed(self) -> dockerfile.Dockerfile:
        if not self.file.exists():
            raise ClusterError(f"there is no {self.file} to build {self.name} from")
        parsed = dockerfile.parse(self.file.read_text())
        if self.stage not in [stage.name for stage in parsed.stages]:
            raise ClusterError(f"{self.file} has no stage {self.stage}")
        return parsed

    def key(self) -> str:
        parsed = self.parsed()
        files = dockerfile.files(self.context, parsed.needed(self.stage))
        bases = [image.key() for image in self.parts() if image.folder != self.folder]
        return cache.key_of(self.context, files, parsed.text(self.stage), *bases)

    def reference(self) -> str:
        return f"{self.repository}:{self.key()}"

    @property
    def repository(self) -> str:
        return f"ghcr.io/edgemodel/{self.name}"

    def parts(self) -> list["Image"]:
        """The other images that it is made of: of stages of its own Dockerfile, and those that this names."""
        stages = self.parsed().needed(self.stage)
        own = {stage.name for stage in stages} - {self.stage}
        named = {base for stage in stages for base in stage.needs()}
        return [
            image
            for image in KNOWN.values()
            if image.repository in named or (image.folder == self.folder and image.stage in own)
        ]


KNOWN = {
    image.name: image
    for image in (
        Image("operator"),
        Image("operator", "packages"),
        Image("operator", "python"),
        Image("torch", "torch"),
        Image("llamacpp"),
        Image("llamacpp", "serve-cuda"),
        Image("llamacpp", "serve-vulkan"),
        Image("llamacpp", "serve-opencl"),
        Image("llamacpp", "engine"),
        Image("llamacpp", "toolchain"),
        Image("llamacpp", "pipeline"),
        Image("mlx"),
        Image("mlx", "toolchain"),
        Image("mlx", "pipeline"),
        Image("onnx"),
        Image("onnx", "engine"),
        Image("onnx", "toolchain"),
        Image("onnx", "pipeline"),
        Image("openvino"),
        Image("openvino", "engine"),
        Image("openvino", "toolchain"),
        Image("openvino", "pipeline"),
        Image("qnn"),
        Image("qnn", "engine"),
        Image("qnn", "toolchain"),
        Image("qnn", "pipeline"),
    )
}
DEPLOYED = (
    "operator",
    *("llamacpp", "llamacpp-pipeline"),
    *("mlx", "mlx-pipeline"),
    *("onnx", "onnx-pipeline"),
    *("openvino", "openvino-pipeline"),
    *("qnn", "qnn-pipeline"),
)


def build(*names: str) -> dict[str, str]:
    """Builds what is not there yet. Returns each name's reference."""
    unknown = sorted(set(names) - KNOWN.keys())
    if unknown:
        raise ClusterError(f"no image is called {', '.join(unknown)}; known: {', '.join(KNOWN)}")
    return {name: build_image(KNOWN[name]) for name in names}


def llamacpp() -> Path:
    """The folder of llama.cpp's programs, libraries and converter, as the image has them in /opt/llama.cpp."""
    engine = KNOWN["llamacpp-engine"]

    def extract(into: Path) -> None:
        reference = build_image(engine)
        with layers(reference) as tars, tempfile.TemporaryDirectory(dir=into) as scratch:
            for layer in tars:
                with tarfile.open(layer) as tar:
                    tar.extractall(scratch, filter="tar")
            for part in Path(scratch, "opt", "llama.cpp").iterdir():
                part.rename(into / part.name)

    return cache.entry("llamacpp", engine.key(), extract)


def build_image(image: Image) -> str:
    """Builds it if it is not there yet. Returns its reference."""
    return _build_with_docker(image) if kind.docker_answers() else _build_with_buildah(image)


def _build_with_docker(image: Image) -> str:
    reference = image.reference()
    if run("docker", "images", "--quiet", reference).strip():
        return reference
    # Only images of other Dockerfiles: the layers of its own Docker finds by itself.
    made = {part.repository: _build_with_docker(part) for part in image.parts() if part.folder != image.folder}
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "Dockerfile"
        file.write_text(image.parsed().starting_from(made).text(image.stage))
        command = ("docker", "build", "--file", file, "--target", image.stage, "--tag", reference, image.context)
        run_long(f"building {reference}", *command, log=cache.root() / f"{image.name}.log")
    return reference


def _build_with_buildah(image: Image) -> str:
    reference = image.reference()
    if reference in oci.layout().images():
        return reference
    made = {
        part.stage if part.folder == image.folder else part.repository: _build_with_buildah(part)
        for part in image.parts()
    }
    packages.need(packages.IMAGES)
    with cache.lock("building"), _host_settings() as volumes, tempfile.TemporaryDirectory() as scratch:
        parsed = image.parsed().starting_from(made)
        needed = parsed.needed(image.stage)
        bases = {base for stage in needed for base in stage.needs()}
        for base in bases - {stage.name for stage in needed} - {"scratch"}:
            _provide(base)
        file = Path(scratch) / "Dockerfile"
        file.write_text(parsed.text(image.stage))
        run_long(
            f"building {reference}",
            *_buildah("bud", "--isolation", "chroot", "--network", "host", "--layers", "--pull=false"),
            *(word for volume in volumes for word in ("--volume", volume)),
            *("--file", file, "--ignorefile", image.context / ".dockerignore"),
            *("--target", image.stage, "--tag", reference, image.context),
            log=cache.root() / f"{image.name}.log",
        )
        _keep(reference)
        _forget([old for old in oci.layout().images() if old.startswith(f"{image.repository}:") and old != reference])
        run(*_buildah("rmi", "--prune"))  # the stages that it was copied from: gigabytes, and nobody starts from them
    return reference


def user(reference: str) -> str:
    """The user that the image's program runs as, in the image's own words: empty where it says nothing."""
    if kind.docker_answers():
        return run("docker", "image", "inspect", "--format", "{{.Config.User}}", reference).strip()
    return str(oci.layout().config(reference)["config"].get("User", ""))


@contextmanager
def layers(reference: str) -> Iterator[list[Path]]:
    """The image's layers as tar files, the lowest first; with Docker, all that is in it as one."""
    if not kind.docker_answers():
        yield oci.layout().layers(reference)
        return
    with tempfile.TemporaryDirectory() as scratch:
        container = run("docker", "create", reference, "none").strip()
        try:
            run("docker", "export", "--output", Path(scratch) / "all.tar", container)
        finally:
            run("docker", "rm", container)
        yield [Path(scratch) / "all.tar"]


def _buildah(*words: str | Path) -> list[str | Path]:
    storage = cache.root() / "buildah"
    # An overlay cannot be laid on an overlay, as the root of a container often is.
    driver = "vfs" if filesystem(cache.root()) == "overlay" else "overlay"
    return ["buildah", "--root", storage / "root", "--runroot", storage / "run", "--storage-driver", driver, *words]


def _provide(reference: str) -> None:
    """Brings an image to where buildah finds it: out of the cache, out of a registry, or made here."""
    with cache.lock("bases"):
        if not run(*_buildah("images", "--quiet", "--filter", f"reference={reference}")).strip():
            _bring(reference)


def _bring(reference: str) -> None:
    if reference not in oci.layout().images():
        try:
            say(f"pulling {reference}")
            run(*_buildah("pull", "--quiet", reference), timeout=_PULL_SECONDS)
        except ClusterError as failure:
            if reference != _DEBIAN:
                raise
            say(f"no registry has it for us ({str(failure).splitlines()[-1][:120]})")
            _debootstrap()
        _keep(reference)
        return
    # buildah calls what it pulls after the layout's folder, as this is written here; not every path can be a name.
    folder = oci.layout().folder
    pulled = run(*_buildah("pull", "--quiet", f"oci:{folder.name}:{reference}"), cwd=folder.parent).strip()
    run(*_buildah("tag", pulled, reference))


def _debootstrap() -> None:
    """Makes Debian's base image out of Debian's packages."""
    with tempfile.TemporaryDirectory(dir=cache.root()) as scratch:
        tree = Path(scratch) / "root"
        command = ("debootstrap", "--variant=minbase", "bookworm", tree)
        run_long(f"making {_DEBIAN} of Debian's packages", *command, log=cache.root() / "debootstrap.log")
        for path in _NOT_NEEDED:
            shutil.rmtree(tree / path)
            (tree / path).mkdir()
        (tree / "etc/apt/apt.conf.d/docker-clean").write_text(_KEEP_NO_PACKAGES)
        container = run(*_buildah("from", "scratch")).strip()
        run(*_buildah("add", "--quiet", container, tree, "/"))
        run(*_buildah("config", "--cmd", "bash", container))
        run(*_buildah("commit", "--quiet", "--rm", container, f"docker.io/library/{_DEBIAN}"))


def _keep(reference: str) -> None:
    """Puts an image of buildah's into the cache. Layers that are there already are not written again."""
    say(f"keeping {reference} in the cache")
    compression = ("--format", "oci", "--compression-format", "zstd", "--compression-level", "1")
    with oci.layout().changing():
        run(*_buildah("push", "--quiet", *compression, reference, f"oci:{oci.layout().folder}:{reference}"))
        oci.layout().uncompress(reference)


def _forget(references: list[str]) -> None:
    with oci.layout().changing():
        oci.layout().remove(references)
    for reference in references:
        subprocess.run(_buildah("rmi", reference), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@contextmanager
def _host_settings() -> Iterator[list[str]]:
    """How this host reaches package indexes, for the build: its certificates, pip's index, apt's proxies."""
    bundle = next((environ[name] for name in _CERTIFICATES if environ.get(name)), "")
    with tempfile.TemporaryDirectory() as scratch:
        volumes = []
        lines = [f"index-url = {index}" for index in [_pip_index()] if index]
        if bundle:
            copy = Path(scratch) / "ca.crt"
            shutil.copyfile(bundle, copy)
            volumes.append(f"{copy}:{_BUILD_FOLDER}/ca.crt:ro")
            lines.append(f"cert = {_BUILD_FOLDER}/ca.crt")
        if lines:
            settings = Path(scratch) / "pip.conf"
            settings.write_text("\n".join(["[global]", *lines]) + "\n")
            volumes.append(f"{settings}:/etc/pip.conf:ro")
        if proxies := _apt_proxies():
            settings = Path(scratch) / "apt.conf"
            settings.write_text(proxies)
            volumes.append(f"{settings}:/etc/apt/apt.conf.d/99edgemodel-build:ro")
        yield volumes


def _pip_index() -> str:
    configured = run(sys.executable, "-m", "pip", "config", "list").splitlines()
    values = (line.partition("=")[2].strip("'") for line in configured if line.partition("=")[0].endswith(".index-url"))
    return next(values, "")


def _apt_proxies() -> str:
    lines = run("apt-config", "dump").splitlines() if shutil.which("apt-config") else []
    return "".join(f"{line}\n" for line in lines if line.startswith("Acquire::http") and "::Proxy" in line)


@functools.cache
def default_names() -> tuple[str, ...]:
    """The images that a cluster runs, as far as this checkout has them."""
    return tuple(name for name in DEPLOYED if KNOWN[name].file.exists())
