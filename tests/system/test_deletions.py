"""What nobody saw being deleted is not deleted in masses: --max-delete, and who lets it go."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import termios
from contextlib import closing
from pathlib import Path

import pytest

from clsync.core.changes import NAME
from clsync.errors import Exit
from clsync.kernel.durable import boot_id
from clsync.state.meta import Meta
from clsync.state.store import Store
from tests.support.daemon import Daemon, installed
from tests.support.environment import INHERITED
from tests.system.test_state import database, is_complete
from tests.system.world import MODES, QUICK, ROOT, SYNCED, World, mounted, states

HELD = "entries that the source does not have are left there: more than --max-delete allows"
FEW = "--max-delete=3"
NO_STATE = "--state-dir=none"


def fill(world: World, count: int = 5) -> None:
    """Let there be a file on both sides, and some at the destination alone."""
    world.write("file", "new")
    (world.destination / "old/deep").mkdir(parents=True)
    for number in range(count):
        (world.destination / "old/deep" / str(number)).write_text("precious")


def wait_for_names(daemon: Daemon, directory: Path, names: set[str]) -> None:
    """Wait until a directory holds just these: what comes once more, as it was young, stands beside its copy meanwhile."""
    daemon.wait_until(lambda: set(os.listdir(directory)) == names, what=f"{len(names)} names in {directory}")


def spared(world: World) -> bool:
    """Tell whether all of those are there."""
    return all((world.destination / "old/deep" / str(number)).exists() for number in range(5))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rules", [False, True], ids=["", "rules"])
def test_they_wait_and_all_else_is_synced(world: World, mode: str, rules: bool) -> None:
    """Deletions that are seen are no matter; a signal lets the others go."""
    fill(world)
    options = ("-R", world.file("rules", "-f\\.bak$\n")) if rules else ()
    with world.daemon(f"-M{mode}", FEW, NO_STATE, *options) as daemon:
        daemon.wait_for_log(HELD)
        assert world.copied("file") == "new"
        for name in ("a", "b", "c", "d"):
            world.write(name)
        world.wait_for_copy(daemon, "d")
        for name in ("a", "b", "c", "d"):
            (world.source / name).unlink()
        daemon.wait_until(lambda: not (world.destination / "a").exists(), what="deletions that were seen")
        assert spared(world)
        os.kill(daemon.pid, signal.SIGRTMIN)
        world.wait_for_equal(daemon)
        # Another full sync has nothing to hold back.
        (world.destination / "x").write_text("of somebody else")
        os.kill(daemon.pid, signal.SIGUSR2)
        world.wait_for_equal(daemon)
        assert daemon.output.count(HELD) == 1


@ROOT
@pytest.mark.root
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rules", [False, True], ids=["", "rules"])
def test_they_wait_where_there_is_no_room(world: World, mode: str, rules: bool) -> None:
    """Nothing goes before it is counted, though nothing can be written as long as it is there."""
    world.write("m/file", "f" * 500_000)
    options = ("-R", world.file("rules", "-f\\.bak$\n")) if rules else ()
    with mounted("tmpfs", world.destination, "size=1m"):
        fill(world)
        full = os.statvfs(world.destination)
        (world.destination / "z").write_bytes(bytes(full.f_bavail * full.f_bsize))
        with world.daemon(f"-M{mode}", FEW, NO_STATE, *options) as daemon:
            daemon.wait_for_log(HELD)
            assert spared(world)
            os.kill(daemon.pid, signal.SIGRTMIN)
            world.wait_for_equal(daemon)
            assert daemon.output.count(HELD) == 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rules", [False, True], ids=["", "rules"])
@pytest.mark.parametrize("names", [1, 3])
def test_what_stands_in_the_way_gives_way(world: World, mode: str, rules: bool, names: int) -> None:
    """Nothing else goes. An rsync that may not remove it can wait for ever, if the file has several names."""
    fill(world)
    options = ("-R", world.file("rules", "-f\\.bak$\n")) if rules else ()
    way = world.write("way")
    for number in range(1, names):
        os.link(way, world.source / f"w{number}")
    (world.destination / "way/deep").mkdir(parents=True)
    (world.destination / "way/deep/file").write_text("in the way")
    with world.daemon(f"-M{mode}", FEW, NO_STATE, *options) as daemon:
        daemon.wait_for_log(HELD)
        assert world.copied("way") == "way"
        if names > 1:
            assert os.path.samefile(world.destination / "way", world.destination / "w1")
        assert spared(world)
        os.kill(daemon.pid, signal.SIGRTMIN)
        world.wait_for_equal(daemon)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("option", ["--accept-target", "--max-delete=none", "--max-delete=20", "--max-delete=50%"])
def test_they_may_go(world: World, mode: str, option: str) -> None:
    """Of what is not known no percentage can be had: the usual limit counts."""
    fill(world)
    done = world.run(*world.trees, f"-M{mode}", option, NO_STATE, "--only-initialsync")
    assert done.code == 0, done.err
    world.demand_equal()


@pytest.mark.parametrize("mode", MODES)
def test_a_run_that_ends_says_what_it_has_left(world: World, mode: str) -> None:
    fill(world)
    done = world.run(*world.trees, f"-M{mode}", FEW, "--only-initialsync", NO_STATE)
    assert done.code == Exit.INCOMPLETE, done.err
    assert done.err.count(HELD) == 2
    assert "--accept-target" in done.err
    assert world.copied("file") == "new"
    assert spared(world)


def test_as_usual_a_thousand_may_go(world: World) -> None:
    world.write("file")
    for number in range(1001):
        (world.destination / f"x{number}").touch()
    assert world.run(*world.trees, "--only-initialsync", NO_STATE).code == Exit.INCOMPLETE
    (world.destination / "x0").unlink()
    assert world.run(*world.trees, "--only-initialsync", NO_STATE).code == 0
    world.demand_equal()


def test_no_brake_where_the_arguments_are_the_operators(world: World) -> None:
    """Nor under --compat."""
    for options in (("--", "%RSYNC-ARGS%", f"{world.source}/", f"{world.destination}/"), ("--compat=0.4",)):
        for path in (world.write("file"), world.source):
            os.utime(path, (10**9, 10**9))  # with --compat=0.4 rsync compares times by the second
        for number in range(1001):
            (world.destination / f"x{number}").touch()
        done = world.run(f"-W{world.source}", "-Mrsyncdirect", "--only-initialsync", *_to(world, options))
        assert done.code == 0, done.err
        world.demand_equal()


def _to(world: World, options: tuple[str, ...]) -> tuple[str, ...]:
    return options if options[0] == "--" else (f"-D{world.destination}", *options)


def test_they_are_told_and_accepted_at_the_control_socket(world: World) -> None:
    """Of one destination alone."""
    fill(world)
    other = world.top / "other"
    subprocess.run(["cp", "-a", world.destination, other], check=True)
    path = world.top / "socket"

    def ctl(*words: str) -> str:
        done = world.run("ctl", "-s", path, *words)
        assert done.code == 0, done.err
        return done.out

    with world.daemon(f"-D{other}", f"--socket={path}", FEW, NO_STATE) as daemon:
        daemon.wait_for_log(HELD)
        daemon.wait_until(lambda: json.loads(ctl("-j", "status"))["held_back"] >= 10, what="both held back")
        assert "deletions held back" in ctl("status")
        waited = world.run("wait", "-s", path, "--until-synced")
        assert waited.code == Exit.INCOMPLETE
        assert HELD in waited.out + waited.err
        ctl("accept", f"--target={other}")
        daemon.wait_until(lambda: not (other / "old").exists(), what="the deletion")
        assert spared(world)
        ctl("accept")
        world.wait_for_equal(daemon)
        daemon.wait_until(lambda: not json.loads(ctl("-j", "status"))["held_back"], what="the end of that batch")
        assert "no deletions are held back" in world.run("ctl", "-s", path, "accept").err


@pytest.mark.parametrize("mode", MODES)
def test_no_more_is_accepted_than_was_held_back(world: World, mode: str) -> None:
    """And what may go without a word."""
    fill(world)
    with world.daemon(f"-M{mode}", FEW, NO_STATE) as daemon:
        daemon.wait_for_log(HELD)
        (world.destination / "other").mkdir()
        for number in range(20):
            (world.destination / "other" / str(number)).touch()
        os.kill(daemon.pid, signal.SIGRTMIN)
        daemon.wait_until(lambda: daemon.output.count(HELD) == 2, what="another question")
        assert spared(world)
        assert len(os.listdir(world.destination / "other")) == 20
        os.kill(daemon.pid, signal.SIGRTMIN)
        world.wait_for_equal(daemon)


@pytest.mark.parametrize(("answer", "code"), [(b"y\n", 0), (b"n\n", Exit.INCOMPLETE), (b"\n", Exit.INCOMPLETE)])
def test_a_terminal_is_asked(world: World, answer: bytes, code: int) -> None:
    fill(world)
    ours, theirs = os.openpty()
    run = subprocess.Popen(
        [installed(), *world.trees, FEW, NO_STATE, "--only-initialsync"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        env={**INHERITED, **world.environment},
    )
    os.close(theirs)
    said = b""
    while b"[y/N]" not in said:
        said += os.read(ours, 4096)
    assert b"delete them?" in said
    assert spared(world)
    os.write(ours, answer)
    try:
        while os.read(ours, 4096):
            pass
    except OSError:
        pass  # it has ended
    assert run.wait(20) == code
    assert spared(world) == bool(code)
    os.close(ours)


# -- with a state ----------------------------------------------------------------------------------------------


def stated(world: World, *options: str) -> Daemon:
    """Return the program with a state, not started."""
    return world.daemon(f"--state-dir={states(world)}", *options)


def learn(world: World, *options: str) -> None:
    """Let the state know the trees, which are equal then."""
    with stated(world, *options) as daemon:
        daemon.wait_for_log(SYNCED)
        world.wait_for_equal(daemon)
        daemon.stop(signal.SIGQUIT)


@pytest.mark.parametrize("mode", MODES)
def test_what_went_while_nobody_looked(world: World, mode: str) -> None:
    """Half of what is known may go; what is more waits, also over a restart."""
    for number in range(8):
        world.write(f"d/{number}")
    learn(world, f"-M{mode}", "--max-delete=50%")
    for number in range(6):
        (world.source / f"d/{number}").unlink()
    world.write("new")
    for _ in range(2):
        with stated(world, f"-M{mode}", "--max-delete=50%") as daemon:
            daemon.wait_for_log("warm start")
            daemon.wait_for_log(HELD)
            world.wait_for_copy(daemon, "new")
            wait_for_names(daemon, world.destination / "d", {*map(str, range(8))})
            (world.source / "d/6").unlink(missing_ok=True)
            daemon.wait_until(lambda: not (world.destination / "d/6").exists(), what="what was seen")
            (world.destination / "d/6").write_text("back")
            world.write("d/6", "back")
            daemon.stop(signal.SIGQUIT, code=None)
    with stated(world, f"-M{mode}", "--max-delete=50%") as daemon:
        daemon.wait_for_log(HELD)
        os.kill(daemon.pid, signal.SIGRTMIN)
        world.wait_for_equal(daemon)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGQUIT])
def test_what_was_not_confirmed_and_went_meanwhile(world: World, mode: str, number: signal.Signals) -> None:
    """All of it, or nothing: it is not let go as long as there is little of it, and not by who knew of it before."""
    world.write("d/first")
    with stated(world, f"-M{mode}") as daemon:
        daemon.wait_for_log(SYNCED)
        # A directory that is new is handed over with all that is in it by then: it is not known of what that was.
        daemon.wait_until(lambda: is_complete(world), what="a complete state")
        for file in range(1500):
            world.write(f"d/{file}")
        world.wait_for_equal(daemon)
        os.kill(daemon.pid, number)
        daemon.wait(code=None)
    for file in range(1500):
        (world.source / f"d/{file}").unlink()
    world.write("new")
    with stated(world, f"-M{mode}") as daemon:
        daemon.wait_for_log(HELD)
        world.wait_for_copy(daemon, "new")
        daemon.wait_for_log(SYNCED)
        wait_for_names(daemon, world.destination / "d", {"first", *map(str, range(1500))})
        os.kill(daemon.pid, signal.SIGRTMIN)
        world.wait_for_equal(daemon)


@pytest.mark.parametrize("mode", MODES)
def test_a_directory_that_was_new_before_a_crash_and_went_meanwhile(world: World, mode: str) -> None:
    """Only its own name was written down before it was handed over."""
    world.write("old")
    with stated(world, f"-M{mode}") as daemon:
        daemon.wait_for_log(SYNCED)
        daemon.stop(signal.SIGQUIT)
    with stated(world, f"-M{mode}") as daemon:
        daemon.wait_for_log(SYNCED)
        made = world.top / "made"
        for file in range(1500):
            (made / f"{file % 10}").mkdir(parents=True, exist_ok=True)
            world.file(f"made/{file % 10}/{file}", "text")
        made.rename(world.source / "d")
        copy = world.destination / "d"
        daemon.wait_until(lambda: sum(len(files) for _, _, files in os.walk(copy)) == 1500, what="all of it")
        daemon.kill()
    shutil.rmtree(world.source / "d")
    world.write("new")
    with stated(world, f"-M{mode}") as daemon:
        daemon.wait_for_log("warm start")
        daemon.wait_for_log(HELD)
        world.wait_for_copy(daemon, "new")
        wait_for_names(daemon, world.destination / "d/7", {*map(str, range(7, 1500, 10))})
        os.kill(daemon.pid, signal.SIGRTMIN)
        world.wait_for_equal(daemon)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_what_has_left_the_target_already_is_not_counted(world: World, mode: str, number: signal.Signals) -> None:
    """The kernel had told of it, and it had arrived; only the state does not know it yet."""
    for file in range(40):
        world.write(f"d/{file}")
    learn(world, f"-M{mode}", FEW)
    with stated(world, f"-M{mode}", FEW) as daemon:
        daemon.wait_for_log(SYNCED)
        for file in range(20):
            (world.source / f"d/{file}").unlink()
        world.wait_for_equal(daemon)
        os.kill(daemon.pid, number)
        daemon.wait(code=None)
    with stated(world, f"-M{mode}", FEW) as daemon:
        daemon.wait_for_log(SYNCED)
        world.write("new")
        world.wait_for_equal(daemon)
        assert HELD not in daemon.output


@pytest.mark.parametrize("mode", MODES)
def test_who_has_agreed_once_is_asked_again(world: World, mode: str) -> None:
    """Of what a comparison finds later."""
    path = world.top / "socket"
    for number in range(8):
        world.write(f"d/{number}")
    options = (f"-M{mode}", FEW, f"--socket={path}")
    learn(world, *options)
    for number in range(6):
        (world.source / f"d/{number}").unlink()
    with stated(world, *options) as daemon:
        daemon.wait_for_log(HELD)
        os.kill(daemon.pid, signal.SIGRTMIN)
        world.wait_for_equal(daemon)
        fill(world)
        assert world.run("verify", *world.trees, *options, "--repair").code == Exit.INCOMPLETE
        assert spared(world)
        os.kill(daemon.pid, signal.SIGUSR2)
        assert world.run("wait", "-s", path, "--until-synced").code == Exit.INCOMPLETE
        assert spared(world)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("when", ["while nobody looked", "later"])
def test_what_is_not_in_a_directory_that_is_another_one(world: World, mode: str, when: str) -> None:
    """All that is in it is synced, also what is in directories that are new; what is not known of goes with what waits."""
    for number in range(8):
        world.write(f"d/{number}")
        world.write(f"d/e/{number}")
    options = (f"-M{mode}", FEW)
    learn(world, *options)
    (world.source / "d").rename(world.top / "kept")
    for place in ("d", "d/e"):
        (world.destination / place / "theirs").write_text("nobody knows of it")

    def come_back() -> None:
        for name in ("d/new", "d/e/0", "d/e/new", "d/f/g/new"):
            world.write(name, "new")
        (world.source / "d/link").symlink_to("new")
        (world.source / "d/f").chmod(0o700)

    if when != "later":
        come_back()
    for number in range(2):
        with stated(world, *options) as daemon:
            daemon.wait_for_log(HELD)
            if not number and when == "later":
                come_back()
            for name in ("d/new", "d/e/0", "d/e/new", "d/f/g/new", "d/link"):
                world.wait_for_copy(daemon, name, "new")
            daemon.wait_until(lambda: (world.destination / "d/f").stat().st_mode & 0o777 == 0o700, what="the mode")
            wait_for_names(daemon, world.destination / "d", {*map(str, range(8)), "e", "f", "link", "new", "theirs"})
            wait_for_names(daemon, world.destination / "d/e", {*map(str, range(8)), "new", "theirs"})
            assert (world.destination / "d/1").read_text() == "d/1"
            if number:
                os.kill(daemon.pid, signal.SIGRTMIN)
                world.wait_for_equal(daemon)
            daemon.stop(signal.SIGQUIT, code=0 if number else Exit.INCOMPLETE)


@pytest.mark.parametrize("mode", MODES)
def test_what_is_held_back_comes_back(world: World, mode: str) -> None:
    """Nothing waits then, and the directory is compared after all."""
    files = [f"d/{number}" for number in range(8)]
    for name in files:
        world.write(name)
    learn(world, f"-M{mode}", FEW)
    (world.source / "d").rename(world.top / "kept")
    world.write("d/new")
    (world.destination / "d/theirs").write_text("nobody knows of it")
    with stated(world, f"-M{mode}", FEW) as daemon:
        daemon.wait_for_log(HELD)
        world.wait_for_copy(daemon, "d/new")
        (world.source / "d").chmod(0o700)  # it is handed over by its own name: no more is known of it by that
        daemon.wait_until(lambda: (world.destination / "d").stat().st_mode & 0o777 == 0o700, what="the mode")
        daemon.stop(signal.SIGQUIT, code=Exit.INCOMPLETE)
        assert (world.destination / "d/theirs").exists()
    with stated(world, f"-M{mode}", FEW) as daemon:
        daemon.wait_for_log(HELD)
        for name in files:
            world.write(name, "back")
        world.wait_for_equal(daemon)
        daemon.stop(signal.SIGQUIT)


@pytest.mark.parametrize("mode", MODES)
def test_what_is_held_back_together_is_so_after_a_restart(world: World, mode: str) -> None:
    """A directory in doubt waits for all else that has gone: each on its own would not be too much."""
    for number in range(8):
        world.write(f"d/{number}")
        world.write(f"f/{number}")
    options = (f"-M{mode}", "--max-delete=10")
    learn(world, *options)
    (world.source / "d").rename(world.top / "kept")
    world.write("d/new")
    for number in range(8):
        (world.source / f"f/{number}").unlink()
    for _ in range(2):
        with stated(world, *options) as daemon:
            daemon.wait_for_log(f"16 {HELD}")
            daemon.wait_for_log(SYNCED)
            daemon.stop(signal.SIGQUIT, code=Exit.INCOMPLETE)
        assert {*os.listdir(world.destination / "d")} == {*map(str, range(8)), "new"}
        assert len(os.listdir(world.destination / "f")) == 8


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("when", ["at a start", "while it runs"])
def test_what_is_held_back_in_a_directory_that_came_with_a_rename(world: World, mode: str, when: str) -> None:
    """Its ctime tells that, and it would be compared by itself."""
    for number in range(8):
        world.write(f"d/e/{number}")
    options = (f"-M{mode}", FEW)
    learn(world, *options)
    (world.source / "d").rename(world.top / "kept")
    world.write("d/e/new")
    os.utime(world.source / "d/e", (10**9, 10**9))
    for _ in range(2):
        with stated(world, *options) as daemon:
            daemon.wait_for_log(HELD)
            daemon.wait_for_log(SYNCED)
            world.wait_for_copy(daemon, "d/e/new")
            if when != "at a start":
                os.kill(daemon.pid, signal.SIGUSR2)
                world.write("last")
                world.wait_for_copy(daemon, "last")
            daemon.stop(signal.SIGQUIT, code=Exit.INCOMPLETE)
        assert {*os.listdir(world.destination / "d/e")} == {*map(str, range(8)), "new"}


@pytest.mark.parametrize("mode", MODES)
def test_what_one_of_two_targets_has_agreed_to(world: World, mode: str) -> None:
    """The index knows it no longer; the other target keeps it all the same, also over a restart."""
    for number in range(8):
        world.write(f"d/{number}")
    targets, path = [world.top / "a", world.top / "b"], world.top / "socket"
    for target in targets:
        target.mkdir()
    places = [f"-D{target}" for target in targets]
    options = (f"-M{mode}", FEW, f"--socket={path}", f"--state-dir={states(world)}", *QUICK)

    def started() -> Daemon:
        return world.bare(f"-W{world.source}", *places, *options)

    with started() as daemon:
        for target in targets:
            daemon.wait_for_equal(bytes(world.source), bytes(target))
        daemon.wait_until(lambda: is_complete(world), what="a complete state")
        daemon.stop(signal.SIGQUIT)
    (world.source / "d").rename(world.top / "kept")
    world.write("d/new")
    with started() as daemon:
        for target in targets:
            daemon.wait_for_log(f"target {target}: 8 {HELD}")
        assert world.run("ctl", "-s", path, f"--target={targets[0]}", "accept").code == 0
        daemon.wait_for_equal(bytes(world.source), bytes(targets[0]))
        daemon.stop(signal.SIGQUIT, code=Exit.INCOMPLETE)
    for _ in range(2):
        with started() as daemon:
            daemon.wait_for_log(f"target {targets[1]}: 8 {HELD}")
            daemon.wait_for_log(f"{targets[1]}: initial sync done")
            daemon.stop(signal.SIGQUIT, code=Exit.INCOMPLETE)
        assert {*os.listdir(targets[1] / "d")} == {*map(str, range(8)), "new"}


@pytest.mark.parametrize("mode", MODES)
def test_what_was_held_back_goes_with_its_directory(world: World, mode: str) -> None:
    """Somebody has removed that: nothing is left there, and nothing is said to be."""
    path = world.top / "socket"
    for number in range(8):
        world.write(f"d/{number}")
    options = (f"-M{mode}", FEW, f"--socket={path}")
    learn(world, *options)
    (world.source / "d").rename(world.top / "kept")
    world.write("d/new")
    with stated(world, *options) as daemon:
        daemon.wait_for_log(HELD)
        world.wait_for_copy(daemon, "d/new")
        (world.source / "d").rename(world.top / "kept too")
        world.wait_for_equal(daemon)
        assert world.run("wait", "-s", path).code == 0
        daemon.stop(signal.SIGQUIT)


@ROOT
@pytest.mark.root
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("when", ["while nobody looked", "later"])
def test_a_file_system_below_that_is_not_mounted(world: World, mode: str, when: str) -> None:
    """Its mount point is an empty directory; when it is back, nothing waits."""
    disk, path = world.top / "disk", world.top / "socket"
    disk.mkdir()
    options = (f"-M{mode}", FEW, f"--socket={path}")
    with mounted("tmpfs", disk):
        for number in range(8):
            (disk / str(number)).write_text("precious")
        world.write("file")
        mount = world.source / "m"
        with mounted("bind", mount, device=str(disk)), stated(world, *options) as daemon:
            daemon.wait_for_log(SYNCED)
            world.wait_for_equal(daemon)
            daemon.wait_until(lambda: is_complete(world), what="a complete state")
            if when == "later":
                subprocess.run(["umount", "-l", mount], check=True)
                daemon.wait_for_log(HELD)
                assert len(os.listdir(world.destination / "m")) == 8
            daemon.stop(signal.SIGQUIT, code=None)
        with stated(world, *options) as daemon:
            daemon.wait_for_log(HELD)
            daemon.wait_for_log(SYNCED)
            world.write("other")
            world.wait_for_copy(daemon, "other")
            assert len(os.listdir(world.destination / "m")) == 8
            subprocess.run(["mount", "--bind", disk, mount], check=True)
            try:
                world.wait_for_equal(daemon)
                daemon.wait_until(
                    lambda: not json.loads(world.run("ctl", "-s", path, "-j", "status").out)["held_back"],
                    what="nothing that is held back",
                )
            finally:
                subprocess.run(["umount", "-l", mount], check=True)


@ROOT
@pytest.mark.root
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kept", [True, False])
def test_a_file_system_below_that_goes_before_anything_is_known(world: World, mode: str, kept: bool) -> None:
    """With a state that is not complete, and without one: what is held back at the start is not what makes it so."""
    for number in range(8):
        (world.destination / "m").mkdir(exist_ok=True)
        (world.destination / "m" / str(number)).write_text("precious")
        (world.destination / f"extra {number}").write_text("there alone")
    disk, mount, path = world.top / "disk", world.source / "m", world.top / "socket"
    options = (f"-M{mode}", FEW, f"--socket={path}", *(() if kept else ("--state-dir=none",)))
    with mounted("tmpfs", disk):
        shutil.copytree(world.destination / "m", disk, dirs_exist_ok=True)
        with mounted("bind", mount, device=str(disk)), stated(world, *options) as daemon:
            daemon.wait_for_log(SYNCED)
            assert HELD in daemon.output
            subprocess.run(["umount", "-l", mount], check=True)
            world.write("other")
            world.wait_for_copy(daemon, "other")
            daemon.wait_for_log("16 entries that the source does not have")
            assert len(os.listdir(world.destination / "m")) == 8
            (disk / "later").write_text("later")
            subprocess.run(["mount", "--bind", disk, mount], check=True)
            try:
                world.wait_for_copy(daemon, "m/later", "later")
                world.run("wait", "-s", str(path))  # what is on its way was counted already
                os.kill(daemon.pid, signal.SIGRTMIN)
                world.wait_for_equal(daemon)
            finally:
                subprocess.run(["umount", "-l", mount], check=True)


@ROOT
@pytest.mark.root
@pytest.mark.parametrize("rules", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_a_file_system_below_that_goes_after_it_was_counted(world: World, mode: str, rules: bool) -> None:
    """No more is deleted than may be, whatever was found before."""
    disk, mount = world.top / "disk", world.source / "m"
    (world.destination / "m").mkdir()
    for number in range(40):
        (world.destination / "m" / str(number)).write_text("precious")
    (world.destination / "m" / "extra").write_text("there alone")
    world.write("z/large", "large" * 800_000)
    options = [f"-M{mode}", "--max-delete=5", "--bwlimit=2m"]
    ruled = world.file("rules", "-f^nothing$\n+*.*\n")
    options += [f"-R{ruled}"] if rules else []
    with mounted("tmpfs", disk):
        for number in range(40):
            shutil.copy2(world.destination / "m" / str(number), disk)
        with mounted("bind", mount, device=str(disk)), stated(world, *options) as daemon:
            large = world.destination / "z"
            daemon.wait_until(lambda: large.is_dir() and bool(os.listdir(large)), what="the large file on its way")
            subprocess.run(["umount", "-l", mount], check=True)
            daemon.wait_for_log(SYNCED)
            daemon.wait_for_log(HELD)
            assert len(os.listdir(world.destination / "m")) >= 36
            subprocess.run(["mount", "--bind", disk, mount], check=True)
            try:
                world.wait_for_equal(daemon)
            finally:
                subprocess.run(["umount", "-l", mount], check=True)


@pytest.mark.parametrize("mode", MODES)
def test_a_repair_is_no_word(world: World, mode: str) -> None:
    """Nor is what is held back a fault of the index."""
    path = world.top / "socket"
    options = (f"-M{mode}", FEW, f"--socket={path}")
    for number in range(8):
        world.write(f"d/{number}")
    with stated(world, *options) as daemon:
        daemon.wait_for_log(SYNCED)
        daemon.wait_until(lambda: is_complete(world), what="a complete state")
        daemon.stop()
    for number in range(6):
        (world.source / f"d/{number}").unlink()
    with stated(world, *options) as daemon:
        daemon.wait_for_log(HELD)
        daemon.wait_for_log(SYNCED)
        done = world.run("verify", *world.trees, *options, "--repair")
        assert done.code == Exit.INCOMPLETE, done
        assert "entries compared, all agree" in done.out.splitlines()[-1], done
        assert len(os.listdir(world.destination / "d")) == 8
        assert world.run("ctl", "-s", path, "accept").code == 0
        world.wait_for_equal(daemon)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("where", [".", "/usr"])
def test_what_lies_behind_a_symlink_is_not_counted(world: World, mode: str, where: str) -> None:
    """It does not go with it."""
    for file in range(600):
        world.write(f"d/{file}")
    for number in range(4):
        (world.source / f"d/link{number}").symlink_to(where)
    learn(world, f"-M{mode}")
    for number in range(4):
        (world.source / f"d/link{number}").unlink()
    with stated(world, f"-M{mode}") as daemon:
        daemon.wait_for_log(SYNCED)
        world.wait_for_equal(daemon)
        assert HELD not in daemon.output


@pytest.mark.parametrize("mode", MODES)
def test_what_went_after_a_crash(world: World, mode: str) -> None:
    """Beside what was on its way, files that are not complete are removed, and nothing else."""
    for number in range(8):
        world.write(f"d/{number}")
    options = (f"-M{mode}", FEW, "--splitting=off")
    with stated(world, *options) as daemon:
        daemon.wait_for_log(SYNCED)
        daemon.wait_until(lambda: is_complete(world), what="a complete state")
        daemon.stop()
    with closing(sqlite3.connect(database(world))) as rows:
        keys, identity = [key for (key,) in rows.execute("SELECT key FROM target")], Meta.read(rows).identity
    store = Store.open(bytes(database(world).parent), identity, keys, boot_id())
    store.hand_over(keys[0], {b"x": NAME}, 0.0)
    store.close()
    shutil.rmtree(world.source / "d")
    litter = [world.destination / name for name in (".x.AbCd12", ".x.clsync-012345", ".clsync-0123456789ab")]
    other = world.destination / "of somebody else"
    for path in (*litter, other):
        path.touch()
    for accepts in (False, True):
        with stated(world, *options) as daemon:
            daemon.wait_for_log(HELD)
            daemon.wait_for_log(SYNCED)
            world.write("new")
            world.wait_for_copy(daemon, "new")
            assert len(os.listdir(world.destination / "d")) == 8
            daemon.wait_until(lambda: not any(path.exists() for path in litter), what="no litter")
            if accepts:
                os.kill(daemon.pid, signal.SIGRTMIN)
                daemon.wait_until(lambda: not (world.destination / "d").exists(), what="the deletion")
            assert other.exists()
            daemon.stop(signal.SIGQUIT, code=None)


def test_half_may_go_unasked(world: World) -> None:
    for number in range(8):
        world.write(f"d/{number}")
    with stated(world, "--max-delete=80%") as daemon:
        daemon.wait_for_log(SYNCED)
        daemon.stop(signal.SIGQUIT)
    for number in range(6):
        (world.source / f"d/{number}").unlink()
    with stated(world, "--max-delete=80%") as daemon:
        world.wait_for_equal(daemon)
        assert HELD not in daemon.output


# -- what nobody can mean --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("where", ["/", "home", "a link to it"])
def test_destinations_that_nobody_can_mean(world: World, mode: str, where: str) -> None:
    home = world.top / "home"
    home.mkdir()
    (world.top / "link").symlink_to(home)
    place = {"/": Path("/"), "home": home, "a link to it": world.top / "link"}[where]
    world.environment["HOME"] = str(home)
    message, hint = world.run(f"-W{world.source}", f"-D{place}", f"-M{mode}").complaint(Exit.DESTINATION)
    assert message.startswith(f"--destination-dir {place} ")
    if where != "/":
        assert "your home directory" in message
    assert "of its own" in hint


@pytest.mark.parametrize("where", ["host:", "host:/", "host:~", "user@host:~/", "host:."])
def test_remote_destinations_that_nobody_can_mean(world: World, where: str) -> None:
    message, _ = world.run(f"-W{world.source}", f"-D{where}").complaint(Exit.DESTINATION)
    assert message.startswith(f"--destination-dir {where} is ")


@pytest.mark.parametrize(
    ("options", "option"),
    [
        (("-Mdirect", "-S/bin/true", FEW), "--max-delete"),
        (("-Mdirect", "-S/bin/true", "--accept-target"), "--accept-target"),
    ],
)
def test_no_brake_for_other_programs(world: World, options: tuple[str, ...], option: str) -> None:
    message, _ = world.run(*world.trees, *options).complaint(Exit.USAGE)
    assert message.startswith(option)


@pytest.mark.parametrize(("value", "said"), [("-1", "too small"), ("101%", "too large"), ("some", "not a number")])
def test_values_that_make_no_sense(world: World, value: str, said: str) -> None:
    message, _ = world.run(*world.trees, f"--max-delete={value}").complaint(Exit.USAGE)
    assert said in message
