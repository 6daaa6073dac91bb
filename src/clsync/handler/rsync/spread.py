"""Directories laid out as lists of what rules permit in them: rsync is left no recursion.

Much is laid out by a process of its own in the watched directory (`main`), which can do no more than list it. Standard
input: an `_Order`, pickled. Standard output: `kind path NUL` for each path, and `U errno path NUL` for what cannot be
looked at. It has listed everything once it has ended with 0.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence, Set
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, NamedTuple

from clsync.core import batch as flag
from clsync.core import lists
from clsync.core.paths import leads_out
from clsync.handler.base import PathRules
from clsync.kernel.descriptors import handed_over
from clsync.kernel.landlock import READ_DIR, Allowed
from clsync.kernel.process import exit_text, python_in_reach, signal_group, spawn
from clsync.kernel.sandbox import Sandbox, stay_within
from clsync.kernel.slices import in_parts
from clsync.kernel.walk import walk

PART = 15_000
"""Entries of one run when recursion is expanded: memory is bounded, here and in rsync."""
_FEW: Final = 2000
"""Paths for which no other process is started."""
_CHUNK: Final = 1 << 18
_LOOKS: Final = 0.2
"""Seconds after which it is asked whether to stop, while a process says nothing."""
_PROGRAM: Final = b"import gc; gc.disable(); from clsync.handler.rsync.spread import main; main()"
"""It makes no cycles."""
_TOP, _FILE, _DIRECTORY, _LINKED, _TOO_LONG, _UNREADABLE = b"T", b"F", b"D", b"L", b"X", b"U"
_FOUND: Final = frozenset((_FILE, _DIRECTORY, _LINKED, _TOO_LONG))
_DIGITS: Final = 5
"""The numbers of errors have less."""
_STOPPED: Final = "stopped"

Record = tuple[bytes, bytes]
"""Kind, path. _TOP: what follows lies at or below this directory."""


class SpreadFailed(Exception):
    """It cannot be told what is there; the text says why."""


class _Order(NamedTuple):
    """What is laid out, and what the process can do besides."""

    tops: Sequence[bytes]
    rules: PathRules
    one_file_system: bool
    sandbox: Sandbox


def laid_out(root: int, tops: Sequence[bytes], rules: PathRules, one_file_system: bool) -> Iterator[Record]:
    """Yield what rules permit at and below directories."""
    for top in tops:
        yield _TOP, top
        if rules.permits(top, True):
            yield _DIRECTORY, top
        lost: list[Record] = []

        def unreadable(path: bytes, error: OSError, lost: list[Record] = lost) -> None:
            lost.append((_UNREADABLE, b"%d %s" % (error.errno or 0, path)))

        for path, found in walk(root, top, rules.reaches, one_file_system, unreadable):
            is_dir = stat.S_ISDIR(found.st_mode)
            if not rules.permits(path, is_dir):
                continue
            if lists.too_long(path):
                yield _TOO_LONG, path
            elif is_dir:
                yield _DIRECTORY, path
            else:
                yield _LINKED if found.st_nlink > 1 else _FILE, path
        yield from lost


@dataclass(slots=True)
class Spread:
    """Lays directories out."""

    root: int
    rules: PathRules
    one_file_system: bool
    linked: dict[bytes, int]
    """Takes the files with several names: rsync links only what it sees in one run."""
    too_long: Callable[[bytes], None]
    """Is told paths that rsync cannot carry."""
    unreadable: Callable[[bytes, OSError], None]
    """Is told directories whose content cannot be laid out."""
    sandbox: Sandbox | None = None
    """What a process that lists can do besides; None: all is done here."""
    stopping: Callable[[], bool] = lambda: False
    """Tells whether nobody wants to know any more."""

    async def below(self, tops: Mapping[bytes, int]) -> AsyncGenerator[dict[bytes, int], None]:
        """Yield what rules permit at and below directories, in parts. Raises SpreadFailed."""
        part: dict[bytes, int] = {}
        keep = 0
        async with aclosing(self._records(list(tops))) as chunks:
            async for chunk in chunks:
                if self.stopping():
                    raise SpreadFailed(_STOPPED)
                for kind, path in chunk:
                    if kind == _FILE:
                        part[path] = keep
                    elif kind == _TOP:
                        keep = tops[path] & flag.FORCE
                    else:
                        self._enter(kind, path, keep, part)
                    if len(part) >= PART:
                        yield part
                        part = {}
        if part:
            yield part

    def _enter(self, kind: bytes, path: bytes, keep: int, part: dict[bytes, int]) -> None:
        if kind == _DIRECTORY:
            part[path] = flag.DIRECTORY | keep
        elif kind == _LINKED:
            self.linked[path] = self.linked.get(path, 0) | flag.LINKED | keep
        elif kind == _TOO_LONG:
            self.too_long(path)
        else:
            number, _, where = path.partition(b" ")
            self.unreadable(where, OSError(int(number), os.strerror(int(number)), where))

    async def _records(self, tops: Sequence[bytes]) -> AsyncGenerator[Sequence[Record], None]:
        few: list[Record] = []
        order: bytes | None = None
        async with aclosing(in_parts(laid_out(self.root, tops, self.rules, self.one_file_system))) as here:
            if self.sandbox is not None:
                async for chunk in here:
                    few += chunk
                    if len(few) > _FEW:
                        order = await asyncio.to_thread(self._order, tops)
                        break
            if order is None:
                yield few
                async for chunk in here:
                    yield chunk
                return
        async with aclosing(self._by_another(order, frozenset(tops))) as there:
            async for records in there:
                yield records

    def _order(self, tops: Sequence[bytes]) -> bytes | None:
        """Return what another process is told; None where there is none, or none to which it can be told."""
        if self.sandbox is None or not python_in_reach(of_programs=False):
            return None
        try:
            return pickle.dumps(_Order(tops, self.rules, self.one_file_system, self.sandbox))
        except Exception:  # noqa: BLE001 - rules of somebody else's may be anything
            return None

    async def _by_another(self, order: bytes, tops: Set[bytes]) -> AsyncGenerator[list[Record], None]:
        """Have another process lay it all out. Raises SpreadFailed."""
        try:
            child = _started(order, self.root)
        except OSError as error:
            raise SpreadFailed(f"what the rules permit cannot be listed: {error.strerror}") from None
        assert child.stdout is not None
        try:
            left = b""
            while data := await self._said(child.stdout.fileno()):
                *whole, left = (left + data).split(b"\0")
                if not all(_can_be(record, tops) for record in whole):
                    raise SpreadFailed("the process that lists what the rules permit says what cannot be")
                yield [(record[:1], record[1:]) for record in whole]
            code = await asyncio.to_thread(child.wait)
            if code or left:
                raise SpreadFailed(f"the process that lists what the rules permit has ended ({exit_text(code)})")
        finally:
            if child.poll() is None:
                signal_group(child.pid, signal.SIGKILL)
                child.wait()
            child.stdout.close()

    async def _said(self, outlet: int) -> bytes:
        """Return what has come, empty at the end. Raises SpreadFailed where it is to stop: a file system may not answer."""
        while not await _readable(outlet):
            if self.stopping():
                raise SpreadFailed(_STOPPED)
        return os.read(outlet, _CHUNK)


async def _readable(outlet: int) -> bool:
    """Wait a moment for something to read, by no thread: that might read when the number is another file's already."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(outlet, ready.set)
    try:
        async with asyncio.timeout(_LOOKS):
            await ready.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(outlet)
    return True


def _can_be(record: bytes, tops: Set[bytes]) -> bool:
    """Tell whether a record may be one of `laid_out`: who reads the tree is not trusted with more than to list it."""
    kind, path = record[:1], record[1:]
    if kind == _TOP:
        return path in tops
    if kind == _UNREADABLE:
        number, _, path = path.partition(b" ")
        if not (number.isdigit() and len(number) < _DIGITS):
            return False
    elif kind not in _FOUND:
        return False
    return not leads_out(path)


def _started(order: bytes, root: int) -> subprocess.Popen[bytes]:
    with handed_over(order) as said:
        return spawn(
            [os.fsencode(sys.executable), b"-I", b"-c", _PROGRAM],
            cwd=root,
            stdin=said,
            stdout=subprocess.PIPE,
            scanner=True,
        )


def main() -> None:
    """Lay out what standard input says."""
    order: _Order = pickle.load(sys.stdin.buffer)
    root = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    stay_within(order.sandbox, [Allowed(b".", READ_DIR)])
    with open(sys.stdout.fileno(), "wb", buffering=_CHUNK, closefd=False) as output:
        for kind, path in laid_out(root, order.tops, order.rules, order.one_file_system):
            output.write(kind + path + b"\0")
