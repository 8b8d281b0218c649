"""Text out of tokens as they come: no half characters, and nothing of a stop sequence."""

from collections.abc import Callable, Iterable, Sequence

_HALF = "\N{REPLACEMENT CHARACTER}"
_LONGEST_CHARACTER = 4
"""Tokens that a character may be spread over: one for each of its bytes."""
_LONGEST_CONTEXT = 16
"""Tokens that are decoded again with each that is new. With fewer, the context is begun anew more often; with more,
each decoding takes longer."""


class TextStream:
    """The text of one answer, as far as it is certain."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stop = [sequence for sequence in stop if sequence]
        self._ids: list[int] = []
        self._known = 0  # tokens whose text is decoded
        self._context = 0  # where decoding begins: the words before decide about spaces
        self._before = ""  # what is decoded from there on
        self._held = ""  # decoded, but it may be the beginning of a stop sequence
        self.stopped = False
        """Whether a stop sequence has come. Then all text is out."""

    def feed(self, ids: Iterable[int]) -> str:
        """The text that is certain now, with these tokens."""
        self._ids.extend(ids)
        return self._certain(self._decoded(at_end=False), at_end=False)

    def end(self) -> str:
        """The rest: no more tokens come."""
        return self._certain(self._decoded(at_end=True), at_end=True)

    def _decoded(self, at_end: bool) -> str:
        """The text of what is not decoded yet, but for tokens at the end that are the beginning of a character."""
        for held in range(_LONGEST_CHARACTER):
            until = len(self._ids) - held
            if until <= self._known:
                return ""
            now = self._decode(self._ids[self._context : until])
            if at_end or not now.endswith(_HALF):
                break
        else:  # it is no character
            until = len(self._ids)
            now = self._decode(self._ids[self._context :])
        text = now[len(self._before) :]
        if until - self._context > _LONGEST_CONTEXT:
            self._context, now = self._known, self._decode(self._ids[self._known : until])
        self._known, self._before = until, now
        return text

    def _certain(self, text: str, at_end: bool) -> str:
        if self.stopped:
            return ""
        text = self._held + text
        places = [place for place in map(text.find, self._stop) if place >= 0]
        if places:
            self.stopped = True
            self._held = ""
            return text[: min(places)]
        held = 0 if at_end else max((_overlap(text, sequence) for sequence in self._stop), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text: str, sequence: str) -> int:
    """How many characters at the end of the text may be the beginning of the sequence."""
    longest = min(len(text), len(sequence) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(sequence[:size])), 0)
