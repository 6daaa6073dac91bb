"""Pieces of work. Each needs only the two roots, so any process can do any of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from clsync.core import batch as flag
from clsync.core.paths import ancestors, parent


class Tree(NamedTuple):
    """A directory to be made equal with everything below it. Its parent exists at the destination."""

    path: bytes
    force: bool
    """Copy content whatever size and mtime say."""
    fresh: bool = False
    """We have just made it at the destination: nothing can be in it."""
    free: bool = False
    """Rules cannot reject anything in it."""


class Listed(NamedTuple):
    """Some names of one directory, each to be made equal alone."""

    directory: bytes
    names: list[tuple[bytes, int]]
    """Name -> flags of the batch, sorted."""


class Inode(NamedTuple):
    """What makes names hard links of one file."""

    dev: int
    ino: int


class Linked(NamedTuple):
    """One name of a file that has several."""

    inode: Inode
    path: bytes
    force: bool


class Links(NamedTuple):
    """Groups of names that are to share an inode each."""

    groups: list[tuple[Inode, bool, list[bytes]]]
    """Inode, force, paths."""


Unit = Tree | Listed | Links

_NAMES: Final = 1000
"""Names in one unit."""
_GROUPS: Final = 200
"""Groups of links in one unit."""


class Phases(NamedTuple):
    """A batch as units. Each phase begins when the one before is complete."""

    gone: list[Unit]
    """Deletions: they make room for the rest."""
    first: list[Unit]
    forced: list[Unit]
    """Files below recursive entries: their directories must not be listed meanwhile."""
    linked: dict[bytes, int]
    """Files with several names, grouped once all of them are known."""


def phases(entries: Mapping[bytes, int], hard_links: bool) -> Phases:
    """Sort the entries of a batch into phases."""
    deep = {path for path, flags in entries.items() if flags & flag.RECURSIVE and not flags & flag.MISSING}
    gone, first, forced = _Lists(), _Lists(), _Lists()
    linked: dict[bytes, int] = {}
    trees: list[Unit] = []
    for path, flags in entries.items():
        if not path:
            trees.append(Tree(b"", bool(flags & flag.FORCE)) if path in deep else Listed(b"", []))
        elif flags & flag.LINKED and hard_links:
            linked[path] = flags
        elif flags & flag.MISSING:
            gone.add(path, flags)
        else:
            (forced if deep and _covered(path, deep) else first).add(path, flags)
    return Phases(gone.units, [*trees, *first.units], forced.units, linked)


class _Lists:
    """Entries by directory, in parts."""

    def __init__(self) -> None:
        self.units: list[Unit] = []
        self._open: dict[bytes, Listed] = {}

    def add(self, path: bytes, flags: int) -> None:
        above = parent(path)
        at = self._open.get(above)
        if at is None or len(at.names) >= _NAMES:
            at = self._open[above] = Listed(above, [])
            self.units.append(at)
        at.names.append((path[len(above) + 1 if above else 0 :], flags))


def _covered(path: bytes, deep: set[bytes]) -> bool:
    return b"" in deep or any(above in deep for above in ancestors(path))


def groups(names: Iterable[Linked]) -> list[Unit]:
    """Put names of linked files together, each file in one unit."""
    files: dict[Inode, tuple[set[bytes], list[bool]]] = {}
    for inode, path, force in names:
        paths, forced = files.setdefault(inode, (set(), []))
        paths.add(path)
        if force and not forced:
            forced.append(True)
    whole = sorted((sorted(paths), inode, bool(forced)) for inode, (paths, forced) in files.items())
    made = [(inode, force, paths) for paths, inode, force in whole]
    return [Links(made[at : at + _GROUPS]) for at in range(0, len(made), _GROUPS)]
