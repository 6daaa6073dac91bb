"""From changed settings to what a mirror goes by: made anew, and checked, before anything is exchanged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

from clsync.daemon.access import Access
from clsync.daemon.build import make_parts
from clsync.daemon.handlers import make_handler
from clsync.daemon.log import Log
from clsync.daemon.parts import Parts
from clsync.daemon.permission import demand_same_programs
from clsync.daemon.plan import Plan, demand_apart, make_plans
from clsync.errors import OperatorError
from clsync.handler.base import Handler
from clsync.options import Change, ReadFile, Settings, check

Through = Callable[[ReadFile], ReadFile]


class Reload(Protocol):
    """Makes the settings anew."""

    def __call__(self, changes: Sequence[Change], through: Through = lambda read_file: read_file) -> Settings:
        """Return them with changes laid over, the latest one last; `through` may stand before what reads files.

        Raises OperatorError.
        """
        ...


def recording(files: dict[bytes, bytes | None]) -> Through:
    """Return what keeps what is read."""

    def through(read_file: ReadFile) -> ReadFile:
        def read(name: bytes) -> bytes | None:
            files[name] = read_file(name)
            return files[name]

        return read

    return through


class Prepared(NamedTuple):
    """Other settings, checked, and what is made of them."""

    settings: Settings
    plans: Sequence[Plan]
    """One for each target."""
    parts: Parts
    handlers: Sequence[Handler | None]
    """One for each target; None where the old one does the same."""


class Preparation(Protocol):
    """Makes what other settings ask for."""

    async def prepare(
        self, changes: Sequence[Change], settings: Settings, plans: Sequence[Plan], parts: Parts
    ) -> Prepared:
        """Lay changes over all that was written; the others are what is in force. Raises OperatorError."""
        ...

    def adopt(self, prepared: Prepared) -> None:
        """Be told that something made here is in force from now on."""
        ...


class DirectPreparation:
    """Makes it in this process (see `Preparation`)."""

    def __init__(self, access: Access, reload: Reload, log: Log) -> None:
        """`reload`: makes the settings."""
        self._access, self._reload, self._log = access, reload, log

    async def prepare(
        self,
        changes: Sequence[Change],
        settings: Settings,
        plans: Sequence[Plan],
        parts: Parts,
        through: Through = lambda read_file: read_file,
    ) -> Prepared:
        """Lay changes over all that was written; `through`: see `Reload`. Raises OperatorError."""
        return await asyncio.to_thread(self._prepared, changes, settings, plans, parts, through)

    def _prepared(
        self, changes: Sequence[Change], old: Settings, plans: Sequence[Plan], parts: Parts, through: Through
    ) -> Prepared:
        settings = with_what_stays(self._reload(changes, through), old, self._log)
        new = make_plans(settings, self._log, plans)
        if len(new) != len(plans):
            raise OperatorError(
                "the number of destinations cannot be changed while clsync runs", "restart clsync with these"
            )
        new_parts = make_parts(new, self._access)
        demand_same_programs(old, parts, settings, new_parts)
        same = [a.same_handler == b.same_handler for a, b in zip(new_parts.outlets, parts.outlets, strict=True)]
        handlers = [None if stays else make_handler(plan) for stays, plan in zip(same, new, strict=True)]
        demand_apart(new)
        if any(handlers):
            new_parts = make_parts(new, self._access)  # by now it is known what new destinations can hold
        return Prepared(settings, new, new_parts, handlers)

    def adopt(self, prepared: Prepared) -> None:
        """Do nothing: here it is in force when it is used."""


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
