"""A scan of a tree by processes of its own, which share the directories between them and tell only what differs."""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
import sys
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from clsync.core.paths import join
from clsync.kernel.descriptors import handed_over
from clsync.kernel.process import exit_text, spawn
from clsync.kernel.sandbox import Sandbox
from clsync.state import index
from clsync.state.difference import pack
from clsync.state.messages import (
    COMPARE,
    FAILED,
    FOUND,
    IDLE,
    LINKED,
    RECORD,
    SHARE,
    WORK,
    Inbox,
    Malformed,
    Order,
    message,
)
from clsync.state.walker import Directory, Scope, Visits

Changes = list[tuple[bytes, int]]
"""Paths, and what may have changed (`core.changes`)."""
MOST: Final = 4
"""Scanners at once."""
_PROGRAM: Final = b"import gc; gc.disable(); from clsync.state.scanner import main; main()"
"""What it leaves behind has no cycles; `-m` takes longer to find the same."""
_CHUNK: Final = 1 << 18
_AT_ONCE: Final = 256
"""Directories given to a scanner at once."""


class ScanFailed(Exception):
    """The state is damaged, or cannot be read or written; the text says why."""


class Scanned(NamedTuple):
    """How much there was to look at."""

    directories: int
    entries: int


class Linked(NamedTuple):
    """A name of a file that has several."""

    dev: int
    ino: int
    nlink: int
    path: bytes


class Running(Protocol):
    """A scanner at work."""

    connection: socket.socket
    """To it."""

    async def end(self, kill: bool) -> int:
        """Wait for its end, after SIGKILL if that is asked for; return its `Popen.returncode`. May be called again."""
        ...


class Source(NamedTuple):
    """What is scanned, and beside what."""

    start: Callable[[bytes], Running]
    """Starts a scanner in a mode (`COMPARE`, `RECORD`). Raises OSError."""
    room: asyncio.Semaphore
    """For all scanners that there may be at once."""


class Child:
    """A scanner that is a child of this process (see `Running`)."""

    def __init__(self, order: Order, root: int) -> None:
        """Start it; `root`: an open descriptor of the watched root. Raises OSError."""
        self.connection, theirs = socket.socketpair()
        words = [b"-I", b"-c", _PROGRAM, b"%d" % theirs.fileno()]
        try:
            with theirs, handed_over(pickle.dumps(order)) as said:
                self._process = spawn(
                    [os.fsencode(sys.executable), *words],
                    cwd=root,
                    stdin=said,
                    pass_fds=[theirs.fileno()],
                    keeper=True,
                )
        except BaseException:
            self.connection.close()
            raise

    async def end(self, kill: bool) -> int:
        """Wait for its end."""
        if kill:
            self._process.kill()
        return await asyncio.to_thread(self._process.wait)


def start(
    mode: bytes,
    scope: Scope,
    state: bytes,
    open_root: Callable[[], int],
    sandbox: Sandbox | None = None,
    since: float = 0.0,
) -> Child:
    """Start a scanner of what is below the root, of which `open_root` returns a new descriptor. Raises OSError.

    `state`: the file (`Store.path`); for `since` see `Order`.
    """
    root = open_root()
    try:
        return Child(Order(mode, scope.one_file_system, state, scope.rules.source_text, sandbox, since), root)
    finally:
        os.close(root)


def here(open_root: Callable[[], int], scope: Scope, state: bytes) -> Source:
    """Return what is scanned by children of this process (see `start`)."""
    return Source(lambda mode: start(mode, scope, state, open_root), asyncio.Semaphore(MOST))


async def compare(
    source: Source,
    tops: Iterable[bytes] = (b"",),
    linked: Callable[[Linked], None] = lambda file: None,
    over: Callable[[Scanned], None] = lambda seen: None,
) -> AsyncGenerator[Changes, None]:
    """Yield what differs from the index at and below directories.

    Directories that are new are told as a whole. The processes wait while what they have found is not taken. `linked`
    is told every file with several names, but for those in new directories; `over`, once, how much there was. Raises
    OSError, or ScanFailed.
    """
    scan = _Scan(source, COMPARE, tops, linked)
    async with aclosing(scan.run()) as running:
        async for found in running:
            yield found
    over(scan.seen())


async def record(
    source: Source, tops: Iterable[bytes] = (b"",), linked: Callable[[Linked], None] = lambda file: None
) -> Scanned:
    """Write into the index what is at and below directories (`Store.begin_record`); for `linked` see `compare`.

    Raises OSError, or ScanFailed.
    """
    scan = _Scan(source, RECORD, tops, linked)
    async with aclosing(scan.run()) as running:
        async for _ in running:
            pass
    return scan.seen()


def listings(walker: Visits, top: bytes, most: int) -> list[tuple[bytes, index.Parts]] | None:
    """Return all listings at and below a directory (for `Confirmed.trees`); None: more than `most` names.

    For small trees: it is done at once, in this process. What cannot be looked at is left out.
    """
    found: list[tuple[bytes, index.Parts]] = []
    pending = [top]
    while pending:
        path = pending.pop()
        try:
            for directory in walker.visit(path):
                most -= len(directory.names) + 1
                if most < 0:
                    return None
                below, listing = _listed(directory)
                found.append((path, listing))
                pending += filter(walker.enters, (join(path, name) for name in below))
        except OSError:
            continue
    return found


def _listed(directory: Directory) -> tuple[list[bytes], index.Parts]:
    parts: index.Parts = []
    seen = pack(directory, lambda first, part: parts.append((first, part)))
    return seen.directories, parts


@dataclass(eq=False)
class _Scanner:
    """One process, and what it does."""

    running: Running
    reader: asyncio.StreamReader = field(init=False)
    writer: asyncio.StreamWriter | None = None
    idle: bool = True
    asked: bool = False
    seen: Scanned = field(default=Scanned(0, 0))

    def send(self, letter: bytes, parts: Iterable[bytes] = ()) -> None:
        """Say something; what cannot be said any more shows in what is read."""
        if self.writer is not None and not self.writer.is_closing():
            self.writer.write(message(letter, parts))


class _Scan:
    """One scan at work."""

    def __init__(self, source: Source, mode: bytes, tops: Iterable[bytes], linked: Callable[[Linked], None]) -> None:
        self._source, self._mode, self._pending, self._linked = source, mode, list(tops), linked
        self._scanners: list[_Scanner] = []
        self._taken = 0
        """Of the room for scanners."""
        self._said: asyncio.Queue[tuple[_Scanner, bytes, list[bytes]] | BaseException] = asyncio.Queue(8)

    def seen(self) -> Scanned:
        """Return how much was looked at."""
        seen = [scanner.seen for scanner in self._scanners]
        return Scanned(sum(one.directories for one in seen), sum(one.entries for one in seen))

    async def _take_room(self, wanted: int) -> int:
        """Wait until one scanner can be started; return how many can be, `wanted` at most."""
        room = self._source.room
        while not self._taken or (self._taken < wanted and not room.locked()):
            await room.acquire()
            self._taken += 1
        return self._taken

    async def run(self) -> AsyncGenerator[Changes, None]:
        """Scan, and yield what is found."""
        listeners: list[asyncio.Task[None]] = []
        try:
            for _ in range(await self._take_room(min(MOST, len(os.sched_getaffinity(0))))):
                await self._start()
            listeners += [asyncio.create_task(self._listen(scanner)) for scanner in self._scanners]
            self._hand_out()
            while not all(scanner.idle for scanner in self._scanners):
                said = await self._said.get()
                if isinstance(said, BaseException):
                    raise said
                scanner, letter, parts = said
                if letter == FOUND:
                    yield [_change(part) for part in parts]
                else:
                    self._heed(scanner, letter, parts)
        finally:
            for listener in listeners:
                listener.cancel()
            await asyncio.gather(*listeners, return_exceptions=True)
            await self._end()

    async def _start(self) -> _Scanner:
        running = self._source.start(self._mode)
        scanner = _Scanner(running)
        self._scanners.append(scanner)  # first: it is to be ended, whatever happens
        scanner.reader, scanner.writer = await asyncio.open_unix_connection(sock=running.connection, limit=_CHUNK)
        return scanner

    async def _listen(self, scanner: _Scanner) -> None:
        inbox = Inbox()
        try:
            while data := await scanner.reader.read(_CHUNK):
                for letter, parts in inbox.feed(data):
                    await self._said.put((scanner, letter, parts))
        except OSError:
            pass
        except Malformed as error:
            await self._said.put(ChildProcessError(f"the scan has said {error}"))
            return
        code = await scanner.running.end(kill=False)
        await self._said.put(ChildProcessError(f"the scan has ended ({exit_text(code)})"))

    def _heed(self, scanner: _Scanner, letter: bytes, parts: list[bytes]) -> None:
        if letter == LINKED:
            for part in parts:
                device, inode, links, path = part.split(b" ", 3)
                self._linked(Linked(int(device), int(inode), int(links), path))
            return
        if letter == FAILED:
            raise ScanFailed(b"\0".join(parts).decode(errors="replace"))
        if letter == SHARE:
            scanner.asked = False
            self._pending += [part for part in parts if part]
        elif letter == IDLE:
            scanner.seen = Scanned(*map(int, parts[0].split()))
            scanner.idle = True
            scanner.asked = False
        self._hand_out()

    def _hand_out(self) -> None:
        idle = [scanner for scanner in self._scanners if scanner.idle]
        for number, scanner in enumerate(idle):
            if self._pending:
                # Who is at work has enough: the less often it is divided, the less often one waits for the other.
                count = min(-(-len(self._pending) // (len(idle) - number)), _AT_ONCE)
                scanner.idle = scanner.asked = False
                scanner.send(WORK, self._pending[:count])
                del self._pending[:count]
        if any(scanner.idle for scanner in idle):
            for scanner in self._scanners:
                if not scanner.idle and not scanner.asked:
                    scanner.asked = True
                    scanner.send(SHARE)

    async def _end(self) -> None:
        for scanner in self._scanners:
            if scanner.writer is not None:
                scanner.writer.close()
            else:
                scanner.running.connection.close()
            await scanner.running.end(kill=True)
        for _ in range(self._taken):
            self._source.room.release()
            self._taken -= 1


def _change(part: bytes) -> tuple[bytes, int]:
    bits, _, path = part.partition(b" ")
    return path, int(bits)
