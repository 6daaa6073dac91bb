"""What the targets hold, kept on disk: what the daemon knows of the state (decisions 27, 28, 33), by its front door.

`keeping` opens the state, `noting` writes down what is about to be handed over, `recordings` has the source scanned beside
that, `confirming` and `landing` see to what has landed, and `indexed` tells what differs from the index.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple

from clsync.core import batch as flag
from clsync.core.batch import Batch, Outcome, Verdict
from clsync.core.changes import ATTRIB, DOUBT, NAME, OF_DIRECTORY
from clsync.core.listing import Records
from clsync.core.rules import Rules
from clsync.daemon.confirming import Confirming
from clsync.daemon.handed import Handed
from clsync.daemon.holding import TargetMemory, holds_top
from clsync.daemon.hosts import Host
from clsync.daemon.indexed import Indexed
from clsync.daemon.keeping import Keeping
from clsync.daemon.log import Log
from clsync.daemon.noting import noted
from clsync.daemon.recordings import Recordings
from clsync.daemon.root import Directory
from clsync.daemon.source import Source
from clsync.daemon.stateaccess import SOURCE, StateAccess
from clsync.handler.base import Handler
from clsync.state.room import Place
from clsync.state.store import Store

_TREE: Final = DOUBT | OF_DIRECTORY
"""Change bits of what is handed over with everything below."""
_FEW: Final = 200
"""Paths that are written down without a thread."""
_FLUSH_EVERY: Final = 30.0
_FIRST_FLUSH: Final = 10.0
"""Seconds from the start."""
_LAST_FLUSH: Final = 1.0
"""Seconds that the end of a run waits for a flush at most."""
_STEP: Final = 0.005
"""Seconds that a clock may be set back without harm: something is young for longer than that."""


class Kept(NamedTuple):
    """A state seen from outside."""

    directory: bytes
    dirty: int
    """Paths that a target may not hold as it says."""
    unflushed: int
    """Paths that were confirmed, and would not be sure after a loss of power."""
    trouble: str | None
    """Why the next start will compare everything; None: it will not."""


class Memory:
    """The state of one source with its targets."""

    def __init__(self, root: Directory, place: Place, access: StateAccess, one_file_system: int, log: Log) -> None:
        """`one_file_system`: see `state.walker.Scope`."""
        self.root, self.access = root, access
        """`access` is for what may take rights, or time."""
        self._keeping = Keeping(root, place, access, one_file_system, log)
        self.indexed = Indexed(self._keeping)
        """Answers what differs from the index."""
        self.clock = _clock_offset()
        """How far the wall clock was ahead when this began."""
        self.targets: list[TargetMemory] = []
        self._at_work: list[asyncio.Task[None]] = []

    def attach(
        self, source: Source, lose_window: Callable[[], None], *, watched: bool, wake: Callable[[], None]
    ) -> None:
        """Be told where changes come from; `lose_window` is called where they cannot be looked at.

        `watched`: they are named as they come. `wake` is called when there is more to hand over.
        """
        self._source, self._watched = source, watched
        targets = [
            TargetMemory(self, self._keeping, self.indexed, target, number)
            for number, target in enumerate(source.targets)
        ]
        keeping, turn, self.targets = self._keeping, asyncio.Lock(), targets
        self.recordings = Recordings(keeping, source, targets, turn, wake)
        self._confirming = Confirming(
            keeping, source, targets, self.recordings, turn, lose_window=lose_window, wake=wake
        )
        source.named = self.recordings.named

    # -- opening and closing -----------------------------------------------------------------------------------

    @property
    def kept(self) -> Store | None:
        """The state, as long as it is kept."""
        return self._keeping.kept

    @property
    def complete(self) -> bool:
        """Whether the index knows the whole tree."""
        return self._keeping.complete

    async def use(self, rules: Rules, keys: Sequence[tuple[bytes, bytes | None]]) -> None:
        """Open the state for these rules and targets, unless it is: a key, and a local destination, for each.

        Raises OperatorError where there is none to be had, and somebody has asked for it.
        """
        keeping = self._keeping
        if keeping.is_of(rules) and [target.key for target in self.targets] == [key for key, _ in keys]:
            return
        again = keeping.store is not None
        await self.close()
        keeping.begin(rules)
        for target, (key, local) in zip(self.targets, keys, strict=True):
            target.key = key
            lose = partial(self._confirming.lose, target)
            host = Host(keeping, key, target.target.called, partial(_handler_of, target), lose)
            target.host = host if local is None else None
        self.access.follow([local for _, local in keys])
        empty = [target.key for target in self.targets if await self.access.is_empty(target.number)]
        if not await keeping.open([target.key for target in self.targets], empty, again=again):
            return
        keeping.complete = any(not holds_top(rows) for rows in [await target.rows() for target in self.targets])
        if self._watched:
            self._at_work += [
                asyncio.create_task(self._work(work)) for work in (self._confirming.run, self._flush_all)
            ]

    async def _work(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - not even a defect here may end the daemon, or be trusted afterwards
            if self._keeping.store is not None:
                self._keeping.store.give_up(f"{type(error).__name__}: {error}")

    async def close(self, *, well: bool = False) -> None:
        """Note what has arrived, and keep the state no longer; `well`: wait for scans at work."""
        for task in self._at_work:
            task.cancel()
        await asyncio.gather(*self._at_work, return_exceptions=True)
        self._at_work.clear()
        if self.kept is not None:
            if well:
                await self.recordings.recorded()
            if well and not self._source.is_watched:
                await self._doubt_unseen()
            else:
                await self._confirming.confirm(patient=False)
            if well:
                await self._flush_in_time()
        store = await self.recordings.close()
        self._confirming.clear()
        if store is not None:
            await self.access.apart(store.close)

    async def _doubt_unseen(self) -> None:
        """Confirm what has landed where nothing was watched meanwhile: what has changed since may be there as it was.

        What has changed since the run began is known by its ctime. A clock that was set back would hide it.
        """
        store = self.kept
        if store is None:
            return
        if _clock_offset() < self.clock - _STEP:
            await self.access.apart(store.give_up, "the clock was set back meanwhile, and nothing was watched")
            return
        warm = [target for target in self.targets if await target.is_warm()]
        for target in warm:
            await self.access.apart(partial(store.hand_over, target.key, {b"": DOUBT}, time.time(), deep=(b"",)))
        await self._confirming.confirm(patient=False)
        if not self.complete:
            return
        try:
            altered = await self.indexed.altered(store)
        except OSError:
            return  # the next start compares everything
        found = dict.fromkeys(altered, ATTRIB | DOUBT)
        for target in self.targets:
            rows = await target.rows()
            if target in warm or not holds_top(rows):
                again = found | {row.path: row.bits for row in rows if row.path or not row.bits & DOUBT}
                await self.access.apart(store.end_record, target.key, b"", again, time.time())

    def health(self) -> Kept | None:
        """Return how things stand; None where there is no state."""
        store = self._keeping.store
        if store is None:
            return None
        trouble = store.lost or (None if self.complete else "not everything is in it yet")
        return Kept(self._keeping.place.directory, store.journalled(), store.awaiting_flush(), trouble)

    # -- handing over ------------------------------------------------------------------------------------------

    async def before(
        self, target: TargetMemory, batch: Batch, taken: Mapping[bytes, int], since: float, records: Records
    ) -> Handed | None:
        """Write down what a handler is about to be given, and what it is now; None where there is no state."""
        store = self.kept
        if store is None:
            return None
        noting = partial(noted, self._keeping, store, target.key, batch, taken, since, records)
        few = len(batch.entries) <= _FEW and not any(f & flag.RECURSIVE for f in batch.entries.values())
        calm = few and not self.recordings.at_work
        # A thread costs more than a few paths do; here nothing may wait for a disk, or for others.
        prompt = calm and store.is_prompt(target.key, batch.entries, since)
        handed = noting() if prompt else await self.access.apart(noting)
        # What is compared with the target itself may be trusted afterwards; if nothing comes of it, it may not.
        compared = {p for p, f in batch.entries.items() if f & flag.RECURSIVE or not f & flag.DIRECTORY}
        handed.distrusted = target.target.distrusted & compared
        target.target.distrusted -= handed.distrusted
        await self.recordings.begin(store, target, handed, batch, taken, since)
        target.flying.append(handed)
        return handed

    def after(self, target: TargetMemory, handed: Handed, outcome: Outcome) -> None:
        """Take note of what became of it."""
        target.flying.remove(handed)
        if outcome.verdict is Verdict.UNWELL:
            target.target.distrusted |= handed.distrusted
            return
        target.target.distrusted |= handed.distrusted & (outcome.failed.keys() | outcome.again)
        if outcome.spared:
            handed.recorded = [top for top in handed.recorded if top]  # the next start has to compare everything
        for path in (*outcome.failed, *outcome.again):
            handed.seen.pop(path, None)
            handed.again[path] = handed.changes.get(path, 0) | ATTRIB | NAME
        handed.again |= handed.repeated
        again = ((path, bits if bits & _TREE else ATTRIB) for path, bits in handed.repeated.items())
        target.target.dirty.add(again, handed.since)
        self._confirming.add(target, handed)

    async def settled(self) -> None:
        """Wait until all that has arrived by now is noted."""
        await self._confirming.settled()

    # -- flushing ----------------------------------------------------------------------------------------------

    async def _flush_all(self) -> None:
        await asyncio.sleep(_FIRST_FLUSH)
        while True:
            await self._flush()
            if self.kept is not None:
                await self.access.apart(self.kept.shorten_log)
            await asyncio.sleep(_FLUSH_EVERY)

    async def _flush_in_time(self) -> None:
        """Flush at the end of a run, unless that takes long: then the next run of this boot makes up for it."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._flush(), _LAST_FLUSH)

    async def _flush(self) -> None:
        """Let everything that is confirmed survive a loss of power, as far as we can see to that."""
        store = self.kept
        if store is None or not store.awaiting_flush():
            return
        number = await self.access.apart(store.begin_flush)
        waiting = [target for target in self.targets if store.awaiting_flush(target.key)]
        async with asyncio.TaskGroup() as side_by_side:  # none waits for another
            source = side_by_side.create_task(self.access.flush(SOURCE))
            for target in waiting:
                side_by_side.create_task(self._flush_target(store, target, number, source))

    async def _flush_target(
        self, store: Store, target: TargetMemory, number: int, source: asyncio.Task[bool]
    ) -> None:
        if target.host is not None:
            number = await target.host.flushed(number)
        elif not await self.access.flush(target.number):
            return
        if number and await source:
            await self.access.apart(store.flushed, target.key, number)


def _clock_offset() -> float:
    """Return how far (seconds) the wall clock is ahead of the one that nobody can set."""
    # Who has to wait between two looks sees less.
    return max(time.time() - time.monotonic() for _ in range(5))


def _handler_of(target: TargetMemory) -> Handler:
    """Return who can be asked of a target now."""
    return target.handler()
