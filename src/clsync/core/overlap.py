"""Which entries must not be handed over while others are on their way."""

from __future__ import annotations

from collections.abc import Collection, Container, Generator, Iterable, Mapping

from clsync.core import batch as flag
from clsync.core.changes import DOUBT, NAME
from clsync.core.classify import CHANGE_SHIFT
from clsync.core.paths import ancestors, parent
from clsync.core.steps import parts

Steps = Generator[None, None, None]


class Overlap:
    """The entries of all batches in flight.

    Two runs that deal with one path may end in any order: the older look would be the last word. An entry meets
    another one at its own path, above it (a directory's attributes are set by runs that write below it, too), or below
    one that stands for more than itself.

    What has many entries to go through goes step by step. Between two steps of one such work, no other may begin.
    """

    def __init__(self) -> None:
        self._wide: dict[bytes, int] = {}
        """Entries that stand for what is below them as well -> in how many flights. A file may become a directory."""
        self._touched: dict[bytes, int] = {}
        """Directories whose attributes are set, for themselves or for what is below them -> by how many flights."""

    def begin(self, entries: Mapping[bytes, int]) -> Steps:
        """Note that entries are on their way."""
        yield from self._count(entries, 1)

    def end(self, entries: Mapping[bytes, int]) -> Steps:
        """Note that they have arrived, or not."""
        yield from self._count(entries, -1)

    def _count(self, entries: Mapping[bytes, int], by: int) -> Steps:
        wide, touched = self._wide, set[bytes]()
        if entries:
            touched.add(b"")
        for part in parts(entries):
            for path in part:
                flags = entries[path]
                if flags & flag.DIRECTORY and not flags & flag.RECURSIVE:
                    touched.add(path)
                else:
                    _add(wide, path, by)
                up = parent(path)
                while up not in touched:
                    touched.add(up)
                    up = parent(up)
            yield
        for part in parts(touched):
            for path in part:
                _add(self._touched, path, by)
            yield

    def meets(
        self,
        entries: Mapping[bytes, int],
        groups: Iterable[Collection[bytes]] = (),
        waiting: Container[bytes] = (),
    ) -> Generator[None, None, set[bytes]]:
        """Return the entries that meet what is on its way.

        `groups`: names of one file each, which go together. `waiting`: directories that came or went, and wait
        themselves: what is below them has no place before.
        """
        met: set[bytes] = set()
        if not self._touched:
            return met
        below_wide, below_waiting = _Below(self._wide), _Below(waiting)
        for part in parts(entries):
            met.update(path for path in part if self._meets(path, below_wide) or below_waiting(path))
            yield
        together = [names for names in groups if len(names) > 1]
        fresh = met
        while fresh:
            moved: set[bytes] = set()
            for part in parts(fresh):
                moved.update(path for path in part if entries[path] >> CHANGE_SHIFT & (NAME | DOUBT))
                yield
            more: set[bytes] = set()
            below_moved = _Below(moved)
            for part in parts(entries if moved else ()):
                more.update(path for path in part if below_moved(path))
                yield
            for some in parts(together):
                more.update(
                    name for names in some if not fresh.isdisjoint(names) for name in names if name in entries
                )
                yield
            fresh = more - met
            met |= fresh
        return met

    def free(self, paths: Iterable[bytes]) -> Generator[list[bytes], None, None]:
        """Yield those of some paths that meet nothing on its way any more, a few at a time."""
        below_wide = _Below(self._wide)
        for part in parts(paths):
            yield [path for path in part if not self._meets(path, below_wide)]

    @property
    def whole(self) -> bool:
        """Whether everything is on its way."""
        return b"" in self._wide

    def shared_directories(self, entries: Mapping[bytes, int]) -> Generator[None, None, set[bytes]]:
        """Return the directories in which names come or go with these entries, and whose attributes others set."""
        changed: set[bytes] = set()
        for part in parts(entries if self._touched else ()):
            changed.update(parent(path) for path in part if path and entries[path] >> CHANGE_SHIFT & NAME)
            yield
        return {path for path in changed if path in self._touched and path not in entries}

    def _meets(self, path: bytes, below_wide: _Below) -> bool:
        return path in self._wide or path in self._touched or below_wide(path)


class _Below:
    """Tells whether something lies below one of some directories; remembers the answer for each directory."""

    def __init__(self, tops: Container[bytes]) -> None:
        self._tops = tops
        self._known: dict[bytes, bool] = {}

    def __call__(self, path: bytes) -> bool:
        if not path:
            return False
        up = parent(path)
        known = self._known.get(up)
        if known is None:
            tops = self._tops
            known = self._known[up] = up in tops or b"" in tops or any(above in tops for above in ancestors(up))
        return known


def _add(counts: dict[bytes, int], path: bytes, by: int) -> None:
    count = counts.get(path, 0) + by
    if count:
        counts[path] = count
    else:
        del counts[path]
