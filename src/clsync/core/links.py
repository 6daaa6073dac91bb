"""Which names belong to a hard-linked file: a bounded memory of what scans have found."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import NamedTuple

from clsync.core.classify import Stat
from clsync.core.memory import remember

Inode = tuple[int, int]
_DOUBTED = 200_000
"""More than are in doubt at any time: one that is dropped too early is searched for again and again."""


class Names(NamedTuple):
    """The names of one inode below the root, and how many more it has elsewhere."""

    paths: frozenset[bytes]
    outside: int
    sure: bool
    """No name was missed: all links are below the root, or two scans found the same."""
    former: frozenset[bytes] = frozenset()
    """Names it had before: who opened it by one of them may still write to it."""


class LinkIndex:
    """Remembers the names of hard-linked inodes, least recently used out first, at most `limit` names."""

    def __init__(self, limit: int = 100_000) -> None:
        self._limit = limit
        self._known: OrderedDict[Inode, Names] = OrderedDict()
        self._inodes: dict[bytes, Inode] = {}
        self._held = 0
        """Names in `_known`: one that has passed from file to file is held for each."""
        self._doubted: dict[Inode, Names] = {}

    def learn(self, inode: Inode, paths: Iterable[bytes], links: int) -> None:
        """Note that a whole scan found `paths` for an inode with `links` links.

        A scan misses a name that is moved meanwhile: names outside the root are believed when two scans agree.
        """
        old = self._doubted.pop(inode, None) or self._known.get(inode)
        names = frozenset(paths)
        outside = max(links - len(names), 0)
        sure = not outside or (old is not None and old[:2] == (names, outside))
        self._remember(inode, Names(names, outside, sure))

    def _remember(self, inode: Inode, names: Names) -> None:
        old = self._known.get(inode)
        if old is not None:
            self.forget(inode)
            names = names._replace(former=(old.paths | old.former) - names.paths)
        self._known[inode] = names
        held = names.paths | names.former
        self._held += len(held)
        self._inodes.update(dict.fromkeys(held, inode))
        while self._held > self._limit:
            self.forget(next(iter(self._known)))

    def forget(self, inode: Inode) -> None:
        """Drop what is known of an inode."""
        names = self._known.pop(inode, None)
        if names is not None:
            held = names.paths | names.former
            self._held -= len(held)
            for path in held:
                if self._inodes.get(path) == inode:
                    del self._inodes[path]

    def __bool__(self) -> bool:
        """Tell whether anything is known."""
        return bool(self._known)

    def siblings(self, path: bytes) -> tuple[Inode, frozenset[bytes]] | None:
        """Return the inode that a path stood for when we last looked, and the other names it had then."""
        inode = self._inodes.get(path)
        return None if inode is None else (inode, self._known[inode].paths - {path})

    def paths_of(self, inode: Inode) -> frozenset[bytes]:
        """Return the names that an inode had when we last looked."""
        names = self._known.get(inode) or self._doubted.get(inode)
        return names.paths if names is not None else frozenset()

    def unsure(self, inode: Inode) -> bool:
        """Tell whether what is known of an inode is to be confirmed by another scan."""
        names = self._known.get(inode)
        return names is not None and not names.sure

    def doubt(self, inode: Inode) -> None:
        """Let the next `complete` ask for a scan, whose answer is compared with what is known now."""
        names = self._known.get(inode)
        if names is not None:
            remember(self._doubted, inode, names, _DOUBTED)
            self.forget(inode)

    def complete(
        self,
        inode: Inode,
        seen: Iterable[bytes],
        links: int,
        lstat: Callable[[bytes], Stat | None],
        shown_twice: bool = False,
    ) -> frozenset[bytes] | None:
        """Return all names of an inode below the root, or None where only a scan can tell.

        `seen` are names that stand for it right now, `links` is its link count right now. `shown_twice`: its file
        system is mounted more than once below the root, which shows more names than there are.
        """
        known = self._known.get(inode)
        names = frozenset(seen)
        if known is not None:
            self._known.move_to_end(inode)
            names |= frozenset(p for p in known.paths - names if stands_for(lstat(p), inode))
        outside = known.outside if known is not None else 0
        if shown_twice and (known is None or not names <= known.paths):
            return None
        # Mounted twice, a file system shows more names than there are.
        if len(names) + outside < links or (known is not None and outside and not names <= known.paths):
            return None
        if known is None or names != known.paths:
            self._remember(inode, Names(names, outside, known.sure if known is not None else True))
        return names


def stands_for(found: Stat | None, inode: Inode) -> bool:
    """Tell whether what was found is the inode."""
    return found is not None and (found.st_dev, found.st_ino) == inode
