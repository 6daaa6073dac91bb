"""How a run begins, goes and ends: options, delays, signals, files, messages, configuration."""

from __future__ import annotations

import errno
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from clsync import __version__
from clsync.errors import Exit
from clsync.options.table import OPTIONS
from tests.support.daemon import Daemon, installed
from tests.support.environment import INHERITED
from tests.support.recorder import Call, Recorder
from tests.system.world import AT_ONCE, MODES, QUICK, ROOT, SYNCED, WATCHING, World

FOR_LONG = ("-t600", "-w0")
HAND_OVER = 16


def named_as_failed(text: str) -> list[str]:
    """Return the lines by which a run that ends names what it leaves behind."""
    return [line for line in text.splitlines() if line.startswith("Error: not synced: ")]


# -- the initial sync ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_skip_initialsync(world: World, mode: str) -> None:
    world.write("old")
    with world.daemon(f"-M{mode}", "--skip-initialsync") as daemon:
        daemon.wait_for_log(WATCHING)
        world.write("new")
        world.wait_for_copy(daemon, "new")
        assert world.copied("old") is None
        world.write("old", "changed")
        world.wait_for_copy(daemon, "old", "changed")


@pytest.mark.parametrize("mode", MODES)
def test_only_initialsync(world: World, mode: str) -> None:
    """One sync, nothing is watched."""
    world.write("d/file")
    (world.destination / "left over").touch()
    done = world.run(*world.trees, f"-M{mode}", "--only-initialsync")
    assert done.code == Exit.OK, done.err
    assert WATCHING not in done.err
    world.demand_equal()


@pytest.mark.parametrize("mode", MODES)
def test_full_initialsync(world: World, mode: str) -> None:
    """Rules do not count at the start, and count afterwards."""
    rules = world.file("rules", "-f\\.o$\n")
    world.write("early.o")
    with world.daemon(f"-M{mode}", f"-R{rules}", "-F") as daemon:
        world.wait_for_copy(daemon, "early.o")
        daemon.wait_for_log(SYNCED)
        world.write("late.o")
        world.write("late.c")
        world.wait_for_copy(daemon, "late.c")
        assert world.copied("late.o") is None


# -- runs that are meant to end --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_exit_on_no_events(world: World, mode: str) -> None:
    world.write("d/file")
    done = world.run(*world.trees, f"-M{mode}", "--exit-on-no-events", *FOR_LONG)
    assert done.code == Exit.OK, done.err
    assert WATCHING in done.err
    world.demand_equal()


def test_exit_on_no_events_takes_what_comes_meanwhile(world: World) -> None:
    world.write("early")
    late = f'[ "$CLSYNC_ITERATION" -gt 3 ] || echo late >{world.source}/late."$CLSYNC_ITERATION"'
    recorder = Recorder(world.top, f'rsync "$@" || exit\n{late}')
    done = world.run(*world.trees, "-Mrsyncdirect", recorder.option, "--exit-on-no-events")
    assert done.code == Exit.OK, done.err
    assert sorted(os.listdir(world.destination)) == ["early", "late.1", "late.2", "late.3"]
    world.demand_equal()


@pytest.mark.parametrize("number", [1, 3])
def test_max_iterations(world: World, number: int) -> None:
    """The initial sync is the first."""
    recorder = Recorder(world.top, f'echo >{world.source}/made."$CLSYNC_ITERATION"')
    done = world.run(*world.trees, "-Mdirect", recorder.option, f"--max-iterations={number}", *AT_ONCE)
    assert done.code == Exit.OK, done.err
    assert [(call.iteration, call.status) for call in recorder.calls] == [
        (n, "initsync" if n == 1 else "running") for n in range(1, number + 1)
    ]


def test_what_has_to_wait_is_no_iteration(world: World) -> None:
    """A batch that hands nothing over, because its only file is a big one, does not count."""
    world.write("file")
    options = ("-Mcopy", "-B1000", "-T0.4", "--max-iterations=2")
    with world.daemon(*options, delays=AT_ONCE) as daemon:
        daemon.wait_for_log(SYNCED)
        # At once: written in place it would be an empty file for a moment, and that is an iteration.
        world.file("coming", "b" * 1001).rename(world.source / "file")
        daemon.wait()
    assert world.copied("file") == "b" * 1001


def test_the_printed_command_line(world: World) -> None:
    """As in the manual, and in that of clsync 0.4: move a tree, no -D, a slash at the end of both."""
    world.write("html/index.html")
    (world.destination / "left over").touch()
    done = world.run(
        "--exit-on-no-events",
        "--max-iterations=20",
        "--mode=rsyncdirect",
        f"-W{world.source}",
        "-Srsync",
        "--",
        "%RSYNC-ARGS%",
        f"{world.source}/",
        f"{world.destination}/",
    )
    assert done.code == Exit.OK, done.err
    world.demand_equal()


# -- failures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "ending"), [("rsyncdirect", "--only-initialsync"), ("copy", "--exit-on-no-events")])
def test_a_run_that_is_meant_to_end_names_what_fails(world: World, mode: str, ending: str) -> None:
    """It tries three times, syncs everything else, and does not end with 0."""
    world.write("plain")
    secret = world.write("secret\n")
    secret.chmod(0)
    head: list[str] = []
    if os.geteuid() == 0:
        os.chown(secret, 1234, 1234)
        head = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
    done = world.run(*world.trees, f"-M{mode}", ending, head=head)
    assert done.code == Exit.INCOMPLETE, done.err
    named = named_as_failed(done.err)
    assert [line for line in named if line.startswith("Error: not synced: secret\\n: ")], named
    assert all("Permission denied" in line and "plain" not in line for line in named), named
    assert world.copied("plain") == "plain"


@pytest.mark.parametrize(
    ("options", "tries", "code"),
    [
        (["--max-iterations=5"], 3, Exit.INCOMPLETE),
        (["--only-initialsync", "--retries=1"], 1, 7),
        (["--exit-on-no-events", "--retries=2"], 2, 7),
        (["--retries=1"], 1, 7),
        (["--only-initialsync", "--ignore-failures", "--retries=1"], 1, 7),
    ],
)
def test_retries(world: World, options: list[str], tries: int, code: int) -> None:
    """With --retries the exit code is the handler's own."""
    recorder = Recorder(world.top, "exit 7")
    done = world.run(*world.trees, "-Mdirect", recorder.option, *AT_ONCE, *options)
    assert done.code == code, done.err
    assert len(recorder.calls) == tries
    (named,) = named_as_failed(done.err)
    assert "exit code 7" in named


@pytest.mark.parametrize("name", ["KILL", "TERM", "SEGV"])
def test_a_handler_that_is_killed_has_no_exit_code(world: World, name: str) -> None:
    """The run ends with one of its own codes, whatever --retries says."""
    recorder = Recorder(world.top, f"kill -{name} $$")
    done = world.run(*world.trees, "-Mdirect", recorder.option, "--only-initialsync", "--retries=1")
    assert done.code == Exit.INCOMPLETE, done.err
    (named,) = named_as_failed(done.err)
    assert f"killed by SIG{name}" in named


def test_a_daemon_tries_again(world: World) -> None:
    recorder = Recorder(world.top, f"[ -e {world.top}/well ]")
    with world.daemon("-Mdirect", recorder.option, f"--status-file={world.top}/status") as daemon:
        daemon.wait_for_log("exit code 1")
        status = world.top / "status"
        daemon.wait_until(lambda: status.read_text() == "synchandler error", what="the status")
        calls = len(recorder.calls)
        world.file("well", "")
        recorder.wait_for_calls(daemon, calls + 1)
        daemon.wait_until(lambda: status.read_text() == "running", what="success")
        assert {tuple(call.arguments) for call in recorder.calls} == {(b".", os.fsencode(world.destination) + b"/")}


def test_ignore_failures(world: World) -> None:
    """Nothing is forgotten, and --retries does not end the run."""
    recorder = Recorder(world.top, "exit $((CLSYNC_ITERATION == 2))")
    with world.daemon("-Mdirect", recorder.option, "--ignore-failures", "--retries=1") as daemon:
        recorder.wait_for_calls(daemon, 1)
        world.write("file")
        recorder.wait_for_calls(daemon, 3)
        assert [b"file" in call.arguments for call in recorder.calls] == [False, True, True]


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["-x5,23"], Exit.OK),
        (["-x23", "-x5"], Exit.OK),
        (["-x23", "-x0"], 23),
    ],
)
def test_ignore_exitcode(world: World, options: list[str], code: int) -> None:
    recorder = Recorder(world.top, "exit 23")
    done = world.run(*world.trees, "-Mdirect", recorder.option, "--only-initialsync", "--retries=1", *options)
    assert done.code == code, done.err
    assert len(recorder.calls) == 1


def test_timeout_sync(world: World) -> None:
    """The handler is ended with all it has started, and its paths are handed over again."""
    hangs = world.top / "hangs"
    recorder = Recorder(world.top, f"[ ! -e {hangs} ] || {{ rm {hangs}; sleep 600 & wait; }}")
    with world.daemon("-Mdirect", recorder.option, "--timeout-sync=3") as daemon:
        daemon.wait_for_log(SYNCED)
        before = len(recorder.calls)
        hangs.touch()
        world.file("coming", "text").rename(world.source / "file")
        daemon.wait_for_log("took longer than --timeout-sync")
        daemon.wait_until(lambda: not daemon.at_work(), what="the end of the handler")
        first, second = recorder.wait_for_calls(daemon, before + 2)[before:]
        assert b"file" in first.arguments
        assert first.arguments == second.arguments


# -- delays ----------------------------------------------------------------------------------------------------


def waited(world: World, name: str) -> float:
    """Return the time (s) from the writing of a file to the making of its copy."""
    return copied_at(world, name) - os.stat(world.source / name).st_mtime


def copied_at(world: World, name: str) -> float:
    """Return when a copy was made (wall-clock seconds)."""
    return os.stat(world.destination / name).st_ctime


def test_delay_collect(world: World) -> None:
    """Counted from the first change; what comes later goes with it."""
    recorder = Recorder(world.top, 'cp "$@"')
    with world.daemon("-Mdirect", recorder.option, "--skip-initialsync", delays=("-t1", "-w0")) as daemon:
        daemon.wait_for_log(WATCHING)
        first = world.write("first")
        world.write("second")
        world.wait_for_copy(daemon, "first")
        world.wait_for_copy(daemon, "second")
        assert waited(world, first.name) > 0.95
        (call,) = recorder.calls
        assert sorted(call.arguments[:-1]) == [b"first", b"second"]


def test_delay_sync(world: World) -> None:
    """Counted from the start of the batch before."""
    with world.daemon("-Mcopy", delays=("-t0", "-w0.9")) as daemon:
        daemon.wait_for_log(SYNCED)
        world.write("first")
        world.wait_for_copy(daemon, "first")
        world.write("second")
        world.wait_for_copy(daemon, "second")
        # The batch before began after this; by when it had copied the file, nothing is said.
        began = os.stat(world.source / "first").st_mtime
        assert os.stat(world.destination / "second").st_ctime - began > 0.85


@pytest.mark.parametrize("delay", ["-t0", "-t-1"])
def test_no_delay(world: World, delay: str) -> None:
    with world.daemon("-Mcopy", delays=(delay, "-w0")) as daemon:
        daemon.wait_for_log(SYNCED)

        def at_once() -> bool:
            name = f"file{next(numbers)}"
            world.write(name)
            world.wait_for_copy(daemon, name)
            return waited(world, name) < 0.9  # of the default

        numbers = itertools.count()
        daemon.wait_until(at_once, what="a file that is handed over at once, on a machine that may be busy")


@pytest.mark.parametrize("mode", MODES)
def test_big_files(world: World, mode: str) -> None:
    """They wait for their own delay, others do not wait for them."""
    options = (f"-M{mode}", "--threshold-bigfile=1000", "--delay-collect-bigfile=1")
    with world.daemon(*options, delays=AT_ONCE) as daemon:
        daemon.wait_for_log(SYNCED)
        big, exact = "b" * 1001, "e" * 1000
        world.file("coming", big).rename(world.source / "big")  # written in place it would be a small one first
        world.write("exact", exact)
        world.wait_for_copy(daemon, "big", big)
        world.wait_for_copy(daemon, "exact", exact)
        assert waited(world, "big") > 0.95
        assert copied_at(world, "exact") < copied_at(world, "big")


@pytest.mark.parametrize("options", [["-B0"], ["-B2000"], ["-B1000", "-T0"]])
def test_files_that_are_not_big(world: World, options: list[str]) -> None:
    with world.daemon("-Mcopy", "-T600", *options, delays=AT_ONCE) as daemon:
        daemon.wait_for_log(SYNCED)
        world.write("file", "f" * 1500)
        world.wait_for_copy(daemon, "file", "f" * 1500)


def test_a_big_file_is_sent_once_it_rests(world: World) -> None:
    """Not again and again while it is being written; other files do not wait for it."""
    recorder = Recorder(world.top)
    with world.daemon(
        "-Mdirect", recorder.option, "-B1000", "-T0.4", "--", "%INCLUDE-LIST%", delays=AT_ONCE
    ) as daemon:
        daemon.wait_for_log(SYNCED)
        pauses, at = 0, time.monotonic()
        with (world.source / "big").open("wb", buffering=0) as file:
            file.write(b"b" * 2000)
            until = at + 2
            while at < until:
                file.write(b"more")
                time.sleep(0.05)
                before, at = at, time.monotonic()
                pauses += at - before > 0.2
        written = time.monotonic()

        def sent() -> list[Call]:
            return [call for call in recorder.calls if b"big" in call.arguments and call.status != "initsync"]

        early = len(sent())
        daemon.wait_until(lambda: len(sent()) > early, what="the big file")
        assert time.monotonic() - written > 0.2
        # What was small at first may have been sent then, and again where we were held up ourselves.
        assert early <= 1 + pauses


def test_a_big_file_that_never_rests_is_sent_all_the_same(world: World) -> None:
    recorder = Recorder(world.top)
    with world.daemon(
        "-Mdirect", recorder.option, "-B1000", "-T0.1", "--", "%INCLUDE-LIST%", delays=AT_ONCE
    ) as daemon:
        daemon.wait_for_log(SYNCED)
        world.write("big", "b" * 2000)
        with (world.source / "big").open("ab", buffering=0) as file:

            def sent() -> bool:
                file.write(b"more")
                return any(b"big" in call.arguments for call in recorder.calls)

            daemon.wait_until(sent, what="the big file")


def test_big_files_at_the_end(world: World) -> None:
    """A run that ends does not leave them behind."""
    with world.daemon("-Mcopy", "-B1000", "-T600", delays=AT_ONCE) as daemon:
        daemon.wait_for_log(SYNCED)
        world.file("coming", "b" * 1001).rename(world.source / "big")
        world.write("small")
        world.wait_for_copy(daemon, "small")
        assert world.copied("big") is None
        daemon.stop(signal.SIGQUIT)
    world.demand_equal()


# -- signals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_hup_reads_the_rules_again(world: World, mode: str) -> None:
    rules = world.file("rules", "-f\\.o$\n")
    world.write("now.o")
    with world.daemon(f"-M{mode}", f"-R{rules}") as daemon:
        daemon.wait_for_log(SYNCED)
        rules.write_text("-f\\.c$\n")
        os.kill(daemon.pid, signal.SIGHUP)
        world.wait_for_copy(daemon, "now.o")
        world.write("d/x.c")
        world.write("d/x.o")
        world.wait_for_copy(daemon, "d/x.o")
        assert world.copied("d/x.c") is None
        rules.write_text("-q\n")
        os.kill(daemon.pid, signal.SIGHUP)
        daemon.wait_for_log("the old rules stay in force")
        assert f"{rules}, line 1" in daemon.output
        world.write("d/y.c")
        world.write("d/y.o")
        world.wait_for_copy(daemon, "d/y.o")
        assert world.copied("d/y.c") is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_int_and_term_end_at_once(world: World, number: int) -> None:
    """A handler at work is ended, with all it has started: the exit code tells that the trees may differ."""
    asked, waiting = world.top / "asked", world.top / "waiting"
    # By the shell itself: it would tell of a program that is killed while it does that.
    waits = f"trap ': >{asked}; exit' TERM; : >{waiting}; sleep 600 & wait"
    recorder = Recorder(world.top, f'[ "$CLSYNC_ITERATION" = 1 ] || {{ {waits}; }}')
    with world.daemon("-Mdirect", recorder.option, delays=AT_ONCE) as daemon:
        recorder.wait_for_calls(daemon, 1)
        world.write("file")
        daemon.wait_until(waiting.exists, what="the handler")
        world.write("pending")
        daemon.stop(number, code=Exit.INCOMPLETE)
        assert asked.exists(), "it was killed after a while"
        assert len(recorder.calls) == 2
        assert interrupted(daemon), daemon.output


def interrupted(daemon: Daemon) -> bool:
    """Tell whether it is said that the run was interrupted, and nothing worse."""
    troubles = [line.partition(": ")[2] for line in daemon.output.splitlines() if not line.startswith("Info: ")]
    return troubles == ["interrupted: the destination may differ; the next start makes it equal"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_int_and_term_of_an_idle_daemon(world: World, number: int) -> None:
    """That is how a daemon ends; what is pending is left for the next start."""
    with world.daemon("-Mcopy", delays=FOR_LONG) as daemon:
        daemon.wait_for_log(SYNCED)
        world.write("pending")
        assert daemon.stop(number) == Exit.OK, daemon.output
        assert "interrupted" not in daemon.output, daemon.output
    assert world.copied("pending") is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("ending", ["--only-initialsync", "--exit-on-no-events", "--max-iterations=9"])
def test_a_run_that_is_meant_to_end_and_is_interrupted(world: World, ending: str, number: int) -> None:
    recorder = Recorder(world.top, "sleep 600 & wait")
    with world.daemon("-Mdirect", recorder.option, ending) as daemon:
        recorder.wait_for_calls(daemon, 1)
        daemon.stop(number, code=Exit.INCOMPLETE)
        assert interrupted(daemon)


def test_a_run_that_waits_for_its_last_iteration_is_interrupted(world: World) -> None:
    """Nothing is being done, but what the run was meant for has not come."""
    with world.daemon("-Mcopy", "--max-iterations=9") as daemon:
        daemon.wait_for_log(SYNCED)
        daemon.stop(code=Exit.INCOMPLETE)
        assert interrupted(daemon)


@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGALRM])
@pytest.mark.parametrize("mode", MODES)
def test_quit_hands_over_first(world: World, mode: str, number: int) -> None:
    with world.daemon(f"-M{mode}", delays=FOR_LONG) as daemon:
        daemon.wait_for_log(SYNCED)
        world.write("d/pending")
        daemon.stop(number)
        world.demand_equal()


def test_quit_lets_a_handler_end(world: World) -> None:
    recorder = Recorder(world.top, f'while [ ! -e {world.top}/go ]; do sleep 0.05; done; cp -r "$@"')
    world.write("file")
    with world.daemon("-Mdirect", recorder.option) as daemon:
        recorder.wait_for_calls(daemon, 1)
        os.kill(daemon.pid, signal.SIGQUIT)
        world.file("go", "")
        daemon.wait()
        assert world.copied("file") == "file"


@pytest.mark.parametrize("mode", MODES)
def test_usr2_compares_everything(world: World, mode: str) -> None:
    world.write("d/file")
    with world.daemon(f"-M{mode}", delays=FOR_LONG) as daemon:
        daemon.wait_for_log(SYNCED)
        shutil.rmtree(world.destination / "d")
        (world.destination / "strange").touch()
        os.kill(daemon.pid, signal.SIGUSR2)
        world.wait_for_equal(daemon)


def test_16_hands_over_now(world: World) -> None:
    with world.daemon("-Mcopy", delays=FOR_LONG) as daemon:
        daemon.wait_for_log(SYNCED)
        for name in ("first", "second"):
            world.write(name)
            os.kill(daemon.pid, HAND_OVER)
            world.wait_for_copy(daemon, name)


def test_usr1_does_nothing(world: World) -> None:
    with world.daemon("-Mcopy", "-d") as daemon:
        daemon.wait_for_log(SYNCED)
        os.kill(daemon.pid, signal.SIGUSR1)
        daemon.wait_for_log("signal USR1")
        world.write("after")
        world.wait_for_copy(daemon, "after")


def test_sigio_by_chance(world: World) -> None:
    """Whoever inherits a descriptor from us may ask for it."""
    with world.daemon("-Mcopy", f"--dump-dir={world.top}/nowhere/dump") as daemon:
        daemon.wait_for_log(SYNCED)
        os.kill(daemon.pid, signal.SIGIO)
        world.write("after")
        world.wait_for_copy(daemon, "after")


# -- signals before anything is watched ------------------------------------------------------------------------

ASKING = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, HAND_OVER, signal.SIGALRM, signal.SIGQUIT, signal.SIGIO)
"""Signals that ask for what the start does anyway."""


def tried_with(world: World, script: str) -> dict[str, str]:
    """Return an environment in which clsync, when it tries rsync at the start, runs this script first."""
    place, temporary = world.top / "bin", world.top / "tmp"
    for directory in (place, temporary):
        directory.mkdir()
    once = f"[ -e {place}/tried ] || {{ touch {place}/tried; {script}; }}"
    world.file("bin/rsync", f'#!/bin/sh\n{once}\nexec {shutil.which("rsync")} "$@"\n', 0o755)
    return {"PATH": f"{place}:{os.environ['PATH']}", "TMPDIR": os.fspath(temporary)}


@pytest.mark.parametrize("number", ASKING)
def test_signals_do_not_end_the_start(world: World, number: int) -> None:
    """They come while it is found out whether rsync fits."""
    world.write("file")
    done = world.run(*world.trees, "--only-initialsync", env=tried_with(world, f"kill -{int(number)} $PPID"))
    assert (world.top / "bin/tried").exists()
    assert done.code == Exit.OK, done.err
    assert done.troubles == []
    world.demand_equal()


@pytest.mark.parametrize("number", ASKING)
def test_signals_while_the_configuration_is_read(world: World, number: int) -> None:
    """That is long before anything else is done."""
    world.write("file")
    config = world.top / "config"
    os.mkfifo(config)
    with world.daemon("-Mcopy", f"-H{config}", "--only-initialsync") as daemon:
        with writer_of(config, daemon):
            os.kill(daemon.pid, number)
        daemon.wait()
    world.demand_equal()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_int_and_term_while_the_configuration_is_read(world: World, number: int) -> None:
    config = world.top / "config"
    os.mkfifo(config)
    with world.daemon("-Mcopy", f"-H{config}") as daemon:
        with writer_of(config, daemon):
            os.kill(daemon.pid, number)
        daemon.wait(code=128 + number)
        assert daemon.output == ""


@contextmanager
def writer_of(fifo: Path, daemon: Daemon) -> Iterator[None]:
    """Hold the other end of a fifo that the program reads: until then it waits there."""
    found: list[int] = []

    def opened() -> bool:
        try:
            found.append(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
        return bool(found)

    daemon.wait_until(opened, what=f"a reader of {fifo}")
    try:
        yield
    finally:
        os.close(found[0])


@pytest.mark.parametrize("seed", range(3))
def test_signals_at_any_moment_of_the_start(world: World, seed: int) -> None:
    """Many of them, from the first step to the last, and the daemon lives."""
    numbers = random.Random(seed).choices([n for n in ASKING if n not in (signal.SIGALRM, signal.SIGQUIT)], k=50)
    world.write("file")
    with world.daemon(f"--dump-dir={world.top}/dump", env=tried_with(world, "sleep 0.1")) as daemon:
        daemon.wait_until((world.top / "bin/tried").exists, what="the first step")
        pending = itertools.cycle(numbers)

        def watched() -> bool:
            os.kill(daemon.pid, next(pending))
            return SYNCED in daemon.output

        daemon.wait_until(watched, what="the initial sync")
        world.write("after")
        world.wait_for_copy(daemon, "after")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_int_and_term_at_the_start_leave_nothing_behind(world: World, number: int) -> None:
    environment = tried_with(world, f"kill -{int(number)} $PPID; sleep 0.1")
    done = world.run(*world.trees, f"-z{world.top}/pid", env=environment)
    assert done.code == 128 + number, done.err
    assert "Traceback" not in done.err
    assert os.listdir(world.top / "tmp") == []
    assert not (world.top / "pid").exists()


# -- files, background, label ----------------------------------------------------------------------------------


def test_pid_and_status_file(world: World) -> None:
    pid, status = world.top / "pid", world.top / "status"
    recorder = Recorder(world.top, f"cat {status} >>{world.top}/statuses; echo >>{world.top}/statuses")
    options = (f"--pid-file={pid}", f"--status-file={status}")
    with world.daemon("-Mdirect", recorder.option, *options) as daemon:
        recorder.wait_for_calls(daemon, 1)
        daemon.wait_until(lambda: status.read_text() == "running", what="the status")
        assert pid.read_text() == str(daemon.pid)
        world.file("coming", "text").rename(world.source / "file")  # at once: that is one batch
        recorder.wait_for_calls(daemon, 2)
        assert [call.status for call in recorder.calls] == ["initsync", "running"]
        daemon.wait_until(lambda: (world.top / "statuses").read_text() == "initsync\nrunning\n", what="both")
    assert not pid.exists()
    assert not status.exists()


def test_background(world: World) -> None:
    """The command answers once the tree is watched; the daemon leads a session of its own."""
    lives_in_the_background(world, world.daemon("-b", f"-z{world.top}/pid"))


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", "<&-", ">&- 2>&-", "<&- 2>&-"])
def test_background_without_standard_files(world: World, closed: str) -> None:
    """As it is started by what keeps none of them open."""
    shell = ("sh", "-c", f'exec "{installed()}" "$@" {closed}', "sh")
    options = (*world.trees, *QUICK, "-b", f"-z{world.top}/pid")
    lives_in_the_background(world, Daemon(*options, program=shell, env=world.environment, cwd=world.top))


def lives_in_the_background(world: World, daemon: Daemon) -> None:
    """Start a daemon with -b and a pid file; demand that it follows, alone, and ends when it is told to."""
    pid_file = world.top / "pid"
    try:
        daemon.start()
        assert daemon.process is not None
        assert daemon.process.wait(10) == 0, daemon.tail
        world.write("file")
        until(lambda: world.copied("file") == "file", daemon)
        pid = int(pid_file.read_text())
        assert pid in daemon.family()
        assert pid != daemon.pid
        assert os.getsid(pid) == pid
        os.kill(pid, signal.SIGTERM)
        until(lambda: not daemon.family(), daemon)
        assert not pid_file.exists()
    finally:
        daemon.kill()


def until(condition: Callable[[], bool], daemon: Daemon) -> None:
    """Wait until a condition holds, of a daemon that went to the background."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, daemon.tail
        time.sleep(0.005)


@ROOT
@pytest.mark.root
def test_background_answers_with_the_failure(world: World) -> None:
    """Also with one that comes after the fork."""
    world.run("-b", "-W", world.source, "-D", world.top / "nowhere").complaint(Exit.DESTINATION)
    head = ["setpriv", "--bounding-set", "-sys_admin"]
    message, _ = world.run(*world.trees, "-b", "--monitor=fanotify", "--sandbox=off", head=head).complaint(
        Exit.MONITOR
    )
    assert "fanotify" in message
    world.run(*world.trees, "-b", f"-z{world.top}/nowhere/pid").complaint(Exit.FILES)


def test_label(world: World) -> None:
    recorder = Recorder(world.top)
    arguments = ("-lweb 1", "--", "%label%", "<%label%>", "%%label%", "%nothing%", "%delay-collect%", "%PID%")
    with world.daemon("-Mdirect", recorder.option, *arguments) as daemon:
        recorder.wait_for_calls(daemon, 1)
        pid = str(daemon.pid).encode()
        assert recorder.calls[0].arguments == [b"web 1", b"<web 1>", b"%label%", b"%nothing%", b"0.05", pid]


# -- messages --------------------------------------------------------------------------------------------------


def test_output(world: World) -> None:
    errors = world.run(*world.trees, "--only-initialsync")
    assert errors.out == ""
    assert SYNCED in errors.err
    assert all(line.startswith("Info: ") for line in errors.err.splitlines()), errors.err
    output = world.run(*world.trees, "--only-initialsync", "-Ystdout")
    assert SYNCED in output.out
    assert output.err == ""


@pytest.mark.parametrize(
    ("options", "prefixes"),
    [
        ([], {"Error", "Warning", "Info"}),
        (["-v2"], {"Error", "Warning"}),
        (["-v1"], {"Error"}),
        (["-q"], set()),
        (["-q", "-q0"], {"Error", "Warning", "Info"}),
    ],
)
def test_verbosity(world: World, options: list[str], prefixes: set[str]) -> None:
    config = world.file("config", "[default]\nno-such-option = 1\n")
    recorder = Recorder(world.top, "exit 1")
    tried = ("-Mdirect", recorder.option, "-r1", f"-H{config}", "--only-initialsync")
    done = world.run(*world.trees, *tried, *options)
    assert done.code == 1
    assert done.out == ""
    assert {line.partition(":")[0] for line in done.err.splitlines()} == prefixes


def test_debug(world: World) -> None:
    """Levels add up, or are given as a number."""
    for options, deepest in (((), 0), (("-d", "-d"), 2), (("--debug=3", "-d0", "-d"), 1)):
        done = world.run(*world.trees, "-Mcopy", "--only-initialsync", *options)
        assert done.code == 0, done.err
        levels = {line[5] for line in done.err.splitlines() if line.startswith("Debug")}
        assert levels == {str(level) for level in range(1, deepest + 1)}, done.err


@contextmanager
def system_log(top: Path) -> Iterator[tuple[socket.socket, list[str]]]:
    """Give a system log of our own, and the words before a command that make it the command's /dev/log."""
    devices = top / "dev"
    devices.mkdir()
    (devices / "null").touch()
    script = f'mount --bind /dev/null {devices}/null && mount --rbind {devices} /dev && exec "$@"'
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(os.fspath(devices / "log"))
        log.settimeout(10)
        yield log, ["unshare", "--mount", "sh", "-c", script, "sh"]


@ROOT
@pytest.mark.root
def test_syslog(world: World) -> None:
    with system_log(world.top) as (log, head):
        done = world.run(*world.trees, "--only-initialsync", "-Ysyslog", head=head)
        assert (done.code, done.out, done.err) == (0, "", "")
        said = b""
        while SYNCED.encode() not in said:
            said = log.recv(4096)
    assert said.startswith(b"<30>")  # facility daemon, priority info
    assert b" clsync[" in said


@pytest.mark.skipif(os.path.exists("/dev/log"), reason="there is a system log here")
def test_syslog_where_there_is_none(world: World) -> None:
    done = world.run(*world.trees, "--only-initialsync", "-Ysyslog")
    assert (done.code, done.out) == (Exit.OK, "")
    assert done.troubles == ["Warning: there is no system log (/dev/log): messages go to standard error"]
    assert SYNCED in done.err


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_output_that_cannot_be_written(option: str) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([installed(), option], stdout=full, stderr=subprocess.PIPE, timeout=30, check=False)
    assert done.returncode == Exit.FAILURE, done.stderr
    assert done.stderr == b"clsync: standard output cannot be written: No space left on device\n"


def test_help_and_version(world: World) -> None:
    """Whatever else is said, and wherever."""
    said = world.run("--help", "--watch-dir=/nowhere")
    assert (said.code, said.err) == (0, "")
    assert [o.name for o in OPTIONS if f"--{o.name}" not in said.out] == []
    assert world.run("-h").out == said.out
    for option in ("--version", "-V"):
        assert world.run(option) == (0, f"clsync {__version__}\n", "")


# -- configuration ---------------------------------------------------------------------------------------------

CONFIG = """
# what all have
[default]
label = nobody
delay-collect = 0.05
delay-sync = 0.05
[base]
config-block-inherits = default
mode = direct
sync-handler = {program}
watch-dir = {top}/%label%
-- = %label% 'two words' "%delay-sync%" %INCLUDE-LIST%
[source]
config-block-inherits = base
label = source
delay-sync = 0.06
destination-dir = {top}/destination
"""


@pytest.fixture
def configured(world: World) -> tuple[World, Recorder, Path]:
    """A world, a handler, and a configuration file for both."""
    recorder = Recorder(world.top)
    text = CONFIG.format(program=recorder.program, top=world.top)
    return world, recorder, world.file("config", text)


def test_configuration(configured: tuple[World, Recorder, Path]) -> None:
    """A block, those it inherits from, and macros that are told by the block, wherever they stand."""
    world, recorder, config = configured
    with world.bare("-H", config, "-Ksource") as daemon:
        recorder.wait_for_calls(daemon, 1)
        assert recorder.calls[0].arguments == [b"source", b"two words", b"0.06", b"."]
        world.write("new")
        recorder.wait_for_calls(daemon, 2)
        assert recorder.calls[1].arguments == [b"source", b"two words", b"0.06", b"new"]


def test_the_command_line_goes_before_the_configuration(configured: tuple[World, Recorder, Path]) -> None:
    world, recorder, config = configured
    (world.top / "other").mkdir()
    options = ("-H", config, "--config-block=source", "--label=other", "--only-initialsync")
    assert world.run(*options).code == 0
    assert world.run(*options, "--", "own", "%watch-dir%").code == 0
    assert [call.arguments for call in recorder.calls] == [
        [b"other", b"two words", b"0.06", b"."],
        [b"own", os.fsencode(world.top / "other")],
    ]


def test_the_command_line_says_what_is_inherited(configured: tuple[World, Recorder, Path]) -> None:
    world, recorder, config = configured
    with open(config, "a") as file:
        file.write("[special]\nlabel = source\ndelay-sync = 1\n")
    destination = f"-D{world.destination}"
    options = ("-H", config, "-Kspecial", "--config-block-inherits=base", destination, "--only-initialsync")
    assert world.run(*options).code == 0
    assert recorder.calls[0].arguments == [b"source", b"two words", b"1", b"."]


def test_configuration_at_home(configured: tuple[World, Recorder, Path]) -> None:
    """It is found by itself, and left alone where that is asked for."""
    world, recorder, config = configured
    config.rename(world.top / ".clsync.conf")
    assert world.run("-Ksource", "--only-initialsync").code == 0
    assert len(recorder.calls) == 1
    world.run("-H/NULL/", "--only-initialsync").complaint(Exit.USAGE)
    message, _ = world.run("-H/NULL/", "-Ksource").complaint(Exit.USAGE)
    assert message


def test_it_can_be_started_by_anything(world: World) -> None:
    """Without a terminal, without standard descriptors, and with signals blocked."""
    world.write("file")
    closed = f'exec "{installed()}" "$@" <&- >&- 2>&-'
    done = subprocess.run(
        ["sh", "-c", closed, "sh", *world.trees, "--only-initialsync"],
        env={**INHERITED, **world.environment},
        timeout=30,
        check=False,
    )
    assert done.returncode == 0
    world.demand_equal()
