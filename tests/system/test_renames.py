"""What is renamed at the source is renamed at the destination: inodes stay, and no data moves."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.monitors import exchange
from tests.system.world import MODES, SYNCED, World

MONITORS = [pytest.param("fanotify", marks=pytest.mark.skipif(os.geteuid() != 0, reason="needs root")), "inotify"]


def build(top: Path) -> None:
    """Make three directories with names of all kinds, some files, and an empty directory."""
    for name in ("a", "b", "c"):
        (top / name / "sub").mkdir(parents=True)
        for number in range(4):
            (top / f"{name}/sub/{number}").write_text(f"{name}{number}" * 100)
        (top / name / "file").write_text(name * 1000)
        (top / name / os.fsdecode(b"odd \n'\"\\$*\xff")).write_bytes(b"odd")
    (top / "plain").write_text("plain" * 1000)
    (top / "other").write_text("other" * 1000)
    (top / "empty").mkdir()


def inodes(top: Path) -> dict[str, int]:
    """Return path -> inode of everything in a tree."""
    return {os.path.relpath(path, top): path.lstat().st_ino for path in top.rglob("*")}


def follow(world: World, *args: str) -> Daemon:
    return world.daemon(*args, delays=("-t0.3", "-w0.05"))


def rename_a_directory(top: Path) -> None:
    (top / "a").rename(top / "new")


def rename_a_file(top: Path) -> None:
    (top / "plain").rename(top / "a/new")


def chain(top: Path) -> None:
    (top / "a").rename(top / "n1")
    (top / "n1").rename(top / "n2")
    (top / "n2").rename(top / "b/n3")


def shift(top: Path) -> None:
    (top / "c").rename(top / "d")
    (top / "b").rename(top / "c")
    (top / "a").rename(top / "b")


def ring(top: Path) -> None:
    (top / "a").rename(top / "t")
    (top / "b").rename(top / "a")
    (top / "c").rename(top / "b")
    (top / "t").rename(top / "c")


def swap_at_once(top: Path) -> None:
    exchange(top / "a", top / "b")


def swap_by_hand(top: Path) -> None:
    (top / "a").rename(top / "t")
    (top / "b").rename(top / "a")
    (top / "t").rename(top / "b")


def out_of_what_is_moved(top: Path) -> None:
    (top / "a").rename(top / "new")
    (top / "new/sub").rename(top / "b/moved")


def upside_down(top: Path) -> None:
    (top / "a/sub").rename(top / "sub")
    (top / "a").rename(top / "sub/a")


def into_a_new_directory(top: Path) -> None:
    (top / "new").mkdir()
    (top / "a").rename(top / "new/a")


def over_an_empty_directory(top: Path) -> None:
    (top / "a").rename(top / "empty")


def file_over_file(top: Path) -> None:
    (top / "plain").rename(top / "other")


def take_the_place_of_what_is_gone(top: Path) -> None:
    for path in sorted((top / "b").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (top / "b").rmdir()
    (top / "a").rename(top / "b")


CASES = [
    rename_a_directory, rename_a_file, chain, shift, ring, swap_at_once, swap_by_hand, out_of_what_is_moved, upside_down,
    into_a_new_directory, over_an_empty_directory, file_over_file, take_the_place_of_what_is_gone,
]  # fmt: skip


def demand_kept(world: World, here: dict[str, int], there: dict[str, int]) -> None:
    """Fail if something that stood at both sides, and does so still, was made anew at the destination.

    `here`, `there`: the inodes before.
    """
    copy_of = {inode: there[path] for path, inode in here.items()}
    now, now_there = inodes(world.source), inodes(world.destination)
    anew = sorted(path for path, inode in now.items() if inode in copy_of and now_there[path] != copy_of[inode])
    assert not anew, f"made anew: {anew[:5]} ({len(anew)})"


def grow_old(world: World) -> None:
    """Wait until a start takes no file for one that may have changed under its hands."""
    young = max(path.lstat().st_ctime for path in world.source.rglob("*"))
    while time.time() < young + 1.3:
        time.sleep(0.05)


def play(world: World, daemon: Daemon) -> None:
    """Let each case happen in a tree of its own, which stands at both sides already."""
    for case in CASES:
        here, there = inodes(world.source), inodes(world.destination)
        case(world.source / case.__name__)
        world.wait_for_equal(daemon)
        demand_kept(world, here, there)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("monitor", MONITORS)
def test_what_is_renamed_keeps_its_inode(world: World, mode: str, monitor: str) -> None:
    for case in CASES:
        build(world.source / case.__name__)
    grow_old(world)
    with follow(world, f"--mode={mode}", f"--monitor={monitor}") as daemon:
        daemon.wait_for_log(SYNCED)
        play(world, daemon)
