"""What has landed at the targets: it is confirmed once nothing happens to it, by all that was said of it since."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from clsync.daemon.handed import Handed
from clsync.daemon.holding import TargetMemory
from clsync.daemon.keeping import Keeping
from clsync.daemon.landing import write
from clsync.daemon.recordings import Recordings
from clsync.daemon.source import Source
from clsync.state.store import Dirty, Store

_AGE: Final = 0.05
"""Seconds after which what has landed is confirmed: no change of before carries the time of one since."""
_QUIET: Final = 1.0
"""Seconds without anything that lands or is collected, after which what has landed is confirmed."""
_LONGEST: Final = 60.0
"""Seconds after which it is confirmed anyway: each time, the listings of all directories concerned are written anew."""
_MANY: Final = 20_000
"""Names that are gathered before they are confirmed, or are soon."""
_PATIENCE: Final = 2.0
"""Seconds that this waits for a moment at which nothing is collected."""


class Confirming:
    """What is not confirmed yet, for all targets of one state."""

    def __init__(
        self,
        keeping: Keeping,
        source: Source,
        targets: Sequence[TargetMemory],
        recordings: Recordings,
        turn: asyncio.Lock,
        *,
        lose_window: Callable[[], None],
        wake: Callable[[], None],
    ) -> None:
        """`turn`: held by who confirms; `lose_window` is called where it cannot be looked at what has changed.

        `wake` is called when there is more to hand over.
        """
        self._keeping, self._source, self._targets, self._recordings = keeping, source, targets, recordings
        self._turn, self._lose_window, self._wake = turn, lose_window, wake
        self._landed: list[tuple[TargetMemory, Handed]] = []
        self._something, self._hurry = asyncio.Event(), asyncio.Event()

    def add(self, target: TargetMemory, handed: Handed) -> None:
        """Be told what has landed now."""
        handed.landed = time.monotonic()
        self._landed.append((target, handed))
        self._something.set()
        if self._gathered_much():
            self._hurry.set()

    def clear(self) -> None:
        """Confirm nothing of it."""
        self._landed.clear()

    async def settled(self) -> None:
        """Wait until all that has arrived by now is noted."""
        await self._recordings.recorded()
        waiting = [handed for target in self._targets for handed in target.flying] + [one for _, one in self._landed]
        while self._keeping.kept is not None and any(
            handed in target.flying or any(one is handed for _, one in self._landed)
            for target in self._targets
            for handed in waiting
        ):
            self._hurry.set()
            await asyncio.sleep(_AGE)

    async def run(self) -> None:
        """Confirm what lands, whenever it is time."""
        while True:
            await self._something.wait()
            # What is written again and again costs one record, not one each time; nor does a directory cost two listings.
            busy = _QUIET
            while not self._hurry.is_set() and busy > 0:
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._hurry.wait(), busy)
                busy = self._busy_for()
            await asyncio.sleep(_AGE)
            await self.confirm(patient=True)
            self._hurry.clear()
            if not self._landed:
                self._something.clear()

    def _busy_for(self) -> float:
        """Return for how many seconds what has landed is not to be confirmed, unless somebody waits for that."""
        if not self._landed:
            return 0.0
        now = time.monotonic()
        soon = self._gathered_much() or any(handed.recorded for _, handed in self._landed)  # the index is to be whole
        rest = self._landed[0][1].landed + (_PATIENCE if soon else _LONGEST) - now
        quiet = _QUIET if self._source.collector.due() is not None else self._landed[-1][1].landed + _QUIET - now
        return min(rest, quiet)

    def _gathered_much(self) -> bool:
        return sum(len(handed.seen) + handed.listed for _, handed in self._landed) > _MANY

    async def confirm(self, *, patient: bool) -> None:
        """Confirm what has landed, by all that the monitor has said since; `patient`: when the time is good."""
        async with self._turn:
            store, collector = self._keeping.kept, self._source.collector
            if store is None:
                self._landed.clear()
                return
            if self._recordings.at_work or (
                any(handed.recorded for _, handed in self._landed) and self._source.search.catching_up
            ):
                return
            before_ns = time.time_ns()
            await collector.catch_up()
            waited = time.monotonic() - self._landed[0][1].landed if self._landed else 0.0
            if patient and collector.due() is not None and waited < _PATIENCE:
                return  # it is handed over soon, and then nobody has to look at it
            try:
                seen = await collector.look()
            except OSError:
                self._lose_window()
                return
            if not collector.seen_whole:
                return
            # Nothing may happen until it is known what has changed again.
            works = [work for work in self._judged(seen) if work[1].counts]
            self._landed.clear()
            self._recordings.take_ended([handed for _, handed in works])
            await self._keeping.access.apart(write, self._keeping.root, store, works, before_ns)

    async def lose(self, target: TargetMemory, find: Callable[[Store], list[Dirty]]) -> int:
        """Let be handed over again what a target may have lost: what `find` returns, and what is not confirmed yet.

        Return how many paths that are.
        """
        async with self._turn:
            store = self._keeping.kept
            if store is None:
                return 0
            lost = await self._keeping.access.apart(find, store)
            for row in lost:
                target.target.dirty.add(((row.path, row.bits),), row.since)
            again = dict[bytes, int]()
            for handed in [handed for one, handed in self._landed if one is target]:
                handed.forget()
                again |= handed.changes
                target.target.dirty.add(handed.changes.items(), handed.since)
        self._wake()
        return len({*again, *(row.path for row in lost)})

    def _judged(self, seen: Mapping[bytes, int]) -> list[tuple[TargetMemory, Handed]]:
        """Note of everything that has landed what has changed again since; return it, the oldest one first."""
        for target in self._targets:
            target.judge([handed for one, handed in self._landed if one is target], seen)
        return list(self._landed)
