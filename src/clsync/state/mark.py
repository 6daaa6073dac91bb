"""The file beside the state: who holds it (flock(2)), and how far it had come. It tells a state that was set back.

SQLite drops the tail of a damaged log in silence, and a log that was deleted as a whole. What counts is therefore
numbered, and the last number is here as well.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import time
import zlib
from typing import Final, NamedTuple

_MAGIC: Final = b"clsync m"
_FORMAT: Final = struct.Struct("<8s16sQQI")
_SUM: Final = struct.Struct("<I")


FILE: Final = b"state.mark"


_LOOK: Final = 0.02


class Held(Exception):
    """Another process holds the state."""


class Marked(NamedTuple):
    """What the file says."""

    boot: bytes
    """Of the run that wrote it (`kernel.durable.boot_id`)."""
    written: int
    """The last transaction: it is there, unless the power was lost."""
    durable: int
    """The last one that was flushed: it is there whatever happened."""


class Mark:
    """The open and locked file."""

    def __init__(self, path: bytes, patience: float = 0.0) -> None:
        """Open it, made where it is not there; wait for another process up to `patience` seconds.

        Raises Held or OSError.
        """
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        try:
            _demand_plain(self._file)
            self._hold(time.monotonic() + patience)
        except BaseException:
            os.close(self._file)
            raise

    def _hold(self, until: float) -> None:
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > until:
                    raise Held from None
                time.sleep(_LOOK)
            else:
                return

    def read(self) -> Marked | None:
        """Return what it says; None where it says nothing, or nothing to be trusted. Raises OSError."""
        data = os.pread(self._file, _FORMAT.size, 0)
        if len(data) < _FORMAT.size or zlib.crc32(data[: -_SUM.size]) != _SUM.unpack(data[-_SUM.size :])[0]:
            return None
        magic, boot, written, durable, _ = _FORMAT.unpack(data)
        return Marked(boot, written, durable) if magic == _MAGIC else None

    def write(self, marked: Marked) -> None:
        """Say something else, in one write. Raises OSError."""
        data = _FORMAT.pack(_MAGIC, *marked, 0)[: -_SUM.size]
        os.pwrite(self._file, data + _SUM.pack(zlib.crc32(data)), 0)

    def clear(self) -> None:
        """Let it say nothing: what stands beside it is not to be trusted. Raises OSError."""
        os.pwrite(self._file, bytes(_FORMAT.size), 0)
        os.fsync(self._file)

    def flush(self) -> None:
        """Make durable what it says. Raises OSError."""
        os.fsync(self._file)

    def is_at(self, path: bytes) -> bool:
        """Tell whether it is this file that stands at a path. Raises OSError where nobody can tell."""
        try:
            return os.path.samestat(os.lstat(path), os.fstat(self._file))
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Let others have it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _demand_plain(file: int) -> None:
    """See that an open file has no other name: who made it may not be who writes it. Raises OSError."""
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        raise OSError(errno.EPERM, "something else stands in its place")


def distrust(directory: bytes) -> None:
    """Let the next run not trust the state in a directory, if there is one. Raises Held or OSError."""
    path = os.path.join(directory, FILE)
    if os.path.lexists(path):
        mark = Mark(path)
        try:
            mark.clear()
        finally:
            mark.close()
