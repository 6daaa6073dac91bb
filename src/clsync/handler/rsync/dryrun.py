"""Compares a target by dry runs of rsync."""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterator
from contextlib import aclosing, suppress
from typing import Final

from clsync.core import batch as flag
from clsync.core.batch import Batch
from clsync.core.lists import unescape
from clsync.core.paths import ancestors, leads_out, parent
from clsync.core.verification import Aspect, Difference, topmost
from clsync.handler.base import PathRules
from clsync.handler.compare.base import RUN_COST, ComparisonFailed, Part, Question
from clsync.handler.rsync.blame import blame
from clsync.handler.rsync.program import Program, unwell
from clsync.handler.runner import Result
from clsync.kernel.slices import in_slices
from clsync.kernel.walk import lstat_straight, walk

_CODE_PARTIAL: Final = 23
_LINE: Final = re.compile(rb"(?P<update>[<>ch.])(?P<kind>[fdLDS])(?P<what>.{9}) (?P<name>.*)", re.DOTALL)
_DELETING: Final = b"*deleting   "
_NEW: Final = b"+++++++++"
_LETTERS: Final = (
    (b"c", Aspect.CONTENT),
    (b"s", Aspect.SIZE),
    (b"tT", Aspect.MTIME),
    (b"p", Aspect.MODE),
    (b"o", Aspect.OWNER),
    (b"g", Aspect.GROUP),
    (b"", Aspect(0)),
    (b"a", Aspect.XATTRS),
    (b"x", Aspect.XATTRS),
)
"""What stands at each place of `%i` (rsyncd.conf(5), rsync(1), --itemize-changes) where something differs."""
_SECONDS: Final = 20
"""Of what the rate lets pass, so much is compared by one run."""
_MOST_AT_ONCE: Final = 20_000
_KEPT: Final = 200_000
"""Differences of one run that are held against each other: what is below something missing is not told by itself.

If these are all apart, no more are told.
"""
_LONGEST: Final = 4096
"""Bytes of a path that rsync can name."""
_CHUNK: Final = 1 << 16


class DryRuns:
    """Compares one target (see `handler.compare.base.Comparison`)."""

    def __init__(self, program: Program, one_file_system: int) -> None:
        """`program`: not used for anything else. `one_file_system`: as in the recipe."""
        self._program, self._level = program, one_file_system

    async def differences(self, question: Question) -> AsyncGenerator[Part, None]:
        """Yield what differs."""
        if question.paths is not None:
            yield await self._run(question, self._around(question))
        elif not question.rate:
            found = await self._run(question, None)
            yield Part(found.differences, await self._counted(question))
        else:
            async with aclosing(self._slices(question)) as slices:
                async for directories, entries in slices:
                    await question.hold()
                    found = await self._run(question, directories)
                    yield Part(found.differences, entries)
                    await asyncio.sleep((entries + RUN_COST) / question.rate)

    async def _counted(self, question: Question) -> int:
        """Return how many entries there are to be compared."""
        count = 1
        async for _ in in_slices(self._walked(question)):
            count += 1
        return count

    def _walked(self, question: Question) -> Iterator[tuple[bytes, os.stat_result]]:
        reaches = question.rules.reaches if question.rules is not None else (lambda path: True)
        return walk(question.root, b"", reaches, self._level > 0)

    async def _slices(self, question: Question) -> AsyncGenerator[tuple[list[bytes], int], None]:
        """Yield directories, as many as one run compares, and how many entries they hold."""
        most = min(max(question.rate * _SECONDS, 1), _MOST_AT_ONCE)
        directories, entries = [b""], 1
        async for path, found in in_slices(self._walked(question)):
            entries += 1
            if stat.S_ISDIR(found.st_mode):
                directories.append(path)
                if entries >= most:
                    yield directories, entries
                    directories, entries = [], 0
        if directories or entries:
            yield directories, entries

    def _around(self, question: Question) -> list[bytes]:
        """Return the directories of the source that hold some paths, or would."""
        assert question.paths is not None
        look, found = lstat_straight(question.root), set[bytes]()
        for path in question.paths:
            up = parent(path)
            while up and not _is_directory(look, up):
                up = parent(up)
            found.add(up)
        return sorted(found)

    async def _run(self, question: Question, directories: Collection[bytes] | None) -> Part:
        """Compare the content of some directories, or everything. Raises ComparisonFailed."""
        program, found = self._program, dict[bytes, Difference]()
        records = None if directories is None else [b"./" + (d + b"/" if d else b"") + b"\0" for d in directories]
        arguments = program.recipe.differences(listed=records is not None, content=question.content)
        batch = Batch(0, {}, question.root)
        outlet, inlet = os.pipe2(os.O_CLOEXEC)
        program.stopping = False
        reading = Reading(question.rules)
        running = asyncio.create_task(program.run(arguments, batch, records, inlet))
        running.add_done_callback(lambda _: os.close(inlet))
        try:
            async for line in _lines(outlet):
                one = reading.read(line)
                if one is not None and len(found) < _KEPT:
                    found[one.path] = one
                    if len(found) == _KEPT:
                        found = topmost(found)
            result = await running
        except OSError as error:
            raise ComparisonFailed(f"rsync cannot be run: {error.strerror}") from None
        finally:
            if not running.done():
                running.cancel()
                await asyncio.wait((running,))
            os.close(outlet)
        found = topmost(found)
        self._judge(question.root, result, found)
        if question.paths is not None:
            wanted = set(question.paths)
            found = {path: one for path, one in found.items() if path in wanted}
        return Part(list(found.values()), len(question.paths or ()))

    def _judge(self, root: int, result: Result, found: dict[bytes, Difference]) -> None:
        """Take note of what could not be compared. Raises ComparisonFailed where that is everything."""
        if self._program.done(result):
            return
        if result.code != _CODE_PARTIAL or result.stopped or result.timed_out or result.stood_still:
            raise ComparisonFailed(unwell(result, self._program.target).message)
        everything = {b"": flag.DIRECTORY | flag.RECURSIVE}
        prefixes = [os.readlink(b"/proc/self/fd/%d" % root), *self._program.target.prefixes()]
        blamed = blame(result.messages, everything, prefixes, result.cut)
        if not blamed.complete:
            raise ComparisonFailed(unwell(result, self._program.target).message)
        for path in blamed.failed:
            found[path] = Difference(path, Aspect.UNREADABLE)

    async def aclose(self) -> None:
        """Close the kept connection."""
        await self._program.aclose()


class Reading:
    """Makes differences of the lines of a dry run (`--out-format=%i %n`)."""

    def __init__(self, rules: PathRules | None = None) -> None:
        """`rules`: what they reject is no difference."""
        self._rules = rules
        self._stays: set[bytes] = set()
        """Directories that are there alone, and hold something that rules protect."""

    def read(self, line: bytes) -> Difference | None:
        """Return what a line says, None where that is nothing, or no matter of ours."""
        if line.startswith(_DELETING):
            name, aspects = unescape(line[len(_DELETING) :]), Aspect.EXTRA
        else:
            item = _LINE.fullmatch(line)
            if item is None:
                return None
            name, aspects = unescape(item["name"]), _aspects(item["what"], item["update"])
            if item["kind"] in b"DS" and aspects & Aspect.CONTENT:
                aspects = aspects & ~Aspect.CONTENT | Aspect.KIND
        is_dir = name.endswith(b"/")
        path = name.rstrip(b"/").removeprefix(b"./")
        path = b"" if path == b"." else path
        if leads_out(path) or len(path) > _LONGEST:
            return None  # the other end may say anything
        if self._rules is not None and not self._rules.permits(path, is_dir):
            if aspects & Aspect.EXTRA:
                self._stays.update(ancestors(path))
            return None
        # rsync tells of what is in a directory before it tells of that.
        stays = is_dir and aspects & Aspect.EXTRA and path in self._stays
        return Difference(path, aspects) if aspects and not stays else None


def _aspects(what: bytes, update: bytes) -> Aspect:
    if what == _NEW:
        return Aspect.MISSING
    found = Aspect.LINKS if update == b"h" else Aspect(0)
    for letter, (letters, aspect) in zip(what, _LETTERS, strict=True):
        if letter in letters:
            found |= aspect
    return found & ~Aspect.CONTENT if found & Aspect.SIZE else found


def _is_directory(look: Callable[[bytes], os.stat_result | None], path: bytes) -> bool:
    with suppress(OSError):
        seen = look(path)
        return seen is not None and stat.S_ISDIR(seen.st_mode)
    return False


async def _lines(outlet: int) -> AsyncIterator[bytes]:
    """Yield the lines that come through a pipe until its other end is closed everywhere."""
    os.set_blocking(outlet, False)
    readable, rest = asyncio.Event(), b""
    loop = asyncio.get_running_loop()
    loop.add_reader(outlet, readable.set)
    try:
        while True:
            await readable.wait()
            readable.clear()
            try:
                data = os.read(outlet, _CHUNK)
            except BlockingIOError:
                continue
            if not data:
                if rest:
                    yield rest
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                yield line
    finally:
        loop.remove_reader(outlet)
