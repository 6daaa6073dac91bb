"""Parts of modes so and rsyncso."""

from __future__ import annotations

from pathlib import Path

import pytest

from clsync import __version__
from clsync.core import batch as flag
from clsync.core.changes import ATTRIB, CONTENT, MOVED, NAME, OF_DIRECTORY
from clsync.core.classify import CHANGE_SHIFT
from clsync.handler.plugin.directories import Directories, Learned
from clsync.handler.plugin.layout import DIRECTORY, FILE, MISSING, UNKNOWN
from clsync.handler.plugin.loaded import exit_code
from clsync.handler.plugin.records import Event, event

TOP = Path(__file__).parents[2]


def learn(known: Directories, *paths: bytes, files: tuple[bytes, ...] = (), everything: bool = False) -> Learned:
    """Return what a batch tells."""
    learned = Learned(known, everything)
    for path in paths:
        learned.note(path, True)
    for path in files:
        learned.note(path, False)
    return learned


def test_nothing_is_known_of_what_was_never_told() -> None:
    known = Directories()
    learn(known, b"a").confirm()
    assert known.was(b"a") == DIRECTORY
    assert known.was(b"b") == UNKNOWN
    learn(known, b"", b"a", everything=True).confirm()
    assert known.was(b"b") == FILE


def test_what_is_not_confirmed_is_not_learned() -> None:
    """A deletion that fails is told again, as what it is."""
    known = Directories()
    learn(known, b"a", everything=True).confirm()
    gone = learn(known, b"new", files=(b"a",))
    assert known.was(b"a") == DIRECTORY
    gone.confirm()
    assert known.was(b"a") == FILE
    assert known.was(b"new") == DIRECTORY


def test_what_was_below_goes_along() -> None:
    known = Directories()
    learn(known, b"a", b"a/b", b"a/b/c", b"ab", everything=True).confirm()
    learn(known, files=(b"a",)).confirm()
    assert [path for path in (b"a", b"a/b", b"a/b/c", b"ab") if path in known] == [b"ab"]
    learn(known, files=(b"a/b/x", b"a")).confirm()


def test_above_the_limit_nothing_is_known_until_all_is_told_again() -> None:
    known = Directories(limit=3)
    learn(known, b"a", b"b", b"c", everything=True).confirm()
    learn(known, files=(b"a",)).confirm()
    learn(known, b"d").confirm()
    assert known.was(b"d") == DIRECTORY, "three are remembered"
    learn(known, b"e").confirm()
    assert [known.was(path) for path in (b"b", b"e", b"f")] == [UNKNOWN] * 3
    learn(known, b"b", everything=True).confirm()
    assert [known.was(path) for path in (b"b", b"f")] == [DIRECTORY, FILE]


@pytest.mark.parametrize(
    ("flags", "bits", "told"),
    [
        (0, NAME, Event(0x100, MISSING, FILE)),
        (flag.DIRECTORY, NAME, Event(0x40000100, MISSING, DIRECTORY)),
        (0, ATTRIB, Event(0x4, FILE, FILE)),
        (0, CONTENT | ATTRIB, Event(0xE, FILE, FILE)),
        (flag.DIRECTORY, ATTRIB, Event(0x40000004, DIRECTORY, DIRECTORY)),
        (flag.MISSING, NAME, Event(0x40000200, DIRECTORY, MISSING)),
    ],
)
def test_events(flags: int, bits: int, told: Event) -> None:
    known = Directories()
    known.add(b"a")
    assert event(b"a", flags | bits << CHANGE_SHIFT, known) == told


def test_a_directory_that_was_never_told_of_was_one_where_events_say_so() -> None:
    """It came and went between two batches."""
    known = Directories()
    known.begin(complete=True)
    came_and_went = flag.MISSING | (NAME | OF_DIRECTORY) << CHANGE_SHIFT
    assert event(b"a", came_and_went, known) == Event(0x40000600, DIRECTORY, MISSING)
    assert event(b"a", came_and_went | MOVED << CHANGE_SHIFT, known) == Event(0x40000040, DIRECTORY, MISSING)


@pytest.mark.parametrize(("value", "code"), [(0, 0), (5, 5), (-1, 255), (256, 255), (257, 1)])
def test_values_become_exit_codes(value: int, code: int) -> None:
    assert exit_code(value) == code


def test_the_version_for_pkg_config_is_ours() -> None:
    lines = (TOP / "include/clsync.pc").read_text().splitlines()
    (version,) = (line.removeprefix("Version: ") for line in lines if line.startswith("Version: "))
    assert __version__.partition(".dev")[0] == version
