"""Which renames are carried out at a target: those under which nothing can be taken for sent that is not."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from clsync.core import batch as flag
from clsync.core.changes import ATTRIB, CONTENT, DOUBT, NAME
from clsync.core.dirty import DirtySet, Failure
from clsync.core.moves import Move, Step
from clsync.core.rules import Rules
from clsync.daemon.renames import Arrival, Moves, Source, carry_out, lies_in, overtaken
from clsync.handler.base import Renamed
from clsync.handler.renaming import rename_local
from clsync.kernel.ops import DirectOps

MOVE = Move(b"d/old", b"new", True, 100.0)


def noted(dirty: DirtySet) -> Moves:
    """Return what was moved while something else was dirty."""
    moves = Moves()
    moves.note([MOVE], 0.0, dirty)
    return moves


def dirty_with(changes: dict[bytes, int]) -> DirtySet:
    dirty = DirtySet()
    dirty.add(changes.items(), 0.0)
    return dirty


@pytest.mark.parametrize(
    "changes", [{b"d/old": ATTRIB}, {b"d/old/f": ATTRIB}, {b"d/old/e/f": CONTENT}, {b"d": NAME}, {b"": DOUBT}]
)
def test_what_waits_at_the_old_place(changes: dict[bytes, int]) -> None:
    assert not noted(dirty_with(changes)).sure(MOVE)


@pytest.mark.parametrize("changes", [{}, {b"d": ATTRIB}, {b"": ATTRIB}, {b"d/other": NAME}, {b"d/older/f": CONTENT}])
def test_what_waits_elsewhere(changes: dict[bytes, int]) -> None:
    assert noted(dirty_with(changes)).sure(MOVE)


def test_what_has_failed_and_is_tried_again() -> None:
    dirty = dirty_with({b"d/old/f": CONTENT})
    dirty.settle(dirty.take(), [b"d/old/f"], {b"d/old/f": Failure(CONTENT, "", 0.0)})
    assert not noted(dirty).sure(MOVE)


def test_one_window_for_one_batch() -> None:
    """Places of one window are none of the next."""
    moves = noted(DirtySet())
    assert moves.take() == [MOVE]
    assert moves.take() == []
    moves = noted(DirtySet())
    moves.note([Move(b"new", b"newer", True, 200.0)], 0.0, DirtySet())
    assert moves.take() == []
    moves = noted(DirtySet())
    moves.note([], 0.0, DirtySet())
    moves.note_change()  # something else may stand at the new place since then
    assert moves.take() == []


def test_windows_of_which_the_last_is_empty() -> None:
    moves = noted(DirtySet())
    moves.note_change()
    moves.note([], 0.0, DirtySet())
    assert moves.take() == [MOVE]


@pytest.mark.parametrize(
    ("entries", "free"),
    [
        ({b"d/old/f": flag.REGULAR}, False),
        ({b"new": flag.MISSING}, False),
        ({b"d": flag.DIRECTORY | flag.RECURSIVE}, False),
        ({b"": flag.DIRECTORY | flag.RECURSIVE}, False),
        ({b"d": flag.DIRECTORY, b"": flag.DIRECTORY}, True),
        ({b"other": flag.DIRECTORY | flag.RECURSIVE}, True),
    ],
)
def test_a_batch_that_may_have_seen_it(entries: dict[bytes, int], free: bool) -> None:
    """What was renamed after the batch had ended it has not seen."""
    assert overtaken([MOVE], Arrival(entries, 101.0)) == (set() if free else {b"d/old", b"new"})
    assert overtaken([MOVE], Arrival(entries, 99.0)) == set()


def test_a_batch_before_the_last_one_may_have_seen_it() -> None:
    """Of that one nobody knows what it was about."""
    other = {b"other": flag.REGULAR}
    assert overtaken([MOVE], Arrival(other, 102.0, 101.0)) == {b"d/old", b"new"}
    assert overtaken([MOVE], Arrival(other, 102.0, 99.0)) == set()


def test_what_was_moved_along_with_what_a_batch_has_dealt_with() -> None:
    assert lies_in(Move(b"d/old/e", b"x", True, 0.0), {b"d/old"})
    assert lies_in(Move(b"x", b"new/e", True, 0.0), {b"new"})
    assert not lies_in(Move(b"x", b"newer", True, 0.0), {b"new"})
    assert not lies_in(MOVE, set())


class _Local:
    """A destination here."""

    swaps = True

    def __init__(self, top: Path) -> None:
        self._top = top

    async def rename(self, steps: Sequence[Step]) -> Renamed:
        return rename_local(bytes(self._top), steps)


@pytest.mark.parametrize(
    ("rules", "renamed"),
    [
        ("", True),
        ("-*^other\n", True),
        ("-*^new/f\n", False),
        ("-f\\.tmp$\n", False),
        ("-*^d$\n", False),
        ("-*^d/old/theirs\n", False),
        ("+*^d\n+*^new\n-*\n", False),
    ],
)
def test_rules_that_may_speak_of_one_of_the_names(tmp_path: Path, rules: str, renamed: bool) -> None:
    source, destination = tmp_path / "source", tmp_path / "destination"
    (source / "new").mkdir(parents=True)
    (destination / "d/old").mkdir(parents=True)
    taken = {b"d/old": NAME, b"new": NAME}
    root = os.open(source, os.O_RDONLY)
    try:
        of_source = Source(DirectOps().looks(root), Rules.parse(rules.encode()) if rules else None)
        done = asyncio.run(carry_out([MOVE], lambda move: True, _Local(destination), of_source, taken))
    finally:
        os.close(root)
    assert done == ({b"new": True} if renamed else {})
    assert (destination / "new").exists() is renamed
    assert bool(taken[b"new"] & NAME) is not renamed, "it is compared only where it was renamed"
    assert taken[b"d/old"] == NAME


class _CutOff(_Local):
    """A destination that does one step more than it comes to tell of."""

    swaps = False

    def __init__(self, top: Path, told: int) -> None:
        super().__init__(top)
        self._told = told

    async def rename(self, steps: Sequence[Step]) -> Renamed:
        await super().rename(steps[: self._told + 1])
        return Renamed(self._told)


@pytest.mark.parametrize("told", range(4))
def test_what_was_put_aside_is_removed_whatever_was_told(tmp_path: Path, told: int) -> None:
    source, destination = tmp_path / "source", tmp_path / "destination"
    for name in ("a", "b", "c"):
        (source / name).mkdir(parents=True)
        (destination / name).mkdir(parents=True)
    ring = [Move(b"a", b"b", True, 1.0), Move(b"b", b"c", True, 1.0), Move(b"c", b"a", True, 1.0)]
    taken = {b"a": NAME, b"b": NAME, b"c": NAME}
    root = os.open(source, os.O_RDONLY)
    try:
        of_source = Source(DirectOps().looks(root), None)
        asyncio.run(carry_out(ring, lambda move: True, _CutOff(destination, told), of_source, taken))
    finally:
        os.close(root)
    aside = [os.fsencode(path.name) for path in destination.iterdir() if path.name.startswith(".clsync-")]
    assert [path for path in aside if not taken.get(path, 0) & NAME] == []
