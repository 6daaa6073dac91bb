"""Other settings and rules for a mirror at work: asked for at any time, used when no batch is in flight."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from clsync.daemon.parts import Parts
from clsync.handler.base import Handler

Handlers = Sequence[Handler | None]
"""One for each target; None: the one at work stays."""


class Wishes:
    """What was asked for and is not in force yet."""

    def __init__(self) -> None:
        """Nothing was asked for."""
        self.rules = False
        """The rules file is to be read again."""
        self.rules_asked = 0.0
        """When somebody wanted that last (monotonic seconds)."""
        self._parts: tuple[Parts, Handlers] | None = None
        self._dismissed: list[Handler] = []
        """Handlers that were made and never used."""
        self._in_force = asyncio.Event()
        self._in_force.set()
        self._last = False
        """Nothing that is asked for comes true any more."""

    def __bool__(self) -> bool:
        """Tell whether anything was asked for."""
        return self.rules or self._parts is not None

    def want_rules(self) -> None:
        """Have the rules file read again."""
        self.rules, self.rules_asked = True, time.monotonic()
        self._await()

    def want_parts(self, parts: Parts, handlers: Handlers) -> None:
        """Go by other parts; `handlers`: the first ones of theirs, None: it stays as it is."""
        if self._parts is not None:
            # These parts were made to follow the ones that have not been used yet.
            before = self._parts[1]
            self._dismissed += [old for old, new in zip(before, handlers, strict=True) if old and new]
            handlers = [new or old for old, new in zip(before, handlers, strict=True)]
        self._parts = parts, handlers
        self._await()

    def _await(self) -> None:
        if not self._last:
            self._in_force.clear()

    def end(self) -> None:
        """Let nobody wait any more: the run ends, and with the settings that it has."""
        self._last = True
        self._in_force.set()

    async def come_true(self) -> None:
        """Wait until all that was asked for is in force, or cannot be."""
        await self._in_force.wait()

    def settle(self) -> None:
        """All that was taken is in force, or cannot be; what is asked for meanwhile is not."""
        if not self:
            self._in_force.set()

    def take_parts(self) -> tuple[Parts, Handlers] | None:
        """Return the parts that are wanted; they are not any more."""
        wanted, self._parts = self._parts, None
        return wanted

    def take_dismissed(self) -> list[Handler]:
        """Return the handlers that never will be used; they are somebody else's from now on."""
        dismissed, self._dismissed = self._dismissed, []
        return dismissed

    def give_up(self) -> list[Handler]:
        """Return all handlers that were made and not used (see `take_dismissed`)."""
        wanted = self.take_parts()
        return [
            *self.take_dismissed(),
            *(handler for handler in (wanted[1] if wanted else ()) if handler is not None),
        ]
