"""The dirty set of one target: every path that is not known to be equal there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import NamedTuple

from clsync.core.changes import DOUBT
from clsync.core.paths import parent
from clsync.core.steps import done, parts


class Failure(NamedTuple):
    """Why a path is still dirty after a run, and when (monotonic seconds) it is tried again."""

    bits: int
    reason: str
    retry_at: float


class DirtySet:
    """Paths that are ready, waiting (big files, failed ones, what meets a flight) or in flight, in one or in several.

    A path leaves the set only through `settle`, when a handler confirmed it. Changes that arrive while it is
    in flight make it ready again, because they are added again. Memory is bounded: above `limit` paths,
    siblings fold into their directory, which is then in doubt (`core.changes.DOUBT`) since the oldest of them.
    Times are monotonic seconds, except `since`, which is wall-clock seconds (compared with ctimes).
    """

    def __init__(self, limit: int = 200_000) -> None:
        self.limit = limit
        self.ready: dict[bytes, int] = {}
        self.flights: list[dict[bytes, int]] = []
        """What was taken and is not settled."""
        self.doubts: dict[bytes, float] = {}
        """Directory in doubt -> wall-clock time since when."""
        self.failures: dict[bytes, int] = {}
        """Path -> how often in a row it has failed."""
        self.reasons: dict[bytes, str] = {}
        """Path -> why it failed last."""
        self.met: dict[bytes, int] = {}
        """What waits for a flight that it meets (`core.overlap`) -> change bits."""
        self._waiting: dict[bytes, tuple[int, float]] = {}
        self._oldest = 0.0
        """No change in the set is older (wall clock)."""

    def __len__(self) -> int:
        return len(self.ready) + len(self._waiting) + len(self.met) + sum(map(len, self.flights))

    def add(self, changes: Iterable[tuple[bytes, int]], since: float) -> None:
        """Make paths ready. `since`: no change among them is older (wall clock)."""
        for path, bits in changes:
            self._add((path,), bits, since)
        self._fold_ready()

    def add_all(self, paths: Sequence[bytes], bits: int, since: float) -> None:
        """Make paths ready that have all changed alike (see `add`)."""
        self._add(paths, bits, since)
        self._fold_ready()

    def _add(self, paths: Sequence[bytes], bits: int, since: float) -> None:
        self._oldest = min(self._oldest, since) if len(self) else since
        ready, get = self.ready, self.ready.get
        if len(paths) > 1 and ready.keys().isdisjoint(paths):
            ready.update(dict.fromkeys(paths, bits))
        else:
            for path in paths:
                ready[path] = get(path, 0) | bits
        if bits & DOUBT:
            for path in paths:
                self.doubts[path] = min(since, self.doubts.get(path, since))

    def _fold_ready(self) -> None:
        if len(self.ready) > self.limit:
            self.ready = done(self._folded(self.ready))
            self._drop_folded()

    def postpone(self, path: bytes, bits: int, until: float) -> None:
        """Let a path wait (a big file); a second change does not push it back."""
        old_bits, old_until = self._waiting.get(path, (0, until))
        self._waiting[path] = (old_bits | bits, min(until, old_until))

    def wait(self, paths: Iterable[bytes], until: float) -> None:
        """Let paths that are ready wait."""
        for path in paths:
            bits = self.ready.pop(path, None)
            if bits is not None:
                self.postpone(path, bits, until)

    def ripen(self, now: float) -> set[bytes]:
        """Make ready what has waited long enough; return those paths."""
        ripe = {p for p, (_, until) in self._waiting.items() if until <= now}
        for path in ripe:
            self.ready[path] = self.ready.get(path, 0) | self._waiting.pop(path)[0]
        return ripe

    def next_ripe(self) -> float | None:
        """Return the time at which the next waiting path becomes ready."""
        return min((until for _, until in self._waiting.values()), default=None)

    def waiting(self) -> dict[bytes, tuple[int, float]]:
        """Return what waits: path -> change bits, until when (infinite: for a word)."""
        return dict(self._waiting)

    def waits(self, path: bytes) -> bool:
        """Tell whether a path waits, for whatever it is."""
        return path in self._waiting or path in self.met

    def is_due(self, path: bytes) -> bool:
        """Tell whether a path is ready or in flight."""
        return path in self.ready or any(path in flight for flight in self.flights)

    def bits_of(self, path: bytes) -> int:
        """Return the change bits of a path; 0: it is not in the set."""
        bits = self.ready.get(path, 0) | self.met.get(path, 0) | self._waiting.get(path, (0, 0.0))[0]
        for flight in self.flights:
            bits |= flight.get(path, 0)
        return bits

    def paths(self) -> set[bytes]:
        """Return all paths of the set."""
        return {*self.ready, *self._waiting, *self.met, *(path for flight in self.flights for path in flight)}

    def release(self, paths: Iterable[bytes]) -> None:
        """Make ready some of the paths that wait."""
        for path in paths:
            waited = self._waiting.pop(path, None)
            if waited is not None:
                self.ready[path] = self.ready.get(path, 0) | waited[0]

    def meet(self, path: bytes, bits: int) -> None:
        """Let a path wait for a flight, until `part`."""
        self.met[path] = self.met.get(path, 0) | bits

    def part(self, paths: Iterable[bytes]) -> None:
        """Make ready some of the paths that wait for a flight."""
        for path in paths:
            bits = self.met.pop(path, None)
            if bits is not None:
                self.ready[path] = self.ready.get(path, 0) | bits
        self._fold_ready()

    def fold_met(self) -> Generator[None, None, bool]:
        """Fold, step by step, what waits for flights, if it is too much; tell whether it was.

        What stands for several of these paths meets the same flights. No path may come or go meanwhile.
        """
        # Half of the limit: it is made ready at once one day, beside what is ready then.
        if len(self.met) <= self.limit // 2:
            return False
        self.met = yield from self._folded(self.met)
        self._drop_folded()
        return True

    def hurry(self) -> None:
        """Make everything that waits ready now."""
        self.ripen(float("inf"))

    def take(self, only: Iterable[bytes] | None = None) -> dict[bytes, int]:
        """Put what is ready in flight and return it; `only`: nothing but these paths."""
        if only is None:
            flight, self.ready = self.ready, {}
        else:
            flight = {path: self.ready.pop(path) for path in only if path in self.ready}
        if flight:
            self.flights.append(flight)
        return flight

    def _land(self, flight: dict[bytes, int]) -> None:
        self.flights = [other for other in self.flights if other is not flight]

    def settle(self, flight: dict[bytes, int], entries: Iterable[bytes], failed: Mapping[bytes, Failure]) -> None:
        """End a flight: `entries` were handed over, those in `failed` wait for another try, the rest is clean."""
        self._land(flight)
        for path in entries if self.failures or self.reasons or self.doubts else ():
            if path not in failed:
                self.failures.pop(path, None)
                self.reasons.pop(path, None)
                if not self.holds(path):
                    self.doubts.pop(path, None)
        for path, failure in failed.items():
            self.failures[path] = self.failures.get(path, 0) + 1
            self.reasons[path] = failure.reason
            self.postpone(path, failure.bits, failure.retry_at)
        if len(self._waiting) > self.limit:
            self._fold_waiting()

    def abort(self, flight: dict[bytes, int]) -> None:
        """End a flight with nothing confirmed: all of it is ready again."""
        self._land(flight)
        for path, bits in flight.items():
            self.ready[path] = self.ready.get(path, 0) | bits

    def failing(self) -> dict[bytes, str]:
        """Return the paths that failed last time, with the reasons."""
        return dict(self.reasons)

    def _fold_waiting(self) -> None:
        # A long list of failing paths is tried again as whole directories, when the first of them is due.
        # What waits for a word (`release`) is to be found under its own name then.
        called = {p: waits for p, waits in self._waiting.items() if waits[1] == float("inf")}
        timed = {p: waits for p, waits in self._waiting.items() if p not in called}
        until = min((until for _, until in timed.values()), default=0.0)
        folded = done(self._folded({p: bits for p, (bits, _) in timed.items()}))
        self._waiting = called
        for path, bits in folded.items():
            old = called.get(path, (0, until))
            self._waiting[path] = (old[0] | bits, min(old[1], until))
        self._drop_folded()

    def _drop_folded(self) -> None:
        """Forget the failures of paths that are no longer dirty by their own names."""
        for path in [p for p in self.failures if not self.holds(p)]:
            del self.failures[path], self.reasons[path]

    def holds(self, path: bytes) -> bool:
        """Tell whether a path is in the set."""
        waits = path in self._waiting or path in self.met
        return waits or path in self.ready or any(path in flight for flight in self.flights)

    def _folded(self, paths: dict[bytes, int]) -> Generator[None, None, dict[bytes, int]]:
        """Fold siblings, then their directories, until half of the limit is free."""
        many = 64
        while len(paths) > self.limit // 2 and any(paths):
            siblings: Counter[bytes] = Counter()
            for part in parts(paths):
                siblings.update(map(parent, part))
                yield
            folded: dict[bytes, int] = {}
            for part in parts(paths):
                for path in part:
                    self._fold(path, paths[path], folded, siblings[parent(path)] >= many)
                yield
            paths = folded
            many //= 4
        return paths

    def _fold(self, path: bytes, bits: int, folded: dict[bytes, int], many: bool) -> None:
        """Put a path, or the directory in which it has many siblings, into `folded`."""
        if not many:
            folded[path] = folded.get(path, 0) | bits
            return
        up = parent(path)
        folded[up] = folded.get(up, 0) | DOUBT
        self.doubts[up] = min(self._oldest, self.doubts.get(up, self._oldest))
        if path != up:
            self.doubts.pop(path, None)
