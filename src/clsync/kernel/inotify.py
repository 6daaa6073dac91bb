"""inotify(7): watches on directories, and on single files that have several names."""

from __future__ import annotations

import ctypes
import os
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
DELETE_SELF: Final = 0x400
MOVE_SELF: Final = 0x800
UNMOUNT: Final = 0x2000
Q_OVERFLOW: Final = 0x4000
IGNORED: Final = 0x8000
ONLYDIR: Final = 0x1000000
DONT_FOLLOW: Final = 0x2000000
MASK_ADD: Final = 0x20000000
ISDIR: Final = 0x40000000

WATCHED: Final = (
    MODIFY | ATTRIB | CLOSE_WRITE | MOVED_FROM | MOVED_TO | CREATE | DELETE | DELETE_SELF | MOVE_SELF
) | (ONLYDIR | DONT_FOLLOW)
# What turns out to be a directory keeps the mask it has.
FILE_WATCHED: Final = MODIFY | ATTRIB | CLOSE_WRITE | DONT_FOLLOW | MASK_ADD

_init1 = function("inotify_init1", ctypes.c_int)
_add_watch = function("inotify_add_watch", ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)
_rm_watch = function("inotify_rm_watch", ctypes.c_int, ctypes.c_int)


def open_instance() -> int:
    """Open an instance. Raises OSError (EMFILE: fs.inotify.max_user_instances is reached)."""
    refuse_if_forced("inotify")
    return int(checked(_init1(os.O_NONBLOCK | os.O_CLOEXEC)))


def add_watch(instance: int, path: bytes, mask: int = WATCHED) -> int:
    """Watch a directory, never through a symlink; return the watch descriptor, the old one for a watched inode.

    `mask`: what to hear of; `FILE_WATCHED` for what is no directory. Raises OSError: ENOENT, ENOTDIR, ELOOP, EACCES;
    ENOSPC: fs.inotify.max_user_watches is reached.
    """
    watch = _add_watch(instance, path, mask)
    if watch < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return int(watch)


def remove_watch(instance: int, watch: int) -> None:
    """Remove a watch; nothing happens where it is gone."""
    _rm_watch(instance, watch)
