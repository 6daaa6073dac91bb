"""The state of one source on disk, for as long as a run keeps it: opened for rules and targets, and let go."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress

from clsync.core.changes import DOUBT
from clsync.core.paths import leads_out, shown
from clsync.core.rules import Rules
from clsync.daemon.log import Log
from clsync.daemon.root import Directory
from clsync.daemon.stateaccess import StateAccess
from clsync.errors import Exit, OperatorError
from clsync.state import scan
from clsync.state.mark import Held, distrust
from clsync.state.room import Place
from clsync.state.store import Store
from clsync.state.walker import Scope


class Keeping:
    """What is kept, where, and of what."""

    def __init__(self, root: Directory, place: Place, access: StateAccess, one_file_system: int, log: Log) -> None:
        """`one_file_system`: see `state.walker.Scope`."""
        self.root, self.place, self._level, self.log = root, place, one_file_system, log
        self.access = access
        """For what may take rights, or time."""
        self._room = asyncio.Semaphore(scan.MOST)
        self.scope = Scope(Rules(), one_file_system)
        self.store: Store | None = None
        """The state, also where it is lost."""
        self._identity = b""
        self.complete = False
        """The index knows the whole tree."""

    @property
    def kept(self) -> Store | None:
        """The state, as long as it is kept."""
        return self.store if self.store is not None and not self.store.lost else None

    def is_of(self, rules: Rules) -> bool:
        """Tell whether these are the rules by which it was begun last."""
        return self._identity == self._identity_by(rules)

    def begin(self, rules: Rules) -> None:
        """Be told by which rules the next one is to be."""
        self._identity, self.scope = self._identity_by(rules), Scope(rules, self._level)

    def _identity_by(self, rules: Rules) -> bytes:
        return _digest(self.root.path, self.root.identity, rules.source_text, self._level)

    async def open(self, keys: Sequence[bytes], empty: Iterable[bytes], *, again: bool) -> bool:
        """Open the state for the keys of all targets; tell whether it is kept now. `empty`: of those that hold nothing.

        Raises OperatorError where there is none to be had, and somebody has asked for it; not if one was kept before
        (`again`).
        """
        try:
            self.store = await self.access.apart(self._opened, keys, empty)
        except OperatorError as error:
            if self.place.asked and not again:
                raise
            self.log.warning(f"{error.message}: this run keeps no state")
            await self.access.apart(self._distrust)
            return False
        return True

    def _opened(self, keys: Sequence[bytes], empty: Iterable[bytes]) -> Store:
        """Return the state (see `open`). Raises OperatorError."""
        where = f"the state in {shown(self.place.directory)}"
        try:
            store = Store.open(self.place.directory, self._identity, keys, self.place.boot)
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from None
        if store.found:
            self.log.warning(f"{where} is set aside: {store.found}; everything is compared")
        hint = "the next start compares everything"
        store.on_lost = lambda why: self.log.error(f"{where} is no longer kept: {why}", hint)
        for key in empty:
            store.hand_over(key, {b"": DOUBT}, time.time(), deep=(b"",))
        if any(leads_out(row.path) for key in keys for row in store.dirty(key)):
            store.give_up("it names what does not lie in the watched directory")
        return store

    def _distrust(self) -> None:
        """Let nobody trust a state that does not know what this run does."""
        with suppress(OSError, Held):
            distrust(self.place.directory)

    def _unusable(self, error: Exception) -> OperatorError:
        return OperatorError(
            f"--state-dir: {shown(self.place.directory)} cannot be used: {error}",
            "name a directory that may be written, or none",
            Exit.FILES,
        )

    def let_go(self) -> Store | None:
        """Keep it no longer; return it, to be closed."""
        store, self.store = self.store, None
        self.complete = False
        return store

    def scanned(self, since: float = 0.0) -> scan.Source:
        """Return what is scanned, by the rules of this state; for `since` see `state.messages.Order`."""
        scope = self.scope

        def start(mode: bytes) -> scan.Running:
            with self.root.opened() as root:
                return self.access.start(mode, root, scope, since)

        return scan.Source(start, self._room)


def _digest(*parts: object) -> bytes:
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).digest()
