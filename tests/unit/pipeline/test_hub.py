import hashlib
from collections.abc import Mapping
from pathlib import Path

import pytest

from edgemodel.api.artifact import Source
from edgemodel.pipeline.errors import (
    AddressRefusedError,
    MalformedError,
    PathRefusedError,
    PickleRefusedError,
    SecretNotFoundError,
    SourceChangedError,
    SourceNotFoundError,
    SourceUnauthorizedError,
    SourceUnavailableError,
    SourceUnsupportedError,
    TruncatedError,
)
from edgemodel.pipeline.resolve import Resolution, resolve
from edgemodel.pipeline.sources import SourceReader, base, open_source
from tests.hub import COMMIT, MODEL, Hub, serve
from tests.unit.pipeline.models import TINYSAWYER, llama_gguf

WEIGHTS = f"/{MODEL}/resolve/{COMMIT}/model.safetensors"
INFO = f"/api/models/{MODEL}/revision/main"


def _reader(hub: Hub, inside: str = "", environ: Mapping[str, str] | None = None) -> SourceReader:
    return open_source(Source(uri=f"hf://{MODEL}{inside}"), {"HF_ENDPOINT": hub.url} | dict(environ or {}))


def _resolve(hub: Hub, inside: str = "", environ: Mapping[str, str] | None = None) -> Resolution:
    return resolve(_reader(hub, inside, environ))


@pytest.fixture
def tinysawyer(hub: Hub) -> Hub:
    hub.files = {path.name: path.read_bytes() for path in TINYSAWYER.iterdir()}
    return hub


def _secret(folder: Path, **keys: str) -> dict[str, str]:
    for name, value in keys.items():
        (folder / name).write_text(value + "\n")
    return {"EDGEMODEL_SOURCE_CREDENTIALS": str(folder), "EDGEMODEL_SOURCE_SECRET": "hub-token"}


def test_a_model_is_pinned_to_its_commit(tinysawyer: Hub) -> None:
    tinysawyer.card = {"license": "apache-2.0"}
    resolved = _resolve(tinysawyer).resolved
    assert resolved.revision == COMMIT
    assert resolved.licence == "apache-2.0"
    assert (resolved.format, resolved.weight_type) == ("safetensors", "BF16")
    assert resolved.bytes == sum(map(len, tinysawyer.files.values()))
    lines = "".join(f"{name}\t{len(data)}\t{_digest(name, data)}\n" for name, data in sorted(tinysawyer.files.items()))
    assert resolved.digest == "sha256:" + hashlib.sha256(lines.encode()).hexdigest()


def _digest(name: str, data: bytes) -> str:
    if name.endswith(".safetensors"):
        return "sha256:" + hashlib.sha256(data).hexdigest()
    return "git:" + hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def test_what_the_hub_calls_an_other_licence_goes_by_its_name(tinysawyer: Hub) -> None:
    tinysawyer.card = {"license": "other", "license_name": "tiny-community"}
    assert _resolve(tinysawyer).resolved.licence == "tiny-community"


def test_weights_are_not_read_to_resolve(tinysawyer: Hub) -> None:
    _resolve(tinysawyer)
    assert all(
        int(headers["Range"].partition("-")[2]) < 1 << 18 for path, headers in tinysawyer.requests if path == WEIGHTS
    )


def test_what_is_not_needed_does_not_change_the_digest(tinysawyer: Hub) -> None:
    digest = _resolve(tinysawyer).resolved.digest
    tinysawyer.files |= {"README.md": b"# Tiny", "pytorch_model.bin": b"pickle", "onnx/model.onnx": b"x", "m.py": b"x"}
    assert _resolve(tinysawyer).resolved.digest == digest
    tinysawyer.files["tokenizer.json"] = b"{}"
    assert _resolve(tinysawyer).resolved.digest != digest


def test_files_arrive_whole(tinysawyer: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "RANGE", 1 << 20)
    reader = _reader(tinysawyer)
    seen: list[int] = []
    for file in resolve(reader).files:
        reader.fetch(file, tmp_path / file.path, seen.append)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == tinysawyer.files
    assert sum(seen) == sum(map(len, tinysawyer.files.values()))


def test_a_body_that_breaks_off_is_continued(tinysawyer: Hub, tmp_path: Path) -> None:
    reader = _reader(tinysawyer)
    (file,) = [file for file in resolve(reader).files if file.path == "model.safetensors"]
    tinysawyer.cut[WEIGHTS] = [1_000_000, 0, 10, 2_000_000]
    reader.fetch(file, tmp_path / "weights", lambda _: None)
    assert (tmp_path / "weights").read_bytes() == tinysawyer.files["model.safetensors"]


def test_a_server_that_stumbles_is_asked_again(tinysawyer: Hub) -> None:
    tinysawyer.status = {INFO: [503, 429], WEIGHTS: [500, 502]}
    _resolve(tinysawyer)
    assert tinysawyer.count(INFO) == 3


def test_a_server_that_stays_away_is_to_be_tried_later(tinysawyer: Hub) -> None:
    tinysawyer.status = {INFO: [503] * 9}
    with pytest.raises(SourceUnavailableError) as caught:
        _resolve(tinysawyer)
    assert caught.value.retry


def test_an_interrupted_fetch_goes_on_where_it_was(
    tinysawyer: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "RANGE", 1 << 20)
    monkeypatch.setattr(base, "WORKERS", 1)
    reader = _reader(tinysawyer)
    (file,) = [file for file in resolve(reader).files if file.path == "model.safetensors"]
    tinysawyer.requests.clear()
    tinysawyer.cut[WEIGHTS] = [1 << 20, 1 << 20, *[0] * 99]
    with pytest.raises(SourceUnavailableError):
        reader.fetch(file, tmp_path / "weights", lambda _: None)
    tinysawyer.cut.clear()
    tinysawyer.requests.clear()
    seen: list[int] = []
    reader.fetch(file, tmp_path / "weights", seen.append)
    starts = {int(headers["Range"].removeprefix("bytes=").partition("-")[0]) for _, headers in tinysawyer.requests}
    assert starts == {start << 20 for start in range(2, 8)}
    assert sum(seen) == file.size
    assert (tmp_path / "weights").read_bytes() == tinysawyer.files["model.safetensors"]


def test_a_file_that_is_there_is_not_fetched_again(tinysawyer: Hub, tmp_path: Path) -> None:
    reader = _reader(tinysawyer)
    (file,) = [file for file in resolve(reader).files if file.path == "model.safetensors"]
    reader.fetch(file, tmp_path / "weights", lambda _: None)
    tinysawyer.requests.clear()
    seen: list[int] = []
    reader.fetch(file, tmp_path / "weights", seen.append)
    assert not tinysawyer.requests
    assert seen == [file.size]


def test_changed_bytes_are_refused_and_leave_nothing(tinysawyer: Hub, tmp_path: Path) -> None:
    reader = _reader(tinysawyer)
    (file,) = [file for file in resolve(reader).files if file.path == "model.safetensors"]
    tinysawyer.files["model.safetensors"] = bytes(file.size)
    with pytest.raises(SourceChangedError):
        reader.fetch(file, tmp_path / "weights", lambda _: None)
    assert not (tmp_path / "weights").exists()


def test_small_files_are_held_against_their_git_digest(tinysawyer: Hub, tmp_path: Path) -> None:
    reader = _reader(tinysawyer)
    (file,) = [file for file in resolve(reader).files if file.path == "config.json"]
    tinysawyer.files["config.json"] = bytes(file.size)
    with pytest.raises(SourceChangedError, match="git:"):
        reader.fetch(file, tmp_path / "config.json", lambda _: None)


def test_a_private_model_needs_the_right_token(tinysawyer: Hub, tmp_path: Path) -> None:
    tinysawyer.token = "hf_right"
    with pytest.raises(SourceUnauthorizedError, match="secretRef"):
        _resolve(tinysawyer)
    with pytest.raises(SourceUnauthorizedError, match="its token is wrong") as caught:
        _resolve(tinysawyer, environ=_secret(tmp_path, HF_TOKEN="hf_wrong"))
    assert "hf_wrong" not in caught.value.termination()
    assert _resolve(tinysawyer, environ=_secret(tmp_path, HF_TOKEN="hf_right")).resolved.revision == COMMIT


def test_a_missing_secret_is_named(tinysawyer: Hub, tmp_path: Path) -> None:
    with pytest.raises(SecretNotFoundError, match="'hub-token' is missing or has no HF_TOKEN") as caught:
        _resolve(tinysawyer, environ=_secret(tmp_path))
    assert caught.value.retry


def test_a_redirect_does_not_carry_the_token_to_another_host(tinysawyer: Hub, web: Hub, tmp_path: Path) -> None:
    tinysawyer.token = "hf_right"
    web.files = tinysawyer.files
    tinysawyer.redirect[WEIGHTS] = f"{web.url}/files/model.safetensors"
    _resolve(tinysawyer, environ=_secret(tmp_path, HF_TOKEN="hf_right"))
    assert web.count("/files/model.safetensors") == 1
    assert all("Authorization" not in headers for _, headers in web.requests)
    assert all("Authorization" in headers for _, headers in tinysawyer.requests)


def test_a_redirect_to_plain_http_is_refused(tinysawyer: Hub) -> None:
    with serve(Hub()) as other:
        tinysawyer.redirect[WEIGHTS] = f"{other.url}/files/model.safetensors"
        with pytest.raises(AddressRefusedError, match="not https"):
            _resolve(tinysawyer)
        assert not other.requests


@pytest.mark.parametrize(
    "target", ["https://169.254.169.254/latest/meta-data", "https://[fe80::1]/", "https://2852039166/"]
)
def test_a_redirect_to_a_metadata_address_is_refused(tinysawyer: Hub, target: str) -> None:
    tinysawyer.redirect[WEIGHTS] = target
    with pytest.raises(AddressRefusedError, match="metadata"):
        _resolve(tinysawyer)


def test_a_redirect_to_nonsense_is_told(tinysawyer: Hub) -> None:
    tinysawyer.redirect[WEIGHTS] = "https://[bad"
    with pytest.raises(SourceNotFoundError, match="no URL"):
        _resolve(tinysawyer)


def test_redirects_that_never_end_are_given_up(tinysawyer: Hub) -> None:
    tinysawyer.redirect[WEIGHTS] = WEIGHTS
    with pytest.raises(SourceNotFoundError, match="redirects"):
        _resolve(tinysawyer)


def test_an_unknown_revision_is_not_found(tinysawyer: Hub) -> None:
    tinysawyer.status = {INFO: [404]}
    with pytest.raises(SourceNotFoundError, match=r"spec\.source\.revision"):
        _resolve(tinysawyer)


def test_a_name_without_an_owner_is_not_found(tinysawyer: Hub) -> None:
    with pytest.raises(SourceNotFoundError, match="hf://OWNER/NAME"):
        open_source(Source(uri="hf://tiny"), {"HF_ENDPOINT": tinysawyer.url})


def test_a_web_page_is_no_hub(hub: Hub) -> None:
    hub.answer = lambda _: b"<html>"  # type: ignore[assignment, method-assign]
    with pytest.raises(MalformedError, match="model hub"):
        _resolve(hub)


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/x.safetensors", "a\\b.safetensors", "a/../../x", "a//b"])
def test_names_that_leave_the_folder_are_refused(tinysawyer: Hub, name: str) -> None:
    tinysawyer.files[name] = b"x"
    with pytest.raises(PathRefusedError, match="rename or remove"):
        _resolve(tinysawyer)


def test_an_index_that_names_a_file_outside_is_refused(tinysawyer: Hub) -> None:
    tinysawyer.files["model.safetensors.index.json"] = b'{"weight_map": {"a": "../../etc/shadow"}}'
    with pytest.raises(PathRefusedError):
        _resolve(tinysawyer)


def test_an_index_that_names_a_missing_file_is_told(tinysawyer: Hub) -> None:
    tinysawyer.files["model.safetensors.index.json"] = b'{"weight_map": {"a": "model-2.safetensors"}}'
    with pytest.raises(SourceUnsupportedError, match=r"model-2\.safetensors"):
        _resolve(tinysawyer)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "model.ckpt", "model.pkl"])
def test_pickles_alone_are_refused(hub: Hub, name: str) -> None:
    hub.files = {"config.json": b"{}", name: b"\x80\x04."}
    with pytest.raises(PickleRefusedError, match="safetensors copy"):
        _resolve(hub)


def test_a_truncated_model_is_told(tinysawyer: Hub) -> None:
    tinysawyer.files["model.safetensors"] = tinysawyer.files["model.safetensors"][:-100]
    with pytest.raises(TruncatedError):
        _resolve(tinysawyer)


def test_weights_without_config_are_no_model(tinysawyer: Hub) -> None:
    del tinysawyer.files["config.json"]
    with pytest.raises(SourceUnsupportedError, match=r"config\.json"):
        _resolve(tinysawyer)


def test_one_of_several_gguf_files_must_be_named(hub: Hub) -> None:
    hub.files = {"a-Q4_1.gguf": llama_gguf(3, (32, 20)), "a-F16.gguf": llama_gguf(), "mmproj-a.gguf": b"x"}
    with pytest.raises(SourceUnsupportedError, match="2 GGUF models"):
        _resolve(hub)
    found = _resolve(hub, "/a-Q4_1.gguf")
    assert [file.path for file in found.files] == ["a-Q4_1.gguf"]
    assert found.resolved.note == "dequantized from Q4_1"
    assert found.resolved.licence == "apache-2.0"


def test_a_folder_of_a_repository_can_be_named(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"f16/model.gguf": llama_gguf(), "q4/model.gguf": llama_gguf(3, (32, 20))}
    reader = _reader(hub, "/f16")
    (file,) = resolve(reader).files
    reader.fetch(file, tmp_path / file.path, lambda _: None)
    assert (tmp_path / "model.gguf").read_bytes() == hub.files["f16/model.gguf"]
    with pytest.raises(SourceNotFoundError, match="'f32'"):
        _resolve(hub, "/f32")


def test_parts_of_a_gguf_model_belong_together(hub: Hub) -> None:
    hub.files = {f"a-0000{part}-of-00002.gguf": llama_gguf() for part in (1, 2)}
    assert _resolve(hub).resolved.model.parameters == 512
    del hub.files["a-00002-of-00002.gguf"]
    with pytest.raises(SourceUnsupportedError, match="1 of 2 parts"):
        _resolve(hub)
