"""What has to change before something is handed over again: `--modification-signature`, `--cancel-syscalls`."""

from __future__ import annotations

import itertools
import os
import shutil
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.recorder import Recorder
from tests.system.world import MODES, SYNCED, World

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
IDS = "--modification-signature=uid,gid"
NUMBERS = itertools.count()
OBJECTS = ("--", "%INCLUDE-LIST%")


def handed(recorder: Recorder) -> Counter[bytes]:
    """Return how often each path was handed over."""
    return Counter(path for call in recorder.calls for path in call.arguments)


def mark(world: World, daemon: Daemon, recorder: Recorder, name: str) -> None:
    """Wait until all that has happened was handed over."""
    world.write(name)
    daemon.wait_until(lambda: name.encode() in handed(recorder), what=name)


def handed_again(recorder: Recorder, path: bytes, before: int) -> bool:
    """Tell whether a path was handed over more often than before."""
    return handed(recorder)[path] > before


def belongs_to(path: Path, uid: int) -> bool:
    """Tell whether a file is a user's."""
    return path.stat().st_uid == uid


@ROOT
def test_owners_are_mended_and_the_mending_is_not_mended_for_ever(world: World) -> None:
    """A handler that changes what it is given is called by its own changes."""
    recorder = Recorder(world.top, 'chown 12:34 "$@"')
    world.write("old")
    with world.daemon("-Mdirect", recorder.option, IDS, "--skip-initialsync", *OBJECTS) as daemon:
        daemon.wait_for_log("watching")
        for number in range(3):
            path = world.write(f"new{number}", "text")
            daemon.wait_until(partial(belongs_to, path, 12), what="the owner")
        for number in range(4):
            mark(world, daemon, recorder, f"marker{number}")
        (world.source / "new0").write_text("other text")
        os.utime(world.source / "new0", (1, 1))
        os.chown(world.source / "new1", 56, 78)
        daemon.wait_until(lambda: (world.source / "new1").stat().st_uid == 12, what="the owner")
        mark(world, daemon, recorder, "last")
        # Once as it was made, once with the owner that the handler gave it.
        assert handed(recorder)[b"new0"] <= 2
        assert handed(recorder)[b"new1"] <= 4


def test_what_is_made_anew_is_handed_over_though_the_fields_are_the_same(world: World) -> None:
    """And what a handler did not take, until it does."""
    refuse, status = world.file("refuse", ""), world.top / "status"
    recorder = Recorder(world.top, f"test ! -e {refuse}")
    options = ("-Mdirect", recorder.option, "--modification-signature=uid,gid,mode", f"--status-file={status}")
    refuse.unlink()
    with world.daemon(*options, *OBJECTS) as daemon:
        daemon.wait_for_log(SYNCED)
        refuse.touch()
        path = world.write("file", "text")
        daemon.wait_until(lambda: handed(recorder)[b"file"] >= 2, what="a second try")
        refuse.unlink()
        daemon.wait_until(lambda: status.read_text() == "running", what="a try that goes well")
        mark(world, daemon, recorder, "marker")
        before = handed(recorder)[b"file"]
        path.write_text("other")  # no field says so
        mark(world, daemon, recorder, "marker2")
        assert handed(recorder)[b"file"] == before
        for change in (
            path.unlink,
            lambda: path.write_text("text"),
            lambda: (path.unlink(), path.write_text("text")),
        ):
            mark(world, daemon, recorder, f"marker before {next(NUMBERS)}")
            before = handed(recorder)[b"file"]
            change()
            daemon.wait_until(partial(handed_again, recorder, b"file", before), what="what is no mere change")


@pytest.mark.parametrize("mode", ["rsyncdirect", "direct"])
def test_what_was_another_thing_for_a_moment_while_it_was_handed_over(world: World, mode: str) -> None:
    """All is as it was when it was looked at; what was copied is something else."""
    begun, go, copied, end = (world.top / name for name in ("begun", "go", "copied", "end"))
    copy = 'rsync "$@"' if mode == "rsyncdirect" else f'cp -p "$@" {world.destination}/'
    waits = "while test ! -e {}; do sleep 0.02; done\n"
    held = f"touch {begun}\n{waits.format(go)}/usr/bin/{copy} || exit\ntouch {copied}\n{waits.format(end)}"
    program = world.file("rsync", f"#!/bin/sh\n{held}", 0o755)
    options = (f"-M{mode}", f"-S{program}", "--modification-signature=size", "--skip-initialsync")
    with world.daemon(*options, *(() if mode == "rsyncdirect" else OBJECTS), delays=("-t0.2", "-w0")) as daemon:
        daemon.wait_for_log("watching")
        path = world.write("file", "old")
        daemon.wait_until(begun.exists, what="the handler")
        path.write_text("longer")
        go.touch()
        daemon.wait_until(copied.exists, what="the copy")
        path.write_text("new")
        end.touch()
        world.wait_for_copy(daemon, "file", "new")


def times(*trees: Path) -> dict[Path, tuple[int, int]]:
    """Return what tells whether anything was written."""
    return {
        path: (path.lstat().st_ino, path.lstat().st_ctime_ns)
        for tree in trees
        for path in tree.rglob("*")
        if "marker" not in path.name
    }


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("signature", ["", "*"])
def test_two_directories_are_kept_equal_both_ways(world: World, mode: str, signature: str) -> None:
    """What one daemon writes is an event for the other: it must come to rest."""
    a, b = world.source, world.destination
    world.write("d/both", "text")
    shutil.copytree(a, b, dirs_exist_ok=True)
    for tree in (a, b):
        os.link(tree / "d/both", tree / "linked")
    options = (f"-M{mode}", "-t0.1", "-w0", f"--modification-signature={signature}", "--skip-initialsync")
    # What is on its way into a directory has a name of its own there, which is nobody's business.
    rules = world.file("rules", "-f(^|/)\\.[^/]*\\.(clsync-[0-9a-f]{6}|[A-Za-z0-9]{6})$\n")
    forth = world.bare(f"-W{a}", f"-D{b}", *options, f"-R{rules}")
    back = world.bare(f"-W{b}", f"-D{a}", *options, f"-R{rules}")
    with forth, back:
        for daemon in (forth, back):
            daemon.wait_for_log("watching")
        for number, (here, there) in enumerate(((a, b), (b, a), (a, b))):
            (here / f"new{number}").write_text("text")
            (here / f"tree{number}/d").mkdir(parents=True)
            (here / f"tree{number}/d/file").write_text("text")
            world.wait_for_equal(forth)
            turn(back, forth, a, b)
            (here / f"new{number}").rename(here / f"moved{number}")
            (here / "d/both").write_text(f"changed {number}")
            (here / f"tree{number}/d/file").unlink()
            os.utime(there / f"tree{number}", (number, number))
            world.wait_for_equal(forth)
            turn(back, forth, a, b)
        turn(back, forth, a, b)
        before = times(a, b)
        for _ in range(3):
            turn(back, forth, a, b)
        assert times(a, b) == before
        world.wait_for_equal(forth)


def turn(back: Daemon, forth: Daemon, a: Path, b: Path) -> None:
    """Wait until what happened before has gone both ways."""
    for daemon, here, there in ((forth, a, b), (back, b, a)):
        # A new one each time: what is changed again before it has come back may be set back.
        marker = here / f"marker {next(NUMBERS)}"
        marker.write_text("text")
        daemon.wait_until((there / marker.name).exists, what="the marker")


def test_without_a_look_at_sizes_no_file_is_big(world: World) -> None:
    options = ("-B1", "-T1000", "--cancel-syscalls=mon_stat")
    with world.daemon("-Mrsyncdirect", *options) as daemon:
        daemon.wait_for_log(SYNCED)
        world.write("file", "more than one byte")
        world.wait_for_copy(daemon, "file", "more than one byte")


@pytest.mark.parametrize("mode", MODES)
def test_what_is_below_an_exchanged_directory_is_not_known_any_more(world: World, mode: str) -> None:
    """Another tree came and went: what was known of the first one says nothing."""
    world.write("d/x", "first")
    world.write("n/x", "another")
    with world.daemon(f"-M{mode}", "--modification-signature=size") as daemon:
        daemon.wait_for_log(SYNCED)
        world.write("d/x", "FIRST")
        world.write("mark", "mark")
        world.wait_for_copy(daemon, "mark", "mark")
        (world.source / "d").rename(world.source / "o")
        (world.source / "n").rename(world.source / "d")
        world.wait_for_copy(daemon, "d/x", "another")
        world.write("d/x", "fifth")
        world.wait_for_copy(daemon, "d/x", "fifth")
