import json
import logging
import sys
from typing import Any

import pytest

from edgemodel.engine import logs
from edgemodel.engine.objects import Key


def line(message: str, *arguments: object, error: bool = False) -> dict[str, Any]:
    record = logging.LogRecord("a.b", logging.INFO, "f", 1, message, arguments, sys.exc_info() if error else None)
    text = logs.JsonFormatter().format(record)
    assert "\n" not in text
    parsed: dict[str, Any] = json.loads(text)
    return parsed


def test_a_line_is_one_json_object() -> None:
    parsed = line("%d Dinge: ü", 3)
    assert parsed.pop("time").endswith("+00:00")
    assert parsed == {"level": "info", "logger": "a.b", "message": "3 Dinge: ü"}


def test_a_line_in_a_reconcile_carries_its_key() -> None:
    token = logs.current_key.set(Key("edgemodel", "retail", "smollm2"))
    try:
        parsed = line("x")
    finally:
        logs.current_key.reset(token)
    assert parsed["controller"] == "edgemodel"
    assert (parsed["namespace"], parsed["name"]) == ("retail", "smollm2")


def test_an_exception_is_a_field() -> None:
    try:
        raise ValueError("Bearer eyJhbGciOi.eyJpc3Mi.c2ln")
    except ValueError:
        parsed = line("x", error=True)
    assert parsed["exception"].endswith("ValueError: Bearer ***")


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Authorization: Bearer eyJhbGciOi.eyJpc3Mi.c2ln", "Authorization: Bearer ***"),
        ("https://user:secret@host/x", "https://user:***@host/x"),
        ("GET /b?X-Amz-Signature=0a1b&y=1", "GET /b?X-Amz-Signature=***&y=1"),
        ("https://host:8080/x", "https://host:8080/x"),
        ("a basic thing, no bearer token", "a basic thing, no bearer token"),
    ],
)
def test_credentials_are_cut_out(text: str, clean: str) -> None:
    assert line("%s", text)["message"] == clean


def test_the_environment_sets_the_level_and_kopf_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setenv(logs.LEVEL, "debug")
    try:
        logs.configure()
        assert root.level == logging.DEBUG
        assert not logging.getLogger("kopf").isEnabledFor(logging.INFO)
    finally:
        logging.captureWarnings(False)
        root.handlers[:], root.level = handlers, level
        logging.getLogger("kopf").setLevel(logging.NOTSET)
