"""One batch, from its entries to its outcome; runs in a thread."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from functools import partial
from typing import Final

from clsync.core import batch as flag
from clsync.core.batch import Batch, Outcome, Verdict
from clsync.core.paths import shown
from clsync.handler.copy.control import Control
from clsync.handler.copy.engine import Engine
from clsync.handler.copy.pool import PATIENCE, Pool, Unavailable
from clsync.handler.copy.settings import Context, Settings
from clsync.handler.copy.trouble import Stopped, Unwell, destination_trouble
from clsync.handler.copy.units import Inode, Linked, Listed, Tree, Unit, groups, phases
from clsync.kernel import roles
from clsync.kernel.files import DIRECTORY_FLAGS, open_straight
from clsync.kernel.orphans import work_of
from clsync.kernel.process import python_in_reach
from clsync.kernel.walk import lstat_below

ALONE: Final = 2000
"""Entries that are not worth starting other processes for."""


class Run:
    """A batch at work."""

    def __init__(
        self, batch: Batch, destination: bytes, settings: Settings, control: Control, pool: Pool, show_progress: bool
    ) -> None:
        """`destination`: a path. `pool`: at rest. `show_progress`: on standard output."""
        self.notes: list[str] = []
        """What the log should say."""
        self.spared = 0
        """What was not deleted."""
        self.full = False
        """The destination has no room."""
        self._batch, self._path, self._settings = batch, destination, settings
        self._control, self._show_progress = control, show_progress
        self._pool, self._helped = pool, False
        self._alone = False
        self._apart = (
            settings.sandbox is not None and python_in_reach(of_programs=True)
        ) or roles.programs_are_others()
        """Only other processes may write to the destination."""
        self._shown_at = 0.0

    def outcome(self) -> Outcome:
        """Do the work. Raises nothing that file systems cause."""
        try:
            with roles.as_programs():
                destination = open_straight(self._path, DIRECTORY_FLAGS)
        except OSError as error:
            text = f"the destination {shown(self._path)} cannot be opened: {error.strerror}"
            return Outcome(Verdict.UNWELL, message=f"{text}; create or mount it, and give us access")
        try:
            return self._outcome(destination)
        except Stopped:
            return Outcome(Verdict.UNWELL, message=self._control.reason or "stopped")
        except Unwell as trouble:
            self.full = trouble.full
            return Outcome(Verdict.UNWELL, message=str(trouble))
        except OSError as error:
            return Outcome(Verdict.UNWELL, message=str(destination_trouble(error, b"")))
        finally:
            if self._helped:
                self._pool.end(keep=self._apart)
            os.close(destination)

    def _outcome(self, destination: int) -> Outcome:
        batch = self._batch
        device = os.fstat(batch.root).st_dev
        context = Context(batch.root, destination, device, self._settings, self._control.pause)
        engine = Engine(context)
        parts = phases(batch.entries, self._settings.capabilities.hard_links)
        if self._settings.clears:
            self._do(engine, [unit for unit in parts.first if isinstance(unit, Tree)])
        else:
            self._do(engine, parts.gone)
            self._do(engine, parts.first)
            self._do(engine, parts.forced)
            linked, context.linked = context.linked, []
            self._do(engine, groups([*linked, *_linked(batch.root, parts.linked)]))
        self.spared = context.spared
        if self._show_progress:
            _print(context, "\n")
        if not os.fstat(batch.root).st_nlink:
            return Outcome(Verdict.UNWELL, message="the source directory was removed meanwhile")
        if context.failed:
            if not os.fstat(destination).st_nlink:
                text = f"the destination {shown(self._path)} was removed; create or mount it"
                return Outcome(Verdict.UNWELL, message=text)
            return Outcome(Verdict.PARTIAL, dict(context.failed))
        return Outcome(Verdict.DONE)

    def _do(self, engine: Engine, units: list[Unit]) -> None:
        """Do units here, or with other processes if there is much to do. Raises Unwell, Stopped or OSError."""
        pending = engine.context.pending
        pending.extend(reversed(units))
        many = self._batch.initial or _size(units) > ALONE
        if not (self._helped or self._apart or many):
            # A thread takes time from the event loop.
            until = time.monotonic() + PATIENCE
            while pending and (self._alone or time.monotonic() < until):
                engine.do(pending.pop())
            many = True
        if pending and self._joined(engine.context, many):
            rest = pending[::-1]
            pending.clear()
            self._pool.run(rest)
        engine.work()

    def _joined(self, context: Context, many: bool) -> bool:
        """Have other processes, `many` at once, if they can be had. Raises Stopped; Unwell: there is no other way."""
        if not self._helped and not self._alone:
            try:
                tick = partial(self._show, context) if self._show_progress else None
                self._pool.begin(context, work_of(self._batch.root, self._path), many=many, tick=tick)
                self._helped = True
            except Unavailable as why:
                if self._apart:
                    raise Unwell(f"nothing can be copied: {why}") from None
                self._alone = True
                self.notes.append(f"copying in one process: {why}")
        return self._helped

    def _show(self, context: Context) -> None:
        now = time.monotonic()
        if now > self._shown_at + 1:
            self._shown_at = now
            _print(context, "")


def _print(context: Context, end: str) -> None:
    print(f"\r{context.files} files, {context.copied >> 20} MiB", end=end, flush=True)


def _size(units: Iterable[Unit]) -> int:
    return sum(len(unit.names) if isinstance(unit, Listed) else 1 for unit in units)


def _linked(root: int, entries: dict[bytes, int]) -> Iterable[Linked]:
    """Yield listed names of files with several links."""
    look = lstat_below(root)
    for path, flags in entries.items():
        try:
            found = look(path)
        except OSError:
            found = None
        if found is not None:
            yield Linked(Inode(found.st_dev, found.st_ino), path, bool(flags & flag.FORCE))
