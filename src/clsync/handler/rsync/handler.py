"""Hands batches to rsync: one target, one program."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence

from clsync.core.batch import Batch, Outcome, Verdict
from clsync.core.paths import shown
from clsync.handler.base import PathRules
from clsync.handler.rsync.connection import Connection, chooses_shell
from clsync.handler.rsync.recipe import ARGUMENTS_MACRO, Recipe
from clsync.handler.rsync.run import BatchRun, unwell
from clsync.handler.rsync.target import Target
from clsync.handler.runner import Result, Runner

CODES_DONE = frozenset((0, 24))
"""24: files vanished before they were sent; their own events are on the way."""
_CODE_PROTOCOL = 2


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
        log: Callable[[str], None] = lambda text: None,
    ) -> None:
        """`arguments`: the argument list, `%RSYNC-ARGS%` standing for the recipe's part.

        `timeout`: seconds one run may take, 0 for any. `codes_done`: exit codes that mean success, besides 0 and
        24. `destination_check` answers what is wrong with a local destination. `full_initial`: rules do not count
        in the initial sync.
        """
        self.target, self.recipe, self.rules = target, recipe, rules
        self.full_initial = full_initial
        self.absent_name = b".clsync-absent-" + secrets.token_hex(6).encode()
        self.codes_done = frozenset(codes_done) | CODES_DONE
        self.stopping = False
        self._program, self._arguments = program, list(arguments)
        self._environment = dict(os.environb if environment is None else environment) | {b"LC_ALL": b"C"}
        self._destination_check, self._log, self._show_progress = destination_check, log, show_progress
        self._runner = Runner(timeout)
        self._probed = not target.remote
        keep = target.ssh and not chooses_shell(self._arguments, self._environment)
        self._connection = Connection(target) if keep else None

    async def sync(self, batch: Batch) -> Outcome:
        """Make every entry equal at the target (see `handler.base.Handler`)."""
        self.stopping = False
        wrong = self._destination_check()
        if wrong:
            return Outcome(Verdict.UNWELL, message=wrong)
        try:
            unusable = None if self._probed else await self._probe(batch)
            return unusable or await BatchRun(self, batch).outcome()
        except OSError as error:
            return Outcome(Verdict.UNWELL, message=f"cannot run {shown(self._program)}: {error.strerror}", code=127)

    def stop(self) -> None:
        """End the run at work."""
        self.stopping = True
        self._runner.stop()

    async def aclose(self) -> None:
        """Close the kept connection."""
        if self._connection is not None:
            await self._connection.close(self._runner, self._environment)

    async def rsync(
        self,
        arguments: Sequence[bytes],
        batch: Batch,
        records: Iterable[bytes] | None,
        output: int | None = None,
    ) -> Result:
        """Run the program with `arguments` for `%RSYNC-ARGS%`; `records` on its standard input.

        Raises OSError where the program cannot be run.
        """
        shell = self._connection.options() if self._connection is not None else []
        visible = self._show_progress and batch.initial and output is None
        if visible:
            shell = [*shell, b"--info=progress2"]
        argv = [self._program]
        for argument in self._arguments:
            argv += [*arguments, *shell] if argument == ARGUMENTS_MACRO else [argument]
        env = self._environment | {
            b"CLSYNC_STATUS": batch.status.encode(),
            b"CLSYNC_ITERATION": b"%d" % batch.number,
        }
        nowhere = os.open(os.devnull, os.O_WRONLY) if output is None and not visible else None
        try:
            out = output if nowhere is None else nowhere
            return await self._runner.run(argv, cwd=batch.root, env=env, records=records, output=out)
        finally:
            if nowhere is not None:
                os.close(nowhere)

    def done(self, result: Result) -> bool:
        """Tell whether a run went well."""
        return result.code in self.codes_done and not result.stopped and not result.timed_out

    async def _probe(self, batch: Batch) -> Outcome | None:
        """Ask the real target whether it understands missing arguments; None if it can be used."""
        result = await self.rsync(self.recipe.listed(), batch, [b"./" + self.absent_name + b"\0"])
        if result.code == _CODE_PROTOCOL:
            self._log("the rsync at the destination cannot take missing arguments: deletions go by directory")
            self.recipe = self.recipe.flat()
            result = await self.rsync(self.recipe.listed(), batch, [])
        if not self.done(result):
            return unwell(result, self.target)
        self._probed = True
        return None
