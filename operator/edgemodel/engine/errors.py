# ruff: noqa: N818  (these read as what they are, not as "...Error")
"""What can go wrong between a controller and the cluster.

EngineError
├── LeaseLost         another replica leads, or might: this process must end
└── ApiError          the API server answered with an error, or not at all
    ├── Forbidden     401, 403: our permissions, or a namespace that is going
    ├── NotFound      404
    ├── Conflict      409: another write came first, or the object exists already
    ├── Invalid       400, 413, 415, 422: this object can never be written as it is
    ├── Throttled     429: the server asked to wait
    └── Unavailable   5xx, or the connection failed
"""


class EngineError(Exception):
    """Anything the engine raises."""


class LeaseLost(EngineError):
    """The lease could not be kept."""


class ApiError(EngineError):
    """The API server's answer: its status code (0 when there was none), its reason word and its message."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(f"{message} ({reason or code})")
        self.code = code
        self.reason = reason
        self.message = message


class Forbidden(ApiError):
    """401, 403."""


class NotFound(ApiError):
    """404."""


class Conflict(ApiError):
    """409."""


class Invalid(ApiError):
    """400, 413, 415, 422."""


class Throttled(ApiError):
    """429. `after` is what the server asked for, in seconds."""

    def __init__(self, code: int, reason: str, message: str, after: float = 1.0) -> None:
        super().__init__(code, reason, message)
        self.after = after


class Unavailable(ApiError):
    """5xx, or no answer."""


_BY_CODE: dict[int, type[ApiError]] = {
    400: Invalid, 401: Forbidden, 403: Forbidden, 404: NotFound, 409: Conflict,
    413: Invalid, 415: Invalid, 422: Invalid,
}  # fmt: skip


def api_error(code: int, reason: str, message: str, retry_after: str | None = None) -> ApiError:
    """The exception for an answer of the API server."""
    if code == 429:
        return Throttled(code, reason, message, float(retry_after) if retry_after and retry_after.isdigit() else 1.0)
    return _BY_CODE.get(code, Unavailable if code >= 500 else ApiError)(code, reason, message)
