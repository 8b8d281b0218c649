import hashlib
from pathlib import Path

import pytest

from edgemodel.api.artifact import Source
from edgemodel.pipeline.errors import (
    AddressRefusedError,
    SourceChangedError,
    SourceNotFoundError,
    SourceUnauthorizedError,
)
from edgemodel.pipeline.resolve import Resolution, resolve
from edgemodel.pipeline.sources import SourceReader, base, open_source
from edgemodel.pipeline.sources.http import check_address, check_host
from tests.hub import Hub
from tests.unit.pipeline.models import llama_gguf

FILE = "/files/model.gguf"


@pytest.fixture
def site(web: Hub) -> Hub:
    web.files["model.gguf"] = llama_gguf()
    return web


def _open(site: Hub, sha256: str | None = None, **environ: str) -> SourceReader:
    return open_source(Source(uri=site.url + FILE, sha256=sha256), environ)


def _fetch(reader: SourceReader, folder: Path) -> bytes:
    (file,) = resolve(reader).files
    reader.fetch(file, folder / file.path, lambda _: None)
    return (folder / file.path).read_bytes()


def _resolve(site: Hub) -> Resolution:
    return resolve(_open(site))


@pytest.mark.parametrize("ranges", [True, False])
def test_a_file_arrives_with_and_without_ranges(
    site: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranges: bool
) -> None:
    monkeypatch.setattr(base, "RANGE", 100)
    site.ranges = ranges
    assert _fetch(_open(site), tmp_path) == site.files["model.gguf"]


def test_the_digest_follows_the_version_of_the_file(site: Hub) -> None:
    digest = _resolve(site).resolved.digest
    assert _resolve(site).resolved.digest == digest
    site.etag = '"2"'
    assert _resolve(site).resolved.digest != digest


def test_a_given_digest_stands_for_the_file(site: Hub, tmp_path: Path) -> None:
    right = "sha256:" + hashlib.sha256(site.files["model.gguf"]).hexdigest()
    assert _fetch(_open(site, right), tmp_path) == site.files["model.gguf"]
    with pytest.raises(SourceChangedError):
        _fetch(_open(site, "sha256:" + 64 * "0"), tmp_path / "other")


def test_a_file_that_changes_while_it_is_read_is_told(site: Hub, tmp_path: Path) -> None:
    reader = _open(site)
    (file,) = resolve(reader).files
    site.etag = '"2"'
    with pytest.raises(SourceChangedError, match="changed while it was read"):
        reader.fetch(file, tmp_path / "model.gguf", lambda _: None)


def test_the_token_is_sent_to_the_host_it_is_for(site: Hub, tmp_path: Path) -> None:
    site.token = "right"
    with pytest.raises(SourceUnauthorizedError):
        _resolve(site)
    (tmp_path / "TOKEN").write_text("right")
    assert _fetch(_open(site, EDGEMODEL_SOURCE_CREDENTIALS=str(tmp_path)), tmp_path) == site.files["model.gguf"]


def test_a_missing_file_is_not_found(site: Hub) -> None:
    site.files.clear()
    with pytest.raises(SourceNotFoundError, match=r"spec\.source\.uri"):
        _resolve(site)


@pytest.mark.parametrize(
    "url", ["https://169.254.169.254/x", "https://[::ffff:169.254.169.254]/x", "https://[fe80::1]/x"]
)
def test_a_metadata_address_gets_no_request(url: str) -> None:
    with pytest.raises(AddressRefusedError):
        open_source(Source(uri=url), {}).files()


@pytest.mark.parametrize(
    "address",
    ["169.254.169.254", "169.254.170.2", "::ffff:169.254.169.254", "fe80::1%eth0", "fd00:ec2::254", "100.100.100.200"],
)
def test_link_local_and_metadata_addresses_are_refused(address: str) -> None:
    with pytest.raises(AddressRefusedError):
        check_address(address)


@pytest.mark.parametrize("address", ["10.0.0.1", "127.0.0.1", "93.184.215.14", "2606:4700::1111"])
def test_other_addresses_are_not(address: str) -> None:
    check_address(address)


def test_odd_spellings_of_an_address_are_seen_through() -> None:
    with pytest.raises(AddressRefusedError):
        check_host("2852039166")


def test_the_connection_itself_is_judged(site: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever DNS said: what counts is whom the socket is connected to."""
    monkeypatch.setattr("edgemodel.pipeline.sources.http.check_address", _refuse)
    with pytest.raises(AddressRefusedError):
        _resolve(site)
    assert not site.requests


def _refuse(host: str) -> None:
    assert host == "127.0.0.1"
    raise AddressRefusedError("refused")
