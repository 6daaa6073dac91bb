"""Looking at one directory after the other, as the rules and mounts allow: what an index knows of a tree."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, NamedTuple, Protocol

from clsync.core.listing import SELF, Looked, Observed, observe, record_of
from clsync.core.paths import join
from clsync.core.rules import Rules
from clsync.core.stamps import YOUNG_NS
from clsync.kernel.files import DIRECTORY_FLAGS, open_beneath

_NEVER: Final = 1 << 62
NOT_SYNCED = bytes(48)
"""The record of a directory that is only walked."""


class Scope(NamedTuple):
    """What counts below the root."""

    rules: Rules
    one_file_system: int = 0
    """1: mount points count without what is below them, 2: they do not count."""


class Directory:
    """One open directory: its names, and what they stand for when they are looked at."""

    def __init__(
        self, path: bytes, device: int, names: list[bytes], own: bytes, look: Callable[[bytes], Looked]
    ) -> None:
        """`names` are sorted; `own` is the record of the directory itself."""
        self.path, self.device, self.names, self._own, self._look = path, device, names, own, look
        self.keep: Callable[[bytes, Looked], bool] | None = None
        """What counts of the names; None: all."""
        self.since_ns = _NEVER
        """What is stamped later counts as young (`core.stamps`), whenever it is looked at."""
        self.exact = False
        """Nothing counts as young: what was, when it was recorded, is unlike everything that is seen now."""

    def observe(self, low: int, high: int) -> Observed:
        """Look at the names `low` to `high`; the first ones include the directory itself. Raises OSError."""
        young_ns = _NEVER if self.exact else min(time.time_ns(), self.since_ns) - YOUNG_NS
        found = observe(self.names[low:high], self._look, young_ns, self.keep)
        if not low:
            found.names.insert(0, SELF)
            found.records.insert(0, self._own)
        return found


class Visits(Protocol):
    """Looks at directories below a root."""

    def visit(self, path: bytes) -> Iterator[Directory]:
        """Yield a directory, open until the next turn; nothing where it is gone. Raises OSError (EACCES, EIO)."""
        ...

    def enters(self, path: bytes) -> bool:
        """Tell whether a directory is looked into, its ancestors not asked."""
        ...


class View:
    """What counts of directories, by whom they ever are looked at."""

    def __init__(self, scope: Scope, device: int | None) -> None:
        """`device`: that of the root, where others count less."""
        self._rules, self._level, self._device = scope.rules, scope.one_file_system, device
        self.since_ns, self.exact = _NEVER, False
        """See `Directory`."""

    def seen(
        self,
        path: bytes,
        found: Looked,
        young: int,
        names: Callable[[], tuple[list[bytes], Callable[[bytes], Looked]]],
    ) -> Directory:
        """Return a directory.

        `found`: its lstat, looked at `YOUNG_NS` after `young` or later; `names`: returns those in it, and what looks at
        them. Raises the OSError of that.
        """
        young = _NEVER if self.exact else min(young, self.since_ns - YOUNG_NS)
        own = record_of(found, young) if self._rules.sync(path, True) else NOT_SYNCED
        elsewhere = self._device is not None and found.st_dev != self._device
        if elsewhere or (self._rules and not self._rules.reaches(path)):
            return Directory(path, found.st_dev, [], own, os.lstat)
        listed, look = names()
        listed.sort()
        directory = Directory(path, found.st_dev, listed, own, look)
        directory.since_ns, directory.exact = self.since_ns, self.exact
        if self._rules or self._level > 1:
            directory.keep = partial(self._counts, path)
        return directory

    def _counts(self, path: bytes, name: bytes, found: Looked) -> bool:
        below = join(path, name)
        if not stat.S_ISDIR(found.st_mode):
            return self._rules.sync(below, False)
        if self._level > 1 and found.st_dev != self._device:
            return False
        return self._rules.walk(below) or self._rules.sync(below, True)

    def enters(self, path: bytes) -> bool:
        """Tell whether a directory is looked into, its ancestors not asked."""
        return self._rules.walk(path)


class Walker(View):
    """Opens directories below a root."""

    def __init__(self, root: int, scope: Scope, *, moves: bool = False) -> None:
        """`root`: an open directory. `moves`: the process has no other use for its working directory."""
        self._root, self._moves = root, moves
        super().__init__(scope, os.fstat(root).st_dev if scope.one_file_system else None)

    def visit(self, path: bytes) -> Iterator[Directory]:
        """Yield a directory, open until the next turn; nothing where it is gone. Raises OSError (EACCES, EIO)."""
        try:
            descriptor = open_beneath(self._root, path, DIRECTORY_FLAGS)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            if error.errno == errno.ELOOP:  # a symlink is no directory
                return
            raise
        try:
            yield self._opened(path, descriptor)
        finally:
            os.close(descriptor)

    def _opened(self, path: bytes, descriptor: int) -> Directory:
        young = time.time_ns() - YOUNG_NS
        return self.seen(path, os.fstat(descriptor), young, partial(self._names, descriptor))

    def _names(self, descriptor: int) -> tuple[list[bytes], Callable[[bytes], Looked]]:
        if self._moves:
            os.fchdir(descriptor)
            return os.listdir(b"."), os.lstat
        return os.listdir(b"/proc/self/fd/%d" % descriptor), partial(os.lstat, dir_fd=descriptor)
