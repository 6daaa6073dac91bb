"""Namespaces and mounts of a process of its own (namespaces(7), mount_namespaces(7))."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Final

from clsync.kernel.features import refuse_if_forced
from clsync.kernel.libc import LIBC, checked, function

FILES: Final = 0x400
FS: Final = 0x200
MOUNTS: Final = 0x20000
SYSV_SEMAPHORES: Final = 0x40000
UTS: Final = 0x4000000
IPC: Final = 0x8000000
PROCESSES: Final = 0x20000000
NETWORK: Final = 0x40000000

_MS_NOSUID: Final = 2
_MS_NOEXEC: Final = 8
_MS_BIND: Final = 0x1000
_MS_REC: Final = 0x4000
_MS_PRIVATE: Final = 1 << 18
_MNT_DETACH: Final = 2
_UMOUNT_NOFOLLOW: Final = 8
_SYS_OPEN_TREE: Final = 428  # the same numbers on every architecture but alpha
_SYS_MOVE_MOUNT: Final = 429
_SYS_MOUNT_SETATTR: Final = 442
_AT_FDCWD: Final = -100
_AT_RECURSIVE: Final = 0x8000
_AT_EMPTY_PATH: Final = 0x1000
_ATTR_RDONLY: Final = 1
_ATTR_NOSUID: Final = 2
_ATTR_NODEV: Final = 4
_OPEN_TREE_CLONE: Final = 1
_MOVE_EMPTY_PATH: Final = 4

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
    _set_attributes(_AT_FDCWD, target, 0, _ATTR_RDONLY)


def copy_of_mounts(path: bytes) -> int:
    """Return a descriptor of a mount of what stands there and is mounted below, which stands nowhere yet (Linux 5.12).

    Neither devices nor bits for other users count there. Raises OSError.
    """
    refuse_if_forced("mount_setattr")
    flags = ctypes.c_uint(_OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_RECURSIVE)
    tree = checked(LIBC.syscall(ctypes.c_long(_SYS_OPEN_TREE), _AT_FDCWD, ctypes.c_char_p(path), flags), path)
    try:
        _set_attributes(tree, b"", _AT_EMPTY_PATH, _ATTR_NOSUID | _ATTR_NODEV)
    except OSError:
        os.close(tree)
        raise
    return tree


def lay(tree: int, target: bytes) -> None:
    """Let what `copy_of_mounts` has returned stand over something. Raises OSError."""
    arguments = (tree, ctypes.c_char_p(b""), _AT_FDCWD, ctypes.c_char_p(target), ctypes.c_uint(_MOVE_EMPTY_PATH))
    checked(LIBC.syscall(ctypes.c_long(_SYS_MOVE_MOUNT), *arguments), target)


def _set_attributes(directory: int, path: bytes, flags: int, attributes: int) -> None:
    refuse_if_forced("mount_setattr")
    packed = struct.pack("=QQQQ", attributes, 0, 0, 0)
    how = ctypes.c_uint(_AT_RECURSIVE | flags)
    arguments = (directory, ctypes.c_char_p(path), how, packed, ctypes.c_size_t(len(packed)))
    checked(LIBC.syscall(ctypes.c_long(_SYS_MOUNT_SETATTR), *arguments), path)


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
