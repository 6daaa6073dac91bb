"""What the state needs beside its own files that may take rights: done in this process, or asked of one that has them."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, islice
from typing import Any, Final, Protocol, TypeVar

from clsync.core.paths import join
from clsync.daemon.looking import looked_at
from clsync.kernel import roles
from clsync.kernel.durable import flusher
from clsync.kernel.files import DIRECTORY_FLAGS, open_beneath, opened
from clsync.kernel.process import spawn
from clsync.kernel.walk import walk
from clsync.privilege.profiles import scan_sandbox
from clsync.state import scan
from clsync.state.scan import Child, Running
from clsync.state.walker import Scope, Visits, Walker

T = TypeVar("T")
SOURCE: Final = None
"""In place of the number of a target: the watched tree."""
_FLUSH_LOOKS: Final = 0.002, 0.05
"""Seconds after which it is looked whether a flush is over, first and at last."""


class StateAccess(Protocol):
    """What the state needs, and who keeps it may not be able to do itself. Targets are numbers."""

    def follow(self, local: Sequence[bytes | None]) -> None:
        """Be told where the targets are: local directories, or None."""
        ...

    async def apart(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do something that waits for a disk in another thread. `KernelOps` may be used there as well."""
        ...

    def walker(self, root: int, scope: Scope) -> Visits:
        """Return what looks at directories below an open root (`KernelOps.open`)."""
        ...

    def start(self, mode: bytes, root: int, scope: Scope, since: float) -> Running:
        """Start a scanner of what is below an open root; for `since` see `state.messages.Order`. Raises OSError."""
        ...

    async def is_empty(self, target: int) -> bool:
        """Tell whether a local target has no entries; no where it cannot be read now."""
        ...

    async def only_there(self, target: int, directories: Iterable[bytes]) -> list[bytes]:
        """Return the paths in some directories that stand only at a target, without directories; none of a remote one."""
        ...

    async def absent(self, target: int, paths: Iterable[bytes]) -> list[bytes]:
        """Return those of some paths at which nothing stands at a target; none of a remote one."""
        ...

    async def count(self, target: int, paths: Iterable[bytes], most: int) -> int:
        """Return how many entries stand below some paths at a target, or `most`; none of a remote one."""
        ...

    async def flush(self, target: int | None) -> bool:
        """Flush the file system of a target, or the watched one; tell whether that was done. Nothing is done elsewhere."""
        ...


class DirectStateAccess:
    """Does all of it in this process (see `StateAccess`)."""

    def __init__(self, root: bytes, state: bytes) -> None:
        """`root`: the watched directory; `state`: the file."""
        self._root, self._state = root, state
        self._local: Sequence[bytes | None] = ()
        self._stopped = False

    def follow(self, local: Sequence[bytes | None]) -> None:
        """Be told where the targets are."""
        self._local = local

    async def apart(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do something in another thread."""
        return await asyncio.to_thread(work, *arguments)

    def walker(self, root: int, scope: Scope) -> Visits:
        """Return what looks at directories below an open root."""
        return Walker(root, scope)

    def start(self, mode: bytes, root: int, scope: Scope, since: float) -> Child:
        """Start a scanner. Raises OSError."""
        return scan.start(mode, scope, self._state, lambda: os.dup(root), scan_sandbox(), since)

    async def is_empty(self, target: int) -> bool:
        """Tell whether a local target has no entries."""
        local = self._local[target]
        return local is not None and await asyncio.to_thread(_is_empty, local)

    async def only_there(self, target: int, directories: Iterable[bytes]) -> list[bytes]:
        """Return the paths in some directories that stand only at a target, without directories."""
        local = self._local[target]
        return [] if local is None else await asyncio.to_thread(_only_there, self._root, local, directories)

    async def absent(self, target: int, paths: Iterable[bytes]) -> list[bytes]:
        """Return those of some paths at which nothing stands at a target."""
        local = self._local[target]
        return [] if local is None else await asyncio.to_thread(_absent, local, list(paths))

    async def count(self, target: int, paths: Iterable[bytes], most: int) -> int:
        """Return how many entries stand below some paths at a target, or `most`."""
        local = self._local[target]
        return 0 if local is None else await asyncio.to_thread(_count, local, list(paths), most)

    async def flush(self, target: int | None) -> bool:
        """Flush the file system of a target, or the watched one.

        A process of its own does it: who ends is not to wait for a disk.
        """
        path = self._root if target is SOURCE else self._local[target]
        if path is None:
            return False  # its host is to be asked
        try:
            with opened(self._root) as here:
                child = spawn(flusher(path), cwd=here, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        except OSError:
            return False
        try:
            pause, longest = _FLUSH_LOOKS
            while child.poll() is None and not self._stopped:
                await asyncio.sleep(pause)
                pause = min(2 * pause, longest)
        finally:
            if child.poll() is None:
                child.kill()
        return child.returncode == 0

    def stop(self) -> None:
        """Wait for no flush any more."""
        self._stopped = True


def _is_empty(directory: bytes) -> bool:
    try:
        with roles.as_programs(), os.scandir(directory) as entries:
            return next(entries, None) is None
    except OSError:
        return False


def _only_there(source: bytes, target: bytes, directories: Iterable[bytes]) -> list[bytes]:
    found: list[bytes] = []
    try:
        with opened(source) as here, opened(target) as there:
            for directory in directories:
                found += _only_at(here, there, directory)
    except OSError:
        pass  # either is away: it is told elsewhere
    return found


def _absent(target: bytes, paths: list[bytes]) -> list[bytes]:
    try:
        with roles.as_programs(), opened(target) as there:
            found = looked_at(there, paths)
            return [path for path, stands in zip(paths, found, strict=True) if stands is None]
    except OSError:
        return []  # it is away: that is told elsewhere


def _count(target: bytes, paths: list[bytes], most: int) -> int:
    try:
        with roles.as_programs(), opened(target) as there:
            return sum(1 for _ in islice(chain.from_iterable(walk(there, path) for path in paths), most))
    except OSError:
        return 0  # it is away: that is told elsewhere


def _only_at(here: int, there: int, directory: bytes) -> list[bytes]:
    """Return the paths in one directory that stand only `there`, without directories; nothing behind a symlink."""
    try:
        names = {name for name, _ in _names(here, directory)}
        with roles.as_programs():
            found = _names(there, directory)
        return [join(directory, name) for name, is_dir in found if not is_dir and name not in names]
    except OSError:
        return []


def _names(root: int, directory: bytes) -> list[tuple[bytes, bool]]:
    """Return the names in a directory, and whether they are directories. Raises OSError."""
    found = open_beneath(root, directory, DIRECTORY_FLAGS)
    try:
        with os.scandir(found) as entries:
            return [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries]
    finally:
        os.close(found)
