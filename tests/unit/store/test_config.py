from pathlib import Path

import pytest

from edgemodel.store.config import Keys, StoreConfig
from edgemodel.store.errors import StoreConfigError


def secret(folder: Path, **files: str) -> str:
    for name, text in files.items():
        (folder / name).write_text(text)
    return str(folder)


def test_everything_set(tmp_path: Path) -> None:
    folder = secret(tmp_path, AWS_ACCESS_KEY_ID="a\n", AWS_SECRET_ACCESS_KEY="s", AWS_SESSION_TOKEN="t")
    config = StoreConfig.from_env(
        {
            "EDGEMODEL_STORE_URI": "s3://models/edge/x/",
            "EDGEMODEL_STORE_ENDPOINT": "http://store:9000",
            "EDGEMODEL_STORE_REGION": "eu-central-1",
            "EDGEMODEL_STORE_CREDENTIALS": folder,
        }
    )
    assert config == StoreConfig("models", "edge/x", "http://store:9000", "eu-central-1", tmp_path)
    assert Keys.read(tmp_path) == Keys("a", "s", "t")


def test_only_the_uri_is_needed() -> None:
    assert StoreConfig.from_env({"EDGEMODEL_STORE_URI": "s3://models"}) == StoreConfig("models")


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({}, "EDGEMODEL_STORE_URI is not set: set it to s3://BUCKET/PREFIX"),
        ({"EDGEMODEL_STORE_URI": "http://models"}, "set it to s3://BUCKET/PREFIX"),
        ({"EDGEMODEL_STORE_URI": "s3://models/a/../b"}, "segment"),
        ({"EDGEMODEL_STORE_URI": "s3://models", "EDGEMODEL_STORE_ENDPOINT": "store:9000"}, "https://HOST:PORT"),
        ({"EDGEMODEL_STORE_URI": "s3://models", "EDGEMODEL_STORE_CREDENTIALS": "/none"}, "mount the Secret there"),
    ],
)
def test_what_is_missing_is_named(environ: dict[str, str], message: str) -> None:
    with pytest.raises(StoreConfigError, match=message):
        StoreConfig.from_env(environ)


@pytest.mark.parametrize("missing", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_missing_key_is_named(tmp_path: Path, missing: str) -> None:
    names = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} - {missing}
    folder = secret(tmp_path, **dict.fromkeys(names, "hidden"))
    with pytest.raises(StoreConfigError, match=f"no {missing}") as caught:
        StoreConfig.from_env({"EDGEMODEL_STORE_URI": "s3://models", "EDGEMODEL_STORE_CREDENTIALS": folder})
    assert "hidden" not in str(caught.value)


def test_keys_do_not_print_themselves() -> None:
    assert "secret" not in repr(Keys("access", "secret", "secret"))
