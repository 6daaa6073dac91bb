"""Other settings while the mirror runs: blocks that signals switch to, options that are set."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from clsync.core.paths import shown
from clsync.daemon.log import Log
from clsync.daemon.mirror import Mirror
from clsync.daemon.parts import Parts
from clsync.daemon.plan import Plan
from clsync.daemon.prepare import Preparation
from clsync.errors import OperatorError
from clsync.handler.base import Handler
from clsync.options import Assignment, Block, Change, Settings


class Switch:
    """Exchanges what can be exchanged between two batches. What cannot be used changes nothing."""

    def __init__(
        self,
        settings: Settings,
        made: Sequence[Plan],
        parts: Parts,
        preparation: Preparation,
        mirror: Mirror,
        log: Log,
    ) -> None:
        """`settings`, `made` and `parts`: what the mirror goes by."""
        self._settings = settings
        self._made, self._parts, self._mirror, self._log = made, parts, mirror, log
        self._preparation = preparation
        self._changes: tuple[Change, ...] = ()
        self._turn = asyncio.Lock()

    @property
    def settings(self) -> Settings:
        """The settings in force, or about to be."""
        return self._settings

    @property
    def plans(self) -> Sequence[Plan]:
        """What was found out about them, for each target."""
        return self._made

    async def to_block(self, number: int, name: bytes) -> None:
        """Lay a block of the configuration file over all that is set; `number`: the signal that asks for it."""
        what = f"signal {number}, block [{shown(name)}]"
        try:
            await self._change(Block(name))
        except OperatorError as error:
            self._log.error(f"{what}: {error.message}", f"{error.hint}; the old settings stay in force")
        except OSError as error:
            self._log.error(f"{what}: {error}", "the old settings stay in force")
        else:
            self._log.info(f"{what}: in force from the next batch on")

    async def set(self, key: str, text: bytes) -> None:
        """Set one option. Raises OperatorError, OSError."""
        await self._change(Assignment(key, text))
        self._log.info(f"{key} is set to '{shown(text)}'")

    async def _change(self, change: Change) -> None:
        async with self._turn:
            others = (old for old in self._changes if not _replaces(change, old))
            changes = (*others, change)
            new = await self._preparation.prepare(changes, self._settings, self._made, self._parts)
            await _opened([handler for handler in new.handlers if handler is not None])
            self._changes = changes
            self._settings, self._made, self._parts = new.settings, new.plans, new.parts
            self._preparation.adopt(new)
            self._log.follow(new.settings)
            self._mirror.exchange(new.parts, new.handlers)


async def _opened(handlers: Sequence[Handler]) -> None:
    try:
        for handler in handlers:
            await handler.open()
    except BaseException:
        for handler in handlers:
            await handler.aclose()
        raise


def _replaces(new: Change, old: Change) -> bool:
    """Tell whether a change makes an older one superfluous."""
    if isinstance(new, Assignment):
        return isinstance(old, Assignment) and old.key == new.key
    return old == new
