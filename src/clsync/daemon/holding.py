"""What one target holds: what is written down of a batch before it is handed over, and what is confirmed of it later."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from contextlib import aclosing
from functools import partial
from typing import Final, Protocol

from clsync.core.batch import Batch, Outcome
from clsync.core.changes import ATTRIB, DOUBT, NAME
from clsync.core.listing import Records
from clsync.core.moves import Step
from clsync.core.paths import ancestors, is_below, parent
from clsync.daemon.handed import Handed
from clsync.daemon.hosts import Host
from clsync.daemon.indexed import Indexed, Unknown
from clsync.daemon.keeping import Keeping
from clsync.daemon.log import Log
from clsync.daemon.resolve import FORCED_LIMIT
from clsync.daemon.target import Target
from clsync.handler.base import Handler
from clsync.state import scan
from clsync.state.store import Dirty

_WIDE: Final = NAME | DOUBT
_COUNTED: Final = 100_000
"""Entries that are counted at a target; more are too many for anybody."""
_LITTER: Final = re.compile(rb"\.(clsync-.*|.*\.(clsync-)?[A-Za-z0-9]{6})", re.DOTALL)
"""Names that handlers of ours give to what is not complete."""


class Ledger(Protocol):
    """Writes down what handlers are given, and what became of it (see `Memory`)."""

    async def before(
        self, target: TargetMemory, batch: Batch, taken: Mapping[bytes, int], since: float, records: Records
    ) -> Handed | None:
        """Write down what a handler is about to be given, and what it is now; None where there is no state."""
        ...

    def after(self, target: TargetMemory, handed: Handed, outcome: Outcome) -> None:
        """Take note of what became of it."""
        ...


class TargetMemory:
    """What one target holds."""

    def __init__(self, ledger: Ledger, keeping: Keeping, indexed: Indexed, target: Target, number: int) -> None:
        """`number`: which of the targets it is."""
        self._ledger, self._keeping, self._indexed = ledger, keeping, indexed
        self.target, self.number = target, number
        self.key = b""
        self.host: Host | None = None
        """Where the target is; None: here."""
        self.handler: Callable[[], Handler] = _nobody
        """Returns who can be asked of it."""
        self.flying: list[Handed] = []

    async def rows(self) -> list[Dirty]:
        """Return what the target may not hold as the index says."""
        store = self._keeping.kept
        if store is None:
            return [Dirty(b"", DOUBT, 0.0)]
        return await self._keeping.access.apart(store.dirty, self.key)

    async def left_over(self, rows: Iterable[Dirty]) -> list[bytes]:
        """Return what stands only at the target beside paths that it may not hold, and was left there by what was cut off.

        At a remote one, who receives removes it.
        """
        store, directories = self._keeping.kept, {parent(row.path) for row in rows}
        found = await self._keeping.access.only_there(self.number, directories)
        found = [path for path in found if _LITTER.fullmatch(path.rpartition(b"/")[2])]
        if store is None or not found:
            return []
        # What the source had is counted by the comparison.
        known = await self._keeping.access.apart(store.noted, found)
        return [path for path in found if path not in known]

    async def still_holds(self, paths: Collection[bytes]) -> list[bytes]:
        """Return those of some paths at which something stands at the target, as far as that can be told."""
        absent = {*await self._keeping.access.absent(self.number, paths)} if paths else set()
        return [path for path in paths if path not in absent]

    def may_have_lost(self) -> bool:
        """Tell, at a start, whether the target is on a host that may have lost something with its power."""
        store = self._keeping.kept
        return self.host is not None and store is not None and store.awaiting_flush(self.key) > 0

    async def ask(self) -> None:
        """Find out whether it has."""
        if self.host is not None:
            await self.host.begin()

    async def is_warm(self) -> bool:
        """Tell whether it is known what the target holds, but for some paths."""
        return self._keeping.complete and not holds_top(await self.rows())

    async def known(self) -> int | None:
        """Return how many entries the target holds; None if it is not known what it holds."""
        store = self._keeping.kept
        if store is None or not await self.is_warm():
            return None
        return await self._keeping.access.apart(store.objects, (b"",))

    async def entries_below(self, directories: Collection[bytes]) -> int:
        """Return how many entries the target holds below some paths, none of which lies below another.

        What was not confirmed before a crash is not known of a directory: a local target is asked as well.
        """
        store, access = self._keeping.kept, self._keeping.access
        known = 0 if store is None else await access.apart(store.objects, directories)
        return max(known, await access.count(self.number, directories, _COUNTED))

    async def gone_below(self, directories: Collection[bytes], root: int) -> list[bytes]:
        """Return what the target may hold below some directories, and the source does not, without what lies below that.

        What another target has been the first to lose is not in the index any more, but in the journal of this one.
        """
        if not directories:
            return []
        found = {*await self._indexed.gone_below(directories, root)}
        tops = {*directories}
        rows = [row.path for row in await self.rows() if not tops.isdisjoint(ancestors(row.path))]
        found |= await self._indexed.gone(rows) if rows else set()
        return [path for path in found if found.isdisjoint(ancestors(path))]

    async def before(
        self, batch: Batch, taken: Mapping[bytes, int], since: float, records: Records | None
    ) -> Handed | None:
        """Write down what a handler is about to be given; None where there is no state.

        `taken`: what the batch was made of (path -> change bits); `since`: when that was (wall-clock seconds); `records`:
        what was seen of it since.
        """
        doubts = self.target.dirty.doubts
        oldest = min((doubts[path] for path in doubts.keys() & batch.entries.keys()), default=since)
        return await self._ledger.before(self, batch, taken, min(oldest, since), records or Records())

    async def doubt(self, directories: Collection[bytes]) -> None:
        """Write down that the target may hold anything in some directories."""
        store, doubts, now = self._keeping.kept, self.target.dirty.doubts, time.time()
        if store is not None and directories:
            since = min(doubts.get(path, now) for path in directories)
            changes = dict.fromkeys(directories, DOUBT)
            await self._keeping.access.apart(partial(store.hand_over, self.key, changes, since, deep=directories))

    async def before_renames(self, steps: Iterable[Step]) -> None:
        """Write down the places of what is about to be renamed at the target."""
        store = self._keeping.kept
        if store is not None:
            places = {path for step in steps for path in (step.source, step.target) if path}
            changes = dict.fromkeys(map(parent, places), ATTRIB) | dict.fromkeys(places, _WIDE)
            await self._keeping.access.apart(store.hand_over, self.key, changes, time.time())

    async def landed(self, outcome: Outcome) -> None:
        """Be told first how a batch went: its host may have something to say of itself."""
        if self.host is not None:
            await self.host.note(outcome)

    def after(self, handed: Handed, outcome: Outcome) -> None:
        """Take note of what became of it."""
        self._ledger.after(self, handed, outcome)

    async def narrowed(self, taken: Mapping[bytes, int], log: Log) -> Mapping[bytes, int]:
        """Return what has changed, with what differs from the index in place of the directories in doubt."""
        tops = {path for path, bits in taken.items() if bits & DOUBT and not bits & NAME} - self.target.distrusted
        if not tops or not self._keeping.complete or self._keeping.kept is None:
            return taken
        rows = await self.rows()
        open_ends = {row.path for row in rows if row.bits & _WIDE}
        tops = {top for top in tops if open_ends.isdisjoint((top, b"", *ancestors(top)))}
        if not tops:
            return taken
        found: dict[bytes, int] = {}
        looked = 0

        def over(seen: scan.Scanned) -> None:
            nonlocal looked
            looked = seen.entries

        try:
            async with aclosing(self._indexed.differences(tops, over)) as parts:
                async for part in parts:
                    for path, bits in part:
                        found[path] = found.get(path, 0) | bits
                    if len(found) > FORCED_LIMIT:
                        return taken
        except Unknown:
            return taken
        log.info(f"what changed unseen was looked for: {len(found)} of {looked} objects differ")
        for row in rows:
            if row.path in tops or any(is_below(row.path, top) for top in tops):
                found[row.path] = found.get(row.path, 0) | row.bits
        for path, bits in taken.items():
            if path not in tops:
                found[path] = found.get(path, 0) | bits
        return found

    def judge(self, landed: Sequence[Handed], seen: Mapping[bytes, int]) -> None:
        """Note what has changed again since something was handed over, or may have.

        `landed`: what is to be confirmed, the oldest first; `seen`: what the window holds.
        """
        dirty = self.target.dirty
        later = dict(seen)
        busy = dirty.paths() | seen.keys()
        wide = {path for path in busy if (dirty.bits_of(path) | seen.get(path, 0)) & _WIDE}

        def begin(changes: Mapping[bytes, int]) -> None:
            later.update({path: bits | later.get(path, 0) for path, bits in changes.items()} if later else changes)
            busy.update(changes)
            if any(bits & _WIDE for bits in {*changes.values()}):
                wide.update(path for path, bits in changes.items() if bits & _WIDE)

        for handed in self.flying:
            begin(handed.changes)
        for number, handed in reversed([*enumerate(landed)]):
            if busy:
                _judge(handed, busy, wide, lambda path: dirty.bits_of(path) | later.get(path, 0) or ATTRIB)
            if number:
                begin(handed.changes)


def _judge(handed: Handed, busy: Set[bytes], wide: Set[bytes], bits: Callable[[bytes], int]) -> None:
    """Note what of something handed over may have changed since: what is `busy`, or lies below what is `wide`."""
    again = handed.again
    for path in handed.seen.keys() & busy:
        del handed.seen[path]  # its row in the journal stays
    tops = {*handed.recorded, *handed.trees}
    if tops:
        for path in busy:
            if b"" in tops or not tops.isdisjoint((path, *ancestors(path))):
                again[path] = again.get(path, 0) | bits(path)
    above = _above({*handed.seen, *tops}) & wide if wide else set()
    if above:
        # Below something that may have changed as a whole nothing is sure: what was handed over stays dirty.
        for path in [path for path in handed.seen if not above.isdisjoint((b"", *ancestors(path)))]:
            del handed.seen[path]
        for path in [path for path in handed.trees if not above.isdisjoint((b"", *ancestors(path)))]:
            del handed.trees[path]
        handed.recorded = [p for p in handed.recorded if not p or above.isdisjoint((b"", *ancestors(p)))]


def _nobody() -> Handler:
    raise LookupError


def _above(paths: Iterable[bytes]) -> set[bytes]:
    """Return all directories above some paths."""
    found: set[bytes] = set()
    for path in paths:
        while path:
            path = parent(path)
            if path in found:
                break
            found.add(path)
    return found


def holds_top(rows: Collection[Dirty]) -> bool:
    """Tell whether everything is in doubt."""
    return any(not row.path and row.bits & DOUBT for row in rows)
