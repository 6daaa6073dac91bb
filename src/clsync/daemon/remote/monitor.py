"""A monitor of the broker's."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

from clsync.core.classify import LinkedFile
from clsync.core.moves import Move
from clsync.core.rules import Rules
from clsync.daemon.desks.shared import digest_of
from clsync.monitor.base import Changed, Unnamed
from clsync.privilege.moves import unpacked_moves
from clsync.privilege.port import Caller
from clsync.privilege.wire import Op, in_frames


class RemoteMonitor:
    """A monitor of the broker's: it reads what the kernel tells, and names what was changed (see `Monitor`)."""

    def __init__(self, caller: Caller, rules: Rules) -> None:
        """Have it made. Raises OperatorError, OSError."""
        self._caller = caller
        (self._number,) = caller.call(Op.MONITOR_OPEN, digest_of(rules))
        (self._descriptor,) = caller.descriptors
        self._root_gone, self._looking, self._due, self._rest = False, False, -1.0, 0.0

    def arm(self) -> Iterator[None]:
        """Start watching (see `Monitor`)."""
        while not self._call(Op.MONITOR_ARM)[0]:
            yield

    def fileno(self) -> int:
        """Return a descriptor that is readable whenever `drain` has something to do."""
        return self._descriptor

    def root_gone(self) -> bool:
        """Tell whether the root was gone when `drain` was called last."""
        return self._root_gone

    def describe(self) -> str:
        """Return what watches which file system, and why."""
        return str(self._call(Op.MONITOR_DESCRIBE)[0])

    def due(self) -> float | None:
        """Return when `drain` wants to be called."""
        return self._due if self._due >= 0 else None

    def begin_look(self) -> None:
        """Begin to look at everything again (see `Monitor`)."""
        self._call(Op.MONITOR_LOOK)
        self._looking = True

    def looking(self) -> bool:
        """Tell whether that look went on when `drain` was called last."""
        return self._looking

    def rest(self) -> float:
        """Return for how long events may gather in the kernel, as things were when `drain` was called last."""
        return self._rest

    def drain(self) -> bool:
        """Fold what the kernel has (see `Monitor`)."""
        filled, self._root_gone, self._looking, self._due, self._rest = self._call(Op.MONITOR_DRAIN)
        return bool(filled)

    def take(self) -> Iterator[Changed]:
        """End the window (see `Monitor`)."""
        self._call(Op.MONITOR_TAKE)
        return self._named()

    def _named(self) -> Iterator[Changed]:
        done = False
        while not done:
            parts, (done,) = self._caller.collect(Op.MONITOR_NEXT, self._number)
            yield from ((paths, bits) for bits, paths in parts)
            if not parts:
                yield [], 0

    def moves(self) -> Iterator[Move | None]:
        """Yield what was moved in the window that `take` ended (see `Monitor`)."""
        self._call(Op.MONITOR_MOVES)
        done = False
        while not done:
            parts, (done,) = self._caller.collect(Op.MONITOR_NEXT_MOVES, self._number)
            for part in parts:
                yield from unpacked_moves(*part)
            yield None

    def survivors(self) -> Iterator[Unnamed | None]:
        """Yield files that were changed through a name which is gone (see `Monitor`)."""
        self._call(Op.MONITOR_SURVIVORS)
        done = False
        while not done:
            parts, (done,) = self._caller.collect(Op.MONITOR_NEXT_SURVIVORS, self._number)
            for numbers, paths, named in parts:
                files = zip(*[iter(numbers)] * 4, strict=True)
                for (dev, ino, nlink, bits), path in zip(files, paths, strict=True):
                    yield Unnamed(LinkedFile(dev, ino, nlink), path if named else None, bits)
            yield None

    def watch_file(self, path: bytes, file: LinkedFile) -> int:
        """Hear of changes to a file with several names (see `Monitor`)."""
        return int(self._caller.call(Op.MONITOR_WATCH_FILE, self._number, [path], list(file))[0])

    def compared(self, directories: Iterable[bytes], since_ns: int) -> None:
        """Take note of what was handed over whole (see `Monitor`)."""
        listed = list(directories)
        for part in in_frames(listed):
            self._caller.call(Op.MONITOR_COMPARED, self._number, listed[part], since_ns)

    def close(self) -> None:
        """Give everything back."""
        self._call(Op.MONITOR_CLOSE)
        os.close(self._descriptor)

    def _call(self, op: Op) -> list[Any]:
        return self._caller.call(op, self._number)
