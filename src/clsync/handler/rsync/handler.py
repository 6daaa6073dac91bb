"""Hands batches to rsync: one target, one program."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from clsync.core.batch import Batch, Outcome, Verdict
from clsync.core.moves import Step
from clsync.core.paths import shown
from clsync.handler.base import HostNews, PathRules, Renamed
from clsync.handler.renaming import rename_local
from clsync.handler.rsync.program import Program, unwell
from clsync.handler.rsync.recipe import Recipe
from clsync.handler.rsync.run import BatchRun
from clsync.handler.rsync.target import Target
from clsync.handler.runner import orphans_ended
from clsync.kernel.orphans import work_of
from clsync.kernel.priority import USUAL, Priority
from clsync.kernel.sandbox import Sandbox

_CODE_PROTOCOL = 2
_UNCOUNTED = "it cannot be told how much would be deleted; see what else is said of the target"


class RsyncHandler:
    """Makes one target equal through one rsync program, batch by batch."""

    def __init__(
        self,
        arguments: Sequence[bytes],
        *,
        target: Target,
        recipe: Recipe,
        program: bytes = b"rsync",
        rules: PathRules | None = None,
        full_initial: bool = False,
        timeout: float = 0.0,
        codes_done: Iterable[int] = (),
        environment: Mapping[bytes, bytes] | None = None,
        destination_check: Callable[[], str | None] = lambda: None,
        show_progress: bool = False,
        priority: Priority = USUAL,
        sandbox: Sandbox | None = None,
        walks: Sandbox | None = None,
        log: Callable[[str], None] = lambda text: None,
    ) -> None:
        """`arguments`: the argument list, `%RSYNC-ARGS%` standing for the recipe's part.

        `timeout`: seconds one run may take, 0 for any. `codes_done`: exit codes that mean success, besides 0 and
        24. `destination_check` answers what is wrong with a local destination. `full_initial`: rules do not count
        in the initial sync. `priority`: of rsync. `sandbox`: what rsync can do; None: all that who runs it can do.
        `walks`: what a process can do that lists what rules permit in much; None: it is listed here.
        """
        self.rules, self.full_initial = rules, full_initial
        self.trusts_times = os.path.basename(program) == b"rsync"
        self.coarse_ns = 0 if recipe.modify_window < 0 else (recipe.modify_window + 1) * 10**9
        self.glues = target.text if self.trusts_times and target.text and not target.remote else None
        self.swaps = not target.remote
        # What the operator's own options do at the destination is not known: a filter may protect something there.
        self._plain = self.trusts_times and not any(argument.startswith(b"-") for argument in arguments)
        self._program = Program(
            arguments,
            target=target,
            recipe=recipe,
            name=program,
            timeout=timeout,
            codes_done=codes_done,
            environment=os.environb if environment is None else environment,
            show_progress=show_progress,
            priority=priority,
            sandbox=sandbox,
            walks=walks,
        )
        self._destination_check, self._log = destination_check, log
        self._probed = not target.remote
        self._alone = False
        """Nothing is at work there that a clsync before us has left."""

    async def open(self) -> None:
        """Nothing is to be made ready (see `handler.base.Handler`)."""

    async def sync(self, batch: Batch) -> Outcome:
        """Make every entry equal at the target (see `handler.base.Handler`)."""
        self._program.stopping = False
        wrong = self._destination_check()
        if wrong:
            return Outcome(Verdict.UNWELL, message=wrong)
        rules = None if batch.initial and self.full_initial else self.rules
        if not self._alone:
            wrong = await orphans_ended(work_of(batch.root, self._program.target.text))
            if wrong:
                return Outcome(Verdict.UNWELL, message=wrong)
            self._alone = True
        try:
            unusable = None if self._probed else await self._probe(batch)
            outcome = unusable or await self._outcome(batch, rules)
        except OSError as error:
            name = shown(self._program.name)
            return Outcome(Verdict.UNWELL, message=f"cannot run {name}: {error.strerror}", code=127)
        wrong = self._destination_check()  # by its path, rsync may have come to what stands there now
        return outcome if wrong is None else Outcome(Verdict.UNWELL, message=wrong)

    async def rename(self, steps: Sequence[Step]) -> Renamed:
        """Rename at the destination, by ssh where a connection is kept (see `handler.base.Renames`)."""
        target = self._program.target
        if not self._plain or self._program.stopping or self._destination_check():
            return Renamed(0)
        if not target.remote:
            return await self._rename_here(steps)
        return await self._program.rename(steps) if target.ssh else Renamed(0)

    async def _rename_here(self, steps: Sequence[Step]) -> Renamed:
        where = self._program.target.text
        return await asyncio.to_thread(rename_local, where, steps, self._program.sandbox) if where else Renamed(0)

    async def ask_host(self, *, flush: bool) -> HostNews:
        """Ask the host of the target, by ssh where a connection is kept (see `handler.base.AsksHost`)."""
        return await self._program.ask_host(flush=flush)

    def stop(self) -> None:
        """End the run at work."""
        self._program.stop()

    async def aclose(self) -> None:
        """Close the kept connection."""
        await self._program.aclose()

    async def _outcome(self, batch: Batch, rules: PathRules | None) -> Outcome:
        """Make every entry equal, unless that deletes too much. Raises OSError where rsync cannot be run."""
        if batch.most_deletions is not None:
            run = BatchRun(self._program, batch, rules, most=0)
            outcome = await run.outcome()
            # What is to be deleted may be what there is no room for; it is counted before any of it goes.
            count = await BatchRun(self._program, batch, rules).doomed() if run.full or run.uncounted else run.spared
            if (outcome.verdict is Verdict.UNWELL and not run.full) or count == 0:
                return outcome
            if count is None:
                return outcome if run.full else Outcome(Verdict.UNWELL, message=_UNCOUNTED)
            if count > batch.most_deletions:
                return replace(outcome, spared=count)
            return await self._deleting(batch, rules, clears=run.full)
        return await BatchRun(self._program, batch, rules).outcome()

    async def _deleting(self, batch: Batch, rules: PathRules | None, *, clears: bool) -> Outcome:
        """Make every entry equal by runs that delete no more than they may: what was counted before may be more by now.

        What was mounted below the source may have gone. rsync does not count directories that are not empty yet, and
        meets them afterwards.
        """
        assert batch.most_deletions
        while True:
            run = BatchRun(self._program, batch, rules, most=batch.most_deletions, clears=clears)
            outcome = await run.outcome()
            if not run.spared or outcome.verdict is Verdict.UNWELL:
                return outcome
            if run.spared > batch.most_deletions:
                return replace(outcome, spared=run.spared)

    async def _probe(self, batch: Batch) -> Outcome | None:
        """Ask the real target whether it understands missing arguments; None if it can be used."""
        program = self._program
        result = await program.run(program.recipe.listed(), batch, [b"./" + program.absent_name + b"\0"])
        if result.code == _CODE_PROTOCOL:
            self._log("the rsync at the destination cannot take missing arguments: deletions go by directory")
            program.recipe = program.recipe.flat()
            result = await program.run(program.recipe.listed(), batch, [])
        if not program.done(result):
            return unwell(result, program.target)
        self._probed = True
        return None
