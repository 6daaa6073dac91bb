"""Who clsync and its programs are, and what is out of their reach: looked at from outside, and tried from inside."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from clsync.core.paths import shown
from clsync.errors import Exit
from clsync.kernel.cgroups import hierarchies
from clsync.kernel.credentials import mask
from tests.support.daemon import Daemon, installed
from tests.support.modules import compiled
from tests.support.rights import NOBODY
from tests.system.test_course import until
from tests.system.test_identity import MODULE, Look, demand_same
from tests.system.world import MODES, QUICK, ROOT, SYNCED, World, mounted

pytestmark = [ROOT, pytest.mark.root]

FOUR = mask(("CAP_DAC_READ_SEARCH", "CAP_SETUID", "CAP_SETGID", "CAP_KILL"))
MARKS = mask(("CAP_SYS_ADMIN",))
IDS = ("Uid", "Gid", "Groups")
MOUNTS = Path("/proc/self/mountinfo")
BACKUP = 34
"""A user of every Debian; nothing here belongs to it."""


def mounts_that_stay(listing: Path, top: Path) -> list[str]:
    """Return the lines of a list of mounts but for what others have mounted for a while; `top`: what is ours."""
    lines, scratch = listing.read_text().splitlines(), (f"{tempfile.gettempdir()}/", "/var/tmp/", "/dev/shm/")
    places = [(line, line.split()[4]) for line in lines]
    return [line for line, place in places if place.startswith(str(top)) or not place.startswith(scratch)]


def status(pid: int, thread: int | None = None) -> dict[str, str]:
    """Return the fields of proc_pid_status(5)."""
    lines = Path(f"/proc/{pid}/task/{thread or pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def threads(pid: int) -> list[dict[str, str]]:
    """Return the status of every thread that does not end meanwhile."""
    found = []
    for name in os.listdir(f"/proc/{pid}/task"):
        with suppress(FileNotFoundError, ProcessLookupError):
            found.append(status(pid, int(name)))
    return found


def capabilities(fields: dict[str, str]) -> tuple[int, int]:
    """Return the permitted and the effective set."""
    return int(fields["CapPrm"], 16), int(fields["CapEff"], 16)


def namespace(pid: int | str, kind: str) -> str:
    """Return the identity of a namespace."""
    return os.readlink(f"/proc/{pid}/ns/{kind}")


@pytest.fixture
def open_world() -> Iterator[World]:
    """A world in a place that everybody can come to."""
    with tempfile.TemporaryDirectory(prefix="clsync-open-") as name:
        os.chmod(name, 0o755)
        yield World(Path(name))


@pytest.mark.parametrize("source", ["plain", "new\nline", "as escaped \\#101", 'quo"te'])
@pytest.mark.parametrize("name", ["closed", 'x"/proc/self/fd/9y', 'change_dir "/proc/self/fd/7" failed'])
def test_what_cannot_be_read_is_told_apart(open_world: World, source: str, name: str) -> None:
    """However it is called, and the directory above it: rsync goes there by a name that is neither."""
    world = open_world
    world.source = world.top / source
    world.source.mkdir()
    os.chown(world.destination, NOBODY, NOBODY)
    world.write("open")
    world.write(name).chmod(0o600)
    done = world.run(*world.trees, "-Mrsyncdirect", "--sync-handler-uid=nobody", "--only-initialsync", "--retries=1")
    assert done.code == 23, done.err
    assert f"not synced: {shown(os.fsencode(name))}: [sender] send_files failed to open" in done.err
    assert "Permission denied" in done.err
    assert world.copied("open") == "open"


# -- users and capabilities ------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [("-unobody",), ("-unobody", "-Mcopy"), ("--compat=0.4", *QUICK)], ids=str)
def test_another_user_mirrors_all_the_same(world: World, options: tuple[str, ...]) -> None:
    """No thread keeps more than is said; its files are there, are its own, and go; root's files are copied as root's."""
    closed = world.top / "closed"
    closed.mkdir(0o700)
    files = [closed / name for name in ("pid", "status", "socket")]
    said = [f"--{name}-file={closed / name}" for name in ("pid", "status")]
    world.write("secret").chmod(0o600)
    os.chown(world.write("others"), 1234, 5678)
    with world.daemon(*options, *said, f"-s{closed / 'socket'}", "-p", "safe") as daemon:
        daemon.wait_for_log(SYNCED)
        world.write("later/file")
        world.wait_for_copy(daemon, "later/file")
        daemon.wait_until(lambda: files[1].read_text() == "running", what="the phase")
        assert len(threads(daemon.pid)) > 1
        kept = FOUR | (MARKS if "-unobody" in options else 0)

        def gave_up(fields: dict[str, str]) -> bool:
            ids = fields["Uid"].split() == fields["Gid"].split() == [str(NOBODY)] * 4
            given_on = int(fields["CapInh"], 16) | int(fields["CapAmb"], 16)
            return ids and fields["Groups"] == str(NOBODY) and capabilities(fields) == (kept, kept) and not given_on

        # One that starts a program is root for this moment, and ends then.
        daemon.wait_until(lambda: all(map(gave_up, threads(daemon.pid))), what="threads that keep no more")
        assert files[0].read_text() == str(daemon.pid)
        assert {file.stat().st_uid for file in files[:2]} == {NOBODY}
        (world.source / "later/file").unlink()
        daemon.wait_until(lambda: world.copied("later/file") is None, what="the deletion")
        if "--compat=0.4" not in options:  # there rsync compares times by the second
            world.wait_for_equal(daemon)
    for name, owner in (("secret", 0), ("others", 1234)):
        assert (world.destination / name).stat().st_uid == owner
    assert list(closed.iterdir()) == []


@pytest.mark.parametrize("mode", MODES)
def test_rules_and_links_as_another_user(world: World, mode: str) -> None:
    """What is deleted at the destination, and what hangs together, is seen to by who may."""
    rules = world.file("rules", "-f~$\n")
    for name in ("gone/a", "gone/b~", "kept"):
        world.write(name)
    with world.daemon("-unobody", f"-M{mode}", f"-R{rules}") as daemon:
        daemon.wait_for_log(SYNCED)
        (world.destination / "gone/mine~").write_text("protected")
        os.chown(world.destination / "gone", 1234, 1234)
        os.link(world.source / "kept", world.source / "linked")
        shutil.rmtree(world.source / "gone")
        daemon.wait_until(lambda: world.copied("gone/a") is None, what="the deletion")
        daemon.wait_until(lambda: (world.destination / "linked").exists(), what="the link")
        links = [world.destination / name for name in ("linked", "kept")]
        daemon.wait_until(lambda: links[0].samefile(links[1]), what="one file with two names")
        assert world.copied("gone/mine~") == "protected"
        output = daemon.output
        assert output.replace("Info: ", "").count("\n") == output.count("Info: "), output


@pytest.mark.parametrize("mode", ["direct", "shell", "so"])
def test_handlers_and_hooks_stay_what_the_starter_is(world: World, mode: str) -> None:
    """Whoever clsync itself has become."""
    handler, pre, last, starter = (Look(world, name) for name in ("handler", "pre-exit", "exit", "starter"))
    world.environment |= {"PROGRAM": str(handler.program)}
    named = compiled(world.top, MODULE) if mode == "so" else handler.program
    hooks = (f"--pre-exit-hook={pre.program}", f"--exit-hook={last.program}")
    target = [f"-D{world.destination}"] if mode == "direct" else []
    world.write("file")
    options = (f"-W{world.source}", *target, f"-M{mode}", f"-S{named}", "--exit-on-no-events", *hooks, *QUICK)
    with world.bare(*options, "-unobody") as daemon:
        daemon.wait()
        env = daemon.environment
        subprocess.run([starter.program], env=env, check=True, stdin=subprocess.DEVNULL, start_new_session=True)
    for look, word in ((handler, "initsync"), (pre, "preexit"), (last, "exiting")):
        demand_same(look, starter, world, {"CLSYNC_STATUS": word})


def test_handlers_of_another_user(open_world: World) -> None:
    """They have its ids, all of them, its groups and no others, and no capabilities."""
    world = open_world
    look = Look(world, "handler")
    os.chown(world.top, BACKUP, BACKUP)
    world.write("file")
    options = ("-Mdirect", f"-S{look.program}", "--sync-handler-uid=backup", "--only-initialsync")
    head = ["setpriv", "--groups=7,8", "--"]
    assert world.run(*world.trees, *options, head=head).code == 0
    assert look.status["Uid"].split() == look.status["Gid"].split() == [str(BACKUP)] * 4
    assert look.status["Groups"] == str(BACKUP)
    assert capabilities(look.status) == (0, 0)
    assert look.read("directory") == f"{world.source}\n"


def test_modules_of_another_user(open_world: World) -> None:
    """The process of a module has the same ids as a program has."""
    world = open_world
    os.chown(world.top, BACKUP, BACKUP)
    look = Look(world, "handler")
    world.environment["PROGRAM"] = str(look.program)
    module = compiled(world.top, MODULE)
    world.write("file")
    # With what it inherits it can read Python, wherever that is.
    who = ("-unobody", "--sync-handler-uid=backup", "--inherit-capabilities=clsync")
    done = world.run(f"-W{world.source}", "-Mso", f"-S{module}", *who, "--only-initialsync", "--retries=1")
    assert done.code == 0, done.err
    assert look.status["Uid"].split() == look.status["Gid"].split() == [str(BACKUP)] * 4
    assert look.status["Groups"] == str(BACKUP)


def test_handlers_are_given_capabilities(open_world: World) -> None:
    """A user who owns nothing reads what root alone may read."""
    world = open_world
    world.write("secret").chmod(0o600)
    os.chown(world.destination, BACKUP, BACKUP)
    options = ("-unobody", "-Mrsyncdirect", "--sync-handler-uid=backup", "--only-initialsync", "--retries=1")
    refused = world.run(*world.trees, *options)
    assert refused.code != 0
    assert "secret" in refused.err
    done = world.run(*world.trees, *options, "--inherit-capabilities=clsync")
    assert done.code == 0, done.err
    assert world.copied("secret") == "secret"
    assert (world.destination / "secret").stat().st_uid == BACKUP


def test_just_the_capabilities_that_are_named(world: World) -> None:
    """For clsync, and at most for its programs; without the right to marks it takes inotify."""
    os.chown(world.destination, NOBODY, NOBODY)
    world.write("file")
    for path in (world.top, *world.top.parents[:2]):
        path.chmod(0o755)
    reading = mask(("CAP_DAC_READ_SEARCH",))
    with world.daemon("-unobody", "-CCAP_DAC_READ_SEARCH", "-Mcopy") as daemon:
        daemon.wait_for_log(SYNCED)
        world.write("later")
        world.wait_for_copy(daemon, "later")
        assert f"watching {world.source}: inotify" in daemon.output
        # What is as it is for a moment only is one that starts a program.
        daemon.wait_until(
            lambda: all(
                (*capabilities(fields), int(fields["CapBnd"], 16)) == (reading, reading, reading)
                for fields in threads(daemon.pid)
            ),
            what="threads that keep no more",
        )
    assert (world.destination / "later").stat().st_uid == NOBODY


def test_capabilities_alone(world: World) -> None:
    """Root that keeps four of them is root for files of its own, and its handlers have all."""
    look = Look(world, "handler")
    world.write("file")
    options = ("-Mdirect", f"-S{look.program}", "-C", "CAP_KILL", "--exit-on-no-events")
    with world.daemon(*options) as daemon:
        daemon.wait()
    everything = status(os.getpid())["CapPrm"]
    assert look.status["CapEff"] == look.status["CapPrm"] == everything


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--uid=",), "--uid: no name and no number"),
        (("-unoone",), "--uid noone: there is no such user"),
        (("-gnogroups",), "--gid nogroups: there is no such group"),
        (("--sync-handler-uid=noone",), "--sync-handler-uid noone: there is no such user"),
        (("-C", "FOO"), "-C: 'CAP_FOO' is no capability"),
        (("--inherit-capabilities=all",), "--inherit-capabilities: 'all' is not known here"),
    ],
)
def test_values_that_mean_nothing(world: World, options: tuple[str, ...], message: str) -> None:
    assert world.run(*world.trees, *options).complaint(Exit.USAGE)[0].startswith(message)


def test_a_destination_that_the_new_user_may_not_write(world: World) -> None:
    for path in (world.top, *world.top.parents[:2]):
        path.chmod(0o755)
    message, _ = world.run(*world.trees, "-unobody", "-C", "", "-Mcopy").complaint(Exit.DESTINATION)
    assert message == f"destination {world.destination} cannot be written: Permission denied"


def test_a_source_that_the_new_user_may_not_read(world: World) -> None:
    """Though who starts clsync may."""
    for path in (world.top, *world.top.parents[:2]):
        path.chmod(0o755)
    world.source.chmod(0o700)
    os.chown(world.destination, NOBODY, NOBODY)
    message, hint = world.run(*world.trees, "-v1", "-unobody", "-C", "").complaint(Exit.SOURCE)
    assert message == f"--watch-dir {world.source}: Permission denied"
    assert "a user who may read it" in hint


def test_handlers_are_ended_that_belong_to_others(world: World) -> None:
    """By TERM, and by the time limit, with what they have started."""
    started = world.top / "started"
    handler = world.file("handler", f"#!/bin/sh\nsleep 1000 &\ntouch {started}\nwait\n", 0o755)
    world.write("file")
    with world.daemon(
        "-unobody", "-CCAP_SETUID,CAP_SETGID,CAP_DAC_READ_SEARCH", "-Mdirect", f"-S{handler}"
    ) as daemon:
        daemon.wait_until(started.exists, what="the handler")
        daemon.stop()
    with world.daemon("-unobody", "-Mdirect", f"-S{handler}", "-k0.2", "--retries=1") as daemon:
        assert daemon.wait(code=None) != 0


# -- namespaces ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "detached"),
    [
        ((), ()),
        (("--compat=0.4",), ()),
        (("--detach-ipc=1",), ("ipc",)),
        (("--detach-ipc=0",), ()),
        (("--detach-miscellanea",), ("ipc", "uts")),
        (("--detach-network=everywhere",), ("net",)),
    ],
    ids=str,
)
def test_namespaces(world: World, options: tuple[str, ...], detached: tuple[str, ...]) -> None:
    """Those that were asked for are others, for clsync and its handlers alike; all else is as outside."""
    handler = world.file(
        "handler", f"#!/bin/sh\nfor n in ipc uts net mnt; do readlink /proc/self/ns/$n; done >{world.top}/ns\n", 0o755
    )
    world.write("file")
    with world.daemon("-Mdirect", f"-S{handler}", *options) as daemon:
        daemon.wait_for_log(SYNCED)
        kinds = ("ipc", "uts", "net", "mnt")
        mine = [namespace("self", kind) for kind in kinds]
        theirs = [namespace(daemon.pid, kind) for kind in kinds]
        assert [kind for kind, a, b in zip(kinds, mine, theirs, strict=True) if a != b] == list(detached)
        assert (world.top / "ns").read_text().split() == theirs


def test_no_network(world: World) -> None:
    """A handler reaches nobody, and a remote destination is told of."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        handler = world.file("handler", f"#!/bin/bash\nexec 3<>/dev/tcp/127.0.0.1/{port}\n", 0o755)
        world.write("file")
        options = ("-Mdirect", f"-S{handler}", "--only-initialsync", "--retries=1")
        assert world.run(*world.trees, *options).code == 0
        done = world.run(*world.trees, *options, "--detach-network=everywhere")
        assert done.code != 0
        assert "Network is unreachable" in done.err


# -- another root ----------------------------------------------------------------------------------------------


def with_programs(top: Path, mounts: ExitStack) -> None:
    """Let the programs of this system be seen below a directory."""
    for name in ("usr", "bin", "lib", "lib64"):
        here, there = Path("/", name), top / name
        if not here.is_symlink():
            mounts.enter_context(mounted("bind", there, device=str(here)))
        elif not there.is_symlink():
            there.symlink_to(os.readlink(here))


@pytest.fixture
def small_root(open_world: World) -> Iterator[World]:
    """A world that is a root directory, with programs in it, but no Python; `proc` and `dev` are empty."""
    world = open_world
    with ExitStack() as mounts:
        with_programs(world.top, mounts)
        for name in ("proc", "dev", "tmp", "etc"):
            (world.top / name).mkdir()
        yield world


INSIDE = ("-W/source", "-D/destination")


def inside(world: World, *options: str, env: dict[str, str] | None = None) -> Daemon:
    """Return the program with the world as its root, not started."""
    return world.bare(*INSIDE, f"--chroot={world.top}", *options, *QUICK, env=env)


@pytest.mark.parametrize("user", ["-uroot", "-unobody"])
@pytest.mark.parametrize("monitor", ["fanotify", "inotify"])
def test_a_mirror_in_a_root_of_its_own(small_root: World, user: str, monitor: str) -> None:
    """No path leads out, nothing is seen outside, nothing is left behind; hard links are found without Python there."""
    world = small_root
    before = mounts_that_stay(MOUNTS, world.top)
    world.write("a/file")
    world.write("first")
    os.link(world.source / "first", world.source / "a/second")
    files = ("--pid-file=/pid", "--status-file=/status", "-s/socket")
    with inside(world, "--pivot-root=auto", user, f"--monitor={monitor}", *files) as daemon:
        daemon.wait_for_log(SYNCED)
        os.link(world.source / "first", world.source / "third")
        (world.source / "a").rename(world.source / "b")
        world.wait_for_equal(daemon)
        assert mounts_that_stay(MOUNTS, world.top) == before
        assert os.readlink(f"/proc/{daemon.pid}/root") == "/"
        points = [line.split()[4] for line in Path(f"/proc/{daemon.pid}/mountinfo").read_text().splitlines()]
        assert "/source" not in points
        assert set(points) <= {"/", "/usr", "/bin", "/lib", "/lib64", "/dev", *points_below(points, "/proc", "/dev")}
        assert (world.top / "pid").read_text() == str(daemon.pid)
        os.kill(daemon.pid, signal.SIGIO)
        daemon.wait_for_log("the state is written to /tmp/clsync-dump-nolabel")
        assert (world.top / "tmp/clsync-dump-nolabel").is_dir()
        for descriptor in Path(f"/proc/{daemon.pid}/fd").iterdir():
            demand_no_way_out(descriptor)
    shutil.rmtree(world.top / "tmp/clsync-dump-nolabel")
    programs = {"usr", "bin", "lib", "lib64"}
    assert {p.name for p in world.top.iterdir()} - programs == {"destination", "dev", "etc", "proc", "source", "tmp"}
    for empty in ("proc", "dev", "tmp"):
        assert list((world.top / empty).iterdir()) == []


def points_below(points: list[str], *tops: str) -> list[str]:
    """Return the mount points at and below some directories."""
    return [point for point in points if any(point == top or point.startswith(top + "/") for top in tops)]


def demand_no_way_out(descriptor: Path) -> None:
    """Fail where an open directory leads to the root of the host."""
    try:
        if not descriptor.is_dir():
            return
        host = os.stat("/")
        above = os.stat(f"{descriptor}/../../../../../../..")
    except OSError:
        return
    assert (above.st_dev, above.st_ino) != (host.st_dev, host.st_ino), os.readlink(descriptor)


@pytest.mark.parametrize("mode", ["copy", "rsyncdirect", "python"])
def test_what_needs_python_in_the_new_root(small_root: World, mode: str) -> None:
    """The copier does without it; what cannot is refused, and says what it lacks."""
    world = small_root
    world.write("file")
    world.file("rules", "-f~$\n")
    options = (f"--chroot={world.top}", "--pivot-root=auto", "--only-initialsync", f"-M{mode}", "-R/rules")
    if mode == "python":
        done = world.run("-W/source", *options, "-Sos:getpid")
    else:
        done = world.run(*INSIDE, *options)
        assert done.code == 0, done.err
        world.demand_equal()
        done = world.run(*INSIDE, *options, "-unobody")
    message, _ = done.complaint(Exit.PRIVILEGE)
    assert message.startswith(f"mode {mode} needs Python in the new root: /")


def test_settings_are_known_in_the_new_root(small_root: World) -> None:
    """A signal lays a block over them, though the file is out of reach."""
    world = small_root
    config = world.file("conf", "[default]\ncustom-signals = 40:other\n[other]\nlabel = other\n")
    hidden = world.top.with_name(f"{world.top.name}.conf")
    config.rename(hidden)
    try:
        with inside(world, f"-H{hidden}", "--pivot-root=auto") as daemon:
            daemon.wait_for_log(SYNCED)
            os.kill(daemon.pid, 40)
            daemon.wait_for_log("signal 40, block [other]: in force")
            world.write("file")
            world.wait_for_copy(daemon, "file")
    finally:
        hidden.unlink()


def test_a_root_that_is_read_only(small_root: World) -> None:
    """With all that is mounted in it; what is written to /tmp is seen by nobody else."""
    world = small_root
    attempts = "for p in /x /source/x /mem/x /dev/x /tmp/x; do (: >$p) && echo wrote $p; done; umount /mem"
    handler = world.file("handler", f"#!/bin/sh\n{attempts}\nexit 0\n", 0o755)
    world.write("file")
    with mounted("tmpfs", world.top / "mem"):
        options = (
            "-Mdirect",
            "-S/handler",
            "--pivot-root=auto-ro",
            "--only-initialsync",
            "--sync-handler-uid=nobody",
        )
        with inside(world, *options) as daemon:
            daemon.wait()
            assert re.findall("wrote (.*)", daemon.output) == ["/tmp/x"]
        assert list((world.top / "mem").iterdir()) == []
    assert handler.exists()
    assert not (world.top / "tmp/x").exists()
    message, _ = world.run(*INSIDE, f"--chroot={world.top}", "--pivot-root=auto-ro").complaint(Exit.DESTINATION)
    assert message == "destination /destination cannot be written: Read-only file system"


def test_the_root_there_is_made_read_only() -> None:
    """Without another one: a handler can write nowhere, and reads what it always did."""
    with tempfile.TemporaryDirectory(prefix="clsync-ro-", dir="/var/tmp") as name:
        above = World(Path(name))
        above.write("file", "what is read\n")
        handler = above.file("handler", f"#!/bin/sh\n(: >{name}/x) && echo wrote\ncat {name}/source/file\n", 0o755)
        options = ("-Wsource", "-Ddestination", "-Mdirect", f"-S{handler}", "--chroot=/", "--pivot-root=auto-ro")
        done = above.run(*options, "--only-initialsync")
        assert (done.code, done.out) == (0, "what is read\n"), done.err
        assert "Read-only file system" in done.err


def test_handlers_cannot_leave(small_root: World) -> None:
    """By no path, as long as they are not root."""
    world = small_root
    secret = world.top.with_name(f"{world.top.name}.secret")
    secret.write_text("outside")
    paths = [str(secret), f"/proc/1/root{secret}", f"/../..{secret}", f"/proc/$PPID/root/../../..{secret}"]
    tries = "\n".join(f'cat "{path}" && echo out by "{path}"' for path in paths)
    world.file("handler", f"#!/bin/sh\n{tries}\nexit 0\n", 0o755)
    world.write("file")
    try:
        options = ("-Mdirect", "-S/handler", "--pivot-root=auto", "--only-initialsync", "-unobody")
        with inside(world, *options, "--sync-handler-uid=backup") as daemon:
            daemon.wait()
            assert "out by" not in daemon.output, daemon.output
            assert daemon.output.count("cat: ") == len(paths)
    finally:
        secret.unlink()


def test_a_plain_change_of_root(small_root: World) -> None:
    """Also with a mount point for a root; relative paths mean what they mean outside."""
    world = small_root
    world.write("file")
    os.mknod(world.top / "dev/null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    (world.top / "dev/null").chmod(0o666)
    options = ("-Wsource", "-Ddestination", f"--chroot={world.top}", "--only-initialsync", "-unobody")
    for how in ((), ("--pivot-root=direct",)):
        with ExitStack() as mounts:
            if how:
                mounts.enter_context(mounted("bind", world.top, device=str(world.top)))
                with_programs(world.top, mounts)
            mounts.enter_context(mounted("proc", world.top / "proc"))
            done = world.run(*options, *how)
        assert done.code == 0, done.err
        assert world.copied("file") == "file"
        (world.destination / "file").unlink()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--pivot-root=auto", "-W/nowhere"), Exit.SOURCE, "--watch-dir /nowhere: No such file or directory"),
        (("--pivot-root=auto", "-D/nowhere"), Exit.DESTINATION, "--destination-dir /nowhere: No such file or directory"),
        (("--pivot-root=auto", "-R/rules"), Exit.USAGE, "--rules-file /rules: No such file or directory"),
        (("--pivot-root=auto", "--chroot=/nowhere"), Exit.PRIVILEGE, "--chroot /nowhere: No such file or directory"),
        (("--pivot-root=direct",), Exit.PRIVILEGE, "--pivot-root=direct: TOP is no mount point"),
        ((), Exit.PRIVILEGE, "--chroot TOP: there is no /proc with processes in it"),
    ],
    ids=str,
)  # fmt: skip
def test_what_a_new_root_lacks(small_root: World, options: tuple[str, ...], code: int, message: str) -> None:
    """Nothing is synced, and it is said."""
    done = small_root.run(*INSIDE, f"--chroot={small_root.top}", *options)
    assert done.complaint(code)[0] == message.replace("TOP", str(small_root.top))


# -- mounts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--mountpoints={top}/kept", "--chroot={top}/new --pivot-root=auto"])
def test_mounts_of_the_system_stay(world: World, option: str) -> None:
    """Where mounts are shared with everybody else, as systemd does it; the handler sees what was asked for."""
    for name in ("new/proc", "new/dev", "new/source", "kept", "lost"):
        (world.top / name).mkdir(parents=True)
    world.write("file")
    clsync = shlex.join([installed(), "--only-initialsync", "-Mdirect", "--retries=1"])
    options = option.format(top=world.top)
    trees = (
        "-W/source -Scat" if "chroot" in option else f"-W{world.source} -S{world.file('handler', LIST_MOUNTS, 0o755)}"
    )
    script = f"""
        mount --make-rshared /
        mount -t tmpfs kept {world.top}/kept
        mount -t tmpfs lost {world.top}/lost
        cat /proc/self/mountinfo >{world.top}/before
        {clsync} {options} {trees} -- x >{world.top}/out 2>&1
        cat /proc/self/mountinfo >{world.top}/after
    """
    subprocess.run(
        ["unshare", "--mount", "--propagation=private", "sh", "-ec", script.replace("2>&1\n", "2>&1 || true\n")],
        check=True,
    )
    out = (world.top / "out").read_text()
    before, after = (mounts_that_stay(world.top / name, world.top) for name in ("before", "after"))
    assert any("shared:" in line for line in before)
    assert before == after, out
    if "chroot" not in option:
        seen = set(re.findall("sees (.*)", out))
        assert f"{world.top}/kept" in seen, out
        assert f"{world.top}/lost" not in seen
        above = {"/", "/proc", "/dev", *(str(parent) for parent in world.top.parents)}
        assert seen <= above | {f"{world.top}/kept"}


LIST_MOUNTS = "#!/bin/sh\nwhile read -r a b c d point rest; do echo sees $point; done </proc/self/mountinfo\n"


def test_mount_points_that_are_none(world: World) -> None:
    message, _ = world.run(*world.trees, f"--mountpoints=/proc,{world.source}").complaint(Exit.USAGE)
    assert message == f"--mountpoints {world.source}: nothing is mounted there"


# -- devices ---------------------------------------------------------------------------------------------------

DEVICES = """#!/bin/sh
for d in null zero full urandom random; do head -c0 /dev/$d && echo reads $d; done
echo x >/dev/null && echo writes null
(: >/dev/kmsg) && echo writes kmsg
head -c0 /dev/kmsg && echo reads kmsg
mknod {top}/made c 1 3 && echo made a device
cat /proc/self/cgroup
exit 0
"""


def groups(pid: int | str) -> set[str]:
    """Return the groups of a process, of those hierarchies that can limit devices."""
    lines = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    return {path for _, controllers, path in lines if controllers in ("", "devices")}


def left(name: str) -> list[str]:
    """Return the groups of this name that there are."""
    found = subprocess.run(
        ["find", "/sys/fs/cgroup", "-type", "d", "-name", name], capture_output=True, text=True, check=False
    )
    return found.stdout.split()


NEEDS_GROUPS = pytest.mark.skipif(not hierarchies(), reason="needs groups of processes")


@NEEDS_GROUPS
@pytest.mark.parametrize("options", [(), ("-unobody",), ("-b",)], ids=str)
def test_few_devices(world: World, options: tuple[str, ...]) -> None:
    """For clsync and its handlers; the group is theirs alone and gone at the end."""
    handler = world.file("handler", DEVICES.format(top=world.top), 0o755)
    world.write("file")
    name = f"clsync-test-{os.getpid()}"
    pid_file = world.top / "pid"
    said = (
        "-Mdirect",
        f"-S{handler}",
        "--forbid-devices",
        f"--cgroup-group-name={name}/%PID%",
        f"--pid-file={pid_file}",
    )
    with world.daemon(*said, *options) as daemon:
        if "-b" in options:
            until(lambda: not daemon.running, daemon)
            pid = int(pid_file.read_text())
            until(lambda: SYNCED in daemon.output, daemon)
        else:
            daemon.wait_for_log(SYNCED)
            pid = daemon.pid
        allowed = re.findall(r"^(?:reads|writes|made) .*", daemon.output, re.M)
        assert sorted(allowed) == [
            *(f"reads {name}" for name in sorted("null zero full urandom random".split())),
            "writes null",
        ]
        (group,) = groups(pid) - groups("self")
        assert re.search(rf"/{name}/\d+$", group)
        assert f":{group}\n" in daemon.output, "the handler is in it, too"
        assert left(name)
        if "-b" in options:
            os.kill(pid, signal.SIGTERM)
        else:
            daemon.stop()
        until(lambda: left(name) == [], daemon)


@NEEDS_GROUPS
def test_a_group_that_is_there(world: World) -> None:
    """It is taken over from a daemon that was killed, but not from one that runs; a killed one has its group removed."""
    name = f"clsync-test-{os.getpid()}"
    options = ("-Mcopy", "--forbid-devices", f"--cgroup-group-name={name}")
    Path(os.fsdecode(hierarchies()[0].here), name).mkdir()
    with world.daemon(*options) as daemon:
        daemon.wait_for_log(SYNCED)
        message, _ = world.run(*world.trees, *options).complaint(Exit.PRIVILEGE)
        assert message == f"--cgroup-group-name {name}: this group is there already"
        os.kill(daemon.pid, signal.SIGKILL)
        until(lambda: left(name) == [], daemon)


# -- users who have no rights ----------------------------------------------------------------------------------

AS_NOBODY = [
    *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
    *("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search", "--"),
]
"""Runs what follows as a user who has no rights, but may read the program wherever it is installed."""


@pytest.mark.parametrize(
    "option",
    [
        "--uid=root", "--gid=backup", "--sync-handler-uid=backup", "--preserve-capabilities=CAP_KILL", "--detach-ipc=1",
        "--detach-miscellanea", "--detach-network=everywhere", "--mountpoints=/proc", "--chroot=/", "--forbid-devices",
    ],
)  # fmt: skip
def test_what_needs_root_is_said(world: World, option: str) -> None:
    """A demand that cannot be had ends the start, with the option's name."""
    for path in (world.top, *world.top.parents[:2]):
        path.chmod(0o755)
    os.chown(world.destination, NOBODY, NOBODY)

    message, hint = world.run(*world.trees, option, head=AS_NOBODY).complaint(Exit.PRIVILEGE)
    assert message.startswith(option.partition("=")[0])
    if option.startswith(("--uid", "--gid", "--detach-network")):
        assert option.partition("=")[2] in message
    assert "root" in hint


@pytest.mark.parametrize(
    ("option", "value", "hint"), [("nice", "-5", "CAP_SYS_NICE"), ("io-class", "realtime", "best-effort or idle")]
)
def test_priorities_that_a_user_may_not_give(world: World, option: str, value: str, hint: str) -> None:
    """The value is named, and told by --dry-run as well."""
    for path in (world.top, *world.top.parents[:2]):
        path.chmod(0o755)
    os.chown(world.destination, NOBODY, NOBODY)
    for more in ((), ("--dry-run",)):
        done = world.run(*world.trees, f"--{option}={value}", *more, head=AS_NOBODY)
        message, told = done.err.splitlines()[-2:]
        assert (done.code, message.startswith(f"clsync: --{option}={value}: ")) == (Exit.USAGE, True)
        assert hint in told


def test_an_identity_that_cannot_be_had_names_its_value(world: World) -> None:
    """Where it is the kernel that refuses: a namespace of users in which there is no other user."""
    head = ["unshare", "--user", "--map-root-user", "--"]
    if subprocess.run([*head, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no namespaces of users here")
    done = world.run(*world.trees, "--uid=1234", "--monitor=inotify", "-Mcopy", head=head)
    assert (done.code, "Traceback" in done.err) == (Exit.PRIVILEGE, False)
    assert done.err.splitlines()[-2].startswith("clsync: --uid=1234: cannot be user 1234, "), done.err


def test_what_a_user_is_anyway_needs_no_root(world: World) -> None:
    """Old defaults that cannot be had are no matter either."""
    for path in (world.top, *world.top.parents[:2]):
        path.chmod(0o755)
    for path in (world.source, world.destination):
        os.chown(path, NOBODY, NOBODY)

    world.write("file")
    for options in (("-unobody", "-gnogroup", "--sync-handler-uid=nobody"), ("--compat=0.4",)):
        done = world.run(*world.trees, "--only-initialsync", *options, head=AS_NOBODY)
        assert done.code == 0, done.err
        assert world.copied("file") == "file"
