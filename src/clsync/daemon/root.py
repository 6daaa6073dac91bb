"""The watched root: who it is, and whether it still stands where it stood."""

from __future__ import annotations

import os

from clsync.kernel.files import opened

Identity = tuple[int, int]


def identity(descriptor: int) -> Identity:
    """Return what a directory is known by: file system id (device where it has none) and inode.

    The id survives unmounting and mounting again, a device number need not (statfs(2)).
    """
    found = os.fstat(descriptor)
    return os.fstatvfs(descriptor).f_fsid or found.st_dev, found.st_ino


class Directory:
    """A directory that must stay the one it was when we first saw it.

    No descriptor is kept: a held one would keep its file system from being unmounted.
    """

    def __init__(self, path: bytes) -> None:
        """Remember the directory at `path`. Raises OSError."""
        self.path = path
        with opened(path) as descriptor:
            self._identity = identity(descriptor)

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
