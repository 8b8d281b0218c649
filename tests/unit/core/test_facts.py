import pytest

from edgemodel.core.facts import probed_labels, processor_facts, snapdragon_facts, with_probed

NFD = "feature.node.kubernetes.io/"
SAPPHIRE_RAPIDS = """\
processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model name\t: Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz
flags\t\t: fpu vme de avx f16c avx2 avx512f avx512_vnni avx512_bf16 avx_vnni amx_bf16 amx_tile amx_int8
bugs\t\t: spectre_v1

processor\t: 1
vendor_id\t: GenuineIntel
flags\t\t: fpu vme de avx f16c avx2 avx512f avx512_vnni avx512_bf16 avx_vnni amx_bf16 amx_tile amx_int8
"""
OLD = "vendor_id\t: GenuineIntel\nflags\t\t: fpu sse4_2\n"
ZEN = "vendor_id\t: AuthenticAMD\nflags\t\t: avx avx2\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd evtstrm aes\nCPU implementer\t: 0x51\n"


@pytest.mark.parametrize(
    ("name", "cpuinfo", "vendor", "features"),
    [
        ("with matrix units", SAPPHIRE_RAPIDS, "Intel",
         {"AVX", "AVX2", "AVX512F", "AVX512VNNI", "AVX512BF16", "AVXVNNI", "AMXTILE", "AMXINT8", "AMXBF16"}),
        ("without vectors worth naming", OLD, "Intel", set()),
        ("of another maker", ZEN, "AMD", {"AVX", "AVX2"}),
        ("that is no x86", ARM, None, set()),
        ("that says nothing", "", None, set()),
    ],
)  # fmt: skip
def test_processor(name: str, cpuinfo: str, vendor: str | None, features: set[str]) -> None:
    expected = {f"{NFD}cpu-cpuid.{feature}": "true" for feature in features}
    assert processor_facts(cpuinfo) == expected | ({f"{NFD}cpu-model.vendor_id": vendor} if vendor else {}), name


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        ("SM8650\n", {"edgemodel.dev/soc": "SM8650", "edgemodel.dev/htp-architecture": "v75"}),
        ("x1e80100", {"edgemodel.dev/soc": "X1E80100", "edgemodel.dev/htp-architecture": "v73"}),
        ("i.MX8MP\n", {}),
        ("", {}),
    ],
)
def test_snapdragon(machine: str, expected: dict[str, str]) -> None:
    assert snapdragon_facts(machine) == expected


def test_what_the_probe_found_is_read_back_from_the_labels_it_became() -> None:
    facts = processor_facts(SAPPHIRE_RAPIDS) | snapdragon_facts("SM8650")
    labels = probed_labels(facts)
    assert "feature.edgemodel.dev/cpu-cpuid.AVX2" in labels
    assert not labels.keys() & facts.keys()
    assert with_probed(labels) == facts | labels


def test_others_know_better_than_the_probe() -> None:
    labels = probed_labels(snapdragon_facts("SM8650")) | {"edgemodel.dev/htp-architecture": "v73"}
    assert with_probed(labels)["edgemodel.dev/htp-architecture"] == "v73"
    assert with_probed(labels)["edgemodel.dev/soc"] == "SM8650"
