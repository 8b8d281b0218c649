"""kind itself reads kind-config.yaml: its loader refuses fields it does not know, its validation what makes no cluster.

The program is asked to create the cluster with a stand-in for Docker that introduces itself and knows of no cluster. So
with a configuration that kind accepts it gets as far as asking Docker for something real, and no further.
"""

import subprocess
from pathlib import Path

import pytest

from hack.cluster import binaries, kind

STAND_IN = """#!/bin/sh
[ "$1" = info ] && echo '{"CgroupVersion": "2", "MemoryLimit": true, "PidsLimit": true, "CPUShares": true}' && exit
[ "$1" = ps ] || [ "$1" = inspect ] && exit
echo "asked for: $*" >&2
exit 1
"""
ACCEPTED = "asked for: "


@pytest.fixture
def verdict(tmp_path: Path) -> "Verdict":
    built = binaries.built()
    if built is None:
        pytest.skip("the Go programs are not built: python3 hack/cluster binaries")
    stand_in = tmp_path / "docker"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    return Verdict(built / "kind", tmp_path)


class Verdict:
    """What kind says of a configuration."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.program = program
        self.folder = folder

    def on(self, configuration: str) -> str:
        file = self.folder / "config.yaml"
        file.write_text(configuration)
        environment = {"PATH": f"{self.folder}:/usr/bin:/bin", "HOME": str(self.folder)}
        environment["KIND_EXPERIMENTAL_PROVIDER"] = "docker"
        command = [str(self.program), "create", "cluster", "--config", str(file)]
        return subprocess.run(command, env=environment, capture_output=True, text=True).stderr


def test_the_configuration_is_accepted(verdict: Verdict) -> None:
    assert ACCEPTED in verdict.on(kind.CONFIG.read_text())


def test_workers_can_be_added_at_its_end(verdict: Verdict) -> None:
    assert ACCEPTED in verdict.on(kind.CONFIG.read_text() + kind.WORKER * 2)


@pytest.mark.parametrize(
    ("good", "bad", "complaint"),
    [
        ("role: worker", "role: worker\n    colour: red", "field colour not found"),
        ("role: worker", "role: boss", '"boss" is not a valid node role'),
        ("podSubnet: 10.213.0.0/16", "podSubnet: 10.213.0.0/99", "invalid pod subnet"),
    ],
)
def test_a_mistake_in_it_is_refused(verdict: Verdict, good: str, bad: str, complaint: str) -> None:
    answer = verdict.on(kind.CONFIG.read_text().replace(good, bad))
    assert complaint in answer
    assert ACCEPTED not in answer
