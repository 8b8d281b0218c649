"""The cache holds whole entries or none."""

from pathlib import Path

import pytest

from hack.cluster import cache


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEMODEL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_an_entry_is_filled_once(root: Path) -> None:
    filled = []

    def fill(into: Path) -> None:
        filled.append(into)
        (into / "program").write_text("made")

    assert cache.entry("tools", "1", fill) == cache.entry("tools", "1", fill) == root / "tools-1"
    assert (root / "tools-1" / "program").read_text() == "made"
    assert len(filled) == 1


def test_an_interrupted_entry_is_not_there_and_is_filled_afresh(root: Path) -> None:
    def interrupted(into: Path) -> None:
        (into / "half").write_text("made")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.entry("tools", "1", interrupted)
    assert not (root / "tools-1").exists()

    assert list(cache.entry("tools", "1", lambda into: None).iterdir()) == []


def test_a_folder_dropped_in_is_used_as_it_is(root: Path) -> None:
    (root / "tools-1").mkdir(parents=True)

    def fill(into: Path) -> None:
        raise AssertionError("nothing is left to fill")

    assert cache.entry("tools", "1", fill) == root / "tools-1"


def test_a_key_follows_names_and_bytes(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("x")
    first = cache.key_of(tmp_path, [tmp_path])
    file.write_text("y")
    second = cache.key_of(tmp_path, [tmp_path])
    file.rename(tmp_path / "b")
    third = cache.key_of(tmp_path, [tmp_path])
    assert len({first, second, third}) == 3
    assert third == cache.key_of(tmp_path, [tmp_path / "b", tmp_path])
