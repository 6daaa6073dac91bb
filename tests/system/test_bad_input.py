"""What cannot work: one message, one hint and one documented exit code, or a daemon that goes on and forgets nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from clsync.errors import Exit
from tests.support.daemon import Argument, Daemon, installed
from tests.support.recorder import Recorder
from tests.support.trees import snapshot
from tests.system.world import ROOT, SYNCED, World, mount, mounted, unmount

MODES = ("rsyncdirect", "copy")


# -- what hinders the start ------------------------------------------------------------------------------------


def refused(
    world: World,
    code: int,
    *args: Argument,
    env: Mapping[str, str] | None = None,
    head: Sequence[Argument] = (),
) -> tuple[str, str]:
    """Run something that must not start; return message and hint."""
    return world.run(*args, env=env, head=head).complaint(code)


def test_source_missing(world: World) -> None:
    message, hint = refused(world, Exit.SOURCE, "-W", world.top / "nowhere", "-D", world.destination)
    assert message == f"--watch-dir {world.top}/nowhere: No such file or directory"
    assert "create it" in hint


def test_source_is_a_file(world: World) -> None:
    message, hint = refused(world, Exit.SOURCE, "-W", world.write("file"), "-D", world.destination)
    assert message.endswith("/source/file: Not a directory")
    assert "a single file cannot be watched" in hint


@ROOT
@pytest.mark.root
def test_source_unreadable(world: World) -> None:
    """As root without its privilege, as a service may be."""
    world.source.chmod(0o700)
    os.chown(world.source, 1234, 1234)
    head = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
    message, hint = refused(world, Exit.SOURCE, *world.trees, head=head)
    assert message.endswith("/source: Permission denied")
    assert "user who may read it" in hint


def test_source_not_said(world: World) -> None:
    message, hint = refused(world, Exit.USAGE, "-D", world.destination)
    assert message == "no watch directory"
    assert "clsync -W SOURCE" in hint


def test_destination_not_said(world: World) -> None:
    message, hint = refused(world, Exit.USAGE, "-W", world.source)
    assert message == "no destination"
    assert "-D DESTINATION" in hint


@pytest.mark.parametrize("compat", ["off", "0.4"])
def test_no_destination_in_mode_direct(world: World, compat: str) -> None:
    """Its default arguments end with it: nothing must make `/` of them."""
    recorder = Recorder(world.top)
    options = ("-Mdirect", recorder.option, f"--compat={compat}", "--only-initialsync")
    message, hint = refused(world, Exit.USAGE, "-W", world.source, *options)
    assert message == "no destination"
    assert "-D DESTINATION" in hint
    assert recorder.calls == []


def test_destination_missing(world: World) -> None:
    message, hint = refused(world, Exit.DESTINATION, "-W", world.source, "-D", world.top / "no where")
    assert message == f"--destination-dir {world.top}/no where: No such file or directory"
    assert "mkdir -p" in hint


def test_destination_is_a_file(world: World) -> None:
    message, _ = refused(world, Exit.DESTINATION, "-W", world.source, "-D", world.file("file", "x"))
    assert message.endswith("/file: Not a directory")


@pytest.mark.parametrize("mode", [None, *MODES])
def test_destination_overlaps(world: World, mode: str | None) -> None:
    """Also by way of a symlink, and where a name is only the beginning of the other."""
    inside = world.source / "inside"
    inside.mkdir()
    alias = world.top / "alias"
    alias.symlink_to(inside)
    options = [f"-M{mode}"] if mode else []
    for place, word in (
        (inside, "lies inside"),
        (alias, "lies inside"),
        (world.source, "is the watched directory itself"),
        (world.top, "holds the watched directory"),
        (Path("/"), "holds the watched directory"),
    ):
        message, _ = refused(world, Exit.DESTINATION, "-W", world.source, "-D", place, *options)
        assert word in message
    beside = world.top / "source-copy"
    beside.mkdir()
    assert world.run("-W", world.source, "-D", beside, *options, "--only-initialsync").code == 0


@ROOT
@pytest.mark.root
def test_destination_overlaps_by_way_of_a_mount(world: World) -> None:
    """By their names the two have nothing to do with each other."""
    inside, again = world.source / "inside", world.top / "again"
    for path in (inside, inside / "deeper", again, world.source / "below"):
        path.mkdir()
    for bound, place, word in (
        (world.source, again, "is the watched directory itself"),
        (world.source, again / "inside", "lies inside"),
        (inside, again, "lies inside"),
        (inside, again / "deeper", "lies inside"),
        (world.top, again, "holds the watched directory"),
        (world.destination, again, ""),
    ):
        mount("bind", again, "", str(bound))
        try:
            arguments = "-W", world.source, "-D", place, "--only-initialsync", "--state-dir=none"
            if word:
                message, _ = refused(world, Exit.DESTINATION, *arguments)
                assert word in message
            else:
                assert world.run(*arguments).code == 0
                below = "-D", world.destination / "below"
                message, _ = refused(world, Exit.DESTINATION, *arguments, *below)
                assert "it is, holds or lies in the other destination" in message
        finally:
            unmount(again)
    shown = world.destination / "shown"
    shown.mkdir()
    mount("bind", shown, "", str(inside))
    try:
        message, _ = refused(world, Exit.DESTINATION, "-W", world.source, "-D", world.destination)
        assert "holds the watched directory, or part of it" in message
    finally:
        unmount(shown)
    mount("bind", inside, "", str(world.destination))
    try:
        message, _ = refused(world, Exit.DESTINATION, "-W", world.source, "-D", world.destination)
        assert "lies inside" in message
    finally:
        unmount(inside)


@ROOT
@pytest.mark.root
def test_the_same_sysfs_everywhere_is_no_overlap(world: World) -> None:
    """As in a system, and in copies of one that are run now and then."""
    other = world.top / "other"
    for path in (world.source, world.destination, other):
        (path / "sys").mkdir(parents=True)
    with ExitStack() as mounts:
        for path in (world.source, world.destination, other):
            mounts.enter_context(mounted("sysfs", path / "sys"))
        world.write("file")
        trees = "-W", world.source, "-D", world.destination, "-D", other
        done = world.run(*trees, "-Mcopy", "--one-file-system", "--only-initialsync", "--state-dir=none")
        assert done.code == 0, done.err
        assert (other / "file").exists()


@pytest.mark.parametrize("option", [True, False])
@pytest.mark.parametrize(
    ("place", "word"),
    [
        ("{source}/inside/", "lies inside"),
        ("{source}/inside", "lies inside"),
        ("inside/", "lies inside"),
        ("./inside/../inside", "lies inside"),
        ("{top}/alias/", "lies inside"),
        ("{source}/", "is the watched directory itself"),
        ("./", "is the watched directory itself"),
        ("../", "holds the watched directory"),
    ],
)
def test_destination_overlaps_in_the_arguments(world: World, option: bool, place: str, word: str) -> None:
    """Whatever --destination-dir says; relative to the watched directory, in which rsync runs, not to ours."""
    for name in ("source/inside", "inside"):
        (world.top / name).mkdir()
        (world.top / name / "kept").touch()
    (world.top / "alias").symlink_to("source/inside")
    world.write("file")
    (world.destination / "kept, too").touch()
    arguments = ("%RSYNC-ARGS%", f"{world.source}/", place.format(source=world.source, top=world.top))
    before = snapshot(bytes(world.top))
    trees = world.trees if option else world.trees[:1]
    options = (*trees, "-Srsync", "--only-initialsync")
    message, hint = refused(world, Exit.DESTINATION, *options, "--", *arguments)
    assert word in message
    assert hint
    assert snapshot(bytes(world.top)) == before


@pytest.mark.parametrize(
    "operands", [["{source}/"], ["-v"], [], ["{source}/", "-e", "ssh"], ["--exclude", "x", "{source}/"]]
)
@pytest.mark.parametrize("option", [True, False])
def test_no_destination_in_the_arguments(world: World, option: bool, operands: list[str]) -> None:
    """It is asked for: rsync would only list, and --destination-dir is not put in by itself."""
    (world.destination / "kept").touch()
    arguments = ("%RSYNC-ARGS%", *(operand.format(source=world.source) for operand in operands))
    trees = world.trees if option else world.trees[:1]
    message, hint = refused(world, Exit.USAGE, *trees, "-Srsync", "--only-initialsync", "--", *arguments)
    assert "no destination" in message
    assert "%destination-dir%" in hint
    assert os.listdir(world.destination) == ["kept"]


@ROOT
@pytest.mark.root
@pytest.mark.parametrize("mode", MODES)
def test_destination_read_only(world: World, mode: str) -> None:
    with mounted("bind", world.destination, "", str(world.destination)):
        subprocess.run(["mount", "-o", "remount,bind,ro", world.destination], check=True)
        message, hint = refused(world, Exit.DESTINATION, *world.trees, f"-M{mode}")
    assert message == f"destination {world.destination} cannot be written: Read-only file system"
    assert "mount options" in hint


@ROOT
@pytest.mark.root
@pytest.mark.parametrize("mode", MODES)
def test_destination_forbidden(world: World, mode: str) -> None:
    world.destination.chmod(0o755)
    os.chown(world.destination, 1234, 1234)
    head = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search,-fowner"]
    message, _ = refused(world, Exit.DESTINATION, *world.trees, f"-M{mode}", head=head)
    assert message.endswith("cannot be written: Permission denied")


def test_options(world: World) -> None:
    message, hint = refused(world, Exit.USAGE, *world.trees, "--monitr=poll")
    assert message == "unknown option --monitr"
    assert "did you mean --monitor?" in hint
    message, hint = refused(world, Exit.USAGE, *world.trees, "-Q")
    assert message == "unknown option -Q"
    assert "--help" in hint
    message, _ = refused(world, Exit.USAGE, *world.trees, "--cluster-iface=eth0")
    assert "--cluster-iface is not available in this version" in message


def test_values(world: World) -> None:
    message, hint = refused(world, Exit.USAGE, *world.trees, "-t", "soon")
    assert message == "-t: 'soon' is not a number of seconds"
    assert "30 or 0.5" in hint
    message, hint = refused(world, Exit.USAGE, *world.trees, "--monitor=inotfy")
    assert "'inotfy'" in message
    assert "did you mean inotify?" in hint
    message, _ = refused(world, Exit.USAGE, *world.trees, "--ignore-exitcode=23,256")
    assert "'256' is not an exit code" in message
    message, _ = refused(world, Exit.USAGE, "-D", world.destination, "-W")
    assert message == "-W needs a value"
    message, _ = refused(world, Exit.USAGE, *world.trees, "--skip-initialsync", "--only-initialsync")
    assert "exclude each other" in message


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("+*ok\n-f[unclosed\n", 2, "[unclosed"),
        ("# comment\n\n*.tmp\n", 3, "begins with + (permit), - (reject)"),
        ("-fa\n-q.*\n", 2, "'-q' has no known letter"),
        ("-f(a\n", 1, "(a"),
    ],
)
def test_rules(world: World, text: str, line: int, word: str) -> None:
    rules = world.file("rules", text)
    message, _ = refused(world, Exit.USAGE, *world.trees, "-R", rules)
    assert message.startswith(f"{rules}, line {line}: ")
    assert word in message


def test_rules_missing(world: World) -> None:
    message, _ = refused(world, Exit.USAGE, *world.trees, "-R", world.top / "rules")
    assert message == f"--rules-file {world.top}/rules: No such file or directory"
    message, _ = refused(world, Exit.USAGE, *world.trees, "-Rrules")
    assert message == "--rules-file rules: No such file or directory"


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("[default]\nmode\n", 2, "'mode' is neither a [block] nor key = value"),
        ("# one\nmode = copy\n", 2, "a key before the first [block]"),
        ("[default]\n\nmode = cpoy\n", 3, "mode: 'cpoy' is not known here"),
        ("[default]\n-- = 'open\n", 2, "is not closed"),
    ],
)
def test_configuration(world: World, text: str, line: int, word: str) -> None:
    config = world.file("config", text)
    message, _ = refused(world, Exit.USAGE, *world.trees, "-H", config)
    assert message.startswith(f"{config}, line {line}: ")
    assert word in message


@pytest.mark.parametrize("option", ["--retries=many", "--retries=-1", "--max-iterations=99999999999", "--verbose=x"])
def test_numbers(world: World, option: str) -> None:
    message, hint = refused(world, Exit.USAGE, *world.trees, option)
    assert option.partition("=")[0] in message
    assert hint


def test_configuration_blocks(world: World) -> None:
    config = world.file("config", "[default]\n[a]\nconfig-block-inherits = b\n[b]\nconfig-block-inherits = a\n")
    message, _ = refused(world, Exit.USAGE, *world.trees, "-H", config, "-Ka")
    assert "blocks inherit in a circle: a -> b -> a" in message
    message, hint = refused(world, Exit.USAGE, *world.trees, "-H", config, "-Kc")
    assert message == f"{config} has no block [c]"
    assert "default, a, b" in hint
    message, _ = refused(world, Exit.FILES, *world.trees, "-H", world.top / "nowhere")
    assert "does not exist" in message


def test_unknown_key_is_a_warning(world: World) -> None:
    """The run goes on: configuration files are shared between versions."""
    config = world.file("config", "[default]\nmonitr = poll\n")
    done = world.run(*world.trees, "-H", config, "--only-initialsync")
    assert done.code == 0, done.err
    assert done.troubles == [f"Warning: {config}, line 2: monitr: there is no such option, did you mean monitor?"]


@pytest.mark.parametrize(
    ("lines", "code", "word"),
    [
        ("", Exit.USAGE, "no destination"),
        ("mode = cpoy\n", Exit.USAGE, "'cpoy'"),
        ("destination-dir = /no/where\n", Exit.DESTINATION, "/no/where: No such file or directory"),
        ("destination-dir = /tmp\nonly-initialsync = 1\nskip-initialsync = 1\n", Exit.USAGE, "exclude each other"),
    ],
)
def test_unknown_key_is_told_before_an_error(world: World, lines: str, code: int, word: str) -> None:
    """It may be the reason."""
    config = world.file("config", f"[default]\ndestination-dri = /tmp\n{lines}")
    done = world.run(f"-W{world.source}", "-H", config)
    assert done.code == code, done.err
    warning, message, hint = done.err.splitlines()
    told = f"{config}, line 2: destination-dri: there is no such option, did you mean destination-dir?"
    assert warning.partition(": ")[2] == told
    assert word in message
    assert hint


def unreadable(path: Path) -> list[str]:
    """Make a file that the program cannot read; return the words before its command line that this takes."""
    path.chmod(0)
    if os.geteuid() != 0:
        return []
    os.chown(path, 1234, 1234)
    return ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]


def test_configuration_that_cannot_be_read(world: World) -> None:
    """One that was only found is left out; one that was asked for is not."""
    config = world.file(".clsync.conf", "[default]\nlabel = unread\n")
    world.write("file")
    head = unreadable(config)
    done = world.run(*world.trees, "--only-initialsync", head=head)
    assert done.code == 0, done.err
    first, *more = done.troubles
    assert first == f"Warning: configuration file {config} is left out: Permission denied"
    # Where root finds it, it is somebody else's, and might say something the next time.
    assert [f"one process does everything: configuration file {config}: others" in line for line in more] in (
        [],
        [True],
    )
    world.demand_equal()
    for asked in (["-H", config], ["-Kdefault"]):
        message, hint = refused(world, Exit.FILES, *world.trees, *asked, head=head)
        assert message == f"configuration file {config}: Permission denied"
        assert hint


def test_handler(world: World) -> None:
    message, hint = refused(world, Exit.HANDLER, *world.trees, "-Mdirect", "-S", "no-such-program")
    assert message == "--sync-handler no-such-program is not in PATH"
    assert "full path" in hint
    message, _ = refused(world, Exit.HANDLER, *world.trees, "-Mdirect", "-S", world.top / "nowhere")
    assert message.endswith("nowhere does not exist")
    plain = world.file("plain", "#!/bin/sh\n")
    message, hint = refused(world, Exit.HANDLER, *world.trees, "-Mdirect", "-S", plain)
    assert message.endswith("plain cannot be executed")
    assert "executable" in hint
    message, _ = refused(world, Exit.HANDLER, *world.trees, "-Mdirect", "-S", world.source)
    assert message.endswith("source cannot be executed")


def test_rsync_not_installed(world: World) -> None:
    empty = world.top / "bin"
    empty.mkdir()
    message, hint = refused(world, Exit.HANDLER, *world.trees, "-Mrsyncdirect", env={"PATH": str(empty)})
    assert message == "--sync-handler rsync is not in PATH"
    assert "--mode=copy" in hint


@pytest.mark.parametrize("option", ["pid-file", "status-file"])
def test_files(world: World, option: str) -> None:
    message, hint = refused(world, Exit.FILES, *world.trees, f"--{option}={world.top}/nowhere/file")
    assert message == f"--{option} {world.top}/nowhere/file: No such file or directory"
    assert "directory that exists" in hint


def test_status_and_pid_file_are_gone_after_a_refusal(world: World) -> None:
    pid, status = world.top / "pid", world.top / "nowhere/status"
    refused(world, Exit.FILES, *world.trees, f"--pid-file={pid}", f"--status-file={status}")
    assert not pid.exists()


def test_monitor_that_cannot_be_had(world: World) -> None:
    head = ["setpriv", "--bounding-set", "-sys_admin"] if os.geteuid() == 0 else []
    message, hint = refused(world, Exit.MONITOR, *world.trees, "--monitor=fanotify", "--sandbox=off", head=head)
    assert "fanotify" in message
    assert hint


# -- what happens while it runs --------------------------------------------------------------------------------


def status_of(world: World) -> str:
    """Return the word in the status file; nothing where there is none."""
    try:
        return (world.top / "status").read_text()
    except FileNotFoundError:
        return ""


def wait_for_status(world: World, daemon: Daemon, word: str, timeout: float = 20) -> None:
    """Wait (s) for a word in the status file."""
    daemon.wait_until(lambda: status_of(world) == word, timeout, f"status {word}")


def never(daemon: Daemon, condition: Callable[[], bool], seconds: float) -> None:
    """Fail if something comes about within a time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert daemon.running, daemon.tail
        assert not condition(), daemon.tail
        time.sleep(0.02)


def watched(world: World, *args: str) -> Daemon:
    """Return the program with a status file, not started."""
    return world.daemon(f"--status-file={world.top}/status", *args)


@ROOT
@pytest.mark.root
@pytest.mark.parametrize("mode", MODES)
def test_no_space_at_the_destination(world: World, mode: str) -> None:
    """What does not fit stays dirty, what was there stays there, and space mends it."""
    world.write("before")
    with mounted("tmpfs", world.destination, "size=1m"):
        with watched(world, f"-M{mode}") as daemon:
            world.wait_for_equal(daemon)
            (world.source / "large").write_bytes(os.urandom(3_000_000))
            daemon.wait_for_log("No space left on device")
            wait_for_status(world, daemon, "synchandler error")
            assert world.copied("before") == "before"
            assert not (world.destination / "large").exists()
            mount("tmpfs", world.destination, "remount,size=20m")
            world.wait_for_equal(daemon)
            wait_for_status(world, daemon, "running")
            told = [line for line in daemon.output.splitlines() if "No space left" in line]
            assert all("nothing is lost, next try in" in line or "stays dirty" in line for line in told), told


@ROOT
@pytest.mark.root
@pytest.mark.parametrize(("old", "new"), [("old", "new"), ("new", "old"), ("z/old", "a/new"), ("a/old", "z/new")])
def test_deletions_make_room(world: World, old: str, new: str) -> None:
    """A deletion and a file that fits only after it go in one window, wherever they are."""
    for name in ("a", "z"):
        (world.source / name).mkdir()
    world.write(old, "o" * 1_900_000)  # has room twice: young when the daemon starts, it is copied once more
    coming = world.file("coming", "n" * 2_500_000)
    with mounted("tmpfs", world.destination, "size=4m"):
        socket = f"-s{world.top}/socket"
        with world.daemon("-Mcopy", socket, delays=("-t0.2", "-w0")) as daemon:
            daemon.wait_for_log(SYNCED)
            # No search for young files is to find the new one before the events are read.
            assert world.run("wait", socket, "--until-synced").code == 0
            with daemon.held():
                (world.source / old).unlink()
                coming.rename(world.source / new)
            # To compare is to open: what is deleted then takes its room until it is closed.
            daemon.wait_until((world.destination / new).exists, what="the new file")
            world.wait_for_equal(daemon)
            assert "Error" not in daemon.output, daemon.output


@ROOT
@pytest.mark.root
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("left", ["left over", "a/left over", "z/left over"])
def test_destination_full_of_what_is_to_be_deleted(world: World, mode: str, left: str) -> None:
    """It is the initial sync that makes room."""
    world.write("m/file", "f" * 500_000)
    with mounted("tmpfs", world.destination, "size=1m"):
        full = world.destination / left
        full.parent.mkdir(exist_ok=True)
        fill(full)
        done = world.run(*world.trees, f"-M{mode}", "--only-initialsync")
        assert done.code == 0, done.err
        assert [line.partition(": ")[0] for line in done.troubles] == ["Warning"]
        assert "free some space there" in done.err
        world.demand_equal()


def fill(path: Path) -> None:
    """Write a file that leaves no room on its file system."""
    found = os.statvfs(path.parent)
    path.write_bytes(bytes(found.f_bavail * found.f_bsize))
    assert os.statvfs(path.parent).f_bavail == 0


@ROOT
@pytest.mark.root
@pytest.mark.parametrize("mode", MODES)
def test_destination_becomes_read_only(world: World, mode: str) -> None:
    """One line says so, and one that it is over."""
    with mounted("tmpfs", world.destination):
        with watched(world, f"-M{mode}") as daemon:
            world.write("first")
            world.wait_for_equal(daemon)
            mount("tmpfs", world.destination, "remount,ro")
            for name in ("first", *(f"more/{number}" for number in range(30))):
                world.write(name, "second")
            daemon.wait_for_log("Read-only file system")
            wait_for_status(world, daemon, "synchandler error")
            mount("tmpfs", world.destination, "remount,rw")
            world.wait_for_equal(daemon)
            daemon.wait_for_log("can be used again")
            assert daemon.output.count("Read-only file system") == 1
            assert "it is synced now" not in daemon.output


@ROOT
@pytest.mark.root
@pytest.mark.parametrize("mode", MODES)
def test_destination_unmounted(world: World, mode: str) -> None:
    """Nothing is written below the mount point; the same file system, mounted again, is made equal."""
    disk = world.top / "disk"
    disk.mkdir()
    mount("bind", world.destination, "", str(disk))
    try:
        with watched(world, f"-M{mode}") as daemon:
            world.write("first")
            world.wait_for_equal(daemon)
            unmount(world.destination)
            world.write("second")
            daemon.wait_for_log("another directory stands there now")
            assert not list(world.destination.iterdir())
            mount("bind", world.destination, "", str(disk))
            world.wait_for_equal(daemon)
    finally:
        subprocess.run(["umount", "-l", world.destination], check=False, capture_output=True)


Trouble = Callable[[Path], Callable[[], object]]
"""Takes the source away; returns what brings it back."""


def vanish(source: Path) -> Callable[[], object]:
    away = source.with_name("away")
    source.rename(away)
    return lambda: away.rename(source)


def replaced_by_another(source: Path) -> Callable[[], object]:
    away = source.with_name("away")
    source.rename(away)
    source.mkdir()
    return lambda: (source.rename(source.with_name("other")), away.rename(source))


def replaced_by_a_symlink(source: Path) -> Callable[[], object]:
    away = source.with_name("away")
    source.rename(away)
    empty = source.with_name("empty")
    empty.mkdir()
    source.symlink_to(empty)
    return lambda: (source.unlink(), away.rename(source))


@pytest.mark.parametrize("trouble", [vanish, replaced_by_another, replaced_by_a_symlink])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("monitor", [pytest.param("fanotify", marks=[ROOT, pytest.mark.root]), "inotify", "poll"])
def test_source_away(world: World, mode: str, monitor: str, trouble: Trouble) -> None:
    world.write("kept")
    world.write("d/kept, too")
    with watched(world, f"-M{mode}", f"--monitor={monitor}", "--poll-interval=0.2") as daemon:
        world.wait_for_equal(daemon)
        back = trouble(world.source)
        nothing_is_done_on_hold(world, daemon)
        away = world.top / "away"
        (away / "d/kept, too").unlink()
        (away / "new").write_text("made meanwhile")
        back()
        world.wait_for_equal(daemon)
        wait_for_status(world, daemon, "running")
        world.write("after")
        world.wait_for_equal(daemon)


def nothing_is_done_on_hold(world: World, daemon: Daemon) -> None:
    """Ask for a batch: nothing is deleted, and one line says why."""
    wait_for_status(world, daemon, "hold on")
    os.kill(daemon.pid, 16)
    never(daemon, lambda: status_of(world) != "hold on", 2.2)  # it looks for the root twice
    assert world.copied("kept") == "kept"
    assert world.copied("d/kept, too") == "d/kept, too"
    errors = [line for line in daemon.output.splitlines() if line.startswith("Error")]
    assert len([line for line in errors if "until it is back" in line]) == 1, daemon.output


def test_full_sync_asked_for_while_the_source_is_away(world: World) -> None:
    world.write("kept")
    with watched(world) as daemon:
        world.wait_for_equal(daemon)
        back = vanish(world.source)
        wait_for_status(world, daemon, "hold on")
        os.kill(daemon.pid, signal.SIGUSR2)
        never(daemon, lambda: status_of(world) != "hold on", 1.5)
        assert world.copied("kept") == "kept"
        back()
        wait_for_status(world, daemon, "running")


@pytest.mark.parametrize("monitor", [pytest.param("fanotify", marks=[ROOT, pytest.mark.root]), "inotify"])
def test_one_message_while_the_source_is_away(world: World, monitor: str) -> None:
    """Also where other names of a file are to be searched for."""
    world.write("kept")
    os.link(world.write("linked"), world.source / "name")
    with watched(world, f"--monitor={monitor}") as daemon:
        world.wait_for_equal(daemon)
        wait_for_status(world, daemon, "running")
        with open(world.source / "name", "a") as file:
            (world.source / "name").unlink()
            file.write("more")
        back = vanish(world.source)
        wait_for_status(world, daemon, "hold on")
        never(daemon, lambda: len(errors_of(daemon)) > 1, 2.5)
        back()
        world.wait_for_equal(daemon)


def test_source_deleted_and_made_anew(world: World) -> None:
    """That another directory stands there now is told as well: it is not waited for in silence."""
    world.write("kept")
    anew = world.top / "anew"
    anew.mkdir()  # now: an inode that is given back may be given away again

    def told() -> list[str]:
        return [line for line in errors_of(daemon) if "until it is back" in line]

    with watched(world) as daemon:
        daemon.wait_for_log(SYNCED)
        wait_for_status(world, daemon, "running")
        shutil.rmtree(world.source)
        wait_for_status(world, daemon, "hold on")
        assert len(told()) == 1, daemon.output
        anew.rename(world.source)
        daemon.wait_until(lambda: "another directory stands there now" in told()[-1], what="another message")
        assert status_of(world) == "hold on"


@ROOT
@pytest.mark.root
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("monitor", ["fanotify", "inotify", "poll"])
def test_source_unmounted(world: World, mode: str, monitor: str) -> None:
    """What is left is an empty mount point; it must not empty the destination."""
    disk = world.top / "away"
    disk.mkdir()
    mount("bind", world.source, "", str(disk))
    try:
        world.write("kept")
        world.write("d/kept, too")
        with watched(world, f"-M{mode}", f"--monitor={monitor}", "--poll-interval=0.2") as daemon:
            world.wait_for_equal(daemon)
            unmount(world.source)
            nothing_is_done_on_hold(world, daemon)
            (disk / "new").write_text("made meanwhile")
            mount("bind", world.source, "", str(disk))
            world.wait_for_equal(daemon)
            world.write("after")
            world.wait_for_equal(daemon)
    finally:
        subprocess.run(["umount", "-l", world.source], check=False, capture_output=True)


@ROOT
@pytest.mark.root
@pytest.mark.parametrize("whole", [False, True])
def test_the_source_goes_while_rsync_starts(world: World, whole: bool) -> None:
    """What rsync does with its directory is to ask for the path, and to go there by that: to an empty one."""
    sign = world.top / "sign"
    covers = f"if [ -e {sign} ]; then rm {sign}; mount -t tmpfs none {world.source}; fi"
    program = world.file("own-rsync", f'#!/bin/sh\n{covers}\nexec rsync "$@"\n', 0o755)
    world.write("kept")
    world.write("d/kept, too")
    world.write("goes")
    copies = [world.destination / name for name in ("kept", "d/kept, too")]
    try:
        with watched(world, "-Mrsyncdirect", f"-S{program}", "--full-initialsync") as daemon:
            world.wait_for_equal(daemon)
            if whole:
                daemon.stop()
            with daemon.held():  # a batch that starts in between would have them done in what covers the source
                sign.touch()
                world.write("kept", "another one")
                (world.source / "goes").unlink()
            if whole:
                daemon.start()
            daemon.wait_for_log("another directory stands there now")
            assert not sign.exists()
            assert all(path.exists() for path in copies)
            unmount(world.source)
            world.wait_for_equal(daemon)
    finally:
        subprocess.run(["umount", "-l", world.source], check=False, capture_output=True)


@ROOT
@pytest.mark.root
def test_the_destination_goes_while_rsync_starts(world: World) -> None:
    """What was written below its mount point has not arrived."""
    sign, disk = world.top / "sign", world.top / "disk"
    leaves = f"if [ -e {sign} ]; then rm {sign}; umount -l {world.destination}; fi"
    program = world.file("own-rsync", f'#!/bin/sh\n{leaves}\nexec rsync "$@"\n', 0o755)
    disk.mkdir()
    mount("bind", world.destination, "", str(disk))
    try:
        with watched(world, "-Mrsyncdirect", f"-S{program}") as daemon:
            world.write("before")
            world.wait_for_equal(daemon)
            sign.touch()
            world.write("meanwhile")
            daemon.wait_for_log("another directory stands there now")
            assert not sign.exists()
            mount("bind", world.destination, "", str(disk))
            world.wait_for_equal(daemon)
    finally:
        subprocess.run(["umount", "-l", world.destination], check=False, capture_output=True)


def test_a_program_that_closes_what_it_is_given(world: World) -> None:
    """As sudo does: its working directory is good enough then."""
    closes = 'for fd in /proc/self/fd/*; do fd=${fd##*/}; [ "$fd" -le 2 ] || eval "exec $fd>&-"; done'
    program = world.file("own-rsync", f'#!/bin/bash\n{closes}\nexec rsync "$@"\n', 0o755)
    world.write("d/file")
    with watched(world, "-Mrsyncdirect", f"-S{program}") as daemon:
        world.wait_for_equal(daemon)
        world.write("d/more")
        world.wait_for_equal(daemon)
        assert daemon.output.count("change_dir") == 1


# -- paths that are too long -----------------------------------------------------------------------------------


def dig(top: Path, levels: int) -> None:
    """Make a tree with paths above 4096 bytes, a file at each end."""
    here = os.open(top, os.O_RDONLY)
    try:
        for level in range(levels):
            name = f"{level:02}" + "x" * 200
            os.mkdir(name, dir_fd=here)
            below = os.open(name, os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        os.close(os.open("end", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    finally:
        os.close(here)


@pytest.fixture
def roomy(world: World) -> Iterator[World]:
    """Return a world on file systems of its own: an endless tree must not trouble others who watch them."""
    with mounted("tmpfs", world.source), mounted("tmpfs", world.destination):
        yield world
        for top in (world.source, world.destination):
            for path in top.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()


@ROOT
@pytest.mark.root
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("monitor", ["fanotify", "inotify"])
def test_path_too_long_for_rsync(roomy: World, when: str, monitor: str) -> None:
    """It is named, the others are synced, and once it is gone all is well."""
    with long_path_and_others(roomy, when, monitor) as daemon:
        roomy.write("first", "changed again")
        daemon.wait_until(lambda: roomy.copied("first") == "changed again", what="another change")
        shutil.rmtree(next(path for path in roomy.source.iterdir() if path.is_dir()))
        roomy.wait_for_equal(daemon)
        wait_for_status(roomy, daemon, "running")


@ROOT
@pytest.mark.root
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("monitor", ["fanotify", "inotify"])
def test_path_too_long_for_rsync_is_named_once_and_alone(roomy: World, when: str, monitor: str) -> None:
    with long_path_and_others(roomy, when, monitor) as daemon:
        never(daemon, lambda: len(errors_of(daemon)) > 1, 2.5)  # its next tries are not told again
        (told,) = errors_of(daemon)
        assert told.startswith("Error: 00xxx")
        assert "too long for rsync" in told
        assert "mode copy can sync it" in told


def errors_of(daemon: Daemon) -> list[str]:
    """Return the errors told so far."""
    return [line for line in daemon.output.splitlines() if line.startswith("Error")]


@contextmanager
def long_path_and_others(roomy: World, when: str, monitor: str) -> Iterator[Daemon]:
    """Run the program on a tree with a path too long for rsync, made before or after the start, and other files."""
    roomy.write("first")
    if when == "before":
        dig(roomy.source, 22)
    with watched(roomy, "-Mrsyncdirect", f"--monitor={monitor}") as daemon:
        daemon.wait_until(lambda: roomy.copied("first") == "first", what="the first file")
        if when == "after":
            dig(roomy.source, 22)
        roomy.write("second")
        daemon.wait_until(lambda: roomy.copied("second") == "second", what="the second file")
        daemon.wait_until(lambda: any("Error: 00xxx" in line for line in errors_of(daemon)), what="its name")
        roomy.write("first", "changed")
        daemon.wait_until(lambda: roomy.copied("first") == "changed", what="the change")
        yield daemon


@ROOT
@pytest.mark.root
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("monitor", ["fanotify", "inotify"])
def test_path_of_any_length_with_copy(roomy: World, when: str, monitor: str) -> None:
    roomy.write("first")
    if when == "before":
        dig(roomy.source, 22)
    with watched(roomy, "-Mcopy", f"--monitor={monitor}") as daemon:
        daemon.wait_until(lambda: roomy.copied("first") == "first", what="the first file")
        if when == "after":
            dig(roomy.source, 22)
        roomy.wait_for_equal(daemon)
        shutil.rmtree(next(path for path in roomy.source.iterdir() if path.is_dir()))
        roomy.wait_for_equal(daemon)
        assert "Error" not in daemon.output, daemon.output


@ROOT
@pytest.mark.root
@pytest.mark.parametrize("mode", MODES)
def test_neighbour_with_endless_paths(world: World, mode: str) -> None:
    """Beside the root, on the same file system: no business of ours."""
    with mounted("tmpfs", world.top / "disk") as disk:
        inner = World(disk)
        inner.environment = world.environment
        beside = disk / "beside"
        beside.mkdir()
        dig(beside, 22)
        with inner.daemon(f"-M{mode}", "--monitor=fanotify") as daemon:
            inner.write("first")
            inner.wait_for_equal(daemon)
            dig_deeper(beside)
            inner.write("second")
            inner.wait_for_equal(daemon)
            inner.write("third")
            inner.wait_for_equal(daemon)
            assert "Error" not in daemon.output, daemon.output
        shutil.rmtree(beside)


def dig_deeper(top: Path) -> None:
    """Write a file at the end of the only way down."""
    here = os.open(top, os.O_RDONLY)
    try:
        while names := [entry.name for entry in os.scandir(here) if entry.is_dir()]:
            below = os.open(names[0], os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        os.close(os.open("written", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    finally:
        os.close(here)


# -- what cannot be read ---------------------------------------------------------------------------------------


@ROOT
@pytest.mark.root
@pytest.mark.parametrize("mode", MODES)
def test_file_that_cannot_be_read(world: World, mode: str) -> None:
    """It is named once; the others are synced; it follows when it can be read."""
    secret = world.write("secret")
    os.chown(secret, 1234, 1234)
    secret.chmod(0o600)
    world.write("plain")
    caps = "-dac_override,-dac_read_search"
    head = ["setpriv", "--bounding-set", caps]
    with Daemon(
        *world.trees, "-t0.05", "-w0.05", f"-M{mode}", program=[*head, installed()], env=world.environment
    ) as daemon:
        daemon.wait_until(lambda: world.copied("plain") == "plain", what="the other file")
        daemon.wait_for_log("Error: secret: ")
        world.write("later")
        daemon.wait_until(lambda: world.copied("later") == "later", what="a later file")
        assert daemon.output.count("Error: secret: ") == 1, daemon.output
        assert "Permission denied" in daemon.output
        secret.chmod(0o644)
        world.wait_for_equal(daemon)
