"""A barrier: everything that was dirty when it was raised has to arrive, in that version or a later one."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from clsync.core.changes import DOUBT, NAME
from clsync.core.dirty import DirtySet
from clsync.core.paths import ancestors

_WHOLE = NAME | DOUBT
"""With these a directory stands for all below it."""


class Barrier:
    """What one target has still to be given. Times are monotonic seconds."""

    def __init__(self, dirty: DirtySet, now: float) -> None:
        """Raise it for all that is dirty `now`."""
        self._since = now
        self.left = dirty.paths()
        """What has not arrived, and has not failed since."""
        self.failed: dict[bytes, str] = {}
        """Path -> why it did not arrive."""
        self._again: set[bytes] = set()
        """What a batch that began since was to hand over once more."""

    @property
    def over(self) -> bool:
        """Whether nothing is to be waited for any more."""
        return not self.left

    def note(
        self,
        taken: Mapping[bytes, int],
        started: float,
        failed: Mapping[bytes, str],
        again: Collection[bytes],
        dirty: DirtySet,
    ) -> list[bytes]:
        """Take note of a batch that was settled: it began at `started`, and was made of the paths `taken`.

        `failed`: what could not be handed over, with reasons; `again`: what is to be handed over once more. A path that
        changed again while it was on its way has arrived all the same, if it was looked at after the barrier was raised.
        Return what failed in a batch that began before that: it is to be tried again.
        """
        mine = self.left & taken.keys()
        concerned = {path: why for path, why in failed.items() if not mine.isdisjoint((path, b"", *ancestors(path)))}
        if started < self._since:
            self.left |= concerned.keys()
            self.left -= {path for path in mine if not _is_dirty(path, dirty)}
            return list(concerned)
        self.failed |= concerned
        # What changes all the time may never be read in one piece with all its names: the second version counts.
        unsettled = {path for path in mine if dirty.waits(path) or (path in again and path not in self._again)}
        self._again |= mine & set(again)
        self.left -= (mine - unsettled) | concerned.keys()
        if self.left:
            whole = {path for path, bits in taken.items() if bits & _WHOLE and not dirty.waits(path)}
            self.left = {path for path in self.left if not self._arrived_with(path, whole, dirty)}
        return []

    def _arrived_with(self, path: bytes, whole: set[bytes], dirty: DirtySet) -> bool:
        """Tell whether a path that is not dirty by its own name any more has arrived with a directory above it."""
        if dirty.holds(path):
            return False
        return not whole.isdisjoint((b"", *ancestors(path))) or not _is_dirty(path, dirty)

    def end(self, why: str) -> None:
        """Wait no longer: what is left has failed."""
        self.failed |= dict.fromkeys(self.left, why)
        self.left = set()


def _is_dirty(path: bytes, dirty: DirtySet) -> bool:
    """Tell whether a path is dirty, by itself or because of a directory that stands for all below it."""
    return dirty.holds(path) or any(dirty.bits_of(up) & _WHOLE for up in (b"", *ancestors(path)))
