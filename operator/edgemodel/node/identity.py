"""Who the node is: keys that are made here and never leave, and certificates that the cluster signs for them.

As a kubelet does: the first certificate is asked for with a bootstrap token, each later one with the one before. The
API server then knows us as `system:node:NAME`, and its Node authorizer lets us see what our own pods need, no more.
"""

import asyncio
import base64
import hashlib
import ipaddress
import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edgemodel.engine.client import Client
from edgemodel.engine.errors import ApiError, Conflict, EngineError
from edgemodel.engine.objects import Object, Ref, Resource

REQUESTS = Resource(
    "certificates.k8s.io", "v1", "certificatesigningrequests", "CertificateSigningRequest", namespaced=False
)
CLIENT_SIGNER = "kubernetes.io/kube-apiserver-client-kubelet"
SERVING_SIGNER = "kubernetes.io/kubelet-serving"

_log = logging.getLogger(__name__)
_POLL, _SAY_AGAIN = 1.0, 60.0
_RENEW_AFTER = 0.8
_SELF_SIGNED_DAYS = 365


class CertificateDenied(EngineError):  # noqa: N818 - reads as what it is
    """The cluster won't sign."""


class Identity:
    """A key with its certificate, in one file that is replaced as one."""

    def __init__(self, path: Path, node: str) -> None:
        self.path = path
        self._node = node

    def renew_at(self) -> datetime | None:
        """When it should be renewed; None if there is none or it has run out."""
        try:
            certificate = x509.load_pem_x509_certificate(self.path.read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        return begin + (end - begin) * _RENEW_AFTER if end > datetime.now(UTC) else None

    def is_due(self) -> bool:
        """Whether there is no certificate, or it is time for the next."""
        due = self.renew_at()
        return due is None or due <= datetime.now(UTC)

    def is_self_signed(self) -> bool:
        """Whether nobody but we vouch for it."""
        certificate = x509.load_pem_x509_certificate(self.path.read_bytes())
        return certificate.issuer == certificate.subject

    async def obtain(self, client: Client, signer: str, addresses: Sequence[str] = ()) -> None:
        """Asks the cluster for a certificate and waits until it is signed. A request of before is taken up again."""
        key = self._next_key()
        request = _request(self._node, signer, key, addresses)
        try:
            await client.create(request)
        except Conflict:
            _log.info("taking up %s", request["metadata"]["name"])
        certificate = await _signed(client, request["metadata"]["name"])
        self._write(key, certificate)
        self._next_path.unlink()

    def sign_self(self, addresses: Sequence[str]) -> None:
        """Makes a certificate that nobody vouches for."""
        key = ec.generate_private_key(ec.SECP256R1())
        name, now = _subject(self._node), datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=_SELF_SIGNED_DAYS))
            .add_extension(_alternatives(self._node, addresses), critical=False)
            .sign(key, hashes.SHA256())
        )
        self._write(key, certificate.public_bytes(serialization.Encoding.PEM))

    @property
    def _next_path(self) -> Path:
        return self.path.with_suffix(".next-key")

    def _next_key(self) -> ec.EllipticCurvePrivateKey:
        """The key of the next certificate: kept until it is signed, so that a restart asks for the same again."""
        if not self._next_path.exists():
            write_private(self._next_path, _private_pem(ec.generate_private_key(ec.SECP256R1())))
        key = serialization.load_pem_private_key(self._next_path.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key

    def _write(self, key: ec.EllipticCurvePrivateKey, certificate: bytes) -> None:
        write_private(self.path, _private_pem(key) + certificate)


def write_private(path: Path, content: bytes) -> None:
    """Writes a file that only its owner can read, whole or not at all."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.new")
    scratch.unlink(missing_ok=True)
    scratch.touch(mode=0o600)
    scratch.write_bytes(content)
    scratch.replace(path)


def public_key_hash(certificate: bytes) -> str:
    """`sha256:HEX` of a PEM certificate's public key, as kubeadm names a cluster's authority."""
    key = x509.load_pem_x509_certificate(certificate).public_key()
    spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return f"sha256:{hashlib.sha256(spki).hexdigest()}"


def _request(node: str, signer: str, key: ec.EllipticCurvePrivateKey, addresses: Sequence[str]) -> Object:
    builder = x509.CertificateSigningRequestBuilder().subject_name(_subject(node))
    if signer == SERVING_SIGNER:
        builder = builder.add_extension(_alternatives(node, addresses), critical=False)
    pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return {
        "apiVersion": REQUESTS.api_version,
        "kind": REQUESTS.kind,
        "metadata": {"name": f"edgemodel-node-{hashlib.sha256(public).hexdigest()[:32]}"},
        "spec": {
            "signerName": signer,
            "request": base64.b64encode(pem).decode(),
            "usages": ["digital signature", "server auth" if signer == SERVING_SIGNER else "client auth"],
        },
    }


async def _signed(client: Client, name: str) -> bytes:
    """The certificate, once somebody has approved the request and the cluster has signed it."""
    loop = asyncio.get_running_loop()
    say_at = loop.time() + _POLL
    while True:
        try:
            status = (await client.get(Ref(REQUESTS.kind, "", name))).get("status", {})
        except ApiError as error:
            if error.code and error.code < 500 and error.code != 429:
                raise
            status = {}
        for condition in status.get("conditions", ()):
            if condition["type"] in ("Denied", "Failed"):
                raise CertificateDenied(f"{name} was refused: {condition.get('message') or condition.get('reason')}")
        if status.get("certificate"):
            return base64.b64decode(status["certificate"])
        if loop.time() > say_at:
            _log.warning("waiting for a certificate: kubectl certificate approve %s", name)
            say_at = loop.time() + _SAY_AGAIN
        await asyncio.sleep(_POLL)


def _subject(node: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "system:nodes"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"system:node:{node}"),
        ]
    )


def _alternatives(node: str, addresses: Sequence[str]) -> x509.SubjectAlternativeName:
    names: list[x509.GeneralName] = [x509.DNSName(node)]
    return x509.SubjectAlternativeName([*names, *(x509.IPAddress(ipaddress.ip_address(each)) for each in addresses)])


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
