"""Opening below a directory without ever following a symlink, and copying what a file holds."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from clsync.kernel.features import forced_absent, refuse_if_forced

PATH_LIMIT: Final = 4000
"""Below PATH_MAX (4096, limits.h) by enough for the prefix of /proc/self/fd/N."""
GONE: Final = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP))
"""What an open or a stat says of a path that is no longer what it was listed as."""
_FOLLOWED: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
DIRECTORY_FLAGS: Final = _FOLLOWED | os.O_NOFOLLOW
_OPENAT2: Final = 437  # the same number on every architecture but alpha
_RESOLVE: Final = 0x04 | 0x08  # RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH, openat2(2)
_FICLONE: Final = 0x40049409  # linux/fs.h
_VOLUME: Final = ((0x80111500, 17, 1), (0x80705864, 112, 64))
"""FS_IOC_GETFSUUID (Linux 6.9), XFS_IOC_FSGEOMETRY_V1: request, size of the answer, where the UUID begins."""

_libc = ctypes.CDLL(None, use_errno=True)


class _How(ctypes.Structure):
    """`struct open_how` of openat2(2)."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_HOW_SIZE: Final = ctypes.sizeof(_How)


@functools.cache
def _how(flags: int) -> Any:
    """Return what is the same in each call: making it would take a third of one."""
    return ctypes.byref(_How(flags, 0, _RESOLVE))


@contextmanager
def opened(path: bytes, root: int | None = None) -> Iterator[int]:
    """Open a directory for the time of a `with` block; below `root` no component may be a symlink. Raises OSError."""
    found = os.open(path, _FOLLOWED) if root is None else open_beneath(root, path, DIRECTORY_FLAGS)
    try:
        yield found
    finally:
        os.close(found)


def open_beneath(directory: int, path: bytes, flags: int) -> int:
    """Open `path` (however long) below the descriptor `directory`; no component may be a symlink.

    Empty: the directory itself. Not for O_CREAT. Raises OSError; ELOOP or ENOTDIR for a symlink on the way.
    """
    flags |= os.O_CLOEXEC
    if not path:
        return os.open(b".", flags & ~os.O_NOFOLLOW, dir_fd=directory)
    if len(path) < PATH_LIMIT:
        return _open_short(directory, path, flags)
    here = directory
    try:
        while len(path) >= PATH_LIMIT:
            cut = path.rindex(b"/", 0, PATH_LIMIT)
            above = here
            here = _open_short(above, path[:cut], DIRECTORY_FLAGS)
            if above != directory:
                os.close(above)
            path = path[cut + 1 :]
        return _open_short(here, path, flags)
    finally:
        if here != directory:
            os.close(here)


def open_straight(path: bytes, flags: int) -> int:
    """Open an absolute path of which no component may be a symlink. Raises OSError (ELOOP, ENOTDIR: one is)."""
    top = os.open(b"/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return open_beneath(top, path.strip(b"/"), flags)
    finally:
        os.close(top)


@contextmanager
def opened_straight(path: bytes) -> Iterator[int]:
    """Open a directory of which no component may be a symlink, for the time of a `with` block. Raises OSError."""
    found = open_straight(path, DIRECTORY_FLAGS)
    try:
        yield found
    finally:
        os.close(found)


def _open_short(directory: int, path: bytes, flags: int) -> int:
    if b"/" not in path:
        return os.open(path, flags | os.O_NOFOLLOW, dir_fd=directory)
    return _open_resolved(directory, path, flags) if _has_openat2 else _open_stepwise(directory, path, flags)


def _openat2(directory: int, path: bytes, flags: int) -> int:
    """Return a descriptor, or an error number made negative."""
    descriptor: int = _libc.syscall(_OPENAT2, directory, path, _how(flags), _HOW_SIZE)
    return descriptor if descriptor >= 0 else -ctypes.get_errno()


def _open_resolved(directory: int, path: bytes, flags: int) -> int:
    while True:
        descriptor = _openat2(directory, path, flags)
        if descriptor >= 0:
            return descriptor
        if descriptor == -errno.EAGAIN:
            return _open_stepwise(directory, path, flags)
        if descriptor == -errno.EXDEV:
            # It was moved out from below the directory while it was looked up (RESOLVE_BENEATH): nothing stands there.
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        if descriptor != -errno.EINTR:
            raise OSError(-descriptor, os.strerror(-descriptor), path)


def _open_stepwise(directory: int, path: bytes, flags: int) -> int:
    *above, name = path.split(b"/")
    here = directory
    try:
        for step in above:
            below = os.open(step, DIRECTORY_FLAGS, dir_fd=here)
            if here != directory:
                os.close(here)
            here = below
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=here)
    finally:
        if here != directory:
            os.close(here)


def _probe_openat2() -> bool:
    """Tell whether the kernel (5.6+) and its filters let us use openat2."""
    if sys.maxsize < 2**32 or forced_absent("openat2"):
        return False
    here = os.open(b".", os.O_PATH | os.O_CLOEXEC)
    try:
        descriptor = _openat2(here, b".", os.O_PATH | os.O_CLOEXEC)
    finally:
        os.close(here)
    if descriptor < 0:
        return False
    os.close(descriptor)
    return True


_has_openat2 = _probe_openat2()


def volume_of(directory: int) -> bytes:
    """Return what tells the file system of an open directory from all others (its UUID); nothing where that is not told.

    The number that statvfs(3) has is of the device, for some: XFS, FAT.
    """
    for request, room, at in _VOLUME:
        answer = bytearray(room)
        try:
            fcntl.ioctl(directory, request, answer)
        except OSError:
            continue  # another kernel, or another file system
        return bytes(answer[at : at + 16])
    return b""


def clone(source: int, destination: int) -> None:
    """Make one file share all blocks of another, ioctl_ficlone(2).

    Raises OSError: EOPNOTSUPP, ENOTTY, EXDEV, EINVAL or ENOSYS where these file systems cannot do that.
    """
    refuse_if_forced("reflink")
    fcntl.ioctl(destination, _FICLONE, source)


def data_ranges(file: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of what is not a hole in the first `size` bytes. Raises OSError."""
    end = 0
    while end < size:
        try:
            start = os.lseek(file, end, os.SEEK_DATA)
            end = os.lseek(file, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left, or the file has become shorter
                return
            raise
        if start >= size:
            return
        yield start, min(end, size)
