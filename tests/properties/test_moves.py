"""What a plan of moves does to a tree: everything that was moved is where it is now, and nothing else is touched."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from clsync.core.moves import Kind, Move, Plan, Step, Trace, moves_of
from clsync.core.paths import ancestors, is_below, join, parent
from clsync.core.rules import Rules
from clsync.daemon.renames import demanded, is_free

NAMES = (b"a", b"b", b"c")


@dataclass(eq=False)
class Thing:
    """A file or a directory, and where it stands."""

    number: int
    is_dir: bool
    holder: Thing | None = None
    name: bytes = b""
    names: dict[bytes, Thing] = field(default_factory=dict)

    @property
    def path(self) -> bytes:
        """The path; the root's is empty."""
        return join(self.holder.path, self.name) if self.holder is not None else b""

    def lies_in(self, other: Thing) -> bool:
        """Tell whether it is something, or stands below it."""
        at: Thing | None = self
        while at is not None and at is not other:
            at = at.holder
        return at is other


class Tree:
    """A tree of files that notes what an ideal monitor would tell of it."""

    def __init__(self) -> None:
        self.root = Thing(0, True)
        self._numbers = itertools.count(1)
        self.traces: dict[Hashable, Trace] = {}
        self._fresh: set[int] = set()

    def walk(self) -> Iterator[Thing]:
        """Yield everything but the root."""
        pending = [self.root]
        while pending:
            for thing in pending.pop().names.values():
                yield thing
                if thing.is_dir:
                    pending.append(thing)

    def paths(self) -> dict[int, bytes]:
        """Return number -> path."""
        return {thing.number: thing.path for thing in self.walk()}

    def came(self, path: bytes) -> bool:
        """Tell whether what stands at a path was made since the window was opened."""
        return any(thing.path == path and thing.number in self._fresh for thing in self.walk())

    def open_window(self) -> None:
        """Forget what was told."""
        self.traces.clear()
        self._fresh.clear()

    def pick(self, number: int, directory: bool) -> Thing | None:
        """Return some thing; a directory may be the root."""
        found = [self.root] if directory else []
        found += [thing for thing in self.walk() if thing.is_dir or not directory]
        return found[number % len(found)] if found else None

    def make(self, holder: Thing, name: bytes, is_dir: bool) -> None:
        """Make something where nothing stands."""
        if name not in holder.names:
            thing = Thing(next(self._numbers), is_dir, holder, name)
            holder.names[name] = thing
            self._fresh.add(thing.number)

    def _trace(self, thing: Thing) -> None:
        assert thing.holder is not None
        trace = Trace(thing.holder.number, thing.name, thing.is_dir, thing.number in self._fresh, 0.0)
        self.traces.setdefault(thing.number, trace)

    def remove(self, thing: Thing) -> None:
        """Remove something with everything below it."""
        for below in list(thing.names.values()):
            self.remove(below)
        self._trace(thing)
        assert thing.holder is not None
        del thing.holder.names[thing.name]
        thing.holder = None

    def rename(self, thing: Thing, holder: Thing, name: bytes) -> None:
        """Rename as the kernel does: what stands there is replaced if it can be."""
        other = holder.names.get(name)
        if other is thing or holder.lies_in(thing):
            return
        if other is not None and (other.is_dir != thing.is_dir or other.names):
            return
        if other is not None:
            self.remove(other)
        self._trace(thing)
        self._put(thing, holder, name)

    def swap(self, one: Thing, other: Thing) -> None:
        """Let two things trade places."""
        if one.lies_in(other) or other.lies_in(one):
            return
        self._trace(one)
        self._trace(other)
        assert one.holder is not None
        assert other.holder is not None
        here, there = (one.holder, one.name), (other.holder, other.name)
        self._put(one, *there)
        here[0].names[here[1]] = other
        other.holder, other.name = here

    def _put(self, thing: Thing, holder: Thing, name: bytes) -> None:
        assert thing.holder is not None
        if thing.holder.names.get(thing.name) is thing:
            del thing.holder.names[thing.name]
        holder.names[name] = thing
        thing.holder, thing.name = holder, name


class Destination:
    """Path -> (number, is a directory), changed as an executor does."""

    def __init__(self, tree: Tree) -> None:
        self.things = {thing.path: (thing.number, thing.is_dir) for thing in tree.walk()}
        self.made = itertools.count(-1, -1)

    def do(self, step: Step) -> None:
        """Carry out a step."""
        things = self.things
        above = parent(step.target)
        assert not above or things[above][1], f"{step}: no directory"
        if step.kind is Kind.MAKE:
            if step.target not in things:
                things[step.target] = next(self.made), True
            return
        assert things[step.source][1] == step.is_dir, f"{step}: another kind of thing"
        assert not is_below(step.target, step.source), f"{step}: into itself"
        there = self._lifted(step.target) if step.target in things else {}
        here = self._lifted(step.source)
        for end, thing in here.items():
            things[step.target + end] = thing
        for end, thing in there.items():  # it makes way, and is for the batch to remove
            things[step.source + end] = thing

    def _lifted(self, top: bytes) -> dict[bytes, tuple[int, bool]]:
        found = {path for path in self.things if path == top or is_below(path, top)}
        return {path[len(top) :]: self.things.pop(path) for path in found}

    def paths(self) -> dict[int, bytes]:
        """Return number -> path."""
        return {number: path for path, (number, _) in self.things.items()}


small = st.integers(0, 40)
actions = st.lists(
    st.tuples(
        st.sampled_from(("make", "make", "remove", "rename", "rename", "rename", "swap")),
        small,
        small,
        st.sampled_from(NAMES),
        st.booleans(),
    ),
    max_size=14,
)


def act(tree: Tree, todo: list[tuple[str, int, int, bytes, bool]]) -> None:
    """Change a tree."""
    for what, one, other, name, is_dir in todo:
        holder = tree.pick(other, directory=True)
        thing = tree.pick(one, directory=False)
        assert holder is not None
        if what == "make":
            tree.make(holder, name, is_dir)
        elif thing is None:
            continue
        elif what == "remove":
            tree.remove(thing)
        elif what == "rename":
            tree.rename(thing, holder, name)
        else:
            another = tree.pick(other, directory=False)
            assert another is not None
            tree.swap(thing, another)


def moves_in(tree: Tree) -> list[Move]:
    """Return what a monitor would report."""
    places = tree.paths()
    return moves_of(tree.traces, lambda key: b"" if key == 0 else places.get(key))  # type: ignore[call-overload]


def everything(move: Move) -> bool:
    return True


def nothing(path: bytes) -> bool:
    return False


def spare(number: int) -> bytes:
    return b".spare%d" % number


@settings(max_examples=600, deadline=None)
@given(before=actions, window=actions, swaps=st.booleans())
def test_everything_that_stands_on_is_where_it_is_now(
    before: list[tuple[str, int, int, bytes, bool]], window: list[tuple[str, int, int, bytes, bool]], swaps: bool
) -> None:
    tree = Tree()
    act(tree, [*(("make", n, n, name, True) for n, name in enumerate(NAMES * 2)), *before])
    tree.open_window()
    destination = Destination(tree)
    before_paths = tree.paths()
    act(tree, window)
    plan = Plan(moves_in(tree), everything, came=tree.came, spare=spare, swaps=swaps)
    for step in plan.steps:
        destination.do(step)
    now, there = tree.paths(), destination.paths()
    assert {n: there[n] for n in before_paths if n in now} == {n: now[n] for n in before_paths if n in now}
    assert before_paths.keys() <= there.keys(), "something was lost"
    aside = plan.aside(len(plan.steps))
    assert now.keys().isdisjoint(destination.things[path][0] for path in aside), "not in its place"
    assert {(move.old, move.new) for move in plan.done(len(plan.steps))} == {
        (before_paths[number], now[number]) for number in tree.traces if number in before_paths and number in now
    }
    assert swaps or all(step.kind is not Kind.SWAP for step in plan.steps)


@settings(max_examples=300, deadline=None)
@given(before=actions, window=actions, chosen=st.sets(st.integers(0, 6)), cut=st.integers(0, 12), swaps=st.booleans())
def test_what_is_said_to_be_done_is_done(
    before: list[tuple[str, int, int, bytes, bool]],
    window: list[tuple[str, int, int, bytes, bool]],
    chosen: set[int],
    cut: int,
    swaps: bool,
) -> None:
    """Also where only some moves are wanted, and where the work ends early."""
    tree = Tree()
    act(tree, [*(("make", n, n, name, True) for n, name in enumerate(NAMES * 2)), *before])
    tree.open_window()
    destination = Destination(tree)
    numbers = {path: number for number, path in tree.paths().items()}
    act(tree, window)
    moves = moves_in(tree)
    wanted = {move for number, move in enumerate(moves) if number not in chosen}
    plan = Plan(moves, wanted.__contains__, came=tree.came, spare=spare, swaps=swaps)
    made = set()
    for number, step in enumerate(plan.steps[:cut]):
        if step.kind is Kind.MAKE and step.target not in destination.things:
            made.add(number)
        destination.do(step)
    done = plan.done(cut)
    assert wanted.issuperset(done)
    there = destination.paths()
    for move in done:
        assert move.old is not None
        assert there[numbers[move.old]] == move.new
    fresh = {path for number, path in there.items() if number < 0}
    assert fresh.issuperset(plan.made(made))
    assert set(plan.aside(cut)) == {
        path for path in destination.things if path.startswith(b".spare") and b"/" not in path
    }
    placed = [move.new for move in done if move.new is not None]
    untouched = {path for path in numbers if not any(path == m.old or is_below(path, m.old or b"") for m in moves)}
    for path in untouched:
        if not any(up in placed for up in ancestors(path)):
            assert destination.things.get(path, (numbers[path],))[0] == numbers[path] or path in placed


@settings(max_examples=300, deadline=None)
@given(
    before=actions,
    window=actions,
    theirs=st.lists(st.sampled_from(NAMES), min_size=1, max_size=2).map(b"/".join),
    swaps=st.booleans(),
)
def test_steps_touch_nothing_that_rules_speak_of(
    before: list[tuple[str, int, int, bytes, bool]],
    window: list[tuple[str, int, int, bytes, bool]],
    theirs: bytes,
    swaps: bool,
) -> None:
    """As far as only moves between other places are wanted. Who carries them out may demand it."""
    rules = Rules.parse(b"-*^%b(/|$)\n" % theirs)
    tree = Tree()
    act(tree, [*(("make", n, n, name, True) for n, name in enumerate(NAMES * 2)), *before])
    tree.open_window()
    act(tree, window)

    def free(move: Move) -> bool:
        return all(path is not None and is_free(path, move.is_dir, rules) for path in (move.old, move.new))

    plan = Plan(moves_in(tree), free, came=tree.came, spare=spare, swaps=swaps)
    assert demanded(plan.steps, rules)


def test_a_ring_of_many_takes_a_step_more() -> None:
    moves = [Move(b"%d" % n, b"%d" % ((n + 1) % 9), True, 0.0) for n in range(9)]
    plan = Plan(moves, everything, came=nothing, spare=spare, swaps=True)
    assert len(plan.steps) == 10
    assert len(plan.done(10)) == 9


def test_a_swap_is_one_step() -> None:
    moves = [Move(b"a", b"b", True, 0.0), Move(b"b", b"a", False, 0.0)]
    assert len(Plan(moves, everything, came=nothing, spare=spare, swaps=True).steps) == 1


def test_a_long_chain_takes_no_longer_than_its_steps() -> None:
    """Whatever the order: each waits for the one before it."""
    moves = [Move(b"%d" % n, b"%d" % (n + 1), True, 0.0) for n in range(10_000)]
    for order in (moves, moves[::-1]):
        assert len(Plan(order, everything, came=nothing, spare=spare, swaps=False).steps) == 10_000


def test_what_is_too_deep_is_not_known() -> None:
    """A whole tree was moved name by name, and removed: that must not be too much."""
    traces: dict[Hashable, Trace] = {n: Trace(n - 1, b"d", True, False, 0.0) for n in range(1, 5000)}
    moves = moves_of(dict(reversed(traces.items())), lambda key: b"" if key == 0 else None)
    assert all(move.new is None for move in moves)
    deep = b"/".join([b"d"] * 2000)
    plan = Plan([Move(b"a", deep, True, 0.0)], everything, came=lambda path: True, spare=spare, swaps=True)
    assert len(plan.steps) == 2000
    assert plan.done(2000)
