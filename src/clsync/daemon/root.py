"""The watched root: who it is, and whether it still stands where it stood."""

from __future__ import annotations

import os

from clsync.kernel.fanotify import handle_of
from clsync.kernel.files import opened

Identity = tuple[int, int, bytes]


def identity(descriptor: int) -> Identity:
    """Return what a directory is known by: file system id (device where it has none), inode, and file handle.

    The id survives unmounting and mounting again, a device number need not (statfs(2)). The handle tells a directory
    from one that was made later and got the same inode (name_to_handle_at(2)); empty where there are none.
    """
    found = os.fstat(descriptor)
    try:
        handle = handle_of(descriptor)
    except OSError:
        handle = b""
    return os.fstatvfs(descriptor).f_fsid or found.st_dev, found.st_ino, handle


class Directory:
    """A directory that must stay the one it was when we first saw it.

    No descriptor is kept: a held one would keep its file system from being unmounted.
    """

    def __init__(self, path: bytes) -> None:
        """Remember the directory at `path`. Raises OSError."""
        self.path = path
        with opened(path) as descriptor:
            self._identity = identity(descriptor)

    def open(self) -> int:
        """Return a descriptor of what stands there now. Raises OSError."""
        return os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def trouble(self) -> str | None:
        """Tell what is wrong with it now; None if it is the same directory."""
        try:
            with opened(self.path) as descriptor:
                return self.trouble_at(descriptor)
        except OSError as error:
            return error.strerror or str(error)

    def trouble_at(self, descriptor: int) -> str | None:
        """Tell what is wrong with an open directory; None if it is the same one."""
        if identity(descriptor) != self._identity:
            return "another directory stands there now (unmounted, or moved away)"
        return None if os.fstat(descriptor).st_nlink else "it was deleted"
