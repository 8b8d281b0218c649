"""What the agent is told by its installation: one file in its folder."""

import ipaddress
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from edgemodel.engine.errors import EngineError

GIB = 1 << 30


class BadSettings(EngineError):  # noqa: N818 - reads as what it is
    """The settings are missing or wrong; the message says what to do."""


@dataclass(frozen=True)
class Settings:
    """The installation. Keys and certificates lie beside it."""

    server: str
    """URL of the API server."""
    name: str
    """The node's name."""
    address: str
    """The node's own address, as the API server and pods reach it."""
    addresses: tuple[str, ...]
    """One for each pod that may be here at a time. This machine has them all."""
    python: str
    """What `python3` is in a native command."""
    port: int = 10250
    """Of logs and metrics."""
    reserve: int = 4 * GIB
    """Bytes of memory that are the machine's own."""
    store_endpoint: str = ""
    """URL of the object store as this machine reaches it, where the one that pods are told is only the cluster's."""
    request_serving_certificate: bool = False
    """Ask the cluster for the certificate of our port. Else it is signed by ourselves, as a kubelet's usually is."""

    @classmethod
    def read(cls, folder: Path) -> "Settings":
        """What is in the folder."""
        try:
            found = json.loads((folder / "settings.json").read_text())
            return cls(**found | {"addresses": tuple(found["addresses"])})
        except FileNotFoundError:
            raise BadSettings(f"there is no {folder}/settings.json: run `edgemodel-node join` first") from None
        except (ValueError, TypeError, KeyError) as error:
            raise BadSettings(
                f"{folder}/settings.json can't be read ({error}): run `edgemodel-node join` anew"
            ) from None

    def write(self, folder: Path) -> None:
        """Keeps them."""
        (folder / "settings.json").write_text(json.dumps(asdict(self), indent=2) + "\n")


@dataclass(frozen=True)
class Home:
    """Where things are in the agent's folder."""

    folder: Path

    @property
    def authority(self) -> Path:
        """Certificates of the cluster's authority."""
        return self.folder / "authority.crt"

    @property
    def token(self) -> Path:
        """The bootstrap token, until there is a certificate."""
        return self.folder / "bootstrap-token"

    @property
    def client(self) -> Path:
        """Who we are to the API server."""
        return self.folder / "client.pem"

    @property
    def serving(self) -> Path:
        """Who our port is."""
        return self.folder / "serving.pem"

    @property
    def pods(self) -> Path:
        """What runs, and ran."""
        return self.folder / "pods"

    @property
    def leaving(self) -> Path:
        """Is there when the agent is asked to leave the cluster."""
        return self.folder / "leaving"

    @property
    def lock(self) -> Path:
        """Held by the agent."""
        return self.folder / "lock"


def addresses_of(text: str) -> tuple[str, ...]:
    """`192.0.2.10-192.0.2.13,192.0.2.20` as single addresses. Raises BadSettings."""

    def single() -> Iterator[str]:
        for part in text.split(","):
            first, _, last = part.strip().partition("-")
            begin, end = ipaddress.ip_address(first.strip()), ipaddress.ip_address((last or first).strip())
            if begin.version != end.version or not 0 <= int(end) - int(begin) < 256:
                raise ValueError(f"{part} is no range of at most 256 addresses")
            yield from (str(begin + offset) for offset in range(int(end) - int(begin) + 1))

    try:
        return tuple(dict.fromkeys(single()))
    except ValueError as error:
        raise BadSettings(f"--addresses: {error}; for example 192.0.2.10-192.0.2.13") from None


def address_towards(server: str) -> str:
    """This machine's address, on the way to the API server."""
    parts = urlsplit(server)
    with socket.socket(
        socket.AF_INET6 if ":" in (parts.hostname or "") else socket.AF_INET, socket.SOCK_DGRAM
    ) as asking:
        try:
            asking.connect((parts.hostname, parts.port or 443))
        except OSError as error:
            raise BadSettings(f"{server} can't be reached: {error.strerror}; check --server") from None
        return str(asking.getsockname()[0])


def host_name() -> str:
    """This machine's name, as a node may have it."""
    return os.uname().nodename.partition(".")[0].lower()
