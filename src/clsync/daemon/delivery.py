"""From what is dirty to what has arrived: batches are made one after the other, and handed over, perhaps side by side."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from clsync.core import batch as flag
from clsync.core.batch import Batch, Outcome, Verdict
from clsync.core.changes import DOUBT, NAME, UNMOUNTED
from clsync.core.classify import CHANGE_SHIFT, Freshness
from clsync.core.listing import Records
from clsync.core.moves import Move, Step
from clsync.core.paths import ancestors, shown
from clsync.core.rules import Rules
from clsync.core.stamps import YOUNG_NS
from clsync.daemon import renames
from clsync.daemon.crew import Crew
from clsync.daemon.dump import FlightState, State
from clsync.daemon.log import Log
from clsync.daemon.parts import Outlet, Parts
from clsync.daemon.resolve import Resolved, Resolver
from clsync.daemon.source import Source
from clsync.daemon.target import Target
from clsync.daemon.traffic import Traffic
from clsync.daemon.withheld import Withheld
from clsync.handler.base import Renamed, Renames
from clsync.kernel.ops import Looks
from clsync.kernel.slices import in_parts, in_slices
from clsync.kernel.walk import straight

if TYPE_CHECKING:
    from clsync.daemon.holding import TargetMemory

_TOLD = ("initsync", "synchandler error", "lastsync")
"""Phases that handlers are told of; all others are `running` to them."""


_REPLACES = flag.MISSING | flag.RECURSIVE
"""What stood below such an entry is known no more."""
Slots = tuple[asyncio.Semaphore, asyncio.Semaphore]


@dataclass(eq=False)
class Flight:
    """A batch on its way to the target."""

    number: int
    taken: dict[bytes, int]
    """What it was made of: path -> change bits."""
    resolved: Resolved
    root: int
    """Descriptor of the watched root; closed when the flight ends."""
    started: float
    """Monotonic seconds."""
    since: float
    """The same moment, wall clock."""
    initial: bool
    landed: Callable[[Outcome], None] = lambda outcome: None
    """To be told the outcome when it is known what is dirty again."""


class Delivery:
    """Hands over what is dirty at one target, until it is confirmed."""

    def __init__(
        self,
        source: Source,
        log: Log,
        outlet: Outlet,
        crew: Crew,
        *,
        one_file_system: int,
        slots: Slots,
        phase: Callable[[], str],
        stopped: Callable[[], bool],
        arrived: Callable[[Delivery, Outcome], None],
        wake: Callable[[], None],
    ) -> None:
        """`slots`: how many batches may be on their way, of all targets, and of those that may hang.

        `phase` says what handlers are told, `stopped` whether nothing is handed over any more. `arrived` is told the
        outcome of each batch that a handler was given. `wake` is called when there may be more.
        """
        self._source, self._log = source, log
        self._slots = slots
        self._phase, self._stopped, self._arrived, self._wake = phase, stopped, arrived, wake
        self.target = Target(log, outlet.name)
        source.targets.append(self.target)
        self._one_file_system = one_file_system
        self._resolver = Resolver(source.links, source.searches, source.root.ops, one_file_system=one_file_system)
        self.paused = False
        """Nothing is handed over until somebody lets it go on."""
        self.initial_over = False
        """Everything was compared once."""
        self.compared_since = time.time()
        """What has changed since then may not be at the target, whatever its size and mtime (wall clock)."""
        self.warm = False
        """What differs is being handed over, and that is instead of comparing everything."""
        self.given: set[bytes] = set()
        """What has been handed over meanwhile."""
        self.landing = asyncio.Event()
        """Set when a batch has landed."""
        self.memory: TargetMemory | None = None
        """What the target holds; None where nothing is kept of it."""
        self.withheld = Withheld(self.target, log)
        self.asked = False
        """Somebody at the terminal was asked what to do with it."""
        self.is_new = False
        """It was not known what the target holds when everything was compared."""
        self.inferred: set[bytes] = set()
        """What memory says is gone or new: nobody saw it happen."""
        self.extra: dict[bytes, int] = {}
        """What a comparison found at the target alone -> how many entries that is."""
        self.watchers: list[dict[bytes, int]] = []
        """Whom to tell what is handed over: path -> flags."""
        self.glues: bytes | None = None
        """A destination at which the initial sync may leave files hanging together (see `handler.base.Handler`)."""
        self.hurry = False
        """The next batch does not wait for the delays."""
        self.number = 0
        """Batches that were handed over."""
        self.answered = 0
        """Those of them that the target has dealt with, well or not."""
        self.confirmed = 0
        """Those that went well."""
        self.last_sync: float | None = None
        """When the last batch was confirmed (wall-clock seconds)."""
        self.in_air: dict[int, FlightState] = {}
        """What handlers are at work on, by the number of the batch."""
        self._flights: set[asyncio.Task[None]] = set()
        self._traffic = Traffic(self.target.dirty)
        self._last_end_ns = time.time_ns()
        self._last: renames.Arrival | None = None
        self._fresh_after = 0
        self._earliest = 0.0
        """No batch before that (monotonic seconds)."""
        self._gap = 0.0
        self.outlet, self.crew = outlet, crew

    def use(self, parts: Parts, outlet: Outlet, crew: Crew) -> None:
        """Go by these parts from now on; no batch is in flight."""
        self.outlet, self.crew, self._gap = outlet, crew, parts.gap
        self.target.moves.forget()
        self.withheld.brake, self.withheld.trusted = outlet.brake, outlet.trusted
        self.target.name = outlet.name
        self._resolver.big, self._resolver.signatures = parts.big, outlet.signatures
        self.target.big_delay, self.target.big_longest = parts.big_delay, parts.big_longest
        self.use_rules(parts.rules)

    def use_rules(self, rules: Rules) -> None:
        """Go by these rules from now on; no batch is in flight."""
        self._resolver.rules = rules if rules else None
        self.crew.set_rules(rules)

    async def hand_over(self, root: int) -> bool | None:
        """Make one batch and hand it over: True if all is confirmed or on its way, False if some, None if nothing is.

        `root`: descriptor of the watched directory, which is closed here. Raises OSError, and then what the window held
        is lost.
        """
        flight = None
        try:
            flight = await self._prepared(root)
        finally:
            if flight is None:
                self._source.root.close(root)
        if flight is None:
            return True
        beside = self._source.shared or (self.outlet.overlap != "off" and not flight.initial)
        if not beside or not flight.resolved.entries:
            return await self._fly(flight)
        await self._traffic.begin(flight.resolved.entries)
        task = asyncio.create_task(self._fly_beside_others(flight))
        self._flights.add(task)
        task.add_done_callback(lambda _: self._wake())
        return True

    async def _fly_beside_others(self, flight: Flight) -> None:
        try:
            await self._fly(flight)
        finally:
            await self._traffic.land(flight.resolved.entries)
            self._wake()

    def reap(self) -> None:
        """Forget the flights that have ended. Raises what ended one that should not have ended so."""
        for task in [task for task in self._flights if task.done()]:
            self._flights.remove(task)
            task.result()

    @property
    def busy(self) -> bool:
        """Whether no batch can be made now, because of those on their way.

        What waits for them and stands for much (everything, a new directory) would never have its turn, if others that
        come later did not wait for it.
        """
        if self._traffic.standing or (self._traffic.much_waits and self.outlet.overlap == "safe"):
            return True
        return max(self.crew.at_work, sum(not task.done() for task in self._flights)) >= self.crew.limit

    async def landed(self) -> None:
        """Wait until no batch is in flight."""
        while self._flights:
            done, self._flights = await asyncio.wait(self._flights)
            for task in done:
                task.result()

    async def _prepared(self, root: int) -> Flight | None:
        """Make a batch of what is ready; None if nothing is. Raises OSError."""
        self.reap()
        now, since = time.monotonic(), time.time()
        initial, dirty = self._compares_all, self.target.dirty
        if initial:
            # What has changed meanwhile comes after it: sizes and times alone do not tell all of that.
            taken, ripe = dirty.take((b"",)), set[bytes]()
        else:
            ripe = dirty.ripen(now)
            looks = self._source.root.ops.looks(root)
            looks.expect(ripe)
            ripe = ripe - self.target.growing(ripe, partial(_written, looks), since) | self._traffic.ripe()
            self._note_freshness()
            await self._source.take(now, self.target)
            taken = dirty.take()
        if not taken:
            return None
        try:
            renamed = await self._rename(taken, root)
            resolved = await self._resolved(taken, ripe, root, initial, renamed)
        except BaseException:
            dirty.abort(taken)
            raise
        if resolved.entries:
            self.number += 1
            self._earliest = now + self._gap
        return Flight(self.number, taken, resolved, root, now, since, initial)

    def accept(self) -> bool:
        """Let what was held back be deleted with the next batch; tell whether there is anything."""
        changes = self.withheld.accept()
        self.inferred.difference_update(path for path, _ in changes)
        self.target.distrusted.update(path for path, _ in changes)
        self.target.dirty.add(changes, time.time())
        self.hurry = self.hurry or bool(changes)
        return bool(changes)

    def mend(self, changes: Mapping[bytes, int], extra: Mapping[bytes, int]) -> None:
        """Let paths be handed over that differ though nothing has changed (path -> change bits).

        `extra`: those of them that are there alone -> how many entries that is.
        """
        if self.outlet.signatures is not None:
            self.outlet.signatures.forget(changes)
        self.extra |= extra
        self.inferred.update(extra)
        self.target.dirty.add(changes.items(), time.time())
        self.hurry = True
        self._wake()

    def other_names(self, paths: Iterable[bytes]) -> set[bytes]:
        """Return the names that are known to stand for the same files as some paths: what is written is theirs as well."""
        found = (self._source.links.siblings(path) for path in paths)
        return {name for siblings in found if siblings is not None for name in siblings[1]}

    @property
    def _compares_all(self) -> bool:
        """Whether the next batch is to be everything."""
        return not self.initial_over and not self.warm

    def _note_freshness(self) -> None:
        """Note after which time an mtime proves that a file was not sent yet (see `Freshness`)."""
        # What is taken in several parts was not sent since the first of them; others may take parts in between.
        if self._source.shared or not self._source.collector.half_taken:
            self._fresh_after = self._last_end_ns + YOUNG_NS + self.crew.first.coarse_ns

    def due_at(self, hurry: bool) -> float | None:
        """Return when (monotonic seconds) the next batch is to be made; None: not before something happens.

        `hurry`: without the delays.
        """
        if self.busy or self.paused:
            return None
        if self._compares_all:
            return self.target.next_at(0.0, hurry=True)
        hurry = hurry or self.hurry or self.warm
        earliest = max(self._earliest, self._source.collector.window.earliest())
        times = [self.target.next_at(earliest, hurry)]
        due = self._source.collector.due()
        if due is not None:
            times.append(max(0.0 if hurry else due, 0.0 if hurry else self._earliest, self.target.unwell_until))
        return min((at for at in times if at is not None), default=None)

    async def _rename(self, taken: dict[bytes, int], root: int) -> Collection[bytes]:
        """Rename at the target what was renamed here; return what the batch only has to make sure of."""
        moves, handler = self.target.moves.take(), self.crew.first
        unknown = not self.initial_over or taken.get(b"", 0) & (NAME | DOUBT)
        alone = self.outlet.overlap == "off" and all(task.done() for task in self._flights)
        whole = not (self._one_file_system or self._source.collector.half_taken or self.outlet.signatures is not None)
        if not moves or unknown or not (alone and whole) or self._stopped() or not isinstance(handler, Renames):
            return ()
        dealt = renames.overtaken(moves, self._last)

        def sure(move: Move) -> bool:
            return self.target.moves.sure(move) and not renames.lies_in(move, dealt)

        source = renames.Source(self._source.root.ops.looks(root), self._resolver.rules)
        carrier = handler if self.memory is None else _WrittenDown(handler, self.memory)
        renamed = await renames.carry_out(moves, sure, carrier, source, taken)
        self.target.distrusted.update(renamed)
        whole_tree = flag.DIRECTORY | flag.RECURSIVE | flag.FORCE
        for watcher in self.watchers:
            watcher.update((path, whole_tree if is_dir else flag.REGULAR) for path, is_dir in renamed.items())
        doubts, since = self.target.dirty.doubts, self.target.moves.since
        for path in (path for path, is_dir in renamed.items() if is_dir):
            doubts[path] = min(since, doubts.get(path, since))
        if renamed:
            self._log.debug(1, f"renamed at {self.target.called}: {', '.join(map(shown, sorted(renamed)[:20]))}")
        return renamed

    async def _resolved(
        self, taken: dict[bytes, int], ripe: set[bytes], root: int, initial: bool, renamed: Collection[bytes]
    ) -> Resolved:
        """Find out what is to be handed over now. Raises OSError."""
        if initial:
            everything = flag.DIRECTORY | flag.RECURSIVE | DOUBT << CHANGE_SHIFT
            return Resolved({b"": everything}, 0, [b""])
        # Beside other batches, no time proves that a version was not sent.
        alone = self.outlet.overlap == "off"
        freshness = Freshness(self._fresh_after, time.time_ns()) if alone else Freshness(0, 0)
        doubts = self.target.dirty.doubts
        changes = taken if self.memory is None else await self.memory.narrowed(taken, self._log)
        if changes is not taken:
            for path in (path for path, bits in taken.items() if bits & DOUBT and not changes.get(path, 0) & DOUBT):
                self.withheld.seen_below(path)  # what is gone still is among the changes
            self.inferred.update(p for p, bits in changes.items() if bits & NAME and not taken.get(p, 0) & NAME)
        changes = self._counted(changes)
        records = None if self.memory is None else Records()
        resolved = await self._resolver.resolve(
            changes, root=root, freshness=freshness, doubts=doubts, ripe=ripe, renamed=renamed, records=records
        )
        await self._withhold(resolved, root)
        if any(bits & (NAME | DOUBT) for bits in set(taken.values())):
            self._source.search.note_new_names()
        async for file, names in in_slices(resolved.linked.items()):
            self._source.collector.watch_file(next(iter(names)), file)
        self._source.tell_others(self.target, resolved)
        safe, shares = self.outlet.overlap == "safe", self.crew.first.trusts_times
        await self._traffic.set_apart(resolved, ripe, safe=safe, shares=shares)
        return resolved

    def _counted(self, changes: Mapping[bytes, int]) -> Mapping[bytes, int]:
        """Return what has changed, with everything where something was unmounted and memory does not say what was there.

        Who compares everything counts what he would delete (see `_most_deletions`): a mount point without its file
        system is an empty directory.
        """
        if self.withheld.brake is None or not any(bits & UNMOUNTED for bits in {*changes.values()}):
            return changes
        doubts = self.target.dirty.doubts
        unmounted = (path for path, bits in changes.items() if bits & UNMOUNTED)
        doubts[b""] = min((time.time(), *(doubts[path] for path in (b"", *unmounted) if path in doubts)))
        return {**changes, b"": changes.get(b"", 0) | DOUBT}

    async def _withhold(self, resolved: Resolved, root: int) -> None:
        """Leave out what memory, or a comparison, says is gone, if it is too much for that. Raises OSError."""
        entries, memory = resolved.entries, self.memory
        gone = [p for p, f in entries.items() if f & flag.MISSING and p in self.inferred] if self.inferred else []
        hidden = {} if memory is None else await self._hidden(entries, memory, root)
        if memory is not None:
            # What had arrived and was not confirmed is among it as well: there it is no deletion any more.
            counted = [*gone, *chain.from_iterable(hidden.values())]
            gone = await memory.still_holds(counted)
            self.withheld.seen({*counted}.difference(gone))
        self.withheld.seen(entries.keys() - gone)
        if gone and await self._too_many(gone):
            for path in gone:
                entries.pop(path, None)
            await self._list(hidden, resolved, root)
        free = self.withheld.handed_over(resolved.entries)
        self.target.distrusted.update(free)
        self.target.dirty.add([(path, DOUBT) for path in free], time.time())
        self.withheld.tell()

    async def _list(self, directories: Collection[bytes], resolved: Resolved, root: int) -> None:
        """Hand over name by name what is in directories; they stay in doubt. Raises OSError."""
        self.withheld.note_listed(directories)
        if self.memory is not None:
            await self.memory.doubt(directories)
        for directory in directories:
            await self._resolver.spread(directory, resolved, root)

    async def _too_many(self, gone: Sequence[bytes]) -> bool:
        """Tell whether so much may not go without a word; if so, it is noted."""
        all_gone = {*gone}
        tops = [path for path in gone if all_gone.isdisjoint(ancestors(path))]  # what is below one goes with it
        count, known = sum(self.extra.get(path, 1) for path in tops), None
        for path in gone:
            self.extra.pop(path, None)
        if self.memory is not None:
            count += await self.memory.entries_below(tops)
            known = await self.memory.known()
        return self.withheld.too_many(gone, max(count, len(gone)), known)

    async def _hidden(
        self, entries: Mapping[bytes, int], memory: TargetMemory, root: int
    ) -> dict[bytes, list[bytes]]:
        """Return what would be deleted in directories that are others than they were, and that nobody saw going.

        Such a one is handed over with all that is below it: a mount point without its file system would empty the target.
        """
        deep = {path for path, flags in entries.items() if path and flags & flag.RECURSIVE}
        held = self.withheld.around() if deep else set[bytes]()
        agreed = self.withheld.agreed & entries.keys()
        deep = {path for path in deep if agreed.isdisjoint((path, *ancestors(path)))}
        if not self.warm:
            deep &= self.inferred | held
        tops = [path for path in deep if deep.isdisjoint(ancestors(path))]
        for path in held.intersection(tops):
            self.withheld.seen_below(path)
        found: dict[bytes, list[bytes]] = {}
        for path in await memory.gone_below(tops, root):
            found.setdefault(next(up for up in ancestors(path) if up in deep), []).append(path)
        return found

    async def _most_deletions(self, entries: Mapping[bytes, int]) -> int | None:
        """Return how much may be deleted by comparing everything; None: any number, or that is not what is done."""
        if not entries.get(b"", 0) & flag.RECURSIVE:
            return None
        known = None if self.memory is None else await self.memory.known()
        self.is_new = known is None
        return self.withheld.most(known)

    async def _fly(self, flight: Flight) -> bool | None:
        """Hand a batch over, and take note of what became of it."""
        resolved = flight.resolved
        try:
            outcome = await self._handed(flight)
            await self._sign(flight, outcome)
        except OSError as error:
            outcome = Outcome(Verdict.UNWELL, message=f"{shown(self._source.root.path)}: {error}")
        finally:
            self._source.root.close(flight.root)
        self.target.settle(flight.taken, resolved, outcome, flight.since, flight.started)
        self.target.note_settled(flight.taken, resolved, outcome, flight.started)
        flight.landed(outcome)
        if outcome.verdict is not Verdict.UNWELL:
            if self.extra:
                self.extra = {path: count for path, count in self.extra.items() if path not in flight.taken}
            self.inferred.difference_update(flight.taken)
            self.inferred.difference_update(resolved.entries)
            self.withheld.landed(resolved.entries)
        if resolved.entries.get(b"", 0) & flag.RECURSIVE and (
            outcome.verdict is not Verdict.UNWELL or outcome.spared
        ):
            self.withheld.note_compared(outcome.spared)
        self._source.search.want(resolved.wanted, resolved.changed)
        if outcome.verdict is Verdict.UNWELL:
            self._arrived(self, outcome)
            return None
        if self._source.collector.monitor is not None:
            self._source.collector.monitor.compared(resolved.whole, int(flight.since * 1e9))
        if self.warm:
            self.given.update(flight.taken)
            self.landing.set()
        if resolved.entries:
            self.answered += 1
            if not self.warm:  # the batches of a warm start count as one, when it is over
                self.confirmed += outcome.verdict is Verdict.DONE
            took = time.monotonic() - flight.started
            self._log.progress(f"batch {flight.number}: {_named(resolved.entries)} in {took:.3f} s")
            if outcome.verdict is Verdict.DONE:
                self.last_sync = self._last_end_ns / 1e9
            self._arrived(self, outcome)
        return outcome.verdict is Verdict.DONE and not resolved.unreadable

    async def _sign(self, flight: Flight, outcome: Outcome) -> None:
        """Remember what was confirmed, as far as it is still what it was before."""
        signatures = self.outlet.signatures
        if signatures is None:
            return
        looks = self._source.root.ops.looks(flight.root)
        look, settled_ns = straight(looks.lstat), int(flight.since * 1e9) - YOUNG_NS
        async for part in in_parts(flight.resolved.signed_of(outcome).items(), looks.at_once):
            looks.expect([path for path, _ in part])
            for path, signed in part:
                try:
                    found = look(path)
                except OSError:
                    continue  # it is handed over once too often
                if path not in self.target.dirty.met:
                    signatures.confirm(path, signed, found, settled_ns)

    async def _handed(self, flight: Flight) -> Outcome:
        resolved = flight.resolved
        if not resolved.entries:
            return Outcome(Verdict.DONE)
        if self._stopped():
            return Outcome(Verdict.UNWELL, message="stopped")
        batch = Batch(
            flight.number,
            resolved.entries,
            flight.root,
            initial=flight.initial,
            status=self._told(flight),
            linked=[name for names in resolved.linked.values() for name in names],
            attribute_bytes=resolved.attribute_bytes,
            most_deletions=await self._most_deletions(resolved.entries),
        )
        self._log.debug(2, f"batch {batch.number}: {len(batch.entries)} entries")
        if self._log.debug_level >= 3:
            for path, flags in batch.entries.items():
                self._log.debug(3, f"  {flags:#x} {shown(path)}")
        if self.outlet.signatures is not None:
            # A run that fails may have written something else by then.
            self.outlet.signatures.forget(batch.entries, [p for p, f in batch.entries.items() if f & _REPLACES])
        async with AsyncExitStack() as room:
            for slots in self._slots if self.target.unwell or flight.initial else self._slots[:1]:
                await room.enter_async_context(slots)
            if self._stopped():
                return Outcome(Verdict.UNWELL, message="stopped")
            for watcher in self.watchers:
                watcher.update(batch.entries)
            self.in_air[batch.number] = FlightState(batch.number, flight.since, batch.entries)
            try:
                outcome = await self._synced(batch, flight)
            finally:
                del self.in_air[batch.number]
        self._last_end_ns = time.time_ns()
        before = self._last.at if self._last is not None else 0.0
        self._last = renames.Arrival(batch.entries, time.monotonic(), before)
        self._source.collector.drain()  # what is told from now on happened after this batch
        return outcome

    async def _synced(self, batch: Batch, flight: Flight) -> Outcome:
        """Let a handler do it; what it is about to touch is written down before, and what it has done afterwards."""
        if self.memory is None:
            return await self.crew.sync(batch)
        handed = await self.memory.before(batch, flight.taken, flight.since, flight.resolved.records)
        if handed is not None:
            handed.keep(self.withheld.listed)
        try:
            outcome = await self.crew.sync(batch)
        except BaseException:
            if handed is not None:
                self.memory.after(handed, Outcome(Verdict.UNWELL))
            raise
        if handed is not None:
            await self.memory.landed(outcome)
            flight.landed = partial(self.memory.after, handed)
        return outcome

    def _told(self, flight: Flight) -> str:
        """Return the phase that handlers are told."""
        phase = self._phase()
        if self._source.shared and flight.initial:
            return "initsync"
        return phase if phase in _TOLD else "running"

    async def state(self, status: str, seen: Mapping[bytes, int]) -> State:
        """Return what waits and what is on its way, as copies; `status`: of the whole; `seen`: what the window holds."""
        dirty, flights, failing = self.target.dirty, [*self.in_air.values()], self.target.failing()
        changes, met, waiting = dict(dirty.ready), dict(dirty.met), dirty.waiting()
        big, searched = dict[bytes, int](), dict[bytes, int]()
        async for path, bits in in_slices(seen.items()):
            changes[path] = changes.get(path, 0) | bits
        async for path, (bits, until) in in_slices(waiting.items()):
            endless = searched if until == float("inf") else changes
            queue = big if self.target.is_big(path) else endless
            queue[path] = bits
        queues = changes, big, searched, met
        return State(status, flights, queues, failing, self.target.name, self.outlet.overlap != "off")

    async def close(self) -> None:
        """End what is on its way."""
        if self._flights:
            self.crew.stop()
            await asyncio.wait(self._flights)


class _WrittenDown:
    """Renames at a target, of which is written down first what it touches."""

    def __init__(self, handler: Renames, memory: TargetMemory) -> None:
        self._handler, self._memory = handler, memory
        self.swaps = handler.swaps

    async def rename(self, steps: Sequence[Step]) -> Renamed:
        await self._memory.before_renames(steps)
        return await self._handler.rename(steps)


def _written(looks: Looks, path: bytes) -> float | None:
    """Return when a file was written last (wall clock); None where that cannot be told."""
    try:
        found = looks.lstat(path)
    except OSError:
        return None
    return found.st_mtime_ns / 1e9 if found is not None else None


def _named(entries: dict[bytes, int]) -> str:
    """Describe a batch for a person."""
    more = len(entries) - 1
    first = shown(next(iter(entries)))
    return f"{first} and {more} more" if more else first
