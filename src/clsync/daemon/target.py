"""One target: what is dirty there, what fails there, and when it is tried again."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import chain

from clsync.core.barrier import Barrier
from clsync.core.batch import LINKED, Outcome, Verdict
from clsync.core.changes import ATTRIB, CONTENT, DOUBT, NAME
from clsync.core.dirty import DirtySet, Failure
from clsync.core.paths import shown
from clsync.core.trouble import BACKOFFS, Trouble, kind_of
from clsync.core.windows import Backoff
from clsync.daemon.log import Log
from clsync.daemon.renames import Moves
from clsync.daemon.resolve import Resolved, bits_of

_SECOND_LOOK = 1.0
"""Seconds after which names that one search did not find are searched for again."""
_NAMED = 20
"""Paths named in one go; more are counted."""


class Target:
    """The dirty set of a target and the state of its health. All times are monotonic seconds."""

    def __init__(self, log: Log, name: str = "") -> None:
        """`name`: what messages call it where there are several."""
        self.name = name
        self.dirty = DirtySet()
        self.moves = Moves()
        self.distrusted: set[bytes] = set()
        """Directories in doubt although nothing has changed there unseen: whatever was confirmed may not be there."""
        self.unwell = 0
        """How often in a row the target could not be used."""
        self.unwell_until = 0.0
        self.code = 0
        """Exit code of the last run that failed."""
        self._failed_at = 0.0
        """When the target was found unusable last."""
        self._why = ""
        self._big: dict[bytes, float] = {}
        """Big files that wait -> since when."""
        self._hopeless: set[bytes] = set()
        self._barriers: dict[Barrier, asyncio.Event] = {}
        """What is waited for, and whom to tell."""
        self._log, self._backoff = log, Backoff()
        self._kind: Trouble | None = None
        """What kind of trouble was told last, of the target as a whole."""
        self.big_delay = self.big_longest = 0.0
        """Seconds that big files wait, and that they wait at most while they are being written."""

    @property
    def called(self) -> str:
        """What a sentence calls it."""
        return f"target {self.name}" if self.name else "the target"

    @property
    def _prefix(self) -> str:
        return f"{self.name}: " if self.name else ""

    def pending(self) -> bool:
        """Tell whether anything is not known to be equal."""
        return len(self.dirty) > 0

    def failing(self) -> dict[bytes, str]:
        """Return what failed last time: path -> reason."""
        failing = self.dirty.failing()
        return {b"": self._why} if self.unwell and not failing else failing

    def next_tries(self) -> dict[bytes, float]:
        """Return when what failed is tried again (wall-clock seconds), where that is known."""
        ahead, waiting = time.time() - time.monotonic(), self.dirty.waiting()
        times = {path: max(waiting[path][1], self.unwell_until) for path in self.dirty.reasons if path in waiting}
        if self.unwell:
            times[b""] = self.unwell_until
        return {path: ahead + at for path, at in times.items() if at < float("inf")}

    def trouble(self) -> str | None:
        """Tell why the target as a whole cannot be used; None if it can."""
        return self._why if self.unwell else None

    def worst(self, hopeless: bool) -> int:
        """Return the largest number of failures in a row, of a path or of the target.

        `hopeless`: of paths, too, that fail for their names alone.
        """
        left_out = frozenset() if hopeless else self._hopeless
        return max(self.unwell, max((n for p, n in self.dirty.failures.items() if p not in left_out), default=0))

    def next_at(self, earliest: float, hurry: bool) -> float | None:
        """Return when there is something to hand over; None: not before something changes."""
        ripe = self.dirty.next_ripe()
        times = [] if ripe is None or ripe == float("inf") else [ripe]
        if self.dirty.ready:
            times.append(0.0 if hurry else earliest)
        return max(min(times), self.unwell_until) if times else None

    def hurry_failed(self) -> None:
        """Try again now what has failed."""
        self.dirty.release(list(self.dirty.reasons))

    def at_rest(self) -> bool:
        """Tell whether nothing is dirty but what has failed."""
        return self.dirty.paths() <= self.dirty.reasons.keys()

    def begin_tries(self) -> None:
        """Count failures anew, and try everything at once."""
        self.unwell, self.unwell_until = 0, 0.0
        self.dirty.failures.clear()
        self.dirty.hurry()

    def hurry_big(self) -> None:
        """Let big files wait no longer, now and from now on."""
        self.dirty.release(list(self._big))
        self.big_delay = 0.0

    def growing(self, ripe: Iterable[bytes], written: Callable[[bytes], float | None], clock: float) -> set[bytes]:
        """Return those big files that have waited, and are to wait longer because they are still being written.

        `written` tells when (wall clock); `clock`: what that shows now. Sent now, they would be sent again and again.
        """
        patient = time.monotonic() - self.big_longest
        found = set()
        for path in ripe:
            at = written(path) if self._big.get(path, patient) > patient else None
            if at is not None and clock - self.big_delay < at <= clock:
                found.add(path)
        return found

    def _note_big(self, taken: Mapping[bytes, int], postponed: Mapping[bytes, int], now: float) -> None:
        if self._big or postponed:
            old = self._big
            self._big = {path: since for path, since in old.items() if path not in taken}
            self._big |= {path: old.get(path, now) for path in postponed}

    def is_big(self, path: bytes) -> bool:
        """Tell whether a path waits because its file is big."""
        return path in self._big

    def settle(
        self,
        taken: dict[bytes, int],
        resolved: Resolved,
        outcome: Outcome,
        since: float,
        started: float = float("inf"),
    ) -> None:
        """Take what a handler confirmed from the dirty set; the rest waits for another try.

        `since`: when the run began (wall clock); `started`: the same, if others may have met the same trouble meanwhile.
        """
        now = time.monotonic()
        if outcome.verdict is Verdict.UNWELL:
            self.dirty.abort(taken)
            self.code = outcome.code
            if started >= self._failed_at:  # one outage meets all that is on its way
                self.note_trouble(outcome.message, outcome.code)
            # Other names of a file may be known by now only because of what was taken.
            linked = ((p, bits_of(f)) for p, f in resolved.entries.items() if f & LINKED and p not in taken)
            self.dirty.add(linked, since)
            return
        if self.unwell:
            self._log.info(f"{self.called} can be used again")
        self.unwell, self.unwell_until, self._kind = 0, 0.0, None
        failed = dict(resolved.unreadable)
        if outcome.verdict is Verdict.PARTIAL:
            failed |= outcome.failed
            self.code = outcome.code
        self._hopeless = (self._hopeless & self.dirty.failures.keys()) - taken.keys() | outcome.hopeless
        # What failed together is tried again together: one run for all of it.
        draw = random.random()
        failures = {
            path: Failure(_bits(path, taken, resolved), why, now + self._delay(path, draw))
            for path, why in failed.items()
        }
        again = {path: _bits_again(_bits(path, taken, resolved)) for path in outcome.again}
        self.dirty.add(again.items(), since)
        failing = self.dirty.failing()
        self.dirty.settle(taken, chain(taken, resolved.entries), failures)
        if failures:
            # What failed drags the others along: they wait with it, or this would turn without a pause.
            self.dirty.wait(again, min(failure.retry_at for failure in failures.values()))
        for path, bits in resolved.postponed.items():
            self.dirty.postpone(path, bits, now + self.big_delay)
        self._note_big(taken, resolved.postponed, now)
        self.look_again(resolved.unsure)
        for path, bits in resolved.unlinked.items():
            self.dirty.postpone(path, bits, float("inf"))
        self._tell(failures)
        self._tell_arrived([p for p in failing if p in resolved.entries and not self.dirty.holds(p)])

    def look_again(self, unsure: Mapping[bytes, int]) -> None:
        """Let names of files be searched for once more, in a moment."""
        until = time.monotonic() + _SECOND_LOOK
        for path, bits in unsure.items():
            self.dirty.postpone(path, bits, until)

    def note_settled(self, taken: dict[bytes, int], resolved: Resolved, outcome: Outcome, started: float) -> None:
        """Tell those who wait what a batch has brought that began at `started`."""
        if outcome.verdict is Verdict.UNWELL:
            return
        failed = {**resolved.unreadable, **outcome.failed}
        for barrier, over in self._barriers.items():
            self.dirty.release(barrier.note(taken, started, failed, outcome.again, self.dirty))
            if barrier.over:
                over.set()

    def raise_barrier(self) -> Barrier:
        """Return a barrier for all that is dirty now; what has failed is tried again."""
        self.hurry_failed()
        barrier = Barrier(self.dirty, time.monotonic())
        self._barriers[barrier] = asyncio.Event()
        return barrier

    async def arrival(self, barrier: Barrier) -> dict[bytes, str]:
        """Wait until a barrier is over; return what has failed, with reasons."""
        try:
            if not barrier.over:
                await self._barriers[barrier].wait()
        finally:
            del self._barriers[barrier]
        return barrier.failed

    def end_barriers(self, why: str) -> None:
        """Let nobody wait for this target any longer."""
        for barrier, over in self._barriers.items():
            barrier.end(why)
            over.set()

    def note_trouble(self, message: str, code: int = 0) -> None:
        """Give a target that cannot be used a rest, a longer one each time; say so once for each kind of trouble.

        `code`: of the handler.
        """
        kind = kind_of(message, code)
        self.unwell += 1
        self._failed_at = time.monotonic()
        self._why = message
        delay = BACKOFFS[kind].delay(self.unwell, random.random())
        self.unwell_until = time.monotonic() + delay
        if message == "stopped":
            return
        hint = f"nothing is lost, next try in {delay:.1f} s"
        if kind is self._kind:
            self._log.debug(1, f"{self._prefix}{message}; {hint}")
        else:
            self._kind = kind
            self._log.error(f"{self._prefix}{message}", f"{hint}, then later and later")

    def _delay(self, path: bytes, draw: float) -> float:
        return self._backoff.delay(self.dirty.failures.get(path, 0) + 1, draw)

    def _tell(self, failures: dict[bytes, Failure]) -> None:
        """Name failing paths the first time."""
        fresh = [path for path in failures if self.dirty.failures.get(path) == 1]
        for path in fresh[:_NAMED]:
            self._log.error(
                f"{self._prefix}{shown(path)}: {failures[path].reason}", "it stays dirty and is tried again"
            )
        if len(fresh) > _NAMED:
            self._log.error(
                f"{self._prefix}{len(fresh) - _NAMED} more paths failed", "they stay dirty and are tried again"
            )

    def _tell_arrived(self, paths: list[bytes]) -> None:
        """Name paths that had failed, and do not any more."""
        for path in paths[:_NAMED]:
            self._log.info(f"{self._prefix}{shown(path)}: it is synced now")
        if len(paths) > _NAMED:
            self._log.info(f"{self._prefix}{len(paths) - _NAMED} more paths that had failed are synced now")

    def name_failing(self) -> None:
        """Name what a run that ends leaves behind."""
        failing = self.failing()
        for path, why in list(failing.items())[:_NAMED]:
            self._log.error(f"{self._prefix}not synced: {shown(path)}: {why}")
        if len(failing) > _NAMED:
            self._log.error(f"{self._prefix}not synced: {len(failing) - _NAMED} more paths")


def _bits_again(bits: int) -> int:
    """Return the change bits of what was not sent as it was: by size and mtime it may look as if it were."""
    return bits if bits & DOUBT else bits | CONTENT


def _bits(path: bytes, taken: dict[bytes, int], resolved: Resolved) -> int:
    """Return the change bits with which a path that failed is tried again."""
    entry = resolved.entries.get(path)
    # What is no entry of its own was sent because of a directory above: that may have asked for more.
    return taken.get(path, 0) | (bits_of(entry) if entry is not None else ATTRIB | NAME)
