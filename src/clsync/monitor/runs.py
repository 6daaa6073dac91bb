"""Events that look alike, recognised many at a time: the kernel's buffer is full of rewritten files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

LEAST = 16
"""Runs shorter than this are folded one by one: looking at them would cost more."""
_MOST = 4096
_PART = 65_536
"""Names of which the paths are found at once: about as many as go into one batch."""
_DIRECTORIES = 256
"""Directories of which the paths are found between two rests."""
_ALIKE = 10
"""Bytes of a key that tell how long the record of its directory is: fanotify's handles have their length there."""


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


def in_order(
    keys: set[bytes],
    end: Callable[[bytes], int],
    directories: Callable[[bytes, list[bytes]], Iterable[bytes]],
    begin: int = 0,
) -> Iterator[list[bytes]]:
    """Take keys out of a set; yield the paths they stand for, some thousand at a time, and empty lists for a rest.

    What begins a key, up to `end` (known from its first 10 bytes), is the record of a directory; `directories` is given
    it with its keys, and returns its paths. The name begins there, or at `begin`. Paths are sorted by directory, as far
    as they go into one batch.
    """
    groups: defaultdict[bytes, list[bytes]] = defaultdict(list)
    alike, stop = b"", 0
    for number, key in enumerate(keys, 1):
        if key[:_ALIKE] != alike:
            alike, stop = key[:_ALIKE], end(key)
        groups[key[:stop]].append(key)
        if not number % _MOST:
            yield []
    keys.clear()
    while groups:
        part: list[tuple[bytes, int, list[bytes]]] = []
        size = 0
        while groups and size < _PART:
            record, members = groups.popitem()
            part += [
                (path + b"/" if path else b"", begin or len(record), members) for path in directories(record, members)
            ]
            size += len(members)
            if not len(groups) % _DIRECTORIES:
                yield []
        part.sort()
        yield from _joined(part)


def _joined(part: list[tuple[bytes, int, list[bytes]]]) -> Iterator[list[bytes]]:
    paths: list[bytes] = []
    for top, begin, members in part:
        for first in range(0, len(members), _MOST):
            paths += [top + key[begin:].rstrip(b"\0") for key in members[first : first + _MOST]]
            if len(paths) >= _MOST:
                yield paths
                paths = []
    yield paths


def merge(window: dict[bytes, int], rewritten: Iterable[bytes], mask: int) -> None:
    """Put what came in runs to the keys that came alone."""
    for key in rewritten:
        window[key] = window.get(key, 0) | mask
