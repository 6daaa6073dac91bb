"""What a regular file holds: cloned, copied in the kernel, or read and written; holes stay holes."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from typing import Final

from clsync.handler.copy.trouble import source_trouble
from clsync.kernel.features import refuse_if_forced
from clsync.kernel.files import clone, data_ranges

TINY: Final = 64 << 10
"""Files of at most this many bytes are copied with one read and one write."""
_STEP: Final = 8 << 20
"""Bytes copied by one call in the kernel: between two of them the work can be stopped."""
_BUFFER: Final = 1 << 20
_TIMES: Final = 3
_NAP: Final = 0.1
"""Seconds between two looks whether to go on, where copying is slowed down."""
_CANNOT: Final = frozenset(
    (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EBADF, errno.EPERM, errno.ETXTBSY)
)


class Copier:
    """Copies content between open files, and remembers what these file systems cannot do."""

    def __init__(self, pause: Callable[[], None], rate: int = 0) -> None:
        """`pause` is called between steps of a large file; `rate`: bytes a second at most, 0 for any."""
        self._pause, self._rate = pause, rate
        self._step = min(_STEP, max(rate // 8, TINY)) if rate else _STEP
        self._next = 0.0
        self._no_clone: set[tuple[int, int]] = set()
        self._no_range: set[tuple[int, int]] = set()

    def copy(self, source: int, destination: int, seen: os.stat_result, device: int) -> os.stat_result:
        """Copy all of `source` to the empty file `destination` (on `device`); return what its lstat was before.

        A file that changes meanwhile is copied again, three times at most: its next event is on the way.
        Raises Vanished, Refused (source) or OSError (destination).
        """
        for attempt in range(_TIMES):
            if attempt:
                os.ftruncate(destination, 0)
                os.lseek(destination, 0, os.SEEK_SET)
                os.lseek(source, 0, os.SEEK_SET)
            if self._once(source, destination, seen, (seen.st_dev, device)):
                break
            now = os.fstat(source)
            if (now.st_mtime_ns, now.st_ctime_ns, now.st_size) == (seen.st_mtime_ns, seen.st_ctime_ns, seen.st_size):
                break
            if attempt < _TIMES - 1:
                seen = now
        return seen

    def _once(self, source: int, destination: int, seen: os.stat_result, pair: tuple[int, int]) -> bool:
        """Copy; tell whether it is certain that the file did not change meanwhile."""
        size = seen.st_size
        sparse = seen.st_blocks * 512 < size
        if size <= TINY and not sparse:
            data = _read(source, TINY + 1)
            _write(destination, data)
            self._spend(len(data))
            return len(data) == size
        if pair not in self._no_clone and self._clone(source, destination, pair):
            return False
        for start, end in self._ranges(source, size) if sparse else ((0, size),):
            self._range(source, destination, start, end, pair)
        if sparse:
            os.ftruncate(destination, size)
        return False

    def _clone(self, source: int, destination: int, pair: tuple[int, int]) -> bool:
        try:
            clone(source, destination)
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
            self._no_clone.add(pair)
            return False
        return True

    def _ranges(self, source: int, size: int) -> list[tuple[int, int]]:
        try:
            return list(data_ranges(source, size))
        except OSError as error:
            if error.errno == errno.EINVAL:  # the file system does not know holes
                return [(0, size)]
            raise source_trouble(error) from error

    def _range(self, source: int, destination: int, start: int, end: int, pair: tuple[int, int]) -> None:
        at = start
        while at < end and pair not in self._no_range:
            self._pause()
            try:
                refuse_if_forced("copy_file_range")
                done = os.copy_file_range(source, destination, min(end - at, self._step), at, at)
            except OSError as error:
                if error.errno == errno.EINTR:
                    continue
                # EIO does not say on which side: reading and writing will.
                if error.errno not in _CANNOT and error.errno != errno.EIO:
                    raise
                self._no_range.add(pair)
                break
            if not done:  # it has become shorter, or the file system does not tell sizes
                break
            at += done
            self._spend(done)
        while at < end:
            self._pause()
            data = _read(source, min(end - at, _BUFFER, self._step), at)
            if not data:
                return
            _write(destination, data, at)
            at += len(data)
            self._spend(len(data))

    def _spend(self, count: int) -> None:
        """Wait as long as it takes to copy some bytes, if there is a limit."""
        if not self._rate:
            return
        self._next = max(self._next, time.monotonic()) + count / self._rate
        while (left := self._next - time.monotonic()) > 0:
            self._pause()
            time.sleep(min(left, _NAP))


def same_content(source: int, destination: int, pause: Callable[[], None]) -> bool:
    """Tell whether two open files hold the same; `pause` is called between steps. Raises Vanished, Refused, OSError."""
    at = 0
    while True:
        data = _read(source, _BUFFER, at)
        if os.pread(destination, _BUFFER, at) != data:
            return False
        if not data:
            return True
        at += len(data)
        pause()


def _read(source: int, count: int, at: int = 0) -> bytes:
    try:
        return os.pread(source, count, at)
    except OSError as error:
        raise source_trouble(error) from error


def _write(destination: int, data: bytes, at: int = 0) -> None:
    done = os.pwrite(destination, data, at) if data else 0
    while done < len(data):
        done += os.pwrite(destination, memoryview(data)[done:], at + done)
