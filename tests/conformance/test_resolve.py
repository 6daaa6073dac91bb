"""What a directory in doubt hides: found by the times that cannot be set."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from clsync.core import batch as flag
from clsync.core.changes import CONTENT, DOUBT, NAME
from clsync.core.classify import Freshness
from clsync.core.links import LinkIndex
from clsync.core.overlap import Overlap
from clsync.core.steps import done
from clsync.daemon import resolve
from tests.support.monitors import wait_for_clock

OLD = (1_600_000_000, 1_600_000_000)
TICK = 0.015
"""Seconds by which the clock of a file system may be late."""


def resolved(top: Path, since: float) -> dict[bytes, int]:
    """Return the entries that a doubt about everything since a time (s) comes to."""
    root = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    try:
        doing = resolve.Resolver(LinkIndex(), {}).resolve(
            {b"": DOUBT}, root=root, freshness=Freshness(0, 0), doubts={b"": since}
        )
        return asyncio.run(doing).entries
    finally:
        os.close(root)


@pytest.fixture
def trees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two trees alike in names, sizes and times, and older than the doubt."""
    monkeypatch.setattr(resolve, "DOUBT_SLACK_NS", 0)
    for name in ("one", "two", "still"):
        (tmp_path / name / "below").mkdir(parents=True)
        (tmp_path / name / "below/file").write_text(name[:3])
        for path in (f"{name}/below/file", f"{name}/below", name):
            os.utime(tmp_path / path, OLD)
    wait_for_clock()
    return tmp_path


def test_a_renamed_directory_is_compared_by_content(trees: Path) -> None:
    since = time.time() - TICK
    (trees / "one").rename(trees / "kept")
    (trees / "two").rename(trees / "one")
    entries = resolved(trees, since)
    whole = flag.DIRECTORY | flag.RECURSIVE | flag.FORCE
    assert {path for path, flags in entries.items() if flags & whole == whole} == {b"one", b"kept"}


def test_a_file_that_was_written_is_compared_by_content(trees: Path) -> None:
    since = time.time() - TICK
    (trees / "still/below/file").write_text("new")
    os.utime(trees / "still/below/file", OLD)
    entries = resolved(trees, since)
    assert {path for path, flags in entries.items() if flags & flag.FORCE} == {b"still/below/file"}


def test_new_names_do_not_make_a_directory_another_one(trees: Path) -> None:
    since = time.time() - TICK
    (trees / "still/below/new").touch()
    entries = resolved(trees, since)
    assert {path for path, flags in entries.items() if flags & flag.FORCE} == {b"still/below/new"}


def test_all_names_of_a_file_are_one_group_though_one_was_named(tmp_path: Path) -> None:
    """Else those that no event named could be in two flights at once."""
    links = LinkIndex()
    (tmp_path / "seen").touch()
    for name in ("known", "other"):
        os.link(tmp_path / "seen", tmp_path / name)
    found = (tmp_path / "seen").stat()
    links.learn((found.st_dev, found.st_ino), [b"known", b"other", b"seen"], 3)
    root = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        doing = resolve.Resolver(links, {}).resolve({b"seen": NAME}, root=root, freshness=Freshness(0, 0), doubts={})
        made = asyncio.run(doing)
    finally:
        os.close(root)
    overlap = Overlap()
    done(overlap.begin({b"other": flag.REGULAR}))
    assert done(overlap.meets(made.entries, made.groups)) == {b"known", b"other", b"seen"}


@pytest.mark.parametrize("stands", [True, False])
def test_a_name_has_survived_only_as_long_as_it_stands_for_the_file(tmp_path: Path, stands: bool) -> None:
    """Two targets would tell each other of two names that were replaced, for ever."""
    links = LinkIndex()
    (tmp_path / "gone").touch()
    os.link(tmp_path / "gone", tmp_path / "other")
    found = (tmp_path / "gone").stat()
    links.learn((found.st_dev, found.st_ino), [b"gone", b"other"], 2)
    os.link(tmp_path / "gone", tmp_path.with_suffix(".elsewhere"))  # its inode is not given to another file
    for name in ("gone",) if stands else ("gone", "other"):
        (tmp_path / name).unlink()
        (tmp_path / name).touch()
    root = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        resolver = resolve.Resolver(links, {})
        doing = resolver.resolve({b"gone": CONTENT}, root=root, freshness=Freshness(0, 0), doubts={})
        made = asyncio.run(doing)
    finally:
        os.close(root)
    assert made.survivors == ({b"other": CONTENT} if stands else {})
