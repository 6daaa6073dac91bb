"""Namespaces and mounts of a process of its own (namespaces(7), mount_namespaces(7))."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Final

from clsync.kernel.libc import LIBC, checked, function

FILES: Final = 0x400
FS: Final = 0x200
MOUNTS: Final = 0x20000
SYSV_SEMAPHORES: Final = 0x40000
UTS: Final = 0x4000000
IPC: Final = 0x8000000
NETWORK: Final = 0x40000000

_MS_NOSUID: Final = 2
_MS_NOEXEC: Final = 8
_MS_BIND: Final = 0x1000
_MS_REC: Final = 0x4000
_MS_PRIVATE: Final = 1 << 18
_MNT_DETACH: Final = 2
_UMOUNT_NOFOLLOW: Final = 8
_SYS_MOUNT_SETATTR: Final = 442
_AT_FDCWD: Final = -100
_AT_RECURSIVE: Final = 0x8000
_ATTR_RDONLY: Final = 1

_mount = function("mount", *[ctypes.c_char_p] * 3, ctypes.c_ulong, ctypes.c_char_p)
_umount = function("umount2", ctypes.c_char_p, ctypes.c_int)
_unshare = function("unshare", ctypes.c_int)


def unshare(flags: int) -> None:
    """Leave namespaces for new ones. Raises OSError (EPERM without CAP_SYS_ADMIN)."""
    checked(_unshare(flags))


def make_private() -> None:
    """Let no mount or unmount of this namespace be seen in others, nor the other way round. Raises OSError."""
    checked(_mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None), b"/")


def bind(source: bytes, target: bytes) -> None:
    """Let something stand at a second place, with all that is mounted below it. Raises OSError."""
    checked(_mount(source, target, None, _MS_BIND | _MS_REC, None), target)


def mount_memory(target: bytes, options: bytes) -> None:
    """Mount a new file system in memory without programs (tmpfs(5)). Raises OSError."""
    checked(_mount(b"tmpfs", target, b"tmpfs", _MS_NOSUID | _MS_NOEXEC, options), target)


def unmount(target: bytes) -> None:
    """Take what is mounted there out of sight, even while it is in use. Raises OSError."""
    checked(_umount(target, _MNT_DETACH | _UMOUNT_NOFOLLOW), target)


def make_read_only(target: bytes) -> None:
    """Let nothing be written below a mount point, nor to what is mounted there (Linux 5.12). Raises OSError."""
    attributes = struct.pack("=QQQQ", _ATTR_RDONLY, 0, 0, 0)
    arguments = (_AT_FDCWD, ctypes.c_char_p(target), _AT_RECURSIVE, attributes, ctypes.c_size_t(len(attributes)))
    checked(LIBC.syscall(ctypes.c_long(_SYS_MOUNT_SETATTR), *arguments), target)


def change_root() -> None:
    """Make the current directory, a mount point, the root, and let go of the old one. Raises OSError.

    No path leads to the old root then, in contrast to chroot(2), but for those of /proc that root may follow.
    """
    # With the same directory twice the old root lies over the new one, and no directory for it is needed.
    checked(_pivot_root(b".", b"."), os.getcwdb())
    unmount(b".")
    os.chdir(b"/")


def _pivot_root(new: bytes, old: bytes) -> int:
    number = _PIVOT_ROOT.get(os.uname().machine, 41)
    return int(LIBC.syscall(ctypes.c_long(number), ctypes.c_char_p(new), ctypes.c_char_p(old)))


_PIVOT_ROOT: Final = {"x86_64": 155, "i686": 217, "armv7l": 218, "ppc64le": 203, "s390x": 217}
"""Machine -> number of pivot_root(2), where it is not that of all newer machines."""
