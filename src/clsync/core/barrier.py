"""A barrier: everything that was dirty when it was raised has to arrive, in that version or a later one."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from clsync.core.changes import DOUBT, NAME
from clsync.core.dirty import DirtySet
from clsync.core.paths import ancestors


class Barrier:
    """What one target has still to be given. Times are monotonic seconds."""

    def __init__(self, dirty: DirtySet, now: float) -> None:
        """Raise it for all that is dirty `now`."""
        self._since = now
        self.left = dirty.paths()
        """What has not arrived, and has not failed since."""
        self.failed: dict[bytes, str] = {}
        """Path -> why it did not arrive."""

    @property
    def over(self) -> bool:
        """Whether nothing is to be waited for any more."""
        return not self.left

    def note(self, taken: Mapping[bytes, int], started: float, again: Collection[bytes], dirty: DirtySet) -> None:
        """Take note of a batch that was settled: it began at `started`, and was made of the paths `taken`.

        `again`: those of them that are to be handed over once more. A path that changed again while it was on its way
        has arrived all the same, if it was looked at after the barrier was raised.
        """
        arrived: set[bytes] = set()
        if started >= self._since:
            for path in self.left & dirty.reasons.keys() & taken.keys():
                self.failed[path] = dirty.reasons[path]
                arrived.add(path)
            unsettled = {path for path in taken if path in again or dirty.waits(path)}
            whole = {path for path, bits in taken.items() if bits & DOUBT and path not in unsettled}
            arrived |= self.left & (taken.keys() - unsettled)
            arrived |= {p for p in self.left if not whole.isdisjoint((b"", *ancestors(p)))} if whole else set()
        self.left -= arrived
        # What folded into a directory, or was on its way already, is gone from the dirty set.
        self.left = {path for path in self.left if _is_dirty(path, dirty)}


def _is_dirty(path: bytes, dirty: DirtySet) -> bool:
    """Tell whether a path is dirty, by itself or because of a directory that stands for all below it."""
    whole = NAME | DOUBT
    return dirty.holds(path) or any(dirty.bits_of(up) & whole for up in (b"", *ancestors(path)))
