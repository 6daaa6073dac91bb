"""The pipeline at work: arm, sync all, then collect, resolve, hand over, settle - for years."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from clsync.core.batch import Outcome, Verdict
from clsync.core.changes import DOUBT
from clsync.core.paths import shown
from clsync.core.rules import Rules
from clsync.core.windows import Window
from clsync.daemon.collector import Collector
from clsync.daemon.course import Leaving
from clsync.daemon.crew import Crew
from clsync.daemon.delivery import Delivery
from clsync.daemon.dump import State
from clsync.daemon.log import Log
from clsync.daemon.parts import Parts
from clsync.daemon.root import Directory
from clsync.daemon.standby import Standby
from clsync.errors import Exit, OperatorError
from clsync.handler.base import Handler
from clsync.monitor.base import Monitor

_ROOT_CHECK = 1.0
"""Seconds between two looks for a root that is gone."""


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
        stands: Callable[[bytes], bool],
        one_file_system: int = 0,
        started_ns: int = 0,
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        """`handler`: the first one of those that `parts` makes. `stands` tells whether something stands at a path.

        `started_ns`: wall-clock time since which files may have changed unseen in spite of equal size and mtime.

        `ready` is called once when the tree is watched.
        """
        self._root, self._log, self._write_status, self._ready = root, log, set_status, ready
        self._stands = stands
        self._status = ""
        self._wake = asyncio.Event()
        self._collector = Collector(open_monitor, Window(), log, wake=self._call, root_gone=self._note_root_gone)
        self._delivery = Delivery(
            root,
            self._collector,
            log,
            parts,
            Crew(handler, parts.make_handler, parts.in_flight),
            one_file_system=one_file_system,
            phase=lambda: self._status,
            stopped=lambda: self._leaving is Leaving.NOW,
            arrived=self._arrived,
            wake=self._call,
        )
        self._target, self._search = self._delivery.target, self._delivery.search
        self._note_parts(parts)
        if self._course.exit_on_no_events:
            self._search.hurry()
        self._leaving: Leaving | None = None
        self._hurry = self._full_wanted = self._rules_wanted = self._flushing = self._following = False
        self._parts_wanted: tuple[Parts, Handler | None] | None = None
        self._dismissed: list[Handler] = []
        """Handlers that were made and never used."""
        self._initial_over = self._course.skip_initial
        self._hold_until: float | None = None
        self._interrupted = False
        self._trouble = ""
        self._confirmed = 0
        self._started_ns = started_ns

    def _note_parts(self, parts: Parts) -> None:
        self._parts, self._course, self._rules = parts, parts.course, parts.rules
        self._standby = Standby(parts.standby, self._stands, self._log)

    def _set_status(self, word: str) -> None:
        self._status = word
        self._write_status(word)

    # -- what signals ask for ----------------------------------------------------------------------------------

    def _call(self) -> None:
        """Wake the main loop."""
        self._wake.set()

    def leave(self, how: Leaving) -> None:
        """End the run."""
        if how is Leaving.NOW and (self._delivery.crew.at_work or self._course.meant_to_end):
            self._interrupted = True
        if self._leaving is None or how is Leaving.NOW:
            self._leaving = how
        if how is Leaving.NOW:
            self._delivery.crew.stop()
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
            iteration=self._delivery.number,
            last_sync=self._delivery.last_sync,
            collecting=collector.due() is not None,
            pending=len(target.dirty),
            in_flight=sum(map(len, target.dirty.flights)),
            trouble=self._trouble if self._hold_until is not None else target.trouble(),
            failing=target.dirty.failing(),
        )

    async def state(self) -> State:
        """Return what is going on. The window that is open is looked at, and goes on as before. Raises OSError."""
        try:
            # While everything is compared, what the window holds is to be named by the window.
            if self._following:
                await self._delivery.look_into_window()
        except OSError as error:
            self._note_window_lost(error)
        except asyncio.CancelledError:
            self._doubt_window()
            raise
        dirty = self._target.dirty
        changes, big, searched, met = dict(dirty.ready), dict[bytes, int](), dict[bytes, int](), dict[bytes, int]()
        for path, (bits, until) in dirty.waiting().items():
            endless = searched if until == float("inf") else changes
            queue = met if path in self._delivery.met else big if self._target.is_big(path) else endless
            queue[path] = bits
        flights, failing = [*self._delivery.in_air.values()], self._target.failing()
        return State(self._status, flights, (changes, big, searched, met), failing, self._parts.overlap != "off")

    # -- phases ------------------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Arm, sync, follow; return the exit code. Raises OperatorError where the tree cannot be watched."""
        try:
            await self._delivery.crew.first.open()
            if not self._course.only_initial:
                await self._arm()
            self._ready()
            if not self._course.skip_initial:
                await self._initial()
            elif self._collector.monitor is not None and self._delivery.crew.first.trusts_times:
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
        handler = self._delivery.crew.first
        glues = handler.glues if handler.glues and _holds_anything(handler.glues) else None
        self._doubt_all()
        while self._leaving is None and not self._given_up():
            if self._rules_wanted or self._parts_wanted is not None:
                await self._change()
            if not await self._due_at(self._target.next_at(0.0, hurry=True)):
                continue
            done = await self._hand_over(initial=True)
            if done is not None:
                break
        else:
            return
        self._initial_over = True
        self._show_idle()
        if self._collector.monitor is not None and self._delivery.crew.first.trusts_times:
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
        self._delivery.reap()
        if self._rules_wanted or self._parts_wanted is not None:
            await self._delivery.landed()
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
            self._delivery.reap()
            if self._hold_until is not None and not await self._root_is_back():
                return
            self._hurry = True
            if await self._due_at(self._wake_at()):
                before = self._delivery.number
                done = await self._hand_over()
                if done is not None and self._delivery.number > before:
                    most -= 1
                    if not most:
                        return

    async def _end(self) -> int:
        """Do what comes last; return the exit code."""
        if self._leaving is Leaving.FLUSH:
            await self._flush()
        await self._delivery.landed()
        if self._leaving is not Leaving.NOW and self._initial_over and not self._given_up():
            await self._prepare_exit()
        code = self._verdict()
        at_exit = self._parts.at_exit
        if at_exit is not None and self._initial_over and (code == Exit.OK or self._interrupted):
            self._set_status("exiting")
            await at_exit.run("exiting", self._delivery.number)
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
            await self._parts.pre_exit.run("preexit", self._delivery.number)
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
        await self._delivery.close()
        for handler in self._unused():
            await self._dismiss(handler)
        await self._delivery.crew.aclose()

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
        if self._delivery.busy:
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
        wanted = self._rules_wanted or self._parts_wanted is not None
        return self._leaving is not None or wanted or (self._following and self._full_wanted)

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
            root = self._root.open()
        except OSError as error:
            self._hold(error.strerror or str(error))
            return None
        trouble = self._root.trouble_at(root)
        if trouble is not None:
            self._root.close(root)
            self._hold(trouble)
            return None
        self._hurry = False
        try:
            return await self._delivery.hand_over(root, initial)
        except OSError as error:
            self._note_window_lost(error)
            return None

    def _note_window_lost(self, error: OSError) -> None:
        self._target.note_trouble(f"{shown(self._root.path)}: {error}")
        self._doubt_window()

    def _doubt_window(self) -> None:
        """Compare everything: what the monitor would still have named is lost."""
        since = self._collector.lost_since()
        self._collector.forget()
        self._target.dirty.add([(b"", DOUBT)], since)

    def _arrived(self, outcome: Outcome) -> None:
        """Count an iteration that went well; end the run where that was enough, or one failed too often."""
        if outcome.verdict is Verdict.DONE:
            self._confirmed += 1
            limit = self._course.max_iterations
            if limit and self._confirmed >= limit and self._leaving is None:
                self._leaving = Leaving.DONE
                if self._parts.pre_exit is None and self._target.pending() and not self._target.failing():
                    self._log.warning(f"--max-iterations={limit} is reached; what changed since is not synced")
        if self._given_up():
            self._leaving = self._leaving or Leaving.DONE

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
        rules, crew = self._rules, self._delivery.crew
        if handler is None:
            parts = parts.keeping(self._parts)
            self._delivery.use(parts, crew)
        else:
            self._delivery.use(parts, Crew(handler, parts.make_handler, parts.in_flight))
            self._target.begin_tries()
            await self._dismiss(crew)
        self._note_parts(parts)
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
        except OSError as error:
            self._log.error(f"a handler that is not used any more: {error}", "it is left alone")

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
        self._delivery.use_rules(rules)
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
