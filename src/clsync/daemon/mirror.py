"""The pipeline at work: arm, sync all, then collect, resolve, hand over, settle - for years."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from clsync.core import batch as flag
from clsync.core.batch import Batch, Outcome, Verdict
from clsync.core.changes import ATTRIB, DOUBT, NAME
from clsync.core.classify import CHANGE_SHIFT, Classifier, Freshness, LinkedFile
from clsync.core.links import LinkIndex, stands_for
from clsync.core.overlap import Overlap
from clsync.core.paths import shown
from clsync.core.rules import Rules
from clsync.core.windows import Window
from clsync.daemon.collector import Collector
from clsync.daemon.course import Leaving
from clsync.daemon.crew import Crew
from clsync.daemon.dump import FlightState, State
from clsync.daemon.linkfinder import LinkFinder
from clsync.daemon.linksearch import LinkSearch
from clsync.daemon.log import Log
from clsync.daemon.parts import Parts
from clsync.daemon.resolve import Resolved, Resolver, bits_of
from clsync.daemon.root import Directory
from clsync.daemon.standby import Standby
from clsync.daemon.target import Target
from clsync.errors import Exit, OperatorError
from clsync.handler.base import Handler
from clsync.kernel.files import opened
from clsync.kernel.slices import in_slices
from clsync.kernel.walk import lstat_below
from clsync.monitor.base import Monitor

TICK_NS = 20_000_000
"""No file system clock is coarser than this, where it counts nanoseconds at all (CONFIG_HZ=100 makes 10 ms)."""
_ROOT_CHECK = 1.0
"""Seconds between two looks for a root that is gone."""
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


class Health(NamedTuple):
    """A mirror seen from outside."""

    phase: str
    monitor: str
    """How changes are noticed; empty before the tree is watched."""
    iteration: int
    last_sync: float | None
    """When the last batch was confirmed (wall-clock seconds)."""
    collecting: bool
    """Changes have come that no batch was made of yet; with fanotify they may be elsewhere on the file system."""
    pending: int
    """Paths that are not known to be equal, with those in flight."""
    in_flight: int
    trouble: str | None
    """Why nothing at all can be synced now."""
    failing: Mapping[bytes, str]
    """Path -> why it failed last."""


class Mirror:
    """Keeps one target equal to one tree."""

    def __init__(
        self,
        *,
        root: Directory,
        open_monitor: Callable[[Rules], Monitor],
        handler: Handler,
        parts: Parts,
        log: Log,
        set_status: Callable[[str], None],
        one_file_system: int = 0,
        started_ns: int = 0,
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        """`handler`: the first one of those that `parts` makes.

        `started_ns`: wall-clock time since which files may have changed unseen in spite of equal size and mtime.

        `ready` is called once when the tree is watched.
        """
        self._root, self._log, self._write_status, self._ready = root, log, set_status, ready
        self._status = ""
        self._links = LinkIndex()
        self._resolver = Resolver(self._links, one_file_system=one_file_system)
        self._target = Target(log)
        finder = LinkFinder(self._links, self._opened_root)
        searches = self._resolver.searches
        self._collector = Collector(open_monitor, Window(), log, wake=self._call, root_gone=self._note_root_gone)
        watch_file = self._collector.watch_file
        self._search = LinkSearch(finder, searches, self._release, self._revive, watch_file, log)
        self._use(parts, Crew(handler, parts.make_handler, parts.in_flight))
        if self._course.exit_on_no_events:
            self._search.hurry()
        self._flights: set[asyncio.Task[None]] = set()
        self._in_air: dict[int, FlightState] = {}
        """What handlers are at work on, by the number of the batch."""
        self._overlap = Overlap()
        self._met: set[bytes] = set()
        """What waits for a batch in flight."""
        self._moved: set[bytes] = set()
        """Those of them that came or went: what is below them waits, too."""
        self._wake, self._taking = asyncio.Event(), asyncio.Lock()
        self._leaving: Leaving | None = None
        self._hurry = self._full_wanted = self._rules_wanted = self._flushing = self._following = False
        self._parts_wanted: tuple[Parts, Handler | None] | None = None
        self._dismissed: list[Handler] = []
        """Handlers that were made and never used."""
        self._initial_over = self._course.skip_initial
        self._hold_until: float | None = None
        self._interrupted = False
        self._trouble = ""
        self._number = self._confirmed = 0
        self._last_end_ns, self._started_ns = time.time_ns(), started_ns
        self._last_sync: float | None = None

    def _use(self, parts: Parts, crew: Crew) -> None:
        """Go by these parts from now on."""
        self._parts, self._crew, self._course, self._rules = parts, crew, parts.course, parts.rules
        self._collector.window.collect, self._collector.window.gap = parts.collect, parts.gap
        self._resolver.rules = parts.rules if parts.rules else None
        self._resolver.big, self._resolver.signatures = parts.big, parts.signatures
        self._target.big_delay = parts.big_delay
        self._standby = Standby(parts.standby, self._log)

    def _set_status(self, word: str) -> None:
        self._status = word
        self._write_status(word)

    # -- what signals ask for ----------------------------------------------------------------------------------

    def _call(self) -> None:
        """Wake the main loop."""
        self._wake.set()

    def leave(self, how: Leaving) -> None:
        """End the run."""
        if how is Leaving.NOW and (self._crew.at_work or self._course.meant_to_end):
            self._interrupted = True
        if self._leaving is None or how is Leaving.NOW:
            self._leaving = how
        if how is Leaving.NOW:
            self._crew.stop()
            for hook in (self._parts.pre_exit, self._parts.at_exit):
                if hook is not None:
                    hook.stop()
        self._call()

    def hand_over_now(self) -> None:
        """Do not wait for the delays this time."""
        self._collector.drain()  # what changed before this was asked for is to be handed over
        self._hurry = True
        self._call()

    def sync_all(self) -> None:
        """Do a full sync again."""
        self._full_wanted = True
        self._call()

    def reread_rules(self) -> None:
        """Read the rules file again."""
        self._rules_wanted = True
        self._call()

    def exchange(self, parts: Parts, handler: Handler | None) -> None:
        """Go by other parts once no batch is in flight; `handler`: the first of theirs, None: it stays as it is."""
        if self._parts_wanted is not None:
            # These parts were made to follow the ones that have not been used yet.
            before = self._parts_wanted[1]
            if handler is None:
                handler = before
            elif before is not None:
                self._dismissed.append(before)
        self._parts_wanted = parts, handler
        self._call()

    def health(self) -> Health:
        """Return how things stand."""
        target, collector = self._target, self._collector
        return Health(
            phase=self._status or "starting",
            monitor=collector.monitor.describe() if collector.monitor is not None else "",
            iteration=self._number,
            last_sync=self._last_sync,
            collecting=collector.due() is not None,
            pending=len(target.dirty),
            in_flight=sum(map(len, target.dirty.flights)),
            trouble=self._trouble if self._hold_until is not None else target.trouble(),
            failing=target.dirty.failing(),
        )

    async def state(self) -> State:
        """Return what is going on. The window that is open is looked at, and goes on as before. Raises OSError."""
        await self._look_into_window()
        dirty = self._target.dirty
        changes, big, searched, met = dict(dirty.ready), dict[bytes, int](), dict[bytes, int](), dict[bytes, int]()
        for path, (bits, until) in dirty.waiting().items():
            endless = searched if until == float("inf") else changes
            queue = met if path in self._met else big if self._target.is_big(path) else endless
            queue[path] = bits
        flights, failing = [*self._in_air.values()], self._target.failing()
        return State(self._status, flights, (changes, big, searched, met), failing, self._parts.overlap != "off")

    async def _look_into_window(self) -> None:
        """Name what has changed; it waits until the time at which it would have been handed over."""
        collector, dirty = self._collector, self._target.dirty
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
                dirty.wait([path for path in dirty.ready if path not in before], due)
                collector.window.last_start = last

    # -- phases ------------------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Arm, sync, follow; return the exit code. Raises OperatorError where the tree cannot be watched."""
        try:
            await self._crew.first.open()
            if not self._course.only_initial:
                await self._arm()
            self._ready()
            if not self._course.skip_initial:
                await self._initial()
            elif self._collector.monitor is not None and self._crew.first.trusts_times:
                self._search.begin_catalogue(time.time_ns())  # what is older is skipped
            self._following = True
            while self._leaving is None:
                await self._step()
            return await self._end()
        finally:
            await self._close()

    async def _arm(self) -> None:
        """Watch the tree: from now on no change is missed."""
        await self._collector.arm(self._rules, lambda: self._leaving is Leaving.NOW)
        if self._collector.monitor is not None:
            self._log.info(f"watching {shown(self._root.path)}: {self._collector.monitor.describe()}")

    async def _initial(self) -> None:
        """Make everything equal once; go on to follow changes as soon as the target has answered."""
        self._set_status("initsync")
        self._log.progress("initial sync: making the destination equal; changes are collected meanwhile")
        started = time.monotonic()
        glues = self._crew.first.glues if self._crew.first.glues and _holds_anything(self._crew.first.glues) else None
        self._doubt_all()
        while self._leaving is None and not self._given_up():
            if not await self._due_at(self._target.next_at(0.0, hurry=True)):
                continue
            done = await self._hand_over(initial=True)
            if done is not None:
                break
        else:
            return
        self._initial_over = True
        self._show_idle()
        if self._collector.monitor is not None and self._crew.first.trusts_times:
            self._search.begin_catalogue(self._started_ns)
        if glues is not None:
            self._search.begin_parting(glues)
        if done:
            self._log.info(f"initial sync done in {time.monotonic() - started:.2f} s")
        if self._course.only_initial and self._leaving is None:
            await self._drain_dry()
            self._leaving = self._leaving or Leaving.DONE

    async def _step(self) -> None:
        """Wait for something to do, and do it."""
        if self._rules_wanted or self._parts_wanted is not None:
            await self._landed()
            await self._change()
        if self._full_wanted:
            self._full_wanted = False
            if self._hold_until is None:
                self._set_status("initsync")
            self._doubt_all()
            self._hurry = True
        held = self._hold_until is not None
        if self._course.exit_on_no_events and (held or not self._anything_left()):
            self._leaving = Leaving.DONE
            return
        if await self._due_at(self._wake_at()):
            await self._hand_over()
            # The next batch may be due at once, and its handler is told the phase.
            self._show_idle()

    async def _drain_dry(self, most: int = 0) -> None:
        """Hand over until nothing is left, or a try too many has failed; `most`: batches, 0 for as many as it takes."""
        self._target.hurry_big()
        self._search.hurry()
        self._flushing = True
        while self._leaving is not Leaving.NOW and self._anything_left() and not self._given_up():
            if self._hold_until is not None and not await self._root_is_back():
                return
            self._hurry = True
            if await self._due_at(self._wake_at()):
                before = self._number
                done = await self._hand_over()
                if done is not None and self._number > before:
                    most -= 1
                    if not most:
                        return

    async def _end(self) -> int:
        """Do what comes last; return the exit code."""
        if self._leaving is Leaving.FLUSH:
            await self._flush()
        await self._landed()
        if self._leaving is not Leaving.NOW and self._initial_over and not self._given_up():
            await self._prepare_exit()
        code = self._verdict()
        at_exit = self._parts.at_exit
        if at_exit is not None and self._initial_over and (code == Exit.OK or self._interrupted):
            self._set_status("exiting")
            await at_exit.run("exiting", self._number)
        return code

    async def _flush(self, most: int = 0) -> None:
        """Hand over what is left, as `_drain_dry` does."""
        self._set_status("lastsync")
        self._course = self._course.last()
        self._target.begin_tries()
        await self._drain_dry(most)

    async def _prepare_exit(self) -> None:
        """Run the pre-exit hook, and hand over what it has changed."""
        quits, bounded = self._leaving is Leaving.FLUSH, self._course.max_iterations > 0
        if self._parts.pre_exit is not None and self._collector.monitor is not None:
            self._set_status("preexit")
            await self._parts.pre_exit.run("preexit", self._number)
            await self._collector.catch_up()
        elif not (quits and self._course.sync_on_quit):
            return
        if self._leaving is not Leaving.NOW and (not quits or self._course.sync_on_quit):
            # A tree that never rests is not to keep a run from its end that is bounded.
            await self._flush(1 if bounded else 0)

    def _verdict(self) -> int:
        if self._leaving is Leaving.NOW:
            self._set_status("terminating")
            if not self._interrupted:
                return Exit.OK
            self._log.warning("interrupted: the destination may differ; the next start compares everything")
            return Exit.INCOMPLETE
        self._set_status("exiting")
        if self._hold_until is not None:
            where = shown(self._root.path)
            self._log.error(f"watch directory {where} is away", "what changed is synced by the next start")
            return Exit.INCOMPLETE
        if not self._target.failing():
            return Exit.OK
        self._target.name_failing()
        code = self._target.code if self._course.retries else 0
        return code if code > 0 else Exit.INCOMPLETE

    async def _close(self) -> None:
        await self._search.close()
        self._collector.close()
        if self._flights:
            self._crew.stop()
            await asyncio.wait(self._flights)
        for handler in self._unused():
            await self._dismiss(handler)
        await self._crew.aclose()

    def _unused(self) -> list[Handler]:
        wanted = self._parts_wanted[1] if self._parts_wanted is not None else None
        return self._dismissed if wanted is None else [*self._dismissed, wanted]

    # -- what is left ------------------------------------------------------------------------------------------

    def _anything_left(self) -> bool:
        searching = self._search.busy and not (self._search.failing and self._leaving is not None)
        unknown = self._hold_until is not None or self._collector.half_taken
        return unknown or self._target.pending() or searching or self._collector.drain()

    def _doubt_all(self) -> None:
        """Compare everything with the next batch; by content only what changes from now on."""
        self._target.dirty.add([(b"", DOUBT)], time.time())

    def _given_up(self) -> bool:
        """Tell whether something has failed as often as it may."""
        tries = self._course.tries
        return tries > 0 and self._target.worst(hopeless=self._course.meant_to_end) >= tries

    # -- waiting -----------------------------------------------------------------------------------------------

    def _wake_at(self) -> float | None:
        """Return when the next batch is to be made (0: now); None: not before something happens."""
        if self._crew.busy:
            return None
        hurry = self._hurry or self._course.exit_on_no_events
        times = [self._target.next_at(self._collector.window.earliest(), hurry)]
        due = self._collector.due()
        if due is not None:
            times.append(max(0.0 if hurry else due, self._target.unwell_until))
        return min((at for at in times if at is not None), default=None)

    async def _due_at(self, at: float | None) -> bool:
        """Sleep until the monotonic time `at`, or until something happens; tell whether a batch may be made."""
        now = time.monotonic()
        if at is not None:
            at = max(at, self._standby.until)
        if self._hold_until is not None:
            if self._hold_until <= now and await self._root_is_back():
                return False
            at = self._hold_until
        elif at is not None and at <= now:
            return True
        else:
            self._show_idle()
        self._wake.clear()
        if self._leaving is Leaving.NOW or (not self._flushing and self._called()):
            return False
        try:
            async with asyncio.timeout(None if at is None else at - now):
                await self._wake.wait()
        except TimeoutError:
            pass
        return False

    def _called(self) -> bool:
        """Tell whether the main loop has something else to do than to wait."""
        return self._leaving is not None or (
            self._following and (self._rules_wanted or self._full_wanted or self._parts_wanted is not None)
        )

    def _show_idle(self) -> None:
        if self._hold_until is not None or self._standby.active:
            self._set_status("hold on")
        elif not self._leaving:
            self._set_status("synchandler error" if self._target.failing() else "running")

    # -- the root comes and goes -------------------------------------------------------------------------------

    def _note_root_gone(self) -> None:
        if self._hold_until is None:
            self._hold_until = 0.0
            self._call()

    def _hold(self, trouble: str) -> None:
        """Do nothing, and delete nothing, while the root is not the one we know."""
        if not self._hold_until or trouble != self._trouble:
            where = shown(self._root.path)
            self._log.error(f"watch directory {where}: {trouble}", "nothing is synced or deleted until it is back")
            self._set_status("hold on")
        self._trouble = trouble
        self._hold_until = time.monotonic() + _ROOT_CHECK

    async def _root_is_back(self) -> bool:
        """Go on, with a new monitor and everything in doubt, if the root we know stands there."""
        trouble = self._root.trouble()
        since = self._collector.lost_since()
        if trouble is None and self._collector.monitor is not None:
            try:
                await self._arm()
            except (OperatorError, OSError) as error:
                trouble = str(error)
        if trouble is not None:
            self._hold(trouble)
            return False
        self._hold_until = None
        self._log.info(f"watch directory {shown(self._root.path)} is back: comparing everything")
        # What happened meanwhile was not seen.
        self._target.dirty.add([(b"", DOUBT)], since)
        return True

    # -- handing over ------------------------------------------------------------------------------------------

    async def _hand_over(self, initial: bool = False) -> bool | None:
        """Make one batch and hand it over: True if all is confirmed or on its way, False if some, None if nothing is."""
        if self._standby.holds(time.monotonic()):
            return None
        try:
            root = self._opened_root()
        except OSError as error:
            self._hold(error.strerror or str(error))
            return None
        flight = None
        try:
            trouble = self._root.trouble_at(root)
            if trouble is not None:
                self._hold(trouble)
                return None
            flight = await self._prepared(root, initial)
        except OSError as error:
            # What the monitor would still have named is lost: everything is compared.
            since = self._collector.lost_since()
            self._collector.forget()
            self._target.note_trouble(f"{shown(self._root.path)}: {error}")
            self._target.dirty.add([(b"", DOUBT)], since)
            return None
        finally:
            if flight is None:
                os.close(root)
        if flight is None:
            return True
        if self._parts.overlap == "off" or initial or not flight.resolved.entries:
            return await self._fly(flight)
        self._overlap.begin(flight.resolved.entries)
        task = asyncio.create_task(self._fly_beside_others(flight))
        self._flights.add(task)
        task.add_done_callback(lambda _: self._call())
        return True

    async def _fly_beside_others(self, flight: Flight) -> None:
        try:
            await self._fly(flight)
        finally:
            self._overlap.end(flight.resolved.entries)
            met, self._met, self._moved = self._met, set(), set()
            self._release(met)

    async def _landed(self) -> None:
        """Wait until no batch is in flight."""
        while self._flights:
            done, self._flights = await asyncio.wait(self._flights)
            for task in done:
                task.result()

    async def _prepared(self, root: int, initial: bool) -> Flight | None:
        """Make a batch of what is ready; None if nothing is. Raises OSError."""
        for task in [task for task in self._flights if task.done()]:
            self._flights.remove(task)
            task.result()
        now, since = time.monotonic(), time.time()
        self._hurry = False
        dirty = self._target.dirty
        async with self._taking:
            ripe = dirty.ripen(now)
            fresh_after = 0 if initial else await self._take(now)
            taken = dirty.take()
        if not taken:
            return None
        try:
            resolved = await self._resolved(taken, ripe, root, fresh_after, initial)
        except BaseException:
            dirty.abort(taken)
            raise
        self._number += bool(resolved.entries)
        return Flight(self._number, taken, resolved, root, now, since, initial)

    async def _take(self, now: float) -> int:
        """Move what the window holds to the dirty set (see `Collector.take`)."""
        proven = self._last_end_ns + TICK_NS + self._crew.first.coarse_ns
        return await self._collector.take(now, self._target.dirty, proven, self._look_for_survivors)

    async def _look_for_survivors(self, since: float) -> None:
        """Find the other names of files that were changed through a name that is gone."""
        unseen: dict[LinkedFile, int] = {}
        with opened(self._root.path) as root:
            stands = Classifier(lstat_below(root), Freshness(0, 0)).stands
            async for survivor in self._collector.survivors():
                if survivor is None:
                    continue
                file, path, bits = survivor
                inode = file.dev, file.ino
                if path is not None and stands_for(stands(path), inode):
                    continue
                known = [name for name in self._links.paths_of(inode) if stands_for(stands(name), inode)]
                if known:
                    self._target.dirty.add(((name, bits) for name in known), since)
                else:
                    unseen[file] = unseen.get(file, 0) | bits
        self._search.want_unseen(unseen)

    def _revive(self, names: Mapping[bytes, int]) -> None:
        """Note that files were changed, though no event named them."""
        self._target.dirty.add(names.items(), self._collector.last_take)
        self._call()

    async def _resolved(
        self, taken: dict[bytes, int], ripe: set[bytes], root: int, fresh_after: int, initial: bool
    ) -> Resolved:
        """Find out what is to be handed over now. Raises OSError."""
        if initial:
            everything = flag.DIRECTORY | flag.RECURSIVE | DOUBT << CHANGE_SHIFT
            return Resolved({b"": everything}, 0, [b""])
        freshness = Freshness(fresh_after, time.time_ns())
        doubts = self._target.dirty.doubts
        resolved = await self._resolver.resolve(taken, root=root, freshness=freshness, doubts=doubts, ripe=ripe)
        if any(bits & (NAME | DOUBT) for bits in set(taken.values())):
            self._search.note_new_names()
        async for file, names in in_slices(resolved.linked.items()):
            self._collector.watch_file(next(iter(names)), file)
        self._set_apart(resolved)
        return resolved

    def _set_apart(self, resolved: Resolved) -> None:
        """Let wait what meets a batch in flight: two runs that deal with it may end in any order.

        Where all may overlap, it is handed over at once, and once more when they have ended.
        """
        met = self._overlap.meets(resolved.entries, resolved.linked.values(), self._moved)
        for path in met:
            bits = bits_of(resolved.entries[path])
            self._target.dirty.postpone(path, bits, float("inf"))
            if bits & (NAME | DOUBT):
                self._moved.add(path)
            if self._parts.overlap == "safe":
                del resolved.entries[path]
        if self._crew.first.trusts_times:
            # Runs set the attributes of the directories above what they send, as they found them.
            shared = self._overlap.shared_directories(resolved.entries)
            for path in shared:
                self._target.dirty.postpone(path, ATTRIB, float("inf"))
            met |= shared
        self._met |= met
        resolved.whole = [path for path in resolved.whole if path in resolved.entries]

    async def _fly(self, flight: Flight) -> bool | None:
        """Hand a batch over, and take note of what became of it."""
        resolved = flight.resolved
        try:
            outcome = await self._handed(flight)
        except OSError as error:
            outcome = Outcome(Verdict.UNWELL, message=f"{shown(self._root.path)}: {error}")
        finally:
            os.close(flight.root)
        self._target.settle(flight.taken, resolved, outcome, flight.since)
        if self._parts.signatures is not None:
            self._parts.signatures.confirm(resolved.signed_of(outcome))
        self._search.want(resolved.wanted, resolved.changed)
        if outcome.verdict is Verdict.UNWELL:
            self._leave_if_given_up()
            return None
        if self._collector.monitor is not None:
            self._collector.monitor.compared(resolved.whole, int(flight.since * 1e9))
        if resolved.entries:
            took = time.monotonic() - flight.started
            self._log.progress(f"batch {flight.number}: {_named(resolved.entries)} in {took:.3f} s")
            self._count(outcome)
        return outcome.verdict is Verdict.DONE and not resolved.unreadable

    async def _handed(self, flight: Flight) -> Outcome:
        resolved = flight.resolved
        if not resolved.entries:
            return Outcome(Verdict.DONE)
        if self._leaving is Leaving.NOW:
            return Outcome(Verdict.UNWELL, message="stopped")
        batch = Batch(
            flight.number,
            resolved.entries,
            flight.root,
            initial=flight.initial,
            status=self._status if self._status in _TOLD else "running",
            linked=[name for names in resolved.linked.values() for name in names],
            attribute_bytes=resolved.attribute_bytes,
        )
        self._log.debug(2, f"batch {batch.number}: {len(batch.entries)} entries")
        if self._log.debug_level >= 3:
            for path, flags in batch.entries.items():
                self._log.debug(3, f"  {flags:#x} {shown(path)}")
        self._in_air[batch.number] = FlightState(batch.number, flight.since, batch.entries)
        try:
            outcome = await self._crew.sync(batch)
        finally:
            del self._in_air[batch.number]
        self._last_end_ns = time.time_ns()
        return outcome

    def _count(self, outcome: Outcome) -> None:
        """Count an iteration that went well; end the run where that was enough, or one failed too often."""
        if outcome.verdict is Verdict.DONE:
            self._confirmed += 1
            self._last_sync = self._last_end_ns / 1e9
            limit = self._course.max_iterations
            if limit and self._confirmed >= limit and self._leaving is None:
                self._leaving = Leaving.DONE
                if self._parts.pre_exit is None and self._target.pending() and not self._target.failing():
                    self._log.warning(f"--max-iterations={limit} is reached; what changed since is not synced")
        self._leave_if_given_up()

    def _leave_if_given_up(self) -> None:
        if self._given_up():
            self._leaving = self._leaving or Leaving.DONE

    # -- hard links --------------------------------------------------------------------------------------------

    def _opened_root(self) -> int:
        return os.open(self._root.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def _release(self, names: Iterable[bytes]) -> None:
        """Let the names of searched files go on."""
        self._target.dirty.release(names)
        self._call()

    # -- other settings ----------------------------------------------------------------------------------------

    async def _change(self) -> None:
        """Go by what was asked for since the last batch."""
        wanted, self._parts_wanted = self._parts_wanted, None
        if wanted is not None:
            await self._change_parts(*wanted)
        if self._rules_wanted:
            self._rules_wanted = False
            await self._change_rules()

    async def _change_parts(self, parts: Parts, handler: Handler | None) -> None:
        rules, old = self._rules, self._crew
        if handler is None:
            self._use(parts.keeping(self._parts), old)
        else:
            self._use(parts, Crew(handler, parts.make_handler, parts.in_flight))
            self._target.begin_tries()
            await self._dismiss(old)
        for unused in self._dismissed:
            await self._dismiss(unused)
        self._dismissed.clear()
        if parts.rules.source_text != rules.source_text:
            await self._use_rules(parts.rules)
        elif handler is not None:
            self._doubt_all()

    async def _dismiss(self, handler: Handler | Crew) -> None:
        try:
            await handler.aclose()
        except OperatorError as error:
            self._log.error(error.message, error.hint)

    async def _change_rules(self) -> None:
        self._set_status("rehashing")
        try:
            rules = self._parts.read_rules()
        except OperatorError as error:
            self._log.error(error.message, f"{error.hint}; the old rules stay in force")
            return
        if rules.source_text == self._rules.source_text:
            self._log.info("rules: nothing has changed")
            return
        await self._use_rules(rules)
        self._log.info("rules: read again, comparing everything")

    async def _use_rules(self, rules: Rules) -> None:
        """Watch, and compare everything, by other rules."""
        self._rules = rules
        self._resolver.rules = rules if rules else None
        self._crew.set_rules(rules)
        since = self._collector.lost_since()
        if self._collector.monitor is not None:
            try:
                await self._arm()
            except (OperatorError, OSError) as error:
                self._hold(str(error))
        self._target.dirty.add([(b"", DOUBT)], since)


def _holds_anything(directory: bytes) -> bool:
    """Tell whether a directory has entries; True where it cannot be read now."""
    try:
        with os.scandir(directory) as entries:
            return next(entries, None) is not None
    except OSError:
        return True


def _named(entries: dict[bytes, int]) -> str:
    """Describe a batch for a person."""
    more = len(entries) - 1
    first = shown(next(iter(entries)))
    return f"{first} and {more} more" if more else first
