"""A real MLX for tests. Import `mlx` into a conftest to use it."""

from pathlib import Path

import pytest

from tests.packages import Packages, installed


class Mlx(Packages):
    """A Python with MLX."""

    def said(self, *arguments: str | Path) -> str:
        """What Python says, run with these arguments, which must succeed."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done.stdout


@pytest.fixture(scope="session")
def mlx() -> Mlx:
    """MLX."""
    return Mlx(installed("mlx", "mlx.txt", torch=False))
