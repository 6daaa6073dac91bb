"""Handlers and hooks of the broker's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from clsync.core.batch import Batch, Outcome, Verdict
from clsync.core.moves import Step
from clsync.core.rules import Rules
from clsync.daemon.desks.shared import digest_of
from clsync.daemon.remote.calls import Calls
from clsync.handler.base import HostNews, PathRules, Renamed
from clsync.privilege.moves import packed_steps
from clsync.privilege.wire import STEPS_LIMIT, Op, in_frames


class RemoteHandler:
    """A handler of the broker's (see `Handler`)."""

    def __init__(self, calls: Calls, number: int, generation: int, target: int) -> None:
        """`generation`: of the plans that it follows; `target`: the number of the one among them."""
        self._calls, self._number, self._generation, self._target = calls, number, generation, target
        self._opened = False
        self.rules: PathRules | None = None
        self.trusts_times, self.coarse_ns = False, 0
        self.glues: bytes | None = None
        self._renames = self.swaps = False

    async def open(self) -> None:
        """Have it made ready. Raises OperatorError."""
        self._opened = True
        answer = await self._calls.call(Op.HANDLER_OPEN, self._number, self._generation, self._target)
        self.trusts_times, self.coarse_ns, self.glues, self._renames, self.swaps = answer

    async def sync(self, batch: Batch) -> Outcome:
        """Hand a batch over."""
        number = self._number
        most = -1 if batch.most_deletions is None else batch.most_deletions
        head = (batch.number, batch.root, batch.initial, batch.status, batch.attribute_bytes, most, self._digest())
        self._calls.tell(Op.HANDLER_BATCH, number, *head)
        paths, flags, linked = list(batch.entries), list(batch.entries.values()), list(batch.linked)
        for part in in_frames(paths):
            self._calls.tell(Op.HANDLER_ENTRIES, number, paths[part], flags[part])
            await self._calls.drained()
        for part in in_frames(linked):
            self._calls.tell(Op.HANDLER_LINKED, number, linked[part])
            await self._calls.drained()
        parts: list[list[Any]] = []
        try:
            verdict, message, code, spared = await self._calls.call(Op.HANDLER_SYNC, number, parts=parts)
        except OSError as error:
            return Outcome(Verdict.UNWELL, message=str(error), code=error.errno or 1)
        failed: dict[bytes, str] = {}
        others: dict[str, set[bytes]] = {"hopeless": set(), "again": set()}
        for what, those, reasons in parts:
            if what == "failed":
                failed.update(zip(those, reasons, strict=True))
            else:
                others[what].update(those)
        return Outcome(
            Verdict(verdict), failed, frozenset(others["hopeless"]), frozenset(others["again"]), message, code, spared
        )

    async def rename(self, steps: Sequence[Step]) -> Renamed:
        """Have names changed at the destination (see `handler.base.Renames`)."""
        if not self._renames or len(steps) > STEPS_LIMIT:
            return Renamed(0)
        for part in packed_steps(steps):
            self._calls.tell(Op.HANDLER_STEPS, self._number, *part)
            await self._calls.drained()
        done, made, left = await self._calls.call(Op.HANDLER_RENAME, self._number, self._digest())
        return Renamed(done, frozenset(made), tuple(left))

    async def ask_host(self, *, flush: bool) -> HostNews:
        """Have the host of the target asked (see `handler.base.AsksHost`)."""
        if not self._opened:
            return HostNews(b"")
        try:
            boot, flushed = await self._calls.call(Op.HANDLER_HOST, self._number, flush)
        except OSError:
            return HostNews(b"")
        return HostNews(boot, flushed)

    def _digest(self) -> bytes:
        assert self.rules is None or isinstance(self.rules, Rules)
        return digest_of(self.rules if self.rules is not None else Rules())

    def stop(self) -> None:
        """End the run at work."""
        if self._opened:
            self._calls.tell(Op.HANDLER_STOP, self._number)

    async def aclose(self) -> None:
        """Give everything back. Raises OperatorError."""
        if self._opened:
            self._opened = False
            await self._calls.call(Op.HANDLER_CLOSE, self._number)


class RemoteHook:
    """A hook of the broker's (see `Hook`)."""

    def __init__(self, calls: Calls, generation: Callable[[], int | None], option: str) -> None:
        """`option`: the name of the option that says what is run; `generation`: that of the settings in force.

        It returns None where these say that nothing is run.
        """
        self._calls, self._generation, self._option = calls, generation, option
        self._runs = False

    async def run(self, status: str, iteration: int) -> None:
        """Have it run to its end."""
        generation = self._generation()
        if generation is None:
            return
        self._runs = True
        try:
            await self._calls.call(Op.HOOK_RUN, generation, self._option, status, iteration)
        finally:
            self._runs = False

    def stop(self) -> None:
        """End it, if it runs."""
        if self._runs:
            self._calls.tell(Op.HOOK_STOP)
