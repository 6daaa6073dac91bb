"""What is made of differences: which count, what mends them, and how rsync tells them."""

from __future__ import annotations

import pytest

from clsync.core.barrier import Barrier
from clsync.core.batch import DIRECTORY, RECURSIVE, REGULAR
from clsync.core.changes import ATTRIB, CONTENT, NAME
from clsync.core.dirty import DirtySet
from clsync.core.rules import Rules
from clsync.core.verification import Aspect, Difference, Moving, bits_to_mend, topmost
from clsync.handler.rsync.dryrun import Reading
from clsync.options.verify import read_verify_line


def differences(**aspects: Aspect) -> dict[bytes, Difference]:
    """Return differences by their paths; two underscores are a slash."""
    pairs = ((name.replace("__", "/").encode(), aspect) for name, aspect in aspects.items())
    return {path: Difference(path, aspect) for path, aspect in pairs}


def test_what_is_below_something_missing_or_extra_is_not_told_by_itself() -> None:
    found = differences(
        a=Aspect.MODE,
        a__b=Aspect.MISSING,
        a__b__c=Aspect.MISSING,
        d__e__f=Aspect.EXTRA,
        d__e=Aspect.EXTRA,
        d=Aspect.EXTRA,
    )
    assert topmost(found) == {
        b"a": Difference(b"a", Aspect.MODE),
        b"a/b": Difference(b"a/b", Aspect.MISSING),
        b"d": Difference(b"d", Aspect.EXTRA, 3),
    }


@pytest.mark.parametrize(
    ("aspects", "needed"),
    [
        (Aspect.MISSING, NAME),
        (Aspect.EXTRA, NAME),
        (Aspect.LINKS, NAME),
        (Aspect.CONTENT, CONTENT),
        (Aspect.MODE | Aspect.OWNER, ATTRIB),
        (Aspect.SIZE | Aspect.MTIME, ATTRIB),
    ],
)
def test_each_difference_has_bits_that_mend_it(aspects: Aspect, needed: int) -> None:
    assert bits_to_mend(aspects) & needed


def test_what_cannot_be_read_is_mended_by_nothing() -> None:
    assert bits_to_mend(Aspect.UNREADABLE) == 0


def test_what_moves() -> None:
    """A path itself, the directory of a name, and all below what is replaced; nothing else."""
    moving = Moving([(b"a/b", CONTENT), (b"moved", NAME)], [(b"c", DIRECTORY | RECURSIVE), (b"e/f", REGULAR)])
    for path in (b"a/b", b"a", b"moved", b"moved/deep/below", b"c", b"c/d", b"e", b""):
        assert path in moving, path
    for path in (b"a/other", b"e/g", b"x"):
        assert path not in moving, path


def test_names_that_hang_together_move_together() -> None:
    found = differences(one=Aspect.LINKS, other=Aspect.LINKS, third=Aspect.MODE)
    assert Moving([(b"one", ATTRIB)], []).among(found) == {b"one", b"other"}
    assert Moving([(b"third", ATTRIB)], []).among(found) == {b"third"}


@pytest.mark.parametrize(
    ("line", "path", "aspects"),
    [
        (b"<f+++++++++ new", b"new", Aspect.MISSING),
        (b"cd+++++++++ d/e/", b"d/e", Aspect.MISSING),
        (b".d..t...... ./", b"", Aspect.MTIME),
        (b"<fc........ same size", b"same size", Aspect.CONTENT),
        (b"<fcst...... grown", b"grown", Aspect.SIZE | Aspect.MTIME),
        (b".f...pog.ax f", b"f", Aspect.MODE | Aspect.OWNER | Aspect.GROUP | Aspect.XATTRS),
        (b"cLc.T...... link", b"link", Aspect.CONTENT | Aspect.MTIME),
        (b"hf......... torn", b"torn", Aspect.LINKS),
        (b"cDc........ null", b"null", Aspect.KIND),
        (b"*deleting   d/\\#012\\#033/", b"d/\n\x1b", Aspect.EXTRA),
        (b">f+++++++++ a -> b", b"a -> b", Aspect.MISSING),
    ],
)
def test_lines_of_a_dry_run(line: bytes, path: bytes, aspects: Aspect) -> None:
    assert Reading().read(line) == Difference(path, aspects)


@pytest.mark.parametrize("line", [b"", b"sent 12 bytes", b".f          f", b"skipping directory ."])
def test_lines_that_say_nothing(line: bytes) -> None:
    assert Reading().read(line) is None


@pytest.mark.parametrize(
    "path", [b"/etc/passwd", b"../out", b"a/../../out", b"a//b", b"a/./b", b"nul\\#000", b"x" * 4097]
)
def test_lines_that_name_no_path(path: bytes) -> None:
    """Whoever has taken over the other end may say anything."""
    for line in (b"*deleting   " + path, b"<f+++++++++ " + path):
        assert Reading().read(line) is None


def test_a_directory_that_holds_what_rules_protect_is_not_extra() -> None:
    reading = Reading(Rules.parse(b"-f\\.bak$\n"))
    lines = (
        b"*deleting   old/deep/x.bak",
        b"*deleting   old/deep/",
        b"*deleting   old/y",
        b"*deleting   old/",
        b"*deleting   z/",
    )
    assert [reading.read(line) for line in lines] == [
        None,
        None,
        Difference(b"old/y", Aspect.EXTRA),
        None,
        Difference(b"z", Aspect.EXTRA),
    ]


def test_a_barrier_ends_for_what_was_dirty_because_of_a_renamed_directory() -> None:
    """The file was on its way when the directory above it was renamed: it arrives with that."""
    dirty = DirtySet()
    dirty.add([(b"d/f", CONTENT)], 1.0)
    first = dirty.take()
    dirty.add([(b"d", NAME)], 2.0)
    barrier = Barrier(dirty, 10.0)
    dirty.settle(first, first, {})
    barrier.note(first, 9.0, {}, (), dirty)
    assert barrier.left == {b"d", b"d/f"}
    second = dirty.take()
    dirty.settle(second, second, {})
    barrier.note(second, 11.0, {}, (), dirty)
    assert barrier.over


def test_options_of_verify_stand_beside_those_of_the_daemon() -> None:
    line = read_verify_line([b"--checksum", b"-W/a", b"--json", b"-D", b"/b", b"--", b"--repair"])
    assert (line.content, line.json, line.repair) == (True, True, False)
    assert line.daemon_line == [b"-W/a", b"-D", b"/b", b"--", b"--repair"]
