"""Files with several names: they are one at the destination, and hang together with nothing else."""

from __future__ import annotations

import itertools
import os
import shutil
import threading

import pytest

from clsync.errors import Exit
from tests.support.gate import Gate
from tests.system.world import AT_ONCE, MODES, SYNCED, World


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ending", ["--only-initialsync", "--exit-on-no-events", ""])
def test_files_that_hang_together_at_the_destination_alone_are_parted(world: World, mode: str, ending: str) -> None:
    """Even those that no comparison of sizes and times tells apart: what one is given, the others would get."""
    names = ("a", "d/b", "d/c", "linked")
    for name in names[:3]:
        os.utime(world.write(name, "same"), (1_000_000_000, 1_000_000_000))
    os.link(world.source / "a", world.source / "linked")
    (world.source / "d/b").chmod(0o600)
    (world.destination / "d").mkdir()
    shutil.copy2(world.source / "a", world.destination / "a")
    for name in names[1:]:
        os.link(world.destination / "a", world.destination / name)
    if ending:
        done = world.run(*world.trees, f"-M{mode}", ending, *AT_ONCE)
        assert done.code == Exit.OK, done.err
        world.demand_equal()
        return
    with world.daemon(f"-M{mode}") as daemon:
        world.wait_for_equal(daemon)
        (world.source / "d/c").chmod(0o640)
        world.wait_for_equal(daemon)


@pytest.mark.parametrize("monitor", ["fanotify", "inotify"])
@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_a_name_of_a_linked_file_is_replaced_while_its_directory_is_sent(
    world: World, monitor: str, name: str
) -> None:
    """A directory takes the place of another one; the other names keep what they have at the source."""
    if monitor == "fanotify" and os.geteuid() != 0:
        pytest.skip("needs root")
    new = world.top / "new"
    for path in (world.source / "d", new):
        path.mkdir()
        for other in ("0 is sent first", "a", "b", "c"):
            (path / other).write_text(f"{other} in {path.name}")
    for other in ("b", "c"):
        (new / other).unlink()
        os.link(new / "a", new / other)

    def replace() -> None:
        (world.source / ".other").write_text("another file")
        (world.source / ".other").rename(world.source / "d" / name)

    with world.daemon("-Mrsyncdirect", f"--monitor={monitor}") as daemon:
        daemon.wait_for_log(SYNCED)
        with Gate(new / "0 is sent first", replace) as gate:
            (world.source / "d").rename(world.top / "old")
            new.rename(world.source / "d")
            daemon.wait_until(gate, what="the file that is sent first")
        world.wait_for_equal(daemon)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("monitor", ["fanotify", "inotify"])
def test_a_file_is_written_through_a_name_outside(world: World, monitor: str, mode: str) -> None:
    """Again and again: the first time, the scan after the initial sync may have seen it."""
    if monitor == "fanotify" and os.geteuid() != 0:
        pytest.skip("needs root")
    outside = world.top / "outside"
    outside.mkdir()
    world.write("d/a", "first")
    os.link(world.source / "d/a", outside / "name")
    with world.daemon(f"-M{mode}", f"--monitor={monitor}") as daemon:
        daemon.wait_for_log(SYNCED)
        for text in ("second", "third", "fourth"):
            (outside / "name").write_text(text)
            world.wait_for_equal(daemon)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_name_outside_is_made_while_the_program_runs(world: World) -> None:
    """And the file is written through nothing else."""
    outside = world.top / "outside"
    outside.mkdir()
    world.write("d/a", "first")
    with world.daemon("--monitor=fanotify") as daemon:
        daemon.wait_for_log(SYNCED)
        world.wait_for_equal(daemon)
        os.link(world.source / "d/a", outside / "name")
        for text in ("second", "third", "fourth"):
            (outside / "name").write_text(text)
            (outside / "name").rename(outside / "other")
            world.wait_for_equal(daemon)
            (outside / "other").rename(outside / "name")


@pytest.mark.parametrize("monitor", ["fanotify", "inotify"])
def test_a_file_is_written_through_a_directory_that_moves_out(world: World, monitor: str) -> None:
    """Before anybody has asked for the path of that directory."""
    if monitor == "fanotify" and os.geteuid() != 0:
        pytest.skip("needs root")
    outside = world.top / "outside"
    outside.mkdir()
    world.write("kept", "text")
    with world.daemon(f"--monitor={monitor}") as daemon:
        daemon.wait_for_log(SYNCED)
        for number in range(4):
            (world.source / f"d{number}").mkdir()
            os.link(world.source / "kept", world.source / f"d{number}/name")
        world.wait_for_equal(daemon)
        for number in range(4):
            (world.source / f"d{number}/name").write_text(f"{number}{number}")
            (world.source / f"d{number}").rename(outside / f"d{number}")
            world.wait_for_equal(daemon)


def test_a_list_that_is_sent_in_halves_keeps_a_file_of_two_directories_whole(world: World) -> None:
    """Nobody knows which path rsync failed at: what it was given is tried again in parts."""
    marker, rsync = world.top / "fail once", world.top / "rsync"
    rsync.write_text(
        f"""#!/bin/sh
        case " $* " in *" --files-from=-"*)
            if rm '{marker}' 2> /dev/null; then cat > /dev/null; echo 'odd trouble' >&2; exit 23; fi
        esac
        exec rsync "$@"
        """
    )
    rsync.chmod(0o755)
    for name in ("a", "z"):
        (world.top / name).mkdir()
    (world.top / "a/file").write_text("text")
    os.link(world.top / "a/file", world.top / "z/file")
    with world.daemon("-Mrsyncdirect", f"-S{rsync}", delays=("-t0.5", "-w0.5")) as daemon:
        daemon.wait_for_log(SYNCED)
        marker.touch()
        for number in range(40):
            world.write(f"m{number}", "text")
        for name in ("a", "z"):
            (world.top / name).rename(world.source / name)
        world.wait_for_equal(daemon)
        assert not marker.exists()


@pytest.mark.parametrize("place", ["", "d/"])
def test_attributes_that_change_while_names_are_sent_reach_no_other_file(world: World, place: str) -> None:
    """Rsync leaves out of a list what is the same as before; two ends that differ in what was before give wrong modes."""
    numbers = range(80)
    for number in range(2000):
        world.write(f"f{number:04}")
    for number in numbers:
        world.write(f"a{number:02}")
        world.write(f"{place}n{number:02} follows")
        os.link(world.source / f"a{number:02}", world.source / f"{place}n{number:02}")
    stop = threading.Event()

    def change() -> None:
        for mode in itertools.cycle((0o600, 0o644)):
            for number in numbers:
                (world.source / f"a{number:02}").chmod(mode)
            if stop.is_set():
                return

    with world.daemon("-Mrsyncdirect", "-d2", delays=("-t0.3", "-w0")) as daemon:
        world.wait_for_equal(daemon)
        for number in numbers:  # which names they have is known from now on
            (world.source / f"a{number:02}").chmod(0o600)
        world.wait_for_equal(daemon)
        runs = daemon.output.count("batch")
        for number in range(2000):
            os.utime(world.source / f"f{number:04}")
        for number in numbers:
            world.write(f"{place}n{number:02} follows", "changed")
        changing = threading.Thread(target=change)
        changing.start()
        # Who changes all the time leaves a busy machine little for two thousand files.
        daemon.wait_until(lambda: daemon.output.count("batch") >= runs + 4, 60, "two more batches")
        stop.set()
        changing.join()
        world.wait_for_equal(daemon)
