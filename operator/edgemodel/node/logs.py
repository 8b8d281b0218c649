"""Reads the logs that `shim` writes, as `kubectl logs` asks for them."""

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from edgemodel.node.shim import LOG_FILES, older

_POLL = 0.25


@dataclass(frozen=True)
class Wanted:
    """Which part of a log."""

    follow: bool = False
    tail: int | None = None
    since: str = ""
    """A time as the log has them: only what was said then or later."""
    timestamps: bool = False
    limit: int | None = None
    """Bytes, at the most."""


async def read(log: Path, wanted: Wanted, goes_on: Callable[[], bool]) -> AsyncIterator[bytes]:
    """What was said; with `follow` also what will be, until the process has ended."""
    left = wanted.limit
    async for text in _all(log, wanted, goes_on):
        if left is not None:
            text, left = text[:left], left - len(text)
        if text:
            yield text
        if left is not None and left <= 0:
            return


async def _all(log: Path, wanted: Wanted, goes_on: Callable[[], bool]) -> AsyncIterator[bytes]:
    text: bytes | None
    with ExitStack() as stack:
        current = stack.enter_context(log.open("rb", buffering=0))
        for text in await asyncio.to_thread(_said, log, current, wanted):
            yield text
        unfinished = b""
        while wanted.follow:
            going_on = goes_on()
            new = current.readall() or b""
            lines, unfinished = _split(unfinished + new)
            for line in lines:
                if (text := _shown(line, wanted)) is not None:
                    yield text
            if not new:
                if not going_on:
                    return
                await asyncio.sleep(_POLL)
                if _is_another(log, current):
                    stack.close()
                    current = stack.enter_context(log.open("rb", buffering=0))


def _is_another(log: Path, file: FileIO) -> bool:
    """Whether the log's name is another file's now."""
    with suppress(FileNotFoundError):
        return log.stat().st_ino != os.fstat(file.fileno()).st_ino
    return False


def _said(log: Path, current: FileIO, wanted: Wanted) -> Iterable[bytes]:
    """What is in the files now. Leaves the newest one behind what was read of it."""
    shown = (text for line in _lines(log, current) if (text := _shown(line, wanted)) is not None)
    return list(shown) if wanted.tail is None else deque(shown, maxlen=max(wanted.tail, 0))


def _lines(log: Path, current: FileIO) -> Iterator[bytes]:
    for number in range(LOG_FILES - 1, 0, -1):
        with suppress(FileNotFoundError), older(log, number).open("rb") as file:
            yield from file
    lines, unfinished = _split(current.readall() or b"")
    current.seek(-len(unfinished), os.SEEK_CUR)
    yield from lines


def _split(data: bytes) -> tuple[list[bytes], bytes]:
    """Whole lines, and what is left."""
    *lines, rest = data.split(b"\n")
    return [line + b"\n" for line in lines], rest


def _shown(line: bytes, wanted: Wanted) -> bytes | None:
    """A line of the log as it is shown; None if it isn't."""
    time, _, rest = line.partition(b" ")
    _, _, rest = rest.partition(b" ")
    whole, _, text = rest.partition(b" ")
    if time.decode(errors="replace") < wanted.since:
        return None
    text = text if whole == b"F" else text.rstrip(b"\n")
    return time + b" " + text if wanted.timestamps else text
