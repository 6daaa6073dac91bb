"""Polling: for file systems that tell nothing. Looks at everything again and again, a little at a time."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Container, Iterable, Iterator

from clsync.core.changes import ATTRIB, CONTENT, DOUBT, NAME, OF_DIRECTORY
from clsync.core.classify import LinkedFile
from clsync.core.moves import Move
from clsync.core.paths import is_below, join, parent
from clsync.core.rules import Rules
from clsync.core.stamps import YOUNG_NS, is_settled
from clsync.kernel.walk import walk
from clsync.monitor.base import Changed, Unnamed

_DRAIN_SECONDS = 0.01

Print = tuple[int, int]
"""What an entry is known by: hashes of what belongs to its content, and of its attributes; that is even of directories."""


class PollMonitor:
    """Compares the entries of one mount below a root with what they were."""

    def __init__(self, path: bytes, prefix: bytes, rules: Rules, interval: float) -> None:
        """`path`: the top, absolute; `prefix`: the same relative to the root; `interval`: seconds between looks."""
        self._path, self._prefix, self._interval = path, prefix, interval
        self._rules = rules if rules else None
        self._prints: dict[bytes, Print] = {}
        self._window: dict[bytes, int] = {}
        self._compared: list[tuple[bytes, int]] = []
        """Directories that were handed over whole since the last look -> since when (wall clock, ns)."""
        self._work: Iterator[None] | None = None
        self._next = float("inf")
        self._wanted = self._fresh = False
        self._identity: tuple[int, int] | None = None
        # Nothing is ever readable here; the caller is told by `due`.
        self._outlet, self._inlet = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.root_gone = False
        self.directory_moved = False

    def arm(self) -> Iterator[None]:
        """Look at everything for the first time."""
        for _ in self._look(first=True):
            yield
        self._next = time.monotonic() + self._interval

    def fileno(self) -> int:
        """Return a descriptor that is never readable."""
        return self._outlet

    def due(self) -> float | None:
        """Return when `drain` wants to be called."""
        if self._work is not None:
            return 0.0
        return self._next if self._next < float("inf") else None

    def begin_look(self) -> None:
        """Begin to look at everything again, after a look that has begun already."""
        self._wanted = True

    def looking(self) -> bool:
        """Tell whether that look goes on."""
        return self._wanted or self._fresh

    def drain(self) -> bool:
        """Go on looking (see `monitor.base`)."""
        now = time.monotonic()
        if self._work is None and (now >= self._next or self._wanted):
            self._work, self._fresh, self._wanted = self._look(first=False), self._wanted, False
        for _ in self._work or ():
            if time.monotonic() > now + _DRAIN_SECONDS:
                return bool(self._window)
        if self._work is not None:
            self._work, self._fresh = None, False
            self._next = time.monotonic() + self._interval
        return bool(self._window)

    def take(self) -> Iterator[Changed]:
        """End the window (see `monitor.base`)."""
        window, self._window = self._window, {}
        return (([path], bits) for path, bits in window.items())

    def watch_file(self, path: bytes, file: LinkedFile) -> int:
        """Return 0: every name is looked at."""
        return 0

    def moves(self) -> Iterator[Move | None]:
        """Yield nothing: a name that is gone and one that is new may be anything."""
        return iter(())

    def survivors(self) -> Iterator[Unnamed]:
        """Yield nothing: every name is looked at."""
        return iter(())

    def compared(self, directories: Iterable[bytes], since_ns: int) -> None:
        """Names may have been copied that came and went between two looks (see `monitor.base`)."""
        top = self._prefix
        self._compared += [
            (d, since_ns - YOUNG_NS) for d in directories if d == top or is_below(d, top) or is_below(top, d)
        ]

    def set_mounts(self, prefixes: Container[bytes]) -> None:
        """Do nothing: devices tell where a mount ends."""

    def uncovered(self, path: bytes) -> None:
        """Do nothing: the next look sees what is there."""

    def close(self) -> None:
        """Give the descriptors back."""
        os.close(self._outlet)
        os.close(self._inlet)

    def _look(self, first: bool) -> Iterator[None]:
        try:
            top = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            self.root_gone = not self._prefix
            return
        seen: dict[bytes, Print] = {}
        unreadable: set[bytes] = set()
        compared, self._compared = self._compared, []
        try:
            found = os.fstat(top)
            self._identity = self._identity or (found.st_dev, found.st_ino)
            if not self._prefix and self._identity != (found.st_dev, found.st_ino):
                self.root_gone = True
                return
            self._compare(b"", found, seen, first)
            self._doubt(b"", found, compared)
            for path, entry in walk(top, b"", self._enters, True, lambda path, error: unreadable.add(path)):
                self._compare(path, entry, seen, first)
                if compared and stat.S_ISDIR(entry.st_mode):
                    self._doubt(path, entry, compared)
                yield
        except OSError:
            self._compared += compared
            seen = self._prints | seen  # what cannot be read now is not gone
        finally:
            os.close(top)
        for number, path in enumerate(self._prints):
            if unreadable and path not in seen and parent(path) in unreadable:
                seen[path] = self._prints[path]  # what cannot be read now is not gone
                unreadable.add(path)
            if path not in seen and (not path or parent(path) in seen):
                self._note(path, NAME | _kind(self._prints[path]))
                self.directory_moved = True
            if not number % 256:
                yield
        self._prints = seen

    def _enters(self, path: bytes) -> bool:
        return self._rules is None or self._rules.reaches(join(self._prefix, path))

    def _compare(self, path: bytes, found: os.stat_result, seen: dict[bytes, Print], first: bool) -> None:
        old = self._prints.get(path)
        new = _print(found)
        seen[path] = new
        if first or old == new:
            return
        if old is None or old[0] != new[0]:
            # The name may stand for another inode.
            self._note(path, CONTENT | ATTRIB | NAME | _kind(new) | (_kind(old) if old is not None else 0))
        else:
            self._note(path, ATTRIB)

    def _doubt(self, path: bytes, found: os.stat_result, compared: list[tuple[bytes, int]]) -> None:
        """Have a directory compared again whose names changed while it was handed over."""
        full = join(self._prefix, path)
        changed = (top for top, since in compared if not is_settled(found.st_ctime_ns, since))
        if any(full == top or is_below(full, top) for top in changed):
            self._note(path, DOUBT)

    def _note(self, path: bytes, bits: int) -> None:
        full = join(self._prefix, path)
        if self._rules is not None and not self._rules.watches(full.rpartition(b"/")[0]):
            return
        self._window[full] = self._window.get(full, 0) | bits


def _print(found: os.stat_result) -> Print:
    if stat.S_ISDIR(found.st_mode):
        # Entries of a directory speak for themselves; another directory in its place is another content.
        attributes = hash((found.st_mode, found.st_uid, found.st_gid, found.st_mtime_ns, found.st_ctime_ns))
        return hash((found.st_dev, found.st_ino)), attributes & ~1
    young = not is_settled(found.st_ctime_ns, time.time_ns() - YOUNG_NS)
    content = hash((found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_mode, found.st_rdev))
    return (time.time_ns() if young else content), content | 1


def _kind(known: Print) -> int:
    return 0 if known[1] & 1 else OF_DIRECTORY
