"""A real OpenVINO for tests: the packages of both its images. Import `openvino` into a conftest to use it."""

import pytest

from tests.packages import Packages, installed


@pytest.fixture(scope="session")
def openvino() -> Packages:
    """OpenVINO."""
    return Packages(installed("openvino", "openvino.txt", "openvino-serve.txt"))
