"""Faults of clsync 0.4 that nobody is to meet again, where no other file speaks of the same: see tests/old_faults.toml."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from clsync.errors import Exit
from tests.support.daemon import Daemon, installed
from tests.support.recorder import Recorder
from tests.support.trees import snapshot
from tests.system.test_course import until
from tests.system.test_modes import LEGACY, PLANTED, plant
from tests.system.world import AT_ONCE, QUICK, SYNCED, WATCHING, World

BOTH = pytest.mark.parametrize("defaults", [(), LEGACY], ids=["1.0", "0.4"])
"""Our defaults, and those of clsync 0.4."""


def names(top: Path) -> set[bytes]:
    """Return the names of a whole tree."""
    return set(snapshot(bytes(top), content=False)) - {b""}


def wait_for_names(world: World, daemon: Daemon) -> None:
    """Wait until both trees hold the same names: with the arguments of clsync 0.4 rsync copies times by the second."""
    daemon.wait_until(lambda: names(world.source) == names(world.destination), what="the same names")


# -- what is gone, and what comes in its place -----------------------------------------------------------------


@BOTH
def test_directories_that_are_gone_leave_nothing_behind(world: World, defaults: tuple[str, ...]) -> None:
    """Renamed, moved out or deleted, with what they hold."""
    for name in ("renamed", "out", "deleted"):
        world.write(f"{name}/d/file")
    with world.daemon("-Mrsyncdirect", *defaults) as daemon:
        daemon.wait_for_log(SYNCED)
        assert names(world.destination) == names(world.source)
        (world.source / "renamed").rename(world.source / "new name")
        (world.source / "out").rename(world.top / "out")
        shutil.rmtree(world.source / "deleted")
        wait_for_names(world, daemon)
    assert names(world.destination) == {b"new name", b"new name/d", b"new name/d/file"}


@BOTH
def test_a_new_directory_by_the_name_of_one_that_was_renamed(world: World, defaults: tuple[str, ...]) -> None:
    """It is watched; so is one that was renamed there and back, by its own name."""
    for name in ("x/d/old", "y/old"):
        world.write(name)
    with world.daemon("-Mrsyncdirect", "--monitor=inotify", *defaults) as daemon:
        daemon.wait_for_log(SYNCED)
        (world.source / "x").rename(world.source / "z")
        wait_for_names(world, daemon)
        (world.source / "x/d").mkdir(parents=True)
        (world.source / "y").rename(world.source / "away")
        (world.source / "away").rename(world.source / "y")
        wait_for_names(world, daemon)
        for name in ("x/new", "x/d/new", "y/new", "z/d/new"):
            world.write(name)
            world.wait_for_copy(daemon, name)
        assert names(world.destination) == names(world.source)


# -- names -----------------------------------------------------------------------------------------------------

PATTERNS = (
    b"back\\slash", b"a]b", b"st*ar", b"br[ack", b"[x]", b"q?m", b"b\\*th", b"\\", b"new\nline", b"-rf", b"#a", b";b",
    b" ", b"trail ", b"\xff\xfe", b"per%cent",
)  # fmt: skip
"""What rsync might take for a pattern, an escape, a comment or an option."""
TEMPLATES = (b"%TYPE%", b"%PID%", b"%label%", b"%watch-dir%", b"per%cent", b"%x", b"100%", b"%", b"%%", b"-n")
"""What clsync 0.4 took for a macro, or its handler for an option."""


def make(top: bytes, *paths: bytes) -> None:
    """Make files, directories above them included."""
    for path in paths:
        place = os.path.join(top, path)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(place, "wb") as file:
            file.write(path)


@BOTH
def test_rsync_is_told_of_any_name(world: World, defaults: tuple[str, ...]) -> None:
    """Of one that is made after the start, of one that is changed, and of one that is deleted."""
    top = os.fsencode(world.source)
    with world.daemon("-Mrsyncdirect", *defaults) as daemon:
        daemon.wait_for_log(SYNCED)
        make(top, *PATTERNS, *(b"d/%b/%b" % (name, name) for name in PATTERNS))
        wait_for_names(world, daemon)
        for name in PATTERNS:
            make(top, os.path.join(b"d", name, b"another"))
        wait_for_names(world, daemon)
        for name in PATTERNS[::2]:
            os.unlink(os.path.join(top, name))
            shutil.rmtree(os.path.join(top, b"d", name))
        wait_for_names(world, daemon)


@BOTH
@pytest.mark.parametrize("mode", ["direct", "simple"])
def test_names_are_no_templates(world: World, mode: str, defaults: tuple[str, ...]) -> None:
    """Nor are those of directories; none is an option, and none ends the program."""
    top = os.fsencode(world.source)
    below = [b"d%TYPE%/" + name for name in TEMPLATES]
    make(top, *TEMPLATES)
    recorder = Recorder(world.top)

    def told() -> set[bytes]:
        if mode == "simple":
            return {call.arguments[-1].removeprefix(top + b"/") for call in recorder.calls}
        return {argument for call in recorder.calls for argument in call.arguments[:-1]}

    with world.daemon(f"-M{mode}", recorder.option, "-llab", *defaults) as daemon:
        daemon.wait_for_log(SYNCED)
        make(top, *below)
        daemon.wait_until(lambda: told() >= set(below), what="all names")
        plain = {b"./-n" if name == b"-n" and mode == "direct" else name for name in TEMPLATES}
        assert told() - {b".", top} == {*plain, b"d%TYPE%", *below}


# -- lists -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rules", ["-*\n", "-*", "-d^$\n"])
@BOTH
def test_rules_that_reject_everything_copy_nothing(world: World, defaults: tuple[str, ...], rules: str) -> None:
    plant(world)
    options = ("-Mrsyncdirect", f"-R{world.file('rules', rules)}", "--only-initialsync")
    done = world.run(*world.trees, *defaults, *options)
    assert done.code == Exit.OK, done.err
    assert names(world.destination) == set()


def test_each_part_of_a_list_has_all_that_is_excluded(world: World) -> None:
    recorder = Recorder(world.top, 'exec rsync "$@"')
    options = (*LEGACY, "--rsync-inclimit=1", f"-R{world.file('rules', '-f[.]o$')}", "-t0.5")
    with world.daemon("-Mrsyncdirect", recorder.option, *options) as daemon:
        daemon.wait_for_log(SYNCED)
        for name in ("one", "two", "three"):
            make(os.fsencode(world.top), *(os.fsencode(f"{name}/{file}") for file in ("x.o", "d/x.o", "d/x")))
        with daemon.held():  # they are one batch
            for name in ("one", "two", "three"):
                (world.top / name).rename(world.source / name)
        for name in ("one", "two", "three"):
            daemon.wait_until((world.destination / name / "d/x").exists, what=name)
        daemon.stop(signal.SIGQUIT)
    assert max(Counter(call.iteration for call in recorder.calls).values()) >= 3, "one batch was split"
    assert {name for name in names(world.destination) if name.endswith(b".o")} == set()


@BOTH
def test_what_is_rejected_in_a_directory_that_is_filled_later(world: World, defaults: tuple[str, ...]) -> None:
    """Within one window, and after it."""
    options = (*defaults, f"-R{world.file('rules', '-f[.]o$')}", "-t0.3")
    with world.daemon("-Mrsyncdirect", *options) as daemon:
        daemon.wait_for_log(SYNCED)
        (world.source / "new").mkdir()
        world.write("new/d/x.o")
        world.write("new/x.o")
        world.write("new/x")
        world.wait_for_copy(daemon, "new/x")
        world.write("new/late.o")
        world.write("new/d/late")
        world.wait_for_copy(daemon, "new/d/late")
        daemon.stop(signal.SIGQUIT)
    assert names(world.destination) == {b"new", b"new/x", b"new/d", b"new/d/late"}


@pytest.mark.parametrize("mode", ["direct", "shell"])
@BOTH
def test_without_a_list_a_program_is_run_once_a_batch(world: World, defaults: tuple[str, ...], mode: str) -> None:
    """And counted."""
    plant(world)
    recorder = Recorder(world.top)
    with world.daemon(f"-M{mode}", recorder.option, *defaults, "-t0.5", "-llab", "--", "fixed", "%label%") as daemon:
        daemon.wait_for_log(SYNCED)
        with daemon.held():  # they are one batch
            for name in ("one", "two", "three"):
                world.write(f"a/{name}")
        recorder.wait_for_calls(daemon, 2)
        daemon.stop(signal.SIGQUIT)
    assert [(call.iteration, call.arguments) for call in recorder.calls] == [(n, [b"fixed", b"lab"]) for n in (1, 2)]


@pytest.mark.parametrize(
    ("objects", "arguments", "runs"),
    [
        (200, ("%INCLUDE-LIST%", "--", "%INCLUDE-LIST%"), 1),
        (254, ("%INCLUDE-LIST%", "x"), 1),
        (255, ("%INCLUDE-LIST%", "x"), 2),
        (5, (*map(str, range(300)), "%INCLUDE-LIST%"), 5),
    ],
)
def test_any_number_of_objects_and_arguments(
    world: World, objects: int, arguments: tuple[str, ...], runs: int
) -> None:
    """No run is without objects, and no object is named but once a macro."""
    for number in range(objects - 1):
        (world.source / f"f{number}").touch()
    recorder = Recorder(world.top)
    options = ("-Mdirect", recorder.option, "--only-initialsync", "--", *arguments)
    done = world.run(*world.trees, *options)
    assert done.code == Exit.OK, done.err
    assert len(recorder.calls) == runs
    told = Counter(argument for call in recorder.calls for argument in call.arguments)
    expected = {b".", *(b"f%d" % number for number in range(objects - 1))}
    assert {told[name] for name in expected} == {arguments.count("%INCLUDE-LIST%")}
    assert all(expected & set(call.arguments) for call in recorder.calls)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (("-Mdirect", "-L{lists}"), 0),
        (("-Mshell", "-L{lists}"), 0),
        (("-Mrsyncshell", "-L{lists}", "--", "%INCLUDE-LIST-PATH%"), 0),
        (("-Mrsyncshell", "-L{lists}", "--", "%EXCLUDE-LIST-PATH%"), 0),
        (("-Mrsyncshell",), 0),
        (("-Mdirect", "-U"), 0),
        (("-Mshell", "-U"), 1),
        (("-Mrsyncshell", "-U"), 2),
    ],
)
def test_list_files_that_are_left(world: World, options: tuple[str, ...], kept: int) -> None:
    """None, nor the directory that was made for them; with -U just those that were written."""
    plant(world)
    lists, temporary = world.top / "lists", world.top / "tmp"
    temporary.mkdir()
    said = [option.format(lists=lists) for option in options]
    done = world.run(*world.trees, "-Strue", "--only-initialsync", *said, env={"TMPDIR": os.fspath(temporary)})
    assert done.code == Exit.OK, done.err
    found = [path for place in (lists, temporary) for path in place.rglob("*")]
    assert len([path for path in found if path.is_file()]) == kept
    assert len([path for path in found if path.is_dir()]) == bool(kept)


# -- the surroundings of programs ------------------------------------------------------------------------------

MASKS = (
    'while read -r key mask; do case $key in SigBlk:|SigIgn:) echo "$mask" ;; esac; done </proc/self/status >>{log}'
)
"""Which signals a shell blocks and ignores (proc_pid_status(5)); while it starts another program it blocks all."""
ORDINARY = 0x7FFFFFFF
"""Signals 1 to 31: the two after them belong to the C library, and may be inherited."""
BLOCKING = (
    "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, {1, 2, 3, 10, 12, 14, 15, 17, 29});"
    " signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
)
"""Runs a command with signals blocked, and with the ends of its children ignored."""


@pytest.mark.parametrize(
    "options",
    [("-Mdirect",), ("-Msimple",), ("-Mshell",), ("-Mrsyncshell",), ("-Mrsyncdirect",), ("-Mdirect", "-psafe")],
    ids=" ".join,
)
def test_programs_block_and_ignore_no_signal(world: World, options: tuple[str, ...]) -> None:
    """They can be ended politely, whatever clsync itself was started with. Nor do hooks."""
    log = world.top / "masks"
    recorder = Recorder(world.top, f'{MASKS.format(log=log)}\n[ "$CLSYNC_STATUS" ] || exec rsync "$@"')
    hook = world.file("hook", f"#!/bin/sh\n{MASKS.format(log=log)}\n", 0o755)
    program = (sys.executable, "-c", BLOCKING, installed())
    arguments = (*world.trees, *QUICK, *options, recorder.option, f"--exit-hook={hook}")
    with Daemon(*arguments, program=program, env=world.environment, cwd=world.top) as daemon:
        daemon.wait_for_log(SYNCED)
        world.write("file")
        recorder.wait_for_calls(daemon, 2)
        daemon.stop(signal.SIGQUIT)
    lines = log.read_text().splitlines()
    assert len(lines) >= 6
    assert {int(line, 16) & ORDINARY for line in lines} == {0}


def test_exit_codes_count_whatever_clsync_was_started_with(world: World) -> None:
    head = (sys.executable, "-c", BLOCKING)
    for code in (0, 7):
        recorder = Recorder(world.top, f"exit {code}")
        done = world.run(*world.trees, "-Mdirect", recorder.option, "--only-initialsync", "--retries=1", head=head)
        assert done.code == code, done.err


def test_the_program_of_the_path_goes_before_a_file_of_that_name(world: World) -> None:
    """Which lies where clsync was started."""
    world.write("file")
    world.file("rsync", f"#!/bin/sh\ntouch {world.top}/mistaken\n", 0o755)
    for options in ((), LEGACY):
        done = world.run(*world.trees, "-Mrsyncdirect", "-Srsync", "--only-initialsync", *options)
        assert done.code == Exit.OK, done.err
    assert world.copied("file") == "file"
    assert not (world.top / "mistaken").exists()


@pytest.mark.parametrize(("destination", "sign"), [("there:/no/where", "asked"), ("localhost::nowhere", "connect")])
def test_a_host_needs_no_user_name(world: World, destination: str, sign: str) -> None:
    """It is asked for the directory, which is none of this machine."""
    (world.top / "bin").mkdir()
    world.file("bin/ssh", "#!/bin/sh\necho asked there: $* >&2\nexit 255\n", 0o755)
    environment = {"PATH": f"{world.top}/bin:{os.environ['PATH']}", "RSYNC_CONNECT_PROG": "echo connect >&2; exit 9"}
    done = world.run(f"-W{world.source}", f"-D{destination}", "--only-initialsync", "--retries=1", env=environment)
    assert done.code not in (Exit.OK, Exit.DESTINATION), done.err
    assert f"to {destination} in mode rsyncdirect" in done.err
    assert sign in done.err


# -- signals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_no_program_is_started_after_int_and_term(world: World, number: int) -> None:
    """Where each object has a run of its own."""
    plant(world)
    recorder = Recorder(
        world.top, f"trap 'touch {world.top}/ended; exit 1' TERM\ntouch {world.top}/begun\nsleep 600 & wait"
    )
    with world.daemon("-Msimple", recorder.option) as daemon:
        daemon.wait_until((world.top / "begun").exists, what="the handler")
        daemon.stop(number, code=Exit.INCOMPLETE, timeout=30)
    assert len(recorder.calls) == 1
    assert (world.top / "ended").exists(), "it was killed"


def test_quit_in_the_initial_sync_is_not_lost(world: World) -> None:
    plant(world)
    recorder = Recorder(world.top, f"while [ ! -e {world.top}/go ]; do sleep 0.02; done")
    with world.daemon("-Msimple", recorder.option) as daemon:
        recorder.wait_for_calls(daemon, 1)
        os.kill(daemon.pid, signal.SIGQUIT)
        world.file("go", "")
        assert daemon.wait() == Exit.OK
    assert len(recorder.calls) == len(PLANTED)


def test_term_before_anything_is_watched_leaves_no_file(world: World) -> None:
    """It comes after the status file was written; whether that is before anything is watched is a matter of luck."""
    pid, status = world.top / "pid", world.top / "status"
    for _ in range(50):
        with world.daemon(f"-z{pid}", f"--status-file={status}") as daemon:
            while not status.exists():
                assert daemon.running, daemon.tail
            daemon.stop(code=None)
            early = WATCHING not in daemon.output
        assert not pid.exists()
        assert not status.exists()
        if early:
            return
    pytest.fail("it was never early enough")


def watches(daemon: Daemon) -> int:
    """Return how many inotify watches the program has (proc_pid_fdinfo(5))."""
    found = 0
    for file in Path(f"/proc/{daemon.pid}/fdinfo").iterdir():
        try:
            found += file.read_text().count("inotify wd:")
        except OSError:
            continue  # it was closed
    return found


@BOTH
def test_hup_watches_by_the_new_rules(world: World, defaults: tuple[str, ...]) -> None:
    """What they permit, and no longer what they reject."""
    rules = world.file("rules", "-d^d$\n")
    world.write("d/e/early")
    with world.daemon("-Mrsyncdirect", f"-R{rules}", "--monitor=inotify", *defaults) as daemon:
        daemon.wait_for_log(SYNCED)
        few = watches(daemon)
        rules.write_text("")
        os.kill(daemon.pid, signal.SIGHUP)
        world.wait_for_copy(daemon, "d/e/early")
        daemon.wait_until(lambda: watches(daemon) == few + 2, what="two watches more")
        world.write("d/e/new")
        world.wait_for_copy(daemon, "d/e/new")
        rules.write_text("-d^d$\n")
        os.kill(daemon.pid, signal.SIGHUP)
        daemon.wait_until(lambda: watches(daemon) == few, what="two watches less")
        world.write("d/e/late")
        world.write("marker")
        world.wait_for_copy(daemon, "marker")
        assert world.copied("d/e/late") is None


# -- the course of a run ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["direct", "simple", "shell"])
def test_full_initialsync_is_a_sync_in_all_modes(world: World, mode: str) -> None:
    world.write("x.o")
    recorder = Recorder(world.top, 'case $1 in synclist) cat "$3" ;; esac >>list')
    options = (
        f"-M{mode}",
        f"-S{recorder.program}",
        f"-R{world.file('rules', '-f[.]o$')}",
        "-F",
        "--only-initialsync",
    )
    done = world.run(*world.trees, *options)
    assert done.code == Exit.OK, done.err
    told = b" ".join(argument for call in recorder.calls for argument in call.arguments)
    listed = world.source / "list"
    assert b"x.o" in told + listed.read_bytes()


@pytest.mark.parametrize("mode", ["direct", "simple"])
@pytest.mark.parametrize("number", [1, 2, 4])
def test_new_directories_are_no_iterations(world: World, mode: str, number: int) -> None:
    """Batches are counted, in mode simple too."""
    once = f"[ -e {world.source}/new.$CLSYNC_ITERATION ] || mkdir -p {world.source}/new.$CLSYNC_ITERATION/d"
    recorder = Recorder(world.top, once)
    done = world.run(*world.trees, f"-M{mode}", recorder.option, f"--max-iterations={number}", *AT_ONCE)
    assert done.code == Exit.OK, done.err
    assert {call.iteration for call in recorder.calls} == set(range(1, number + 1))


@pytest.mark.parametrize("options", [("--only-initialsync",), ("--exit-on-no-events",), ("--max-iterations=2",), ()])
def test_a_run_that_a_timeout_ends_has_failed(world: World, options: tuple[str, ...]) -> None:
    recorder = Recorder(world.top, "sleep 600 & wait")
    done = world.run(*world.trees, "-Mdirect", recorder.option, "--timeout-sync=0.3", "--retries=1", *options)
    assert done.code == Exit.INCOMPLETE, done.err
    assert "took longer than --timeout-sync" in done.err


def test_the_phase_is_told_without_an_event(world: World) -> None:
    """After the initial sync, after another one, and after rules were read again."""
    status = world.top / "status"
    recorder = Recorder(world.top, f"while [ -e {world.top}/held ]; do sleep 0.02; done")
    rules = world.file("rules", "")
    options = ("-Mdirect", recorder.option, f"--status-file={status}", f"-R{rules}")

    def reaches(word: str) -> None:
        daemon.wait_until(lambda: status.exists() and status.read_text() == word, what=word)

    held = world.file("held", "")
    with world.daemon(*options) as daemon:
        reaches("initsync")
        held.unlink()
        reaches("running")
        held.touch()
        os.kill(daemon.pid, signal.SIGUSR2)
        recorder.wait_for_calls(daemon, 2)
        assert recorder.calls[1].status == "initsync"
        held.unlink()
        reaches("running")
        held.touch()
        rules.write_text("-f[.]o$\n")
        os.kill(daemon.pid, signal.SIGHUP)
        recorder.wait_for_calls(daemon, 3)
        held.unlink()
        reaches("running")
        for text, answer in (("-f[.]o$\n", "nothing has changed"), ("-q\n", "the old rules stay in force")):
            rules.write_text(text)
            os.kill(daemon.pid, signal.SIGHUP)
            daemon.wait_for_log(answer)
            reaches("running")


# -- files -----------------------------------------------------------------------------------------------------


def test_relative_paths_are_those_of_the_start_directory(world: World) -> None:
    """None of them is in the watched tree, where it would be synced."""
    options = ("--pid-file=pid", "--status-file=status", "-Llists", "--dump-dir=dump", "--standby-file=standby")
    with world.daemon("-Mshell", "-Strue", "-U", *options, "-s", "socket") as daemon:
        daemon.wait_for_log(SYNCED)
        os.kill(daemon.pid, signal.SIGIO)
        daemon.wait_for_log("the state is written to")
        made = {"pid", "status", "lists", "dump", "socket"}
        assert made <= set(os.listdir(world.top))
        assert os.listdir(world.top / "lists")
        assert os.listdir(world.source) == []
        world.file("standby", "")
        world.write("file")
        daemon.wait_for_log("standby file")


ON_A_TERMINAL = (
    "import os, sys; own = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY); [os.dup2(own, n) for n in (0, 1, 2)];"
    " os.close(own); os.execv(sys.argv[2], sys.argv[2:])"
)


def descriptors(pid: int) -> set[str]:
    """Return what a process has open; what it closes meanwhile may be left out."""
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.add(os.readlink(link))
    return found


def test_a_daemon_lets_go_of_its_terminal(world: World) -> None:
    """None of its descriptors keeps it."""
    inside, outside = pty.openpty()
    terminal = os.ttyname(outside)
    pid_file = world.top / "pid"
    program = (sys.executable, "-c", ON_A_TERMINAL, terminal, installed())
    daemon = Daemon(
        *world.trees, *QUICK, "-b", f"-z{pid_file}", program=program, env=world.environment, cwd=world.top
    )
    try:
        daemon.start()
        assert daemon.process is not None
        assert daemon.process.wait(20) == Exit.OK
        pid = int(pid_file.read_text())
        until(lambda: terminal not in descriptors(pid), daemon)
        os.kill(pid, signal.SIGTERM)
        until(lambda: not daemon.family(), daemon)
    finally:
        daemon.kill()
        os.close(outside)
        os.close(inside)
