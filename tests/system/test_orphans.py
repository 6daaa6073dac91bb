"""What a daemon that was killed has started goes on without it: the next one ends it before it begins."""

from __future__ import annotations

import os
import signal

import pytest

from tests.system.world import SYNCED, World


@pytest.mark.parametrize("splitting", ["off", "process"])
def test_a_handler_that_is_left_writes_nothing_old(world: World, splitting: str) -> None:
    names = [f"d/{number:02}" for number in range(20)]
    for name in names:
        world.write(name, "old" * 30_000)
    with world.daemon("-Mrsyncdirect", "--bwlimit=300k", f"--splitting={splitting}") as killed:
        killed.wait_until(lambda: any(world.destination.glob("d/.*")), what="the beginning of the transfer")
        os.kill(killed.pid, signal.SIGKILL)
        assert killed.process is not None
        killed.process.wait()
        for name in names:  # what is being read stays what it is
            world.file("coming", "new").replace(world.source / name)
        with world.daemon("-Mrsyncdirect") as daemon:
            daemon.wait_for_log(SYNCED)
            daemon.wait_until(lambda: not killed.family(), what="the end of what was left")
            world.wait_for_equal(daemon, timeout=5)
            daemon.stop()
        world.demand_equal()
