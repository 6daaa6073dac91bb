"""A start that compares the source with the state: only what differs is handed over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import aclosing
from itertools import chain
from typing import TYPE_CHECKING

from clsync.core.changes import DOUBT, NAME
from clsync.daemon.delivery import Delivery
from clsync.daemon.log import Log

if TYPE_CHECKING:
    from clsync.daemon.memory import Memory
    from clsync.state.scan import Scanned
    from clsync.state.store import Dirty


class WarmStart:
    """Lets some targets be given what differs, while the others are compared as a whole."""

    def __init__(
        self,
        memory: Memory,
        log: Log,
        *,
        wake: Callable[[], None],
        over: Callable[[Delivery, bool], None],
    ) -> None:
        """`wake` is called when there is more to hand over; `over` when a target has been given all of it, well or not."""
        self._memory, self._log, self._wake, self._over = memory, log, wake, over
        self.compared = asyncio.Event()
        """Set when all that differs is known."""
        self._task: asyncio.Task[None] | None = None
        self._asked: dict[Delivery, asyncio.Task[None]] = {}
        """What finds out whether the host of a target has lost anything: none waits for that of another."""
        self._deliveries: list[Delivery] = []
        self._rows: dict[Delivery, Sequence[Dirty]] = {}
        """What was not confirmed when the last run ended, and has gone, or is a directory in doubt. Nobody knows what of it
        went before that, and what since then: it is counted with all that the comparison finds, and so waits for the end
        of it."""

    async def begin(self, deliveries: Sequence[Delivery]) -> list[Delivery]:
        """Begin; return the targets of which it is not known what they hold."""
        pairs = list(zip(deliveries, self._memory.targets, strict=True))
        warm = [delivery for delivery, target in pairs if await target.is_warm()]
        for delivery, target in pairs:
            rows = await target.rows()
            if delivery in warm:
                delivery.warm = True
                self._rows[delivery] = await self._added(delivery, rows)
                left_over = await target.left_over(rows)
                delivery.target.dirty.add(((path, NAME) for path in left_over), time.time())
            else:
                # What has changed since an earlier start may look as it did then: there it may not have arrived.
                delivery.compared_since = min((row.since for row in rows if not row.path), default=time.time())
        loop = asyncio.get_running_loop()
        unsure = [(delivery, target) for delivery, target in pairs if target.may_have_lost()]
        self._asked = {delivery: loop.create_task(target.ask()) for delivery, target in unsure}
        if warm:
            self._deliveries = warm
            self._task = loop.create_task(self._run(warm, list(deliveries)))
        else:
            self.compared.set()
        return [delivery for delivery in deliveries if delivery not in warm]

    async def _added(self, delivery: Delivery, rows: Sequence[Dirty]) -> list[Dirty]:
        """Make dirty what was not confirmed, but for what has gone, or may hide that; return that."""
        late = await self._memory.indexed.gone([row.path for row in rows])
        late |= {row.path for row in rows if row.bits & DOUBT}
        delivery.inferred.update(row.path for row in rows)
        for row in rows:
            if row.path not in late:
                delivery.target.dirty.add([(row.path, row.bits)], row.since)
        return [row for row in rows if row.path in late]

    async def known(self, names: Collection[str]) -> None:
        """Wait until all is known that differs at some targets (`names`; none: at all)."""
        await self.compared.wait()
        asked = [task for one, task in self._asked.items() if not names or one.target.name in names]
        if asked:
            await asyncio.wait(asked)

    @property
    def at_work(self) -> bool:
        """Whether something that differs is not known, or not handed over."""
        return any(delivery.warm for delivery in self._deliveries)

    async def stop(self) -> None:
        """End it; those that have not been given everything have to be compared as a whole."""
        tasks = [*self._asked.values(), *([self._task] if self._task is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for delivery in self._deliveries:
            delivery.warm = False
            self._add_gone(delivery)
        self.compared.set()

    async def _run(self, warm: Sequence[Delivery], everybody: Sequence[Delivery]) -> None:
        # Lazily, and in the state's own words: this module is not to need it where there is none.
        from clsync.daemon.indexed import Unknown

        began, differing = time.time(), 0
        looked: list[Scanned] = []
        names: list[tuple[bytes, int]] = []
        try:
            async with aclosing(self._memory.indexed.differences((b"",), looked.append)) as parts:
                async for part in parts:
                    differing += len(part)
                    # What came or went is told at the end: only then is it known whether too much has gone.
                    names += (change for change in part if change[1] & NAME)
                    for delivery in everybody:
                        delivery.target.dirty.add((change for change in part if not change[1] & NAME), began)
                        delivery.target.distrusted.update(path for path, bits in part if bits & DOUBT)
                    self._wake()
        except Unknown:
            self._log.warning("warm start: it cannot be told what differs: everything is compared")
            for delivery in warm:
                delivery.warm = False
                self._add_gone(delivery)
                delivery.target.dirty.add([(b"", DOUBT)], began)
        else:
            self._log.info(f"warm start: {differing} of {looked[0].entries} objects differ")
            for delivery in everybody:
                self._add_gone(delivery)
                delivery.inferred.update(path for path, _ in names)
                delivery.target.dirty.add(names, began)
        self.compared.set()
        self._wake()
        await asyncio.gather(*(self._given(delivery) for delivery in warm if delivery.warm))

    def _add_gone(self, delivery: Delivery) -> None:
        for row in self._rows.pop(delivery, ()):
            delivery.target.dirty.add([(row.path, row.bits)], row.since)

    async def _given(self, delivery: Delivery) -> None:
        """Wait until a target has been given what differs, once: nobody waits for what has failed, or is set aside."""
        if delivery in self._asked:
            await self._asked[delivery]
        dirty = delivery.target.dirty
        left = {*dirty.ready, *chain.from_iterable(dirty.flights)}
        while left := {path for path in left - delivery.given if dirty.is_due(path)}:
            await delivery.landing.wait()
            delivery.landing.clear()
        delivery.warm = False
        delivery.given.clear()
        self._over(delivery, not delivery.target.failing())
        self._wake()
