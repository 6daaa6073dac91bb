"""What a comparison of a target with the source finds, and what has to be done about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntFlag
from typing import NamedTuple

from clsync.core.batch import DIRECTORY, MISSING, RECURSIVE
from clsync.core.changes import ATTRIB, CONTENT, DOUBT, NAME, OF_DIRECTORY
from clsync.core.paths import ancestors, parent

_WIDE = NAME | DOUBT
_REPLACES = MISSING | RECURSIVE


class Aspect(IntFlag):
    """In what a path differs at a target."""

    MISSING = 1
    """It is not there."""
    EXTRA = 2
    """It is there alone."""
    KIND = 4
    """It is another kind of thing, or another device."""
    CONTENT = 8
    """The bytes of a file, or what a symlink points to."""
    SIZE = 16
    MTIME = 32
    MODE = 64
    OWNER = 128
    GROUP = 256
    XATTRS = 512
    """Extended attributes, ACLs among them."""
    LINKS = 1024
    """It hangs together with other names than at the source."""
    UNREADABLE = 2048
    """It cannot be told: one of the two could not be read."""


_WORDS = {
    Aspect.MISSING: "missing",
    Aspect.EXTRA: "extra",
    Aspect.KIND: "type",
    Aspect.CONTENT: "content",
    Aspect.SIZE: "size",
    Aspect.MTIME: "mtime",
    Aspect.MODE: "mode",
    Aspect.OWNER: "owner",
    Aspect.GROUP: "group",
    Aspect.XATTRS: "xattrs",
    Aspect.LINKS: "hard links",
    Aspect.UNREADABLE: "unreadable",
}


class Difference(NamedTuple):
    """A path that differs."""

    path: bytes
    aspects: Aspect
    entries: int = 1
    """Of something extra: how many entries that is, with all below it."""

    @property
    def words(self) -> list[str]:
        """Return the aspects for people."""
        return [word for aspect, word in _WORDS.items() if self.aspects & aspect]


def bits_to_mend(aspects: Aspect) -> int:
    """Return the change bits (`core.changes`) with which a path is made equal; 0: nothing would do it."""
    if aspects & Aspect.EXTRA:
        return NAME | OF_DIRECTORY
    if aspects & (Aspect.MISSING | Aspect.KIND | Aspect.LINKS):
        return NAME
    if aspects & Aspect.CONTENT:
        return CONTENT | ATTRIB
    return ATTRIB if aspects & ~Aspect.UNREADABLE else 0


def topmost(found: Mapping[bytes, Difference]) -> dict[bytes, Difference]:
    """Return differences without those below something that is missing or extra as a whole."""
    whole = {path for path, one in found.items() if one.aspects & (Aspect.MISSING | Aspect.EXTRA)}
    kept: dict[bytes, Difference] = {}
    for path, one in found.items():
        top = next((up for up in ancestors(path) if up in whole), None)
        if top is None:
            kept[path] = kept[path]._replace(aspects=one.aspects) if path in kept else one
        elif found[top].aspects & Aspect.EXTRA:
            above = kept.get(top, found[top])
            kept[top] = above._replace(entries=above.entries + one.entries)
    return kept


class Moving:
    """Which paths may have been anything while they were looked at, because they were about to change or be changed."""

    def __init__(self, changed: Iterable[tuple[bytes, int]], handed: Iterable[tuple[bytes, int]]) -> None:
        """`changed`: path -> change bits; `handed`: path -> flags of what handlers were at work on (`core.batch`)."""
        events, flags_of = dict(changed), dict(handed)
        self._paths = events.keys() | flags_of.keys()
        # A name that comes or goes changes the directory that holds it.
        self._above = {parent(path) for path in self._paths if path}
        self._whole = {path for path, bits in events.items() if bits & _WIDE}
        self._whole |= {path for path, flags in flags_of.items() if flags & _REPLACES or not flags & DIRECTORY}

    def __contains__(self, path: bytes) -> bool:
        """Tell whether a path is one of these."""
        if path in self._paths or path in self._above:
            return True
        return bool(self._whole) and not self._whole.isdisjoint((b"", *ancestors(path)))

    def among(self, found: Mapping[bytes, Difference]) -> set[bytes]:
        """Return those of some differences that prove nothing."""
        moving = {path for path in found if path in self}
        if any(found[path].aspects & Aspect.LINKS for path in moving):
            # What hangs together is told by all names of it.
            moving |= {path for path, one in found.items() if one.aspects & Aspect.LINKS}
        return moving
