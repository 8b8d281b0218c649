"""How the node reaches the API server: with its own certificate, or at first with a bootstrap token."""

import ssl
from pathlib import Path

import aiohttp

_KEEP_ALIVE = 5.0
"""Seconds for which an idle connection is kept: not for long, so that none outlives the certificate it began with."""


class NodeAccess:
    """Where the API server is, and who we are: by the certificate in a file, or at first by a token."""

    def __init__(self, server: str, authority: str, identity: Path | None = None, token: str = "") -> None:
        self._server = server.rstrip("/")
        self._identity = identity
        self._token = token
        self._ssl = ssl.create_default_context(cadata=authority)
        self.renewed()

    @property
    def server(self) -> str:
        """The API server's address."""
        return self._server

    def renewed(self) -> None:
        """There is another certificate: new connections use it."""
        if self._identity:
            self._ssl.load_cert_chain(self._identity)

    def session(self, *, connections: int = 0) -> aiohttp.ClientSession:
        """A session, with a bound on its connections if there is to be one."""
        headers = {"User-Agent": "edgemodel-node"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        connector = aiohttp.TCPConnector(ssl=self._ssl, limit=connections, keepalive_timeout=_KEEP_ALIVE)
        return aiohttp.ClientSession(connector=connector, headers=headers)
