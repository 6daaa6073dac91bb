"""Batches that overlap: `--threading`."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from clsync.daemon.parts import MOST_IN_FLIGHT
from clsync.errors import Exit
from tests.support.daemon import Daemon
from tests.support.recorder import Recorder
from tests.system.test_splitting import workers_of
from tests.system.world import SYNCED, WATCHING, World

HELD = [str(number) for number in range(MOST_IN_FLIGHT)]


class Held:
    """A handler that notes when it begins and ends, and does not end before it is allowed to."""

    def __init__(self, top: Path) -> None:
        """Make the program. Only the first object that it is given counts."""
        self._gates, self._journal, self.program = top / "gates", top / "journal", top / "held"
        self._gates.mkdir()
        self._journal.touch()
        self.program.write_text(
            f'#!/bin/sh\nname=$(basename "$1")\necho "begin $name" >>{self._journal}\n'
            f'while test "$name" != . && ! test -s "{self._gates}/$name"; do sleep 0.02; done\n'
            f'echo "end $name" >>{self._journal}\nread code <"{self._gates}/$name" && exit "$code"; exit 0\n'
        )
        self.program.chmod(0o755)

    def let(self, *names: str, code: int = 0) -> None:
        """Let all runs for some objects end."""
        for name in names:
            (self._gates / name).write_text(f"{code}\n")

    def hold(self, name: str) -> None:
        """Let no more runs for an object end."""
        (self._gates / name).unlink()

    @property
    def journal(self) -> list[str]:
        """What has happened, the initial sync left out."""
        return [line for line in self._journal.read_text().splitlines() if not line.endswith(" .")]

    def wait_for(self, daemon: Daemon, line: str, times: int = 1) -> None:
        """Wait until something has happened so often."""
        daemon.wait_until(lambda: self.journal.count(line) >= times, what=f"{line}, time {times}, {self.journal}")


@pytest.fixture
def held(world: World) -> Held:
    """The handler; the files are there, so that writing them does not change their directory."""
    for name in ("a", "b", "c", "d/e", "d/f", *HELD):
        world.write(name)
    return Held(world.top)


def run(world: World, held: Held, how: str, *more: str) -> Daemon:
    """Return a daemon that hands each batch over as arguments."""
    objects = ("--", "%INCLUDE-LIST%")
    return world.daemon("-Mdirect", f"-S{held.program}", f"-p{how}", *more, *objects, delays=("-t0.1", "-w0"))


def write(world: World, daemon: Daemon, name: str, text: str) -> None:
    """Write a file so that all of it is in one batch, however long the disk, or who else is at work, takes for it."""
    with daemon.held():
        world.write(name, text)


def test_one_after_the_other(world: World, held: Held) -> None:
    with run(world, held, "off") as daemon:
        daemon.wait_for_log(SYNCED)
        write(world, daemon, "a", "text")
        held.wait_for(daemon, "begin a")
        write(world, daemon, "b", "text")
        held.let("a", "b")
        held.wait_for(daemon, "end b")
        assert [line.split()[0] for line in held.journal] == ["begin", "end"] * (len(held.journal) // 2)


@pytest.mark.parametrize("how", ["safe", "full"])
def test_a_batch_does_not_wait_for_another(world: World, held: Held, how: str) -> None:
    with run(world, held, how) as daemon:
        daemon.wait_for_log(SYNCED)
        for number, name in enumerate(("a", "d/e", "d/f")):
            write(world, daemon, name, "text")
            held.wait_for(daemon, f"begin {name[-1]}")
            assert len(held.journal) == number + 1
        held.let("f", "e", "a")
        for name in "aef":
            held.wait_for(daemon, f"end {name}")


def test_safe_what_is_on_its_way_is_not_handed_over_again_before_it_has_arrived(world: World, held: Held) -> None:
    """Nor is the directory it lies in."""
    with run(world, held, "safe") as daemon:
        daemon.wait_for_log(SYNCED)
        write(world, daemon, "d/e", "text")
        held.wait_for(daemon, "begin e")
        write(world, daemon, "d/e", "other text")
        write(world, daemon, "a", "text")
        held.wait_for(daemon, "begin a")
        (world.source / "d").chmod(0o700)
        write(world, daemon, "b", "text")
        held.wait_for(daemon, "begin b")
        assert held.journal == ["begin e", "begin a", "begin b"]
        held.let("a", "b", "d", "e")
        held.wait_for(daemon, "begin d")
        held.wait_for(daemon, "end d")
        assert held.journal.index("begin d") > held.journal.index("end e")


def test_full_what_was_in_two_runs_is_handed_over_once_more(world: World, held: Held) -> None:
    with run(world, held, "full") as daemon:
        daemon.wait_for_log(SYNCED)
        write(world, daemon, "a", "text")
        held.wait_for(daemon, "begin a")
        write(world, daemon, "a", "other text")
        held.wait_for(daemon, "begin a", 2)
        assert "end a" not in held.journal
        before = held.journal.count("begin a")
        held.let("a")
        held.wait_for(daemon, "begin a", before + 1)


def test_no_more_than_so_many_at_once(world: World, held: Held) -> None:
    with run(world, held, "full") as daemon:
        daemon.wait_for_log(SYNCED)
        for name in HELD:
            write(world, daemon, name, "text")
            held.wait_for(daemon, f"begin {name}")
        write(world, daemon, "a", "text")
        held.let("0")
        held.wait_for(daemon, "begin a")
        assert held.journal.index("begin a") > held.journal.index("end 0")
        held.let("a", *HELD)


@pytest.mark.parametrize("how", ["safe", "full"])
def test_a_handler_that_fails_is_called_again(world: World, held: Held, how: str) -> None:
    """And the others are not disturbed."""
    status = world.top / "status"
    with run(world, held, how, f"--status-file={status}") as daemon:
        daemon.wait_for_log(SYNCED)
        held.let("a", code=7)
        write(world, daemon, "b", "text")
        held.wait_for(daemon, "begin b")
        write(world, daemon, "a", "text")
        held.wait_for(daemon, "end a", 2)
        daemon.wait_until(lambda: status.read_text() == "synchandler error", what="the error")
        held.let("b", "a")
        held.wait_for(daemon, "end b")
        daemon.wait_until(lambda: status.read_text() == "running", what="the end of the error")


@pytest.mark.parametrize("how", ["safe", "full"])
def test_a_handler_that_takes_too_long_is_ended(world: World, how: str) -> None:
    """With all it has started; its list is removed, and the daemon goes on."""
    lists, well = world.top / "lists", world.top / "well"
    recorder = Recorder(world.top, f"[ -e {well} ] || {{ sleep 600 & wait; }}")
    options = ("-Mdirect", recorder.option, f"-p{how}", "--timeout-sync=0.5", f"-L{lists}", "--skip-initialsync")
    with world.daemon(*options, "--", "%INCLUDE-LIST-PATH%") as daemon:
        daemon.wait_for_log(WATCHING)
        world.write("file")
        daemon.wait_for_log("took longer than --timeout-sync")
        daemon.wait_until(lambda: not daemon.at_work() and not os.listdir(lists), what="the end of the handler")
        well.touch()
        calls = len(recorder.calls)
        recorder.wait_for_calls(daemon, calls + 1)
        assert daemon.stop(signal.SIGQUIT) == Exit.OK
    assert not lists.exists()


@pytest.mark.parametrize("how", ["safe", "full"])
def test_ends(world: World, held: Held, how: str) -> None:
    """QUIT lets handlers end, and hands over what is left; TERM ends them."""
    with run(world, held, how) as daemon:
        daemon.wait_for_log(SYNCED)
        write(world, daemon, "a", "text")
        held.wait_for(daemon, "begin a")
        write(world, daemon, "a", "other text")
        os.kill(daemon.pid, signal.SIGQUIT)
        held.let("a")
        assert daemon.wait() == Exit.OK
    assert held.journal.count("begin a") == held.journal.count("end a") >= 2
    held.hold("a")
    with run(world, held, how) as daemon:
        daemon.wait_for_log(SYNCED)
        before = len(held.journal)
        for name in ("a", "b"):
            write(world, daemon, name, "text")
            held.wait_for(daemon, f"begin {name}", 1 + held.journal[:before].count(f"begin {name}"))
        assert daemon.stop(code=Exit.INCOMPLETE) == Exit.INCOMPLETE


@pytest.mark.parametrize("how", ["safe", "full"])
def test_a_failure_too_many_ends_the_run(world: World, held: Held, how: str) -> None:
    with run(world, held, how, "--retries=2") as daemon:
        daemon.wait_for_log(SYNCED)
        write(world, daemon, "b", "text")
        held.wait_for(daemon, "begin b")
        held.let("a", code=7)
        write(world, daemon, "a", "text")
        held.wait_for(daemon, "end a", 2)
        held.let("b")  # what is on its way is waited for
        assert daemon.wait(code=7) == 7
    assert "end b" in held.journal


@pytest.mark.parametrize(
    "option", ["--only-initialsync", "--exit-on-no-events", "--max-iterations=3", "--pre-exit-hook=x"]
)
def test_runs_that_end_do_not_overlap(world: World, option: str) -> None:
    done = world.run(*world.trees, "-psafe", option)
    assert done.complaint(Exit.USAGE)[0] == f"--threading=safe and {option.partition('=')[0]} exclude each other"


def test_what_waits_for_a_batch_does_not_turn_the_loop(world: World, held: Held) -> None:
    """It is looked at again when a batch has ended, and not before."""
    with run(world, held, "safe") as daemon:
        daemon.wait_for_log(SYNCED)
        write(world, daemon, "a", "text")
        held.wait_for(daemon, "begin a")
        write(world, daemon, "a", "other text")
        all_of_it = (daemon.pid, *workers_of(daemon))
        before = sum(map(cpu_time, all_of_it))
        time.sleep(1)  # the time in which a loop would be seen turning
        assert sum(map(cpu_time, all_of_it)) - before < 0.3
        held.let("a")
        held.wait_for(daemon, "end a", 2)


def cpu_time(pid: int) -> float:
    """Return the processor time (s) that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_full_comes_to_rest(world: World, held: Held) -> None:
    """What was in two runs at once is handed over once more, and not for ever."""
    with run(world, held, "full") as daemon:
        daemon.wait_for_log(SYNCED)
        write(world, daemon, "a", "text")
        held.wait_for(daemon, "begin a")
        write(world, daemon, "a", "other text")
        held.wait_for(daemon, "begin a", 2)
        held.let("a")
        held.wait_for(daemon, "end a", 3)
        for name in ("b", "c"):
            write(world, daemon, name, "text")
            held.let(name)
            held.wait_for(daemon, f"end {name}")
        assert held.journal.count("begin a") <= 4
        assert daemon.stop(signal.SIGQUIT) == Exit.OK
    assert held.journal.count("begin a") <= 4


class Gated:
    """rsync that waits until a gate is open."""

    def __init__(self, world: World, first: bool = False) -> None:
        """Make it; the gate is open. `first`: only the first run that finds the gate closed waits."""
        self.gate, self.held = world.top / "gate", world.top / "held"
        wait = f"while test -e {self.held if first else self.gate}; do sleep 0.02; done"
        if first:
            wait = f"if mv {self.gate} {self.held} 2>/dev/null; then {wait}; fi"
        self.program = world.file("rsync", f'#!/bin/sh\n{wait}\nexec rsync "$@"\n', 0o755)


def overlapping(world: World, gated: Gated, *more: str) -> Daemon:
    """Return a daemon that runs rsync beside others; it has two directories whose files can be rewritten.

    Of what there is it hands over nothing: how often that would be looked at depends on how young it is.
    """
    for name in ("d/first", "e/second"):
        world.write(name, "old")
    options = ("-Mrsyncdirect", "-psafe", "-d3", f"-S{gated.program}", "--skip-initialsync")
    return world.daemon(*options, *more, delays=("-t0.1", "-w0"))


def test_all_handlers_have_the_same_destination(world: World) -> None:
    """Also where the arguments name it by what --destination-dir says."""
    there = world.destination / "sub"
    there.mkdir()
    gated = Gated(world, first=True)
    with overlapping(world, gated, "--", "%RSYNC-ARGS%", "%watch-dir%/", "%destination-dir%/sub/") as daemon:
        daemon.wait_for_log(WATCHING)
        gated.gate.touch()
        write(world, daemon, "d/first", "new text")
        daemon.wait_until(gated.held.exists, what="the first handler at work")
        world.write("e/second", "new text")
        # The first one does not end before: it is another one that has to find the place.
        daemon.wait_until(lambda: world.copied("sub/e/second") == "new text", what="e/second")
        assert gated.held.exists()
        gated.held.unlink()
        daemon.wait_until(lambda: world.copied("sub/d/first") == "new text", what="d/first")
        assert os.listdir(world.destination) == ["sub"]
        assert not (there / "sub").exists()
        daemon.stop(signal.SIGQUIT)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_bare_mount_point_is_no_destination_for_another_handler(world: World) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "none", world.destination], check=True)
    try:
        gated = Gated(world)
        with overlapping(world, gated) as daemon:
            daemon.wait_for_log(WATCHING)
            gated.gate.touch()
            world.write("d/first", "new text")
            daemon.wait_until(lambda: " d/first\n" in daemon.output, what="a batch")
            subprocess.run(["umount", "-l", world.destination], check=True)
            world.write("e/second", "new text")
            daemon.wait_for_log("another directory stands there now")
            gated.gate.unlink()
            daemon.stop(signal.SIGTERM, code=None)
        assert os.listdir(world.destination) == []
    finally:
        subprocess.run(["umount", "-l", world.destination], check=False, stderr=subprocess.DEVNULL)
