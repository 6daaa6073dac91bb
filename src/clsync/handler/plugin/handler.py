"""Modes so, rsyncso and python: a function of a module is called for each batch."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import NamedTuple

from clsync.core import batch as flag
from clsync.core.batch import Batch, Outcome, Verdict
from clsync.core.paths import ancestors, shown
from clsync.errors import Exit, OperatorError
from clsync.handler import listfiles
from clsync.handler.base import PathRules
from clsync.handler.listfiles import ListFiles
from clsync.handler.objects import Objects
from clsync.handler.plugin import layout
from clsync.handler.plugin.checks import check_module, host_library
from clsync.handler.plugin.directories import Directories, Learned
from clsync.handler.plugin.loaded import LoadedModule
from clsync.handler.plugin.process import Log
from clsync.handler.plugin.protocol import Request, Rsync, Start, StartPython, Sync
from clsync.handler.plugin.records import Records, event
from clsync.handler.plugin.values import Values
from clsync.kernel.files import opened
from clsync.kernel.priority import USUAL, Priority


@dataclass(frozen=True, slots=True)
class PluginStyle:
    """How a mode calls its module."""

    python: bool = False
    """Mode python: what is called is written in Python."""
    lists: bool = False
    """Mode rsyncso: with rsync's include and exclude lists. Else, mode so: with the objects."""
    recursive: bool = False
    """The module takes whole directories, each in a call of its own, by their absolute paths."""
    prefer_include: bool = False
    """Permitted objects are included by name, nothing is excluded (`--rsync-prefer-include`)."""
    include_limit: int = 20_000
    """Lines after which an include list is split, 0: never."""
    lists_dir: bytes | None = None
    keep_lists: bool = False

    @property
    def function(self) -> str:
        """The function that is called."""
        if self.python:
            return "the function"
        return "clsyncapi_rsync" if self.lists else "clsyncapi_sync"


class PythonValues(NamedTuple):
    """What a module written in Python is told."""

    label: bytes
    destination: bytes | None


@dataclass(frozen=True, slots=True)
class _Call:
    paths: Sequence[bytes]
    request: Request
    descriptors: Sequence[int] = ()
    confirmed: Callable[[], None] = lambda: None


class PluginHandler:
    """Hands batches to a module."""

    def __init__(
        self,
        module: bytes,
        *,
        style: PluginStyle,
        root: bytes,
        told: Values | PythonValues,
        log: Log,
        rules: PathRules | None = None,
        full_initial: bool = False,
        timeout: float = 0.0,
        codes_done: Iterable[int] = (),
        one_file_system: bool = False,
        quiet: bool = False,
        priority: Priority = USUAL,
    ) -> None:
        """`root`: absolute path of the watched tree; `told`: what the module is told of it.

        `quiet`: the module is not to hold on to a terminal. `priority`: of its process.

        Raises OperatorError where the module must not be loaded.
        """
        self.rules = rules
        self.trusts_times = False
        self.coarse_ns = 0
        self.glues: bytes | None = None
        self._style, self._root, self._module_path = style, root, module
        self._full_initial, self._one_file_system = full_initial, one_file_system
        self._lists = ListFiles(style.lists_dir, style.keep_lists)
        self._directories = Directories()
        start: Start | StartPython
        if isinstance(told, PythonValues):
            start = StartPython(module, style.function, told.label, root, told.destination)
        else:
            check_module(module)
            start = Start(host_library(), module, style.function, told)
        self._module = LoadedModule(
            start, log, root=root, timeout=timeout, codes_done=codes_done, quiet=quiet, priority=priority
        )

    async def open(self) -> None:
        """Load the module (see `handler.base.Handler`)."""
        try:
            with opened(self._root) as root:
                await self._module.begin(root)
        except OSError as error:
            raise OperatorError(
                f"--watch-dir {shown(self._root)}: {error.strerror}", "see that it stays there", Exit.SOURCE
            ) from None

    async def sync(self, batch: Batch) -> Outcome:
        """Call the module for all entries (see `handler.base.Handler`)."""
        self._module.stopping = False
        failed: dict[bytes, str] = {}
        code = 0
        try:
            async with aclosing(self._calls(batch)) as calls:
                async for call in calls:
                    why, answer = await self._module.ask(batch.root, call.request, call.descriptors)
                    if self._module.stopping:
                        return Outcome(Verdict.UNWELL, message="stopped", code=answer)
                    if why:
                        code = answer
                        failed.update(dict.fromkeys(call.paths, why))
                    elif (foreign := _foreign(self._module.failed, call, batch)) is not None:
                        why = f"names {shown(foreign)} as failed, which is not in the batch"
                        message = f"{shown(self._module_path)}: {self._style.function} {why}: nothing of it counts"
                        failed.update(dict.fromkeys(call.paths, message))
                    else:
                        failed.update(_of_batch(self._module.failed, batch))
                        call.confirmed()
        except OperatorError as error:
            return Outcome(Verdict.UNWELL, message=f"{error.message}; {error.hint}", code=error.code)
        except OSError as error:
            message = f"{shown(self._module_path)} cannot be called: {error.strerror}"
            return Outcome(Verdict.UNWELL, message=message, code=error.errno or 1)
        if failed:
            return Outcome(Verdict.PARTIAL, failed, message=next(iter(failed.values())), code=code)
        return Outcome(Verdict.DONE)

    def stop(self) -> None:
        """End the call at work."""
        self._module.stop()

    async def aclose(self) -> None:
        """Let the module clean up. Raises OperatorError with the code it answers, if that is not 0."""
        code = await self._module.end()
        self._lists.close()
        if code:
            raise OperatorError(
                f"--sync-handler {shown(self._module_path)}: clsyncapi_deinit answers {code}",
                "see its messages",
                code,
            )

    # -- what one call is given --------------------------------------------------------------------------------

    def _calls(self, batch: Batch) -> AsyncGenerator[_Call]:
        rules = None if batch.initial and self._full_initial else self.rules
        objects = Objects(batch, rules, self._one_file_system, self._style.recursive)
        return self._list_calls(objects) if self._style.lists else self._object_calls(objects)

    async def _list_calls(self, objects: Objects) -> AsyncGenerator[_Call]:
        style, batch = self._style, objects.batch
        async for part, included, excluded in objects.rsync_lists(style.include_limit, style.prefer_include):
            if style.prefer_include:
                made = [self._lists.write(listfiles.INCLUDE, included)]
            else:
                made = self._lists.write_both(included, excluded)
            try:
                yield _Call(list(part), Rsync(batch.status, batch.number, *made))
            finally:
                self._lists.drop(made)

    async def _object_calls(self, objects: Objects) -> AsyncGenerator[_Call]:
        batch, known = objects.batch, self._directories
        whole = set(objects.whole())
        for path in sorted(whole):
            with Records() as records:
                absolute = os.path.join(self._root, path) if path else self._root
                records.add(absolute, event(path, batch.entries[path], known), layout.RECURSIVELY)
                request = Sync(batch.status, batch.number, 1)
                yield _Call([path], request, [records.finish()], lambda: known.begin(complete=False))
        learned = Learned(known, everything=not whole and bool(batch.entries.get(b"", 0) & flag.RECURSIVE))
        with Records() as records:
            async for path, flags in objects.listed():
                records.add(path, event(path, flags, known), layout.NOTHING_MORE)
                learned.note(path, bool(flags & flag.DIRECTORY))
            if records.count:
                rest = [path for path in batch.entries if path not in whole]
                request = Sync(batch.status, batch.number, records.count)
                yield _Call(rest, request, [records.finish()], learned.confirm)


def _foreign(failed: Iterable[bytes], call: _Call, batch: Batch) -> bytes | None:
    """Return a path of those that failed that stands for nothing that was handed over."""
    handed = set(call.paths)
    deep = {path for path in handed if batch.entries.get(path, 0) & flag.RECURSIVE}
    for path in failed:
        odd = path and not {b"", b".", b".."}.isdisjoint(path.split(b"/"))
        if path not in handed and (odd or deep.isdisjoint((b"", *ancestors(path)))):
            return path
    return None


def _of_batch(failed: Mapping[bytes, str], batch: Batch) -> dict[bytes, str]:
    """Return what failed by the entries of a batch that stand for it."""
    found = {}
    for path, why in failed.items():
        lines = (path, *reversed([*ancestors(path)]), b"")
        found[next((up for up in lines if up in batch.entries), path)] = why
    return found
