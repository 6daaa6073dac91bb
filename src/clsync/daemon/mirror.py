"""The pipeline at work: arm, sync all, then collect, resolve, hand over, settle - for years."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from clsync.core.batch import Outcome, Verdict
from clsync.core.changes import DOUBT
from clsync.core.paths import shown
from clsync.core.rules import Rules
from clsync.core.stamps import YOUNG_NS
from clsync.core.windows import Window
from clsync.daemon.absence import Absence
from clsync.daemon.arrival import NOT_SERVED, Arrival
from clsync.daemon.collector import Collector
from clsync.daemon.course import Leaving
from clsync.daemon.crew import Crew
from clsync.daemon.delivery import Delivery
from clsync.daemon.dump import State
from clsync.daemon.health import Health, TargetHealth
from clsync.daemon.log import Log
from clsync.daemon.parts import Parts
from clsync.daemon.remaining import LAST_READ, Remaining
from clsync.daemon.root import Directory
from clsync.daemon.scrub import Scrub
from clsync.daemon.source import Source
from clsync.daemon.standby import Standby
from clsync.daemon.verify import Report, Verifier, Wish
from clsync.daemon.warmstart import WarmStart
from clsync.daemon.wishes import Handlers, Wishes
from clsync.errors import Exit, OperatorError
from clsync.handler.base import Handler
from clsync.monitor.base import Monitor

if TYPE_CHECKING:
    from clsync.daemon.memory import Memory

_SLACK = 2.0
"""Seconds by which clocks may be set."""
_RULES_READ = "rules: read again, comparing everything"


class Mirror:
    """Keeps one target equal to one tree, or several."""

    def __init__(
        self,
        *,
        root: Directory,
        open_monitor: Callable[[Rules], Monitor],
        handlers: Sequence[Handler],
        parts: Parts,
        log: Log,
        set_status: Callable[[str], None],
        stands: Callable[[bytes], bool],
        one_file_system: int = 0,
        max_parallel: int = 1,
        started_ns: int = 0,
        ready: Callable[[], None] = lambda: None,
        memory: Memory | None = None,
    ) -> None:
        """`handlers`: the first ones of those that `parts` makes, one for each target.

        `stands` tells whether something stands at a path. `max_parallel`: batches that may be on their way, of all targets.

        `started_ns`: wall-clock time since which files may have changed unseen in spite of equal size and mtime.

        `ready` is called once when the tree is watched. `memory`: what the targets hold.
        """
        self._root, self._log, self._write_status, self._ready = root, log, set_status, ready
        self._stands = stands
        self._status = ""
        self._wake = asyncio.Event()
        self._absence = Absence(root, log, self._call)
        self._collector = Collector(open_monitor, Window(), log, wake=self._call, root_gone=self._absence.begin)
        self._source = Source(root, self._collector, log, self._call)
        self._search = self._source.search
        # Those that may hang are not to keep all the others from their turn.
        slots = asyncio.Semaphore(max_parallel), asyncio.Semaphore(max(max_parallel // 2, 1))
        self._deliveries = [
            Delivery(
                self._source,
                log,
                outlet,
                Crew(handler, outlet.make_handler, outlet.in_flight),
                one_file_system=one_file_system,
                slots=slots,
                phase=lambda: self._status,
                stopped=lambda: self._leaving is Leaving.NOW,
                arrived=self._arrived,
                wake=self._call,
            )
            for outlet, handler in zip(parts.outlets, handlers, strict=True)
        ]
        for delivery in self._deliveries:
            delivery.use(parts, delivery.outlet, delivery.crew)
        self._memory, self._warm = memory, None if memory is None else self._warm_start(memory)
        self._note_parts(parts)
        if memory is not None:
            memory.attach(self._source, self._lose_window, watched=not self._course.only_initial, wake=self._call)
            for delivery, target in zip(self._deliveries, memory.targets, strict=True):
                delivery.memory = target
                target.handler = partial(_first_handler, delivery)
        if self._course.exit_on_no_events:
            self._search.hurry()
        self._leaving: Leaving | None = None
        self._full_wanted = self._flushing = False
        self._wishes = Wishes()
        self._left = Remaining(
            self._source,
            self._deliveries,
            course=lambda: self._course,
            leaving=lambda: self._leaving,
            away=lambda: self._absence.lasts,
            lose_window=self._lose_window,
        )
        self._arrival = Arrival(
            self._source,
            self._deliveries,
            serves=self._left.serves,
            is_away=self._absence.now,
            lose_window=self._lose_window,
            wake=self._call,
        )
        self._verifier = Verifier(self._source, self._arrival, lambda: self._rules or None, self._seen, memory)
        self._scrub = Scrub(self._deliveries, self._verifier, log, self._can_scrub)
        self._started = 0.0
        """When the initial sync began (monotonic seconds)."""
        self._interrupted = False
        self._asking: set[asyncio.Task[None]] = set()
        """Questions to whoever sits at the terminal."""
        self._started_ns = started_ns

    def _warm_start(self, memory: Memory) -> WarmStart:
        return WarmStart(memory, self._log, wake=self._call, over=self._end_warm)

    def _note_parts(self, parts: Parts) -> None:
        self._parts, self._course, self._rules = parts, parts.course, parts.rules
        self._standby = Standby(parts.standby, self._stands, parts.hours, self._log)
        self._collector.window.collect, self._collector.window.gap = (
            parts.collect,
            # Of several each has its own pace.
            parts.gap if len(self._deliveries) == 1 else 0.0,
        )

    def _set_status(self, word: str) -> None:
        self._status = word
        self._write_status(word)

    # -- what signals ask for ----------------------------------------------------------------------------------

    def _call(self) -> None:
        """Wake the main loop."""
        self._wake.set()

    def leave(self, how: Leaving) -> None:
        """End the run."""
        if how is Leaving.NOW and (self._course.meant_to_end or any(d.crew.at_work for d in self._deliveries)):
            self._interrupted = True
        if self._leaving is None or how is Leaving.NOW:
            self._leaving = how
        if how is Leaving.NOW:
            for delivery in self._deliveries:
                delivery.crew.stop()
            for hook in (self._parts.pre_exit, self._parts.at_exit):
                if hook is not None:
                    hook.stop()
        self._call()

    def hand_over_now(self) -> None:
        """Do not wait for the delays this time."""
        self._collector.drain()  # what changed before this was asked for is to be handed over
        self._hurry_all()
        self._call()

    def _hurry_all(self) -> None:
        for delivery in self._deliveries:
            delivery.hurry = True

    def sync_all(self) -> None:
        """Do a full sync again."""
        self._full_wanted = True
        self._call()

    def reread_rules(self) -> None:
        """Read the rules file again."""
        self._wishes.want_rules()
        self._call()

    def exchange(self, parts: Parts, handlers: Handlers) -> None:
        """Go by other parts once no batch is in flight; `handlers`: the first ones of theirs, None: it stays as it is."""
        self._wishes.want_parts(parts, handlers)
        self._call()

    def health(self) -> Health:
        """Return how things stand."""
        collector = self._collector
        return Health(
            phase=self._status or "starting",
            monitor=collector.monitor.describe() if collector.monitor is not None else "",
            collecting=collector.due() is not None,
            targets=[self._health_of(delivery) for delivery in self._deliveries],
            kept=self._memory.health() if self._memory is not None else None,
        )

    def _health_of(self, delivery: Delivery) -> TargetHealth:
        target = delivery.target
        return TargetHealth(
            name=target.name,
            iteration=delivery.number,
            last_sync=delivery.last_sync,
            pending=len(target.dirty),
            in_flight=sum(map(len, target.dirty.flights)),
            trouble=self._absence.trouble if self._absence.lasts else self._standby.why or target.trouble(),
            paused=delivery.paused,
            held_back=delivery.withheld.count,
            failing=target.dirty.failing(),
            next_tries=target.next_tries(),
            scrubbed=self._scrub.passed.get(delivery),
        )

    async def states(self) -> list[State]:
        """Return what is going on, for each target, as copies. The window is looked at, and goes on as before."""
        try:
            seen = await self._collector.look()
        except OSError:
            self._lose_window()
            seen = {}
        return [await delivery.state(self._status, seen) for delivery in self._deliveries]

    async def arrival(self, names: Collection[str], until_synced: bool) -> dict[str, dict[bytes, str]]:
        """Wait until everything that has changed before this call has arrived (see `Arrival.of`).

        Settings and rules count: what was asked for before is in force then.
        """
        await self._wishes.come_true()
        if self._warm is not None:
            await self._warm.known(names)
        return await self._arrival.of(names, until_synced)

    async def verify(
        self, names: Collection[str], wish: Wish, tell: Callable[[Report], None] = lambda report: None
    ) -> list[Report]:
        """Compare some targets (`names`; none: all) with the source, and the source with what is kept of it.

        `tell` is told now and then how far that is. Raises OperatorError where a target cannot be compared.
        """
        chosen = [delivery for delivery in self._deliveries if not names or delivery.target.name in names]
        for delivery in chosen:
            if self._standby.active:
                raise OperatorError(self._standby.why or "nothing is synced now", "what is on its way never arrives")
            if delivery.paused or not self._left.serves(delivery):
                raise OperatorError(
                    f"{delivery.target.called} is paused, or given up: what is on its way there never arrives",
                    "let it go on: clsync ctl resume",
                )
        reports = [await self._verifier.verify(delivery, wish, tell) for delivery in chosen]
        index = await self._verifier.index(chosen, wish.repair)
        return reports if index is None else [*reports, index]

    async def _seen(self) -> Mapping[bytes, int]:
        """Return what has changed and is not dirty yet; the root stands for what is not known."""
        await self._collector.catch_up(fresh=True)
        try:
            seen = await self._collector.look()
        except OSError:
            self._lose_window()
            return {b"": DOUBT}
        return seen if self._collector.seen_whole else {**seen, b"": DOUBT}

    def _can_scrub(self, delivery: Delivery) -> bool:
        """Tell whether all that a comparison of a target finds could be handed over now."""
        away = self._absence.lasts or self._standby.active
        busy = not delivery.initial_over or delivery.warm or delivery.paused
        return not away and not busy and delivery.target.trouble() is None and self._left.serves(delivery)

    def pause(self, names: Collection[str], paused: bool) -> None:
        """Hand over nothing to some targets (`names`; none: all), or go on; what is on its way arrives."""
        for delivery in self._deliveries:
            if not names or delivery.target.name in names:
                delivery.paused = paused
        self._call()

    def accept(self, names: Collection[str] = ()) -> bool:
        """Let what was held back be deleted at some targets (`names`; none: at all); tell whether there was anything."""
        found = False
        for delivery in self._deliveries:
            if not names or delivery.target.name in names:
                found = delivery.accept() or found
        self._call()
        return found

    # -- phases ------------------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Arm, sync, follow; return the exit code. Raises OperatorError where the tree cannot be watched."""
        try:
            self._warn_of_rules()
            await self._open()
            if not self._course.only_initial:
                await self._arm()
            self._ready()
            if self._course.skip_initial:
                self._skip_initial()
            else:
                await self._begin_initial()
            self._arrival.following.set()
            self._scrub.begin()
            while self._leaving is None:
                await self._step()
            return await self._end()
        finally:
            await self._close()

    async def _open(self) -> None:
        """Be ready for the first batches. Raises OperatorError."""
        opened = await asyncio.gather(*(d.crew.first.open() for d in self._deliveries), return_exceptions=True)
        for error in opened:
            if error is not None:
                raise error
        await self._use_memory()

    async def _use_memory(self) -> None:
        """Open what is known of the targets, by the rules and handlers in force. Raises OperatorError."""
        if self._memory is not None:
            await self._memory.use(self._rules, [(d.outlet.key, d.outlet.local) for d in self._deliveries])

    async def _arm(self) -> None:
        """Watch the tree: from now on no change is missed."""
        await self._collector.arm(self._rules, lambda: self._leaving is Leaving.NOW)
        if self._collector.monitor is not None:
            self._log.info(f"watching {shown(self._root.path)}: {self._collector.monitor.describe()}")

    def _skip_initial(self) -> None:
        for delivery in self._deliveries:
            delivery.initial_over = True
        if self._collector.monitor is not None and any(d.crew.first.trusts_times for d in self._deliveries):
            self._search.begin_catalogue(time.time_ns())  # what is older is skipped

    async def _begin_initial(self) -> None:
        """Let everything be made equal once; changes are followed as soon as the target has answered."""
        self._set_status("initsync")
        self._started, since = time.monotonic(), time.time()
        cold = self._deliveries if self._warm is None else await self._warm.begin(self._deliveries)
        if cold:
            self._log.progress("initial sync: making the destination equal; changes are collected meanwhile")
        for delivery in cold:
            handler = delivery.crew.first
            delivery.glues = handler.glues if handler.glues and _holds_anything(handler.glues) else None
            delivery.target.dirty.add([(b"", DOUBT)], since)

    def _end_initial(self, delivery: Delivery, well: bool, young_ns: int) -> None:
        """Follow the changes, now that a target has answered; what changed since `young_ns` may not have arrived."""
        delivery.initial_over = True
        self._show_idle()
        if self._collector.monitor is not None and delivery.crew.first.trusts_times:
            self._search.begin_catalogue(young_ns)
        if delivery.glues is not None:
            self._search.begin_parting(delivery.glues)
        if well:
            name = f"{delivery.target.name}: " if delivery.target.name else ""
            self._log.info(f"{name}initial sync done in {time.monotonic() - self._started:.2f} s")

    def _end_warm(self, delivery: Delivery, well: bool) -> None:
        """Follow the changes, now that a target has been given what differs."""
        delivery.confirmed += well
        self._end_initial(delivery, well, time.time_ns() - YOUNG_NS)
        self._end_if_enough()

    @property
    def _begun(self) -> bool:
        """Whether everything was compared once, somewhere."""
        return any(delivery.initial_over for delivery in self._deliveries)

    async def _step(self) -> None:
        """Wait for something to do, and do it."""
        self._reap()
        if self._wishes:
            await self._landed()
            await self._change()
        if self._full_wanted:
            self._full_wanted = False
            if not self._absence.lasts:
                self._set_status("initsync")
            self._source.distrust()
            self._doubt_all()
            self._hurry_all()
        if self._course.only_initial and not self._asking and self._left.over(lambda delivery: delivery.initial_over):
            await self._drain_dry()
            self._leaving = self._leaving or Leaving.DONE
            return
        if (
            self._course.exit_on_no_events
            and not self._asking
            and self._left.over(lambda d: d.initial_over)
            and (self._absence.lasts or await self._left.is_nothing())
        ):
            self._leaving = Leaving.DONE
            return
        for delivery in await self._due():
            await self._hand_over(delivery)
            # The next batch may be due at once, and its handler is told the phase.
            self._show_idle()

    def _reap(self) -> None:
        for delivery in self._deliveries:
            delivery.reap()

    async def _landed(self) -> None:
        """Wait until no batch is in flight."""
        for delivery in self._deliveries:
            await delivery.landed()

    async def _drain_dry(self, most: int = 0) -> None:
        """Hand over until nothing is left, or a try too many has failed.

        `most`: batches for each target, 0 for as many as it takes.
        """
        for delivery in self._deliveries:
            delivery.target.hurry_big()
        self._search.hurry()
        self._flushing = True
        enough = {delivery: delivery.answered + most for delivery in self._deliveries}
        while self._leaving is not Leaving.NOW and not await self._left.is_nothing() and not self._left.given_up():
            self._reap()
            if self._absence.lasts and not await self._root_is_back():
                return
            if self._leaving is Leaving.FLUSH and (self._standby.holds(time.monotonic()) or self._left.only_rests()):
                return  # whoever wants the run to end does not want it to wait, nor to sync against the other word
            self._hurry_all()
            for delivery in await self._due():
                await self._hand_over(delivery)
            if most and self._left.over(lambda delivery: delivery.answered >= enough[delivery]):
                return

    async def _end(self) -> int:
        """Do what comes last; return the exit code."""
        if self._leaving is not Leaving.NOW:
            self._wishes.end()  # else who waits for them would look at what is closed meanwhile
        if self._leaving is Leaving.FLUSH:
            await self._flush()
        await self._landed()
        if self._leaving is not Leaving.NOW and self._begun and not self._left.given_up():
            await self._prepare_exit()
        code = self._verdict()
        at_exit = self._parts.at_exit
        if at_exit is not None and self._begun and (code == Exit.OK or self._interrupted):
            self._set_status("exiting")
            await at_exit.run("exiting", self._number)
        return code

    async def _flush(self, most: int = 0) -> None:
        """Hand over what is left, as `_drain_dry` does."""
        self._set_status("lastsync")
        if self._leaving is Leaving.FLUSH and self._collector.monitor is not None:
            await self._collector.catch_up(patience=LAST_READ)
            self._left.last_flush = time.time()
        self._course = self._course.last()
        for delivery in self._deliveries:
            delivery.target.begin_tries()
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
            self._log.warning("interrupted: the destination may differ; the next start makes it equal")
            return Exit.INCOMPLETE
        self._set_status("exiting")
        if self._absence.lasts:
            where = shown(self._root.path)
            self._log.error(f"watch directory {where} is away", "what changed is synced by the next start")
            return Exit.INCOMPLETE
        if self._leaving is Leaving.FLUSH and self._standby.active and self._left.is_anything():
            self._log.error(self._standby.why, "what changed is synced by the next start")
            return Exit.INCOMPLETE
        asleep = all(delivery.paused for delivery in self._deliveries) and self._left.is_anything()
        paused = [d.target for d in self._deliveries if d.paused and (asleep or d.target.pending())]
        for target in paused:
            self._log.error(f"{target.called} is paused", "what changed is synced by the next start")
        failing = [delivery.target for delivery in self._deliveries if delivery.target.failing()]
        held_back = [delivery for delivery in self._deliveries if delivery.withheld.count]
        for delivery in held_back:
            hint = "the next start asks again; --accept-target or --max-delete=none lets them go"
            self._log.error(f"{delivery.target.called}: {delivery.withheld.text}", hint)
        if (paused or held_back) and not failing:
            return Exit.INCOMPLETE
        if not failing:
            return Exit.OK
        for target in failing:
            target.name_failing()
        code = failing[0].code if self._course.retries else 0
        return code if code > 0 else Exit.INCOMPLETE

    @property
    def _number(self) -> int:
        """The number of the last batch."""
        return max(delivery.number for delivery in self._deliveries)

    async def _close(self) -> None:
        await self._scrub.stop()
        if self._warm is not None:
            await self._warm.stop()
        if self._memory is not None:
            await self._memory.close(well=self._leaving in (Leaving.DONE, Leaving.FLUSH))
        for task in self._asking:
            task.cancel()
        await self._search.close()
        self._collector.close()
        for delivery in self._deliveries:
            delivery.crew.stop()
        for delivery in self._deliveries:
            await delivery.close()
        for handler in self._wishes.give_up():
            await self._dismiss(handler)
        trouble: list[OperatorError | OSError] = []
        for delivery in self._deliveries:
            try:
                await delivery.crew.aclose()
            except (OperatorError, OSError) as error:
                trouble.append(error)
        if trouble:
            raise trouble[0]

    def _doubt_all(self) -> None:
        """Compare everything with the next batch; by content only what changes from now on."""
        self._source.doubt(time.time())

    # -- waiting -----------------------------------------------------------------------------------------------

    async def _due(self) -> list[Delivery]:
        """Wait until a batch is to be made, or something happens; return the targets for which one is due."""
        hurry = self._course.exit_on_no_events
        times: dict[Delivery, float] = {}
        for delivery in filter(self._left.serves, self._deliveries):
            at = delivery.due_at(hurry)
            if at is not None:
                times[delivery] = at
        if not await self._due_at(min(times.values(), default=None)):
            return []
        now = time.monotonic()
        return [delivery for delivery, at in times.items() if at <= now]

    async def _due_at(self, at: float | None) -> bool:
        """Sleep until the monotonic time `at`, or until something happens; tell whether a batch may be made."""
        now = time.monotonic()
        if at is not None:
            at = max(at, self._standby.until)
        look_at = self._absence.look_at
        if look_at is not None:
            if look_at <= now and await self._root_is_back():
                return False
            at = self._absence.look_at
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
        return (
            self._leaving is not None
            or bool(self._wishes)
            or (self._arrival.following.is_set() and self._full_wanted)
        )

    def _show_idle(self) -> None:
        if self._absence.lasts or self._standby.active:
            self._set_status("hold on")
        elif not self._leaving and self._warm is not None and self._warm.at_work:
            self._set_status("initsync")
        elif not self._leaving:
            self._set_status("synchandler error" if any(d.target.failing() for d in self._deliveries) else "running")

    # -- the root comes and goes -------------------------------------------------------------------------------

    def _hold(self, trouble: str) -> None:
        """Do nothing, and delete nothing, while the root is not the one we know."""
        if self._absence.go_on(trouble):
            self._set_status("hold on")

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
        self._absence.end()
        self._log.info(f"watch directory {shown(self._root.path)} is back: comparing everything")
        # What happened meanwhile was not seen.
        self._source.doubt(since)
        return True

    # -- handing over ------------------------------------------------------------------------------------------

    async def _hand_over(self, delivery: Delivery) -> None:
        """Make a batch for a target, and hand it over."""
        if self._standby.holds(time.monotonic()):
            return
        try:
            root = self._root.open()
        except OSError as error:
            self._hold(error.strerror or str(error))
            return
        trouble = self._root.trouble_at(root)
        if trouble is not None:
            self._root.close(root)
            self._hold(trouble)
            return
        delivery.hurry = False
        try:
            await delivery.hand_over(root)
        except OSError as error:
            gone = self._root.trouble()
            if gone is not None:
                self._hold(gone)  # it went away in the middle: that is one trouble, not two
            else:
                delivery.target.note_trouble(f"{shown(self._root.path)}: {error}")
            self._doubt_window()

    def _lose_window(self) -> None:
        """Compare everything, because the source could not be looked at: no target has failed by that."""
        if self._root.trouble() is not None:
            self._absence.begin()
        self._doubt_window()

    def _doubt_window(self) -> None:
        """Compare everything: what the monitor would still have named is lost."""
        since = self._collector.lost_since()
        self._collector.forget()
        self._source.doubt(since)

    def _arrived(self, delivery: Delivery, outcome: Outcome) -> None:
        """Follow a target that has answered; end the run where it has gone well often enough, or failed too often."""
        if not delivery.initial_over and not delivery.warm and outcome.verdict is not Verdict.UNWELL:
            since = int(max(delivery.compared_since - _SLACK, 0.0) * 1e9)
            self._end_initial(delivery, outcome.verdict is Verdict.DONE, min(self._started_ns, since))
        if outcome.spared:
            self._ask(delivery)
        self._end_if_enough()
        if not self._left.given_up() and self._left.given_up_on(delivery):
            self._log.error(f"{delivery.target.called} is given up: it failed too often", "the others go on")
        if not self._left.serves(delivery):
            delivery.target.end_barriers(NOT_SERVED)

    def _ask(self, delivery: Delivery) -> None:
        """Ask whoever sits at the terminal, once for each target, before anything is known of it."""
        if delivery.asked or not delivery.is_new:
            return

        async def asked() -> None:
            answer = await delivery.outlet.ask(delivery.withheld.count)
            delivery.asked = answer is not None
            if answer:
                delivery.accept()

        delivery.asked = True
        task = asyncio.create_task(asked())
        self._asking.add(task)
        task.add_done_callback(self._asked)

    def _asked(self, task: asyncio.Task[None]) -> None:
        self._asking.discard(task)
        self._call()

    def _end_if_enough(self) -> None:
        """End the run where it has gone well often enough, or failed too often."""
        limit = self._course.max_iterations
        if limit and self._leaving is None and not any(map(self._left.serves, self._deliveries)):
            self._leaving = Leaving.DONE
            left = any(d.target.pending() and not d.target.failing() for d in self._deliveries)
            if self._parts.pre_exit is None and left:
                self._log.warning(f"--max-iterations={limit} is reached; what changed since is not synced")
        if self._left.given_up():
            self._leaving = self._leaving or Leaving.DONE

    # -- other settings ----------------------------------------------------------------------------------------

    async def _change(self) -> None:
        """Go by what was asked for since the last batch."""
        wanted = self._wishes.take_parts()
        if wanted is not None:
            await self._change_parts(*wanted)
        if self._wishes.rules:
            self._wishes.rules = False
            await self._change_rules()
        self._wishes.settle()

    async def _change_parts(self, parts: Parts, handlers: Handlers) -> None:
        changes = list(zip(parts.outlets, self._deliveries, handlers, strict=True))
        rules, stale = self._rules, parts.rules_read < self._wishes.rules_asked
        if stale:
            # They were read before somebody changed the file, and said so: what was read since is not to be undone.
            parts = replace(parts, rules=self._read_rules(parts) or rules)
            self._wishes.rules = False
        parts = replace(
            parts, outlets=tuple(new.keeping(d.outlet) if handler is None else new for new, d, handler in changes)
        )
        for outlet, (_, delivery, handler) in zip(parts.outlets, changes, strict=True):
            crew = delivery.crew
            if handler is None:
                crew.follow(outlet.make_handler, outlet.in_flight)
                delivery.use(parts, outlet, crew)
                continue
            delivery.use(parts, outlet, Crew(handler, outlet.make_handler, outlet.in_flight))
            delivery.target.begin_tries()
            await self._dismiss(crew)
        self._note_parts(parts)
        if parts.rules.source_text == rules.source_text:
            await self._use_memory()
        for unused in self._wishes.take_dismissed():
            await self._dismiss(unused)
        if parts.rules.source_text != rules.source_text:
            await self._use_rules(parts.rules)
            if stale:
                self._log.info(_RULES_READ)
            return
        for _, delivery, handler in changes:
            if handler is not None:
                delivery.target.dirty.add([(b"", DOUBT)], time.time())

    async def _dismiss(self, handler: Handler | Crew) -> None:
        try:
            await handler.aclose()
        except OperatorError as error:
            self._log.error(error.message, error.hint)
        except OSError as error:
            self._log.error(f"a handler that is not used any more: {error}", "it is left alone")

    async def _change_rules(self) -> None:
        self._set_status("rehashing")
        rules = self._read_rules(self._parts)
        if rules is None:
            return
        if rules.source_text == self._rules.source_text:
            self._log.info("rules: nothing has changed")
            return
        await self._use_rules(rules)
        self._log.info(_RULES_READ)

    def _read_rules(self, parts: Parts) -> Rules | None:
        """Read the rules file again; None if that cannot be done."""
        try:
            return parts.read_rules()
        except OperatorError as error:
            self._log.error(error.message, f"{error.hint}; the old rules stay in force")
            return None

    async def _use_rules(self, rules: Rules) -> None:
        """Watch, and compare everything, by other rules."""
        self._rules = rules
        self._warn_of_rules()
        if self._warm is not None:
            await self._warm.stop()
        await self._use_memory()
        for delivery in self._deliveries:
            delivery.use_rules(rules)
        since = self._collector.lost_since()
        if self._collector.monitor is not None:
            try:
                await self._arm()
            except (OperatorError, OSError) as error:
                self._hold(str(error))
        self._source.doubt(since)

    def _warn_of_rules(self) -> None:
        rule = self._rules.barring()
        if rule is not None:
            what = "rejects the watched directory itself: nothing in it is ever synced"
            self._log.warning(f"rules, {rule}: {what}; write +d^$ before it")


def _first_handler(delivery: Delivery) -> Handler:
    return delivery.crew.first


def _holds_anything(directory: bytes) -> bool:
    """Tell whether a directory has entries; True where it cannot be read now."""
    try:
        with os.scandir(directory) as entries:
            return next(entries, None) is not None
    except OSError:
        return True
