"""One directory beside what the index says of it: unchanged, or which names differ."""

from __future__ import annotations

import sqlite3
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import NamedTuple

from clsync.core.changes import DOUBT, NAME
from clsync.core.listing import PART, SELF, DamagedListing, changes, pack_part, unpack_part
from clsync.core.paths import join, leads_out
from clsync.state import index
from clsync.state.walker import Directory


class Seen(NamedTuple):
    """What came of looking at a directory."""

    directories: list[bytes]
    """Names of directories to look into."""
    linked: list[tuple[int, int, bytes]]
    """Files with several names: inode, links, name."""
    entries: int


def compare(rows: sqlite3.Connection, directory: Directory, tell: Callable[[bytes, int], None]) -> Seen:
    """Tell what differs from the index (path, `core.changes`).

    Directories that are new, are others than they were, or are not in the index are told, and not to be looked into.
    Raises sqlite3.Error, DamagedListing, or OSError where the directory cannot be looked at.
    """
    below: list[bytes] = []
    linked: list[tuple[int, int, bytes]] = []
    entries = 0
    known = False
    for part, low, high in _ranges(rows, directory):
        known = True
        seen = directory.observe(low, high)
        entries += len(seen.names)
        linked += seen.linked
        if pack_part(directory.path, seen.names, seen.records) == part:
            below += seen.directories
            continue
        differing = changes(unpack_part(directory.path, part), dict(zip(seen.names, seen.records, strict=True)))
        own = differing.pop(SELF, 0)
        if own:
            tell(directory.path, own)
            if own & NAME:
                return Seen([], linked, entries)
        for name, bits in differing.items():
            if leads_out(name):
                raise DamagedListing(directory.path)
            tell(join(directory.path, name), bits)
        below += [name for name in seen.directories if name not in differing]
    if not known:
        tell(directory.path, DOUBT)
    return Seen(below, linked, entries)


def _ranges(rows: sqlite3.Connection, directory: Directory) -> Iterator[tuple[bytes, int, int]]:
    """Yield the parts of the index, and from where to where the names go that belong into each."""
    names = directory.names
    last: bytes | None = None
    low = 0
    for first, part in index.parts_in(rows, directory.path):
        if last is not None:
            high = bisect_left(names, first, low)
            yield last, low, high
            low = high
        last = part
    if last is not None:
        yield last, low, len(names)


def pack(directory: Directory, put: Callable[[bytes, bytes], None]) -> Seen:
    """Put the parts of the listing of a directory as it is now (first name, part).

    Raises OSError where it cannot be looked at; some parts were put by then.
    """
    names = len(directory.names)
    size = PART if names > 2 * PART else max(names, 1)
    below: list[bytes] = []
    linked: list[tuple[int, int, bytes]] = []
    entries = 0
    for low in range(0, max(names, 1), size):
        seen = directory.observe(low, low + size)
        if seen.names:
            put(seen.names[0], pack_part(directory.path, seen.names, seen.records))
        below += seen.directories
        entries += len(seen.names)
        linked += seen.linked
    return Seen(below, linked, entries)
