"""Batches in flight side by side, and what waits until those that it meets have landed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from clsync.core.changes import ATTRIB, DOUBT, NAME
from clsync.core.dirty import DirtySet
from clsync.core.overlap import Overlap
from clsync.daemon.resolve import Resolved, bits_of
from clsync.kernel.slices import Turn, in_slices, in_steps


class Traffic:
    """Keeps apart what must not be on its way at the same time."""

    def __init__(self, dirty: DirtySet) -> None:
        """`dirty`: of the target; what waits is in it."""
        self._dirty = dirty
        self._overlap = Overlap()
        self._moved: set[bytes] = set()
        """What waits and came or went: what is below it waits, too."""
        self._ripe: set[bytes] = set()
        """Big files that have waited, and wait now for a batch in flight."""
        self._turn = asyncio.Lock()
        """One of these works at a time: what waits must not miss the landing that it waits for."""

    @property
    def standing(self) -> bool:
        """Whether everything is on its way: nothing can go beside it."""
        return self._overlap.whole

    @property
    def much_waits(self) -> bool:
        """Whether something waits that stands for much (a new directory)."""
        return bool(self._moved)

    def ripe(self) -> set[bytes]:
        """Return, once, the big files that have waited and are ready by now."""
        ripe = self._ripe & self._dirty.ready.keys()
        self._ripe -= ripe
        return ripe

    async def set_apart(self, resolved: Resolved, ripe: set[bytes], *, safe: bool, shares: bool) -> None:
        """Let wait what meets a batch in flight: two runs that deal with it may end in any order.

        Where all may overlap (not `safe`), it is handed over at once, and once more when they have landed. `shares`:
        runs set the attributes of the directories above what they send, as they found them.
        """
        async with self._turn:
            met = await in_steps(self._overlap.meets(resolved.entries, resolved.groups, self._moved))
            async for path in in_slices(met):
                bits = bits_of(resolved.entries[path])
                self._dirty.meet(path, bits)
                if bits & (NAME | DOUBT):
                    self._moved.add(path)
                resolved.signed.pop(path, None)
                if safe:
                    del resolved.entries[path]
            if shares:
                for path in await in_steps(self._overlap.shared_directories(resolved.entries)):
                    self._dirty.meet(path, ATTRIB)
            self._ripe |= met & ripe
            resolved.whole = [path for path in resolved.whole if path in resolved.entries]
            if await in_steps(self._dirty.fold_met()):
                waiting = self._dirty.met
                self._moved = {path async for path in in_slices(waiting) if waiting[path] & (NAME | DOUBT)}
                self._ripe &= waiting.keys()

    async def begin(self, entries: Mapping[bytes, int]) -> None:
        """Note that a batch is on its way."""
        async with self._turn:
            await in_steps(self._overlap.begin(entries))

    async def land(self, entries: Mapping[bytes, int]) -> None:
        """Note that a batch has landed, and make ready what has waited for nothing else."""
        async with self._turn:
            await in_steps(self._overlap.end(entries))
            turn = Turn()
            for free in self._overlap.free(list(self._dirty.met)):
                self._dirty.part(free)
                self._moved.difference_update(free)
                await turn.rest_if_due()
