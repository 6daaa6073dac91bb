"""What the targets hold, kept on disk: the only module of the daemon that knows the state (decisions 27, 28, 33)."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from clsync.core import batch as flag
from clsync.core.batch import Batch, Outcome, Verdict
from clsync.core.changes import ATTRIB, DOUBT, NAME
from clsync.core.classify import CHANGE_SHIFT
from clsync.core.listing import YOUNG_NS, Signature, signature_of
from clsync.core.paths import ancestors, is_below, parent, shown
from clsync.core.rules import Rules
from clsync.daemon.log import Log
from clsync.daemon.resolve import FORCED_LIMIT, bits_of
from clsync.daemon.root import Directory
from clsync.daemon.source import Source
from clsync.daemon.target import Target
from clsync.errors import Exit, OperatorError
from clsync.kernel import roles
from clsync.kernel.durable import boot_id, flush_file_system
from clsync.kernel.walk import lstat_below
from clsync.state import index, scan
from clsync.state.store import Confirmed, Dirty, Store
from clsync.state.walker import Scope

_WIDE: Final = NAME | DOUBT
_AGE: Final = 0.05
"""Seconds after which what has landed is confirmed: no change of before carries the time of one since."""
_PATIENCE: Final = 0.5
"""Seconds that this waits for a moment at which nothing is collected."""
_AT_ONCE: Final = 4096
"""Paths confirmed in one transaction: who is about to hand over waits for it."""
_LISTED: Final = 50_000
"""Names below a directory that are looked at here; more of them by processes of their own."""
_NAME_BYTES: Final = 60
"""Of a listing, about."""
_FLUSH_EVERY: Final = 30.0
_FAR: Final = 1 << 62


class Unknown(Exception):
    """What differs cannot be told from the state."""


class Place(NamedTuple):
    """Where a state is kept."""

    directory: bytes
    asked: bool
    """Somebody has named it: there is no run without."""


class Kept(NamedTuple):
    """A state seen from outside."""

    directory: bytes
    complete: bool
    """All of the source is in it: the next start compares with it."""
    dirty: int
    """Paths that a target may not hold as it says."""
    unflushed: int
    """Paths that were confirmed, and would not be sure after a loss of power."""
    lost: str
    """Why it is no longer kept."""


@dataclass(eq=False)
class Handed:
    """What a handler was given, as it was before."""

    changes: dict[bytes, int]
    """Path -> change bits, as the journal has them."""
    since: float
    signatures: dict[bytes, Signature | None] = field(default_factory=dict)
    young: dict[bytes, Signature] = field(default_factory=dict)
    """Those of the paths that had changed a moment ago -> the signature they have if nothing happens since."""
    trees: dict[bytes, list[tuple[bytes, index.Parts]]] = field(default_factory=dict)
    recorded: list[bytes] = field(default_factory=list)
    """Directories that scans record."""
    again: dict[bytes, int] = field(default_factory=dict)
    """What the handler itself has named."""
    repeated: dict[bytes, int] = field(default_factory=dict)
    """What is to be handed over once more, by its own name."""
    landed: float = 0.0
    """Monotonic seconds."""


class Memory:
    """The state of one source with its targets."""

    def __init__(self, root: Directory, place: Place, one_file_system: int, log: Log) -> None:
        """`one_file_system`: see `state.walker.Scope`."""
        self.root, self._place, self._level, self._log = root, place, one_file_system, log
        self._scope = Scope(Rules(), one_file_system)
        self._store: Store | None = None
        self._identity = b""
        self.targets: list[TargetMemory] = []
        self.complete = False
        """The index knows the whole tree."""
        self._landed: list[tuple[TargetMemory, Handed]] = []
        self._recordings: dict[bytes, asyncio.Task[None]] = {}
        self._something = asyncio.Event()
        self._at_work: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self._flushed_at = time.monotonic()

    def attach(self, source: Source, lose_window: Callable[[], None], *, watched: bool) -> None:
        """Be told where changes come from; `lose_window` is called where they cannot be looked at.

        `watched`: they are named as they come.
        """
        self._source, self._lose_window, self._watched = source, lose_window, watched
        self.targets = [TargetMemory(self, target) for target in source.targets]

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
            target.key, target.local = key, local
        try:
            self._store = await asyncio.to_thread(self._opened)
        except OperatorError as error:
            if self._place.asked and not again:
                raise
            self._log.warning(f"{error.message}: this run keeps no state")
            return
        self.complete = any(not _holds_top(rows) for rows in [await target.rows() for target in self.targets])
        if self._watched:
            self._at_work = asyncio.create_task(self._work())

    def _opened(self) -> Store:
        """Return the state. Raises OperatorError."""
        where = f"the state in {shown(self._place.directory)}"
        try:
            store = Store.open(self._place.directory, self._identity, [t.key for t in self.targets], boot_id())
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from None
        if store.found:
            self._log.warning(f"{where} is set aside: {store.found}; everything is compared")
        hint = "the next start compares everything"
        store.on_lost = lambda why: self._log.error(f"{where} is no longer kept: {why}", hint)
        for target in self.targets:
            if target.local is not None and not _holds_anything(target.local):
                store.hand_over(target.key, {b"": DOUBT}, 0.0)
        return store

    def make_room(self) -> None:
        """Make the directory, for who clsync is about to become. Raises OperatorError."""
        try:
            os.makedirs(self._place.directory, 0o700, exist_ok=True)
            own = roles.own_ids()
            os.chown(self._place.directory, own.uid, own.gid)
        except OSError as error:
            if self._place.asked:
                raise self._unusable(error) from None

    def _unusable(self, error: Exception) -> OperatorError:
        return OperatorError(
            f"--state-dir: {shown(self._place.directory)} cannot be used: {error}",
            "name a directory that may be written, or none",
            Exit.FILES,
        )

    async def close(self, *, well: bool = False) -> None:
        """Note what has arrived, and keep the state no longer; `well`: wait until it is safe from loss of power."""
        if self._at_work is not None:
            self._at_work.cancel()
            await asyncio.wait((self._at_work,))
            self._at_work = None
        if self.kept is not None:
            if well:
                await self.recorded()
            if well and self._source.collector.monitor is None:
                await self._doubt_unseen()
            else:
                await self._confirm(patient=False)
            if well:
                await self._flush()
        for task in self._recordings.values():
            task.cancel()
        await asyncio.gather(*self._recordings.values(), return_exceptions=True)
        self._recordings.clear()
        self._landed.clear()
        self.complete = False
        if self._store is not None:
            await asyncio.to_thread(self._store.close)
            self._store = None

    def health(self) -> Kept | None:
        """Return how things stand; None where there is no state."""
        store = self._store
        if store is None:
            return None
        return Kept(self._place.directory, self.complete, store.journalled(), store.awaiting_flush(), store.lost)

    # -- scans -------------------------------------------------------------------------------------------------

    def _scanned(self, store: Store) -> scan.Source:
        return scan.Source(self.root.open, self._scope, store.path)

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
            async with aclosing(scan.compare(self._scanned(store), tops, over=over)) as found:
                async for part in found:
                    yield part
        except scan.ScanFailed as error:
            await asyncio.to_thread(store.give_up, str(error))
            raise Unknown from None
        except OSError as error:
            self._log.warning(f"the source cannot be compared with the state: {error}")
            raise Unknown from None

    async def unlike(self, paths: Collection[bytes]) -> set[bytes]:
        """Return those of some paths that look otherwise than the index says; a later ctime alone is no such thing."""
        store = self.kept
        return set() if store is None else await asyncio.to_thread(self._unlike, store, paths)

    def _unlike(self, store: Store, paths: Collection[bytes]) -> set[bytes]:
        noted = store.noted(paths)
        with self.root.opened() as root:
            look, found = lstat_below(root), set[bytes]()
            for path in paths:
                seen, known = look(path), noted.get(path)
                if seen is None or known is None or not signature_of(seen, _FAR).looks_like(known):
                    found.add(path)
        return found

    async def _begin_record(self, store: Store, top: bytes, since: float) -> None:
        old = self._recordings.pop(top, None)
        if old is not None:
            old.cancel()
            await asyncio.gather(old, return_exceptions=True)
        await asyncio.to_thread(store.begin_record, top, since)
        self._recordings[top] = asyncio.create_task(self._record(store, top))

    async def _record(self, store: Store, top: bytes) -> None:
        try:
            await scan.record(self._scanned(store), (top,))
        except scan.ScanFailed as error:
            await asyncio.to_thread(store.give_up, str(error))
        except OSError as error:
            await asyncio.to_thread(store.give_up, f"the source cannot be looked at: {error}")

    async def settled(self) -> None:
        """Wait until all that has arrived by now is noted."""
        await self.recorded()
        waiting = [handed for target in self.targets for handed in target.flying] + [one for _, one in self._landed]
        while self.kept is not None and any(
            handed in target.flying or any(one is handed for _, one in self._landed)
            for target in self.targets
            for handed in waiting
        ):
            await asyncio.sleep(_AGE)

    async def recorded(self) -> None:
        """Wait until no scan is at work."""
        await asyncio.gather(*self._recordings.values())

    # -- handing over ------------------------------------------------------------------------------------------

    async def before(
        self, target: TargetMemory, batch: Batch, taken: Mapping[bytes, int], since: float
    ) -> Handed | None:
        """Write down what a handler is about to be given, and what it is now; None where there is no state."""
        store = self.kept
        if store is None:
            return None
        handed = await asyncio.to_thread(self._noted, store, target.key, batch, taken, since)
        target.target.distrusted.difference_update(batch.entries)
        if batch.entries.get(b"", 0) & flag.RECURSIVE:
            handed.recorded.append(b"")
            if not await self._record_top(store, since, batch.initial):
                # What the handler finds may not be in the index, which was made before: it is to be confirmed by its name.
                handed.repeated = {path: bits for path, bits in taken.items() if path}
        elif len(self.targets) == 1:
            for top in [p for p, f in batch.entries.items() if f & flag.RECURSIVE and p not in handed.trees]:
                handed.recorded.append(top)
                await self._begin_record(store, top, since)
        target.flying.append(handed)
        return handed

    async def _record_top(self, store: Store, since: float, initial: bool) -> bool:
        """Record the whole tree, unless it is known; tell whether all that was taken is going to be seen by that."""
        if self.complete:
            return False
        at_work = self._recordings.get(b"")
        if at_work is not None and (initial or not at_work.done()):
            return False
        await self._begin_record(store, b"", since)
        if self._source.collector.monitor is None:
            await self._recordings[b""]  # what changes later shows (see `_doubt_unseen`)
        return True

    def _noted(self, store: Store, key: bytes, batch: Batch, taken: Mapping[bytes, int], since: float) -> Handed:
        entries, root = batch.entries, batch.root
        changes = {path: bits_of(flags) | (NAME if flags & flag.MISSING else 0) for path, flags in entries.items()}
        handed = Handed(changes, since)
        for path in taken.keys() - entries.keys():
            # Nothing stands below what is no directory, and its row of the journal is to go.
            if any(not entries.get(up, flag.DIRECTORY) & (flag.DIRECTORY | flag.MISSING) for up in ancestors(path)):
                handed.signatures[path] = None
        store.hand_over(key, changes, since)
        left, tops = _LISTED, set[bytes]()
        for path, flags in entries.items():
            if not flags & flag.RECURSIVE:
                continue
            tops.add(path)
            found = scan.listings(root, self._scope, path, left) if path and left > 0 else None
            if found is not None:
                handed.trees[path] = found
                left -= sum(len(part) for _, parts in found for _, part in parts) // _NAME_BYTES
        self._sign(handed, entries, tops, root)
        return handed

    def _sign(self, handed: Handed, entries: Mapping[bytes, int], tops: set[bytes], root: int) -> None:
        """Look at what is handed over by its own name, and at the directories in which names come or go."""
        look, rules = lstat_below(root), self._scope.rules
        above: set[bytes] = set()
        signatures, young = handed.signatures, handed.young
        young_ns = time.time_ns() - YOUNG_NS

        def sign(path: bytes) -> None:
            try:
                found = look(path)
            except OSError:
                return
            if found is None:
                signatures[path] = None
                return
            signature = signatures[path] = signature_of(found, young_ns)
            if found.st_ctime_ns >= young_ns:
                young[path] = signature_of(found, _FAR)
            if signature.is_dir and rules and not rules.sync(path, True):
                del signatures[path]

        for path, flags in entries.items():
            if tops and not tops.isdisjoint((path, *ancestors(path))):
                continue
            sign(path)
            if path and (flags & flag.MISSING or flags >> CHANGE_SHIFT & _WIDE):
                above.add(parent(path))
        for path in above - entries.keys():
            sign(path)
            if signatures.get(path) is None or not signatures[path].is_dir:  # type: ignore[union-attr]
                signatures.pop(path, None)
        for path in tops:
            if path and parent(path) not in signatures and parent(path) not in tops:
                sign(parent(path))

    def after(self, target: TargetMemory, handed: Handed, outcome: Outcome) -> None:
        """Take note of what became of it."""
        target.flying.remove(handed)
        if outcome.verdict is Verdict.UNWELL:
            return
        if outcome.spared:
            handed.recorded = [top for top in handed.recorded if top]  # the next start has to compare everything
        for path in (*outcome.failed, *outcome.again):
            handed.signatures.pop(path, None)
            handed.again[path] = handed.changes.get(path, 0) | ATTRIB | NAME
        handed.again |= handed.repeated
        target.target.dirty.add(((path, ATTRIB) for path in handed.repeated), handed.since)
        handed.landed = time.monotonic()
        self._landed.append((target, handed))
        self._something.set()

    # -- confirming --------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        """Confirm what has landed, and flush now and then."""
        try:
            await self._confirm_and_flush()
        except Exception as error:  # noqa: BLE001 - not even a defect here may end the daemon, or be trusted afterwards
            if self._store is not None:
                self._store.give_up(f"{type(error).__name__}: {error}")

    async def _confirm_and_flush(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(self._flushed_at + _FLUSH_EVERY - time.monotonic(), 0.0)):
                    await self._something.wait()
            if self._landed:
                await asyncio.sleep(_AGE)
                await self._confirm(patient=True)
            if not self._landed:
                self._something.clear()
            if time.monotonic() >= self._flushed_at + _FLUSH_EVERY:
                await self._flush()

    async def _confirm(self, *, patient: bool) -> None:
        """Confirm what has landed, by all that the monitor has said since; `patient`: when the time is good."""
        async with self._turn:
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
            works = self._judged(seen)
            self._landed.clear()
            finished = [top for top, task in self._recordings.items() if task.done()]
            for top in finished:
                self._recordings.pop(top).result()
            self.complete = self.complete or b"" in finished
            await asyncio.to_thread(self._write, store, works, before_ns)

    async def _doubt_unseen(self) -> None:
        """Confirm what has landed where nothing was watched meanwhile: what has changed since may be there as it was."""
        store = self.kept
        if store is None:
            return
        warm = [target for target in self.targets if await target.is_warm()]
        for target in warm:
            await asyncio.to_thread(store.hand_over, target.key, {b"": DOUBT}, time.time())
        await self._confirm(patient=False)
        found: dict[bytes, int] = {}
        try:
            async with aclosing(self.differences((b"",))) as parts:
                async for part in parts:
                    found |= {path: bits | DOUBT for path, bits in part}
        except Unknown:
            return
        for target in self.targets:
            rows = await target.rows()
            if target in warm or not _holds_top(rows):
                again = found | {row.path: row.bits for row in rows if row.path or not row.bits & DOUBT}
                await asyncio.to_thread(store.end_record, target.key, b"", again, time.time())

    def _judged(self, seen: Mapping[bytes, int]) -> list[tuple[TargetMemory, Handed]]:
        """Note of everything that has landed what has changed again since; return it, the oldest one first."""
        for target in self.targets:
            later: dict[bytes, int] = {}
            for handed in target.flying:
                later |= handed.changes
            for one, handed in reversed(self._landed):
                if one is target:
                    target.judge(handed, seen, later)
                    later |= handed.changes
        return list(self._landed)

    def _write(self, store: Store, works: Iterable[tuple[TargetMemory, Handed]], before_ns: int) -> None:
        try:
            root = self.root.open()
        except OSError:
            return
        try:
            for target, handed in works:
                for top in handed.recorded:
                    store.end_record(target.key, top, handed.again, handed.since)
                _ripen(handed, lstat_below(root), before_ns - YOUNG_NS)
                _confirm(store, target.key, handed)
        finally:
            self.root.close(root)

    # -- flushing ----------------------------------------------------------------------------------------------

    async def _flush(self) -> None:
        """Let everything that is confirmed survive a loss of power, as far as we can see to that."""
        self._flushed_at = time.monotonic()
        store = self.kept
        if store is None or not store.awaiting_flush():
            return
        with suppress(OSError):
            await asyncio.to_thread(self._flush_all, store)

    def _flush_all(self, store: Store) -> None:
        number = store.begin_flush()
        _flush(self.root.path)
        for target in self.targets:
            try:
                if target.local is not None:
                    _flush(target.local)
            except OSError:
                continue  # what was written there is not sure: it stays to be flushed
            store.flushed(target.key, number)


class TargetMemory:
    """What one target holds."""

    def __init__(self, memory: Memory, target: Target) -> None:
        """Be asked for a target of the memory."""
        self._memory, self.target = memory, target
        self.key = b""
        self.local: bytes | None = None
        self.flying: list[Handed] = []

    async def rows(self) -> list[Dirty]:
        """Return what the target may not hold as the index says."""
        store = self._memory.kept
        if store is None:
            return [Dirty(b"", DOUBT, 0.0)]
        return await asyncio.to_thread(store.dirty, self.key)

    async def is_warm(self) -> bool:
        """Tell whether it is known what the target holds, but for some paths."""
        return self._memory.complete and not _holds_top(await self.rows())

    async def known(self) -> int | None:
        """Return how many entries the target holds; None if it is not known what it holds."""
        store = self._memory.kept
        if store is None or not await self.is_warm():
            return None
        return await asyncio.to_thread(store.objects, (b"",))

    async def entries_below(self, directories: Sequence[bytes]) -> int:
        """Return how many entries the target holds below some directories, none of which lies below another."""
        store = self._memory.kept
        return 0 if store is None else await asyncio.to_thread(store.objects, directories)

    async def before(self, batch: Batch, taken: Mapping[bytes, int], since: float) -> Handed | None:
        """Write down what a handler is about to be given; None where there is no state.

        `taken`: what the batch was made of (path -> change bits); `since`: when that was (wall-clock seconds).
        """
        doubts = self.target.dirty.doubts
        oldest = min((doubts[path] for path in doubts.keys() & batch.entries.keys()), default=since)
        return await self._memory.before(self, batch, taken, min(oldest, since))

    def after(self, handed: Handed, outcome: Outcome) -> None:
        """Take note of what became of it."""
        self._memory.after(self, handed, outcome)

    async def narrowed(self, taken: Mapping[bytes, int], log: Log) -> Mapping[bytes, int]:
        """Return what has changed, with what differs from the index in place of the directories in doubt."""
        tops = {path for path, bits in taken.items() if bits & DOUBT and not bits & NAME} - self.target.distrusted
        if not tops or not self._memory.complete or self._memory.kept is None:
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
            async with aclosing(self._memory.differences(tops, over)) as parts:
                async for part in parts:
                    for path, bits in part:
                        found[path] = found.get(path, 0) | bits
                    if len(found) > FORCED_LIMIT:
                        return taken
        except Unknown:
            return taken
        log.info(f"what changed unseen was looked for: {len(found)} of {looked} objects differ")
        for row in rows:
            if any(is_below(row.path, top) for top in tops):
                found[row.path] = found.get(row.path, 0) | row.bits
        for path, bits in taken.items():
            if path not in tops:
                found[path] = found.get(path, 0) | bits
        return found

    def judge(self, handed: Handed, seen: Mapping[bytes, int], later: Mapping[bytes, int]) -> None:
        """Note what has changed again since something was handed over, or may have.

        `seen`: what the window holds; `later`: what was handed over since.
        """
        dirty = self.target.dirty
        busy = dirty.paths() | seen.keys() | later.keys()
        if not busy:
            return

        def bits(path: bytes) -> int:
            return dirty.bits_of(path) | seen.get(path, 0) | later.get(path, 0) or ATTRIB

        again = handed.again
        for path in handed.signatures.keys() & busy:
            again[path] = again.get(path, 0) | bits(path)
        tops = {*handed.recorded, *handed.trees}
        if tops:
            for path in busy:
                if b"" in tops or not tops.isdisjoint((path, *ancestors(path))):
                    again[path] = again.get(path, 0) | bits(path)
        above = _above({*handed.signatures, *tops})
        wide = {path for path in above & busy if bits(path) & _WIDE}
        if wide:
            # Below something that may have changed as a whole nothing is sure: what was handed over stays dirty.
            for path in [path for path in handed.signatures if not wide.isdisjoint((b"", *ancestors(path)))]:
                del handed.signatures[path]
            for path in [path for path in handed.trees if not wide.isdisjoint((b"", *ancestors(path)))]:
                del handed.trees[path]
            handed.recorded = [p for p in handed.recorded if not p or wide.isdisjoint((b"", *ancestors(p)))]


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


def _ripen(handed: Handed, look: Callable[[bytes], os.stat_result | None], young_ns: int) -> None:
    """Take for known what had changed a moment before it was handed over, and has not since."""
    for path, signature in handed.young.items():
        if path not in handed.signatures or path in handed.again:
            continue
        try:
            found = look(path)
        except OSError:
            continue
        if found is not None and signature_of(found, young_ns) == signature:
            handed.signatures[path] = signature


def _confirm(store: Store, key: bytes, handed: Handed) -> None:
    trees, again = handed.trees, handed.again
    paths = [*handed.signatures]
    for at in range(0, max(len(paths), 1), _AT_ONCE):
        part = {path: handed.signatures[path] for path in paths[at : at + _AT_ONCE]}
        store.confirm(key, Confirmed(part, trees, again))
        trees, again = {}, {path: again[path] for path in again.keys() & handed.signatures.keys()}


def _flush(path: bytes) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flush_file_system(directory)
    finally:
        os.close(directory)


def _holds_top(rows: Collection[Dirty]) -> bool:
    """Tell whether everything is in doubt."""
    return any(not row.path and row.bits & DOUBT for row in rows)


def _holds_anything(directory: bytes) -> bool:
    """Tell whether a directory has entries; True where it cannot be read now."""
    try:
        with os.scandir(directory) as entries:
            return next(entries, None) is not None
    except OSError:
        return True


def _digest(*parts: object) -> bytes:
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).digest()
