"""The background scrub: each target is compared with the source slowly, one pass after the other, and mended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from clsync.core.paths import shown
from clsync.core.verification import Aspect, bits_to_mend
from clsync.daemon.delivery import Delivery
from clsync.daemon.log import Log
from clsync.daemon.verify import Report, Verifier, Wish
from clsync.errors import OperatorError

_LOOK: Final = 1.0
"""Seconds between two looks whether it may go on."""
_REST: Final = 60.0
"""Seconds after a pass that could not be ended."""
_NAMED: Final = 20
"""Paths named after one pass; more are counted."""


class Passed(NamedTuple):
    """What the last pass has brought."""

    ended: float
    """Wall-clock seconds."""
    entries: int
    found: int
    """Paths that differed, though nothing had changed."""


class Scrub:
    """Compares the targets of which that is wanted."""

    def __init__(
        self, deliveries: Sequence[Delivery], verifier: Verifier, log: Log, well: Callable[[Delivery], bool]
    ) -> None:
        """`well` tells whether anything can be handed over to a target now."""
        self._deliveries, self._verifier, self._log, self._well = deliveries, verifier, log, well
        self._tasks: list[asyncio.Task[None]] = []
        self.passed: dict[Delivery, Passed] = {}
        self._told: dict[Delivery, set[bytes]] = {}
        self._trouble: dict[Delivery, str] = {}

    def begin(self) -> None:
        """Begin, where that is wanted."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._forever(one)) for one in self._deliveries if one.outlet.scrub_rate]

    async def stop(self) -> None:
        """End it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _forever(self, delivery: Delivery) -> None:
        while True:
            await self._ready(delivery)
            try:
                ended = await self._pass(delivery)
            except OperatorError as error:
                self._fail(delivery, error.message)
                ended = False
            except Exception as error:  # noqa: BLE001 - not even a defect may end what nobody looks at
                self._fail(delivery, f"{type(error).__name__}: {error}")
                ended = False
            if not ended:
                await asyncio.sleep(_REST)

    async def _ready(self, delivery: Delivery) -> None:
        """Return when a target can be compared, and made equal."""
        while not self._well(delivery):
            await asyncio.sleep(_LOOK)

    async def _pass(self, delivery: Delivery) -> bool:
        """Compare everything once; tell whether that was possible. Raises OperatorError."""
        outlet = delivery.outlet
        wish = Wish(content=outlet.scrub_content, rate=outlet.scrub_rate)
        report = await self._verifier.verify(delivery, wish, hold=lambda: self._ready(delivery))
        if report.trouble:
            self._fail(delivery, report.trouble)
            return False
        self._trouble.pop(delivery, None)
        self._mend(delivery, report)
        self._log.debug(
            1,
            f"scrub: {report.entries} entries, {len(report.differences)} differ, {report.moving} change all the time",
        )
        self.passed[delivery] = Passed(time.time(), report.entries, len(report.differences) + report.more)
        return True

    def _mend(self, delivery: Delivery, report: Report) -> None:
        """Hand over what differs, unless that is known, and name what did not after the last pass."""
        failing = delivery.target.failing()
        found = {
            path: one
            for path, one in report.differences.items()
            if path not in failing and not (one.aspects & Aspect.EXTRA and delivery.withheld.holds(path))
        }
        prefix = f"{delivery.target.name}: " if delivery.target.name else ""
        fresh = [one for path, one in found.items() if path not in self._told.get(delivery, ())]
        for one in fresh[:_NAMED]:
            then = ": handed over again" if bits_to_mend(one.aspects) else ""
            self._log.warning(f"{prefix}scrub: {shown(one.path)} differs ({', '.join(one.words)}){then}")
        if len(fresh) > _NAMED:
            self._log.warning(f"{prefix}scrub: {len(fresh) - _NAMED} more paths differ: handed over again")
        self._told[delivery] = set(found)
        if found:
            self._verifier.mend(delivery, found)

    def _fail(self, delivery: Delivery, why: str) -> None:
        """Say once that a pass is not possible."""
        if self._trouble.get(delivery) != why:
            prefix = f"{delivery.target.name}: " if delivery.target.name else ""
            self._log.warning(f"{prefix}scrub: {why}; it is tried again")
        self._trouble[delivery] = why
