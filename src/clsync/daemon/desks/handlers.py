"""Handlers, and the batches for them."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from clsync.core.batch import Batch, Outcome, Verdict
from clsync.core.moves import Step
from clsync.daemon.answers import Answers, Last, Later
from clsync.daemon.desks.shared import WORDS, Shared, known
from clsync.daemon.looking import straight_only
from clsync.daemon.parts import MOST_IN_FLIGHT
from clsync.daemon.renames import demanded
from clsync.handler.base import AsksHost, Handler, HostNews, Renamed, Renames
from clsync.privilege.moves import unpacked_steps
from clsync.privilege.wire import STEPS_LIMIT, Op, Refused, in_frames

MOST_HANDLERS: Final = 4 * MOST_IN_FLIGHT
"""For one target."""
_MOST_ENTRIES: Final = 4_000_000
"""In one batch."""
_MOST_BYTES: Final = 1 << 30
"""In the paths of all batches that come in, or are on their way."""


@dataclass
class _Hired:
    """A handler at work for the worker, and the batch that is coming in."""

    handler: Handler | None
    """None while it is being made."""
    gone: bool = False
    """The worker does not want it any more."""
    head: Batch | None = None
    root: int = 0
    """Number of the directory that its paths are below."""
    trouble: OSError | None = None
    """Why it cannot be taken."""
    entries: dict[bytes, int] = field(default_factory=dict)
    linked: list[bytes] = field(default_factory=list)
    size: int = 0
    """Bytes of the paths in it; of those at work, too."""
    steps: list[Step] = field(default_factory=list)
    """Changes of names that are coming in."""
    at_work: bool = False
    stopped: bool = False
    """What is at work was told to end."""

    def drop(self) -> None:
        """Forget the batch that is coming in."""
        if self.head is not None:
            os.close(self.head.root)
        self.head, self.trouble, self.entries, self.linked, self.size = None, None, {}, [], 0
        self.steps = []


class Handlers:
    """Hands over what the worker has found."""

    def __init__(self, shared: Shared) -> None:
        """Nothing is on its way yet."""
        self._shared = shared
        self._hired: dict[int, _Hired] = {}
        self.quick: Answers = {}
        self.slow: Answers = {
            Op.HANDLER_OPEN: self._open,
            Op.HANDLER_BATCH: self._batch,
            Op.HANDLER_ENTRIES: self._entries,
            Op.HANDLER_LINKED: self._linked,
            Op.HANDLER_STEPS: self._steps,
            Op.HANDLER_RENAME: self._rename,
            Op.HANDLER_HOST: self._host,
            Op.HANDLER_SYNC: self._sync,
            Op.HANDLER_STOP: self._stop,
            Op.HANDLER_CLOSE: self._close,
        }

    def is_waited_for(self) -> bool:
        """Tell whether something that was told to end is at work still."""
        return any(hired.at_work and hired.stopped for hired in self._hired.values())

    def stop(self) -> None:
        """Tell everything to end."""
        for hired in self._hired.values():
            hired.drop()
            if hired.handler is not None:
                hired.handler.stop()

    def left(self) -> list[Handler]:
        """Return those that are to be closed."""
        return [hired.handler for hired in self._hired.values() if hired.handler is not None]

    def _open(self, number: int, generation: int, target: int) -> Later:
        prepared = known(self._shared.generations, generation)
        if target >= len(prepared.plans):
            raise Refused("a target that there is not")
        if number in self._hired:
            raise Refused("a handler twice")
        self._shared.demand_room(self._hired, MOST_HANDLERS)
        # The first one was made with the plan: whatever hinders it was told then.
        hired = self._hired[number] = _Hired(prepared.handlers[target])
        left = [None if at == target else handler for at, handler in enumerate(prepared.handlers)]
        self._shared.generations[generation] = prepared._replace(handlers=left)

        async def opened() -> AsyncGenerator[Sequence[Any], None]:
            handler = hired.handler or await self._shared.access.new_handler(prepared.plans[target])
            if hired.gone:
                await handler.aclose()
                raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
            hired.handler = handler
            await handler.open()
            renames = isinstance(handler, Renames)
            swaps = isinstance(handler, Renames) and handler.swaps
            yield Last((handler.trusts_times, handler.coarse_ns, handler.glues, renames, swaps))

        return Later(opened(), alone=False)

    def _batch(
        self,
        number: int,
        batch: int,
        root: int,
        initial: bool,
        status: str,
        attribute_bytes: int,
        most_deletions: int,
        digest: bytes,
    ) -> None:
        hired, handler = self._resting(number)
        if status not in WORDS:
            raise Refused("a status that there is not")
        directory, rules = known(self._shared.directories, root), known(self._shared.rules, digest)
        self._shared.demand_source(root, "hand over")
        hired.drop()
        handler.rules, hired.root = rules if rules else None, root
        try:
            own = os.dup(directory)  # the worker may give its number back at any time
        except OSError as error:
            hired.trouble = error  # this is not answered, but what comes of the batch is
            return
        most = most_deletions if most_deletions >= 0 else None
        hired.head = Batch(batch, {}, own, initial, status, attribute_bytes=attribute_bytes, most_deletions=most)

    def _entries(self, number: int, paths: list[bytes], flags: list[int]) -> None:
        hired, _ = self._resting(number)
        if len(paths) != len(flags):
            raise Refused("a batch that is none")
        self._make_longer(hired, paths)
        hired.entries.update(zip(paths, flags, strict=True))

    def _linked(self, number: int, paths: list[bytes]) -> None:
        hired, _ = self._resting(number)
        self._make_longer(hired, paths)
        hired.linked += paths

    def _make_longer(self, hired: _Hired, paths: list[bytes]) -> None:
        """See that paths may be added to what comes in. Raises Refused."""
        hired.size += sum(map(len, paths))
        if (
            len(hired.entries) + len(hired.linked) > _MOST_ENTRIES
            or sum(h.size for h in self._hired.values()) > _MOST_BYTES
        ):
            raise Refused("a batch that is too long")

    def _steps(self, number: int, kinds: list[int], sources: list[bytes], targets: list[bytes]) -> None:
        hired, _ = self._resting(number)
        self._make_longer(hired, [*sources, *targets])
        hired.steps += unpacked_steps(kinds, sources, targets)
        if len(hired.steps) > STEPS_LIMIT:
            raise Refused("more steps than there can be")

    def _rename(self, number: int, digest: bytes) -> Later:
        hired, handler = self._resting(number)
        rules, steps = known(self._shared.rules, digest), hired.steps
        if not isinstance(handler, Renames):
            raise Refused("to rename where nothing can")
        hired.steps, hired.at_work, hired.stopped = [], True, False

        async def renamed() -> AsyncGenerator[Sequence[Any], None]:
            try:
                result = await handler.rename(steps) if demanded(steps, rules) else Renamed(0)
            finally:
                hired.at_work, hired.size = False, 0
            yield Last((result.steps, list(result.made), list(result.left)))

        return Later(renamed(), alone=False)

    def _host(self, number: int, flush: bool) -> Later:
        """Ask the host of a target, also while a batch is at work."""
        handler = known(self._hired, number).handler
        if handler is None:
            raise Refused("to ask by a handler that there is not")

        async def told() -> AsyncGenerator[Sequence[Any], None]:
            news = await handler.ask_host(flush=flush) if isinstance(handler, AsksHost) else HostNews(None)
            yield Last((news.boot, news.flushed))

        return Later(told(), alone=False)

    def _resting(self, number: int) -> tuple[_Hired, Handler]:
        hired: _Hired = known(self._hired, number)
        if hired.at_work or hired.handler is None:
            raise Refused("two batches for one handler, or one for none")
        return hired, hired.handler

    def _sync(self, number: int) -> Later:
        hired, handler = self._resting(number)
        head, hired.head = hired.head, None
        if hired.trouble is not None:
            trouble = hired.trouble
            hired.drop()
            raise trouble
        if head is None:
            raise Refused("a batch without a beginning")
        hired.at_work, hired.stopped = True, False
        batch = replace(head, entries=hired.entries, linked=hired.linked)
        hired.entries, hired.linked = {}, []
        return Later(self._synced(hired, handler, batch), alone=False)

    async def _synced(self, hired: _Hired, handler: Handler, batch: Batch) -> AsyncGenerator[Sequence[Any], None]:
        try:
            kept, crooked = await straight_only(batch, self._shared.real(hired.root))
            outcome = await handler.sync(kept) if kept.entries else Outcome(Verdict.DONE)
        finally:
            hired.at_work, hired.size = False, 0
            os.close(batch.root)
        verdict = outcome.verdict
        if crooked and verdict is Verdict.DONE:
            verdict = Verdict.PARTIAL
        failed = outcome.failed
        for what, paths in (
            ("failed", list(failed)),
            ("hopeless", list(outcome.hopeless)),
            ("again", [*outcome.again, *crooked]),
        ):
            reasons = [failed[path] for path in paths] if what == "failed" else []
            for part in in_frames(paths, reasons):
                yield what, paths[part], reasons[part]
        yield Last((verdict.value, outcome.message, outcome.code, outcome.spared))

    def _stop(self, number: int) -> None:
        hired = self._hired.get(number)
        if hired is not None and hired.handler is not None:
            hired.stopped = True
            hired.handler.stop()

    def _close(self, number: int) -> Later:
        hired: _Hired = known(self._hired, number)
        del self._hired[number]
        hired.drop()

        async def closed() -> AsyncGenerator[Sequence[Any], None]:
            hired.gone = True
            if hired.handler is not None:
                await hired.handler.aclose()
            yield Last(())

        return Later(closed(), alone=False)
