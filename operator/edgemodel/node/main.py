"""`edgemodel-node`: makes this machine a node of a Kubernetes cluster, for models that run as native processes."""

import argparse
import asyncio
import base64
import json
import logging
import os
import signal
import ssl
import sys
import urllib.request
from pathlib import Path

import yaml

from edgemodel.engine import logs
from edgemodel.engine.desired import parse_quantity
from edgemodel.engine.errors import EngineError
from edgemodel.node import launchd
from edgemodel.node.agent import Agent, alone, end_all, has_pods
from edgemodel.node.identity import public_key_hash, write_private
from edgemodel.node.settings import BadSettings, Home, Settings, address_towards, addresses_of, host_name

FOLDER = Path("/usr/local/var/edgemodel-node")


def main() -> int:
    """One command. The exit code."""
    arguments = _parser().parse_args()
    home = Home(arguments.folder.absolute())
    try:
        match arguments.command:
            case "join":
                _join(arguments, home)
            case "run":
                _run(home)
            case "leave":
                _leave(home)
            case "install":
                launchd.check()
                settings = _join(arguments, home)
                launchd.install(home, settings, arguments.user, arguments.interface)
            case "uninstall":
                launchd.check()
                _leave(home)
                launchd.uninstall(home)
    except EngineError as error:
        sys.stderr.write(f"edgemodel-node: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _run(home: Home) -> None:
    """The agent, until SIGTERM. What it has started goes on."""
    logs.configure()
    settings = Settings.read(home.folder)
    if home.leaving.exists() and not has_pods(home):
        logging.getLogger(__name__).warning("this machine has left the cluster: `edgemodel-node join` brings it back")
        return

    async def until_stopped() -> None:
        agent = asyncio.ensure_future(Agent(settings, home).run())
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, agent.cancel)
        try:
            await agent
        except asyncio.CancelledError:
            logging.getLogger(__name__).info("stopped; what runs goes on")

    with alone(home):
        asyncio.run(until_stopped())


def _join(arguments: argparse.Namespace, home: Home) -> Settings:
    """Writes down which cluster to join, and how. The agent does it when it runs."""
    address = arguments.address or address_towards(arguments.server)
    reserve = parse_quantity(arguments.reserve)
    if reserve is None:
        raise BadSettings(f"--reserve: {arguments.reserve} is no amount of memory; for example 4Gi")
    settings = Settings(
        server=arguments.server,
        name=arguments.name,
        address=address,
        addresses=addresses_of(arguments.addresses or address),
        python=str(arguments.python),
        port=arguments.port,
        reserve=int(reserve),
        store_endpoint=arguments.store_endpoint,
        request_serving_certificate=arguments.request_serving_certificate,
    )
    authority = arguments.ca_file.read_text() if arguments.ca_file else _discover(arguments.server, arguments.ca_hash)
    home.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    home.leaving.unlink(missing_ok=True)
    write_private(home.authority, authority.encode())
    write_private(home.token, arguments.token.encode())
    settings.write(home.folder)
    return settings


def _discover(server: str, pinned: str) -> str:
    """The certificate of the cluster's authority, from where kubeadm publishes it: believed because of its hash."""
    url = f"{server.rstrip('/')}/api/v1/namespaces/kube-public/configmaps/cluster-info"
    anyone = ssl.create_default_context()
    anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
    try:
        with urllib.request.urlopen(url, context=anyone, timeout=30) as answer:  # noqa: S310 - the scheme is checked
            found = yaml.safe_load(json.load(answer)["data"]["kubeconfig"])
        authority = base64.b64decode(found["clusters"][0]["cluster"]["certificate-authority-data"])
        digest = public_key_hash(authority)
    except (OSError, ValueError, KeyError, IndexError, TypeError, yaml.YAMLError) as error:
        raise BadSettings(
            f"{url} does not say who the cluster's authority is ({error}): give its certificate by --ca-file"
        ) from None
    if digest != pinned:
        raise BadSettings(f"the authority of {server} has the hash {digest}, not {pinned}: this is another cluster")
    return authority.decode()


def _leave(home: Home) -> None:
    """Has the agent end its pods and itself; ends what runs without one."""
    if not home.folder.is_dir():
        raise BadSettings(f"there is nothing in {home.folder}")
    home.leaving.touch()
    try:
        with alone(home):
            end_all(home)
    except BadSettings:
        sys.stdout.write("waiting until the agent has ended its pods\n")
        with alone(home, wait=True):
            end_all(home)
    sys.stdout.write(f"left; now: kubectl delete node {Settings.read(home.folder).name}\n")


def _https(text: str) -> str:
    if not text.startswith("https://"):
        raise argparse.ArgumentTypeError("the API server's URL begins with https://")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="edgemodel-node", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    about = {
        "install": "macOS, as root: join, and run at each start of this Mac",
        "uninstall": "macOS, as root: leave, and remove all that was installed",
        "join": "write down which cluster to join",
        "run": "be a node until stopped; what was started goes on",
        "leave": "end all pods, and be no node any more",
    }
    for name, text in about.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--folder", type=Path, default=FOLDER, help=f"where all is kept ({FOLDER})")
        if name in ("install", "join"):
            _add_join_arguments(command)
        if name == "install":
            user = os.environ.get("SUDO_USER", "")
            command.add_argument("--user", default=user, required=not user, help=f"as whom it runs ({user})")
            command.add_argument("--interface", default="", help="that gets the addresses (that of the default route)")
    return parser


def _add_join_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--server", type=_https, required=True, help="URL of the API server")
    command.add_argument("--token", required=True, help="bootstrap token, of `kubeadm token create`")
    authority = command.add_mutually_exclusive_group(required=True)
    authority.add_argument("--ca-hash", help="sha256:HEX of the cluster authority's public key, as kubeadm prints it")
    authority.add_argument("--ca-file", type=Path, help="or its certificate")
    command.add_argument("--addresses", help="a pod gets one: 192.0.2.10-192.0.2.13 (the node's own, for one pod)")
    command.add_argument("--address", help="the node's own (that which leads to the API server)")
    command.add_argument("--name", default=host_name(), help=f"the node's ({host_name()})")
    command.add_argument("--port", type=int, default=10250, help="of logs and metrics (10250)")
    command.add_argument("--reserve", default="4Gi", help="memory that stays this machine's own (4Gi)")
    command.add_argument("--store-endpoint", default="", help="URL of the object store, if not as pods are told")
    command.add_argument("--python", type=Path, default=sys.executable, help="what `python3` is to models (our own)")
    command.add_argument(
        "--request-serving-certificate",
        action="store_true",
        help="have the cluster sign our port's certificate: needs `kubectl certificate approve`",
    )


if __name__ == "__main__":
    sys.exit(main())
