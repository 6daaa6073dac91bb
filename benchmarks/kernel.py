"""The few system calls that Python 3.11 does not wrap: inotify(7), unshare(2), mount(2), prctl(2)."""

from __future__ import annotations

import ctypes
import os
import select
import struct
import time
from pathlib import Path
from types import TracebackType

IN_CLOSE_WRITE = 0x8
IN_OPEN = 0x20
_CLONE_NEWNS = 0x20000
_MS_REC, _MS_PRIVATE = 1 << 14, 1 << 18
_PR_SET_CHILD_SUBREAPER = 36
_EVENT = struct.Struct("iIII")

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)
    return result


def private_mounts() -> None:
    """Give this process its own mount namespace: what it mounts nobody else sees, and it ends with it.

    Raises OSError without privilege.
    """
    _checked(_libc.unshare(_CLONE_NEWNS), "unshare")
    _checked(_libc.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None), "mount /")


def mount_tmpfs(directory: Path) -> None:
    """Mount a tmpfs as large as needed, without a limit of inodes. Raises OSError without privilege."""
    options = b"size=100%,nr_inodes=0,mode=755"
    _checked(_libc.mount(b"tmpfs", bytes(directory), b"tmpfs", ctypes.c_ulong(0), options), str(directory))


def unmount(directory: Path) -> None:
    """Unmount; raises OSError when it is in use."""
    _checked(_libc.umount2(bytes(directory), 0), str(directory))


def adopt_orphans() -> None:
    """Make processes whose parent ended children of this one, so that none survives it (Linux 3.4)."""
    _checked(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl")


class FileEvents:
    """Counts the events of one file, without any work in the process that makes them."""

    def __init__(self, path: Path, mask: int) -> None:
        self._fd = _checked(_libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK), "inotify_init1")
        self.count = 0
        try:
            _checked(_libc.inotify_add_watch(self._fd, bytes(path), mask), str(path))
        except OSError:
            os.close(self._fd)
            raise

    def __enter__(self) -> FileEvents:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    def read(self) -> int:
        """Take what has happened, return the sum so far."""
        while True:
            try:
                data = os.read(self._fd, 65536)
            except BlockingIOError:
                return self.count
            # A watched file gives events without a name: all records have the size of the head.
            self.count += len(data) // _EVENT.size

    def wait(self, timeout: float) -> float | None:
        """Return the time.monotonic() of the next event, None after `timeout` seconds."""
        readable, _, _ = select.select([self._fd], [], [], timeout)
        now = time.monotonic()
        if not readable:
            return None
        self.read()
        return now
