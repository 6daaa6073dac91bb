"""Destinations on other hosts: `host:path` over a real sshd, `rsync://` to a real rsync daemon."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from clsync.errors import Exit
from tests.support.daemon import Daemon
from tests.support.remotes import Remote, RsyncHost, SshHost, missing
from tests.system.world import QUICK, World

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"not installed: {', '.join(missing())}")

ODD_NAMES = (
    b"new\nline", b"\xff\xfe", b" ", b"-rf", b"#a", b";b", b"st*ar", b"br[ack", b"q?m", b"back\\slash", b"qu'\"o",
    b"$HOME", b"`id`", b"a:b", b"~", b"x" * 255,
)  # fmt: skip
SSH_FAILED = (12, 255)
"""Exit codes of rsync when ssh cannot connect: it depends on what it notices first."""


@pytest.fixture
def ssh_host(world: World) -> Iterator[SshHost]:
    """A host that answers."""
    host = SshHost(world.top, world.destination)
    host.start()
    yield host
    host.stop()


@pytest.fixture(params=[SshHost, RsyncHost])
def remote(request: pytest.FixtureRequest, world: World) -> Iterator[Remote]:
    """A host that answers, of each kind."""
    host = request.param(world.top, world.destination)
    host.start()
    yield host
    host.stop()


def mirror(world: World, remote: Remote, *options: str) -> Daemon:
    """Return the program with a remote destination, not started."""
    said = (f"-W{world.source}", f"-D{remote.destination}", *QUICK, f"--status-file={world.top}/status")
    return world.bare(*said, *options, env=remote.environment)


def plant(top: bytes, names: tuple[bytes, ...]) -> None:
    """Make a file, a linked one and a directory of each name."""
    for name in names:
        os.makedirs(os.path.join(top, b"d", name))
        with open(os.path.join(top, b"d", name, b"file"), "wb") as file:
            file.write(name)
        os.link(os.path.join(top, b"d", name, b"file"), os.path.join(top, name))


def test_live(world: World, remote: Remote) -> None:
    """Everything arrives, before and after the start, with any name; what is deleted is deleted there."""
    top = os.fsencode(world.source)
    half = len(ODD_NAMES) // 2
    plant(top, ODD_NAMES[:half])
    (world.destination / "left over").mkdir()
    with mirror(world, remote) as daemon:
        world.wait_for_equal(daemon)
        plant(os.path.join(top, b"later"), ODD_NAMES[half:])
        for old, new in zip(ODD_NAMES[:half], ODD_NAMES[half:], strict=True):
            os.rename(os.path.join(top, b"d", old), os.path.join(top, b"d", new))
            with open(os.path.join(top, old), "ab") as file:
                file.write(b"more")
        os.symlink(b"d", os.path.join(top, b"symlink"))
        world.wait_for_equal(daemon)
        shutil.rmtree(os.path.join(top, b"d"))
        os.mkdir(os.path.join(top, b"d"), 0o700)
        for name in ODD_NAMES[:half]:
            os.unlink(os.path.join(top, name))
        os.unlink(os.path.join(top, b"symlink"))
        os.mkdir(os.path.join(top, b"symlink"))
        world.wait_for_equal(daemon)
        assert "Error" not in daemon.output, daemon.output


def test_same_size_in_the_same_second(world: World, remote: Remote) -> None:
    """A change that rsync's quick check takes for none, also with the time of before."""
    file = world.write("file", "0")
    with mirror(world, remote) as daemon:
        world.wait_for_equal(daemon)
        before = file.stat()
        file.write_text("1")
        world.wait_for_copy(daemon, "file", "1")
        file.write_text("4")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        world.wait_for_copy(daemon, "file", "4")
        file.write_text("5")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        world.wait_for_copy(daemon, "file", "5")


def test_rules(world: World, remote: Remote) -> None:
    """What is rejected is neither sent nor deleted there."""
    rules = world.file("rules", "-*\\.skip$\n")
    kept = ("own.skip", "d/own.skip", "d.skip/below")
    for name in kept:
        path = world.destination / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("kept")
    for name in ("a", "d/a", "a.skip", "d/b.skip"):
        world.write(name)

    def rejected(path: bytes) -> bool:
        return path.endswith(b".skip")

    with mirror(world, remote, f"-R{rules}") as daemon:
        world.wait_for_equal(daemon, ignore=rejected)
        world.write("new/deep/a")
        world.write("new/deep/b.skip")
        world.write("new.skip/a")
        (world.source / "d/a").unlink()
        world.wait_for_equal(daemon, ignore=rejected)
        shutil.rmtree(world.source / "new")
        world.wait_for_equal(daemon, ignore=rejected)
    assert [world.copied(name) for name in kept] == ["kept"] * 3
    assert {name for name in map(bytes, world.destination.rglob("*.skip")) if name.endswith(b".skip")} == {
        bytes(world.destination / name) for name in ("own.skip", "d/own.skip", "d.skip")
    }


def status(world: World) -> str:
    """Return the word in the status file."""
    return (world.top / "status").read_text()


def test_connection_lost(world: World, remote: Remote) -> None:
    """Nothing is lost, one line a try says what is wrong, and all is done once the host is back."""
    world.write("kept")
    world.write("d/gone")
    with mirror(world, remote) as daemon:
        world.wait_for_equal(daemon)
        remote.stop()
        shutil.rmtree(world.source / "d")
        world.write("new/file")
        world.write("kept", "changed")
        daemon.wait_for_log("nothing is lost, next try in")
        daemon.wait_until(lambda: status(world) == "synchandler error", what="the status")
        world.write("new/another")
        assert world.copied("d/gone") == "d/gone"
        remote.start()
        world.wait_for_equal(daemon)
        daemon.wait_for_log("the target can be used again")
        daemon.wait_until(lambda: status(world) == "running", what="the status")


def test_connection_lost_in_the_middle(world: World, remote: Remote) -> None:
    """What was being sent is sent again, and leaves no litter."""
    arguments = ("--", "%RSYNC-ARGS%", "--bwlimit=2m", "%watch-dir%/", "%destination-dir%/")
    world.write("d/small")
    with mirror(world, remote, *arguments) as daemon:
        world.wait_for_equal(daemon)
        (world.source / "d/big").write_bytes(os.urandom(6 << 20))
        there = world.destination / "d"
        daemon.wait_until(lambda: any(there.glob(".big.*")), what="the beginning of the transfer")
        with daemon.held():  # it is not to be over before the host is away
            remote.stop()
        assert not (there / "big").exists()
        (world.source / "d/small").unlink()
        daemon.wait_for_log("nothing is lost, next try in")
        remote.start()
        world.wait_for_equal(daemon)


def test_host_away_at_the_start(world: World, remote: Remote) -> None:
    world.write("early")
    remote.stop()
    with mirror(world, remote) as daemon:
        daemon.wait_for_log("nothing is lost, next try in")
        world.write("meanwhile")
        remote.start()
        world.wait_for_equal(daemon)


def test_a_run_that_is_meant_to_end_without_the_host(world: World, remote: Remote) -> None:
    """It ends with rsync's exit code, a message and a hint."""
    remote.stop()
    options = (f"-W{world.source}", f"-D{remote.destination}", "--only-initialsync", "--retries=1")
    done = world.run(*options, env=remote.environment)
    assert done.code in (SSH_FAILED if isinstance(remote, SshHost) else (10,)), done.err
    told = [line for line in done.err.splitlines() if line.startswith("Error: ")]
    assert len(told) == 2, done.err  # when it fails, and at the end
    assert all(f"{remote.destination}: " in line and "; see that " in line for line in told)
    assert all("Connection refused" in line for line in told)


def test_destination_that_is_not_there(world: World, remote: Remote) -> None:
    """Neither made nor taken for another."""
    destination = remote.destination.removesuffix("/destination") + "/no/where"
    options = (f"-W{world.source}", f"-D{destination}", "--only-initialsync", "--retries=1")
    done = world.run(*options, env=remote.environment)
    assert done.code not in (0, 1), done.err
    assert "No such file or directory" in done.err
    assert not (world.top / "no").exists()


def test_closed_module(world: World) -> None:
    host = RsyncHost(world.top, world.destination)
    host.start()
    try:
        closed = host.destination.replace("/data/", "/closed/")
        done = world.run(f"-W{world.source}", f"-D{closed}", "--only-initialsync", "--retries=1")
        assert done.code == 1, done.err  # rsync's own
        assert "ERROR: module is read only" in done.err
    finally:
        host.stop()


# -- ssh -------------------------------------------------------------------------------------------------------


def test_one_connection_is_kept(world: World, ssh_host: SshHost) -> None:
    """For all runs; its socket is for nobody else, and both are gone afterwards."""
    with mirror(world, ssh_host) as daemon:
        for name in ("one", "two", "three"):
            world.write(name)
            world.wait_for_equal(daemon)
        (connection,) = ssh_host.control_paths
        assert ssh_host.keeps(connection)
        assert stat.S_IMODE(connection.parent.stat().st_mode) == 0o700
        daemon.stop()
        assert not ssh_host.keeps(connection)
        assert not connection.parent.exists()
    assert ssh_host.connections == 1


def test_destinations_at_one_host_share_a_connection(world: World, ssh_host: SshHost) -> None:
    """Also where they are synced side by side; where the connection is lost, another one is made."""
    other = world.top / "other"
    other.mkdir()
    with mirror(world, ssh_host, f"-Dthere:{other}") as daemon:
        for number in range(2):
            world.write(f"{number}")
            world.wait_for_equal(daemon)
            daemon.wait_for_equal(bytes(world.source), bytes(other))
        assert ssh_host.connections == 1
        (connection,) = ssh_host.control_paths
        ssh_host.stop()
        daemon.wait_until(lambda: not os.listdir(connection.parent), what="the end of the connection")
        ssh_host.start()
        world.write("later")
        world.wait_for_equal(daemon)
        daemon.wait_for_equal(bytes(world.source), bytes(other))
        assert ssh_host.connections == 2
        daemon.stop()
        assert not ssh_host.keeps(connection)
        assert not connection.parent.exists()


def test_connections_that_the_user_shares_already(world: World, ssh_host: SshHost) -> None:
    """The configuration of ssh counts, and its connection stays."""
    with TemporaryDirectory(dir="/tmp") as place:
        own = Path(place) / "own"  # a short path: see unix(7)
        with ssh_host.config.open("a") as config:
            config.write(f"ControlMaster auto\nControlPath {own}\nControlPersist 60\n")
        with mirror(world, ssh_host) as daemon:
            for name in ("one", "two"):
                world.write(name)
                world.wait_for_equal(daemon)
        assert ssh_host.keeps(own)
        assert (ssh_host.connections, ssh_host.control_paths) == (1, set())


@pytest.mark.parametrize("how", ["RSYNC_RSH", "-e"])
def test_a_shell_of_the_operators_own(world: World, ssh_host: SshHost, how: str) -> None:
    """It is used as it is; -D may be missing where the arguments name the destination."""
    shell = f"ssh -F {ssh_host.config}"
    own = ["-e", shell] if how == "-e" else []
    environment = {how: shell} if not own else {}
    world.write("d/file")
    arguments = ("--", "%RSYNC-ARGS%", *own, f"{world.source}/", f"{ssh_host.destination}/")
    with world.bare(f"-W{world.source}", *QUICK, *arguments, env=environment) as daemon:
        world.wait_for_equal(daemon)
        world.write("later")
        world.wait_for_equal(daemon)
    assert ssh_host.connections > 2


def test_mode_of_remote_destinations(world: World, ssh_host: SshHost) -> None:
    """rsync, without being asked; without a password, nobody is asked for one."""
    done = world.run(f"-W{world.source}", f"-D{ssh_host.destination}", "--only-initialsync", env=ssh_host.environment)
    assert done.code == Exit.OK, done.err
    assert "Info: mode rsyncdirect: " in done.err
    (world.top / "ssh/user").unlink()
    world.write("later")  # where nothing differs, nobody is asked
    options = (f"-W{world.source}", f"-D{ssh_host.destination}", "--only-initialsync", "--retries=1")
    done = world.run(*options, env=ssh_host.environment)
    assert done.code in SSH_FAILED
    assert "Permission denied (publickey" in done.err
