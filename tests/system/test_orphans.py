"""What a daemon that was killed has started goes on without it: the next one ends it before it begins."""

from __future__ import annotations

import os
import signal

import pytest

from tests.support.gate import Gate
from tests.system.world import SYNCED, World


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
        world.wait_for_equal(daemon, timeout=5)
        daemon.stop(signal.SIGQUIT, timeout=60)
        world.demand_equal()
    finally:
        killed.kill()
        daemon.kill()
