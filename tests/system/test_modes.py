"""The modes: which one is taken, what their programs are given, and where list files are written."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from clsync.errors import Exit
from tests.support.daemon import Daemon
from tests.support.recorder import Call, Recorder
from tests.system.world import AT_ONCE, MODES, QUICK, SYNCED, WATCHING, World

ODD_NAMES = (
    b"new\nline", b"\xff\xfe", b" ", b"-rf", b"#a", b";b", b"st*ar", b"br[ack", b"q?m", b"back\\slash", b"qu'\"o",
    b"per%label%cent", b"\x01", b"x" * 255,
)  # fmt: skip
LEGACY = ("--compat=0.4", "-t0.05", "-w0.05")
"""The defaults of clsync 0.4 but for its delays of half a minute."""


def plant(world: World) -> None:
    """Fill the source: ten objects with the root."""
    for name in ("f1", "a/f2", "a/b/f3", "c/f4"):
        world.write(name)
    (world.source / "empty").mkdir()
    (world.source / "link").symlink_to("f1")


PLANTED = {b".", b"a", b"a/b", b"a/b/f3", b"a/f2", b"c", b"c/f4", b"empty", b"f1", b"link"}


# -- the mode that is taken ------------------------------------------------------------------------------------


def with_rsync(world: World, script: str | None) -> dict[str, str]:
    """Return an environment in which rsync is this script, or is not installed."""
    place = world.top / "bin"
    place.mkdir()
    if script is not None:
        world.file("bin/rsync", f"#!/bin/sh\n{script}\n", 0o755)
    return {"PATH": os.fspath(place)}


@pytest.mark.parametrize(
    ("script", "mode", "why"),
    [
        (f'exec {shutil.which("rsync")} "$@"', "rsyncdirect", "rsync is installed and fits"),
        (None, "copy", "rsync is not installed"),
        ("exit 1", "copy", "rsync does not know what is needed (exit code 1; 3.1.3 or later does)"),
    ],
)
def test_mode_when_none_is_said(world: World, script: str | None, mode: str, why: str) -> None:
    plant(world)
    environment = with_rsync(world, script)
    with world.daemon(env=environment) as daemon:
        world.wait_for_equal(daemon)
        world.write("a/new")
        world.wait_for_equal(daemon)
        assert f"Info: mode {mode}: {why}\n" in daemon.output


def test_a_mode_that_is_said_is_not_explained(world: World) -> None:
    done = world.run(*world.trees, "-Mcopy", "--only-initialsync")
    assert "Info: mode " not in done.err


def test_modes_and_programs_that_do_not_go_together(world: World) -> None:
    for options, word in (
        (("-Sexample",), "without a mode"),
        (("-Mcopy", "-Srsync"), "runs no program"),
        (("-Mcopy", "--", "a"), "runs no program"),
        (("-Msimple",), "needs a program"),
    ):
        message, _ = world.run(*world.trees, *options).complaint(Exit.USAGE)
        assert word in message
    message, _ = world.run(f"-W{world.source}", "-Dhost:/path", "-Mcopy").complaint(Exit.DESTINATION)
    assert "local directory only" in message


@pytest.mark.parametrize("destination", [True, False])
def test_simple_needs_no_destination(world: World, destination: bool) -> None:
    """What its program does with an object is its own business."""
    plant(world)
    recorder = Recorder(world.top)
    trees = world.trees if destination else world.trees[:1]
    done = world.run(*trees, "-Msimple", recorder.option, "--only-initialsync")
    assert done.code == Exit.OK, done.err
    assert len(recorder.calls) == len(PLANTED)


# -- exact mirrors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_odd_names(world: World, mode: str) -> None:
    """Before and after the start: made, changed, linked, deleted."""
    top = os.fsencode(world.source)
    early, late = ODD_NAMES[::2], ODD_NAMES[1::2]
    for name in early:
        os.makedirs(os.path.join(top, b"d", name))
        Path(os.fsdecode(os.path.join(top, name))).touch()
    with world.daemon(f"-M{mode}") as daemon:
        world.wait_for_equal(daemon)
        for old, new in zip(early, late, strict=True):
            os.rename(os.path.join(top, b"d", old), os.path.join(top, b"d", new))
            os.link(os.path.join(top, old), os.path.join(top, b"d", new, old))
            with open(os.path.join(top, old), "wb") as file:
                file.write(old)
            os.symlink(old, os.path.join(top, new))
        world.wait_for_equal(daemon)
        for name in early:
            os.unlink(os.path.join(top, name))
        world.wait_for_equal(daemon)
        assert "Error" not in daemon.output, daemon.output


def test_rsync_is_given_its_list_on_standard_input(world: World) -> None:
    """Own arguments go with it, and nothing is written to the directory for lists, rules or not."""
    lists = world.top / "lists"
    recorder = Recorder(world.top, f'ls -A {lists} >>{world.top}/listed; exec rsync "$@"')
    arguments = ("--", "%RSYNC-ARGS%", "--chmod=F600", "%watch-dir%/", "%destination-dir%/")
    rules = world.file("rules", "-f\\.o$\n")
    world.write("f")
    with world.daemon("-Mrsyncdirect", recorder.option, f"-L{lists}", f"-R{rules}", *arguments) as daemon:
        world.wait_for_copy(daemon, "f")
        world.write("d/g")
        world.wait_for_copy(daemon, "d/g")
        for name in ("f", "d/g"):
            assert (world.destination / name).stat().st_mode & 0o777 == 0o600
    assert (world.top / "listed").read_text() == ""
    for call in recorder.calls:
        assert call.arguments[-3::2] == [b"--chmod=F600", os.fsencode(world.destination) + b"/"]
        assert re.fullmatch(rb"/proc/self/fd/[0-9]+/\./", call.arguments[-2])
        assert b"--modify-window=-1" in call.arguments
    assert any(b"--files-from=-" in call.arguments for call in recorder.calls)


@pytest.mark.parametrize("option", ["--relative", "--filter=-/ {source}/left-out", "-F"])
def test_options_that_go_by_paths_mean_the_watched_directory(world: World, option: str) -> None:
    """Whatever rsync is told to go by instead: nothing comes of that at the destination, and rules of paths match."""
    world.file(".rsync-filter", "- left-out\n")
    world.write("d/f")
    world.write("left-out")
    arguments = (option.replace("{source}", str(world.source)), "%RSYNC-ARGS%", "%watch-dir%/", "%destination-dir%/")
    with world.daemon("-Mrsyncdirect", "--full-initialsync", "--", *arguments) as daemon:
        world.wait_for_copy(daemon, "d/f")
        daemon.wait_for_log(WATCHING)
        world.write("d/g")
        world.wait_for_copy(daemon, "d/g")
    names = {"d"} | ({"left-out"} if option == "--relative" else set())
    assert set(os.listdir(world.destination)) == names


def test_copy_needs_no_program(world: World) -> None:
    plant(world)
    os.link(world.source / "f1", world.source / "c/f5")
    with open(world.source / "sparse", "wb") as file:
        file.truncate(1 << 20)
    done = world.run(*world.trees, "-Mcopy", "--only-initialsync", env={"PATH": os.fspath(world.top)})
    assert done.code == Exit.OK, done.err
    world.demand_equal()
    assert (world.destination / "sparse").stat().st_blocks == 0


@pytest.mark.parametrize(
    "spelled", ["{top}/source", "{top}/source/", "{top}/./source", "{top}/alias", "{top}/alias/"]
)
def test_the_source_in_the_arguments_may_end_with_a_slash_or_not(world: World, spelled: str) -> None:
    """What it holds goes to the destination, at the start and later; never the directory by its name."""
    plant(world)
    (world.top / "alias").symlink_to("source")
    (world.destination / "left over").touch()
    arguments = ("--", "%RSYNC-ARGS%", spelled.format(top=world.top), f"{world.destination}/")
    with Daemon(f"-W{world.source}", *QUICK, "-Srsync", *arguments, env=world.environment, cwd="/") as daemon:
        daemon.wait_for_log(SYNCED)
        world.demand_equal()
        world.write("a/new")
        shutil.rmtree(world.source / "c")
        world.wait_for_equal(daemon)


def test_a_destination_in_the_arguments_goes_before_the_option(world: World) -> None:
    """It is the one that is checked, probed and written; relative to the watched directory, in which rsync runs."""
    plant(world)
    other = world.top / "other"
    other.mkdir()
    arguments = ("-Srsync", "--only-initialsync", "--", "%RSYNC-ARGS%", f"{world.source}/", "../other/")
    done = world.run(*world.trees, *arguments)
    assert done.code == Exit.OK, done.err
    assert os.listdir(world.destination) == []
    assert f" to {other} in mode rsyncdirect\n" in done.err
    world.destination = other
    world.demand_equal()


@pytest.mark.parametrize(
    "options",
    [
        ("-e", "ssh"),
        ("--rsh", "ssh -q"),
        ("--exclude", "nothing"),
        ("--bwlimit", "100000", "-v"),
        ("-ve", "ssh"),
        ("--max-delete", "1000"),
        ("--protocol", "31"),
    ],
    ids=" ".join,
)
def test_values_of_options_are_no_destination(world: World, options: tuple[str, ...]) -> None:
    """Options of rsync may come after the directories, with values that are words of their own."""
    plant(world)
    trees = (f"{world.source}/", f"{world.destination}/")
    done = world.run(f"-W{world.source}", "-Srsync", "--only-initialsync", "--", "%RSYNC-ARGS%", *trees, *options)
    assert done.code == Exit.OK, done.err
    world.demand_equal()


@pytest.mark.parametrize("mode", MODES)
def test_the_start_leaves_the_times_of_the_destination_alone(world: World, mode: str) -> None:
    """What it can hold is tried in a directory of its own, which is made and removed."""
    os.utime(world.destination, ns=(10**18 + 123_456_789, 10**18 + 987_654_321))
    with world.daemon(f"-M{mode}", "--skip-initialsync") as daemon:
        daemon.wait_for_log(WATCHING)
        assert world.destination.stat().st_mtime_ns == 10**18 + 987_654_321


@pytest.mark.parametrize("mode", MODES)
def test_attributes_are_copied_when_asked(world: World, mode: str) -> None:
    file = world.write("file")
    try:
        os.setxattr(file, "user.note", b"text")
    except OSError as error:
        pytest.skip(f"no extended attributes in {world.top}: {error.strerror}")
    for options, attributes in (((), []), (("--xattrs",), ["user.note"])):
        done = world.run(*world.trees, f"-M{mode}", "--only-initialsync", *options)
        assert done.code == Exit.OK, done.err
        assert os.listxattr(world.destination / "file") == attributes


LOSES_ITS_DISK = """\
[ -e {top}/trouble ] || exec rsync "$@"
rm {top}/trouble
touch {destination}/.file.AbCdEf
echo 'rsync: [receiver] mkstemp "{destination}/.file.AbCdEf" failed: Input/output error (5)' >&2
cat >{top}/read
exit 23"""


def test_what_a_failing_disk_keeps_of_a_transfer_goes_when_it_has_recovered(world: World) -> None:
    """A temporary file was made, rsync is told that it could not be, and cannot remove it."""
    world.write("file", "one")
    recorder = Recorder(world.top, LOSES_ITS_DISK.format(top=world.top, destination=world.destination))
    with world.daemon("-Mrsyncdirect", recorder.option, delays=QUICK) as daemon:
        daemon.wait_for_log(SYNCED)
        (world.top / "trouble").touch()
        world.write("file", "two")
        daemon.wait_for_log("Input/output error (5)")
        world.wait_for_equal(daemon)


# -- list files of clsync 0.4 ----------------------------------------------------------------------------------


def listed(call: Call, option: bytes) -> set[bytes]:
    """Return the lines of the list file that follows an option."""
    name = call.arguments[call.arguments.index(option) + 1]
    return set(Path(os.fsdecode(name)).read_bytes().splitlines())


def keeping(world: World, *options: str) -> tuple[Recorder, tuple[str, ...]]:
    """Return a recorder before rsync, and options by which its lists are kept."""
    recorder = Recorder(world.top, 'exec rsync "$@"')
    return recorder, ("-Mrsyncdirect", recorder.option, f"-L{world.top}/lists", "-U", *options)


def test_compat_writes_lists(world: World) -> None:
    """Arguments and lists are those of clsync 0.4."""
    plant(world)
    recorder, options = keeping(world, *LEGACY)
    with world.daemon(*options, delays=()) as daemon:
        first = recorder.wait_for_calls(daemon, 1)[0]
        names = [argument for argument in first.arguments if b"/lists/" in argument]
        exclude, include = names
        assert first.arguments == [
            b"-aH", b"--delete", b"--exclude-from", exclude, b"--include-from", include, b"--exclude=*",
            os.fsencode(world.source) + b"/", os.fsencode(world.destination) + b"/",
        ]  # fmt: skip
        prefix = os.fsencode(world.top) + b"/lists/.clsync-"
        assert include.startswith(prefix + b"list.%d." % daemon.pid)
        assert exclude.startswith(prefix + b"exclist.%d." % daemon.pid)
        assert listed(first, b"--include-from") == {b"/***"}
        assert listed(first, b"--exclude-from") == set()
        daemon.wait_for_log(SYNCED)
        assert world.copied("a/b/f3") == "a/b/f3"
        world.write("a/b/new", "12345")
        world.wait_for_copy(daemon, "a/b/new", "12345")
        assert {b"/a", b"/a/b", b"/a/b/new"} <= listed(recorder.calls[-1], b"--include-from")
        shutil.rmtree(world.source / "c")
        daemon.wait_until(lambda: not (world.destination / "c").exists(), what="the deletion")
        assert {b"/c", b"/c/***"} <= listed(recorder.calls[-1], b"--include-from")


RULES = "-f\\.o$\n-d^c$\n-*secret\n+*\n"


def with_rejected(world: World) -> None:
    """Add what RULES reject to the source."""
    plant(world)
    for name in ("x.o", "a/y.o", "secretfile", "a/secretdir/in", "a/[w]*.o"):
        world.write(name)


def test_compat_lists_what_rules_reject(world: World) -> None:
    with_rejected(world)
    recorder, options = keeping(world, *LEGACY, f"-R{world.file('rules', RULES)}", "--only-initialsync")
    assert world.run(*world.trees, *options).code == 0
    (call,) = recorder.calls
    assert listed(call, b"--include-from") == {b"/***"}
    assert listed(call, b"--exclude-from") == {
        b"/x.o", b"/a/y.o", b"/secretfile", b"/a/secretdir", b"/a/\\[w\\]\\*.o", b"/c"
    }  # fmt: skip
    assert sorted(os.listdir(world.destination)) == ["a", "empty", "f1", "link"]
    assert sorted(os.listdir(world.destination / "a")) == ["b", "f2"]


def test_prefer_include_lists_what_rules_permit(world: World) -> None:
    with_rejected(world)
    rules = world.file("rules", RULES)
    recorder, options = keeping(world, *LEGACY, f"-R{rules}", "--rsync-prefer-include", "--only-initialsync")
    assert world.run(*world.trees, *options).code == 0
    (call,) = recorder.calls
    assert b"--exclude-from" not in call.arguments
    permitted = {b"", b"/a", b"/a/b", b"/a/b/f3", b"/a/f2", b"/empty", b"/f1", b"/link"}
    assert listed(call, b"--include-from") == permitted
    assert sorted(os.listdir(world.destination)) == ["a", "empty", "f1", "link"]


def test_long_include_lists_are_split(world: World) -> None:
    plant(world)
    recorder, options = keeping(world, *LEGACY, "--rsync-prefer-include", "--rsync-inclimit=4", "--only-initialsync")
    assert world.run(*world.trees, *options).code == 0
    parts = [listed(call, b"--include-from") for call in recorder.calls]
    assert len(parts) > 1
    assert all(len(part) <= 6 for part in parts)  # the last object brings its parents
    assert set.union(*parts) == {b"/" + name if name != b"." else b"" for name in PLANTED}
    assert {p.relative_to(world.destination) for p in world.destination.rglob("*")} == {
        p.relative_to(world.source) for p in world.source.rglob("*")
    }


@pytest.mark.parametrize("macro", ["INCLUDE", "EXCLUDE"])
def test_a_macro_asks_for_lists(world: World, macro: str) -> None:
    """They are written, closed to others, and removed with their directory."""
    plant(world)
    places = world.top / "tmp"
    places.mkdir()
    recorder = Recorder(world.top, f'stat -c "%a %s" {places}/*/.clsync-list.* >>{world.top}/seen')
    arguments = ("--", "%TYPE%", f"--some={macro}", f"--from=%{macro}-LIST-PATH%")
    options = ("-Mrsyncdirect", recorder.option, "--only-initialsync", *arguments)
    done = world.run(*world.trees, *options, env={"TMPDIR": os.fspath(places)})
    assert done.code == Exit.OK, done.err
    (call,) = recorder.calls
    kind, some, path = call.arguments
    assert (kind, some) == (b"rsynclist", f"--some={macro}".encode())
    assert path.startswith(b"--from=" + os.fsencode(places) + b"/clsync-")
    assert (world.top / "seen").read_text() == "600 5\n"
    assert os.listdir(places) == []


@pytest.mark.parametrize("options", [LEGACY, ("--", "%RSYNC-ARGS%", "%INCLUDE-LIST-PATH%")])
def test_vanished_files_are_no_failure_with_lists_either(world: World, options: tuple[str, ...]) -> None:
    """Exit code 24 of rsync: their own events are on the way."""
    recorder = Recorder(world.top, "exit 24")
    done = world.run(*world.trees, "-Mrsyncdirect", recorder.option, "--only-initialsync", *options)
    assert done.code == Exit.OK, done.err
    assert done.troubles == []
    assert len(recorder.calls) == 1


@pytest.mark.parametrize("where", ["lists", "lists/below", ".", "../alias/lists"])
def test_directory_for_lists_in_the_watched_one(world: World, where: str) -> None:
    """Each list would be a change to hand over, with another list."""
    (world.top / "alias").symlink_to("source")
    arguments = ("-Mdirect", "-Strue", "--only-initialsync", "--", "%INCLUDE-LIST-PATH%")
    message, hint = world.run(*world.trees, f"-L{world.source}/{where}", *arguments).complaint(Exit.FILES)
    assert "lies inside the watched directory" in message
    assert "outside" in hint
    assert os.listdir(world.source) == []


def test_directory_for_lists(world: World) -> None:
    """It is made where it is missing, and removed if nothing is in it; one that others can read is refused."""
    arguments = ("-Mdirect", "--only-initialsync", "--", "%INCLUDE-LIST-PATH%")
    lists, mode = world.top / "new/lists", world.top / "mode"
    handler = world.file("handler", f'#!/bin/sh\nstat -c %a "${{1%/*}}" >{mode}\n', 0o755)
    for kept in (["-U"], []):
        assert world.run(*world.trees, f"-S{handler}", f"-L{lists}", *kept, *arguments).code == 0
        assert mode.read_text() == "700\n"
        assert lists.exists() == bool(kept)
        shutil.rmtree(world.top / "new", ignore_errors=True)
    message, _ = world.run(*world.trees, "-Mpython", "-Sabsent:f", f"-L{lists}").complaint(Exit.HANDLER)
    assert "absent" in message
    assert not (world.top / "new").exists()
    lists.mkdir(parents=True, mode=0o700)
    assert world.run(*world.trees, f"-S{handler}", f"-L{lists}", *arguments).code == 0
    assert os.listdir(lists) == []  # it was there before
    lists.chmod(0o755)
    message, hint = world.run(*world.trees, f"-L{lists}", "-Strue", *arguments).complaint(Exit.FILES)
    assert "can be read by others" in message
    assert "chmod 700" in hint


# -- direct ----------------------------------------------------------------------------------------------------


def objects(call: Call) -> set[bytes]:
    """Return the objects of a run in mode direct, with its default arguments."""
    assert call.arguments[-1].endswith(b"/destination/")
    return set(call.arguments[:-1])


def test_direct(world: World) -> None:
    """Objects are relative paths, deleted ones like all others; new directories are named with all they hold."""
    plant(world)
    recorder = Recorder(world.top, f"pwd >>{world.top}/directories")
    with world.daemon("-Mdirect", recorder.option, delays=("-t0.2", "-w0")) as daemon:
        assert objects(recorder.wait_for_calls(daemon, 1)[0]) == PLANTED
        daemon.wait_for_log(SYNCED)
        steps: tuple[tuple[Callable[[], object], set[bytes], set[bytes]], ...] = (
            (lambda: world.write("n1"), {b"n1"}, {b"."}),
            (lambda: (world.source / "n1").unlink(), {b"n1"}, {b"."}),
            (
                lambda: (world.write("nd/x"), world.write("nd/sub/z")),
                {b"nd", b"nd/x", b"nd/sub", b"nd/sub/z"},
                {b"."},
            ),
            (
                lambda: (world.source / "nd").rename(world.source / "nd2"),
                {b"nd", b"nd2", b"nd2/x", b"nd2/sub", b"nd2/sub/z"},
                {b"."},
            ),
            (lambda: (world.source / "a/f2").chmod(0o600), {b"a/f2"}, set()),
            (lambda: (world.source / "c").chmod(0o700), {b"c"}, set()),
        )
        for step, needed, tolerated in steps:
            before = len(recorder.calls)
            with daemon.held():  # all of it goes in one window
                step()
            recorder.wait_for_calls(daemon, before + 1)
            assert needed <= objects(recorder.calls[before]) <= needed | tolerated
    assert set((world.top / "directories").read_text().splitlines()) == {os.fspath(world.source)}


def test_direct_with_odd_names(world: World) -> None:
    """No name looks like an option, none is expanded, none is left out."""
    for name in ODD_NAMES:
        Path(os.fsdecode(os.path.join(os.fsencode(world.source), name))).touch()
    recorder = Recorder(world.top)
    assert world.run(*world.trees, "-Mdirect", recorder.option, "--only-initialsync").code == 0
    (call,) = recorder.calls
    assert objects(call) == {b".", b"./-rf", *ODD_NAMES} - {b"-rf"}


def test_direct_splits_long_batches(world: World) -> None:
    """At most 256 arguments with those that are configured."""
    for number in range(300):
        world.write(f"f{number}")
    recorder = Recorder(world.top)
    options = ("-Mdirect", recorder.option, "--only-initialsync", "--", "a", "%INCLUDE-LIST%", "b")
    assert world.run(*world.trees, *options).code == 0
    sizes = [len(call.arguments) for call in recorder.calls]
    assert sum(sizes) == 301 + 2 * len(sizes)
    assert max(sizes) <= 256
    assert {call.iteration for call in recorder.calls} == {1}


def test_direct_with_a_list_file(world: World) -> None:
    plant(world)
    recorder = Recorder(world.top, f'cat "$2" >{world.top}/list')
    options = ("-Mdirect", recorder.option, "-llab1", "--only-initialsync", "--", "%TYPE%", "%INCLUDE-LIST-PATH%")
    assert world.run(*world.trees, *options).code == 0
    assert recorder.calls[0].arguments[0] == b"synclist"
    lines = (world.top / "list").read_bytes().splitlines()
    assert {line.split(b" ", 3)[3] or b"." for line in lines} == PLANTED
    assert {tuple(line.split(b" ")[:2]) for line in lines} == {(b"sync", b"lab1")}
    assert b"sync lab1 256 f1" in lines
    assert b"sync lab1 1073742080 a" in lines


@pytest.mark.parametrize("arguments", [("%INCLUDE-LIST-PATH%",), ("%INCLUDE-LIST-PATH%", "%INCLUDE-LIST%")])
def test_a_name_that_no_line_can_hold(world: World, arguments: tuple[str, ...]) -> None:
    """A program that is given nothing but lines has not been told of it; one that is given arguments has."""
    plant(world)
    world.write("new\nline")
    recorder = Recorder(world.top, f'cat "$1" >>{world.top}/lines')
    options = ("-Mdirect", recorder.option, "--only-initialsync", "--retries=1", "--", *arguments)
    done = world.run(*world.trees, *options)
    lines = (world.top / "lines").read_bytes().splitlines()
    assert {line.split(b" ", 3)[3] or b"." for line in lines} == PLANTED
    if len(arguments) > 1:
        assert done.code == Exit.OK, done.err
        return
    assert done.code == Exit.INCOMPLETE, done.err
    (named,) = [line for line in done.troubles if line.startswith("Error: not synced: ")]
    assert named.startswith("Error: not synced: new\\nline: ")
    assert "%INCLUDE-LIST%" in named


@pytest.mark.parametrize("text", ['cp -r "$@"\n', '# no interpreter is named\nset -e\ncp -r "$@"\n'])
def test_a_script_that_names_no_interpreter(world: World, text: str) -> None:
    """It is run by sh, as a shell does it."""
    world.write("d/file")
    script = world.file("script", text, 0o755)
    done = world.run(*world.trees, "-Mdirect", f"-S{script}", "--only-initialsync")
    assert done.code == Exit.OK, done.err
    assert world.copied("d/file") == "d/file"


# -- simple ----------------------------------------------------------------------------------------------------

ATTRIB, CREATE, DELETE, ISDIR = 0x4, 0x100, 0x200, 0x40000000  # inotify(7)
WRITTEN = 0x2 | 0x8


def test_simple(world: World) -> None:
    """One run per object, named by its absolute path, with what happened."""
    plant(world)
    top = os.fsencode(world.source)
    recorder = Recorder(world.top)

    def seen(first: int) -> dict[bytes, int]:
        runs = [call.arguments for call in recorder.calls[first:]]
        assert {(kind, label) for kind, label, _, _ in runs} <= {(b"sync", b"lab1")}
        masks: dict[bytes, int] = {}
        for _, _, mask, path in runs:
            name = path.removeprefix(top).removeprefix(b"/") or b"."
            masks[name] = masks.get(name, 0) | int(mask)
        return masks

    with world.daemon("-Msimple", recorder.option, "-llab1", delays=AT_ONCE) as daemon:
        recorder.wait_for_calls(daemon, len(PLANTED))
        assert seen(0).keys() == PLANTED
        assert {path for path, mask in seen(0).items() if mask == CREATE | ISDIR} == {
            b".", b"a", b"a/b", b"c", b"empty"
        }  # fmt: skip
        daemon.wait_for_log(SYNCED)
        for step, path, bits in (
            (lambda: world.write("new\nname"), b"new\nname", CREATE),
            (lambda: world.write("f1", "again"), b"f1", WRITTEN),
            (lambda: (world.source / "f1").chmod(0o600), b"f1", ATTRIB),
            (lambda: (world.source / "f1").unlink(), b"f1", DELETE),
            (lambda: (world.source / "d").mkdir(), b"d", CREATE | ISDIR),
        ):
            before = len(recorder.calls)
            step()
            daemon.wait_until(lambda: seen(before).get(path, 0) & bits == bits, what=f"{path!r} with {bits:#x}")  # noqa: B023


def test_simple_knows_its_type(world: World) -> None:
    recorder = Recorder(world.top)
    arguments = ("--", "%TYPE%", "<%EVENT-MASK%>", "%INCLUDE-LIST%")
    assert world.run(*world.trees, "-Msimple", recorder.option, "--only-initialsync", *arguments).code == 0
    (call,) = recorder.calls
    assert call.arguments == [b"sync", b"<%d>" % (CREATE | ISDIR), os.fsencode(world.source)]


def test_simple_tries_again_what_has_failed_and_nothing_else(world: World) -> None:
    """It is named, alone; that it was found below a directory that is new blames neither that nor its neighbours."""
    plant(world)
    recorder = Recorder(world.top, f'case "$4" in */f2) [ -e {world.top}/well ] || exit 5 ;; esac')
    with world.daemon("-Msimple", recorder.option, delays=AT_ONCE) as daemon:
        daemon.wait_for_log("it stays dirty and is tried again")
        first = recorder.calls[: len(PLANTED)]
        assert len({call.arguments[-1] for call in first}) == len(PLANTED)
        (told,) = [line for line in daemon.output.splitlines() if line.startswith("Error")]
        assert told.startswith("Error: a/f2: ")
        assert "exit code 5" in told
        world.file("well", "")
        daemon.stop(signal.SIGQUIT)  # it is tried again at once
    again = recorder.calls[len(first) :]
    # More than once, if its turn came before it was well.
    assert {call.arguments[-1] for call in again} == {os.fsencode(world.source / "a/f2")}


@pytest.mark.parametrize("mode", ["direct", "simple"])
def test_programs_are_not_told_what_rules_reject(world: World, mode: str) -> None:
    with_rejected(world)
    recorder = Recorder(world.top)
    options = (f"-M{mode}", recorder.option, f"-R{world.file('rules', RULES)}", "--", "%INCLUDE-LIST%")
    with world.daemon(*options) as daemon:
        daemon.wait_for_log(SYNCED)
        world.write("nd/k.o")
        world.write("nd/secret2/in")
        world.write("nd/ok")
        daemon.wait_until(lambda: any(a.endswith(b"nd/ok") for c in recorder.calls for a in c.arguments), what="ok")
    top = os.fsencode(world.source) + b"/"
    told = {argument.removeprefix(top) for call in recorder.calls for argument in call.arguments}
    told -= {b".", top.rstrip(b"/")}
    assert told == {b"a", b"a/b", b"a/b/f3", b"a/f2", b"empty", b"f1", b"link", b"nd", b"nd/ok"}
