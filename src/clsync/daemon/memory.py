"""What the targets hold, kept on disk: the only module of the daemon that knows the state (decisions 27, 28, 33)."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from functools import partial
from itertools import chain, islice
from typing import Final, NamedTuple

from clsync.core import batch as flag
from clsync.core.batch import Batch, Outcome, Verdict
from clsync.core.changes import ATTRIB, CONTENT, DOUBT, NAME, OF_DIRECTORY
from clsync.core.classify import CHANGE_SHIFT, Stat
from clsync.core.listing import Records, as_young, is_directory, record_of, signature_of
from clsync.core.paths import ancestors, is_below, leads_out, parent, shown
from clsync.core.rules import Rules
from clsync.core.stamps import YOUNG_NS, is_settled
from clsync.daemon.holding import Handed, TargetMemory, Unknown, holds_top
from clsync.daemon.hosts import Host
from clsync.daemon.log import Log
from clsync.daemon.resolve import bits_of
from clsync.daemon.root import Directory
from clsync.daemon.source import Source
from clsync.daemon.stateaccess import SOURCE, StateAccess
from clsync.errors import Exit, OperatorError
from clsync.kernel.ops import Looks
from clsync.state import scan
from clsync.state.mark import Held, distrust
from clsync.state.room import Place
from clsync.state.store import Confirmed, Dirty, Store
from clsync.state.walker import Scope

_WIDE: Final = NAME | DOUBT
_TREE: Final = DOUBT | OF_DIRECTORY
"""Change bits of what is handed over with everything below."""
_AGE: Final = 0.05
"""Seconds after which what has landed is confirmed: no change of before carries the time of one since."""
_QUIET: Final = 1.0
"""Seconds without anything that lands or is collected, after which what has landed is confirmed."""
_LONGEST: Final = 60.0
"""Seconds after which it is confirmed anyway: each time, the listings of all directories concerned are written anew."""
_MANY: Final = 20_000
"""Names that are gathered before they are confirmed, or are soon."""
_PATIENCE: Final = 2.0
"""Seconds that this waits for a moment at which nothing is collected."""
_FEW: Final = 200
"""Paths that are written down without a thread."""
_AT_ONCE: Final = 16_384
"""Paths confirmed in one transaction: who is about to hand over waits for it."""
_LISTED: Final = 50_000
"""Names below a directory that are looked at here; more of them by processes of their own."""
_NAME_BYTES: Final = 60
"""Of a listing, about."""
_RECORD_PAUSES: Final = 0.5, 2.0, 0.0
"""Seconds between tries to record something: scanners may be killed, and the source go."""
_FLUSH_EVERY: Final = 30.0
_FIRST_FLUSH: Final = 10.0
"""Seconds from the start."""
_LAST_FLUSH: Final = 1.0
"""Seconds that the end of a run waits for a flush at most."""
_FAR: Final = 1 << 62
_STEP: Final = 0.005
"""Seconds that a clock may be set back without harm: something is young for longer than that."""
Look = Callable[[bytes], Stat | None]


class Kept(NamedTuple):
    """A state seen from outside."""

    directory: bytes
    dirty: int
    """Paths that a target may not hold as it says."""
    unflushed: int
    """Paths that were confirmed, and would not be sure after a loss of power."""
    trouble: str | None
    """Why the next start will compare everything; None: it will not."""


class Memory:
    """The state of one source with its targets."""

    def __init__(self, root: Directory, place: Place, access: StateAccess, one_file_system: int, log: Log) -> None:
        """`one_file_system`: see `state.walker.Scope`."""
        self.root, self._place, self._level, self.log = root, place, one_file_system, log
        self.access = access
        """For what may take rights, or time."""
        self._room = asyncio.Semaphore(scan.MOST)
        self._scope = Scope(Rules(), one_file_system)
        self._store: Store | None = None
        self._identity = b""
        self.clock = _clock_offset()
        """How far the wall clock was ahead when this began."""
        self.targets: list[TargetMemory] = []
        self.complete = False
        """The index knows the whole tree."""
        self._landed: list[tuple[TargetMemory, Handed]] = []
        self._recordings: dict[bytes, asyncio.Task[bool]] = {}
        self._standing = set[bytes]()
        """Directories that were recorded for one of several targets, and have not changed as a whole since."""
        self._unseen = False
        """Something has changed unseen anywhere, and nothing was recorded since."""
        self._something, self._hurry = asyncio.Event(), asyncio.Event()
        self._at_work: list[asyncio.Task[None]] = []
        self.turn, self._one_record = asyncio.Lock(), asyncio.Lock()

    def attach(
        self, source: Source, lose_window: Callable[[], None], *, watched: bool, wake: Callable[[], None]
    ) -> None:
        """Be told where changes come from; `lose_window` is called where they cannot be looked at.

        `watched`: they are named as they come. `wake` is called when there is more to hand over.
        """
        self._source, self._lose_window, self._watched, self.wake = source, lose_window, watched, wake
        source.named = self._named
        self.targets = [TargetMemory(self, target, number) for number, target in enumerate(source.targets)]

    # -- opening and closing -----------------------------------------------------------------------------------

    @property
    def kept(self) -> Store | None:
        """The state, as long as it is kept."""
        return self._store if self._store is not None and not self._store.lost else None

    async def use(self, rules: Rules, keys: Sequence[tuple[bytes, bytes | None]]) -> None:
        """Open the state for these rules and targets, unless it is: a key, and a local destination, for each.

        Raises OperatorError where there is none to be had, and somebody has asked for it.
        """
        identity = _digest(self.root.path, self.root.identity, rules.source_text, self._level)
        if identity == self._identity and [target.key for target in self.targets] == [key for key, _ in keys]:
            return
        again = self._store is not None
        await self.close()
        self._identity, self._scope = identity, Scope(rules, self._level)
        for target, (key, local) in zip(self.targets, keys, strict=True):
            target.key = key
            target.host = Host(self, target, self.log) if local is None else None
        self.access.follow([local for _, local in keys])
        empty = [target.key for target in self.targets if await self.access.is_empty(target.number)]
        try:
            self._store = await self.access.apart(self._opened, empty)
        except OperatorError as error:
            if self._place.asked and not again:
                raise
            self.log.warning(f"{error.message}: this run keeps no state")
            await self.access.apart(self._distrust)
            return
        self.complete = any(not holds_top(rows) for rows in [await target.rows() for target in self.targets])
        if self._watched:
            self._at_work += [asyncio.create_task(self._work(work)) for work in (self._confirm_all, self._flush_all)]

    def _opened(self, empty: Iterable[bytes]) -> Store:
        """Return the state; `empty`: targets that hold nothing. Raises OperatorError."""
        where, keys = f"the state in {shown(self._place.directory)}", [target.key for target in self.targets]
        try:
            store = Store.open(self._place.directory, self._identity, keys, self._place.boot)
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
            distrust(self._place.directory)

    def _unusable(self, error: Exception) -> OperatorError:
        return OperatorError(
            f"--state-dir: {shown(self._place.directory)} cannot be used: {error}",
            "name a directory that may be written, or none",
            Exit.FILES,
        )

    async def close(self, *, well: bool = False) -> None:
        """Note what has arrived, and keep the state no longer; `well`: wait for scans at work."""
        for task in self._at_work:
            task.cancel()
        await asyncio.gather(*self._at_work, return_exceptions=True)
        self._at_work.clear()
        if self.kept is not None:
            if well:
                await self.recorded()
            if well and not self._is_watched:
                await self._doubt_unseen()
            else:
                await self._confirm(patient=False)
            if well:
                await self._flush_in_time()
        async with self._one_record:
            for recording in self._recordings.values():
                recording.cancel()
            await asyncio.gather(*self._recordings.values(), return_exceptions=True)
            self._recordings.clear()
            store, self._store = self._store, None  # whoever waits begins no other one
        self._landed.clear()
        self._standing.clear()
        self.complete = self._unseen = False
        if store is not None:
            await self.access.apart(store.close)

    @property
    def _is_watched(self) -> bool:
        return self._source.collector.monitor is not None

    def health(self) -> Kept | None:
        """Return how things stand; None where there is no state."""
        store = self._store
        if store is None:
            return None
        trouble = store.lost or (None if self.complete else "not everything is in it yet")
        return Kept(self._place.directory, store.journalled(), store.awaiting_flush(), trouble)

    # -- scans -------------------------------------------------------------------------------------------------

    def _scanned(self, since: float = 0.0) -> scan.Source:
        scope = self._scope

        def start(mode: bytes) -> scan.Running:
            with self.root.opened() as root:
                return self.access.start(mode, root, scope, since)

        return scan.Source(start, self._room)

    async def differences(
        self, tops: Iterable[bytes], over: Callable[[scan.Scanned], None] = lambda seen: None
    ) -> AsyncGenerator[scan.Changes, None]:
        """Yield what differs from the index at and below directories; `over` is told how much there was to look at.

        Raises Unknown where that cannot be told.
        """
        store = self.kept
        if store is None or not self.complete:
            raise Unknown
        try:
            async with aclosing(scan.compare(self._scanned(), tops, over=over)) as found:
                async for part in found:
                    yield part
        except scan.ScanFailed as error:
            await self.access.apart(store.give_up, str(error))
            raise Unknown from None
        except OSError as error:
            self.log.warning(f"the source cannot be compared with the state: {error}")
            raise Unknown from None

    async def unlike(self, paths: Collection[bytes]) -> set[bytes]:
        """Return those of some paths that look otherwise than the index says; a later ctime alone is no such thing."""
        store = self.kept
        return set() if store is None else await self.access.apart(self._unlike, store, paths)

    def _unlike(self, store: Store, paths: Collection[bytes]) -> set[bytes]:
        noted = store.noted(paths)
        with self.root.opened() as root:
            found = set[bytes]()
            for path, look in looked_for(self.root.ops.looks(root), paths):
                seen, known = look(path), noted.get(path)
                if seen is None or known is None or not signature_of(seen, _FAR).looks_like(known):
                    found.add(path)
        return found

    async def gone(self, paths: Collection[bytes]) -> set[bytes]:
        """Return those of some paths at which nothing stands at the source, or nobody can look."""
        return await self.access.apart(self._gone, paths)

    def _gone(self, paths: Collection[bytes]) -> set[bytes]:
        found = set(paths)
        with suppress(OSError), self.root.opened() as root:
            for path, look in looked_for(self.root.ops.looks(root), paths):
                with suppress(OSError):
                    if look(path) is not None:
                        found.discard(path)
        return found

    async def gone_below(self, tops: Collection[bytes], root: int) -> list[bytes]:
        """Return what the index has below some directories and is not there any more, without what lies below that.

        `root`: the watched directory, open.
        """
        store, looks = self.kept, self.root.ops.looks(root)

        def modes(paths: Sequence[bytes]) -> Iterator[int | None]:
            for path, look in looked_for(looks, paths):
                try:
                    found = look(path)
                except OSError:
                    yield 0  # it is there, whatever it is
                else:
                    yield None if found is None else found.st_mode

        return [] if store is None or not tops else await self.access.apart(store.gone, tops, modes)

    async def _begin_record(self, store: Store, top: bytes, since: float) -> None:
        """Begin a scan, for one at a time who has `_one_record`; none where the state is kept no longer.

        And who has `turn`: what is being confirmed was judged by what was recorded until then.
        """
        old = self._recordings.pop(top, None)
        if old is not None:
            old.cancel()
            await asyncio.gather(old, return_exceptions=True)
        if self._store is store:
            await self.access.apart(store.begin_record, top, since)
            self._recordings[top] = asyncio.create_task(self._record(store, top, 0.0 if self._is_watched else since))

    async def _record(self, store: Store, top: bytes, since: float) -> bool:
        """Record what is at and below a directory; tell whether that is done. It is tried again where it cannot be."""
        for pause in _RECORD_PAUSES:
            try:
                await scan.record(self._scanned(since), (top,))
                return True
            except scan.ScanFailed as error:
                await self.access.apart(store.give_up, str(error))
                return False
            except OSError as error:
                self.log.debug(1, f"the state cannot be told what is in {shown(top or b'.')}: {error}")
            await asyncio.sleep(pause)
            await self.access.apart(store.begin_record, top, since)
        if not self._is_watched:
            await self.access.apart(store.give_up, "the source cannot be looked at")
        self._unseen = True
        return False

    async def settled(self) -> None:
        """Wait until all that has arrived by now is noted."""
        await self.recorded()
        waiting = [handed for target in self.targets for handed in target.flying] + [one for _, one in self._landed]
        while self.kept is not None and any(
            handed in target.flying or any(one is handed for _, one in self._landed)
            for target in self.targets
            for handed in waiting
        ):
            self._hurry.set()
            await asyncio.sleep(_AGE)

    async def recorded(self) -> None:
        """Wait until no scan is at work."""
        if self._recordings:
            await asyncio.wait({*self._recordings.values()})  # who ends one of them does not end us

    # -- handing over ------------------------------------------------------------------------------------------

    async def before(
        self, target: TargetMemory, batch: Batch, taken: Mapping[bytes, int], since: float, records: Records
    ) -> Handed | None:
        """Write down what a handler is about to be given, and what it is now; None where there is no state."""
        store = self.kept
        if store is None:
            return None
        noted = partial(self._noted, store, target.key, batch, taken, since, records)
        few = len(batch.entries) <= _FEW and not any(f & flag.RECURSIVE for f in batch.entries.values())
        calm = few and all(task.done() for task in self._recordings.values())
        # A thread costs more than a few paths do; here nothing may wait for a disk, or for others.
        prompt = calm and store.is_prompt(target.key, batch.entries, since)
        handed = noted() if prompt else await self.access.apart(noted)
        # What is compared with the target itself may be trusted afterwards; if nothing comes of it, it may not.
        compared = {p for p, f in batch.entries.items() if f & flag.RECURSIVE or not f & flag.DIRECTORY}
        handed.distrusted = target.target.distrusted & compared
        target.target.distrusted -= handed.distrusted
        if batch.entries.get(b"", 0) & flag.RECURSIVE:
            handed.recorded.append(b"")
            if not await self._record_top(store, target, since, batch.initial):
                # What the handler finds may not be in the index, which was made before: it is to be confirmed by its name.
                handed.repeated = await self._not_in_index(taken)
        else:
            unknown = dict[bytes, int]()
            for top in [p for p, f in batch.entries.items() if f & flag.RECURSIVE and p not in handed.trees]:
                handed.recorded.append(top)
                if not await self._record_below(store, top, since):
                    unknown = unknown or await self._not_in_index(taken)
                    handed.repeated |= {path: bits for path, bits in unknown.items() if is_below(path, top)}
        target.flying.append(handed)
        return handed

    async def _record_top(self, store: Store, target: TargetMemory, since: float, initial: bool) -> bool:
        """Record the whole tree, unless it is known; tell whether all that was taken is going to be seen by that."""
        async with self._one_record, self.turn:  # several targets begin at the same time
            at_work = self._recordings.get(b"")
            unknown = not self.complete and (at_work is None or (not initial and at_work.done()))
            begins = unknown or self._unseen
            if begins:
                was_known, self.complete, self._unseen = self.complete, False, False
                await self._begin_record(store, b"", since)
                # With the index it is forgotten what the others hold.
                for other in self.targets if was_known else ():
                    if other is not target:
                        other.target.dirty.add([(b"", DOUBT)], since)
                        self.wake()
        if not self._is_watched and not self._place.one_clock:
            await self.recorded()  # what changes later shows (see `_doubt_unseen`), whoever has begun it
        return begins

    async def _not_in_index(self, taken: Mapping[bytes, int]) -> dict[bytes, int]:
        """Return of what the index, as it is, may not say what it is: what was taken, and what some target may not hold."""
        rows = [row for target in self.targets for row in await target.rows()]
        found = {row.path: row.bits for row in rows}
        return {path: found.get(path, 0) | taken.get(path, 0) for path in found.keys() | taken.keys() if path}

    async def _record_below(self, store: Store, top: bytes, since: float) -> bool:
        """Record a directory, unless another target has let it be recorded as it is; tell whether that begins now."""
        async with self._one_record, self.turn:
            if top in self._standing:
                return False
            await self._begin_record(store, top, since)
            if len(self.targets) > 1:
                self._standing.add(top)
        return True

    def _named(self, paths: Collection[bytes], bits: int) -> None:
        """Be told what is dirty at all targets from now on."""
        if bits & DOUBT and b"" in paths:
            self._unseen = True
        if bits & _WIDE:
            for top in [top for top in self._standing if not {top, b"", *ancestors(top)}.isdisjoint(paths)]:
                self._standing.discard(top)

    def _noted(
        self,
        store: Store,
        key: bytes,
        batch: Batch,
        taken: Mapping[bytes, int],
        since: float,
        records: Records,
    ) -> Handed:
        entries, root = batch.entries, batch.root
        walker = self.access.walker(root, self._scope)
        unsure = {flags: _unsure(flags) for flags in {*entries.values()}}
        changes = dict(zip(entries, map(unsure.__getitem__, entries.values()), strict=True))
        handed = Handed(changes, since)
        deep = any(flags & flag.RECURSIVE for flags in unsure)
        tops = {path for path, flags in entries.items() if flags & flag.RECURSIVE} if deep else set[bytes]()
        store.hand_over(key, changes, since, deep=tops)
        left = _LISTED
        for path in sorted(tops):
            found = scan.listings(walker, path, left) if path and left > 0 else None
            if found is not None:
                handed.trees[path] = found
                left -= sum(len(part) for _, parts in found for _, part in parts) // _NAME_BYTES
        handed.listed = _LISTED - left
        self._sign(handed, entries, tops, root, records)
        for path in taken.keys() - entries.keys():
            # Nothing stands below what is no directory, and its row of the journal is to go.
            if any(not entries.get(up, flag.DIRECTORY) & (flag.DIRECTORY | flag.MISSING) for up in ancestors(path)):
                handed.seen[path] = None
        return handed

    def _sign(
        self, handed: Handed, entries: Mapping[bytes, int], tops: set[bytes], root: int, records: Records
    ) -> None:
        """Look at what is handed over by its own name, and at the directories in which names come or go."""
        rules, looks = self._scope.rules, self.root.ops.looks(root)
        young_ns = time.time_ns() - YOUNG_NS
        seen, young = handed.seen, handed.young = records.settled, records.young
        for path in seen.keys() - entries.keys():
            del seen[path]
        for path in young.keys() - entries.keys():
            del young[path]

        def sign(path: bytes, look: Look) -> None:
            try:
                found = look(path)
            except OSError:
                return
            if found is None:
                seen[path] = None
                return
            record = record_of(found, _FAR)
            if is_directory(record) and rules and not rules.sync(path, True):
                return
            if is_settled(found.st_ctime_ns, young_ns):
                seen[path] = record
            else:
                young[path] = record

        for path, look in looked_for(looks, entries.keys() - seen.keys() - young.keys()):
            sign(path, look)
        if tops:
            for path in [p for p in (*seen, *young) if not tops.isdisjoint((p, *ancestors(p)))]:
                seen.pop(path, None)
                young.pop(path, None)
        comes = {flags for flags in {*entries.values()} if flags & flag.MISSING or flags >> CHANGE_SHIFT & _WIDE}
        above = (
            {parent(path) for path, flags in entries.items() if flags in comes and path} if comes else set[bytes]()
        )
        above = {path for path in above - entries.keys() if tops.isdisjoint((path, *ancestors(path)))}
        for path, look in looked_for(looks, above):
            sign(path, look)
            record = seen.get(path) or young.get(path)
            if record is None or not is_directory(record):
                seen.pop(path, None)
                young.pop(path, None)
        seen |= {path: as_young(record) for path, record in young.items()}

    def after(self, target: TargetMemory, handed: Handed, outcome: Outcome) -> None:
        """Take note of what became of it."""
        target.flying.remove(handed)
        if outcome.verdict is Verdict.UNWELL:
            target.target.distrusted |= handed.distrusted
            return
        target.target.distrusted |= handed.distrusted & (outcome.failed.keys() | outcome.again)
        if outcome.spared:
            handed.recorded = [top for top in handed.recorded if top]  # the next start has to compare everything
        for path in (*outcome.failed, *outcome.again):
            handed.seen.pop(path, None)
            handed.again[path] = handed.changes.get(path, 0) | ATTRIB | NAME
        handed.again |= handed.repeated
        again = ((path, bits if bits & _TREE else ATTRIB) for path, bits in handed.repeated.items())
        target.target.dirty.add(again, handed.since)
        handed.landed = time.monotonic()
        self._landed.append((target, handed))
        self._something.set()
        if self._gathered_much():
            self._hurry.set()

    # -- confirming --------------------------------------------------------------------------------------------

    async def _work(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except Exception as error:  # noqa: BLE001 - not even a defect here may end the daemon, or be trusted afterwards
            if self._store is not None:
                self._store.give_up(f"{type(error).__name__}: {error}")

    async def _confirm_all(self) -> None:
        while True:
            await self._something.wait()
            # What is written again and again costs one record, not one each time; nor does a directory cost two listings.
            busy = _QUIET
            while not self._hurry.is_set() and busy > 0:
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._hurry.wait(), busy)
                busy = self._busy_for()
            await asyncio.sleep(_AGE)
            await self._confirm(patient=True)
            self._hurry.clear()
            if not self._landed:
                self._something.clear()

    def _busy_for(self) -> float:
        """Return for how many seconds what has landed is not to be confirmed, unless somebody waits for that."""
        if not self._landed:
            return 0.0
        now = time.monotonic()
        soon = self._gathered_much() or any(handed.recorded for _, handed in self._landed)  # the index is to be whole
        rest = self._landed[0][1].landed + (_PATIENCE if soon else _LONGEST) - now
        quiet = _QUIET if self._source.collector.due() is not None else self._landed[-1][1].landed + _QUIET - now
        return min(rest, quiet)

    def _gathered_much(self) -> bool:
        return sum(len(handed.seen) + handed.listed for _, handed in self._landed) > _MANY

    async def _flush_all(self) -> None:
        await asyncio.sleep(_FIRST_FLUSH)
        while True:
            await self._flush()
            if self.kept is not None:
                await self.access.apart(self.kept.shorten_log)
            await asyncio.sleep(_FLUSH_EVERY)

    async def _confirm(self, *, patient: bool) -> None:
        """Confirm what has landed, by all that the monitor has said since; `patient`: when the time is good."""
        async with self.turn:
            store, collector = self.kept, self._source.collector
            if store is None:
                self._landed.clear()
                return
            if any(not task.done() for task in self._recordings.values()) or (
                any(handed.recorded for _, handed in self._landed) and self._source.search.catching_up
            ):
                return
            before_ns = time.time_ns()
            await collector.catch_up()
            waited = time.monotonic() - self._landed[0][1].landed if self._landed else 0.0
            if patient and collector.due() is not None and waited < _PATIENCE:
                return  # it is handed over soon, and then nobody has to look at it
            try:
                seen = await collector.look()
            except OSError:
                self._lose_window()
                return
            if not collector.seen_whole:
                return
            # Nothing may happen until it is known what has changed again.
            works = [work for work in self._judged(seen) if work[1].counts]
            self._landed.clear()
            ended = {top: task for top, task in self._recordings.items() if task.done()}
            for top, task in ended.items():
                del self._recordings[top]
                if not task.result():
                    for handed in chain((one for _, one in works), *(target.flying for target in self.targets)):
                        handed.recorded = [one for one in handed.recorded if one != top]  # it stays in doubt
                elif not top:
                    self.complete = True
            await self.access.apart(self._write, store, works, before_ns)

    async def lose(self, target: TargetMemory, find: Callable[[Store], list[Dirty]]) -> int:
        """Let be handed over again what a target may have lost: what `find` returns, and what is not confirmed yet.

        Return how many paths that are.
        """
        async with self.turn:
            store = self.kept
            if store is None:
                return 0
            lost = await self.access.apart(find, store)
            for row in lost:
                target.target.dirty.add(((row.path, row.bits),), row.since)
            again = dict[bytes, int]()
            for handed in [handed for one, handed in self._landed if one is target]:
                handed.forget()
                again |= handed.changes
                target.target.dirty.add(handed.changes.items(), handed.since)
        self.wake()
        return len({*again, *(row.path for row in lost)})

    async def _doubt_unseen(self) -> None:
        """Confirm what has landed where nothing was watched meanwhile: what has changed since may be there as it was.

        What has changed since the run began is known by its ctime. A clock that was set back would hide it.
        """
        store = self.kept
        if store is None:
            return
        if _clock_offset() < self.clock - _STEP:
            await self.access.apart(store.give_up, "the clock was set back meanwhile, and nothing was watched")
            return
        warm = [target for target in self.targets if await target.is_warm()]
        for target in warm:
            await self.access.apart(partial(store.hand_over, target.key, {b"": DOUBT}, time.time(), deep=(b"",)))
        await self._confirm(patient=False)
        if not self.complete:
            return
        try:
            altered = await self.access.apart(self._altered, store)
        except OSError:
            return  # the next start compares everything
        found = dict.fromkeys(altered, ATTRIB | DOUBT)
        for target in self.targets:
            rows = await target.rows()
            if target in warm or not holds_top(rows):
                again = found | {row.path: row.bits for row in rows if row.path or not row.bits & DOUBT}
                await self.access.apart(store.end_record, target.key, b"", again, time.time())

    def _altered(self, store: Store) -> list[bytes]:
        """Return the directories in which names came or went since they were recorded. Raises OSError.

        Another file, or a file that is another one, shows by itself at the next start.
        """
        with self.root.opened() as root:
            looks = self.root.ops.looks(root)

            def record(paths: Sequence[bytes]) -> Iterator[bytes | None]:
                for path, look in looked_for(looks, paths):
                    try:
                        found = look(path)
                    except OSError:
                        found = None
                    # Unlike all that was young when it was recorded.
                    yield None if found is None else record_of(found, _FAR)

            return store.altered(record)

    def _judged(self, seen: Mapping[bytes, int]) -> list[tuple[TargetMemory, Handed]]:
        """Note of everything that has landed what has changed again since; return it, the oldest one first."""
        for target in self.targets:
            target.judge([handed for one, handed in self._landed if one is target], seen)
        return list(self._landed)

    def _write(self, store: Store, works: Iterable[tuple[TargetMemory, Handed]], before_ns: int) -> None:
        # Where it has gone, what is dirty stays dirty: everything will be compared.
        with suppress(OSError), self.root.opened() as root:
            waiting: list[tuple[bytes, Confirmed]] = []
            for target, handed in _together(works):
                if handed.recorded:
                    _confirm(store, waiting)
                    for top in handed.recorded:
                        store.end_record(target.key, top, handed.again, handed.since)
                _ripen(handed, self.root.ops.looks(root), before_ns - YOUNG_NS)
                waiting.append((target.key, Confirmed(handed.seen, handed.trees, handed.again)))
            _confirm(store, waiting)

    # -- flushing ----------------------------------------------------------------------------------------------

    async def _flush_in_time(self) -> None:
        """Flush at the end of a run, unless that takes long: then the next run of this boot makes up for it."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._flush(), _LAST_FLUSH)

    async def _flush(self) -> None:
        """Let everything that is confirmed survive a loss of power, as far as we can see to that."""
        store = self.kept
        if store is None or not store.awaiting_flush():
            return
        number = await self.access.apart(store.begin_flush)
        waiting = [target for target in self.targets if store.awaiting_flush(target.key)]
        async with asyncio.TaskGroup() as side_by_side:  # none waits for another
            source = side_by_side.create_task(self.access.flush(SOURCE))
            for target in waiting:
                side_by_side.create_task(self._flush_target(store, target, number, source))

    async def _flush_target(
        self, store: Store, target: TargetMemory, number: int, source: asyncio.Task[bool]
    ) -> None:
        if target.host is not None:
            number = await target.host.flushed(number)
        elif not await self.access.flush(target.number):
            return
        if number and await source:
            await self.access.apart(store.flushed, target.key, number)


def _clock_offset() -> float:
    """Return how far (seconds) the wall clock is ahead of the one that nobody can set."""
    # Who has to wait between two looks sees less.
    return max(time.time() - time.monotonic() for _ in range(5))


def looked_for(looks: Looks, paths: Iterable[bytes]) -> Iterator[tuple[bytes, Look]]:
    """Yield paths with what looks at them; who looks is told in good time what is asked for."""
    left = iter(paths)
    while part := list(islice(left, looks.at_once)):
        looks.expect(part)
        for path in part:
            yield path, looks.lstat


def _ripen(handed: Handed, looks: Looks, young_ns: int) -> None:
    """Take for known what had changed a moment before it was handed over, and has not since."""
    for path, look in looked_for(looks, handed.young.keys() & handed.seen.keys()):
        try:
            found = look(path)
        except OSError:
            continue
        if found is not None and record_of(found, young_ns) == handed.young[path]:
            handed.seen[path] = handed.young[path]


def _together(works: Iterable[tuple[TargetMemory, Handed]]) -> list[tuple[TargetMemory, Handed]]:
    """Let paths by their own names that were handed over one after the other be one: a directory is then written once.

    What was handed over again, or lies below something that was, is only in the later one (`TargetMemory.judge`).
    """
    found: list[tuple[TargetMemory, Handed]] = []
    for target, handed in works:
        if found and found[-1][0] is target and found[-1][1].plain and handed.plain:
            found[-1][1].seen |= handed.seen
            found[-1][1].young |= handed.young
        else:
            found.append((target, handed))
    return found


def _confirm(store: Store, works: list[tuple[bytes, Confirmed]]) -> None:
    """Confirm everything, so much at once that nobody waits for long; leave nothing to be confirmed."""
    part, count = list[tuple[bytes, Confirmed]](), 0
    for key, (seen, trees, again) in works:
        paths = [*seen]
        for at in range(0, max(len(paths), 1), _AT_ONCE):
            chosen = seen if len(paths) <= _AT_ONCE else {path: seen[path] for path in paths[at : at + _AT_ONCE]}
            part.append((key, Confirmed(chosen, trees, again)))
            trees, again, count = {}, {}, count + len(chosen)
            if count >= _AT_ONCE:
                store.confirm_all(part)
                part, count = [], 0
    if part:
        store.confirm_all(part)
    works.clear()


def _digest(*parts: object) -> bytes:
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).digest()


def _unsure(flags: int) -> int:
    """Return what may be different at a target when an entry was given to a handler, and nobody knows what came of it."""
    if flags & flag.DIRECTORY:
        return bits_of(flags)
    # It may be there in another version of the same size and mtime, or be no file at all.
    return bits_of(flags) | (NAME | CONTENT if flags & flag.MISSING else CONTENT)
