"""Golden files: `pytest tests/golden --update-golden` writes them anew; the diff is then for a person to judge."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parent

Golden = Callable[[str, Any], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files anew")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """Holds an object against the file of this name."""
    update = request.config.getoption("--update-golden", default=False)

    def check(name: str, found: Any) -> None:
        path = FOLDER / f"{name}.yaml"
        if update:
            plain = json.loads(json.dumps(found))  # without YAML's anchors for what two places share
            path.write_text(yaml.safe_dump(plain, sort_keys=False, width=120), encoding="utf-8")
        assert path.exists(), f"{path.name} is missing: run `pytest tests/golden --update-golden`"
        assert found == yaml.safe_load(path.read_text(encoding="utf-8"))

    return check
