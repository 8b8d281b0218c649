"""What a machine is made of, from what Linux says of it, in the words of Node Feature Discovery."""

import re
from collections.abc import Mapping

from edgemodel.core.snapdragons import SNAPDRAGONS

NFD_PREFIX = "feature.node.kubernetes.io/"
"""Of the labels that Node Feature Discovery writes."""

PROBED_PREFIX = "feature.edgemodel.dev/"
"""Of the labels that hold, of the same facts, what our probe found."""

SOC_LABEL = "edgemodel.dev/soc"
HTP_LABEL = "edgemodel.dev/htp-architecture"
"""Of a Snapdragon, for example `SC8380XP` and `v73`."""

_VENDORS = {"GenuineIntel": "Intel", "AuthenticAMD": "AMD"}
_FLAGS = {
    "avx": "AVX",
    "avx2": "AVX2",
    "avx512f": "AVX512F",
    "avx512_vnni": "AVX512VNNI",
    "avx512_bf16": "AVX512BF16",
    "avx_vnni": "AVXVNNI",
    "amx_tile": "AMXTILE",
    "amx_int8": "AMXINT8",
    "amx_bf16": "AMXBF16",
}
"""Flags of /proc/cpuinfo -> features as github.com/klauspost/cpuid calls them, and so Node Feature Discovery."""


def processor_facts(cpuinfo: str) -> dict[str, str]:
    """Labels for what /proc/cpuinfo says of an x86-64 processor; none for another."""
    fields = dict(re.findall(r"^(vendor_id|flags)\s*:\s*(.*)$", cpuinfo, re.MULTILINE))
    vendor = _VENDORS.get(fields.get("vendor_id", ""))
    labels = {f"{NFD_PREFIX}cpu-model.vendor_id": vendor} if vendor else {}
    flags = fields.get("flags", "").split()
    return labels | {f"{NFD_PREFIX}cpu-cpuid.{name}": "true" for flag, name in _FLAGS.items() if flag in flags}


def snapdragon_facts(machine: str) -> dict[str, str]:
    """Labels for what /sys/devices/soc0/machine says, if that is a Snapdragon whose HTP is known."""
    soc = machine.strip().upper()
    return {SOC_LABEL: soc, HTP_LABEL: SNAPDRAGONS[soc].htp} if soc in SNAPDRAGONS else {}


def probed_labels(facts: Mapping[str, str]) -> dict[str, str]:
    """The labels in which a node keeps what the probe found: those of others are theirs to write."""
    return {PROBED_PREFIX + name.rpartition("/")[2]: value for name, value in facts.items()}


def with_probed(labels: Mapping[str, str]) -> dict[str, str]:
    """A node's labels, with what the probe found where nobody else says anything."""
    own = {name.rpartition("/")[2]: name for name in (SOC_LABEL, HTP_LABEL)}
    probed = {name.removeprefix(PROBED_PREFIX): value for name, value in labels.items() if is_probed(name)}
    return {own.get(name, NFD_PREFIX + name): value for name, value in probed.items()} | dict(labels)


def is_probed(label: str) -> bool:
    """Whether a node's label holds what the probe found."""
    return label.startswith(PROBED_PREFIX)
