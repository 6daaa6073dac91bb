"""Renames between broker and worker: they come through as they are, and tell nothing that rules hide."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clsync.core.moves import Kind, Move, Step
from clsync.core.rules import Rules
from clsync.daemon.renames import demanded, visible
from clsync.privilege.moves import packed_moves, packed_steps, unpacked_moves, unpacked_steps
from clsync.privilege.wire import SIGNATURES, Op, Refused, pack, unpack

NAME = st.binary(min_size=1, max_size=4).filter(lambda n: n not in (b".", b"..") and not {0, 47} & set(n))
PATH = st.lists(NAME, min_size=1, max_size=3).map(b"/".join)
MOVE = st.builds(
    Move, st.none() | PATH, st.none() | PATH, st.booleans(), st.floats(0, allow_nan=False), st.integers(0, 2**64 - 1)
)
STEP = st.builds(Step, st.sampled_from((Kind.MOVE, Kind.SWAP)), PATH, PATH, st.booleans()) | st.builds(
    Step, st.just(Kind.MAKE), st.just(b""), PATH, st.booleans()
)


@given(st.lists(MOVE, max_size=5))
def test_moves_come_through(moves: list[Move]) -> None:
    signature = SIGNATURES[Op.MONITOR_NEXT_MOVES].more
    told = [unpack(signature, pack(signature, *part)) for part in packed_moves(moves)]
    assert [move for part in told for move in unpacked_moves(*part)] == moves


@given(st.lists(STEP, max_size=5))
def test_steps_come_through(steps: list[Step]) -> None:
    signature = SIGNATURES[Op.HANDLER_STEPS].request
    told = [unpack(signature, pack(signature, 1, *part))[1:] for part in packed_steps(steps)]
    assert [step for part in told for step in unpacked_steps(*part)] == steps


@pytest.mark.parametrize("numbers", [[1, 2], [1, 2, 3, 4], []])
def test_moves_that_are_none(numbers: list[int]) -> None:
    with pytest.raises(Refused):
        list(unpacked_moves([b"a"], [b"b"], numbers))
    with pytest.raises(Refused):
        list(unpacked_moves([b"a"], [], [1, 2, 3]))


HIDDEN = Rules.parse(b"-*^hidden(/|$)\n")


@pytest.mark.parametrize(
    ("old", "new", "seen"),
    [
        (b"a", b"b/c", (b"a", b"b/c")),
        (b"hidden/a", b"b", (None, b"b")),
        (b"a", b"hidden/a/b", (b"a", None)),
        (b"hidden/a", b"hidden/b", (None, None)),
        (None, b"hidden/b", (None, None)),
    ],
)
def test_places_that_rules_hide(
    old: bytes | None, new: bytes | None, seen: tuple[bytes | None, bytes | None]
) -> None:
    told = visible(Move(old, new, True, 0.0), HIDDEN)
    assert (told.old, told.new) == seen
    assert visible(Move(old, new, True, 0.0), Rules()) == (old, new, True, 0.0, 0)


@pytest.mark.parametrize(
    ("step", "well"),
    [
        (Step(Kind.MOVE, b"a", b"b/c", True), True),
        (Step(Kind.MAKE, b"", b"b", True), True),
        (Step(Kind.MAKE, b"", b"hidden/b", True), False),
        (Step(Kind.MOVE, b"hidden", b"b", True), False),
        (Step(Kind.MOVE, b"a", b"hidden", True), False),
        (Step(Kind.SWAP, b"a", b"hidden/b", False), False),
    ],
)
def test_steps_that_rules_forbid(step: Step, well: bool) -> None:
    assert demanded([step], HIDDEN) is well
    assert demanded([Step(Kind.MOVE, b"x", b"y", False), step], HIDDEN) is well
    assert demanded([step], Rules())
