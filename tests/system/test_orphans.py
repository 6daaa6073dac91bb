"""What a daemon that was killed has started goes on without it: the next one ends it before it begins."""

from __future__ import annotations

import os
import signal

import pytest

from tests.support.gate import Gate
from tests.support.recorder import Recorder
from tests.system.world import ROOT, SYNCED, World


@pytest.mark.parametrize("splitting", ["off", "process"])
@pytest.mark.parametrize("mode", ["rsyncdirect", "copy"])
def test_a_handler_that_is_left_writes_nothing_old(world: World, mode: str, splitting: str) -> None:
    """It is held up at a file of the source, and goes on when the next daemon has made all equal."""
    for number in range(60):
        world.write(f"d{number % 20}/{number}")
    file = world.write("d/file", "old")
    killed, daemon = (world.daemon(f"-M{mode}", f"--splitting={splitting}") for _ in range(2))

    def restart() -> None:
        os.kill(killed.pid, signal.SIGKILL)
        assert killed.process is not None
        killed.process.wait()
        world.file("coming", "new").replace(file)  # what is being opened stays what it is
        daemon.start()
        daemon.wait_for_log(SYNCED)

    try:
        with Gate(file, restart) as gate:
            killed.start()
            killed.wait_until(gate, what="somebody at the file")
        daemon.wait_until(lambda: not killed.family(), what="the end of what was left")
        world.wait_for_equal(daemon)
        daemon.stop(signal.SIGQUIT, timeout=60)
        world.demand_equal()
    finally:
        killed.kill()
        daemon.kill()


AT_WORK = """
[ -e {top}/begun ] && exit
touch {top}/begun
mkfifo {top}/never
setsid sh -c 'echo $$ >{top}/stays; read line <{top}/never' &
sh -c 'trap "sleep 0.3; exit" TERM; echo $$ >{top}/at_work
    while [ ! -e {top}/go ]; do sleep 0.01; done; echo old >{top}/written' &
wait
"""
"""It has begun a service, and works by a program that does not end at once; both have lost their parent then.

Each tells its number itself: who is about to begin has neither left the group nor an environment that can be read.
"""


@pytest.mark.parametrize(
    ("mode", "how"),
    [
        ("simple", ()),
        ("direct", ()),
        ("shell", ()),
        pytest.param("direct", ("--splitting=thread",), marks=ROOT),
        pytest.param("direct", ("--splitting=process",), marks=ROOT),
    ],
)
def test_a_program_of_the_operators_that_is_left_is_ended(world: World, mode: str, how: tuple[str, ...]) -> None:
    """With all of its group, before the next one begins; what it has begun to stay, stays."""
    recorder = Recorder(world.top, AT_WORK.format(top=world.top))
    world.write("file")
    options = (f"-M{mode}", recorder.option, "-llab1", *how)
    killed, daemon = world.daemon(*options), world.daemon(*options)
    try:
        killed.start()
        told = [world.top / name for name in ("stays", "at_work")]
        killed.wait_until(lambda: all(p.exists() and p.read_text().endswith("\n") for p in told), what="both at work")
        stays, at_work = (int(path.read_text()) for path in told)
        os.kill(killed.pid, signal.SIGKILL)
        assert killed.process is not None
        killed.process.wait()
        assert at_work in killed.family()
        daemon.start()
        recorder.wait_for_calls(daemon, 2)
        assert set(killed.family()) == {stays}
        daemon.wait_for_log(SYNCED)
        daemon.stop()
        assert not (world.top / "written").exists()
    finally:
        killed.kill()
        daemon.kill()


def test_the_program_of_another_daemon_is_left_alone(world: World) -> None:
    """It has the same watched directory and handler, and another label."""
    pid = world.top / "pid"
    recorder = Recorder(world.top, f"[ -e {pid} ] && exit\necho $$ >{pid}\nsleep 600 & wait")
    world.write("file")
    killed, daemon = (world.daemon("-Mdirect", recorder.option, f"-l{label}") for label in ("one", "two"))
    try:
        killed.start()
        killed.wait_until(lambda: pid.exists() and pid.read_text() != "", what="the handler at work")
        os.kill(killed.pid, signal.SIGKILL)
        daemon.start()
        daemon.wait_for_log(SYNCED)
        daemon.stop()
        assert int(pid.read_text()) in killed.family()
    finally:
        killed.kill()
        daemon.kill()
