"""Handlers that are the operator's own program, with its arguments, macros and list files."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from clsync.core.batch import Batch, Outcome, Verdict
from clsync.core.paths import shown
from clsync.handler import listfiles
from clsync.handler.base import PathRules
from clsync.handler.listfiles import ListFiles
from clsync.handler.objects import Objects, event_mask
from clsync.handler.runner import Runner, orphans_ended, surroundings
from clsync.kernel.orphans import mark, work_of
from clsync.kernel.priority import USUAL, Priority
from clsync.kernel.process import exit_text
from clsync.options.expansion import expand, macros

OBJECTS = b"INCLUDE-LIST"
INCLUDE_FILE = b"INCLUDE-LIST-PATH"
EXCLUDE_FILE = b"EXCLUDE-LIST-PATH"
RSYNC_ARGUMENTS = b"%RSYNC-ARGS%"
_NO_LINE = "a newline cannot stand in a list of lines; use %INCLUDE-LIST%"
_ALONE: Final[set[bytes]] = set()
"""Works at which nothing is that a clsync before us has left: what ours begin from now on is not looked at."""
MOST_ARGUMENTS = 256
"""Objects and configured arguments of one run together, as in clsync 0.4."""
_LIST_OBJECTS = 100_000

Lookup = Callable[[bytes], bytes | None]


@dataclass(frozen=True, slots=True)
class CommandStyle:
    """How a mode calls its program."""

    one_per_run: bool = False
    """Mode simple: one object a run, by its absolute path."""
    root_name: bytes = b""
    """How the watched directory itself is named; other objects by their paths relative to it."""
    rsync_lists: bool = False
    """List files are rsync's include and exclude lists, else lines `sync LABEL MASK PATH`."""
    plain_lists: bool = False
    """Lines hold the path alone."""
    vanished_is_done: bool = False
    """Exit code 24 of rsync is success: files vanished before they were sent; their own events are on the way."""
    recursive: bool = False
    """The program takes whole directories, each in a run of its own, by their absolute paths."""
    prefer_include: bool = False
    """Permitted objects are included by name, nothing is excluded (`--rsync-prefer-include`)."""
    include_limit: int = 20_000
    """Lines after which an include list is split, 0: never."""
    lists_dir: bytes | None = None
    keep_lists: bool = False


class CommandHandler:
    """Hands objects to a program the operator named, with its arguments and macros."""

    def __init__(
        self,
        program: bytes,
        arguments: Sequence[bytes],
        *,
        recursive_arguments: Sequence[bytes] = (),
        style: CommandStyle,
        root: bytes,
        lookup: Lookup,
        label: bytes = b"",
        target: bytes = b"",
        rules: PathRules | None = None,
        full_initial: bool = False,
        timeout: float = 0.0,
        codes_done: Iterable[int] = (),
        one_file_system: bool = False,
        priority: Priority = USUAL,
    ) -> None:
        """`root`: absolute path of the watched tree; `lookup`: values of `%name%` that do not depend on a run.

        `target`: the destination, if one is named.
        """
        self.rules = rules
        self.trusts_times = False
        self.coarse_ns = 0
        self.glues: bytes | None = None
        self._program, self._style = program, style
        self._arguments = _legacy_arguments(arguments, style)
        self._recursive_arguments = list(recursive_arguments)
        self._root, self._lookup, self._label, self._full_initial = root, lookup, label, full_initial
        self._codes_done = frozenset(codes_done) | ({0, 24} if style.vanished_is_done else {0})
        self._one_file_system = one_file_system
        self._runner = Runner(timeout, priority=priority)
        self._stopping = False
        # What it does is not known; who has all of this in common does the same.
        self._work = b" ".join((label, program, target))
        self._lists = ListFiles(style.lists_dir, style.keep_lists)
        names = {name for argument in self._arguments for name in macros(argument)}
        self._wants_file = bool(names & {INCLUDE_FILE, EXCLUDE_FILE})
        self._lines_only = self._wants_file and OBJECTS not in names and not (style.rsync_lists or style.one_per_run)

    async def open(self) -> None:
        """Nothing is to be made ready (see `handler.base.Handler`)."""

    async def sync(self, batch: Batch) -> Outcome:
        """Run the program for all entries (see `handler.base.Handler`)."""
        self._stopping = False
        if self._work not in _ALONE:
            wrong = await orphans_ended(work_of(batch.root, self._work), self._program)
            if wrong or self._stopping:
                return Outcome(Verdict.UNWELL, message=wrong or "stopped")
            _ALONE.add(self._work)
        failed, hopeless = dict[bytes, str](), set[bytes]()
        code = 0
        try:
            async for objects, argv, made in self._runs(batch):
                untold = [o for o in objects if b"\n" in o] if self._lines_only else []
                why = ""
                try:
                    if len(untold) < len(objects):
                        why, code = await self._run(argv, batch, code)
                finally:
                    self._lists.drop(made)
                if self._stopping:
                    return Outcome(Verdict.UNWELL, message="stopped", code=code)
                if why:
                    failed.update(dict.fromkeys(objects, why))
                failed.update(dict.fromkeys(untold, _NO_LINE))
                hopeless.update(untold)
        except OSError as error:
            message = f"cannot run {shown(self._program)}: {error.strerror}"
            return Outcome(Verdict.UNWELL, message=message, code=error.errno or 1)
        if failed:
            why = next(iter(failed.values()))
            return Outcome(Verdict.PARTIAL, failed, frozenset(hopeless), message=why, code=code)
        return Outcome(Verdict.DONE)

    def stop(self) -> None:
        """End the run at work."""
        self._stopping = True
        self._runner.stop()

    async def aclose(self) -> None:
        """Remove the private directory of list files."""
        self._lists.close()

    async def _run(self, argv: list[bytes], batch: Batch, code: int) -> tuple[str, int]:
        env = surroundings(batch.status, batch.number) | mark(work_of(batch.root, self._work), theirs=True)
        result = await self._runner.run(argv, cwd=batch.root, env=env, keep_messages=False)
        if result.timed_out:
            return f"{shown(self._program)} took longer than --timeout-sync", result.code
        if result.code in self._codes_done:
            return "", code
        return f"{shown(self._program)}: {exit_text(result.code)}", result.code

    # -- what one run is given ---------------------------------------------------------------------------------

    async def _runs(self, batch: Batch) -> AsyncIterator[tuple[list[bytes], list[bytes], list[bytes]]]:
        """Yield (objects, argument list, list files made) of each run."""
        objects = self._objects(batch)
        if self._wants_file and self._style.rsync_lists:
            async for run in self._rsync_runs(objects):
                yield run
            return
        for path in objects.whole():
            yield [path], self._argv({path: batch.entries[path]}, {}, recursive=True), []
        room = 1 if self._style.one_per_run else max(1, MOST_ARGUMENTS - len(self._arguments))
        if not any(argument == b"%" + OBJECTS + b"%" for argument in self._arguments):
            room = 1 if self._style.one_per_run else _LIST_OBJECTS
        async for some in _chunks(objects, room):
            made = [self._lists.write(listfiles.INCLUDE, self._lines(some))] if self._wants_file else []
            files = {INCLUDE_FILE: made[0], EXCLUDE_FILE: b""} if made else {}
            yield list(some), self._argv(some, files), made

    def _objects(self, batch: Batch) -> Objects:
        rules = None if batch.initial and self._full_initial else self.rules
        return Objects(batch, rules, self._one_file_system, self._style.recursive)

    async def _rsync_runs(self, objects: Objects) -> AsyncIterator[tuple[list[bytes], list[bytes], list[bytes]]]:
        style = self._style
        async for part, included, excluded in objects.rsync_lists(style.include_limit, style.prefer_include):
            include, exclude = made = self._lists.write_both(included, excluded)
            argv = self._argv(part, {INCLUDE_FILE: include, EXCLUDE_FILE: exclude})
            yield list(part), argv, made

    def _argv(
        self, objects: Mapping[bytes, int], files: Mapping[bytes, bytes], recursive: bool = False
    ) -> list[bytes]:
        single = next(iter(objects)) if self._style.one_per_run or len(objects) == 1 else None
        argv = [self._program]
        absolute = self._style.one_per_run or recursive

        def value(name: bytes) -> bytes | None:
            return b"initialsync" if recursive and name == b"TYPE" else self._value(name, objects, files, single)

        for argument in self._recursive_arguments if recursive else self._arguments:
            if argument == b"%" + OBJECTS + b"%":
                argv += [self._named(path, absolute) for path in objects]
            else:
                argv.append(expand(argument, value))
        return argv

    def _value(
        self,
        name: bytes,
        objects: Mapping[bytes, int],
        files: Mapping[bytes, bytes],
        single: bytes | None,
    ) -> bytes | None:
        if name in files:
            return files[name]
        if name == OBJECTS:
            return b""
        if name == b"EVENT-MASK":
            return b"%d" % event_mask(objects[single]) if single is not None else b""
        if name == b"TYPE":
            if self._style.rsync_lists:
                return b"rsynclist"
            return b"sync" if self._style.one_per_run else b"synclist"
        return self._lookup(name)

    def _named(self, path: bytes, absolute: bool) -> bytes:
        """Return the argument for an object: never one that looks like an option."""
        if absolute:
            return self._root + b"/" + path if path else self._root
        return b"./" + path if path.startswith(b"-") else path or self._style.root_name

    # -- list files --------------------------------------------------------------------------------------------

    def _lines(self, objects: Mapping[bytes, int]) -> bytes:
        # A newline cannot stand in a list of lines: such objects are named by %INCLUDE-LIST% only.
        able = {path or self._style.root_name: flags for path, flags in objects.items() if b"\n" not in path}
        if self._style.plain_lists:
            return b"".join(path + b"\n" for path in able)
        return b"".join(b"sync %s %d %s\n" % (self._label, event_mask(flags), path) for path, flags in able.items())


async def _chunks(objects: Objects, room: int) -> AsyncIterator[dict[bytes, int]]:
    """Yield at most `room` objects at a time: path -> flags."""
    chunk: dict[bytes, int] = {}
    async for path, flags in objects.listed():
        chunk[path] = flags
        if len(chunk) >= room:
            yield chunk
            chunk = {}
    if chunk:
        yield chunk


def _legacy_arguments(arguments: Sequence[bytes], style: CommandStyle) -> list[bytes]:
    """Put clsync 0.4's arguments in place of `%RSYNC-ARGS%`."""
    legacy = [b"-aH", b"--delete"]
    if not style.prefer_include:
        legacy += [b"--exclude-from", b"%EXCLUDE-LIST-PATH%"]
    legacy += [b"--include-from", b"%INCLUDE-LIST-PATH%", b"--exclude=*"]
    return list(_replaced(arguments, legacy))


def _replaced(arguments: Sequence[bytes], legacy: Sequence[bytes]) -> Iterator[bytes]:
    for argument in arguments:
        if argument == RSYNC_ARGUMENTS:
            yield from legacy
        else:
            yield argument
