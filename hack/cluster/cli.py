"""The commands."""

import argparse
import os
import shlex
import signal
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Protocol

from hack.cluster import binaries, controlplane, images
from hack.cluster.kind import Kind, docker_answers
from hack.cluster.native import Native
from hack.cluster.shell import ClusterError, say


class Cluster(Protocol):
    """What both kinds of cluster do."""

    @property
    def kubeconfig(self) -> Path: ...

    def up(self, nodes: int) -> None: ...

    def down(self) -> None: ...

    def load(self, references: Sequence[str]) -> None: ...

    def status(self) -> str: ...


def cluster() -> Cluster:
    """The cluster of this machine, up or not."""
    folder = Path(os.environ.get("EDGEMODEL_CLUSTER_DIR") or "/var/lib/edgemodel-cluster").resolve()
    return Kind(folder) if docker_answers() else Native(folder)


def main() -> int:
    arguments = _parser().parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        _carry_out(arguments)
    except ClusterError as failure:
        say(f"failed: {failure}")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _carry_out(arguments: argparse.Namespace) -> None:
    match arguments.command:
        case "binaries":
            print(binaries.folder())
        case "up":
            cluster().up(arguments.nodes)
            print(cluster().kubeconfig)
        case "down":
            cluster().down()
        case "status":
            print(cluster().status())
        case "kubeconfig":
            print(cluster().kubeconfig)
        case "env":
            print(f"export KUBECONFIG={shlex.quote(str(cluster().kubeconfig))}")
            print(f'export PATH={shlex.quote(str(binaries.folder()))}:"$PATH"')
        case "images":
            for name, reference in images.build(*(arguments.names or images.default_names())).items():
                print(f"{name}={reference}")
        case "load":
            cluster().load(arguments.references)
        case "llamacpp":
            print(images.llamacpp())
        case "apiserver":
            with controlplane.apiserver(arguments.dir) as kubeconfig:
                print(kubeconfig, flush=True)
                signal.pause()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 hack/cluster", description="A cluster for development and tests.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    commands.add_parser("binaries", help="build Kubernetes and the tools, and print their folder")
    up = commands.add_parser("up", help="bring a cluster up, or repair it, and print its kubeconfig's path")
    up.add_argument("--nodes", type=int, default=1, metavar="N", help="how many nodes pods can run on (1)")
    commands.add_parser("down", help="take it down, and leave nothing")
    commands.add_parser("status", help="tell what runs")
    commands.add_parser("kubeconfig", help="print the path of the admin's kubeconfig")
    commands.add_parser("env", help="print what a shell should eval to use the cluster and the tools")
    build = commands.add_parser("images", help="build the project's images, and print NAME=REFERENCE for each")
    build.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(images.KNOWN)} (those that are deployed)"
    )
    load = commands.add_parser("load", help="bring images to the nodes")
    load.add_argument("references", nargs="+", metavar="REFERENCE")
    commands.add_parser("llamacpp", help="print the folder of llama.cpp's programs, built as in the image")
    apiserver = commands.add_parser("apiserver", help="run etcd and an API server, without nodes, until interrupted")
    apiserver.add_argument("--dir", type=Path, required=True, help="the folder to run in")
    return parser


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
