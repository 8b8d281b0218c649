import subprocess
import sys
from collections.abc import Iterator

import pytest

from edgemodel.pipeline.measure import peak_memory, run_and_weigh

MIB = 1 << 20
SMALL = "from edgemodel.pipeline.measure import peak_memory; print(peak_memory())"


@pytest.fixture
def heavy() -> Iterator[None]:
    """This process has much memory."""
    held = bytearray(600 * MIB)
    held[::4096] = b"x" * len(held[::4096])
    yield
    del held


@pytest.mark.usefixtures("heavy")
def test_memory_is_a_process_own_and_not_what_its_parent_had() -> None:
    said = subprocess.run([sys.executable, "-c", SMALL], check=True, capture_output=True, text=True).stdout
    assert 5 * MIB < int(said) < 400 * MIB
    assert peak_memory() > 600 * MIB


@pytest.mark.usefixtures("heavy")
def test_a_program_weighs_what_it_takes_itself() -> None:
    said, memory = run_and_weigh([sys.executable, "-c", "held = bytearray(b'x' * (100 << 20)); print('done')"])
    assert said == "done\n"
    assert 100 * MIB < memory < 300 * MIB


def test_a_program_that_fails_is_said() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        run_and_weigh([sys.executable, "-c", "raise SystemExit(3)"])
