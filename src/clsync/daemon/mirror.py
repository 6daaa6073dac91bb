"""The pipeline at work: arm, sync all, then collect, resolve, hand over, settle - for years."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from clsync.core import batch as flag
from clsync.core.batch import Batch, Outcome, Verdict
from clsync.core.changes import DOUBT, NAME
from clsync.core.classify import CHANGE_SHIFT, Classifier, Freshness, LinkedFile
from clsync.core.links import LinkIndex, stands_for
from clsync.core.paths import shown
from clsync.core.rules import Rules
from clsync.core.windows import Window
from clsync.daemon.course import Course, Leaving
from clsync.daemon.hooks import Hook
from clsync.daemon.linkfinder import LinkFinder
from clsync.daemon.linksearch import LinkSearch
from clsync.daemon.log import Log
from clsync.daemon.resolve import Resolved, Resolver
from clsync.daemon.root import Directory
from clsync.daemon.standby import Standby
from clsync.daemon.target import Target
from clsync.errors import Exit, OperatorError
from clsync.handler.base import Handler
from clsync.kernel.files import opened
from clsync.kernel.slices import Turn, in_slices
from clsync.kernel.walk import lstat_below
from clsync.monitor.base import Changed, Monitor

TICK_NS = 20_000_000
"""No file system clock is coarser than this, where it counts nanoseconds at all (CONFIG_HZ=100 makes 10 ms)."""
PART = 65_536
"""Changes that go into one batch: memory is bounded, here and in the handler."""
_ROOT_CHECK = 1.0
"""Seconds between two looks for a root that is gone."""
_ARM_TURN = 0.02
_REST = 0.01
"""Seconds between two reads while a window is open; the queue of inotify holds more than comes in that time."""
_TOLD = ("initsync", "synchandler error", "lastsync")
"""Phases that handlers are told of; all others are `running` to them."""


class Taking(NamedTuple):
    """A window that is being handed over, in one batch or in several."""

    changes: Iterator[Changed]
    since: float
    """No change in it is older (wall-clock seconds)."""
    fresh_after: int
    """See `Freshness`: no version that was sent has a later mtime (wall-clock ns)."""


class Mirror:
    """Keeps one target equal to one tree."""

    def __init__(
        self,
        *,
        root: Directory,
        open_monitor: Callable[[Rules], Monitor],
        handler: Handler,
        rules: Rules,
        read_rules: Callable[[], Rules],
        set_rules: Callable[[Rules], None],
        window: Window,
        course: Course,
        log: Log,
        set_status: Callable[[str], None],
        big_files: tuple[int, float] = (0, 0.0),
        one_file_system: int = 0,
        started_ns: int = 0,
        pre_exit: Hook | None = None,
        at_exit: Hook | None = None,
        standby: bytes | None = None,
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        """`big_files`: size in bytes above which changed files wait (0: none), and for how many seconds.

        `started_ns`: wall-clock time since which files may have changed unseen in spite of equal size and mtime.

        `pre_exit` is run before the last batch, `at_exit` after it. `standby`: a file that holds everything up.

        `ready` is called once when the tree is watched.
        """
        self._root, self._open_monitor, self._handler = root, open_monitor, handler
        self._rules, self._read_rules, self._set_rules = rules, read_rules, set_rules
        self._window, self._course, self._log, self._write_status = window, course, log, set_status
        self._status = ""
        self._pre_exit, self._at_exit, self._ready = pre_exit, at_exit, ready
        self._standby = Standby(standby, log)
        self._links = links = LinkIndex()
        self._resolver = Resolver(links, big=big_files[0], one_file_system=one_file_system)
        self._resolver.rules = rules if rules else None
        self._target = Target(log, big_files[1])
        finder = LinkFinder(links, self._opened_root)
        self._search = LinkSearch(finder, self._resolver.searches, self._release, self._revive, self._watch_file, log)
        if course.exit_on_no_events:
            self._search.hurry()
        self._monitor: Monitor | None = None
        self._taking: Taking | None = None
        self._due_timer: asyncio.TimerHandle | None = None
        self._resting: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self._leaving: Leaving | None = None
        self._hurry = self._full_wanted = self._rules_wanted = self._flushing = self._following = False
        self._initial_over = course.skip_initial
        self._hold_until: float | None = None
        self._at_work = self._interrupted = False
        self._trouble = ""
        self._number = self._confirmed = 0
        self._last_end_ns, self._started_ns = time.time_ns(), started_ns
        self._last_take = time.time()

    def _set_status(self, word: str) -> None:
        self._status = word
        self._write_status(word)

    # -- what signals ask for ----------------------------------------------------------------------------------

    def leave(self, how: Leaving) -> None:
        """End the run."""
        if how is Leaving.NOW and (self._at_work or self._course.meant_to_end):
            self._interrupted = True
        if self._leaving is None or how is Leaving.NOW:
            self._leaving = how
        if how is Leaving.NOW:
            self._handler.stop()
            for hook in (self._pre_exit, self._at_exit):
                if hook is not None:
                    hook.stop()
        self._wake.set()

    def hand_over_now(self) -> None:
        """Do not wait for the delays this time."""
        self._drain()  # what changed before this was asked for is to be handed over
        self._hurry = True
        self._wake.set()

    def sync_all(self) -> None:
        """Do a full sync again."""
        self._full_wanted = True
        self._wake.set()

    def reread_rules(self) -> None:
        """Read the rules file again."""
        self._rules_wanted = True
        self._wake.set()

    # -- phases ------------------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Arm, sync, follow; return the exit code. Raises OperatorError where the tree cannot be watched."""
        try:
            await self._handler.open()
            if not self._course.only_initial:
                await self._arm()
            self._ready()
            if not self._course.skip_initial:
                await self._initial()
            elif self._monitor is not None and self._handler.trusts_times:
                self._search.begin_catalogue(time.time_ns())  # what is older is skipped
            self._following = True
            while self._leaving is None:
                await self._step()
            return await self._end()
        finally:
            await self._close()

    async def _arm(self) -> None:
        """Watch the tree: from now on no change is missed."""
        started = turn = time.monotonic()
        monitor = self._open_monitor(self._rules)
        try:
            for _ in monitor.arm():
                if time.monotonic() - turn > _ARM_TURN:
                    monitor.drain()
                    await asyncio.sleep(0)
                    turn = time.monotonic()
                    if self._leaving is Leaving.NOW:
                        break
        except BaseException:
            monitor.close()
            raise
        loop = asyncio.get_running_loop()
        old, self._monitor, self._taking = self._monitor, monitor, None
        if old is not None:
            loop.remove_reader(old.fileno())
            old.close()
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None
        loop.add_reader(monitor.fileno(), self._drain)
        self._log.info(f"watching {shown(self._root.path)}: {monitor.describe()}")
        self._log.debug(1, f"armed in {time.monotonic() - started:.3f} s")
        self._drain()

    async def _initial(self) -> None:
        """Make everything equal once; go on to follow changes as soon as the target has answered."""
        self._set_status("initsync")
        self._log.progress("initial sync: making the destination equal; changes are collected meanwhile")
        started = time.monotonic()
        glues = self._handler.glues if self._handler.glues and _holds_anything(self._handler.glues) else None
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
        if self._monitor is not None and self._handler.trusts_times:
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
        if self._rules_wanted:
            self._rules_wanted = False
            await self._change_rules()
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
                done = await self._hand_over()
                most -= done is not None
                if not most and done is not None:
                    return

    async def _end(self) -> int:
        """Do what comes last; return the exit code."""
        if self._leaving is Leaving.FLUSH:
            await self._flush()
        if self._leaving is not Leaving.NOW and self._initial_over and not self._given_up():
            await self._prepare_exit()
        code = self._verdict()
        if self._at_exit is not None and self._initial_over and (code == Exit.OK or self._interrupted):
            self._set_status("exiting")
            await self._at_exit.run("exiting", self._number)
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
        if self._pre_exit is not None and self._monitor is not None:
            self._set_status("preexit")
            await self._pre_exit.run("preexit", self._number)
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
        for timer in (self._due_timer, self._resting):
            if timer is not None:
                timer.cancel()
        if self._monitor is not None:
            asyncio.get_running_loop().remove_reader(self._monitor.fileno())
            self._monitor.close()
        await self._handler.aclose()

    # -- collecting --------------------------------------------------------------------------------------------

    def _drain(self) -> bool:
        """Fold what the kernel has; return whether the window holds anything."""
        monitor = self._monitor
        if monitor is None:
            return False
        filled = monitor.drain()
        now = time.monotonic()
        if filled and self._window.opened_at is None:
            self._window.open(now)
            self._wake.set()
        if filled and (self._window.due() or 0.0) - now > 2 * _REST:
            self._rest()
        if self._hold_until is None and monitor.root_gone():
            self._hold_until = 0.0
            self._wake.set()
        due = monitor.due()
        if self._due_timer is not None:
            self._due_timer.cancel()
            self._due_timer = None
        if due is not None:
            wait = max(due - now, 0.001)
            self._due_timer = asyncio.get_running_loop().call_later(wait, self._drain)
        return filled

    def _rest(self) -> None:
        """Let events gather in the kernel, which folds some of them: reading each as it comes costs far more."""
        assert self._monitor is not None
        loop = asyncio.get_running_loop()
        if self._resting is None and loop.remove_reader(self._monitor.fileno()):
            self._resting = loop.call_later(_REST, self._rested)

    def _rested(self) -> None:
        self._resting = None
        if self._monitor is not None:
            asyncio.get_running_loop().add_reader(self._monitor.fileno(), self._drain)

    def _anything_left(self) -> bool:
        searching = self._search.busy and not (self._search.failing and self._leaving is not None)
        unknown = self._hold_until is not None or self._taking is not None
        return unknown or self._target.pending() or searching or self._drain()

    def _doubt_all(self) -> None:
        """Compare everything with the next batch; by content only what changes from now on."""
        self._target.dirty.add([(b"", DOUBT)], time.time())

    def _lost_since(self) -> float:
        """Return since when (wall clock) changes are lost if the monitor is replaced now."""
        return self._taking.since if self._taking is not None else self._last_take

    def _given_up(self) -> bool:
        """Tell whether something has failed as often as it may."""
        tries = self._course.tries
        return tries > 0 and self._target.worst() >= tries

    # -- waiting -----------------------------------------------------------------------------------------------

    def _wake_at(self) -> float | None:
        """Return when the next batch is to be made (0: now); None: not before something happens."""
        hurry = self._hurry or self._course.exit_on_no_events
        times = [self._target.next_at(self._window.earliest(), hurry)]
        due = self._window.due() if self._taking is None else 0.0
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
        return self._leaving is not None or (self._following and (self._rules_wanted or self._full_wanted))

    def _show_idle(self) -> None:
        if self._hold_until is not None or self._standby.active:
            self._set_status("hold on")
        elif not self._leaving:
            self._set_status("synchandler error" if self._target.failing() else "running")

    # -- the root comes and goes -------------------------------------------------------------------------------

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
        since = self._lost_since()
        if trouble is None and self._monitor is not None:
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
        """Make one batch and hand it over: True if all is confirmed, False if some, None if nothing is."""
        if self._standby.holds(time.monotonic()):
            return None
        try:
            root = self._opened_root()
        except OSError as error:
            self._hold(error.strerror or str(error))
            return None
        try:
            trouble = self._root.trouble_at(root)
            if trouble is not None:
                self._hold(trouble)
                return None
            return await self._hand_over_at(root, initial)
        except OSError as error:
            # What the monitor would still have named is lost: everything is compared.
            since, self._taking = self._lost_since(), None
            self._target.dirty.abort()
            self._target.note_trouble(f"{shown(self._root.path)}: {error}")
            self._target.dirty.add([(b"", DOUBT)], since)
            return None
        finally:
            os.close(root)

    async def _hand_over_at(self, root: int, initial: bool) -> bool | None:
        now = time.monotonic()
        self._hurry = False
        ripe = self._target.dirty.ripen(now)
        fresh_after = 0 if initial else await self._take(now)
        taken = self._target.dirty.take()
        return await self._sync(taken, ripe, root, fresh_after, initial) if taken else True

    async def _take(self, now: float) -> int:
        """Move what the window holds to the dirty set, as much of it as goes into one batch.

        Return the time (wall-clock ns) after which an mtime proves that a file was not sent yet.
        """
        proven = self._last_end_ns + TICK_NS + self._handler.coarse_ns
        if self._monitor is None:
            return proven
        if self._taking is None:
            self._window.close(now)
            since, self._last_take = self._last_take, time.time()
            self._taking = Taking(self._monitor.take(), since, proven)
        taking, dirty = self._taking, self._target.dirty
        turn = Turn()
        for paths, bits in taking.changes:
            dirty.add_all(paths, bits, taking.since)
            if len(dirty.ready) >= PART:
                break
            await turn.rest_if_due()
        else:
            await self._look_for_survivors(taking.since)
            self._taking = None
        # What is taken in several parts was not sent since the first of them.
        return taking.fresh_after

    async def _look_for_survivors(self, since: float) -> None:
        """Find the other names of files that were changed through a name that is gone."""
        assert self._monitor is not None
        unseen: dict[LinkedFile, int] = {}
        with opened(self._root.path) as root:
            stands = Classifier(lstat_below(root), Freshness(0, 0)).stands
            async for survivor in in_slices(self._monitor.survivors()):
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
        self._target.dirty.add(names.items(), self._last_take)
        self._wake.set()

    def _watch_file(self, path: bytes, file: LinkedFile) -> int:
        return self._monitor.watch_file(path, file) if self._monitor is not None else 0

    async def _sync(
        self, taken: dict[bytes, int], ripe: set[bytes], root: int, fresh_after: int, initial: bool
    ) -> bool | None:
        started, since = time.monotonic(), time.time()
        if initial:
            everything = flag.DIRECTORY | flag.RECURSIVE | DOUBT << CHANGE_SHIFT
            resolved = Resolved({b"": everything}, 0, [b""])
        else:
            freshness = Freshness(fresh_after, time.time_ns())
            doubts = self._target.dirty.doubts
            resolved = await self._resolver.resolve(taken, root=root, freshness=freshness, doubts=doubts, ripe=ripe)
        if any(bits & (NAME | DOUBT) for bits in set(taken.values())):
            self._search.note_new_names()
        async for file, names in in_slices(resolved.linked.items()):
            self._watch_file(next(iter(names)), file)
        outcome = await self._handed(resolved, root, initial)
        self._target.settle(taken, resolved, outcome, since)
        self._search.want(resolved.wanted, resolved.changed)
        if outcome.verdict is Verdict.UNWELL:
            self._leave_if_given_up()
            return None
        if self._monitor is not None:
            self._monitor.compared(resolved.whole, int(since * 1e9))
        if resolved.entries:
            took = time.monotonic() - started
            self._log.progress(f"batch {self._number}: {_named(resolved.entries)} in {took:.3f} s")
        if resolved.entries:
            self._count(outcome)
        return outcome.verdict is Verdict.DONE and not resolved.unreadable

    async def _handed(self, resolved: Resolved, root: int, initial: bool) -> Outcome:
        if not resolved.entries:
            return Outcome(Verdict.DONE)
        if self._leaving is Leaving.NOW:
            return Outcome(Verdict.UNWELL, message="stopped")
        self._number += 1
        batch = Batch(
            self._number,
            resolved.entries,
            root,
            initial=initial,
            status=self._status if self._status in _TOLD else "running",
            linked=[name for names in resolved.linked.values() for name in names],
            attribute_bytes=resolved.attribute_bytes,
        )
        self._log.debug(2, f"batch {batch.number}: {len(batch.entries)} entries")
        if self._log.debug_level >= 3:
            for path, flags in batch.entries.items():
                self._log.debug(3, f"  {flags:#x} {shown(path)}")
        self._at_work = True
        try:
            outcome = await self._handler.sync(batch)
        finally:
            self._at_work = False
        self._last_end_ns = time.time_ns()
        return outcome

    def _count(self, outcome: Outcome) -> None:
        """Count an iteration that went well; end the run where that was enough, or one failed too often."""
        if outcome.verdict is Verdict.DONE:
            self._confirmed += 1
            limit = self._course.max_iterations
            if limit and self._confirmed >= limit and self._leaving is None:
                self._leaving = Leaving.DONE
                if self._pre_exit is None and self._target.pending() and not self._target.failing():
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
        self._wake.set()

    # -- rules -------------------------------------------------------------------------------------------------

    async def _change_rules(self) -> None:
        self._set_status("rehashing")
        try:
            rules = self._read_rules()
        except OperatorError as error:
            self._log.error(error.message, f"{error.hint}; the old rules stay in force")
            return
        if rules.source_text == self._rules.source_text:
            self._log.info("rules: nothing has changed")
            return
        self._rules = rules
        self._resolver.rules = rules if rules else None
        self._set_rules(rules)
        since = self._lost_since()
        if self._monitor is not None:
            try:
                await self._arm()
            except (OperatorError, OSError) as error:
                self._hold(str(error))
        self._log.info("rules: read again, comparing everything")
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
