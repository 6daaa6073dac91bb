"""Scans that record the source in the index, beside the handlers that are given it: one each for all targets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import chain
from typing import Final

from clsync.core import batch as flag
from clsync.core.batch import Batch
from clsync.core.changes import DOUBT, NAME
from clsync.core.paths import ancestors, is_below, shown
from clsync.daemon.handed import Handed
from clsync.daemon.holding import TargetMemory
from clsync.daemon.keeping import Keeping
from clsync.daemon.source import Source
from clsync.state import scan
from clsync.state.store import Store

_WIDE: Final = NAME | DOUBT
_RECORD_PAUSES: Final = 0.5, 2.0, 0.0
"""Seconds between tries to record something: scanners may be killed, and the source go."""


class Recordings:
    """The scans of one state."""

    def __init__(
        self,
        keeping: Keeping,
        source: Source,
        targets: Sequence[TargetMemory],
        turn: asyncio.Lock,
        wake: Callable[[], None],
    ) -> None:
        """`turn`: held by who confirms what has landed; `wake` is called when there is more to hand over."""
        self._keeping, self._source, self._targets, self._turn, self._wake = keeping, source, targets, turn, wake
        self._access = keeping.access
        self._recordings: dict[bytes, asyncio.Task[bool]] = {}
        self._standing = set[bytes]()
        """Directories that were recorded for one of several targets, and have not changed as a whole since."""
        self._unseen = False
        """Something has changed unseen anywhere, and nothing was recorded since."""
        self._one_record = asyncio.Lock()

    @property
    def at_work(self) -> bool:
        """Whether something is being recorded."""
        return any(not task.done() for task in self._recordings.values())

    async def begin(
        self,
        store: Store,
        target: TargetMemory,
        handed: Handed,
        batch: Batch,
        taken: Mapping[bytes, int],
        since: float,
    ) -> None:
        """Let be recorded what is about to be handed over with everything below, unless it is listed; note it in `handed`.

        `taken`, `since`: see `TargetMemory.before`.
        """
        if batch.entries.get(b"", 0) & flag.RECURSIVE:
            handed.recorded.append(b"")
            if not await self._record_top(store, target, since, batch.initial):
                # What the handler finds may not be in the index, which was made before: it is to be confirmed by its name.
                handed.repeated = await self._not_in_index(taken)
        else:
            unknown = dict[bytes, int]()
            for top in [p for p, f in batch.entries.items() if f & flag.RECURSIVE and p not in handed.trees]:
                handed.recorded.append(top)
                if not await self._record_below(store, top, since):
                    unknown = unknown or await self._not_in_index(taken)
                    handed.repeated |= {path: bits for path, bits in unknown.items() if is_below(path, top)}

    async def _begin_record(self, store: Store, top: bytes, since: float) -> None:
        """Begin a scan, for one at a time who has `_one_record`; none where the state is kept no longer.

        And who has `turn`: what is being confirmed was judged by what was recorded until then.
        """
        old = self._recordings.pop(top, None)
        if old is not None:
            old.cancel()
            await asyncio.gather(old, return_exceptions=True)
        if self._keeping.store is store:
            await self._access.apart(store.begin_record, top, since)
            self._recordings[top] = asyncio.create_task(
                self._record(store, top, 0.0 if self._source.is_watched else since)
            )

    async def _record(self, store: Store, top: bytes, since: float) -> bool:
        """Record what is at and below a directory; tell whether that is done. It is tried again where it cannot be."""
        for pause in _RECORD_PAUSES:
            try:
                await scan.record(self._keeping.scanned(since), (top,))
                return True
            except scan.ScanFailed as error:
                await self._access.apart(store.give_up, str(error))
                return False
            except OSError as error:
                self._keeping.log.debug(1, f"the state cannot be told what is in {shown(top or b'.')}: {error}")
            await asyncio.sleep(pause)
            await self._access.apart(store.begin_record, top, since)
        if not self._source.is_watched:
            await self._access.apart(store.give_up, "the source cannot be looked at")
        self._unseen = True
        return False

    async def recorded(self) -> None:
        """Wait until no scan is at work."""
        if self._recordings:
            await asyncio.wait({*self._recordings.values()})  # who ends one of them does not end us

    async def _record_top(self, store: Store, target: TargetMemory, since: float, initial: bool) -> bool:
        """Record the whole tree, unless it is known; tell whether all that was taken is going to be seen by that."""
        async with self._one_record, self._turn:  # several targets begin at the same time
            at_work = self._recordings.get(b"")
            unknown = not self._keeping.complete and (at_work is None or (not initial and at_work.done()))
            begins = unknown or self._unseen
            if begins:
                was_known, self._keeping.complete, self._unseen = self._keeping.complete, False, False
                await self._begin_record(store, b"", since)
                # With the index it is forgotten what the others hold.
                for other in self._targets if was_known else ():
                    if other is not target:
                        other.target.dirty.add([(b"", DOUBT)], since)
                        self._wake()
        if not self._source.is_watched and not self._keeping.place.one_clock:
            await self.recorded()  # what changes later shows (see `Memory.close`), whoever has begun it
        return begins

    async def _not_in_index(self, taken: Mapping[bytes, int]) -> dict[bytes, int]:
        """Return of what the index, as it is, may not say what it is: what was taken, and what some target may not hold."""
        rows = [row for target in self._targets for row in await target.rows()]
        found = {row.path: row.bits for row in rows}
        return {path: found.get(path, 0) | taken.get(path, 0) for path in found.keys() | taken.keys() if path}

    async def _record_below(self, store: Store, top: bytes, since: float) -> bool:
        """Record a directory, unless another target has let it be recorded as it is; tell whether that begins now."""
        async with self._one_record, self._turn:
            if top in self._standing:
                return False
            await self._begin_record(store, top, since)
            if len(self._targets) > 1:
                self._standing.add(top)
        return True

    def named(self, paths: Collection[bytes], bits: int) -> None:
        """Be told what is dirty at all targets from now on."""
        if bits & DOUBT and b"" in paths:
            self._unseen = True
        if bits & _WIDE:
            for top in [top for top in self._standing if not {top, b"", *ancestors(top)}.isdisjoint(paths)]:
                self._standing.discard(top)

    def take_ended(self, landed: Sequence[Handed]) -> None:
        """Note what has been recorded, and in what is to be confirmed (`landed`), or is on its way, what could not be."""
        ended = {top: task for top, task in self._recordings.items() if task.done()}
        for top, task in ended.items():
            del self._recordings[top]
            if not task.result():
                for handed in chain(landed, *(target.flying for target in self._targets)):
                    handed.recorded = [one for one in handed.recorded if one != top]  # it stays in doubt
            elif not top:
                self._keeping.complete = True

    async def close(self) -> Store | None:
        """End all scans, and return the state, which is not kept any more."""
        async with self._one_record:
            for recording in self._recordings.values():
                recording.cancel()
            await asyncio.gather(*self._recordings.values(), return_exceptions=True)
            self._recordings.clear()
            store = self._keeping.let_go()  # whoever waits begins no other one
        self._standing.clear()
        self._unseen = False
        return store
