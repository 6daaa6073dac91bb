"""Which entries may be handed over beside others."""

from __future__ import annotations

import gc
import time
from collections.abc import Generator

import pytest

from clsync.core.batch import DIRECTORY, LINKED, MISSING, RECURSIVE, REGULAR
from clsync.core.changes import NAME
from clsync.core.classify import CHANGE_SHIFT
from clsync.core.overlap import Overlap
from clsync.core.steps import done


@pytest.mark.parametrize(
    ("flying", "flags", "path", "meets"),
    [
        (b"a/f", REGULAR, b"a/f", True),
        (b"a/f", REGULAR, b"a", True),
        (b"a/f", REGULAR, b"", True),
        (b"a/f", REGULAR, b"a/g", False),
        (b"a/f", REGULAR, b"a/f/x", True),  # it may become a directory
        (b"a/f", REGULAR, b"ab", False),
        (b"a", DIRECTORY, b"a/f", False),
        (b"a", DIRECTORY, b"a", True),
        (b"a", DIRECTORY | RECURSIVE, b"a/d/f", True),
        (b"a", DIRECTORY | RECURSIVE, b"b", False),
        (b"a", MISSING, b"a/d/f", True),
        (b"", DIRECTORY, b"f", False),
        (b"", DIRECTORY, b"", True),
        (b"", DIRECTORY | RECURSIVE, b"d/f", True),
    ],
)
def test_what_meets_what(flying: bytes, flags: int, path: bytes, meets: bool) -> None:
    overlap, entries = Overlap(), {flying: flags}
    done(overlap.begin(entries))
    assert done(overlap.meets({path: REGULAR})) == ({path} if meets else set())
    other = {b"x/y": REGULAR}
    done(overlap.begin(other))
    done(overlap.end(entries))
    assert done(overlap.meets({path: REGULAR})) == ({path} if path == b"" else set())
    done(overlap.end(other))
    assert done(overlap.meets({path: REGULAR})) == set()


def test_names_of_one_file_go_together() -> None:
    overlap = Overlap()
    done(overlap.begin({b"a": REGULAR | LINKED}))
    batch = dict.fromkeys((b"a", b"b", b"c", b"d"), REGULAR | LINKED)
    assert done(overlap.meets(batch, [(b"a", b"b", b"elsewhere"), (b"c", b"d")])) == {b"a", b"b"}


def test_directories_whose_times_change_while_others_set_them() -> None:
    overlap = Overlap()
    new = REGULAR | NAME << CHANGE_SHIFT
    assert done(overlap.shared_directories({b"a/new": new})) == set()
    done(overlap.begin({b"a/b/f": REGULAR, b"c": REGULAR}))
    entries = {b"a/new": new, b"a/b/new": new, b"a/b/d/new": new, b"c2": new, b"a/old": REGULAR, b"a/b": DIRECTORY}
    assert done(overlap.shared_directories(entries)) == {b"", b"a"}


def test_what_is_below_something_that_waits_has_no_place_before() -> None:
    overlap = Overlap()
    done(overlap.begin({b"d/old": REGULAR}))
    new = DIRECTORY | RECURSIVE | NAME << CHANGE_SHIFT
    batch = {b"d": new, b"d/e/f": REGULAR | LINKED, b"g": REGULAR | LINKED, b"h": REGULAR, b"w/x": REGULAR}
    assert done(overlap.meets(batch, [(b"d/e/f", b"g")], {b"w"})) == batch.keys() - {b"h"}
    assert done(overlap.meets({b"": DIRECTORY, b"h": REGULAR})) == {b""}


def test_what_waits_is_free_when_all_that_it_meets_have_landed() -> None:
    overlap = Overlap()
    first, second = {b"d": DIRECTORY | RECURSIVE}, {b"d/f": REGULAR, b"e": REGULAR}
    for flight in (first, second):
        done(overlap.begin(flight))
    waiting = [b"d", b"d/f", b"d/g/h", b"e", b""]
    for flight, free in ((first, {b"d/g/h"}), (second, set(waiting))):
        done(overlap.end(flight))
        assert {path for part in overlap.free(waiting) for path in part} == free


def test_no_step_is_long() -> None:
    """The event loop has its turn between two steps: 8 flights with 65,536 entries each are what there can be."""
    overlap = Overlap()
    flights = [{b"%d/%d/%d/f%d" % (f, n // 500, n // 50, n): REGULAR for n in range(65_536)} for f in range(8)]
    for flight in flights:
        assert longest_step(overlap.begin(flight)) < 0.1
    moved = dict.fromkeys(flights[3], REGULAR | NAME << CHANGE_SHIFT)
    groups = [[b"3/%d/%d/f%d" % (n // 500, n // 50, n) for n in (m, m + 1)] for m in range(0, 65_536, 2)]
    assert longest_step(overlap.meets(moved, groups, {b"elsewhere"})) < 0.1
    assert longest_step(overlap.shared_directories(moved)) < 0.1
    assert longest_step(overlap.free(list(moved))) < 0.1
    assert longest_step(overlap.end(flights[3])) < 0.1


def longest_step(steps: Generator[object, None, object]) -> float:
    """Do all steps; return how long (s of processor time) the longest one took."""
    gc.disable()  # what the test itself has made is not to be looked through
    try:
        longest, before = 0.0, time.thread_time()
        for _ in steps:
            now = time.thread_time()
            longest, before = max(longest, now - before), now
        return max(longest, time.thread_time() - before)
    finally:
        gc.enable()
