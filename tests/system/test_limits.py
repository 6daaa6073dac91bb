"""Limits of a group of processes: what uses more is refused it, or ended; the group is gone at the end."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from clsync.errors import Exit
from clsync.kernel.cgroups import all_hierarchies
from tests.system.test_privileges import left
from tests.system.world import ROOT, SYNCED, World

pytestmark = [ROOT, pytest.mark.root]

CONTROLLERS = {name for hierarchy in all_hierarchies() for name in hierarchy.controllers}
NO_USER = 65123
"""A user without any process."""


def needs(*controllers: str) -> pytest.MarkDecorator:
    """Skip a test where a controller is not there."""
    return pytest.mark.skipif(not set(controllers) <= CONTROLLERS, reason=f"needs controllers: {controllers}")


def handled(world: World, script: str, *options: str) -> int:
    """Return the exit code of a run whose handler is a script."""
    world.write("file")
    handler = world.file("handler", f"#!/bin/sh\n{script}\n", 0o755)
    name = f"clsync-test-{os.getpid()}"
    said = ("-Mdirect", f"-S{handler}", "--only-initialsync", "--retries=1", f"--cgroup-group-name={name}/%PID%")
    done = world.run(*world.trees, *said, *options, timeout=60)
    deadline = time.monotonic() + 20
    while left(name):
        assert time.monotonic() < deadline, left(name)
        time.sleep(0.02)
    return done.code


@needs("memory")
def test_memory(world: World) -> None:
    hungry = "exec perl -e '$x = \"a\" x 300_000_000; exit 0'"
    assert handled(world, hungry, "--cgroup-memory=2g") == 0
    assert handled(world, hungry, "--cgroup-memory=100m") != 0


@needs("pids")
def test_processes(world: World) -> None:
    # They stay until all are there, however long it takes to start them.
    numbers = " ".join(map(str, range(20)))
    many = f"begun=; trap 'kill $begun' EXIT; for n in {numbers}; do sleep 600 & begun=\"$begun $!\"; done; exit 0"
    assert handled(world, many, "--cgroup-pids=500") == 0
    assert handled(world, many, "--cgroup-pids=12") != 0


@needs("cpu")
def test_processor_time(world: World) -> None:
    """On however busy a machine: it takes longer than it works."""
    work = "$t = time; 1 while (times)[0] < 0.4; print time - $t"
    busy = f"exec perl -MTime::HiRes=time -e '{work}' >{world.top}/took"
    assert handled(world, busy, "--cgroup-cpu=20") == 0
    assert float((world.top / "took").read_text()) > 1


@needs("memory", "pids", "cpu")
def test_all_of_them_and_devices(world: World) -> None:
    """In one group of that name, wherever its controllers are."""
    name = f"clsync-test-{os.getpid()}"
    asked = ("--cgroup-memory=300m", "--cgroup-pids=50", "--cgroup-cpu=150", "--forbid-devices")
    with world.daemon("-Mcopy", *asked, f"--cgroup-group-name={name}") as daemon:
        daemon.wait_for_log(SYNCED)
        lines = Path(f"/proc/{daemon.pid}/cgroup").read_text().splitlines()
        inside = {c for line in lines if line.endswith(f"/{name}") for c in line.split(":")[1].split(",")}
        assert inside >= {"memory", "pids", "cpu"} or "" in inside
        files = {
            path.name: path.read_text().strip() for top in left(name) for path in Path(top).glob("*") if limit(path)
        }
        assert files["pids.max"] == "50"
        assert files.get("memory.limit_in_bytes", files.get("memory.max")) == str(300 << 20)
        assert files.get("cpu.cfs_quota_us", files.get("cpu.max", "").split(" ")[0]) == "150000"
        daemon.stop()
        daemon.kill()
    assert left(name) == []


def limit(path: Path) -> bool:
    """Tell whether a file is one of those that limits are written to."""
    return path.name in ("pids.max", "memory.limit_in_bytes", "memory.max", "cpu.cfs_quota_us", "cpu.max")


@needs("memory")
def test_a_controller_that_is_missing(world: World) -> None:
    """The start ends, and says what to do."""
    lines = [line.split(" - ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    points = [before.split()[4] for before, after in lines if after.startswith("cgroup")]
    hide = "".join(f"umount -l {point};" for point in points)
    head = ["unshare", "-m", "sh", "-c", f'{hide} exec "$@"', "sh"]
    message, hint = world.run(*world.trees, "--cgroup-memory=1g", head=head).complaint(Exit.PRIVILEGE)
    assert message == "--cgroup-memory: no hierarchy of process groups has the controller memory here"
    assert "Delegate=yes" in hint


def test_a_limit_of_the_system(world: World) -> None:
    """Also where clsync has not been asked for it: a user who may have no more processes."""
    for path in (world.top, *world.top.parents[:2]):
        path.chmod(0o755)
    os.chown(world.destination, NO_USER, NO_USER)
    head = ["setpriv", f"--reuid={NO_USER}", f"--regid={NO_USER}", "--clear-groups", "--inh-caps=-all,+dac_read_search",
            "--ambient-caps=-all,+dac_read_search", "prlimit", "--nproc=1", "--"]  # fmt: skip
    done = world.run(*world.trees, "-Mcopy", "--only-initialsync", "--sandbox=off", head=head)
    assert (done.code, "Traceback" in done.err) == (Exit.PRIVILEGE, False)
    message, hint = done.err.splitlines()[-2:]
    assert message == "clsync: no more processes and threads can be started"
    assert "ulimit -u" in hint


FEW = "--cgroup-pids={} is too small: clsync itself and what syncs are"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--cgroup-memory=much", "--cgroup-memory: 'much' is not a number"),
        ("--cgroup-pids=1", f"{FEW.format(1)} 7 processes and threads"),
        ("--cgroup-pids=6", f"{FEW.format(6)} 7 processes and threads"),
        ("--cgroup-pids=-1", "--cgroup-pids: -1 is too small"),
        ("--cgroup-cpu=200000", "--cgroup-cpu: 200000 is too large"),
    ],
)
def test_values_that_mean_nothing(world: World, option: str, message: str) -> None:
    assert world.run(*world.trees, option).complaint(Exit.USAGE)[0] == message


@pytest.mark.parametrize(
    ("options", "least"),
    [
        (("-Mcopy",), 6),
        (("-Mcopy", "--splitting=off"), 5),
        (("--only-initialsync",), 5),
        (("--only-initialsync", "--splitting=off"), 4),
        (("--only-initialsync", "--splitting=off", "-Mdirect"), 2),
    ],
)
def test_the_least_processes(world: World, options: tuple[str, ...], least: int) -> None:
    """What cannot work is refused before anything is done, and no more than that."""
    message, hint = world.run(*world.trees, *options, f"--cgroup-pids={least - 1}").complaint(Exit.USAGE)
    assert message == f"{FEW.format(least - 1)} {least} processes and threads"
    assert "20" in hint
    assert world.run(*world.trees, *options, f"--cgroup-pids={least}", "--dry-run").code == 0


def test_no_more_than_a_user_may(world: World) -> None:
    """Who may not make groups is told so."""
    for path in (world.top, *world.top.parents[:2]):
        path.chmod(0o755)
    head = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all,+dac_read_search",
            "--ambient-caps=-all,+dac_read_search", "--"]  # fmt: skip
    message, hint = world.run(*world.trees, "--cgroup-pids=10", head=head).complaint(Exit.PRIVILEGE)
    assert message.startswith("--cgroup-pids: ")
    assert "root" in hint
