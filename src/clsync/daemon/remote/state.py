"""The state on the worker's side: its files are here, all that takes rights is asked of the broker."""

from __future__ import annotations

import asyncio
import socket
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from clsync.core.stamps import YOUNG_NS
from clsync.daemon.desks.shared import digest_of
from clsync.privilege.looks import Seen
from clsync.privilege.port import Caller
from clsync.privilege.wire import Op, in_frames
from clsync.state.messages import RECORD
from clsync.state.walker import Directory, Scope, View

if TYPE_CHECKING:
    from clsync.daemon.remote.calls import Calls
    from clsync.daemon.remote.tree import RemoteOps

T = TypeVar("T")
SOURCE: Final = 0
"""In place of the number of a target, which begin with 1 in messages."""


class OneThread:
    """A thread for what waits for a disk: begun while there may be one more."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "state")

    def begin(self) -> None:
        """Start it, with the rights that this thread has now."""
        self._executor.submit(int).result()

    async def run(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do something in it."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, partial(work, *arguments))


class RemoteStateAccess:
    """Asks the broker (see `StateAccess`)."""

    def __init__(self, caller: Caller, calls: Calls, ops: RemoteOps, thread: OneThread) -> None:
        """`caller` and `calls`: the ways to it."""
        self._caller, self._calls, self._ops, self._thread = caller, calls, ops, thread

    def follow(self, local: Sequence[bytes | None]) -> None:
        """Do nothing: the broker knows where the targets are."""

    async def apart(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do something in another thread."""
        return await self._thread.run(work, *arguments)

    def walker(self, root: int, scope: Scope) -> RemoteWalker:
        """Return what looks at directories below an open root."""
        return RemoteWalker(self._ops, root, scope)

    def start(self, mode: bytes, root: int, scope: Scope, since: float) -> RemoteScanner:
        """Have a scanner started. Raises OSError."""
        number = self._caller.call(Op.STATE_SCAN, root, mode == RECORD, digest_of(scope.rules), since)[0]
        return RemoteScanner(self._caller, self._calls, number)

    async def is_empty(self, target: int) -> bool:
        """Tell whether a local target has no entries."""
        (empty,) = await self._calls.call(Op.TARGET_EMPTY, target)
        return bool(empty)

    async def only_there(self, target: int, directories: Iterable[bytes]) -> list[bytes]:
        """Return the paths in some directories that stand only at a target."""
        return await self._paths(Op.TARGET_ONLY_THERE, target, list(directories))

    async def absent(self, target: int, paths: Iterable[bytes]) -> list[bytes]:
        """Return those of some paths at which nothing stands at a target."""
        return await self._paths(Op.TARGET_ABSENT, target, list(paths))

    async def _paths(self, op: Op, target: int, paths: list[bytes]) -> list[bytes]:
        """Ask something of paths of a target that is answered with paths."""
        parts = list[list[Any]]()
        for part in in_frames(paths):
            await self._calls.call(op, target, paths[part], parts=parts)
        return [path for (found,) in parts for path in found]

    async def count(self, target: int, paths: Iterable[bytes], most: int) -> int:
        """Return how many entries stand below some paths at a target, or `most`."""
        listed, found = list(paths), 0
        for part in in_frames(listed):
            found += (await self._calls.call(Op.TARGET_COUNT, target, listed[part], most - found))[0]
        return found

    async def flush(self, target: int | None) -> bool:
        """Flush the file system of a target, or the watched one."""
        (done,) = await self._calls.call(Op.FLUSH, SOURCE if target is None else target + 1)
        return bool(done)


class RemoteScanner:
    """A scanner that the broker has started (see `state.scan.Running`)."""

    def __init__(self, caller: Caller, calls: Calls, number: int) -> None:
        """Take what has just been started."""
        (descriptor,) = caller.descriptors
        self._calls, self._number = calls, number
        self._ended: asyncio.Task[list[Any]] | None = None
        self.connection = socket.socket(fileno=descriptor)

    async def end(self, kill: bool) -> int:
        """Wait for its end."""
        if self._ended is None:
            self._ended = asyncio.ensure_future(self._calls.call(Op.SCAN_END, self._number, kill))
        (code,) = await asyncio.shield(self._ended)  # it is asked for once, whoever is not waiting any more
        return int(code)


class RemoteWalker(View):
    """Looks at directories below a root of the broker's."""

    def __init__(self, ops: RemoteOps, root: int, scope: Scope) -> None:
        """`root`: its number."""
        self._ops, self._root = ops, root
        super().__init__(scope, ops.device(root) if scope.one_file_system else None)

    def visit(self, path: bytes) -> Iterator[Directory]:
        """Yield a directory as it is now; nothing where it is gone. Raises OSError."""
        young = time.time_ns() - YOUNG_NS
        found = self._ops.looks(self._root).lstat(path)
        if found is not None and stat.S_ISDIR(found.st_mode):
            yield self.seen(path, found, young, partial(self._names, path))

    def _names(self, path: bytes) -> tuple[list[bytes], Callable[[bytes], Seen]]:
        entries = self._ops.entries(self._root, path)
        return list(entries), entries.__getitem__
