"""The watched root: who it is, and whether it still stands where it stood."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from clsync.kernel.ops import DirectOps, Identity, KernelOps


class Directory:
    """A directory that must stay the one it was when we first saw it.

    No descriptor is kept: a held one would keep its file system from being unmounted.
    """

    def __init__(self, path: bytes, ops: KernelOps | None = None) -> None:
        """Remember the directory at `path`; `ops` looks at it. Raises OSError."""
        self.path = path
        self.ops = ops or DirectOps()
        with self._opened() as directory:
            self._identity = self.ops.identity(directory)

    @property
    def identity(self) -> Identity:
        """What it is known by."""
        return self._identity

    def open(self) -> int:
        """Return a descriptor of what stands there now. Raises OSError."""
        return self.ops.open(self.path)

    def close(self, directory: int) -> None:
        """Give a descriptor back."""
        self.ops.close(directory)

    @contextmanager
    def opened(self) -> Iterator[int]:
        """Open it for the time of a `with` block. Raises OSError (ESTALE: something else stands there now)."""
        with self._opened() as directory:
            trouble = self.trouble_at(directory)
            if trouble is not None:
                raise OSError(errno.ESTALE, trouble, self.path)
            yield directory

    @contextmanager
    def _opened(self) -> Iterator[int]:
        """Open what stands there for the time of a `with` block. Raises OSError."""
        directory = self.open()
        try:
            yield directory
        finally:
            self.close(directory)

    def trouble(self) -> str | None:
        """Tell what is wrong with it now; None if it is the same directory."""
        try:
            with self._opened() as directory:
                return self.trouble_at(directory)
        except OSError as error:
            return error.strerror or str(error)

    def trouble_at(self, directory: int) -> str | None:
        """Tell what is wrong with an open directory; None if it is the same one."""
        if self.ops.identity(directory) != self._identity:
            return "another directory stands there now (unmounted, or moved away)"
        return None if self.ops.is_linked(directory) else "it was deleted"
