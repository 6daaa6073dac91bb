"""Hands batches to the engine, without blocking the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final

from clsync.core.batch import Batch, Outcome, Verdict
from clsync.core.moves import Step
from clsync.handler.base import PathRules, Renamed
from clsync.handler.copy.control import Control
from clsync.handler.copy.pool import Pool
from clsync.handler.copy.run import Run
from clsync.handler.copy.settings import Settings
from clsync.handler.renaming import rename_local
from clsync.handler.runner import orphans_ended
from clsync.kernel import roles
from clsync.kernel.capabilities import Capabilities
from clsync.kernel.orphans import work_of
from clsync.kernel.priority import USUAL, Priority, set_own_priority
from clsync.kernel.sandbox import Sandbox

_REST: Final = 30.0
"""Seconds without a batch after which no process waits for one any more."""


class CopyHandler:
    """Makes a local directory equal, batch by batch."""

    def __init__(
        self,
        destination: bytes,
        *,
        capabilities: Capabilities,
        rules: PathRules | None = None,
        full_initial: bool = False,
        one_file_system: int = 0,
        acls: bool = False,
        xattrs: bool = False,
        compares: bool = False,
        timeout: float = 0.0,
        destination_check: Callable[[], str | None] = lambda: None,
        show_progress: bool = False,
        priority: Priority = USUAL,
        rate: int = 0,
        sandbox: Sandbox | None = None,
        log: Callable[[str], None] = lambda text: None,
    ) -> None:
        """`capabilities`: what the destination can hold (`kernel.capabilities`).

        `compares`: content that may differ is compared before it is written.

        `one_file_system`: 1: other file systems below the source become empty directories, 2: they are left out.
        `timeout`: seconds one batch may take, 0 for any. `destination_check` answers what is wrong with the
        destination. `full_initial`: rules do not count in the initial sync. `priority`: of who copies. `rate`: bytes a
        second at most, 0 for any. `sandbox`: what the processes that copy can do, besides reading the source and writing
        the destination; None: a thread of this one copies what is not much. Raises OSError where no descriptor is left.
        """
        self.rules, self.full_initial = rules, full_initial
        self.trusts_times = True
        self.coarse_ns = 0
        self.glues: bytes | None = None
        self.swaps = True
        self._destination, self._capabilities = destination, capabilities
        self._one_file_system, self._acls, self._xattrs = one_file_system, acls, xattrs
        self._compares = compares
        self._timeout, self._destination_check = timeout, destination_check
        self._show_progress, self._log = show_progress, log
        self._control = Control()
        self._pool = Pool(self._control)
        self._rest: asyncio.TimerHandle | None = None
        self._closed = False
        # What a thread starts inherits its priority.
        self._thread = ThreadPoolExecutor(1, "copy", set_own_priority, (priority,))
        self._rate, self._sandbox = rate, sandbox
        self._littered = False
        self._alone = False
        """Nothing is at work there that a clsync before us has left."""

    async def open(self) -> None:
        """Nothing is to be made ready (see `handler.base.Handler`)."""

    async def sync(self, batch: Batch) -> Outcome:
        """Make every entry equal at the destination (see `handler.base.Handler`)."""
        if self._rest is not None:
            self._rest.cancel()
        try:
            return await self._sync(batch)
        finally:
            if not self._closed:
                self._rest = asyncio.get_running_loop().call_later(_REST, self._thread.submit, self._pool.close)

    async def _sync(self, batch: Batch) -> Outcome:
        self._control.reset()
        wrong = self._destination_check()
        if not wrong and not self._alone:
            wrong = await orphans_ended(work_of(batch.root, self._destination))
            self._alone = not wrong
        if wrong:
            return Outcome(Verdict.UNWELL, message=wrong)
        settings, most = self._settings(batch), batch.most_deletions
        if most is not None:
            run, outcome = await self._run(batch, replace(settings, spares=True))
            full = run.full
            if full:
                # What is to be deleted may be what there is no room for; it is counted before any of it goes.
                run, counted = await self._run(batch, replace(settings, spares=True, clears=True))
                if counted.verdict is Verdict.UNWELL:
                    return outcome
            if (outcome.verdict is Verdict.UNWELL and not full) or not run.spared:
                return outcome
            if run.spared > most:
                return replace(outcome, spared=run.spared)
            # What was mounted below the source may have gone since it was counted.
            settings = replace(settings, most=most)
            if full:
                await self._run(batch, replace(settings, clears=True))
        run, outcome = await self._run(batch, settings)
        wrong = self._destination_check()
        if wrong:
            return Outcome(Verdict.UNWELL, message=wrong)
        return outcome if outcome.verdict is Verdict.UNWELL else replace(outcome, spared=run.spared)

    async def _run(self, batch: Batch, settings: Settings) -> tuple[Run, Outcome]:
        shows = self._show_progress and batch.initial
        run = Run(batch, self._destination, settings, self._control, self._pool, shows)
        outcome = await self._in_thread(run)
        self._littered = outcome.verdict is Verdict.UNWELL
        for note in run.notes:
            self._log(note)
        return run, outcome

    async def rename(self, steps: Sequence[Step]) -> Renamed:
        """Rename at the destination (see `handler.base.Renames`)."""
        if self._destination_check():
            return Renamed(0)
        return await asyncio.to_thread(rename_local, self._destination, steps, self._sandbox)

    def stop(self) -> None:
        """End the batch at work soon."""
        self._control.stop("stopped")

    async def aclose(self) -> None:
        """End the batch at work and the thread."""
        self.stop()
        self._closed = True
        if self._rest is not None:
            self._rest.cancel()
        await asyncio.to_thread(self._thread.shutdown)
        await asyncio.to_thread(self._pool.close)
        self._control.close()

    async def _in_thread(self, run: Run) -> Outcome:
        loop = asyncio.get_running_loop()
        text = f"not done after {self._timeout:g} s (--timeout-sync)"
        timer = loop.call_later(self._timeout, self._control.stop, text) if self._timeout else None
        work = loop.run_in_executor(self._thread, run.outcome)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            # The descriptors of the batch are only ours until we answer.
            self.stop()
            await asyncio.wait((work,))
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def _settings(self, batch: Batch) -> Settings:
        who = roles.programs_ids()
        return Settings(
            capabilities=self._capabilities,
            rules=None if batch.initial and self.full_initial else self.rules or None,
            one_file_system=self._one_file_system,
            acls=self._acls,
            xattrs=self._xattrs,
            compares=self._compares,
            groups=frozenset((*who.groups, who.gid)),
            littered=self._littered,
            rate=self._rate,
            sandbox=self._sandbox,
        )
