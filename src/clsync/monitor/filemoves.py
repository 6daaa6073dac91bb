"""Which files were renamed, as far as pairs of events tell: inotify names directories and names, and no files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from clsync.monitor.base import MOVES_LIMIT

_HALVES = 64
"""First halves of renames that are kept until the second one comes, which is next in all but busy trees."""


class FileMove(NamedTuple):
    """A file that was renamed, once or more often, in one window. Names are keys of the window."""

    old: bytes
    new: bytes
    fresh: bool
    """It came while the window was open."""
    since: float
    """It happened after this time (monotonic seconds)."""


class _Half(NamedTuple):
    key: bytes
    move: FileMove
    written: int


class FileMoves:
    """The renames of files in one window."""

    def __init__(self) -> None:
        self._at: dict[bytes, FileMove] = {}
        """Name -> the file that came there by renames."""
        self._halves: dict[bytes, _Half] = {}
        self._last: dict[bytes, bytes] = {}
        """Name -> the name from which the file came that stands there."""
        self._unsure: set[bytes] = set()
        """Names at which one of two files may stand, and those to which such a file was renamed."""
        self._came: set[bytes] = set()
        """Names at which something stands that came from elsewhere."""
        self._sure = True

    def __bool__(self) -> bool:
        """Tell whether any file was renamed."""
        return bool(self._at)

    def leaves(self, cookie: bytes, key: bytes, written: int, *, created: bool, removed: bool, since: float) -> None:
        """Note that a file has left a name to which it was written as `written` says.

        `created`, `removed`: what the window holds of that name, from before or after a file came there.
        """
        if len(self._at) >= MOVES_LIMIT:
            self._sure = False
            return
        move = self._at.pop(key, None)
        if move is None:
            move = FileMove(key, key, created or key in self._came, since)
        elif created or removed:
            self._unsure.add(key)
        if len(self._halves) >= _HALVES:
            del self._halves[next(iter(self._halves))]
        self._halves[cookie] = _Half(key, move, written)

    def comes(self, cookie: bytes, key: bytes) -> int:
        """Note that a file has got a name; return how it was written before."""
        half = self._halves.pop(cookie, None)
        if half is None:
            self._came.add(key)
            self._at.pop(key, None)
            return 0
        if self._last.get(half.key) == key:
            # There and back; or these two were swapped, which is told by the same four events.
            self._unsure |= {half.key, key}
        elif half.key in self._unsure:
            self._unsure.add(key)
        self._last[key] = half.key
        self._came.discard(key)
        self._at[key] = half.move._replace(new=key)
        return half.written

    def found(self, window: Mapping[bytes, int], others: int) -> list[FileMove] | None:
        """Return the renames, None where they are too many; `others`: events after which another file may stand there."""
        if not self._sure:
            return None
        return [
            move
            for key, move in self._at.items()
            if not (window.get(key, 0) & others or key in self._unsure or move.old in self._unsure)
        ]
