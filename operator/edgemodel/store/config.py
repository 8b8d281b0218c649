"""Where the store is, from the environment."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgemodel.store.errors import SecretNotFoundError, StoreConfigError

_URI = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(/(?P<prefix>[A-Za-z0-9._/-]{0,512}))?")
_ENDPOINT = re.compile(r"https?://[A-Za-z0-9.\[\]:_-]+/?")


@dataclass(frozen=True)
class Keys:
    """An access key and its secret."""

    access_key: str
    secret_key: str
    token: str | None

    def __repr__(self) -> str:
        return "Keys(...)"

    @classmethod
    def read(cls, folder: Path) -> "Keys":
        """The keys in a mounted Secret, as they are now."""
        access_key, secret_key = (_read(folder / name) for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))
        if not access_key or not secret_key:
            missing = "AWS_SECRET_ACCESS_KEY" if access_key else "AWS_ACCESS_KEY_ID"
            secret = os.environ.get("EDGEMODEL_STORE_SECRET") or f"at {folder}"
            raise SecretNotFoundError(
                f"the Secret {secret} with the store's credentials is missing in this namespace or has no {missing}: "
                "create it, or have the chart do it by objectStore.namespaces"
            )
        return cls(access_key, secret_key, _read(folder / "AWS_SESSION_TOKEN"))


@dataclass(frozen=True)
class StoreConfig:
    """A bucket, a prefix in it, and how to reach it."""

    bucket: str
    prefix: str = ""
    """Without slashes at its ends."""
    endpoint: str | None = None
    """The server's URL; None is AWS."""
    region: str = "us-east-1"
    credentials: Path | None = None
    """The folder of a mounted Secret; None is boto's own chain, for example a pod's identity."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> "StoreConfig":
        """The store that EDGEMODEL_STORE_URI, _ENDPOINT, _REGION and _CREDENTIALS name."""
        uri = environ.get("EDGEMODEL_STORE_URI", "")
        endpoint = environ.get("EDGEMODEL_STORE_ENDPOINT") or None
        folder = environ.get("EDGEMODEL_STORE_CREDENTIALS")
        match = _URI.fullmatch(uri)
        if match is None:
            problem = "is not set" if not uri else f"is {uri!r}"
            raise StoreConfigError(f"EDGEMODEL_STORE_URI {problem}: set it to s3://BUCKET/PREFIX")
        prefix = (match["prefix"] or "").strip("/")
        if prefix and any(segment in {"", ".", ".."} for segment in prefix.split("/")):
            raise StoreConfigError(f"EDGEMODEL_STORE_URI is {uri!r}: its prefix has an empty, '.' or '..' segment")
        if endpoint and _ENDPOINT.fullmatch(endpoint) is None:
            raise StoreConfigError("EDGEMODEL_STORE_ENDPOINT is no URL of a server: set it to https://HOST:PORT")
        if folder and not Path(folder).is_dir():
            raise StoreConfigError(f"EDGEMODEL_STORE_CREDENTIALS is {folder!r}, not a folder: mount the Secret there")
        config = cls(
            match["bucket"],
            prefix,
            endpoint,
            environ.get("EDGEMODEL_STORE_REGION") or "us-east-1",
            Path(folder) if folder else None,
        )
        if config.credentials:
            Keys.read(config.credentials)
        return config


def _read(file: Path) -> str | None:
    try:
        return file.read_text().strip() or None
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise StoreConfigError(f"the store's credentials file {file} cannot be read: {type(error).__name__}") from None
