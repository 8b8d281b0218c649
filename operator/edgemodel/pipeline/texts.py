"""The texts in the image: one to calibrate on, one held out to judge by. Both are of the public domain."""

import hashlib
from importlib.resources import files


def calibration_text() -> bytes:
    """What activations are measured on."""
    return _read("calibration.txt")


def held_out_text() -> bytes:
    """What the artifact is judged by."""
    return _read("heldout.txt")


def digest(text: bytes) -> str:
    """A text's digest."""
    return f"sha256:{hashlib.sha256(text).hexdigest()}"


def calibration_digest() -> str:
    """What an EdgeRuntime says in `pipeline.calibration`."""
    return digest(calibration_text())


def _read(name: str) -> bytes:
    return files("edgemodel.pipeline").joinpath("data", name).read_bytes()
