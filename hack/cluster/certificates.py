"""A certificate authority in a folder, and what it signed.

By the openssl program: the standard library signs nothing."""

import base64
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hack.cluster.shell import run, write

_DAYS = "3650"
_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True)
class Identity:
    """A certificate and its key."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Authority:
    """Makes each certificate once: what is in the folder already is returned as it is."""

    folder: Path

    @property
    def root(self) -> Identity:
        identity = self._files("ca")
        if not identity.certificate.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            self.folder.chmod(0o700)
            subject = ("-subj", "/CN=edgemodel-cluster", "-keyout", identity.key, "-out", identity.certificate)
            run("openssl", "req", "-x509", *_NEW_KEY, "-days", _DAYS, *subject)
        return identity

    def issue(self, name: str, user: str, group: str = "", addresses: Sequence[str] = ()) -> Identity:
        """A certificate for a client, and for a server too if it has addresses (`IP:...`, `DNS:...`)."""
        identity = self._files(name)
        if identity.certificate.exists():
            return identity
        root = self.root
        usage = "clientAuth,serverAuth" if addresses else "clientAuth"
        extensions = f"extendedKeyUsage={usage}\n" + (f"subjectAltName={','.join(addresses)}\n" if addresses else "")
        subject = (f"/O={group}" if group else "") + f"/CN={user}"
        with tempfile.TemporaryDirectory() as scratch:
            request, extension_file = Path(scratch) / "request", Path(scratch) / "extensions"
            extension_file.write_text(extensions)
            run("openssl", "req", "-new", *_NEW_KEY, "-subj", subject, "-keyout", identity.key, "-out", request)
            signer = ("-CA", root.certificate, "-CAkey", root.key, "-CAcreateserial", "-days", _DAYS)
            files = ("-in", request, "-extfile", extension_file, "-out", identity.certificate)
            run("openssl", "x509", "-req", *signer, *files)
        return identity

    def token_keys(self) -> tuple[Path, Path]:
        """The pair that signs service accounts' tokens: private, public."""
        private, public = self.folder / "tokens.key", self.folder / "tokens.pub"
        if not public.exists():
            run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", private)
            run("openssl", "ec", "-in", private, "-pubout", "-out", public)
        return private, public

    def kubeconfig(self, path: Path, server: str, identity: Identity) -> Path:
        """Writes the file to speak to the server as that identity. It holds all that it takes, so it can be moved."""
        cluster = {"server": server, "certificate-authority-data": _encoded(self.root.certificate)}
        user = {
            "client-certificate-data": _encoded(identity.certificate),
            "client-key-data": _encoded(identity.key),
        }
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "edgemodel", "cluster": cluster}],
            "users": [{"name": "edgemodel", "user": user}],
            "contexts": [{"name": "edgemodel", "context": {"cluster": "edgemodel", "user": "edgemodel"}}],
            "current-context": "edgemodel",
        }
        path.touch(mode=0o600)
        return write(path, json.dumps(document, indent=2) + "\n")

    def _files(self, name: str) -> Identity:
        return Identity(self.folder / f"{name}.crt", self.folder / f"{name}.key")


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
