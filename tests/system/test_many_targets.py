"""One watched tree and many destinations: each at its own pace, none held up by another."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from clsync.errors import Exit
from tests.support.daemon import Daemon, installed
from tests.support.remotes import Remote, RsyncHost, SshHost, missing
from tests.support.trees import compare_trees
from tests.system.world import MODES, QUICK, SYNCED, WATCHING, World

LIMIT = 20.0


def places(world: World, *names: str) -> list[Path]:
    """Make destinations."""
    made = [world.top / name for name in names]
    for place in made:
        place.mkdir()
    return made


def many(world: World, targets: list[Path], *args: str) -> Daemon:
    """Return a daemon with these destinations, not started."""
    options = [f"-D{target}" for target in targets]
    return world.bare(f"-W{world.source}", *options, *QUICK, f"-s{world.top}/socket", *args)


def wait_for_equal(world: World, daemon: Daemon, targets: list[Path], timeout: float = LIMIT) -> None:
    for target in targets:
        daemon.wait_for_equal(bytes(world.source), bytes(target), timeout)


def ask(world: World, *words: str) -> subprocess.CompletedProcess[str]:
    """Ask the daemon; in a session of its own, as a busy machine is divided by sessions (sched(7), autogroups)."""
    command = [installed(), words[0], f"-s{world.top}/socket", *words[1:]]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, start_new_session=True)


def wait(world: World, *args: str) -> subprocess.CompletedProcess[str]:
    return ask(world, "wait", *args)


def ctl(world: World, *args: str) -> subprocess.CompletedProcess[str]:
    return ask(world, "ctl", *args)


def status(world: World) -> dict[str, Any]:
    found = json.loads(ctl(world, "-j", "status").stdout)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("monitor", ["auto", "inotify"])
@pytest.mark.parametrize("mode", MODES)
def test_each_is_kept_equal(world: World, mode: str, monitor: str) -> None:
    targets = places(world, "one", "two", "three")
    for n in range(20):
        world.write(f"tree/{n}/file")
    (world.source / "linked").hardlink_to(world.source / "tree/0/file")
    with many(world, targets, f"-M{mode}", f"--monitor={monitor}") as daemon:
        for target in targets:
            daemon.wait_for_log(f"{target}: initial sync done")
        wait_for_equal(world, daemon, targets)
        (world.source / "linked").write_text("through another name")
        world.write("tree/3/new")
        (world.source / "tree/4").rename(world.source / "moved")
        (world.source / "tree/0/file").unlink()
        wait_for_equal(world, daemon, targets)
        assert daemon.stop(signal.SIGQUIT) == Exit.OK


def test_a_write_through_a_name_that_goes_away_reaches_all(world: World) -> None:
    """What one target finds out about the names of a file, it does not keep from the others."""
    targets = places(world, "one", "two", "three", "four")
    world.write("a", "old").with_name("b").hardlink_to(world.source / "a")
    with many(world, targets) as daemon:
        for target in targets:
            daemon.wait_for_log(f"{target}: initial sync done")
        for turn in range(5):
            before = (world.source / "b").stat()
            (world.source / "a").write_text(f"{turn:03}")
            os.utime(world.source / "b", ns=(before.st_atime_ns, before.st_mtime_ns))
            (world.source / "a").unlink()
            wait_for_equal(world, daemon, targets)
            (world.source / "a").hardlink_to(world.source / "b")
            wait_for_equal(world, daemon, targets)


def test_one_that_hangs_keeps_nobody_waiting(world: World) -> None:
    targets = places(world, "one", "two")
    hang = world.file(
        "handler", f'#!/bin/sh\ncase "$*" in *{targets[0]}*) exec sleep 600;; esac\nexec rsync "$@"\n', 0o755
    )
    with many(world, targets, "-Mrsyncdirect", f"-S{hang}") as daemon:
        daemon.wait_for_log(f"{targets[1]}: initial sync done")
        for n in range(3):
            world.write(f"file{n}")
            wait_for_equal(world, daemon, targets[1:])
        assert not list(targets[0].iterdir())
        daemon.stop(code=None)


def test_one_that_is_away_gets_everything_when_it_is_back(world: World) -> None:
    """Also what has changed with equal size and time while its initial sync had not succeeded yet."""
    targets = places(world, "one", "two")
    gate = world.top / "closed"
    gate.touch()
    script = f'#!/bin/sh\ncase "$*" in *{targets[0]}*) test -e {gate} && exit 12;; esac\nexec rsync "$@"\n'
    handler = world.file("handler", script, 0o755)
    file = world.write("file", "old")
    (targets[0] / "file").write_text("OLD")
    stamp = file.stat()
    os.utime(targets[0] / "file", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    with many(world, targets, "-Mrsyncdirect", f"-S{handler}") as daemon:
        daemon.wait_for_log(f"{targets[1]}: initial sync done")
        file.write_text("new")
        os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        wait_for_equal(world, daemon, targets[1:])
        world.write("more/below")
        wait_for_equal(world, daemon, targets[1:])
        assert wait(world, f"--target={targets[1]}", "--until-synced").returncode == Exit.OK
        one, two = status(world)["targets"]
        assert (one["destination"], two["destination"]) == (str(targets[0]), str(targets[1]))
        assert one["trouble"]
        assert (two["trouble"], two["pending"], two["failing"]) == (None, 0, 0)
        gate.unlink()
        wait_for_equal(world, daemon, targets, 60)


def test_at_most_so_many_handlers_run(world: World) -> None:
    """All are served though there is room for two."""
    targets = places(world, *map(str, range(6)))
    log = world.top / "log"
    handler = world.file(
        "handler", f'#!/bin/sh\necho + >>{log}\nrsync "$@"; code=$?\nsleep 0.05\necho - >>{log}\nexit $code\n', 0o755
    )
    with many(world, targets, "-Mrsyncdirect", f"-S{handler}", "--max-parallel=2") as daemon:
        for target in targets:
            daemon.wait_for_log(f"{target}: initial sync done")
        world.write("file")
        wait_for_equal(world, daemon, targets)
        assert daemon.stop(signal.SIGQUIT) == Exit.OK
    running = most = 0
    for line in log.read_text().split():
        running += 1 if line == "+" else -1
        most = max(most, running)
    assert most == 2


def test_runs_that_are_meant_to_end_end_when_all_have_it(world: World) -> None:
    targets = places(world, "one", "two")
    world.write("dir/file")
    options = [f"-D{target}" for target in targets]
    for ending in ("--only-initialsync", "--exit-on-no-events", "--max-iterations=1"):
        world.write(f"dir/{ending}")
        done = world.run(f"-W{world.source}", *options, ending)
        assert done.code == Exit.OK, done.err
        for target in targets:
            assert not compare_trees(bytes(world.source), bytes(target))


@pytest.mark.parametrize("ending", ["--only-initialsync", "--exit-on-no-events"])
def test_one_that_fails_for_good_does_not_keep_the_others_from_their_end(world: World, ending: str) -> None:
    targets = places(world, "one", "two")
    script = f'#!/bin/sh\ncase "$*" in *{targets[0]}*) exit 12;; esac\nexec rsync "$@"\n'
    handler = world.file("handler", script, 0o755)
    world.write("file")
    options = [f"-D{target}" for target in targets]
    done = world.run(f"-W{world.source}", *options, "-Mrsyncdirect", f"-S{handler}", ending, "--retries=2")
    assert done.code == 12, done.err
    assert any(f"target {targets[0]} is given up" in line for line in done.troubles)
    assert not compare_trees(bytes(world.source), bytes(targets[1]))


def test_the_configuration_file_lists_them(world: World) -> None:
    targets = places(world, "one", "two")
    lines = "".join(f"destination-dir = {target}\n" for target in targets)
    config = world.file(
        "conf", f"[default]\nwatch-dir = {world.source}\n{lines}[old]\ncompat = 0.4\nmode = rsyncdirect\n{lines}"
    )
    world.write("file")
    done = world.run(f"-H{config}", "--only-initialsync")
    assert done.code == Exit.OK, done.err
    assert all((target / "file").exists() for target in targets)
    (targets[0] / "file").unlink()
    done = world.run(f"-W{world.source}", f"-H{config}", "-Kold", "--only-initialsync")
    assert done.code == Exit.OK, done.err
    assert not (targets[0] / "file").exists(), "clsync 0.4 takes the last one"


@pytest.mark.parametrize("second", ["one", "one/below", "link"])
def test_destinations_that_are_not_apart(world: World, second: str) -> None:
    places(world, "one", "one/below")
    (world.top / "link").symlink_to("one")
    done = world.run(f"-W{world.source}", f"-D{world.top}/one", f"-D{world.top}/{second}")
    message, _ = done.complaint(Exit.DESTINATION)
    assert "--destination-dir" in message


def test_signals_and_settings_concern_all(world: World) -> None:
    targets = places(world, "one", "two")
    rules = world.file("rules", "-*\\.skip$\n")
    with many(world, targets, f"-R{rules}") as daemon:
        for target in targets:
            daemon.wait_for_log(f"{target}: initial sync done")
        for target in targets:
            (target / "stray").touch()
        os.kill(daemon.pid, signal.SIGUSR2)
        wait_for_equal(world, daemon, targets)
        world.write("file.skip")
        world.write("file")
        daemon.wait_until(lambda: all((t / "file").exists() for t in targets), what="the file everywhere")
        assert not any((t / "file.skip").exists() for t in targets)
        rules.write_text("")
        os.kill(daemon.pid, signal.SIGHUP)
        wait_for_equal(world, daemon, targets)
        done = subprocess.run([installed(), "ctl", f"-s{world.top}/socket", "set", "xattrs", "1"], check=False)
        assert done.returncode == 0
        world.write("later")
        wait_for_equal(world, daemon, targets)
        target_set = [installed(), "ctl", f"-s{world.top}/socket", "set", "destination-dir", str(targets[0])]
        refused = subprocess.run(target_set, capture_output=True, text=True, check=False)
        assert refused.returncode == Exit.REFUSED
        assert "the number of destinations cannot be changed" in refused.stderr


# -- waiting ---------------------------------------------------------------------------------------------------


def test_wait_returns_when_what_has_changed_has_arrived(world: World) -> None:
    targets = places(world, "one", "two")
    slow = world.file("handler", '#!/bin/sh\nsleep 0.3\nexec rsync "$@"\n', 0o755)
    with many(world, targets, "-Mrsyncdirect", f"-S{slow}", "-t600") as daemon:
        daemon.wait_for_log(WATCHING)
        for n in range(3):
            world.write(f"file{n}")
            done = wait(world, "--timeout=50")
            assert done.returncode == Exit.OK, f"it does not wait for the delays\n{done.stderr}"
            for target in targets:
                assert (target / f"file{n}").read_text() == f"file{n}"


def test_a_file_that_never_rests_has_arrived_in_some_later_version(world: World) -> None:
    script = f"i=0; while :; do i=$((i+1)); echo $i >{shlex.quote(str(world.source))}/restless; done"
    # A batch takes its time: it is not to be over before who writes has had his turn, on a busy machine.
    slow = world.file("handler", '#!/bin/sh\nrsync "$@"; code=$?\nsleep 0.4\nexit $code\n', 0o755)
    with many(world, [world.destination], "-t0.02", "-Mrsyncdirect", f"-S{slow}") as daemon:
        daemon.wait_for_log(SYNCED)
        with subprocess.Popen(["/bin/sh", "-c", script]) as writer:
            try:
                daemon.wait_until((world.destination / "restless").exists)
                for n in range(3):
                    world.write(f"file{n}")
                    done = wait(world, "--timeout=30")
                    assert done.returncode == Exit.OK, done.stderr
                    assert world.copied(f"file{n}") == f"file{n}"
                late = wait(world, "--until-synced", "--timeout=1")
                assert late.returncode == Exit.LATE, "it never rests"
            finally:
                writer.kill()
        assert wait(world, "--until-synced").returncode == Exit.OK
        world.demand_equal()


def test_wait_for_one_target(world: World) -> None:
    targets = places(world, "one", "two")
    script = f'#!/bin/sh\ncase "$*" in *{targets[0]}*) exec sleep 600;; esac\nexec rsync "$@"\n'
    with many(world, targets, "-Mrsyncdirect", f"-S{world.file('handler', script, 0o755)}") as daemon:
        daemon.wait_for_log(WATCHING)
        world.write("file")
        assert wait(world, f"--target={targets[1]}").returncode == Exit.OK
        assert (targets[1] / "file").exists()
        late = wait(world, "--timeout=1")
        assert late.returncode == Exit.LATE
        assert "within 1 s" in late.stderr
        unknown = wait(world, "--target=/nowhere")
        assert unknown.returncode == Exit.REFUSED
        assert str(targets[1]) in unknown.stderr, "it names what there is"
        daemon.stop(code=None)


def test_wait_names_what_has_failed(world: World) -> None:
    script = '#!/bin/sh\ncase "$*" in *bad*) exit 1;; esac\nexit 0\n'
    handler = world.file("handler", script, 0o755)
    with world.bare(
        f"-W{world.source}", "-Msimple", f"-S{handler}", *QUICK, f"-s{world.top}/socket", "--", "%INCLUDE-LIST%"
    ) as daemon:
        daemon.wait_for_log(SYNCED)
        world.write("good")
        assert wait(world).returncode == Exit.OK
        world.write("bad")
        done = wait(world)
        assert done.returncode == Exit.INCOMPLETE, done.stdout
        assert "bad" in done.stdout
        answer = json.loads(wait(world, "--json").stdout)
        assert answer["failing"] == 1
        assert [entry["path"] for entry in answer["failed"]] == ["bad"]


def test_who_waits_and_leaves_is_forgotten(world: World) -> None:
    slow = world.file("handler", "#!/bin/sh\nexec sleep 600\n", 0o755)
    with many(world, [world.destination], "-Mrsyncdirect", f"-S{slow}") as daemon:
        daemon.wait_for_log(WATCHING)
        for _ in range(80):  # more than may be connected at a time
            with subprocess.Popen(
                [installed(), "wait", f"-s{world.top}/socket"], stderr=subprocess.DEVNULL
            ) as waiter:
                waiter.kill()
        assert status(world)["phase"] == "initsync"
        daemon.stop(code=None)


# -- pauses ----------------------------------------------------------------------------------------------------


def test_a_pause_of_one_target(world: World) -> None:
    targets = places(world, "one", "two")
    with many(world, targets) as daemon:
        for target in targets:
            daemon.wait_for_log(f"{target}: initial sync done")
        assert ctl(world, "pause", f"--target={targets[0]}").returncode == Exit.OK
        world.write("file")
        wait_for_equal(world, daemon, targets[1:])
        assert wait(world, f"--target={targets[1]}").returncode == Exit.OK
        assert not (targets[0] / "file").exists()
        one, two = status(world)["targets"]
        assert (one["paused"], two["paused"]) == (True, False)
        assert one["pending"] > 0
        assert f"{targets[0]}: " in ctl(world, "status").stdout
        assert ctl(world, "resume").returncode == Exit.OK
        wait_for_equal(world, daemon, targets)
        assert ctl(world, "pause", "--target=/nowhere").returncode == Exit.REFUSED
        assert daemon.stop(signal.SIGQUIT) == Exit.OK


@pytest.mark.parametrize("word", [signal.SIGQUIT, signal.SIGALRM])
def test_quit_does_not_wait_for_the_end_of_a_pause(world: World, word: int) -> None:
    with many(world, [world.destination]) as daemon:
        daemon.wait_for_log(SYNCED)
        assert ctl(world, "pause").returncode == Exit.OK
        world.write("file")
        daemon.wait_until(
            lambda: bool(status(world)["collecting"]) or status(world)["pending"] != 0, what="the change"
        )
        daemon.stop(word, code=Exit.INCOMPLETE)
        assert "the target is paused" in daemon.output
    assert world.copied("file") is None
    assert world.run(*world.trees, "--only-initialsync").code == Exit.OK
    assert world.copied("file") == "file"


# -- at other hosts --------------------------------------------------------------------------------------------


@pytest.mark.skipif(bool(missing()), reason=f"not installed: {', '.join(missing())}")
def test_hosts_of_every_kind_side_by_side(world: World) -> None:
    """One of them is down for a while."""
    targets = places(world, "here", "behind-ssh", "module")
    hosts: list[Remote] = [SshHost(world.top, targets[1]), RsyncHost(world.top, targets[2])]
    world.environment |= hosts[0].environment
    world.write("dir/file")
    options = [f"-D{to}" for to in (targets[0], *(host.destination for host in hosts))]
    try:
        for host in hosts:
            host.start()
        with world.bare(f"-W{world.source}", *options, *QUICK, f"-s{world.top}/socket") as daemon:
            wait_for_equal(world, daemon, targets)
            assert wait(world).returncode == Exit.OK
            hosts[1].stop()
            world.write("dir/later")
            wait_for_equal(world, daemon, targets[:2])
            assert wait(world, f"--target={targets[0]}", "--target=" + hosts[0].destination).returncode == Exit.OK
            hosts[1].start()
            wait_for_equal(world, daemon, targets, 60)
    finally:
        for host in hosts:
            host.stop()


# -- speed and priority -----------------------------------------------------------------------------------------


def priority_of(world: World, name: str) -> tuple[int, str]:
    """Return the nice value and the I/O class that a handler has noted of itself."""
    nice, _, io = (world.top / name).read_text().partition(" ")
    return int(nice), io.strip()


@pytest.mark.skipif(not shutil.which("ionice"), reason="ionice is not installed")
def test_priorities_of_handlers(world: World) -> None:
    """One for all, another one for one of them."""
    targets = places(world, "one", "two")
    note = f"sleep 0.3; echo $(nice) $(ionice -p $$) >{world.top}/"
    script = f'#!/bin/sh\ncase "$*" in *{targets[0]}*) {note}of-one;; *) {note}of-two;; esac\nexec rsync "$@"\n'
    options = ("-Mrsyncdirect", f"-S{world.file('handler', script, 0o755)}")
    lower = ("--nice=5", f"--nice={targets[1]}=11", f"--io-class={targets[1]}=idle")
    with many(world, targets, *options, *lower) as daemon:
        for target in targets:
            daemon.wait_for_log(f"{target}: initial sync done")
    assert priority_of(world, "of-one")[0] == 5
    assert priority_of(world, "of-two") == (11, "idle")


@pytest.mark.parametrize("mode", MODES)
def test_a_slow_target_is_slow(world: World, mode: str) -> None:
    """And the other one is not."""
    targets = places(world, "one", "two")
    with many(world, targets, f"-M{mode}", f"--bwlimit={targets[0]}=200k") as daemon:
        for target in targets:
            daemon.wait_for_log(f"{target}: initial sync done")
        began = time.monotonic()
        (world.source / "big").write_bytes(os.urandom(400 << 10))
        daemon.wait_until(lambda: (targets[1] / "big").exists(), what="the fast one")
        fast = time.monotonic() - began
        daemon.wait_until(lambda: (targets[0] / "big").exists(), what="the slow one")
        assert time.monotonic() - began > max(1.0, fast)
        wait_for_equal(world, daemon, targets)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--bwlimit=fast", "'fast' is not a number"),
        ("--bwlimit=/nowhere=1m", "/nowhere is no destination"),
        ("--nice=20", "20 is too large"),
        ("--io-class=low", "'low' is not known"),
    ],
)
def test_limits_that_make_no_sense(world: World, option: str, said: str) -> None:
    message, hint = world.run(*world.trees, option).complaint(Exit.USAGE)
    assert said in message
    assert hint


# -- what is waited for, and what is not ------------------------------------------------------------------------


def failing_for(world: World, word: str) -> str:
    """Return the option for a handler of mode simple that fails for paths with this word."""
    script = f'#!/bin/sh\ncase "$1" in *{word}*) exit 1;; esac\nexit 0\n'
    return f"-S{world.file('handler', script, 0o755)}"


def simple(world: World, *args: str) -> Daemon:
    tail = (f"-s{world.top}/socket", *args, "--", "%INCLUDE-LIST%")
    return world.bare(f"-W{world.source}", "-Msimple", failing_for(world, "bad"), *QUICK, *tail)


def test_quit_hands_over_what_is_left_for_those_that_are_not_paused(world: World) -> None:
    targets = places(world, "one", "two")
    with many(world, targets, "-t20") as daemon:
        for target in targets:
            daemon.wait_for_log(f"{target}: initial sync done")
        assert ctl(world, "pause", f"--target={targets[0]}").returncode == Exit.OK
        world.write("file")
        daemon.stop(signal.SIGQUIT, code=Exit.INCOMPLETE)
        assert f"target {targets[0]} is paused" in daemon.output
    assert (targets[1] / "file").exists()
    assert not (targets[0] / "file").exists()


def test_quit_ends_with_one_paused_and_one_away(world: World) -> None:
    targets = places(world, "one", "two")
    gate = world.top / "closed"
    script = f'#!/bin/sh\ncase "$*" in *{targets[1]}*) test -e {gate} && exit 12;; esac\nexec rsync "$@"\n'
    options = ("-Mrsyncdirect", f"-S{world.file('handler', script, 0o755)}")
    with many(world, targets, *options) as daemon:
        for target in targets:
            daemon.wait_for_log(f"{target}: initial sync done")
        gate.touch()
        assert ctl(world, "pause", f"--target={targets[0]}").returncode == Exit.OK
        world.write("file")
        daemon.stop(signal.SIGQUIT, code=None, timeout=40)


def test_wait_tells_what_failed_before_and_fails_again(world: World) -> None:
    with simple(world) as daemon:
        daemon.wait_for_log(SYNCED)
        world.write("bad")
        for args in ((), (), ("--until-synced",), ()) * 2:
            done = wait(world, *args)  # the last ones would wait for more than a minute, if it were for the back-off
            assert done.returncode == Exit.INCOMPLETE, done.stdout
            assert "bad" in done.stdout


def test_wait_tells_what_failed_in_the_initial_sync(world: World) -> None:
    (world.source / "dir").mkdir()
    world.write("dir/bad")
    with simple(world) as daemon:
        daemon.wait_for_log(WATCHING)
        assert wait(world).returncode == Exit.INCOMPLETE


def test_wait_while_the_source_is_away(world: World) -> None:
    aside = world.top / "aside"
    with many(world, [world.destination]) as daemon:
        daemon.wait_for_log(SYNCED)
        world.source.rename(aside)
        world.source.mkdir()
        world.write("file")
        assert wait(world, "--timeout=2").returncode == Exit.LATE
        (world.source / "file").unlink()
        world.source.rmdir()
        aside.rename(world.source)
        world.write("other")
        assert wait(world).returncode == Exit.OK
        assert world.copied("other") == "other"


def test_wait_has_polled_directories_looked_at(world: World) -> None:
    with many(world, [world.destination], "--monitor=poll", "--poll-interval=600") as daemon:
        daemon.wait_for_log(SYNCED)
        for args in ((), ("--until-synced",)):
            world.write(f"file{len(args)}")
            assert wait(world, *args).returncode == Exit.OK
            assert world.copied(f"file{len(args)}") is not None


def test_wait_for_one_that_is_given_up(world: World) -> None:
    targets = places(world, "one", "two")
    script = f'#!/bin/sh\ncase "$*" in *{targets[1]}*) exit 12;; esac\nexec rsync "$@"\n'
    options = ("-Mrsyncdirect", f"-S{world.file('handler', script, 0o755)}", "--retries=1")
    with many(world, targets, *options) as daemon:
        daemon.wait_for_log("is given up")
        world.write("file")
        assert wait(world, f"--target={targets[0]}").returncode == Exit.OK
        done = wait(world)
        assert done.returncode == Exit.INCOMPLETE
        assert str(targets[1]) in done.stdout
        daemon.stop(code=None)


def test_a_target_that_is_hurried_does_not_push_back_the_others(world: World) -> None:
    targets = places(world, "one", "two")
    with many(world, targets, "-t0.1", "-w3") as daemon:
        for target in targets:
            daemon.wait_for_log(f"{target}: initial sync done")
        world.write("file")

        def arrived() -> bool:
            assert wait(world, f"--target={targets[0]}").returncode == Exit.OK
            return (targets[1] / "file").exists()

        daemon.wait_until(arrived, 15, "the file at the other one")


def test_a_destination_that_takes_the_place_of_another_one_is_called_by_its_name(world: World) -> None:
    one, two, new = places(world, "one", "two", "new")
    block = f"[new]\ndestination-dir = {new}\ndestination-dir = {two}\n"
    config = world.file(
        "conf", f"[default]\nwatch-dir = {world.source}\ndestination-dir = {one}\ndestination-dir = {two}\n{block}"
    )
    with world.bare(f"-H{config}", *QUICK, f"-s{world.top}/socket", "--custom-signals=40:new") as daemon:
        for target in (one, two):
            daemon.wait_for_log(f"{target}: initial sync done")
        os.kill(daemon.pid, 40)
        daemon.wait_for_log("in force from the next batch on")
        world.write("file")
        assert wait(world, f"--target={new}").returncode == Exit.OK
        assert (new / "file").exists()
        assert ctl(world, "pause", f"--target={new}").returncode == Exit.OK
        world.write("other")
        assert wait(world, f"--target={two}").returncode == Exit.OK
        assert not (new / "other").exists()
