"""The sync handlers of a target: one, or as many as batches may be in flight."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from clsync.core.batch import Batch, Outcome, Verdict
from clsync.core.rules import Rules
from clsync.errors import OperatorError
from clsync.handler.base import Handler


class Crew:
    """Hands each batch to a handler that is free; more of them are made when they are needed."""

    def __init__(self, first: Handler, make: Callable[[], Awaitable[Handler]], limit: int) -> None:
        """`make` gives another handler like the first one (OperatorError: not now). `limit`: batches in flight."""
        self.first = first
        """All are alike: what one says of itself holds for every one."""
        self._make, self.limit = make, limit
        self._all, self._free = [first], [first]
        self._stopped = False

    @property
    def at_work(self) -> int:
        """How many batches are being handed over."""
        return len(self._all) - len(self._free)

    def follow(self, make: Callable[[], Awaitable[Handler]], limit: int) -> None:
        """Go on by other settings, for which the handlers do the same as before."""
        self._make, self.limit = make, limit

    def set_rules(self, rules: Rules) -> None:
        """Exchange the rules of all, while none is at work."""
        for handler in self._all:
            handler.rules = rules if rules else None

    async def sync(self, batch: Batch) -> Outcome:
        """Hand a batch over (see `handler.base.Handler`)."""
        try:
            handler = self._free.pop() if self._free else await self._another()
        except (OperatorError, OSError) as error:
            return Outcome(Verdict.UNWELL, message=str(error))
        try:
            if self._stopped:
                return Outcome(Verdict.UNWELL, message="stopped")
            return await handler.sync(batch)
        finally:
            self._free.append(handler)

    async def _another(self) -> Handler:
        handler = await self._make()
        handler.rules = self.first.rules
        self._all.append(handler)
        try:
            await handler.open()
        except BaseException:
            self._all.remove(handler)
            await handler.aclose()
            raise
        return handler

    def stop(self) -> None:
        """End the runs at work now; there are no others after them."""
        self._stopped = True
        for handler in self._all:
            handler.stop()

    async def aclose(self) -> None:
        """Give back what all of them hold. Raises OperatorError, the first one, where a handler says how it ended."""
        trouble: Exception | None = None
        for handler in self._all:
            try:
                await handler.aclose()
            except (OperatorError, OSError) as error:
                trouble = trouble or error
        if trouble is not None:
            raise trouble
