"""Logs as JSON lines, each with the key that was being worked on. Credentials that stray into a message are cut out."""

import json
import logging
import os
import re
import sys
from contextvars import ContextVar
from datetime import UTC, datetime

from edgemodel.engine.objects import Key

current_key: ContextVar[Key | None] = ContextVar("current_key", default=None)
"""What the running task works on."""

LEVEL = "EDGEMODEL_LOG_LEVEL"
"""The environment variable that sets the level."""

_SECRETS = re.compile(
    r"(?i)(\b(?:bearer|basic)\s+(?=\S{16})|x-amz-(?:signature|credential|security-token)=|://[^/\s:@]*:(?=[^/\s@]+@))"
    r"[^\s&@\"']+"
)


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _clean(record.getMessage()),
        }
        if key := current_key.get():
            line |= {name: value for name, value in key._asdict().items() if value}
        if record.exc_info:
            line["exception"] = _clean(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)


def configure() -> None:
    """All logs to stderr as JSON, from the level that the environment names (info). kopf says only what went wrong."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=os.environ.get(LEVEL, "info").upper(), handlers=[handler], force=True)
    logging.getLogger("kopf").setLevel(logging.WARNING)
    logging.captureWarnings(True)


def _clean(text: str) -> str:
    return _SECRETS.sub(r"\1***", text)
