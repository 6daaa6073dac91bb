"""Hooks at the end of a run, and the standby file."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from clsync.errors import Exit
from tests.support.daemon import Argument, Daemon
from tests.support.recorder import Recorder
from tests.system.world import AT_ONCE, MODES, ROOT, SYNCED, World

BOTH = ("pre-exit", "exit")


def hook(world: World, name: str, then: str = "") -> str:
    """Make a hook that notes itself, its argument, the phase, and where it runs; return the option for it."""
    log = shlex.quote(f"{world.top}/hooks")
    program = world.file(f"{name}-hook", f'#!/bin/sh\necho "{name} $* $CLSYNC_STATUS $PWD" >>{log}\n{then}\n', 0o755)
    return f"--{name}-hook={program}"


def noted(world: World) -> list[str]:
    """Return what hooks have noted so far."""
    log = world.top / "hooks"
    return log.read_text().splitlines() if log.exists() else []


def notes(world: World, *names: str) -> list[str]:
    """Return what the hooks of these names note."""
    phases = {"pre-exit": "preexit", "exit": "exiting"}
    return [f"{name} lab1 {phases[name]} {world.source}" for name in names]


def both(world: World, changed: str = "stopped") -> list[str]:
    """Return the options for two hooks, of which the first changes the source."""
    return ["-llab1", hook(world, "pre-exit", f"echo {changed} >{world.source}/state"), hook(world, "exit")]


@contextmanager
def busy_neighbour(top: Path, linked: bool) -> Iterator[None]:
    """Let somebody write files on our file system all the time, with one name each or with two."""
    (top / "neighbour").mkdir()
    again = "[ -e neighbour/l$n ] || ln neighbour/$n neighbour/l$n; " if linked else ""
    writing = f"n=0; while :; do : >neighbour/$n; {again}: >neighbour/$n; n=$(((n + 1) % 500)); done"
    with subprocess.Popen(["sh", "-c", writing], cwd=top) as neighbour:
        try:
            yield
        finally:
            neighbour.kill()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ending", [("--exit-on-no-events",), ("--exit-on-no-events", "--max-iterations=20")])
def test_what_the_pre_exit_hook_changes_is_synced(world: World, mode: str, ending: tuple[str, ...]) -> None:
    """As when a server is moved: sync while it runs, stop it, sync what is left, start it elsewhere."""
    world.write("state", "running")
    arrived = f'test "$(cat {world.destination}/state)" = stopped || echo too early >>{world.top}/hooks'
    options = [hook(world, "pre-exit", f"echo stopped >{world.source}/state"), hook(world, "exit", arrived)]
    done = world.run(*world.trees, f"-M{mode}", "-llab1", *ending, *options)
    assert done.code == Exit.OK, done.err
    assert noted(world) == notes(world, *BOTH)
    world.demand_equal()


def test_max_iterations_let_one_more_batch_follow_the_hook(world: World) -> None:
    """Also where the tree never rests."""
    recorder = Recorder(world.top, f"date >>{world.source}/restless")
    with world.daemon("-Mdirect", recorder.option, "--max-iterations=3", *both(world)) as daemon:
        assert daemon.wait() == Exit.OK
        assert "is not synced" not in daemon.output
    assert noted(world) == notes(world, *BOTH)
    calls = recorder.calls
    assert len(calls) == 4
    assert calls[-1].status == "lastsync"
    assert b"state" in calls[-1].arguments


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_neighbours_on_the_file_system_keep_no_run_from_its_end(world: World, mode: str, linked: bool) -> None:
    world.write("d/file")
    with busy_neighbour(world.top, linked):
        late = hook(world, "pre-exit", f"echo late >{world.source}/late")
        done = world.run(*world.trees, f"-M{mode}", "-llab1", "--exit-on-no-events", late, timeout=120)
    assert done.code == Exit.OK, done.err
    world.demand_equal()


@pytest.mark.parametrize("linked", [False, True])
def test_neighbours_on_the_file_system_keep_nobody_waiting(world: World, linked: bool) -> None:
    with (
        world.daemon("-Mrsyncdirect", f"-s{world.top}/socket", *AT_ONCE) as daemon,
        busy_neighbour(world.top, linked),
    ):
        daemon.wait_for_log(SYNCED)
        world.write("file")
        done = world.run("wait", f"-s{world.top}/socket", "--until-synced", "--timeout=100", timeout=120)
        assert done.code == Exit.OK, done.err
        assert world.copied("file") is not None
        assert daemon.stop(signal.SIGQUIT) == Exit.OK, daemon.output


EARLY = """
import os, signal, sys
import clsync.cli.main as program
ready = program._be_ready_for_signals
def ready_and_asked(*custom):
    ready(*custom)
    os.kill(os.getpid(), signal.SIGQUIT)
program._be_ready_for_signals = ready_and_asked
sys.exit(program.main())
"""
"""The program, asked to end before it has begun."""


@pytest.mark.parametrize("splitting", ["off", pytest.param("process", marks=ROOT)])
def test_quit_during_the_start(world: World, splitting: str) -> None:
    """What is to be synced by then is."""
    world.write("file")
    program: list[Argument] = [sys.executable, world.file("early.py", EARLY)]
    with Daemon(*world.trees, f"--splitting={splitting}", program=program, env=world.environment) as daemon:
        daemon.wait(code=Exit.OK)
    world.demand_equal()


@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGALRM])
def test_quit_runs_both_hooks(world: World, number: int, sync: bool) -> None:
    with world.daemon(*both(world), *(["--sync-on-quit"] if sync else [])) as daemon:
        daemon.wait_for_log(SYNCED)
        world.write("last")
        assert daemon.stop(number) == Exit.OK
    assert noted(world) == notes(world, *BOTH)
    assert world.copied("last") == "last"
    assert world.copied("state") == ("stopped\n" if sync else None)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_term_and_int_run_the_exit_hook_alone(world: World, number: int) -> None:
    with world.daemon(*both(world)) as daemon:
        daemon.wait_for_log(SYNCED)
        daemon.stop(number)
    assert noted(world) == notes(world, "exit")


def test_only_initialsync_runs_the_exit_hook_alone(world: World) -> None:
    assert world.run(*world.trees, "--only-initialsync", *both(world)).code == Exit.OK
    assert noted(world) == notes(world, "exit")


def test_no_hook_runs_before_the_initial_sync_is_over(world: World) -> None:
    """One that starts something at the destination would start it with half of the files."""
    recorder = Recorder(world.top, "exec sleep 600")
    with world.daemon("-Mdirect", recorder.option, *both(world)) as daemon:
        recorder.wait_for_calls(daemon, 1)
        daemon.stop(code=None)
    assert noted(world) == []


@pytest.mark.parametrize("ending", ["--only-initialsync", "--exit-on-no-events"])
def test_no_exit_hook_where_something_could_not_be_synced(world: World, ending: str) -> None:
    recorder = Recorder(world.top, "exit 9")
    done = world.run(*world.trees, "-Mdirect", recorder.option, ending, "--retries=1", *both(world))
    assert done.code == 9, done.err
    assert noted(world) == []


def test_a_hook_that_fails_is_told_and_changes_nothing(world: World) -> None:
    done = world.run(*world.trees, "--exit-on-no-events", hook(world, "exit", "exit 5"))
    assert done.code == Exit.OK
    (line,) = done.troubles
    assert line.startswith("Warning: --exit-hook ")
    assert line.endswith(": exit code 5")


@pytest.mark.parametrize("name", BOTH)
def test_a_hook_at_work_is_ended_by_term(world: World, name: str) -> None:
    with world.daemon(hook(world, name, "exec sleep 600")) as daemon:
        daemon.wait_for_log(SYNCED)
        os.kill(daemon.pid, signal.SIGQUIT)
        daemon.wait_until(lambda: bool(noted(world)), what="the hook")
        daemon.stop(code=None)


@pytest.mark.parametrize("name", BOTH)
def test_a_hook_that_cannot_be_run(world: World, name: str) -> None:
    message, hint = world.run(*world.trees, f"--{name}-hook={world.top}/none").complaint(Exit.HANDLER)
    assert f"--{name}-hook {world.top}/none does not exist" in message
    assert "executable" in hint


def test_hooks_are_named_from_where_clsync_was_started(world: World) -> None:
    hook(world, "exit")
    assert world.run(*world.trees, "--only-initialsync", "-llab1", "--exit-hook=./exit-hook").code == Exit.OK
    assert noted(world) == notes(world, "exit")


# -- the standby file ----------------------------------------------------------------------------------------------


def status(path: Path) -> str:
    """Return the word in the status file."""
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_synced_while_the_standby_file_exists(world: World, mode: str) -> None:
    standby, word = world.top / "standby", world.top / "status"
    with world.daemon(f"-M{mode}", f"--standby-file={standby}", f"--status-file={word}") as daemon:
        daemon.wait_for_log(SYNCED)
        standby.touch()
        world.write("file")
        daemon.wait_until(lambda: status(word) == "hold on", what="the status")
        daemon.wait_for_log("standby file")
        world.write("other")
        assert world.copied("file") is None
        standby.unlink()
        world.wait_for_equal(daemon)
        daemon.wait_until(lambda: status(word) == "running", what="the status")
        assert daemon.output.count("standby file") == 2


def test_the_initial_sync_waits_for_the_standby_file_too(world: World) -> None:
    standby = world.file("standby", "")
    world.write("file")
    with world.daemon("--standby-file=standby", "--exit-on-no-events") as daemon:
        daemon.wait_for_log("nothing is synced until it is gone")
        assert world.copied("file") is None
        standby.unlink()
        assert daemon.wait() == Exit.OK
    world.demand_equal()


def test_a_daemon_that_stands_by_can_be_ended(world: World) -> None:
    standby = world.file("standby", "")
    with world.daemon(f"--standby-file={standby}") as daemon:
        daemon.wait_for_log("nothing is synced until it is gone")
        daemon.stop()


def test_quit_does_not_wait_for_the_standby_file_to_go(world: World) -> None:
    """Nor is anything synced against its word."""
    standby = world.top / "standby"
    with world.daemon("-Mcopy", f"--standby-file={standby}") as daemon:
        daemon.wait_for_log(SYNCED)
        standby.touch()
        world.write("file")
        daemon.wait_for_log("standby file")
        assert daemon.stop(signal.SIGQUIT, code=Exit.INCOMPLETE) == Exit.INCOMPLETE
        assert "is there; what changed is synced by the next start" in daemon.output
    assert world.copied("file") is None
    with world.daemon("-Mcopy", f"--standby-file={standby}") as daemon:  # in the initial sync
        daemon.wait_for_log("standby file")
        assert daemon.stop(signal.SIGQUIT, code=Exit.INCOMPLETE) == Exit.INCOMPLETE
    assert world.copied("file") is None


# -- hours -----------------------------------------------------------------------------------------------------------


def hours(begin: float, end: float) -> str:
    """Return the option for a span from so many minutes from now."""
    at = [time.strftime("%H:%M", time.localtime(time.time() + 60 * minutes)) for minutes in (begin, end)]
    return f"--sync-hours={at[0]}-{at[1]}"


def test_nothing_is_synced_outside_the_hours(world: World) -> None:
    world.write("file")
    with world.daemon(hours(120, 180), f"--status-file={world.top}/status") as daemon:
        daemon.wait_for_log("it is not the time of --sync-hours")
        daemon.wait_until(lambda: (world.top / "status").read_text() == "hold on", what="the status")
        world.write("other")
        daemon.stop(signal.SIGQUIT, code=Exit.INCOMPLETE)
    assert world.copied("file") is None
    with world.daemon(hours(-120, 120)) as daemon:
        world.wait_for_equal(daemon)


def test_it_goes_on_when_the_hours_begin(world: World) -> None:
    """The clock of this time zone is some seconds short of a full minute: enough for a start on a busy machine."""
    now = time.time()
    ahead = int(45 - now) % 60
    begin = time.strftime("%H:%M", time.gmtime(now + ahead + 20))
    end = time.strftime("%H:%M", time.gmtime(now + ahead + 3600))
    world.write("file")
    with world.daemon(f"--sync-hours={begin}-{end}", env={"TZ": f"XXX-0:00:{ahead:02}"}) as daemon:
        daemon.wait_for_log("it is not the time of --sync-hours")
        assert world.copied("file") is None
        daemon.wait_for_equal(bytes(world.source), bytes(world.destination), 45)
        assert "going on" in daemon.output
