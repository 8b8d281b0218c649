import subprocess
import sys

from edgemodel.pipeline.measure import peak_memory

MIB = 1 << 20
SMALL = "from edgemodel.pipeline.measure import peak_memory; print(peak_memory())"


def test_memory_is_a_process_own_and_not_what_its_parent_had() -> None:
    held = bytearray(600 * MIB)
    held[::4096] = b"x" * len(held[::4096])
    said = subprocess.run([sys.executable, "-c", SMALL], check=True, capture_output=True, text=True).stdout
    assert 5 * MIB < int(said) < 400 * MIB
    assert peak_memory() > 600 * MIB


def test_of_a_process_that_has_ended_nothing_is_known() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert peak_memory(process.pid) == 0
