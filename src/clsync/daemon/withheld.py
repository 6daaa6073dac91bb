"""Deletions at one target that wait for somebody's word, because nobody saw them happen and they are too many."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence, Set

from clsync.core import batch as flag
from clsync.core.changes import DOUBT, NAME
from clsync.core.paths import ancestors, is_below
from clsync.daemon.log import Log
from clsync.daemon.target import Target
from clsync.options.brake import Brake


class Withheld:
    """What is not deleted at a target until that is accepted."""

    def __init__(self, target: Target, log: Log) -> None:
        """Nothing is, for now."""
        self._target, self._log = target, log
        self.brake: Brake | None = None
        """How much may go without a word; None: anything."""
        self.trusted = False
        """A target that is new may lose anything, because the operator has said so."""
        self._everything = 0
        """Entries that the last full comparison would have deleted."""
        self._named: dict[bytes, int] = {}
        """What a comparison with memory found gone -> how many entries that is, about."""
        self._listed: set[bytes] = set()
        """Directories that were handed over name by name instead: what else the target has in them is not known."""
        self._agreed: set[bytes] = set()
        """Those of them that are to be compared with it, as somebody has agreed to what that deletes."""
        self._told = 0
        """How many entries there were when that was said last."""
        self._accepted = 0
        """How many entries may go with the next full comparison beyond what always may: somebody has agreed to that."""

    @property
    def count(self) -> int:
        """Return how many entries are left at the target though the source does not have them."""
        return self._everything + sum(self._named.values())

    @property
    def named(self) -> Collection[bytes]:
        """Return what is left there by its own name."""
        return self._named.keys()

    @property
    def text(self) -> str:
        """Return what is to be said of them; empty where there are none."""
        if not self.count:
            return ""
        return f"{self.count} entries that the source does not have are left there: more than --max-delete allows"

    def most(self, known: int | None) -> int | None:
        """Return how many entries may go in one batch, None for any number.

        `known`: how many the target holds; None: it is not known, the target is new.
        """
        most = self._always(known)
        return None if most is None else most + self._accepted

    def _always(self, known: int | None) -> int | None:
        """Return how many entries may go though nobody has agreed to it (see `most`)."""
        if self.brake is None or (self.trusted and known is None):
            return None
        return self.brake.most(known)

    def note_compared(self, spared: int) -> None:
        """Note that everything was compared, and what was left there by that."""
        self._named.clear()
        self._listed.clear()
        self._agreed.clear()
        self._everything, self._accepted = spared, 0
        self.tell()

    def too_many(self, gone: Sequence[bytes], count: int, known: int | None) -> bool:
        """Tell whether some paths may not go, `count` entries with what is below them; if so, they are left there."""
        most = self._always(known)
        for path in gone:
            self._named.pop(path, None)
        if most is None or count + sum(self._named.values()) <= most:
            return False
        self._named |= dict.fromkeys(gone, 1)
        self._named[gone[0]] += count - len(gone)
        return True

    def seen(self, paths: Iterable[bytes]) -> None:
        """Forget what is handed over now."""
        if self._named:
            for path in paths:
                self._named.pop(path, None)

    def around(self) -> set[bytes]:
        """Return what is left there by its own name, and all directories above it."""
        return {up for path in self._named for up in (path, *ancestors(path))}

    def seen_below(self, directory: bytes) -> None:
        """Forget what is at and below a directory, which is looked at anew."""
        self.seen([path for path in self._named if path == directory or is_below(path, directory)])

    @property
    def listed(self) -> Collection[bytes]:
        """Return the directories that were handed over name by name: they are not equal yet."""
        return self._listed

    @property
    def agreed(self) -> Set[bytes]:
        """Return the directories in which as much may go as a comparison finds."""
        return self._agreed

    def note_listed(self, directories: Iterable[bytes]) -> None:
        """Note that directories are handed over name by name, so that nothing is deleted there."""
        self._listed.update(directories)

    def handed_over(self, entries: Mapping[bytes, int]) -> list[bytes]:
        """Be told what is handed over now; return which directories have to be compared: nothing is left in them.

        Nothing is left below what is compared with all that is in it, or is no directory any more.
        """
        if not (self._named or self._listed):
            return []
        everything = entries.get(b"", 0) & flag.RECURSIVE  # that is counted once more
        if not everything:
            self.seen([path for path in self._named if _is_over(path, entries)])
        self._listed = {path for path in self._listed if not _is_over(path, entries)}
        free = self._listed - self.around()
        self._listed -= free
        return [*free]

    def landed(self, entries: Mapping[bytes, int]) -> None:
        """Be told what has been handed over: what was agreed to for that is used up."""
        self._agreed = {path for path in self._agreed if not _is_over(path, entries)}

    def holds(self, path: bytes) -> bool:
        """Tell whether a path is left there by its own name, or everything that is too much."""
        return bool(self._everything) or path in self._named

    def accept(self) -> list[tuple[bytes, int]]:
        """Let it go, and no more than that; return what is dirty by that."""
        found = [(path, NAME) for path in self._named] + [(path, DOUBT) for path in self._listed]
        self._agreed |= self._listed
        if self._everything:
            found.append((b"", DOUBT))
            self._accepted = self.count
        self._named.clear()
        self._listed.clear()
        self._told = self._everything
        return found

    def tell(self) -> None:
        """Say how many there are, if there are more than were told."""
        if self.count > self._told:
            hint = "all else is synced; if they may go: clsync ctl accept, or signal RTMIN"
            self._log.error(f"{self._target.called}: {self.text}", hint)
        self._told = self.count


def _is_over(path: bytes, entries: Mapping[bytes, int]) -> bool:
    """Tell whether a directory is handed over with all that is below it, or is none any more."""
    return any(
        flags & flag.RECURSIVE or not flags & flag.DIRECTORY
        for flags in (entries.get(up) for up in (b"", path, *ancestors(path)))
        if flags is not None
    )
