"""The objects of a batch, written for the process of a module."""

from __future__ import annotations

import os
import struct
from types import TracebackType
from typing import Final, NamedTuple, Self

from clsync.core import batch as flag
from clsync.handler.objects import CREATED, IS_DIRECTORY, MOVED_TO, event_mask
from clsync.handler.plugin.directories import Directories
from clsync.handler.plugin.layout import DIRECTORY, FILE, MISSING
from clsync.handler.plugin.protocol import RECORD
from clsync.kernel.descriptors import anonymous_file

_HEAD: Final = struct.Struct(RECORD)
_CHUNK: Final = 1 << 16


class Event(NamedTuple):
    """What a module is told of an object."""

    mask: int
    """Bits of inotify(7)."""
    old: int
    new: int
    """What stood there and what does (`layout`)."""


def event(path: bytes, flags: int, known: Directories) -> Event:
    """Return what a module is told of an entry with these flags (`core.batch`)."""
    mask = event_mask(flags)
    if flags & flag.MISSING:
        was = DIRECTORY if mask & IS_DIRECTORY else known.was(path)
        return Event(mask | (IS_DIRECTORY if was == DIRECTORY else 0), was, MISSING)
    new = DIRECTORY if flags & flag.DIRECTORY else FILE
    return Event(mask, MISSING if mask & (CREATED | MOVED_TO) else new, new)


class Records:
    """A file without a name that holds objects, as `protocol.RECORD` says."""

    def __init__(self) -> None:
        """Make it. Raises OSError."""
        self._descriptor = anonymous_file()
        self._buffer = bytearray()
        self.count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        os.close(self._descriptor)

    def add(self, path: bytes, found: Event, how: int) -> None:
        """Write one more; `how`: `layout.RECURSIVELY` or not. Raises OSError."""
        self._buffer += _HEAD.pack(found.mask, how, found.old, found.new, len(path)) + path + b"\0"
        self.count += 1
        if len(self._buffer) >= _CHUNK:
            self._flush()

    def finish(self) -> int:
        """Return its descriptor, all being written. Raises OSError."""
        self._flush()
        return self._descriptor

    def _flush(self) -> None:
        while self._buffer:
            del self._buffer[: os.write(self._descriptor, self._buffer)]
