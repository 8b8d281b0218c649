import pytest

from edgemodel.core.snapdragons import SNAPDRAGONS, UnknownTargetError, soc_of, target_of


@pytest.mark.parametrize("soc", SNAPDRAGONS)
def test_a_target_names_its_chip(soc: str) -> None:
    assert soc_of(target_of(soc)) == soc


def test_a_target_is_spelled_in_small_letters() -> None:
    assert target_of("SM8650") == "sm8650-v75"


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("", "use one of"),
        ("sm9999-v75", "sm8650-v75"),
        ("snapdragon", "is no Snapdragon that is known"),
        ("sm8650", "SM8650 has an HTP v75, not '': use sm8650-v75"),
        ("sm8650-v73", "SM8650 has an HTP v75, not 'v73'"),
    ],
)
def test_what_cannot_be_compiled_for_is_refused(target: str, told: str) -> None:
    with pytest.raises(UnknownTargetError) as refused:
        soc_of(target)
    assert told in str(refused.value)
