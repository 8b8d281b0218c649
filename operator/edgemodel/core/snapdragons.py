"""Qualcomm's Snapdragons, as far as their neural processor (HTP) is known: the one table of them.

Architectures are as ExecuTorch's backend for Qualcomm has them (backends/qualcomm), QCS6490's and SC8380XP's as
Qualcomm's AI Hub does. The numbers are those of `Qnn_SocModel_t` in QnnTypes.h of Qualcomm's SDK, which counts on
without that list: QCS6490's is ExecuTorch's. QNN's own compiler writes the same names and architectures into what it
makes for these numbers: tests/engines/test_qnn_job.py reads them there.
"""

from typing import NamedTuple


class Snapdragon(NamedTuple):
    """A SoC."""

    htp: str
    """Architecture of its HTP."""
    model: int
    """What QNN calls it: `soc_model`."""


SNAPDRAGONS = {
    "QCS6490": Snapdragon("v68", 93),
    "QCS9100": Snapdragon("v73", 77),
    "SA8255": Snapdragon("v73", 52),
    "SA8295": Snapdragon("v68", 39),
    "SC8380XP": Snapdragon("v73", 60),
    "SM8350": Snapdragon("v68", 30),
    "SM8450": Snapdragon("v69", 36),
    "SM8475": Snapdragon("v69", 42),
    "SM8550": Snapdragon("v73", 43),
    "SM8650": Snapdragon("v75", 57),
    "SM8750": Snapdragon("v79", 69),
    "SM8850": Snapdragon("v81", 87),
    "X1E80100": Snapdragon("v73", 60),  # SC8380XP by its newer name
}
"""By name, as the kernel says it in /sys/devices/soc0/machine. A node with another is labelled by hand."""


class UnknownTargetError(ValueError):
    """Nothing can be compiled for that. The message says what can."""


def target_of(soc: str) -> str:
    """How a SoC is spelled as what artifacts are compiled for, for example `sm8650-v75`."""
    return f"{soc.lower()}-{SNAPDRAGONS[soc].htp}"


def soc_of(target: str) -> str:
    """The SoC that a target names. `UnknownTargetError` if it names none, or gives it an HTP that it has not."""
    soc, _, htp = target.partition("-")
    known = SNAPDRAGONS.get(soc.upper())
    if known is None:
        offered = ", ".join(map(target_of, SNAPDRAGONS))
        raise UnknownTargetError(f"{target!r} is no Snapdragon that is known: use one of {offered}")
    if htp != known.htp:
        raise UnknownTargetError(f"{soc.upper()} has an HTP {known.htp}, not {htp!r}: use {target_of(soc.upper())}")
    return soc.upper()
