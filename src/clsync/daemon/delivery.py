"""From what is dirty to what has arrived: batches are made one after the other, and handed over, perhaps side by side."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from clsync.core import batch as flag
from clsync.core.batch import Batch, Outcome, Verdict
from clsync.core.changes import ATTRIB, DOUBT, NAME
from clsync.core.classify import CHANGE_SHIFT, Classifier, Freshness, LinkedFile
from clsync.core.links import LinkIndex, stands_for
from clsync.core.overlap import Overlap
from clsync.core.paths import shown
from clsync.core.rules import Rules
from clsync.daemon.collector import Collector
from clsync.daemon.crew import Crew
from clsync.daemon.dump import FlightState
from clsync.daemon.linkfinder import LinkFinder
from clsync.daemon.linksearch import LinkSearch
from clsync.daemon.log import Log
from clsync.daemon.parts import Parts
from clsync.daemon.resolve import Resolved, Resolver, bits_of
from clsync.daemon.root import Directory
from clsync.daemon.target import Target
from clsync.kernel.slices import in_slices

TICK_NS = 20_000_000
"""No file system clock is coarser than this, where it counts nanoseconds at all (CONFIG_HZ=100 makes 10 ms)."""
_TOLD = ("initsync", "synchandler error", "lastsync")
"""Phases that handlers are told of; all others are `running` to them."""


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


class Delivery:
    """Hands over what is dirty at one target, until it is confirmed."""

    def __init__(
        self,
        root: Directory,
        collector: Collector,
        log: Log,
        parts: Parts,
        crew: Crew,
        *,
        one_file_system: int,
        phase: Callable[[], str],
        stopped: Callable[[], bool],
        arrived: Callable[[Outcome], None],
        wake: Callable[[], None],
    ) -> None:
        """`phase` says what handlers are told; `stopped` whether nothing is handed over any more.

        `arrived` is told the outcome of each batch that a handler was given. `wake` is called when there may be more.
        """
        self._root, self._collector, self._log = root, collector, log
        self._phase, self._stopped, self._arrived, self._wake = phase, stopped, arrived, wake
        self.target = Target(log)
        self._links = LinkIndex()
        self._resolver = Resolver(self._links, root.ops, one_file_system=one_file_system)
        finder, searches = LinkFinder(self._links, root), self._resolver.searches
        self.search = LinkSearch(finder, searches, self._release, self._revive, collector.watch_file, log)
        self.number = 0
        """Batches that were handed over."""
        self.last_sync: float | None = None
        """When the last batch was confirmed (wall-clock seconds)."""
        self.in_air: dict[int, FlightState] = {}
        """What handlers are at work on, by the number of the batch."""
        self.met: set[bytes] = set()
        """What waits for a batch in flight."""
        self._moved: set[bytes] = set()
        """Those of them that came or went: what is below them waits, too."""
        self._looked_at: set[bytes] = set()
        """What is in the dirty set only because somebody wanted to see it."""
        self._ripe: set[bytes] = set()
        """Big files that have waited, and wait now for a batch in flight."""
        self._flights: set[asyncio.Task[None]] = set()
        self._overlap = Overlap()
        self._taking = asyncio.Lock()
        self._last_end_ns = time.time_ns()
        self.use(parts, crew)

    def use(self, parts: Parts, crew: Crew) -> None:
        """Go by these parts from now on; no batch is in flight."""
        self._parts, self.crew = parts, crew
        self._collector.window.collect, self._collector.window.gap = parts.collect, parts.gap
        self._resolver.big, self._resolver.signatures = parts.big, parts.signatures
        self.target.big_delay = parts.big_delay
        self.use_rules(parts.rules)

    def use_rules(self, rules: Rules) -> None:
        """Go by these rules from now on; no batch is in flight."""
        self._resolver.rules = rules if rules else None
        self.crew.set_rules(rules)

    async def hand_over(self, root: int, initial: bool = False) -> bool | None:
        """Make one batch and hand it over: True if all is confirmed or on its way, False if some, None if nothing is.

        `root`: descriptor of the watched directory, which is closed here. Raises OSError, and then what the window held
        is lost.
        """
        flight = None
        try:
            flight = await self._prepared(root, initial)
        finally:
            if flight is None:
                self._root.close(root)
        if flight is None:
            return True
        if self._parts.overlap == "off" or initial or not flight.resolved.entries:
            return await self._fly(flight)
        self._overlap.begin(flight.resolved.entries)
        task = asyncio.create_task(self._fly_beside_others(flight))
        self._flights.add(task)
        task.add_done_callback(lambda _: self._wake())
        return True

    async def _fly_beside_others(self, flight: Flight) -> None:
        try:
            await self._fly(flight)
        finally:
            self._overlap.end(flight.resolved.entries)
            still = self._overlap.still(self.met)
            free, self.met, self._moved = self.met - still, still, self._moved & still
            self._release(free)

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
        if self._overlap.whole or (self._moved and self._parts.overlap == "safe"):
            return True
        return max(self.crew.at_work, sum(not task.done() for task in self._flights)) >= self.crew.limit

    async def landed(self) -> None:
        """Wait until no batch is in flight."""
        while self._flights:
            done, self._flights = await asyncio.wait(self._flights)
            for task in done:
                task.result()

    async def _prepared(self, root: int, initial: bool) -> Flight | None:
        """Make a batch of what is ready; None if nothing is. Raises OSError."""
        self.reap()
        now, since = time.monotonic(), time.time()
        dirty = self.target.dirty
        async with self._taking:
            # What a look into the window has set aside has not waited as a big file does.
            ripe = dirty.ripen(now)
            ripe, self._looked_at = ripe - self._looked_at, self._looked_at - ripe
            ripe |= self._ripe & dirty.ready.keys()
            self._ripe -= ripe
            fresh_after = 0 if initial else await self._take(now)
            taken = dirty.take()
            self._looked_at -= taken.keys()
        if not taken:
            return None
        try:
            resolved = await self._resolved(taken, ripe, root, fresh_after, initial)
        except BaseException:
            dirty.abort(taken)
            raise
        self.number += bool(resolved.entries)
        return Flight(self.number, taken, resolved, root, now, since, initial)

    async def _take(self, now: float) -> int:
        """Move what the window holds to the dirty set (see `Collector.take`)."""
        proven = self._last_end_ns + TICK_NS + self.crew.first.coarse_ns
        return await self._collector.take(now, self.target.dirty, proven, self._look_for_survivors)

    async def _look_for_survivors(self, since: float) -> None:
        """Find the other names of files that were changed through a name that is gone."""
        unseen: dict[LinkedFile, int] = {}
        with self._root.opened() as root:
            stands = Classifier(self._root.ops.looks(root).lstat, Freshness(0, 0)).stands
            async for survivor in self._collector.survivors():
                if survivor is None:
                    continue
                file, path, bits = survivor
                inode = file.dev, file.ino
                if path is not None and stands_for(stands(path), inode):
                    continue
                known = [name for name in self._links.paths_of(inode) if stands_for(stands(name), inode)]
                if known:
                    self.target.dirty.add(((name, bits) for name in known), since)
                else:
                    unseen[file] = unseen.get(file, 0) | bits
        self.search.want_unseen(unseen)

    def _revive(self, names: Mapping[bytes, int]) -> None:
        """Note that files were changed, though no event named them."""
        self.target.dirty.add(names.items(), self._collector.last_take)
        self._wake()

    async def _resolved(
        self, taken: dict[bytes, int], ripe: set[bytes], root: int, fresh_after: int, initial: bool
    ) -> Resolved:
        """Find out what is to be handed over now. Raises OSError."""
        if initial:
            everything = flag.DIRECTORY | flag.RECURSIVE | DOUBT << CHANGE_SHIFT
            return Resolved({b"": everything}, 0, [b""])
        # Beside other batches, no time proves that a version was not sent.
        alone = self._parts.overlap == "off"
        freshness = Freshness(fresh_after, time.time_ns()) if alone else Freshness(0, 0)
        doubts = self.target.dirty.doubts
        resolved = await self._resolver.resolve(taken, root=root, freshness=freshness, doubts=doubts, ripe=ripe)
        if any(bits & (NAME | DOUBT) for bits in set(taken.values())):
            self.search.note_new_names()
        async for file, names in in_slices(resolved.linked.items()):
            self._collector.watch_file(next(iter(names)), file)
        self._set_apart(resolved, ripe)
        return resolved

    def _set_apart(self, resolved: Resolved, ripe: set[bytes]) -> None:
        """Let wait what meets a batch in flight: two runs that deal with it may end in any order.

        Where all may overlap, it is handed over at once, and once more when they have ended.
        """
        met = self._overlap.meets(resolved.entries, resolved.linked.values(), self._moved)
        for path in met:
            bits = bits_of(resolved.entries[path])
            self.target.dirty.postpone(path, bits, float("inf"))
            if bits & (NAME | DOUBT):
                self._moved.add(path)
            resolved.signed.pop(path, None)
            if self._parts.overlap == "safe":
                del resolved.entries[path]
        if self.crew.first.trusts_times:
            # Runs set the attributes of the directories above what they send, as they found them.
            shared = self._overlap.shared_directories(resolved.entries)
            for path in shared:
                self.target.dirty.postpone(path, ATTRIB, float("inf"))
            met |= shared
        self.met |= met
        self._ripe |= met & ripe
        resolved.whole = [path for path in resolved.whole if path in resolved.entries]

    async def _fly(self, flight: Flight) -> bool | None:
        """Hand a batch over, and take note of what became of it."""
        resolved = flight.resolved
        try:
            outcome = await self._handed(flight)
        except OSError as error:
            outcome = Outcome(Verdict.UNWELL, message=f"{shown(self._root.path)}: {error}")
        finally:
            self._root.close(flight.root)
        self.target.settle(flight.taken, resolved, outcome, flight.since, flight.started)
        if self._parts.signatures is not None:
            signed = resolved.signed_of(outcome)
            self._parts.signatures.confirm({path: sign for path, sign in signed.items() if path not in self.met})
        self.search.want(resolved.wanted, resolved.changed)
        if outcome.verdict is Verdict.UNWELL:
            self._arrived(outcome)
            return None
        if self._collector.monitor is not None:
            self._collector.monitor.compared(resolved.whole, int(flight.since * 1e9))
        if resolved.entries:
            took = time.monotonic() - flight.started
            self._log.progress(f"batch {flight.number}: {_named(resolved.entries)} in {took:.3f} s")
            if outcome.verdict is Verdict.DONE:
                self.last_sync = self._last_end_ns / 1e9
            self._arrived(outcome)
        return outcome.verdict is Verdict.DONE and not resolved.unreadable

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
            status=phase if (phase := self._phase()) in _TOLD else "running",
            linked=[name for names in resolved.linked.values() for name in names],
            attribute_bytes=resolved.attribute_bytes,
        )
        self._log.debug(2, f"batch {batch.number}: {len(batch.entries)} entries")
        if self._log.debug_level >= 3:
            for path, flags in batch.entries.items():
                self._log.debug(3, f"  {flags:#x} {shown(path)}")
        if self._parts.signatures is not None:
            # A run that fails may have written something else by then.
            self._parts.signatures.confirm(dict.fromkeys(batch.entries))
        self.in_air[batch.number] = FlightState(batch.number, flight.since, batch.entries)
        try:
            outcome = await self.crew.sync(batch)
        finally:
            del self.in_air[batch.number]
        self._last_end_ns = time.time_ns()
        return outcome

    def _release(self, names: Iterable[bytes]) -> None:
        """Let the names of searched files go on."""
        self.target.dirty.release(names)
        self._wake()

    async def look_into_window(self) -> None:
        """Name what has changed; it waits until the time at which it would have been handed over."""
        collector, dirty = self._collector, self.target.dirty
        async with self._taking:
            due, last = collector.due(), collector.window.last_start
            if due is None:
                return
            before = set(dirty.ready)
            try:
                await self._take(time.monotonic())
                while collector.half_taken:
                    await self._take(time.monotonic())
            finally:
                new = [path for path in dirty.ready if path not in before]
                dirty.wait(new, due)
                self._looked_at.update(new)
                collector.window.last_start = last

    async def close(self) -> None:
        """End what is on its way."""
        if self._flights:
            self.crew.stop()
            await asyncio.wait(self._flights)


def _named(entries: dict[bytes, int]) -> str:
    """Describe a batch for a person."""
    more = len(entries) - 1
    first = shown(next(iter(entries)))
    return f"{first} and {more} more" if more else first
