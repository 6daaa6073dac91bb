"""Rules and rsync: recursion is expanded here, deletions are found first, and what rules reject is protected.

A list of rejected source paths would not do: it misses what is made after the walk, and what exists only at the
destination.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple

from clsync.core import batch as flag
from clsync.core import lists
from clsync.core.paths import parent
from clsync.handler.base import PathRules
from clsync.handler.runner import anonymous_file
from clsync.kernel.slices import in_slices
from clsync.kernel.walk import lstat_below, walk

PART = 50_000
"""Entries of one run when recursion is expanded: memory is bounded, here and in rsync."""


class Doomed(NamedTuple):
    """What would be deleted at the destination."""

    missing: list[bytes]
    """Topmost paths that are gone here and may go there."""
    protected: list[bytes]
    """Topmost paths that rules reject."""


def unknown(entries: Mapping[bytes, int], rules: PathRules) -> dict[bytes, int]:
    """Return the entries that reach beyond themselves, where rules may reject something."""
    deep = flag.RECURSIVE | flag.MISSING
    return {p: f for p, f in entries.items() if f & deep and not rules.recursion_is_free(p)}


@contextmanager
def listing() -> Iterator[BinaryIO]:
    """Give a file without a name for a program's output."""
    with open(anonymous_file(), "r+b") as file:
        yield file


def doomed(itemized: BinaryIO, root: int, rules: PathRules | None) -> Doomed:
    """Read what `rsync -n -i --delete` printed."""
    itemized.seek(0)
    look = lstat_below(root)
    missing, protected = [], []
    for line in itemized:
        for path, is_dir in lists.deletions(line.rstrip(b"\n")):
            if rules is not None and not rules.permits(path, is_dir):
                protected.append(path)
            elif look(path) is None and (not parent(path) or look(parent(path)) is not None):
                missing.append(path)
    return Doomed(missing, _topmost(protected))


def filter_file(protected: Iterable[bytes]) -> bytes:
    """Write a filter file (rsync(1), FILTER RULES) that protects paths at the destination; return its name."""
    descriptor, name = tempfile.mkstemp(prefix="clsync-protect-")
    with open(descriptor, "wb") as file:
        for path in protected:
            file.write(b"P " + lists.pattern(path) + b"\n")
    return os.fsencode(name)


async def below(
    tops: Mapping[bytes, int], root: int, rules: PathRules, one_file_system: int, linked: dict[bytes, int]
) -> AsyncIterator[dict[bytes, int]]:
    """Yield what rules permit at and below directories, in parts, without recursion.

    Files with several names are put into `linked` instead: rsync links only what it sees in one run.
    """
    part: dict[bytes, int] = {}
    for top, flags in tops.items():
        keep = flags & flag.FORCE
        if rules.permits(top, True):
            part[top] = flag.DIRECTORY | keep
        below_top = walk(root, top, lambda p: rules.permits(p, True), one_file_system > 0)
        async for path, found in in_slices(below_top):
            is_dir = stat.S_ISDIR(found.st_mode)
            if not rules.permits(path, is_dir) or lists.too_long(path):
                continue
            if stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
                linked[path] = linked.get(path, 0) | flag.LINKED | keep
            else:
                part[path] = keep | (flag.DIRECTORY if is_dir else 0)
            if len(part) >= PART:
                yield part
                part = {}
    if part:
        yield part


def _topmost(paths: list[bytes]) -> list[bytes]:
    kept: set[bytes] = set()
    for path in sorted(paths):
        above = parent(path)
        while above and above not in kept:
            above = parent(above)
        if not above:
            kept.add(path)
    return sorted(kept)
