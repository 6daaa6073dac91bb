"""What a daemon that was killed has started goes on without it: the next one ends it before it begins."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable

import pytest

from tests.support.daemon import Daemon
from tests.system.world import SYNCED, World


def send(pids: Iterable[int], number: int) -> None:
    """Send a signal to those that are still there."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def held_between_two_files(world: World, daemon: Daemon) -> bool:
    """Hold the handler where it writes nothing at the moment; tell whether that was possible."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if len(list(world.destination.glob("d/[0-9]*"))) > 5:
            send(daemon.descendants(), signal.SIGSTOP)
            if not any(world.destination.glob("d/.*")):
                return True
            send(daemon.descendants(), signal.SIGCONT)
        time.sleep(0.003)
    return False


@pytest.mark.parametrize("splitting", ["off", "process"])
def test_a_handler_that_is_left_writes_nothing_old(world: World, splitting: str) -> None:
    """It is held up, as by a disk that does not answer, and goes on when the next daemon has made all equal."""
    names = [f"d/{number:03}" for number in range(400)]
    for name in names:
        world.write(name, "old" * 5000)
    with world.daemon("-Mrsyncdirect", "--bwlimit=800k", f"--splitting={splitting}") as killed:
        if not held_between_two_files(world, killed):
            pytest.skip("it was never between two files")
        os.kill(killed.pid, signal.SIGKILL)
        assert killed.process is not None
        killed.process.wait()
        for name in names:
            world.file("coming", "new").replace(world.source / name)
        with world.daemon("-Mrsyncdirect") as daemon:
            daemon.wait_for_log(SYNCED)
            send(killed.family(), signal.SIGCONT)
            daemon.wait_until(lambda: not killed.family(), what="the end of what was left")
            world.wait_for_equal(daemon, timeout=5)
            daemon.stop(signal.SIGQUIT)
        world.demand_equal()
