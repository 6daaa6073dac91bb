"""Events that look alike, recognised many at a time: the kernel's buffer is full of rewritten files."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator

LEAST = 16
"""Runs shorter than this are folded one by one: looking at them would cost more."""
_MOST = 4096


def run_length(data: bytes, offset: int, stride: int, columns: Iterable[tuple[int, bytes]]) -> int:
    """Return how many events from `offset` on have `stride` bytes and agree in some of them; 0: too few.

    `columns`: (position in the event, the bytes that may stand there). Where the length of an event is among them,
    every event of the run is known to begin where the one before it ends.
    """
    count = min((len(data) - offset) // stride, _MOST)
    for at, allowed in columns:
        if count < LEAST:
            return 0
        column = data[offset + at : offset + count * stride : stride]
        count -= len(column.lstrip(allowed))
    return count if count >= LEAST else 0


def by_directory(keys: set[bytes], end: Callable[[bytes], int]) -> Iterator[tuple[bytes, list[bytes]]]:
    """Take keys out of a set; yield what begins them, up to `end`, and those that begin so: one directory at a time."""
    ordered = sorted(keys)
    keys.clear()
    while ordered:
        last = ordered[-1]
        record = last[: end(last)]
        begin = max(bisect_left(ordered, record), len(ordered) - _MOST)
        group = ordered[begin:]
        del ordered[begin:]
        yield record, group


def merge(window: dict[bytes, int], rewritten: Iterable[bytes], mask: int) -> None:
    """Put what came in runs to the keys that came alone."""
    for key in rewritten:
        window[key] = window.get(key, 0) | mask
