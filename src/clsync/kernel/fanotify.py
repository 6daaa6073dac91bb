"""fanotify(7): groups that report directory handles and names, and the way from a handle to a path."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import Final

from clsync.kernel.features import refuse_if_forced
from clsync.kernel.libc import checked, function

MODIFY: Final = 0x2
ATTRIB: Final = 0x4
CLOSE_WRITE: Final = 0x8
MOVED_FROM: Final = 0x40
MOVED_TO: Final = 0x80
CREATE: Final = 0x100
DELETE: Final = 0x200
Q_OVERFLOW: Final = 0x4000
RENAME: Final = 0x10000000
ONDIR: Final = 0x40000000

INFO_FID: Final = 1
INFO_DFID_NAME: Final = 2
INFO_OLD_DFID_NAME: Final = 10
INFO_NEW_DFID_NAME: Final = 12

_CLOEXEC, _NONBLOCK, _UNLIMITED = 0x1, 0x2, 0x10 | 0x20
_DFID_NAME = 0x400 | 0x800
_TARGET_FID = 0x200 | 0x1000
_MARK_ADD, _MARK_REMOVE, _MARK_FILESYSTEM = 0x1, 0x2, 0x100
_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_O_PATH, _O_CLOEXEC = os.O_PATH, os.O_CLOEXEC

EVENTS: Final = CREATE | DELETE | CLOSE_WRITE | MODIFY | ATTRIB | ONDIR

_init = function("fanotify_init", ctypes.c_uint, ctypes.c_uint)
_mark = function("fanotify_mark", ctypes.c_int, ctypes.c_uint, ctypes.c_uint64, ctypes.c_int, ctypes.c_char_p)
_open_by_handle_at = function("open_by_handle_at", ctypes.c_int, ctypes.c_char_p, ctypes.c_int)
_name_to_handle_at = function(
    "name_to_handle_at", ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(ctypes.c_int), ctypes.c_int
)


def open_group() -> int:
    """Open a group with an unlimited queue that reports directory handles and names (Linux 5.9).

    The handle of what an event is about comes with it where the kernel can (FAN_REPORT_TARGET_FID, Linux 5.17).
    Raises OSError: EPERM without CAP_SYS_ADMIN, EINVAL or ENOSYS on older kernels.
    """
    refuse_if_forced("fanotify")
    flags, mode = _CLOEXEC | _NONBLOCK | _UNLIMITED | _DFID_NAME, os.O_RDONLY | _O_CLOEXEC
    try:
        refuse_if_forced("fanotify_target")
        return int(checked(_init(flags | _TARGET_FID, mode)))
    except OSError as error:
        if error.errno not in (22, 38):  # EINVAL, ENOSYS
            raise
    return int(checked(_init(flags, mode)))


def mark_file_system(group: int, path: bytes) -> None:
    """Watch the whole file system that holds `path`, renames as one event where the kernel can (Linux 5.17).

    Raises OSError: EXDEV, ENODEV, EOPNOTSUPP where the file system cannot be watched this way.
    """
    try:
        refuse_if_forced("fanotify_rename")
        checked(_mark(group, _MARK_ADD | _MARK_FILESYSTEM, EVENTS | RENAME, _AT_FDCWD, path), path)
    except OSError as error:
        if error.errno not in (22, 38):  # EINVAL, ENOSYS: FAN_RENAME is not known
            raise
        checked(_mark(group, _MARK_ADD | _MARK_FILESYSTEM, EVENTS | MOVED_FROM | MOVED_TO, _AT_FDCWD, path), path)


def unmark_file_system(group: int, path: bytes) -> None:
    """Stop watching the file system that holds `path`. Raises OSError (ENOENT: it was not watched)."""
    for mask in (EVENTS | RENAME, EVENTS | MOVED_FROM | MOVED_TO):
        try:
            checked(_mark(group, _MARK_REMOVE | _MARK_FILESYSTEM, mask, _AT_FDCWD, path), path)
        except OSError as error:
            if error.errno != 22:
                raise


def handle_of(path: bytes | int) -> bytes:
    """Return the handle of a file, or of an open one, as open_by_handle_at takes it: size, type, bytes. Raises OSError."""
    buffer = ctypes.create_string_buffer(struct.pack("=Ii", 128, 0) + bytes(128))
    mount_id = ctypes.c_int()
    where = (path, b"", _AT_EMPTY_PATH) if isinstance(path, int) else (_AT_FDCWD, path, 0)
    checked(_name_to_handle_at(where[0], where[1], buffer, ctypes.byref(mount_id), where[2]), where[1])
    size, _ = struct.unpack_from("=Ii", buffer)
    return buffer.raw[: 8 + size]


def stat_of_handle(mount: int, handle: bytes) -> os.stat_result:
    """Return the stat of the file with a handle. Raises OSError (ESTALE: gone)."""
    descriptor = open_handle(mount, handle)
    try:
        return os.stat(descriptor)
    finally:
        os.close(descriptor)


def path_of_handle(mount: int, handle: bytes) -> tuple[bytes, os.stat_result | None]:
    """Return (path, stat) of the directory with a handle, as seen from the mount behind the descriptor `mount`.

    The path is absolute in that mount; `/` also stands for what lies outside it, and what is gone but held open has
    an ending: in these cases, and no others, the stat tells. Raises OSError (ESTALE: gone).
    """
    descriptor = open_handle(mount, handle)
    try:
        path = _path_of(descriptor)
        tells = path == b"/" or path.endswith(_DELETED)
        return path, os.stat(descriptor) if tells else None
    finally:
        os.close(descriptor)


def open_handle(mount: int, handle: bytes) -> int:
    """Open what a handle stands for, for its path only (O_PATH). Raises OSError (ESTALE: gone)."""
    for _ in range(_TRIES):
        descriptor = int(_open_by_handle_at(mount, handle, _O_PATH | _O_CLOEXEC))
        if descriptor >= 0:
            return descriptor
        number = ctypes.get_errno()
        if number != errno.ENOMEM:
            break
    raise OSError(number, os.strerror(number))


_TRIES: Final = 100
"""ENOMEM is what ext4 answers while the inode's number is being given to a new file (seen with 6.18)."""
_DELETED: Final = b" (deleted)"


def _path_of(directory: int) -> bytes:
    """Return the path of an open directory, also where it is longer than the kernel tells (PATH_MAX)."""
    try:
        return os.readlink(b"/proc/self/fd/%d" % directory)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
    inode = os.stat(directory).st_ino
    above = os.open(b"..", os.O_RDONLY | os.O_DIRECTORY | _O_CLOEXEC, dir_fd=directory)
    try:
        with os.scandir(b"/proc/self/fd/%d" % above) as entries:
            name = next((entry.name for entry in entries if entry.inode() == inode), None)
        if name is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return _path_of(above) + b"/" + name
    finally:
        os.close(above)
