"""What every monitor offers: it folds kernel events while a window is open and names paths when it closes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from clsync.core.classify import LinkedFile
from clsync.core.moves import Move

MOVES_LIMIT = 10_000
"""Things moved in one window, above which none is told of."""

Changed = tuple[Sequence[bytes], int]
"""Paths, and the bits of `core.changes` that all of them have."""


class Unnamed(NamedTuple):
    """A file that was changed, and no path that `take` yields may stand for it."""

    file: LinkedFile
    path: bytes | None
    """The name through which it was changed, None where it is not known; where it stands for the file, all is well."""
    bits: int
    """What has changed (`core.changes`)."""


class Monitor(Protocol):
    """Watches one tree. Single-threaded: all calls come from the event loop's thread.

    Iterators returned here are advanced in slices by the caller (so that the kernel queue is drained in
    between); one step must take well under 10 ms. `drain` may be called while an iterator is half used.
    """

    def arm(self) -> Iterator[None]:
        """Start watching. Everything that changes after this iterator is exhausted is reported.

        Raises OperatorError where the tree cannot be watched.
        """
        ...

    def fileno(self) -> int:
        """Return a descriptor that is readable whenever `drain` has something to do."""
        ...

    def root_gone(self) -> bool:
        """Tell whether the root was deleted, moved away or unmounted, as far as the monitor knows."""
        ...

    def describe(self) -> str:
        """Return what watches which file system, and why."""
        ...

    def due(self) -> float | None:
        """Return the monotonic time at which `drain` wants to be called although nothing is readable."""
        ...

    def begin_look(self) -> None:
        """Begin to look at everything again, where that is done at intervals; `drain` goes on with it."""
        ...

    def looking(self) -> bool:
        """Tell whether a look that was begun this way goes on."""
        ...

    def rest(self) -> float:
        """Return the seconds for which events may gather in the kernel, by what the last `drain` has found there."""
        ...

    def drain(self) -> bool:
        """Fold what the kernel has into the window, about 10 ms of work at most; True if the window is not empty."""
        ...

    def take(self) -> Iterator[Changed]:
        """End the window: an iterator over what has changed; a new window begins with this call.

        Paths are relative to the watched root. They are those of this moment, or of one since this call: then the
        rename is told in the window that follows. A path may come more than once, and a step may bring none. Paths
        outside the root, and echoes of what is gone with its parent, do not come.
        """
        ...

    def moves(self) -> Iterator[Move | None]:
        """Yield what was moved in the window that `take` ended: all of it, or nothing (called right after `take`).

        Where something stood before is what a destination has that was equal when the window opened. Only what is
        sure is told, so nothing may depend on it. A step may bring none.
        """
        ...

    def survivors(self) -> Iterator[Unnamed | None]:
        """Yield files that were changed through a name which is gone: they may have others (`take` comes first).

        A step may bring none.
        """
        ...

    def watch_file(self, path: bytes, file: LinkedFile) -> int:
        """Hear of changes to a file with several names, whatever the name; return its ctime (ns) once it is heard.

        0: it needs no watch of its own, or cannot have one.
        """
        ...

    def compared(self, directories: Iterable[bytes], since_ns: int) -> None:
        """Take note that a handler has listed everything below these directories since `since_ns` (wall clock).

        What came and went between two looks of a monitor that polls was copied, and nobody knows its name.
        """
        ...

    def close(self) -> None:
        """Give back every descriptor, watch and mark."""
        ...
