"""What a run has left to do: what is dirty, what is searched for, what was given up."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from clsync.daemon.course import Course, Leaving
from clsync.daemon.delivery import Delivery
from clsync.daemon.source import Source

LAST_READ = 1.0
"""Seconds for which changes are read before the last batch, where neighbours never rest."""


class Remaining:
    """Tells whether a run may end."""

    def __init__(
        self,
        source: Source,
        deliveries: Sequence[Delivery],
        *,
        course: Callable[[], Course],
        leaving: Callable[[], Leaving | None],
        away: Callable[[], bool],
        lose_window: Callable[[], None],
    ) -> None:
        """`course`, `leaving`: as things are now. `away`: the root is not there. `lose_window`: what it held is lost."""
        self._source, self._collector, self._search = source, source.collector, source.search
        self._deliveries, self._course, self._leaving = deliveries, course, leaving
        self._away, self._lose_window = away, lose_window
        self.last_flush = float("inf")
        """When all that had changed before somebody wanted the run to end was read (wall clock)."""
        self._searched: int | None = None
        """What is searched for for hard links was known by then, and nothing else is left (see `LinkSearch.mark`)."""

    def only_rests(self) -> bool:
        """Tell whether all that waits is for targets that are paused."""
        if not any(delivery.paused for delivery in self._deliveries):
            return False
        going = [d for d in self._deliveries if not d.paused and not self.given_up_on(d)]
        unknown = self._collector.half_taken or self._search.busy or self._collector.drain()
        return not going or not (unknown or any(d.target.pending() for d in going))

    async def is_nothing(self) -> bool:
        """Tell whether nothing is left, and nothing of ours comes: neighbours on the file system may never rest."""
        if not self._dirty() and self._comes():
            if self._leaving() is Leaving.FLUSH or self._source.root.trouble() is not None:
                return False
            await self._collector.catch_up(patience=LAST_READ)
            try:
                await self._source.take_all(time.monotonic())
            except OSError:
                self._lose_window()
        if self._dirty():
            self._searched = None
            return False
        if self._searched is None:
            self._searched = self._search.mark()
            self._search.end_rest()
        return self._search.over(self._searched) or self._searches_in_vain()

    def is_anything(self) -> bool:
        """Tell whether anything is left that was not given up."""
        return self._dirty() or self._comes() or (self._search.busy and not self._searches_in_vain())

    def _comes(self) -> bool:
        """Tell whether anything was noticed that counts: after a last flush it is too late, or a neighbour's."""
        return self._collector.last_take < self.last_flush and self._collector.drain()

    def _dirty(self) -> bool:
        """Tell whether anything is left of what was taken, as far as is known."""
        unknown = self._away() or self._collector.half_taken
        return unknown or any(d.target.pending() for d in self._deliveries if not self.given_up_on(d))

    def _searches_in_vain(self) -> bool:
        return self._search.failing and self._leaving() is not None

    def given_up_on(self, delivery: Delivery) -> bool:
        """Tell whether something of a target has failed as often as it may."""
        tries = self._course().tries
        return tries > 0 and delivery.target.worst(hopeless=self._course().meant_to_end) >= tries

    def given_up(self) -> bool:
        """Tell whether there is no target left that may go on."""
        return all(map(self.given_up_on, self._deliveries))

    def serves(self, delivery: Delivery) -> bool:
        """Tell whether anything will be handed over to a target."""
        most = self._course().max_iterations
        return not self.given_up_on(delivery) and not (most and delivery.confirmed >= most)

    def over(self, done: Callable[[Delivery], bool]) -> bool:
        """Tell whether all targets that may go on are `done`."""
        return all(done(delivery) or self.given_up_on(delivery) for delivery in self._deliveries)
