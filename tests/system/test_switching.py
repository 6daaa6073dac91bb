"""Other settings while clsync runs: `--custom-signals`; and what is going on inside: `--dump-dir`."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from clsync.errors import Exit
from tests.support.daemon import Daemon
from tests.support.recorder import Recorder
from tests.system.world import SYNCED, World

CONFIG = """\
[default]
watch-dir = {source}
destination-dir = {destination}
mode = direct
sync-handler = {handler}
label = first
delay-collect = 0.1
delay-sync = 0
custom-signals = 40:other,41:slow,42:bad,43:fixed,44:rules,45:gone,46:late,1:hup,47:handler,58:gap,59:tries,48:against
-- = %label% %INCLUDE-LIST%

[base]
label = inherited
-- = base %label% %INCLUDE-LIST%

[other]
config-block-inherits = base
label = second

[slow]
delay-collect = 1000

[bad]
label = never seen
retries = many

[fixed]
watch-dir = /nowhere
label = third
monitor = poll

[rules]
rules-file = {rules}

[gone]
label = never seen

[late]
sync-handler = /nowhere/handler

[against]
label = never seen
skip-initialsync = 1
only-initialsync = 1

[hup]
label = hup

[gap]
delay-sync = 0.01

[tries]
retries = 7

[handler]
mode = copy
-- =
sync-handler =
"""


@pytest.fixture
def recorder(world: World) -> Recorder:
    """The handler; a file of configuration, and rules that reject."""
    made = Recorder(world.top)
    rules = world.file("rules", "-f\\.skip$\n")
    text = CONFIG.format(source=world.source, destination=world.destination, handler=made.program, rules=rules)
    world.file("conf", text)
    return made


def run(world: World, *more: str) -> Daemon:
    """Return a daemon with the file of configuration."""
    return world.bare(f"-H{world.top}/conf", f"-s{world.top}/socket", *more)


def send(daemon: Daemon, number: int, answer: str = "in force from the next batch on") -> None:
    """Send a signal and wait for the answer."""
    before = daemon.output.count(answer)
    os.kill(daemon.pid, number)
    daemon.wait_until(lambda: daemon.output.count(answer) > before, what=f"{answer} after signal {number}")


def switch(world: World, daemon: Daemon, number: int) -> None:
    """Send a signal and wait until what it asks for is in force: a batch in flight goes by what was before."""
    send(daemon, number)
    done = world.run("wait", f"-s{world.top}/socket", timeout=60)
    assert done.code == Exit.OK, done.err


def handed(world: World, daemon: Daemon, recorder: Recorder, name: str) -> list[bytes]:
    """Write a file; return the arguments with which it is handed over."""
    world.write(name, "text")

    def found() -> list[list[bytes]]:
        return [call.arguments for call in recorder.calls if name.encode() in call.arguments]

    daemon.wait_until(lambda: bool(found()), what=f"a run for {name}")
    return found()[0]


def test_a_block_is_laid_over_all_that_is_set(world: World, recorder: Recorder) -> None:
    """Over the command line, too; a child over its parent; arguments are exchanged, not added."""
    with run(world, "-lline") as daemon:
        daemon.wait_for_log(SYNCED)
        assert handed(world, daemon, recorder, "a") == [b"line", b"a"] or b"line" in recorder.calls[-1].arguments
        switch(world, daemon, 40)
        assert handed(world, daemon, recorder, "b")[:2] == [b"base", b"second"]
        switch(world, daemon, 43)
        assert handed(world, daemon, recorder, "c")[:2] == [b"base", b"third"], "what was switched to before counts"
        assert "watch-dir cannot be changed while clsync runs" in daemon.output
        assert "monitor cannot be changed while clsync runs" in daemon.output
        switch(world, daemon, 40)
        assert handed(world, daemon, recorder, "d")[:2] == [b"base", b"second"], "the latest block counts most"
        switch(world, daemon, 1)
        assert handed(world, daemon, recorder, "e")[:2] == [b"base", b"hup"], "instead of reading rules"


def test_what_cannot_be_used_changes_nothing(world: World, recorder: Recorder) -> None:
    with run(world) as daemon:
        daemon.wait_for_log(SYNCED)
        send(daemon, 42, "signal 42, block [bad]: ")
        assert "retries: 'many' is not a number" in daemon.output
        send(daemon, 46, "signal 46, block [late]: --sync-handler /nowhere/handler does not exist")
        send(daemon, 48, "--skip-initialsync and --only-initialsync exclude each other")
        config = world.top / "conf"
        text = config.read_text()
        config.write_text(text.replace("[gone]", "[went]"))
        send(daemon, 45, "has no block [gone]")
        config.write_text("no configuration")
        send(daemon, 40, "signal 40, block [other]: ")
        assert handed(world, daemon, recorder, "a")[0] == b"first"
        config.write_text(text)
        switch(world, daemon, 40)
        assert handed(world, daemon, recorder, "b")[:2] == [b"base", b"second"]


def test_delays_rules_and_handlers_are_exchanged(world: World, recorder: Recorder) -> None:
    world.write("old.skip", "text")
    with run(world) as daemon:
        daemon.wait_for_log(SYNCED)
        switch(world, daemon, 44)
        world.write("new.skip", "text")
        handed(world, daemon, recorder, "a")
        assert not any(b"new.skip" in call.arguments for call in recorder.calls)
        switch(world, daemon, 47)
        world.wait_for_copy(daemon, "a", "text")
        world.write("b", "text")
        world.wait_for_copy(daemon, "b", "text")
        assert not (world.destination / "old.skip").exists()
        switch(world, daemon, 41)
        world.write("late", "text")
        os.kill(daemon.pid, signal.SIGQUIT)
        assert daemon.wait() == Exit.OK
        assert (world.destination / "late").exists()


def test_a_handler_that_stays_the_same_goes_on(world: World, recorder: Recorder) -> None:
    """Nothing is compared anew for another delay; arguments that name an option follow it."""
    with run(world, "-K", "default", "--", "%retries%", "%INCLUDE-LIST%") as daemon:
        daemon.wait_for_log(SYNCED)
        assert handed(world, daemon, recorder, "a")[0] == b"0"
        switch(world, daemon, 58)
        assert handed(world, daemon, recorder, "b")[0] == b"0"
        assert sum(b"." in call.arguments for call in recorder.calls) == 1
        switch(world, daemon, 59)
        assert handed(world, daemon, recorder, "c")[0] == b"7"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("9:other", "9 is no signal that can be caught"),
        ("70:other", "70 is no signal that can be caught"),
        ("other", "'other' is no signal with a block"),
        ("40:nowhere", "--custom-signals 40:nowhere: {conf} has no block [nowhere]"),
    ],
)
def test_what_is_no_signal_with_a_block(world: World, recorder: Recorder, value: str, message: str) -> None:
    done = world.run(f"-H{world.top}/conf", f"--custom-signals={value}")
    assert message.format(conf=world.top / "conf") in done.complaint(Exit.USAGE)[0]


def lines(path: Path) -> list[str]:
    """Return the lines of a file that is there."""
    return path.read_text().splitlines()


def test_the_state_is_written_into_files(world: World) -> None:
    """What waits goes on waiting for as long as it would have."""
    gate, dump = world.top / "gate", world.top / "dump"
    recorder = Recorder(world.top, f"case $1 in held*) while ! test -e {gate}; do sleep 0.02; done; esac")
    world.write("held", "text")
    options = ("-Mdirect", recorder.option, f"--dump-dir={dump}", "-B100", "-T1000")
    with world.daemon(*options, "--", "%INCLUDE-LIST%", delays=("-t2", "-w0")) as daemon:
        daemon.wait_for_log(SYNCED)
        world.write("big", "x" * 200)
        world.write("small")
        recorder.wait_for_calls(daemon, 2)
        world.write("held", "other")
        recorder.wait_for_calls(daemon, 3)
        world.write("waits", "text")
        daemon.wait_until(lambda: "+1\twaits" in dumped(daemon, dump, "queue/0"), what="the dump")
        assert lines(dump / "instance")[0] == "status == running"
        assert "+1\theld" in lines(dump / "instance")
        assert "+1\tbig" in lines(dump / "queue/1")
        assert lines(dump / "queue/3") == []
        assert (dump.stat().st_mode & 0o777, (dump / "queue").stat().st_mode & 0o777) == (0o750, 0o750)
        send(daemon, signal.SIGIO, f"--dump-dir {dump}: File exists; remove it")
        assert len(recorder.calls) == 3
        gate.touch()
        daemon.wait_until(lambda: any(b"waits" in call.arguments for call in recorder.calls), what="waits")
        assert not any(b"big" in call.arguments for call in recorder.calls[1:])
        daemon.stop(signal.SIGQUIT)
    assert any(b"big" in call.arguments for call in recorder.calls[1:])


def dumped(daemon: Daemon, dump: Path, name: str) -> list[str]:
    """Ask for the state; return the lines of one of the files."""
    shutil.rmtree(dump, ignore_errors=True)
    send(daemon, signal.SIGIO, "the state is written to")
    return lines(dump / name)


def test_batches_beside_others_are_files_of_their_own(world: World) -> None:
    gate, dump = world.top / "gate", world.top / "dump"
    recorder = Recorder(world.top, f"case $1 in held*) while ! test -e {gate}; do sleep 0.02; done; esac")
    for name in ("held1", "held2"):
        world.write(name, "text")
    options = ("-Mdirect", recorder.option, f"--dump-dir={dump}", "-psafe")
    with world.daemon(*options, "--", "%INCLUDE-LIST%", delays=("-t0.1", "-w0")) as daemon:
        daemon.wait_for_log(SYNCED)
        for number in (1, 2):
            world.write(f"held{number}", "other")
            recorder.wait_for_calls(daemon, number + 1)
        world.write("held1", "again")
        world.write("marker")
        daemon.wait_until(lambda: any(b"marker" in call.arguments for call in recorder.calls), what="the marker")
        daemon.wait_until(lambda: dumped(daemon, dump, "queue/3") == ["+1\theld1"], what="what meets a batch")

        def in_flight() -> list[str]:
            dumped(daemon, dump, "instance")
            return sorted(line for path in (dump / "threads").iterdir() for line in lines(path) if line[0] == "+")

        daemon.wait_until(lambda: in_flight() == ["+1\theld1", "+1\theld2"], what="the two that are held")
        gate.touch()
        daemon.stop(signal.SIGQUIT)
