"""Which entries may be handed over beside others."""

from __future__ import annotations

import pytest

from clsync.core.batch import DIRECTORY, LINKED, MISSING, RECURSIVE, REGULAR
from clsync.core.changes import NAME
from clsync.core.classify import CHANGE_SHIFT
from clsync.core.overlap import Overlap


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
    overlap.begin(entries)
    assert overlap.meets({path: REGULAR}) == ({path} if meets else set())
    other = {b"x/y": REGULAR}
    overlap.begin(other)
    overlap.end(entries)
    assert overlap.meets({path: REGULAR}) == ({path} if path == b"" else set())
    overlap.end(other)
    assert overlap.meets({path: REGULAR}) == set()


def test_names_of_one_file_go_together() -> None:
    overlap = Overlap()
    overlap.begin({b"a": REGULAR | LINKED})
    batch = dict.fromkeys((b"a", b"b", b"c", b"d"), REGULAR | LINKED)
    assert overlap.meets(batch, [(b"a", b"b", b"elsewhere"), (b"c", b"d")]) == {b"a", b"b"}


def test_directories_whose_times_change_while_others_set_them() -> None:
    overlap = Overlap()
    new = REGULAR | NAME << CHANGE_SHIFT
    assert overlap.shared_directories({b"a/new": new}) == set()
    overlap.begin({b"a/b/f": REGULAR, b"c": REGULAR})
    entries = {b"a/new": new, b"a/b/new": new, b"a/b/d/new": new, b"c2": new, b"a/old": REGULAR, b"a/b": DIRECTORY}
    assert overlap.shared_directories(entries) == {b"", b"a"}


def test_what_is_below_something_that_waits_has_no_place_before() -> None:
    overlap = Overlap()
    overlap.begin({b"d/old": REGULAR})
    new = DIRECTORY | RECURSIVE | NAME << CHANGE_SHIFT
    batch = {b"d": new, b"d/e/f": REGULAR | LINKED, b"g": REGULAR | LINKED, b"h": REGULAR, b"w/x": REGULAR}
    assert overlap.meets(batch, [(b"d/e/f", b"g")], {b"w"}) == batch.keys() - {b"h"}
    assert overlap.meets({b"": DIRECTORY, b"h": REGULAR}) == {b""}
