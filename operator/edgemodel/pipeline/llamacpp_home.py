"""Where llama.cpp is."""

import os
from pathlib import Path


def llamacpp_home() -> Path:
    """The folder of its bin/, lib/ and convert/: LLAMACPP_HOME, or where the image has it."""
    return Path(os.environ.get("LLAMACPP_HOME") or "/opt/llama.cpp")
