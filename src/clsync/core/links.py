"""Which names belong to a hard-linked file: a bounded memory of what scans have found."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import NamedTuple

from clsync.core.classify import Stat

Inode = tuple[int, int]


class Names(NamedTuple):
    """The names of one inode below the root, and how many more it has elsewhere."""

    paths: frozenset[bytes]
    outside: int


class LinkIndex:
    """Remembers the names of hard-linked inodes, least recently used out first, at most `limit` names."""

    def __init__(self, limit: int = 100_000) -> None:
        self._limit = limit
        self._size = 0
        self._known: OrderedDict[Inode, Names] = OrderedDict()

    def learn(self, inode: Inode, paths: Iterable[bytes], links: int) -> None:
        """Note that a whole scan found `paths` for an inode with `links` links."""
        self.forget(inode)
        names = Names(frozenset(paths), 0)
        self._known[inode] = names._replace(outside=max(links - len(names.paths), 0))
        self._size += len(names.paths)
        while self._size > self._limit:
            _, oldest = self._known.popitem(last=False)
            self._size -= len(oldest.paths)

    def forget(self, inode: Inode) -> None:
        """Drop what is known of an inode."""
        names = self._known.pop(inode, None)
        if names is not None:
            self._size -= len(names.paths)

    def complete(
        self, inode: Inode, seen: Iterable[bytes], links: int, lstat: Callable[[bytes], Stat | None]
    ) -> frozenset[bytes] | None:
        """Return all names of an inode below the root, or None where only a scan can tell.

        `seen` are names that stand for it right now, `links` is its link count right now.
        """
        known = self._known.get(inode)
        names = frozenset(seen)
        if known is not None:
            self._known.move_to_end(inode)
            names |= frozenset(p for p in known.paths - names if _is(lstat(p), inode))
        outside = known.outside if known is not None else 0
        if len(names) + outside != links or (known is not None and outside and not names <= known.paths):
            return None
        self.learn(inode, names, links)
        return names


def _is(found: Stat | None, inode: Inode) -> bool:
    return found is not None and (found.st_dev, found.st_ino) == inode
