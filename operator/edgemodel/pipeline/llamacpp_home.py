"""Where llama.cpp is."""

import os
from pathlib import Path


def llamacpp_home() -> Path:
    """The folder of its bin/, lib/ and convert/: LLAMACPP_HOME, or where the image has it."""
    return Path(os.environ.get("LLAMACPP_HOME") or "/opt/llama.cpp")


def llamacpp_environment() -> dict[str, str]:
    """What tells a process where llama.cpp is, and its Python binding where the libraries are."""
    home = llamacpp_home()
    return {"LLAMACPP_HOME": str(home), "LLAMA_CPP_LIB_PATH": str(home / "lib")}
