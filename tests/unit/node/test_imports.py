"""What the agent loads: it stays in memory on somebody's own machine."""

import subprocess
import sys

from hack.cluster.shell import REPOSITORY


def loaded(module: str) -> set[str]:
    """The packages that importing a module brings along, in a process of its own."""
    script = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(REPOSITORY / "operator")}
    )
    return set(done.stdout.split())


def test_agent_loads_neither_the_operators_informer_nor_the_stores_client() -> None:
    assert not {"kopf", "kubernetes", "boto3", "botocore"} & loaded("edgemodel.node.main")


def test_keeper_of_a_process_loads_next_to_nothing() -> None:
    assert not {"asyncio", "aiohttp", "pydantic", "cryptography"} & loaded("edgemodel.node.shim")
