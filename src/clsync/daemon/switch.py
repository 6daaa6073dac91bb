"""Other settings while the mirror runs: blocks that signals switch to, options that are set."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from clsync.core.paths import shown
from clsync.daemon import build
from clsync.daemon.handlers import make_handler
from clsync.daemon.log import Log
from clsync.daemon.mirror import Handlers, Mirror
from clsync.daemon.parts import Parts
from clsync.daemon.plan import Plan, demand_apart, make_plans
from clsync.errors import OperatorError
from clsync.handler.base import Handler
from clsync.options import Assignment, Block, Change, Settings, check

Reload = Callable[[Sequence[Change]], Settings]
"""Returns the settings with changes laid over them, the latest one last. Raises OperatorError."""


class Switch:
    """Exchanges what can be exchanged between two batches. What cannot be used changes nothing."""

    def __init__(
        self, settings: Settings, made: Sequence[Plan], parts: Parts, reload: Reload, mirror: Mirror, log: Log
    ) -> None:
        """`settings`, `made` and `parts`: what the mirror goes by."""
        self._settings = settings
        self._made, self._parts, self._reload, self._mirror, self._log = made, parts, reload, mirror, log
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
        """Set one option. Raises OperatorError."""
        await self._change(Assignment(key, text))
        self._log.info(f"{key} is set to '{shown(text)}'")

    async def _change(self, change: Change) -> None:
        async with self._turn:
            others = (old for old in self._changes if not _replaces(change, old))
            changes = (*others, change)
            settings, made, parts, handlers = await asyncio.to_thread(self._prepared, changes)
            await _opened([handler for handler in handlers if handler is not None])
            self._changes, self._settings, self._made, self._parts = changes, settings, made, parts
            self._log.level, self._log.debug_level = 0 if settings.quiet else settings.verbose, settings.debug
            self._mirror.exchange(parts, handlers)

    def _prepared(self, changes: Sequence[Change]) -> tuple[Settings, Sequence[Plan], Parts, Handlers]:
        """Make the new parts; no handler where the old one does the same. Raises OperatorError."""
        settings = self._with_what_stays(self._reload(changes))
        made = make_plans(settings, self._log, self._made)
        if len(made) != len(self._made):
            raise OperatorError(
                "the number of destinations cannot be changed while clsync runs", "restart clsync with these"
            )
        parts = build.make_parts(made)
        same = [
            new.same_handler == old.same_handler for new, old in zip(parts.outlets, self._parts.outlets, strict=True)
        ]
        handlers = [None if stays else make_handler(plan) for stays, plan in zip(same, made, strict=True)]
        demand_apart(made)
        return settings, made, parts, handlers

    def _with_what_stays(self, settings: Settings) -> Settings:
        """Return settings with the old values of what cannot be changed now."""
        old = self.settings
        kept = {key: value for key, value in old.fixed().items() if value != settings.fixed()[key]}
        for warning in settings.warnings:
            if warning not in old.warnings:
                self._log.warning(warning)
        for key in kept:
            self._log.warning(f"{key.replace('_', '-')} cannot be changed while clsync runs: it stays as it is")
        kept_settings = replace(settings, **kept)
        check(kept_settings)
        return kept_settings


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
