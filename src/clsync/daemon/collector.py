"""What the kernel reports, until it is handed over: the monitor, and the window it fills."""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

from clsync.core.changes import DOUBT, NAME
from clsync.core.classify import LinkedFile
from clsync.core.moves import Move
from clsync.core.rules import Rules
from clsync.core.windows import Window
from clsync.daemon.log import Log
from clsync.kernel.slices import Turn, in_parts, in_slices
from clsync.monitor.base import Changed, Monitor

PART = 65_536
"""Changes that go into one batch: memory is bounded, here and in the handler."""
_ARM_TURN = 0.02
_CATCHING_UP = 10.0
"""Seconds after which a queue that never gets empty is taken for read, as a rule."""
_NAMED = NAME | DOUBT
_LEAST_REST = 0.001
"""Seconds between two reads that are worth the while."""


class Taking(NamedTuple):
    """A window that is being handed over, in one batch or in several."""

    changes: Iterator[Changed]
    since: float
    """No change in it is older (wall-clock seconds)."""


class Collector:
    """Reads the monitor as events come, so that no queue of the kernel runs over."""

    def __init__(
        self,
        open_monitor: Callable[[Rules], Monitor],
        window: Window,
        log: Log,
        *,
        wake: Callable[[], None],
        root_gone: Callable[[], None],
    ) -> None:
        """`wake` is called when a window opens, `root_gone` when the watched directory is not there."""
        self._open_monitor, self.window, self._log = open_monitor, window, log
        self._wake, self._root_gone = wake, root_gone
        self.monitor: Monitor | None = None
        self._taking: Taking | None = None
        self._seen: dict[bytes, int] = {}
        """What somebody has looked at, and is not handed over yet -> change bits."""
        self.seen_whole = True
        """Whether the last look has seen all that the window held."""
        self._unseen: Iterator[Changed] | None = None
        """The rest of a window that was looked at, too large to be seen at once; None: nobody has looked."""
        self._moves: list[Move] | None = []
        """What was moved in one of the windows that were looked at; None: in several of them."""
        self._before: dict[bytes, int] = {}
        """What had been seen before that window -> change bits."""
        self._turn = asyncio.Lock()
        """One of those who take, look and watch anew works at a time."""
        self._due_timer: asyncio.TimerHandle | None = None
        self._resting: asyncio.TimerHandle | None = None
        self._last_take = time.time()
        self._closed = False

    async def arm(self, rules: Rules, stopped: Callable[[], bool]) -> None:
        """Watch the tree: from now on no change is missed. Raises OperatorError, OSError.

        `stopped` tells whether it is not worth while any more.
        """
        started = turn = time.monotonic()
        monitor = self._open_monitor(rules)
        try:
            for _ in monitor.arm():
                if time.monotonic() - turn > _ARM_TURN:
                    monitor.drain()
                    await asyncio.sleep(0)
                    turn = time.monotonic()
                    if stopped():
                        break
        except BaseException:
            monitor.close()
            raise
        async with self._turn:
            self._watch_by(monitor)
        self._log.debug(1, f"armed in {time.monotonic() - started:.3f} s")
        self.drain()

    def _watch_by(self, monitor: Monitor) -> None:
        """Go over to a monitor that is armed."""
        loop = asyncio.get_running_loop()
        old, self.monitor = self.monitor, monitor
        self.forget()
        if old is not None:
            loop.remove_reader(old.fileno())
            old.close()
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None
        loop.add_reader(monitor.fileno(), self.drain)

    def drain(self) -> bool:
        """Fold what the kernel has; return whether the window holds anything."""
        monitor, window = self.monitor, self.window
        if monitor is None or self._closed:
            return False
        filled = monitor.drain()
        now = time.monotonic()
        if filled and window.opened_at is None:
            window.open(now)
            self._wake()
        due = window.due()
        if filled and due is not None:
            self._rest(monitor, min(abs(due - now), monitor.rest()))  # it is not due yet, or waits for a handler
        if monitor.root_gone():
            self._root_gone()
        wanted = monitor.due()
        if self._due_timer is not None:
            self._due_timer.cancel()
            self._due_timer = None
        if wanted is not None:
            self._due_timer = asyncio.get_running_loop().call_later(max(wanted - now, 0.001), self.drain)
        return filled or self._unseen is not None or bool(self._seen)

    async def catch_up(self, fresh: bool = False, patience: float = _CATCHING_UP) -> None:
        """Read all that the kernel has by now: one `drain` ends after some work, and neighbours may be busy.

        `fresh`: who looks at intervals looks now, however long that takes. `patience`: seconds after which a queue that
        never gets empty is taken for read.
        """
        monitor, until = self.monitor, time.monotonic() + patience
        if monitor is None:
            return
        if fresh:
            monitor.begin_look()
        queue = select.poll()
        queue.register(monitor.fileno(), select.POLLIN)
        while self.monitor is monitor and (
            (fresh and monitor.looking()) or (queue.poll(0) and time.monotonic() < until)
        ):
            self.drain()
            await asyncio.sleep(0)

    def _rest(self, monitor: Monitor, seconds: float) -> None:
        """Let events gather in the kernel, which folds some of them: reading each as it comes costs far more."""
        loop = asyncio.get_running_loop()
        if self._resting is None and seconds > _LEAST_REST and loop.remove_reader(monitor.fileno()):
            self._resting = loop.call_later(seconds, self._end_rest)

    def _end_rest(self) -> None:
        if self._resting is None:
            return
        self._resting.cancel()
        self._resting = None
        if self.monitor is not None:
            asyncio.get_running_loop().add_reader(self.monitor.fileno(), self.drain)

    @property
    def half_taken(self) -> bool:
        """Whether a window is too large for one batch, and some of it is left."""
        return self._taking is not None

    def due(self) -> float | None:
        """Return when (monotonic seconds) the window is to be handed over; None while it is empty."""
        return self.window.due() if self._taking is None else 0.0

    def lost_since(self) -> float:
        """Return since when (wall clock) changes are lost if the monitor is replaced now."""
        return self._taking.since if self._taking is not None else self._last_take

    def forget(self) -> None:
        """Drop what is left of a window that is half taken, or was looked at."""
        self._taking, self._seen, self._unseen, self._moves, self._before = None, {}, None, [], {}

    @property
    def last_take(self) -> float:
        """When a window was closed last (wall clock)."""
        return self._last_take

    async def take(
        self,
        now: float,
        moved: Callable[[Sequence[Move], float], None],
        add: Callable[[Sequence[bytes], int, float], None],
        enough: Callable[[], bool],
        at_end: Callable[[float], Awaitable[None]],
    ) -> None:
        """Empty the window, or as much of it as is `enough`. Raises OSError.

        `moved` is told first what was moved in the window, perhaps nothing, and since when (wall-clock seconds). `add` is
        told paths, what has changed of them, and since when. `at_end` is told since when, once all of a window is taken.
        """
        async with self._turn:
            monitor = self.monitor
            if monitor is None:
                return
            if self._taking is None:
                self.window.close(now)
                self._end_rest()  # what comes now opens the next one
                since, self._last_take = self._last_take, time.time()
                await self._end_window(monitor)
                self._taking = Taking(self._unseen or iter(()), since)
                async for part in in_parts(self._before.items()):
                    for path, bits in part:
                        add((path,), bits, since)
                moved(self._moves or [], since)
                self._unseen, self._moves, self._before = None, [], {}
            taking, turn = self._taking, Turn()
            seen, self._seen = self._seen, {}
            async for part in in_parts(seen.items()):
                for path, bits in part:
                    add((path,), bits, taking.since)
            if enough():
                return
            for paths, bits in taking.changes:
                add(paths, bits, taking.since)
                if enough():
                    return
                await turn.rest_if_due()
            self.drain()  # to name what has changed may have been too much: that is in the next window
            await at_end(taking.since)
            self._taking = None

    async def look(self) -> Mapping[bytes, int]:
        """Return what the window holds, as much of it as goes into one batch: path -> change bits. Raises OSError.

        It is handed over when it would have been. After an error, what the window held is lost.
        """
        async with self._turn:
            monitor, seen, turn = self.monitor, self._seen, Turn()
            self.seen_whole = monitor is None or self.due() is None
            if monitor is None or self.due() is None or len(seen) >= PART:
                return dict(seen)
            self.seen_whole = self._taking is None
            if self._taking is None:
                await self._end_window(monitor)
            changes = self._taking.changes if self._taking is not None else self._unseen
            for paths, bits in changes or ():
                for path in paths:
                    seen[path] = seen.get(path, 0) | bits
                if len(seen) >= PART:
                    self.seen_whole = False
                    break
                await turn.rest_if_due()
            else:
                self._unseen = None
            return dict(seen)

    async def _end_window(self, monitor: Monitor) -> None:
        """Let the monitor end its window, and keep what was in that beside what others have left."""
        rest, changes, later = self._unseen, monitor.take(), list[Changed]()
        # First of all: whoever looks may be cut off below.
        self._unseen = chain(rest or (), later, changes)
        try:
            moves = [move async for move in in_slices(monitor.moves()) if move is not None]
        finally:
            self.drain()  # to be sure, it may have read the queue: what was there has opened the next window
        if self._moves:
            async for change in in_slices(changes):
                later.append(change)
            places = {move.new for move in self._moves}
            if not places.isdisjoint(path for paths, bits in later if bits & _NAMED for path in paths):
                self._moves, self._before = None, {}  # something else stands by now where something was moved to
        if not moves:
            return
        # Of two windows, the places of the one are none of the other.
        alone = self._moves == [] and rest is None
        self._moves, self._before = (moves, dict(self._seen)) if alone else (None, {})

    def survivors(self) -> AsyncIterator[tuple[LinkedFile, bytes | None, int] | None]:
        """Yield what was changed through names that are gone (see `Monitor.survivors`)."""
        assert self.monitor is not None
        return in_slices(self.monitor.survivors())

    def watch_file(self, path: bytes, file: LinkedFile) -> int:
        """Watch a file with several names by itself (see `Monitor.watch_file`)."""
        return self.monitor.watch_file(path, file) if self.monitor is not None else 0

    def close(self) -> None:
        """Watch no more; who is looking may be cut off later."""
        if self._closed:
            return
        self._closed = True
        for timer in (self._due_timer, self._resting):
            if timer is not None:
                timer.cancel()
        if self.monitor is not None:
            asyncio.get_running_loop().remove_reader(self.monitor.fileno())
            self.monitor.close()
