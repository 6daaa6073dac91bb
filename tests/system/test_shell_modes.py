"""Modes shell and rsyncshell: programs that are given lists of what has changed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from clsync.errors import Exit
from tests.support.recorder import Call, Recorder
from tests.system.test_modes import PLANTED, RULES, plant, with_rejected
from tests.system.world import ROOT, SYNCED, World, mounted

EXAMPLE = """
ACTION="$1" LISTFILE="$3" EXCLISTFILE="$4"
excludefrom=''
[ "$EXCLISTFILE" ] && excludefrom="--exclude-from=$EXCLISTFILE"
[ "$ACTION" = rsynclist ] || exit 9
exec rsync -aH --modify-window=-1 --delete-before "$excludefrom" --include-from="$LISTFILE" --exclude='*' ./ %s/
"""
"""What handlers of mode rsyncshell look like."""


def keeping_lists(world: World, number: int = 3) -> Recorder:
    """Return a handler that puts its list into a file beside the recorder: `list.ITERATION`."""
    kept = f"{world.top}/list.$CLSYNC_ITERATION"
    return Recorder(world.top, f'cp "${number}" "{kept}.part" && mv "{kept}.part" "{kept}"')


def lines(world: World, call: Call) -> set[bytes]:
    """Return the list of a run."""
    return set((world.top / f"list.{call.iteration}").read_bytes().splitlines())


def test_shell(world: World) -> None:
    """Each line has the label, the inotify mask and the path; the list is gone after the run."""
    plant(world)
    recorder = keeping_lists(world)
    with world.bare(f"-W{world.source}", "-Mshell", recorder.option, "-llab1", "-t0.2", "-w0") as daemon:
        first = recorder.wait_for_calls(daemon, 1)[0]
        assert first.arguments[:2] == [b"synclist", b"lab1"]
        assert os.path.basename(first.arguments[2]).startswith(b".clsync-list.%d." % daemon.pid)
        assert len(first.arguments) == 3
        daemon.wait_for_log(SYNCED)
        assert not os.path.exists(first.arguments[2])
        found = lines(world, first)
        assert {b"sync lab1 1073742080 ", b"sync lab1 1073742080 a", b"sync lab1 256 f1"} <= found
        assert {line.split(b" ", 3)[3] or b"." for line in found} == PLANTED
        steps: tuple[tuple[Callable[[], object], set[bytes]], ...] = (
            (lambda: world.write("n1"), {b"sync lab1 266 n1"}),
            (lambda: (world.source / "n1").unlink(), {b"sync lab1 512 n1"}),
            (
                lambda: world.write("nd/x"),
                {b"sync lab1 1073742080 nd", b"sync lab1 256 nd/x"},
            ),
            (lambda: (world.source / "a/f2").chmod(0o600), {b"sync lab1 4 a/f2"}),
            (lambda: (world.source / "c").chmod(0o700), {b"sync lab1 1073741828 c"}),
        )
        for step, needed in steps:
            before = len(recorder.calls)
            with daemon.held():  # all of a step is one batch
                step()
            recorder.wait_for_calls(daemon, before + 1)
            daemon.wait_until(lambda: (world.top / f"list.{recorder.calls[-1].iteration}").exists(), what="the list")
            tolerated = {b"sync lab1 1073741828 ", b"sync lab1 266 nd/x"}
            found = lines(world, recorder.calls[before])
            assert found <= needed | tolerated
            assert {line.split(b" ", 3)[3] for line in found} >= {line.split(b" ", 3)[3] for line in needed}


def test_no_list_is_empty(world: World) -> None:
    """A name that no line can hold is tried again, and nobody is told of nothing."""
    plant(world)
    recorder = keeping_lists(world)
    with world.bare(f"-W{world.source}", "-Mshell", recorder.option, "-t0.05", "-w0", "-d2") as daemon:
        daemon.wait_for_log(SYNCED)
        world.write("a/new\nline")
        daemon.wait_for_log("a newline cannot stand in a list of lines")
        told = len(recorder.calls)
        batches = daemon.output.count("): batch ")
        daemon.wait_until(lambda: daemon.output.count("): batch ") > batches, what="another try")
        with daemon.held():  # a second batch might be cut off by the end
            world.write("f1", "changed")
        recorder.wait_for_calls(daemon, told + 1)
        daemon.wait_until(lambda: (world.top / f"list.{recorder.calls[-1].iteration}").exists(), what="the list")
    assert all(lines(world, call) for call in recorder.calls)


def test_lists_of_paths_alone(world: World) -> None:
    plant(world)
    recorder = keeping_lists(world)
    done = world.run(f"-W{world.source}", "-Mshell", recorder.option, "--synclist-simplify", "--only-initialsync")
    assert done.code == Exit.OK, done.err
    assert {line or b"." for line in lines(world, recorder.calls[0])} == PLANTED


def test_the_arguments_of_mode_shell_may_be_others(world: World) -> None:
    plant(world)
    recorder = keeping_lists(world, 2)
    options = (
        "-Mshell",
        recorder.option,
        "-llab1",
        "--only-initialsync",
        "--",
        "%label%-%TYPE%",
        "%INCLUDE-LIST-PATH%",
    )
    assert world.run(f"-W{world.source}", *options).code == Exit.OK
    (call,) = recorder.calls
    assert call.arguments[0] == b"lab1-synclist"
    assert len(lines(world, call)) == len(PLANTED)


@pytest.mark.parametrize(
    ("mode", "options", "arguments"),
    [
        ("shell", (), [b"initialsync", b"lab1", b"{}"]),
        ("shell", ("-----=all '%INCLUDE-LIST%' %TYPE%",), [b"all", b"{}", b"initialsync"]),
        ("direct", ("--", "%INCLUDE-LIST%", "x"), [b"{}", b"x"]),
        ("simple", (), [b"sync", b"lab1", b"1073742080", b"{}"]),
    ],
)
def test_whole_directories(world: World, mode: str, options: tuple[str, ...], arguments: list[bytes]) -> None:
    """The initial sync and each new directory is one run with an absolute path; the rest goes as always."""
    plant(world)
    recorder = Recorder(world.top)
    what = (f"-M{mode}", recorder.option, "-llab1", "--have-recursive-sync", "-t0.2", "-w0", *options)

    def whole(path: str) -> list[bytes]:
        place = os.fsencode(world.source) + os.fsencode(path)
        return [place if word == b"{}" else word for word in arguments]

    with world.bare(f"-W{world.source}", *what) as daemon:
        assert recorder.wait_for_calls(daemon, 1)[0].arguments[:4] == whole("")
        daemon.wait_for_log(SYNCED)
        assert len(recorder.calls) == 1
        world.write("new/deep/file")
        daemon.wait_until(lambda: whole("/new") in [call.arguments for call in recorder.calls], what="the directory")
        world.write("f1", "changed")
        daemon.wait_until(lambda: any(b"f1" in b" ".join(c.arguments) or mode == "shell" for c in recorder.calls[2:]))
        assert whole("/f1") not in [call.arguments for call in recorder.calls] or mode == "simple"


def test_whole_directories_hold_nothing_that_rules_reject(world: World) -> None:
    """Where rules leave something out below, objects are listed as usual."""
    with_rejected(world)
    world.write("free/x")
    recorder = Recorder(world.top)
    rules = world.file("rules", "-*secret\n")
    options = ("-Mdirect", recorder.option, f"-R{rules}", "--have-recursive-sync", "--only-initialsync")
    assert world.run(f"-W{world.source}", *options, "--", "%INCLUDE-LIST%").code == Exit.OK
    assert b"a/secretdir" not in [word for call in recorder.calls for word in call.arguments]
    assert b"free/x" in recorder.calls[0].arguments


@pytest.mark.parametrize("option", ["--have-recursive-sync", "--synclist-simplify"])
@pytest.mark.parametrize("mode", ["rsyncdirect", "rsyncshell", "copy"])
def test_options_of_mode_shell_elsewhere(world: World, mode: str, option: str) -> None:
    program = ("-S/bin/true",) if mode == "rsyncshell" else ()
    message, hint = world.run(*world.trees, f"-M{mode}", *program, option).complaint(Exit.USAGE)
    assert option in message
    assert mode in message
    assert "shell" in hint


@pytest.mark.parametrize("mode", ["shell", "rsyncshell"])
def test_a_program_is_needed(world: World, mode: str) -> None:
    message, hint = world.run(*world.trees, f"-M{mode}").complaint(Exit.USAGE)
    assert f"--mode={mode}" in message
    assert "--sync-handler" in hint


def test_rsyncshell(world: World) -> None:
    """A handler with an rsync of its own, as the examples of clsync 0.4 have it, makes a mirror."""
    plant(world)
    recorder = Recorder(world.top, EXAMPLE % world.destination)
    with world.bare(f"-W{world.source}", "-Mrsyncshell", recorder.option, "-llab1", "-t0.1", "-w0") as daemon:
        first = recorder.wait_for_calls(daemon, 1)[0]
        assert first.arguments[:2] == [b"rsynclist", b"lab1"]
        include, exclude = map(os.path.basename, first.arguments[2:])
        assert include.startswith(b".clsync-list.")
        assert exclude.startswith(b".clsync-exclist.")
        world.wait_for_equal(daemon)
        world.write("new/deep/file")
        (world.source / "a/f2").unlink()
        shutil.rmtree(world.source / "c")
        (world.source / "f1").rename(world.source / "f9")
        world.wait_for_equal(daemon)


def test_rsyncshell_by_rules(world: World) -> None:
    """Also when what is excluded is made later than the directory that holds it."""
    with_rejected(world)
    rules = world.file("rules", RULES)
    recorder = Recorder(world.top, EXAMPLE % world.destination)
    options = ("-Mrsyncshell", recorder.option, f"-R{rules}", "-t0.1", "-w0")
    with world.bare(f"-W{world.source}", *options) as daemon:
        world.wait_for_copy(daemon, "a/b/f3")
        (world.source / "later").mkdir()
        daemon.wait_until((world.destination / "later").is_dir, what="the new directory")
        world.write("later/x.o")
        world.write("later/file")
        world.wait_for_copy(daemon, "later/file")
    found = {os.fspath(path.relative_to(world.destination)) for path in Path(world.destination).rglob("*")}
    assert found == {"a", "a/b", "a/b/f3", "a/f2", "empty", "f1", "later", "later/file", "link"}


@pytest.mark.parametrize("monitor", ["auto", "inotify"])
def test_what_rules_reject_is_not_deleted_with_its_original(world: World, monitor: str) -> None:
    """Whether it was a file or a directory is known from the event."""
    with_rejected(world)
    for name in ("keep.o/in", "c/own"):
        world.write(name)
    rules = world.file("rules", RULES)
    recorder = Recorder(world.top, EXAMPLE % world.destination)
    options = ("-Mrsyncshell", recorder.option, f"-R{rules}", "-t0.1", "-w0", f"--monitor={monitor}")
    with world.bare(f"-W{world.source}", *options) as daemon:
        world.wait_for_copy(daemon, "keep.o/in")
        daemon.wait_for_log(SYNCED)
        for path in (world.destination / "x.o", world.destination / "c/own"):
            path.parent.mkdir(exist_ok=True)
            path.write_text("its own")
        (world.source / "x.o").unlink()
        shutil.rmtree(world.source / "c")
        shutil.rmtree(world.source / "keep.o")
        daemon.wait_until(lambda: not (world.destination / "keep.o").exists(), what="the deletion")
        world.write("last")
        world.wait_for_copy(daemon, "last")
    assert world.copied("x.o") == "its own"
    assert world.copied("c/own") == "its own"


def test_rsyncshell_prefers_to_include(world: World) -> None:
    with_rejected(world)
    rules = world.file("rules", RULES)
    recorder = keeping_lists(world)
    options = ("-Mrsyncshell", recorder.option, f"-R{rules}", "--rsync-prefer-include", "--only-initialsync")
    assert world.run(f"-W{world.source}", *options).code == Exit.OK
    (call,) = recorder.calls
    assert len(call.arguments) == 3
    assert {line for line in lines(world, call) if line} >= {b"/a", b"/a/b", b"/a/b/f3", b"/a/f2", b"/f1", b"/link"}
    assert not any(b"secret" in line or line.endswith(b".o") for line in lines(world, call))


def test_code_24_is_a_failure_of_mode_rsyncshell(world: World) -> None:
    """Only of rsync itself is it known what it means; --ignore-exitcode says so of others."""
    plant(world)
    recorder = Recorder(world.top, "exit 24")
    options = (f"-W{world.source}", "-Mrsyncshell", recorder.option, "--only-initialsync", "--retries=1")
    assert world.run(*options).code == 24
    assert world.run(*options, "-x24").code == Exit.OK


@ROOT
@pytest.mark.root
@pytest.mark.parametrize("rules", ["", "-d^rejected$\n"])
@pytest.mark.parametrize("option", ["--one-file-system", "--exclude-mount-points"])
def test_rsyncshell_without_other_file_systems(world: World, option: str, rules: str) -> None:
    """Their content is excluded from runs that take all; those in rejected directories are so already."""
    file = world.file("rules", rules)
    recorder = keeping_lists(world, 4)
    with mounted("tmpfs", world.source / "d/st*ar"), mounted("tmpfs", world.source / "rejected/other"):
        options = ("-Mrsyncshell", recorder.option, f"-R{file}", option, "--only-initialsync")
        assert world.run(f"-W{world.source}", *options).code == Exit.OK
    (call,) = recorder.calls
    expected = {b"/d/st\\*ar/**", b"/rejected" if rules else b"/rejected/other/**"}
    assert lines(world, call) == expected
