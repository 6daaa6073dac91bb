"""Waiting until what has changed by now has arrived."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence

from clsync.daemon.delivery import Delivery
from clsync.daemon.source import Source

NOT_SERVED = "nothing is handed over to this destination any more"
_SECOND_LOOK = 0.05
"""Seconds between two looks whether everything is at rest."""


class Arrival:
    """Answers those who wait."""

    def __init__(
        self,
        source: Source,
        deliveries: Sequence[Delivery],
        *,
        serves: Callable[[Delivery], bool],
        is_away: Callable[[], bool],
        lose_window: Callable[[], None],
        wake: Callable[[], None],
    ) -> None:
        """`serves` tells whether anything will be handed over to a target, `is_away` whether the tree is not there.

        `lose_window` is called where the tree could not be looked at, `wake` when there may be more to hand over.
        """
        self._source, self._deliveries = source, deliveries
        self._serves, self._is_away, self._lose_window, self._wake = serves, is_away, lose_window, wake
        self.following = asyncio.Event()
        """Set when changes are followed."""

    async def of(self, names: Collection[str], until_synced: bool) -> dict[str, dict[bytes, str]]:
        """Wait until everything that has changed before this call has arrived; return what has failed, by target.

        `names`: of the targets, none for all of them. `until_synced`: until nothing at all is left there.
        """
        chosen = [delivery for delivery in self._deliveries if not names or delivery.target.name in names]
        failed: dict[str, dict[bytes, str]] = {}
        search, mark = self._source.search, -1
        await self.following.wait()
        while True:
            await self._look_at_all()
            # Nothing may happen between these: what is dirty now is what is waited for.
            barriers = [(delivery, delivery.target.raise_barrier()) for delivery in chosen]
            for delivery, barrier in barriers:
                delivery.hurry = True
                if not self._serves(delivery):
                    barrier.end(NOT_SERVED)
            self._wake()
            arrivals = await asyncio.gather(*(delivery.target.arrival(barrier) for delivery, barrier in barriers))
            for delivery, found in zip(chosen, arrivals, strict=True):
                failed.setdefault(delivery.target.name, {}).update(found)
                if delivery.withheld.count:
                    failed[delivery.target.name][b""] = delivery.withheld.text
            if not until_synced:
                break
            if await self._at_rest(chosen):
                if mark < 0:
                    mark = search.mark()
                if search.over(mark):
                    break
                search.end_rest()
            await asyncio.sleep(_SECOND_LOOK)
        return {name: found for name, found in failed.items() if found}

    async def _at_rest(self, chosen: Sequence[Delivery]) -> bool:
        """Tell whether nothing is dirty for some targets, also by what has changed a moment ago."""

        def rests() -> bool:
            return all(d.target.at_rest() or not self._serves(d) for d in chosen)

        if not rests():
            return False
        await self._look_at_all()
        return rests()

    async def _look_at_all(self) -> None:
        """Let all that has changed by now be dirty at all targets."""
        while True:
            while self._is_away():
                await asyncio.sleep(_SECOND_LOOK)
            await self._source.collector.catch_up(fresh=True)
            # Who asks for it may go away in the middle; what is taken is not to be lost by that.
            taking = asyncio.ensure_future(self._source.take_all(time.monotonic()))
            try:
                await asyncio.shield(taking)
            except OSError:
                self._lose_window()
                continue
            except asyncio.CancelledError:
                taking.add_done_callback(self._note_taken)
                raise
            return

    def _note_taken(self, taking: asyncio.Future[None]) -> None:
        if not taking.cancelled() and taking.exception() is not None:
            self._lose_window()
