"""Which entries must not be handed over while others are on their way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping

from clsync.core import batch as flag
from clsync.core.changes import DOUBT, NAME
from clsync.core.classify import CHANGE_SHIFT
from clsync.core.paths import ancestors, parent


class Overlap:
    """The entries of all batches in flight.

    Two runs that deal with one path may end in any order: the older look would be the last word. An entry meets
    another one at its own path, above it (a directory's attributes are set by runs that write below it, too), or below
    one that stands for more than itself.
    """

    def __init__(self) -> None:
        self._flights: list[Mapping[bytes, int]] = []
        self._above: Counter[bytes] = Counter()

    def begin(self, entries: Mapping[bytes, int]) -> None:
        """Note that entries are on their way."""
        self._flights.append(entries)
        self._above.update(up for path in entries for up in ancestors(path))
        self._above[b""] += len(entries)

    def end(self, entries: Mapping[bytes, int]) -> None:
        """Note that they have arrived, or not."""
        self._flights = [other for other in self._flights if other is not entries]
        self._above.subtract(up for path in entries for up in ancestors(path))
        self._above[b""] -= len(entries)
        self._above = +self._above

    def meets(
        self,
        entries: Mapping[bytes, int],
        groups: Iterable[Iterable[bytes]] = (),
        waiting: Container[bytes] = (),
    ) -> set[bytes]:
        """Return the entries that meet what is on its way.

        `groups`: names of one file each, which go together. `waiting`: directories that came or went, and wait
        themselves: what is below them has no place before.
        """
        if not self._flights:
            return set()
        together = [[name for name in names if name in entries] for names in groups]
        met = {path for path in entries if self._meets(path) or _is_below_any(path, waiting)}
        known = -1
        while len(met) != known:
            known = len(met)
            moved = {path for path in met if entries[path] >> CHANGE_SHIFT & (NAME | DOUBT)}
            if moved:
                met.update(path for path in entries if _is_below_any(path, moved))
            for names in together:
                if not met.isdisjoint(names):
                    met.update(names)
        return met

    def still(self, paths: Iterable[bytes]) -> set[bytes]:
        """Return those of some paths that meet what is on its way."""
        return {path for path in paths if self._meets(path)} if self._flights else set()

    @property
    def whole(self) -> bool:
        """Whether everything is on its way."""
        return any(flight.get(b"", 0) & flag.RECURSIVE for flight in self._flights)

    def shared_directories(self, entries: Mapping[bytes, int]) -> set[bytes]:
        """Return the directories in which names come or go with these entries, and for which others set attributes."""
        if not self._flights:
            return set()
        changed = {parent(path) for path, flags in entries.items() if path and flags >> CHANGE_SHIFT & NAME}
        return changed & self._above.keys() - entries.keys()

    def _meets(self, path: bytes) -> bool:
        if path in self._above or any(path in flight for flight in self._flights):
            return True
        return any(_is_wide(flight.get(up)) for up in (b"", *ancestors(path)) for flight in self._flights)


def _is_below_any(path: bytes, directories: Container[bytes]) -> bool:
    return bool(path) and (b"" in directories or any(up in directories for up in ancestors(path)))


def _is_wide(flags: int | None) -> bool:
    """Tell whether an entry stands for what is below it as well."""
    return flags is not None and (bool(flags & flag.RECURSIVE) or not flags & flag.DIRECTORY)
