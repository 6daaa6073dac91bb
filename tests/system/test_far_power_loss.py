"""What another host was given and may have lost with its power is handed over again, and nothing else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator

import pytest

from tests.support.daemon import Daemon
from tests.support.remotes import Remote, RsyncHost, SshHost, missing
from tests.system.test_state import KEPT_AT, WARM, WAYS, is_complete, is_tampered, old, tamper, unflushed
from tests.system.world import QUICK, ROOT, SYNCED, Ended, World, states

pytestmark = [ROOT, pytest.mark.skipif(bool(missing()), reason=f"not installed: {', '.join(missing())}")]

BOOTS = ("01234567-89ab-cdef-0123-456789abcdef", "fedcba98-7654-3210-fedc-ba9876543210")
SHELL = "exec sh"
"""What is run at the host to ask it anything."""


class FarWorld:
    """A source, and a host with a boot id of its own, which notes what it is told to run."""

    def __init__(self, world: World) -> None:
        self.world, place = world, world.top / "far"
        (place / "bin").mkdir(parents=True)
        self._boot, self._calls, self._full = place / "boot_id", place / "calls", place / "full"
        flush = f'#!/bin/sh\n[ -e {self._full} ] && exit 1\nexec {shutil.which("sync")} "$@"\n'
        world.file("far/bin/sync", flush, 0o755)
        see = f"mount --bind {self._boot} /proc/sys/kernel/random/boot_id"
        text = (
            f'#!/bin/sh\nprintf "%s\\n" "$SSH_ORIGINAL_COMMAND" >>{self._calls}\nPATH={place}/bin:$PATH\n'
            f"exec unshare -m sh -c '{see} && exec sh -c \"$SSH_ORIGINAL_COMMAND\"'\n"
        )
        self.host = SshHost(world.top, world.destination, command=os.fspath(world.file("far/gate", text, 0o755)))
        self.boot(0)
        self.host.start()

    def boot(self, number: int) -> None:
        """Let the host be in a boot."""
        new = self._boot.with_name("new")
        new.write_text(BOOTS[number] + "\n")
        new.rename(self._boot)

    def fill(self, full: bool) -> None:
        """Let it be able to flush, or not."""
        if full:
            self._full.touch()
        else:
            self._full.unlink()

    def calls(self) -> list[str]:
        """Return what it was told to run since this was asked last."""
        told = self._calls.read_text().splitlines() if self._calls.exists() else []
        self._calls.unlink(missing_ok=True)
        return told


@pytest.fixture
def far(world: World) -> Iterator[FarWorld]:
    made = FarWorld(world)
    yield made
    made.host.stop()


def options(world: World, remote: Remote, *more: str) -> tuple[str, ...]:
    trees = f"-W{world.source}", f"-D{remote.destination}"
    return (*trees, *QUICK, f"--state-dir={states(world)}", "--monitor=inotify", *more)


def mirror(world: World, remote: Remote, *more: str) -> Daemon:
    return world.bare(*options(world, remote, *more), env=remote.environment)


def once(world: World, remote: Remote, *more: str) -> Ended:
    """Run it until nothing is left to do."""
    ended = world.run(*options(world, remote, "--exit-on-no-events", *more), env=remote.environment, timeout=60)
    assert ended.code == 0, ended.err
    return ended


def flush(world: World, remote: Remote, *more: str) -> None:
    """Run it until everything is flushed; the end of a run does not wait for that for long."""
    for _ in range(20):
        once(world, remote, *more)
        if is_complete(world) and not unflushed(world):
            return
    raise AssertionError("nothing is ever flushed")


def give(world: World, daemon: Daemon, name: str) -> None:
    """Have a file handed over, and confirmed."""
    world.write(name).rename(made := world.top / "made")
    os.utime(made, ns=(KEPT_AT, KEPT_AT))
    made.rename(world.source / name)  # nothing happens to it there
    world.wait_for_copy(daemon, name)
    daemon.wait_until(lambda: name.encode() in unflushed(world), what=f"{name} in the state")


@WAYS
def test_what_was_not_flushed_is_handed_over_again_after_a_boot_of_the_host(far: FarWorld, how: str) -> None:
    world, host, split = far.world, far.host, f"--splitting={how}"
    old(world, "d/flushed")
    flush(world, host, split)
    far.fill(True)
    daemon = mirror(world, host, split).start()
    try:
        daemon.wait_for_log(SYNCED)
        give(world, daemon, "d/later")
    finally:
        daemon.kill()
    for name in ("d/flushed", "d/later"):
        tamper(world, name)
    far.calls()
    assert WARM in once(world, host, split).err
    assert {*far.calls()} == {SHELL}
    assert is_tampered(world, "d/later")
    far.boot(1)
    assert "it has booted" in once(world, host, split).err
    assert world.copied("d/later") == "d/later"
    assert is_tampered(world, "d/flushed")
    far.fill(False)
    flush(world, host, split)
    far.calls()
    connections = host.connections
    once(world, host, split)
    assert (far.calls(), host.connections) == ([], connections)


def test_a_boot_while_we_run(far: FarWorld) -> None:
    """It is noticed with the next flush."""
    world = far.world
    far.fill(True)
    with mirror(world, far.host) as daemon:
        daemon.wait_for_log(SYNCED)
        give(world, daemon, "file")
        tamper(world, "file")
        far.boot(1)
        daemon.wait_for_log("it has booted", 90)
        daemon.wait_until(lambda: world.copied("file") == "file", what="the file again")


def forced(world: World) -> SshHost:
    """Return a host that runs rsync and nothing else."""
    gate = '#!/bin/sh\ncase $SSH_ORIGINAL_COMMAND in "rsync --server "*) eval "$SSH_ORIGINAL_COMMAND";; *) exit 1;; esac\n'
    return SshHost(world.top, world.destination, command=os.fspath(world.file("gate", gate, 0o755)))


def serving(world: World) -> RsyncHost:
    """Return a host with an rsync daemon."""
    return RsyncHost(world.top, world.destination)


@pytest.mark.parametrize("make", [forced, serving])
def test_hosts_that_cannot_be_asked(world: World, make: Callable[[World], SshHost | RsyncHost]) -> None:
    """What they were given shortly before is handed over again by a start."""
    host = make(world)
    host.start()
    try:
        with mirror(world, host, "-d1") as daemon:
            daemon.wait_for_log(SYNCED)
            give(world, daemon, "file")
            daemon.wait_for_log("does not say in which boot it is")
            assert daemon.output.count("does not say in which boot it is") == 1
        tamper(world, "file")
        once(world, host)
        assert world.copied("file") == "file"
    finally:
        host.stop()


def test_a_host_that_cannot_be_asked_was_away(world: World) -> None:
    """It may have lost its power."""
    host = serving(world)
    host.start()
    try:
        with mirror(world, host) as daemon:
            daemon.wait_for_log(SYNCED)
            give(world, daemon, "file")
            tamper(world, "file")
            host.stop()
            world.write("other")
            daemon.wait_for_log("may have lost its power")
            host.start()
            daemon.wait_until(lambda: world.copied("file") == "file", 60, what="the file again")
    finally:
        host.stop()
