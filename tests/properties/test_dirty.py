"""Whatever happens to a dirty set, nothing is lost: what changed is covered until a handler has confirmed it."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from clsync.core.changes import ATTRIB, CONTENT, DOUBT, NAME
from clsync.core.dirty import DirtySet, Failure
from clsync.core.paths import ancestors, is_below
from clsync.core.steps import done
from tests.support.proofs import Choices, choices, examples

TOPS = [b"a", b"b", b"c", b""]
NAMES = [b"%d" % n for n in range(12)]
BITS = [ATTRIB, CONTENT, NAME, DOUBT, ATTRIB | CONTENT, NAME | CONTENT, NAME | DOUBT]
FOREVER = float("-inf")


def any_path(c: Choices) -> bytes:
    parts = [c.one(TOPS), c.one(TOPS), c.one(NAMES)][c.number(3) :]
    return b"/".join(filter(None, parts))


@dataclass
class Promise:
    """A change that was reported and is not confirmed yet."""

    path: bytes
    bits: int
    since: float
    carried: list[dict[bytes, int]] = field(default_factory=list)
    """The flights that stand for it."""

    def kept_by(self, path: bytes, bits: int, doubted_since: float) -> bool:
        """Tell whether a dirty path leads to a look at this one that is thorough enough."""
        thorough = bits & NAME or (bits & DOUBT and doubted_since <= self.since)
        if path == self.path:
            return bool(thorough) or (bits & self.bits == self.bits and not self.bits & DOUBT)
        return is_below(self.path, path) and bool(thorough)


def carries(promise: Promise, flight: dict[bytes, int]) -> bool:
    """Tell whether a flight stands for a promise."""
    return any(other is flight for other in promise.carried)


class Dirty(RuleBasedStateMachine):
    """A dirty set, and beside it the list of all that was promised."""

    @initialize(limit=st.sampled_from([4, 8, 20, 1000]))
    def begin(self, limit: int) -> None:
        self.dirty = DirtySet(limit)
        self.promises: list[Promise] = []
        self.wall = self.now = 0.0

    # -- what happens ------------------------------------------------------------------------------------------

    @rule(drawn=choices(90), later=st.integers(0, 100))
    def change(self, drawn: Choices, later: int) -> None:
        changes = [(any_path(drawn), drawn.one(BITS)) for _ in range(1 + drawn.number(15))]
        self.dirty.add(changes, self.wall)
        self.promises += [Promise(path, bits, self.wall) for path, bits in changes]
        self.wall += later
        assert len(self.dirty.ready) <= self.dirty.limit

    @precondition(lambda self: self.dirty.ready and len(self.dirty.flights) < 3)
    @rule()
    def take(self) -> None:
        taken = self.dirty.take()
        assert self.dirty.ready == {}
        assert self.dirty.flights[-1:] == ([taken] if taken else [])
        for promise in self.promises:
            if any(promise.kept_by(p, bits, self.dirty.doubts.get(p, FOREVER)) for p, bits in taken.items()):
                promise.carried.append(taken)

    @precondition(lambda self: self.dirty.flights)
    @rule(drawn=choices(5))
    def end_unwell(self, drawn: Choices) -> None:
        flight = self._ending(drawn)
        self.dirty.abort(flight)
        self._landed(flight)

    def _ending(self, drawn: Choices) -> dict[bytes, int]:
        return self.dirty.flights[drawn.number(len(self.dirty.flights))]

    @precondition(lambda self: self.dirty.flights)
    @rule(drawn=choices(60))
    def end(self, drawn: Choices) -> None:
        """Some entries fail, or something below them does; some turn out to be big and wait."""
        flight = self._ending(drawn)
        failed: dict[bytes, Failure] = {}
        big: dict[bytes, int] = {}
        for path, bits in flight.items():
            fate = drawn.number(6)
            covered = any(is_below(path, up) and b & (NAME | DOUBT) for up, b in flight.items())
            if fate == 1:
                failed[path] = Failure(bits | (NAME if covered else 0), "no", self.now + drawn.number(50))
            elif fate == 2 and bits & (NAME | DOUBT):
                below = path + b"/0" if path else b"0"
                failed.setdefault(below, Failure(ATTRIB | NAME, "no", self.now + drawn.number(50)))
            elif fate == 3 and not bits & DOUBT and not covered:
                big[path] = bits
        self.dirty.settle(flight, flight, failed)
        for path, bits in big.items():
            self.dirty.postpone(path, bits, self.now + drawn.number(100))
        unconfirmed = {path: failure.bits for path, failure in failed.items()} | big
        self.promises = [p for p in self.promises if not carries(p, flight) or self._open(p, unconfirmed, flight)]
        self._landed(flight)
        assert all(reason == "no" for reason in self.dirty.failing().values())

    def _open(self, promise: Promise, unconfirmed: dict[bytes, int], flight: dict[bytes, int]) -> bool:
        """Tell whether all that stood for a promise is still to be done."""
        if promise.path in unconfirmed:
            return True
        stood = [p for p, bits in flight.items() if p == promise.path or (is_below(promise.path, p) and bits & 12)]
        return all(path in unconfirmed for path in stood)

    def _landed(self, flight: dict[bytes, int]) -> None:
        for promise in self.promises:
            promise.carried = [other for other in promise.carried if other is not flight]
        assert not any(other is flight for other in self.dirty.flights)

    @rule(seconds=st.integers(0, 60))
    def ripen(self, seconds: int) -> None:
        self.now += seconds
        ripe = self.dirty.ripen(self.now)
        assert ripe <= self.dirty.ready.keys()
        following = self.dirty.next_ripe()
        assert following is None or following > self.now

    @rule(seconds=st.integers(0, 60), drawn=choices(20))
    def set_aside(self, seconds: int, drawn: Choices) -> None:
        paths = [path for path in self.dirty.ready if drawn.number(3) == 1]
        self.dirty.wait(paths, self.now + seconds)
        assert not self.dirty.ready.keys() & set(paths)

    @rule(drawn=choices(20))
    def call_back(self, drawn: Choices) -> None:
        self.dirty.release([any_path(drawn) for _ in range(6)])

    @rule(drawn=choices(20))
    def wait_for_a_flight(self, drawn: Choices) -> None:
        """As what meets one does, once it is taken and looked at."""
        flight = self.dirty.take()
        for path, bits in flight.items():
            self.dirty.meet(path, bits)
        self.dirty.settle(flight, flight, {})
        done(self.dirty.fold_met())
        assert len(self.dirty.met) <= self.dirty.limit
        if drawn.number(2):
            self.dirty.part([path for path in self.dirty.met if drawn.number(2)])

    # -- what always holds -------------------------------------------------------------------------------------

    @invariant()
    def everything_promised_is_kept(self) -> None:
        kept: list[dict[bytes, int]] = [self.dirty.ready, *self.dirty.flights, self._waiting(), self.dirty.met]
        doubts = self.dirty.doubts
        for promise in self.promises:
            lines = [promise.path, b"", *ancestors(promise.path)]
            assert any(
                promise.kept_by(up, part[up], doubts.get(up, FOREVER)) for up in lines for part in kept if up in part
            ), promise

    @invariant()
    def only_what_is_dirty_fails(self) -> None:
        known = set().union(self.dirty.ready, *self.dirty.flights, self._waiting(), self.dirty.met)
        assert self.dirty.failing().keys() <= known
        assert self.dirty.failures.keys() == self.dirty.failing().keys()

    def _waiting(self) -> dict[bytes, int]:
        return {path: bits for path, (bits, _) in self.dirty._waiting.items()}

    def teardown(self) -> None:
        """However it went: two good runs, and all is clean."""
        for flight in self.dirty.flights:
            self.dirty.abort(flight)
            self._landed(flight)
        self.dirty.hurry()
        self.dirty.part(list(self.dirty.met))
        self.take()
        assert all(promise.carried for promise in self.promises), "what is ready was not handed over"
        for flight in self.dirty.flights:
            self.dirty.settle(flight, flight, {})
        assert len(self.dirty) == 0
        assert self.dirty.failing() == {}
        assert self.dirty.doubts == {}
        assert self.dirty.next_ripe() is None


TestDirty = Dirty.TestCase
TestDirty.settings = examples(3)


def test_memory_is_bounded_by_the_limit_and_siblings_fold_first() -> None:
    dirty = DirtySet(limit=200)
    for directory in range(50):
        dirty.add([(b"many/%d/%d" % (directory, n), CONTENT) for n in range(50)], 0.0)
        assert len(dirty) <= 200
    dirty.add([(b"alone/x", CONTENT)], 0.0)
    assert dirty.ready[b"alone/x"] == CONTENT, "one path was folded though others were many"
    assert all(path.startswith(b"many") for path in dirty.ready.keys() - {b"alone/x"})


def test_a_directory_folded_twice_is_in_doubt_since_the_oldest_change() -> None:
    dirty = DirtySet(limit=4)
    dirty.add([(b"d/a", CONTENT)], 100.0)
    dirty.add([(b"d/%d" % n, CONTENT) for n in range(9)], 5000.0)
    assert dirty.ready.keys() == {b"d"}
    assert dirty.doubts == {b"d": 100.0}


def test_a_doubt_that_waits_outlives_another_change_of_its_directory() -> None:
    dirty = DirtySet()
    dirty.add([(b"d", DOUBT)], 100.0)
    dirty.wait([b"d"], 10.0)
    dirty.add([(b"d", ATTRIB)], 200.0)
    flight = dirty.take()
    dirty.settle(flight, flight, {})
    dirty.add([(b"d", DOUBT)], 5000.0)
    assert dirty.doubts == {b"d": 100.0}


def test_a_directory_that_changed_itself_keeps_what_was_folded_into_it() -> None:
    dirty = DirtySet(limit=20)
    dirty.add([*((b"d/%d" % n, CONTENT) for n in range(20)), (b"d", ATTRIB)], 0.0)
    assert dirty.ready == {b"d": DOUBT | ATTRIB}


def test_a_second_change_does_not_push_back_what_waits() -> None:
    dirty = DirtySet()
    dirty.postpone(b"big", CONTENT, 10.0)
    dirty.postpone(b"big", ATTRIB, 20.0)
    assert dirty.ripen(9.9) == set()
    assert dirty.ripen(10.0) == {b"big"}
    assert dirty.ready == {b"big": CONTENT | ATTRIB}


def test_a_long_list_of_failing_paths_is_bounded_too() -> None:
    dirty = DirtySet(limit=40)
    for number in range(10):
        paths = [b"d%d/%d" % (number, n) for n in range(30)]
        dirty.add([(path, CONTENT) for path in paths], 0.0)
        flight = dirty.take()
        dirty.settle(flight, flight, {path: Failure(CONTENT, "no", 1.0) for path in flight})
        assert len(dirty) <= 40
    assert dirty.failing().keys() <= dirty._waiting.keys()
    dirty.hurry()
    assert {path.partition(b"/")[0] or b"d%d" % n for path in dirty.ready for n in range(10)} >= {b"d0", b"d9"}


def test_what_waits_for_flights_is_bounded_and_folds_into_what_meets_them_as_well() -> None:
    dirty = DirtySet(limit=40)
    for number in range(10):
        for n in range(30):
            dirty.meet(b"d%d/%d" % (number, n), CONTENT)
        done(dirty.fold_met())
        assert len(dirty) <= 40
    assert all(dirty.met[b"d%d" % number] == DOUBT for number in range(9))
    dirty.part([b"d0"])
    assert dirty.ready == {b"d0": DOUBT}
    assert b"d0" not in dirty.met
