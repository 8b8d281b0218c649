"""The cluster where a Docker engine answers: kind's, from kind-config.yaml at the repository's root."""

import functools
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hack.cluster import binaries, cache
from hack.cluster.shell import REPOSITORY, ClusterError, run, run_long, say

CONFIG = REPOSITORY / "kind-config.yaml"
_NAME = "edgemodel"
WORKER = "  - role: worker\n"


@functools.cache
def docker_answers() -> bool:
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


@dataclass(frozen=True)
class Kind:
    folder: Path

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "admin.kubeconfig"

    def up(self, nodes: int) -> None:
        if self._nodes():
            say(f"kind's cluster {_NAME} is there already")
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", suffix=".yaml") as config:
                config.write(CONFIG.read_text() + WORKER * (nodes - 1))
                config.flush()
                command = ("create", "cluster", "--name", _NAME, "--config", config.name, "--wait", "180s")
                log = cache.root() / "kind.log"
                run_long("kind create cluster", self._kind, *command, "--kubeconfig", self.kubeconfig, log=log)
        run(self._kind, "export", "kubeconfig", "--name", _NAME, "--kubeconfig", self.kubeconfig)

    def down(self) -> None:
        run(self._kind, "delete", "cluster", "--name", _NAME, "--kubeconfig", self.kubeconfig)
        shutil.rmtree(self.folder, ignore_errors=True)

    def load(self, references: Sequence[str]) -> None:
        nodes = self._nodes()
        for reference in references:
            wanted = run("docker", "images", "--no-trunc", "--quiet", reference).strip()
            if not wanted:
                raise ClusterError(f"Docker has no image {reference}")
            if all(wanted in run("docker", "exec", node, "crictl", "images", "--no-trunc") for node in nodes):
                say(f"{reference} is there already")
            else:
                say(f"loading {reference}")
                run(self._kind, "load", "docker-image", "--name", _NAME, reference)

    def status(self) -> str:
        nodes = self._nodes()
        return f"kind: {', '.join(nodes) if nodes else 'no cluster'}"

    @property
    def _kind(self) -> Path:
        return binaries.one("kind")

    def _nodes(self) -> list[str]:
        return run(self._kind, "get", "nodes", "--name", _NAME).split()
