"""How to reach the API server: the pod's service account, else a kubeconfig.

kopf's own two logins are used, not the official client: importing that costs 58 MB (its asynchronous half 105 MB) where
kopf and aiohttp together take 45 MB. They read tokens, client certificates and passwords; a kubeconfig that runs a
plugin to get a token does not work.
"""

import logging
import time

import aiohttp
import kopf
from aiohttp.typedefs import LooseHeaders

from edgemodel.engine.errors import EngineError

_log = logging.getLogger(__name__)
_TOKEN_AGE = 60.0  # a kubelet renews a projected token long before it ends; the old one works a while longer


class Access:
    """Who we are and where the API server is. Tokens are read anew as they rotate."""

    def __init__(self) -> None:
        self._info = _login()
        self._read_at = time.monotonic()
        self._ssl = self._info.as_ssl_context()

    @property
    def server(self) -> str:
        """The API server's address."""
        return self._info.server.rstrip("/")

    @property
    def namespace(self) -> str:
        """The namespace this process runs in, as far as it is known."""
        return self._info.default_namespace or "default"

    def session(self, *middlewares: aiohttp.ClientMiddlewareType, connections: int = 0) -> aiohttp.ClientSession:
        """A session that authenticates each request; with a bound on its connections if there is to be one."""
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._ssl, limit=connections),
            middlewares=(self._authenticate, *middlewares),
            headers={"User-Agent": "edgemodel"},
            proxy=self._info.proxy_url,
        )

    async def _authenticate(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        request.headers.update(self._headers())
        return await handler(request)

    def _headers(self) -> LooseHeaders:
        now = time.monotonic()
        if now > self._read_at + _TOKEN_AGE:
            self._info, self._read_at = _login(), now
        return self._info.as_http_headers()


def _login() -> kopf.ConnectionInfo:
    settings = kopf.OperatorSettings()
    info = kopf.login_with_service_account(settings=settings, logger=_log)
    info = info or kopf.login_with_kubeconfig(settings=settings, logger=_log)
    if info is None:
        raise EngineError("no API server: neither a service account nor a kubeconfig was found")
    return info
