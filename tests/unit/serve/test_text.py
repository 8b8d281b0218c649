from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgemodel.serve.text import TextStream


def decode(ids: Sequence[int]) -> str:
    return bytes(ids).decode(errors="replace")


def pieces(text: str, stop: list[str], at_once: int = 1) -> tuple[list[str], TextStream]:
    stream = TextStream(decode, stop)
    raw = text.encode()
    found = []
    for start in range(0, len(raw), at_once):
        found.append(stream.feed(raw[start : start + at_once]))
        if stream.stopped:
            return found, stream
    return [*found, stream.end()], stream


@given(st.text(st.characters(exclude_characters="\ufffd", exclude_categories=["Cs"])), st.integers(1, 7))
def test_the_pieces_are_the_text(text: str, at_once: int) -> None:
    found, _ = pieces(text, [], at_once)
    assert "".join(found) == text
    assert not any("\ufffd" in piece for piece in found)


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_the_text_ends_before_the_first_stop_sequence(text: str, stop: list[str]) -> None:
    found, stream = pieces(text, stop)
    ends = {end: sequence for sequence in stop for end in range(len(text) + 1) if text[:end].endswith(sequence)}
    if not ends:
        assert ("".join(found), stream.stopped) == (text, False)
        return
    first = min(ends)
    longest = max(len(sequence) for sequence in stop if text[:first].endswith(sequence))
    assert ("".join(found), stream.stopped) == (text[: first - longest], True)


def test_bytes_that_are_no_text_are_not_waited_for_for_ever() -> None:
    stream = TextStream(decode)
    assert "".join(stream.feed([byte]) for byte in [0xFF] * 4 + list(b"a")) == "\ufffd" * 4 + "a"


@pytest.mark.parametrize("words", [["▁Hello", "▁there", "!"], ["▁a", "▁b"]])
def test_a_space_between_words_is_kept_though_decoding_drops_the_first(words: list[str]) -> None:
    def sentence_piece(ids: Sequence[int]) -> str:
        return "".join(words[number] for number in ids).replace("▁", " ").removeprefix(" ")

    stream = TextStream(sentence_piece)
    found = [stream.feed([number]) for number in range(len(words))]
    assert "".join([*found, stream.end()]) == "".join(words).replace("▁", " ").removeprefix(" ")


def test_a_token_costs_little_more_than_one_short_decoding() -> None:
    """An engine's decoding can take as long as a tenth of the token itself."""
    decoded: list[int] = []

    def counting(ids: Sequence[int]) -> str:
        decoded.append(len(ids))
        return decode(ids)

    stream = TextStream(counting)
    text = "Tom said. " * 20
    assert "".join(stream.feed([byte]) for byte in text.encode()) == text
    assert len(decoded) < 1.15 * len(text)
    assert max(decoded) < 20
