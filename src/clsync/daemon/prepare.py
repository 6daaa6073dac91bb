"""From changed settings to what a mirror goes by: made anew, and checked, before anything is exchanged."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

from clsync.daemon.access import Access
from clsync.daemon.build import make_parts
from clsync.daemon.handlers import make_handler
from clsync.daemon.log import Log
from clsync.daemon.parts import Parts
from clsync.daemon.plan import Plan, make_plan
from clsync.handler.base import Handler
from clsync.options import Change, ReadFile, Settings, check


class Reload(Protocol):
    """Makes the settings anew."""

    def __call__(self, changes: Sequence[Change], read_file: ReadFile | None = None) -> Settings:
        """Return them with changes laid over, the latest one last; `read_file`: instead of reading files.

        Raises OperatorError.
        """
        ...


class Prepared(NamedTuple):
    """Other settings, checked, and what is made of them."""

    made: Plan
    parts: Parts
    handler: Handler | None
    """None where the old one does the same."""


class Preparation(Protocol):
    """Makes what other settings ask for."""

    async def prepare(self, changes: Sequence[Change], made: Plan, parts: Parts) -> Prepared:
        """Lay changes over all that was written; `made`, `parts`: what is in force. Raises OperatorError."""
        ...

    def adopt(self, made: Plan) -> None:
        """Be told that a plan made here is in force from now on."""
        ...


class DirectPreparation:
    """Makes it in this process (see `Preparation`)."""

    def __init__(self, access: Access, reload: Reload, log: Log) -> None:
        """`reload`: makes the settings."""
        self._access, self.reload, self._log = access, reload, log

    async def prepare(self, changes: Sequence[Change], made: Plan, parts: Parts) -> Prepared:
        """Lay changes over all that was written. Raises OperatorError."""
        return await asyncio.to_thread(self.prepared, changes, made, parts)

    def prepared(self, changes: Sequence[Change], made: Plan, parts: Parts) -> Prepared:
        """Do it in this thread. Raises OperatorError."""
        settings = with_what_stays(self.reload(changes), made.settings, self._log)
        new = make_plan(settings, self._log, made)
        new_parts = make_parts(new, self._access)
        handler = make_handler(new) if new_parts.same_handler != parts.same_handler else None
        return Prepared(new, new_parts, handler)

    def adopt(self, made: Plan) -> None:
        """Do nothing: here a plan is in force when it is used."""


def with_what_stays(settings: Settings, old: Settings, log: Log) -> Settings:
    """Return settings with the old values of what cannot be changed now. Raises OperatorError."""
    kept = {key: value for key, value in old.fixed().items() if value != settings.fixed()[key]}
    for warning in settings.warnings:
        if warning not in old.warnings:
            log.warning(warning)
    for key in kept:
        log.warning(f"{key.replace('_', '-')} cannot be changed while clsync runs: it stays as it is")
    kept_settings = replace(settings, **kept)
    check(kept_settings)
    return kept_settings
