"""--splitting: one process has the rights, another one the say."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from clsync.kernel.cgroups import hierarchies
from clsync.kernel.sandbox import trouble_with
from tests.support.churn_run import Settings, run_seed
from tests.support.daemon import Argument, Daemon
from tests.support.recorder import Recorder
from tests.system.world import ROOT, SYNCED, WATCHING, World, mounted

SPLIT = "--splitting=process"
NOBODY = 65534
NEEDS_GROUPS = pytest.mark.skipif(not hierarchies(), reason="needs groups of processes")
GONE = "the privileged process is gone"


@pytest.fixture
def closed(world: World) -> Iterator[World]:
    """Return a world that root alone may enter."""
    world.top.chmod(0o700)
    for tree in (world.source, world.destination):
        tree.chmod(0o700)
    os.umask(0o077)
    yield world
    os.umask(0o022)


def status_of(task: Path) -> dict[str, str]:
    """Return the fields of proc_pid_status(5)."""
    return dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines() if ":\t" in line)


def statuses_of(pid: int) -> dict[int, dict[str, str]]:
    """Return the fields of every thread that does not end meanwhile."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            found[int(task.name)] = status_of(task)
    return found


def worker_of(daemon: Daemon) -> int:
    """Return the process without rights."""
    found: list[int] = []

    def seen() -> bool:
        found[:] = workers_of(daemon)
        return bool(found)

    daemon.wait_until(seen, what="a process without rights")
    return found[0]


def workers_of(daemon: Daemon) -> list[int]:
    """Return the processes that call themselves workers; what else it has started may have no rights either."""
    found = []
    for pid in Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split():
        with suppress(FileNotFoundError, ProcessLookupError):
            status = status_of(Path("/proc") / pid)
            if status["Name"] == "clsync-worker" and status["NoNewPrivs"] == "1":
                found.append(int(pid))
    return found


def held_by(pid: int, *kinds: str) -> set[str]:
    """Return what a process holds open whose name begins in one of these ways."""
    links = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            links.add(os.readlink(path))
    return {link for link in links if link.startswith(kinds)}


def processor_time(pid: int) -> int:
    """Return the processor time of a process, in ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def bits(hexadecimal: str) -> int:
    """Return a set of capabilities."""
    return int(hexadecimal, 16)


# -- who has which rights --------------------------------------------------------------------------------------


@ROOT
def test_the_worker_is_nobody_and_can_do_nothing(closed: World) -> None:
    with closed.daemon(SPLIT, "-Mcopy") as daemon:
        daemon.wait_for_log(SYNCED)
        worker = worker_of(daemon)
        for found in statuses_of(worker).values():
            assert set(found["Uid"].split()) == set(found["Gid"].split()) == {str(NOBODY)}
            assert found["Groups"].split() == []
            assert [bits(found[f"Cap{which}"]) for which in ("Inh", "Prm", "Eff", "Bnd", "Amb")] == [0] * 5
            assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
        assert os.getsid(worker) == worker, "it shares a terminal with whoever has started it"
        limits = Path(f"/proc/{worker}/limits").read_text()
        assert next(line for line in limits.splitlines() if "Max processes" in line).split()[2:4] == ["0", "0"]


@ROOT
def test_the_worker_holds_nothing_of_the_tree(closed: World) -> None:
    """No descriptor of it leads anywhere: the tree is looked at by the broker alone."""
    with closed.daemon(SPLIT, "-Mcopy", "--monitor=fanotify") as daemon:
        daemon.wait_for_log(SYNCED)
        closed.write("file")
        closed.wait_for_copy(daemon, "file")
        inside = (str(closed.source), str(closed.destination), "anon_inode:[fanotify]", "anon_inode:inotify")
        assert not held_by(worker_of(daemon), *inside)


@ROOT
def test_the_broker_keeps_what_its_work_takes(closed: World) -> None:
    with closed.daemon(SPLIT, "-Mcopy") as daemon:
        daemon.wait_for_log(SYNCED)

        def keeps_little(found: dict[str, str]) -> bool:
            kept = bits(found["CapEff"])
            needless = [number for number in (12, 13, 16, 18, 22, 25) if kept & 1 << number]
            return kept == bits(found["CapPrm"]) and bool(kept & 1 << 1) and not needless  # 1: CAP_DAC_OVERRIDE

        # One that starts a program has all rights of the starter for this moment.
        daemon.wait_until(lambda: all(map(keeps_little, statuses_of(daemon.pid).values())), what="few capabilities")
        assert {found["Uid"].split()[0] for found in statuses_of(daemon.pid).values()} == {"0"}


_TRIES = """
import os, socket, sys
from clsync.options import load
from clsync.privilege.carry import Confinement
options = list(map(os.fsencode, sys.argv[2:]))
settings = load([b"-W/", b"-D/tmp", b"--splitting=process", *options], {}, lambda name: None, 1)
Confinement(settings, lambda text: None).become_worker(alone=True)
other = socket.socketpair()[1]
for what, attempt in (
    ("open", lambda: open(sys.argv[1])),
    ("fork", os.fork),
    ("spawn", lambda: os.posix_spawn("/bin/true", ["true"], {})),
    ("send", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)),
    ("be local", lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)),
    ("be a pair", lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)),
    ("connect", lambda: other.connect(b"\\0nobody")),
    ("become root", lambda: os.setuid(0)),
):
    try:
        attempt()
    except OSError as error:
        print(what, type(error).__name__)
    else:
        print(what, "done")
"""


@ROOT
@pytest.mark.parametrize("calls", ["", "--seccomp-filter"])
@pytest.mark.parametrize("output", ["stderr", "syslog"])
def test_who_has_given_up_all_cannot_read_nor_start_anything(closed: World, output: str, calls: str) -> None:
    """To the system log it may be connected, where messages go there: nobody can tell that socket from others."""
    secret = closed.file("secret", "secret", 0o600)
    words: list[Argument] = [sys.executable, "-c", _TRIES, secret, f"--output={output}", *([calls] if calls else [])]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    refused, starts = "PermissionError", "PermissionError" if calls else "BlockingIOError"
    reached = ["done", "done", "ConnectionRefusedError"] if output == "syslog" else [refused] * 3
    assert done.stdout.splitlines() == [
        f"open {refused}",
        f"fork {starts}",
        f"spawn {starts}",
        f"send {refused}",
        f"be local {reached[0]}",
        f"be a pair {reached[1]}",
        f"connect {reached[2]}",
        *([] if calls else [f"become root {refused}"]),
    ], done.stderr
    assert done.returncode == (-signal.SIGSYS if calls else 0)


_LISTS = """
import os, socket, sys
from clsync.kernel import sandbox
from clsync.kernel.landlock import READ_DIR, WRITE, Allowed
from clsync.privilege.profiles import scan_sandbox
source, state = map(os.fsencode, sys.argv[1:])
sandbox.use(frozenset(("landlock", "seccomp", "capabilities")))
sandbox.stay_within(scan_sandbox(), (Allowed(source, READ_DIR), Allowed(state, WRITE)))
print(sorted(os.listdir(source)), os.lstat(source + b"/file").st_size)
os.close(os.open(state + b"/written", os.O_CREAT | os.O_RDWR))
for what, attempt in (
    ("read a file", lambda: os.open(source + b"/file", os.O_RDONLY)),
    ("write one", lambda: os.open(source + b"/new", os.O_CREAT | os.O_WRONLY)),
    ("remove one", lambda: os.unlink(source + b"/file")),
    ("list elsewhere", lambda: os.listdir("/etc")),
    ("start a program", lambda: os.execv("/bin/true", ["true"])),
    ("be connected", lambda: socket.socket(socket.AF_INET)),
    ("be root again", lambda: os.setuid(0)),
):
    try:
        attempt()
    except PermissionError:
        pass
    else:
        print(what)
"""


@ROOT
@pytest.mark.skipif(any(map(trouble_with, ("landlock", "seccomp"))), reason="needs Landlock and filters")
def test_a_scanner_may_list_and_nothing_else(closed: World) -> None:
    closed.write("file", "text")
    state = closed.top / "state"
    state.mkdir()
    words: list[Argument] = [sys.executable, "-c", _LISTS, closed.source, state]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == "[b'file'] 4\n"


@ROOT
def test_two_threads(closed: World) -> None:
    """The one that decides has no rights; all files are removed in spite of that."""
    pid_file = closed.top / "pid"
    with closed.daemon("--splitting=thread", "-z", pid_file) as daemon:
        daemon.wait_for_log(SYNCED)
        closed.write("file")
        closed.wait_for_copy(daemon, "file")
        main = status_of(Path(f"/proc/{daemon.pid}/task/{daemon.pid}"))
        assert (main["Uid"].split()[1], bits(main["CapEff"])) == (str(NOBODY), 0)
        assert "0" in [found["Uid"].split()[1] for found in statuses_of(daemon.pid).values()]
        assert pid_file.read_text() == str(daemon.pid)
    assert not pid_file.exists()


@pytest.mark.parametrize(
    ("value", "number"), [("off", 0), ("thread", 0), ("process", 1), ("0", 0), ("1", 0), ("2", 1)]
)
def test_ways_of_splitting_have_names_and_numbers(world: World, value: str, number: int) -> None:
    with world.daemon(f"--splitting={value}", "-Mcopy") as daemon:
        daemon.wait_for_log(SYNCED)
        assert len(workers_of(daemon)) == number


def test_a_way_of_splitting_that_there_is_not(world: World) -> None:
    message, hint = world.run(*world.trees, "--splitting=3").complaint(22)
    assert "--splitting" in message
    assert "off, thread, process" in hint


# -- all of it goes on as before -------------------------------------------------------------------------------


@ROOT
@pytest.mark.parametrize("monitor", ["fanotify", "inotify", "poll"])
@pytest.mark.parametrize("mode", ["rsyncdirect", "copy"])
def test_a_tree_that_only_root_may_read(closed: World, mode: str, monitor: str) -> None:
    closed.write("before/one")
    with closed.daemon(SPLIT, f"-M{mode}", f"--monitor={monitor}", "--poll-interval=0.1") as daemon:
        daemon.wait_for_log(SYNCED)
        closed.write("after/deep/two")
        os.link(closed.source / "before/one", closed.source / "after/linked")
        (closed.source / "before/one").chmod(0o640)
        closed.wait_for_equal(daemon)


@ROOT
@pytest.mark.parametrize("mode", ["direct", "simple", "shell", "rsyncshell"])
def test_handlers_are_run_with_all_rights_and_told_what_goes_on(closed: World, mode: str) -> None:
    rights = closed.top / "rights"
    recorder = Recorder(closed.top, f"cat /proc/self/status >{rights}-begun && mv {rights}-begun {rights}")
    with closed.daemon(SPLIT, f"-M{mode}", recorder.option) as daemon:
        first = recorder.wait_for_calls(daemon, 1)[0]
        daemon.wait_for_log(SYNCED)
        before = len(recorder.calls)
        closed.write("file")
        last = recorder.wait_for_calls(daemon, before + 1)[-1]
        assert (first.status, last.status) == ("initsync", "running")
        assert last.iteration > 0
        daemon.wait_until(rights.exists, what="rights")
        found = dict(line.split(":\t", 1) for line in rights.read_text().splitlines() if ":\t" in line)
        assert found["Uid"].split()[0] == "0"
        assert bits(found["CapEff"]) == bits(status_of(Path("/proc/self"))["CapEff"])
        assert found["NoNewPrivs"] == "0"


@ROOT
def test_hooks_are_run_with_all_rights_and_told_what_goes_on(closed: World) -> None:
    log = closed.top / "hooks"
    hook = closed.file("hook", f'#!/bin/sh\necho "$CLSYNC_STATUS" "$CLSYNC_ITERATION" $(id -u) "$1" >>{log}\n', 0o755)
    closed.write("file")
    daemon = closed.daemon(
        SPLIT, "-Mcopy", "-llabel", "--exit-on-no-events", f"--pre-exit-hook={hook}", f"--exit-hook={hook}"
    )
    with daemon:
        daemon.wait()
    (pre, *iteration), (last, *_) = (line.split() for line in log.read_text().splitlines())
    assert (pre, last) == ("preexit", "exiting")
    assert iteration[1:] == ["0", "label"]
    assert int(iteration[0]) > 0


@ROOT
@pytest.mark.parametrize(
    ("mode", "monitor", "rules"),
    [("rsyncdirect", "fanotify", True), ("rsyncdirect", "inotify", False), ("copy", "fanotify", False)],
)
def test_churn(mode: str, monitor: str, rules: bool) -> None:
    settings = Settings(mode=mode, monitor=monitor, rules=rules, seconds=1, extra=(SPLIT,))
    result = run_seed(20_260, settings)
    assert not result.failed, result.details


def test_without_root_there_are_two_as_well(world: World) -> None:
    with world.daemon(SPLIT, "-Mcopy") as daemon:
        daemon.wait_for_log(WATCHING)
        world.write("file")
        world.wait_for_copy(daemon, "file")
        assert worker_of(daemon) != daemon.pid


@ROOT
def test_an_idle_daemon_rests(closed: World) -> None:
    # What others do on the same file system is work for it.
    with mounted("tmpfs", closed.source, "mode=700"), closed.daemon(SPLIT) as daemon:
        daemon.wait_for_log(SYNCED)
        both = daemon.pid, worker_of(daemon)

        def rests() -> bool:
            before = [processor_time(pid) for pid in both]
            time.sleep(2)  # what is to be shown is that nothing happens
            after = [processor_time(pid) for pid in both]
            return max(b - a for a, b in zip(before, after, strict=True)) <= 10  # ticks of 10 ms

        # What comes after the initial sync is work, and nobody can tell from outside when it is over.
        daemon.wait_until(rests, what="rest")


# -- the course of a run ---------------------------------------------------------------------------------------


@ROOT
def test_files_are_made_and_removed_by_who_may(closed: World) -> None:
    pid_file, status_file, path = closed.top / "pid", closed.top / "status", closed.top / "socket"
    with closed.daemon(SPLIT, "-Mcopy", "-z", pid_file, f"--status-file={status_file}", "--socket", path) as daemon:
        daemon.wait_for_log(SYNCED)
        assert pid_file.read_text() == str(daemon.pid)
        daemon.wait_until(lambda: status_file.read_text() == "running", what="running")
        told = closed.run("ctl", "-s", path, "--json", "status")
        assert json.loads(told.out)["pid"] == daemon.pid
        assert closed.run("ctl", "-s", path, "stop").code == 0
        assert not [file for file in (pid_file, status_file, path) if file.exists()]
        daemon.wait(code=None)


@ROOT
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGQUIT, 0)])
def test_signals_that_end_go_to_the_first_process(closed: World, sent: int, code: int) -> None:
    with closed.daemon(SPLIT, "-Mcopy") as daemon:
        daemon.wait_for_log(SYNCED)
        closed.write("file")
        closed.wait_for_copy(daemon, "file")
        assert daemon.stop(sent, code=code) in (0, 3)


@ROOT
def test_the_state_is_written_where_root_says(closed: World) -> None:
    """In the configuration, or at the control socket."""
    dump, path = closed.top / "dump", closed.top / "socket"
    with closed.daemon(SPLIT, "-Mcopy", f"--dump-dir={dump}", "--socket", path) as daemon:
        daemon.wait_for_log(SYNCED)
        os.kill(daemon.pid, signal.SIGIO)
        daemon.wait_for_log("the state is written to")
        assert "status == " in (dump / "instance").read_text()
        assert tell(closed, path, "dump", str(closed.top / "another"))[0] == 0
        assert "status == " in (closed.top / "another/instance").read_text()


@ROOT
def test_rules_are_read_again_by_who_may_read_them(closed: World) -> None:
    rules = closed.file("rules", "-f^no$\n", 0o600)
    closed.write("no")
    with closed.daemon(SPLIT, "-Mcopy", f"-R{rules}") as daemon:
        daemon.wait_for_log(SYNCED)
        assert closed.copied("no") is None
        rules.write_text("-f^other$\n")
        os.kill(daemon.pid, signal.SIGHUP)
        closed.wait_for_copy(daemon, "no")
        rules.write_text("nonsense\n")
        os.kill(daemon.pid, signal.SIGHUP)
        daemon.wait_for_log("the old rules stay in force")


@ROOT
def test_a_run_that_is_meant_to_end(closed: World) -> None:
    closed.write("file")
    with closed.daemon(SPLIT, "-Mcopy", "--max-iterations=1") as daemon:
        assert daemon.wait() == 0
    closed.demand_equal()


@ROOT
def test_the_exit_code_of_a_handler_that_fails(closed: World) -> None:
    recorder = Recorder(closed.top, "exit 7")
    with closed.daemon(SPLIT, "-Mdirect", recorder.option, "--retries=2") as daemon:
        assert daemon.wait(code=7) == 7
    assert len(recorder.calls) == 2


@ROOT
def test_what_hinders_the_start_is_told(closed: World) -> None:
    message, hint = closed.run(
        *closed.trees, SPLIT, "--monitor=fanotify", env={"CLSYNC_WITHOUT": "fanotify"}
    ).complaint(6)
    assert "--monitor=fanotify cannot watch" in message
    assert hint


@ROOT
def test_the_background(closed: World) -> None:
    daemon = closed.daemon(SPLIT, "-b", "-Mcopy", "-z", closed.top / "pid")
    try:
        process = daemon.start().process
        assert process is not None
        assert process.wait(20) == 0
        pid = int((closed.top / "pid").read_text())
        assert len(daemon.family()) >= 2
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 10
        while daemon.family():
            assert time.monotonic() < deadline, daemon.tail
            time.sleep(0.01)
        assert not (closed.top / "pid").exists()
    finally:
        daemon.kill()


# -- one of the two dies ---------------------------------------------------------------------------------------


@ROOT
def test_the_worker_is_killed(closed: World) -> None:
    """The broker ends the handler, removes what was made, and says so."""
    recorder, pid_file = Recorder(closed.top, "sleep 600 & wait"), closed.top / "pid"
    with closed.daemon(SPLIT, "-Mdirect", recorder.option, "-z", pid_file) as daemon:
        recorder.wait_for_calls(daemon, 1)
        os.kill(worker_of(daemon), signal.SIGKILL)
        daemon.wait(code=1)  # nothing may be left behind
        assert "the worker has ended (killed by SIGKILL)" in daemon.output
    assert not pid_file.exists()


@ROOT
def test_the_broker_is_killed(closed: World) -> None:
    with closed.daemon(SPLIT, "-Mcopy") as daemon:
        daemon.wait_for_log(SYNCED)
        os.kill(daemon.pid, signal.SIGKILL)
        daemon.wait(code=-signal.SIGKILL)  # the worker may not be left behind
        assert GONE in daemon.output


# -- who may change what ---------------------------------------------------------------------------------------


def tell(world: World, path: Path, *words: str) -> tuple[int, str]:
    """Ask a daemon; return the exit code and what is said."""
    ended = world.run("ctl", "-s", path, *words)
    return ended.code, ended.out + ended.err


@ROOT
def test_what_the_control_socket_may_set(closed: World) -> None:
    path, permitted, other = closed.top / "socket", *(closed.file(n, "#!/bin/sh\n", 0o755) for n in ("yes", "no"))
    with closed.daemon(
        SPLIT, "-Mcopy", "--socket", path, f"--add-permitted-hook-files=/bin/false,{permitted}"
    ) as daemon:
        daemon.wait_for_log(SYNCED)
        assert tell(closed, path, "set", "delay-sync", "0.2")[0] == 0
        assert tell(closed, path, "set", "exit-hook", str(permitted))[0] == 0
        for key, value in (
            ("exit-hook", str(other)),
            ("sync-handler", "/bin/true"),
            ("--", "-x"),
            ("destination-dir", str(closed.top)),
            ("rules-file", "/etc/shadow"),
            ("standby-file", "/etc/shadow"),
            ("label", "x"),
        ):
            code, said = tell(closed, path, "set", "--", key, value)
            assert (code, "cannot be set with --splitting" in said) == (9, True), (key, said)
        for key in ("config-file", "splitting", "add-permitted-hook-files"):
            assert tell(closed, path, "set", key, "x")[0] == 9
        closed.write("file")
        closed.wait_for_copy(daemon, "file")


@ROOT
def test_settings_that_are_changed_often(closed: World) -> None:
    """More handlers are made, and hooks are run, after as many changes as you like; some wait for what is at work."""
    held, path, gone = closed.file("held", ""), closed.top / "socket", closed.top / "gone"
    recorder = Recorder(closed.top, f"while [ -e {held} ]; do sleep 0.05; done")
    hook = closed.file("hook", f"#!/bin/sh\necho gone >{gone}\n", 0o755)
    options = ("-Mdirect", recorder.option, "--threading=full", "--skip-initialsync", f"--exit-hook={hook}")
    with closed.daemon(SPLIT, *options, "--socket", path) as daemon:
        daemon.wait_for_log(WATCHING)

        def change() -> None:
            for number in range(6):
                assert tell(closed, path, "set", "delay-sync", f"0.0{number + 1}")[0] == 0

        change()
        for number in (1, 2):
            closed.write(f"file{number}")
            recorder.wait_for_calls(daemon, number)
        change()
        held.unlink()
        os.kill(daemon.pid, signal.SIGQUIT)
        daemon.wait()
        assert gone.read_text() == "gone\n"


@ROOT
def test_how_much_is_said_is_changed_for_both(closed: World) -> None:
    path, hook = closed.top / "socket", closed.file("hook", "#!/bin/sh\n", 0o755)
    with closed.daemon(SPLIT, "-Mcopy", f"--exit-hook={hook}", "--socket", path) as daemon:
        daemon.wait_for_log(SYNCED)
        assert tell(closed, path, "set", "quiet", "1")[0] == 0
        daemon.stop()
        assert "running --exit-hook" not in daemon.output


def config(world: World, second: Path, more: str = "") -> Path:
    """Write a configuration with a block that goes to another destination, at signal 40."""
    return world.file(
        "conf",
        f"[default]\nwatch-dir = {world.source}\ndestination-dir = {world.destination}\nmode = copy\n"
        f"delay-collect = 0.05\ndelay-sync = 0.05\ncustom-signals = 40:other\n{more}\n"
        f"[other]\ndestination-dir = {second}\n",
        0o600,
    )


@ROOT
def test_a_signal_switches_to_what_the_configuration_says(closed: World) -> None:
    second = closed.top / "second"
    second.mkdir()
    closed.write("file")
    with closed.bare(f"-H{config(closed, second, 'splitting = process')}") as daemon:
        daemon.wait_for_log(SYNCED)
        os.kill(daemon.pid, 40)
        daemon.wait_for_log("in force from the next batch on")
        daemon.wait_until((second / "file").exists, what="the other destination")


@pytest.mark.parametrize("splitting", ["off", "process"])
def test_checked_arguments_stay_as_they_are(world: World, splitting: str) -> None:
    second = world.top / "second"
    second.mkdir()
    more = f"check-execvp-arguments = 1\nsplitting = {splitting}"
    with world.bare(f"-H{config(world, second, more)}") as daemon:
        daemon.wait_for_log(SYNCED)
        os.kill(daemon.pid, 40)
        daemon.wait_for_log("--check-execvp-arguments: the handler and its arguments stay as they are")
        world.write("file")
        world.wait_for_copy(daemon, "file")
        assert not list(second.iterdir())


@pytest.mark.parametrize("option", ["--sync-handler", "---"])
def test_both_sets_of_arguments_are_checked(world: World, option: str) -> None:
    recorder, path = Recorder(world.top), world.top / "socket"
    other = world.file("other", "#!/bin/sh\n", 0o755)
    key, value = ("sync-handler", str(other)) if option == "--sync-handler" else ("---", "something else")
    arguments = ("-Mshell", recorder.option, "--have-recursive-sync", "--check-execvp-arguments", "--socket", path)
    with world.daemon(*arguments) as daemon:
        daemon.wait_for_log(SYNCED)
        code, said = tell(world, path, "set", "--", key, value)
        assert (code, "--check-execvp-arguments" in said) == (9, True), said


def namespace(pid: int, which: str) -> str:
    """Return what tells a namespace from others."""
    return os.readlink(f"/proc/{pid}/ns/{which}")


@ROOT
def test_namespaces_of_both(closed: World) -> None:
    """The worker alone is without a network; both are detached from the means of communication of others."""
    with closed.daemon(SPLIT, "-Mcopy", "--detach-network=non-privileged", "--detach-ipc=1") as daemon:
        daemon.wait_for_log(SYNCED)
        worker, own = worker_of(daemon), os.getpid()
        assert namespace(worker, "net") != namespace(daemon.pid, "net") == namespace(own, "net")
        assert namespace(worker, "ipc") == namespace(daemon.pid, "ipc") != namespace(own, "ipc")
        assert namespace(worker, "uts") == namespace(daemon.pid, "uts") == namespace(own, "uts")
        closed.write("file")
        closed.wait_for_copy(daemon, "file")


@ROOT
def test_two_destinations(closed: World) -> None:
    """Each has a handler of the broker's, and other settings reach both."""
    second, path = closed.top / "second", closed.top / "socket"
    second.mkdir()
    with closed.daemon(SPLIT, f"-D{second}", "--socket", path, "--dump-dir", closed.top / "dump") as daemon:
        for destination in (closed.destination, second):
            daemon.wait_for_log(f"{destination}: initial sync done")
        closed.write("file")
        closed.wait_for_copy(daemon, "file")
        daemon.wait_until((second / "file").exists, what="the file at the second destination")
        code, said = tell(closed, path, "-j", "status")
        assert code == 0, said
        targets = json.loads(said)["targets"]
        assert [target["destination"] for target in targets] == [str(closed.destination), str(second)]
        assert tell(closed, path, "set", "delay-sync", "0.1")[0] == 0
        assert tell(closed, path, "set", "destination-dir", str(closed.top))[0] != 0
        (closed.source / "file").unlink()
        assert closed.run("wait", f"-s{path}").code == 0
        assert not (second / "file").exists()
        assert not (closed.destination / "file").exists()
        os.kill(daemon.pid, signal.SIGIO)
        daemon.wait_for_log("the state is written to")
        assert sorted(name.name for name in (closed.top / "dump").iterdir()) == ["1", "2"]


@ROOT
def test_the_worker_is_who_is_named(closed: World) -> None:
    """--uid is the worker's; handlers are run by root all the same, or by who is named for them."""
    recorder = Recorder(closed.top)
    with closed.daemon(SPLIT, "--uid=1", "--gid=2", "-Msimple", recorder.option) as daemon:
        daemon.wait_for_log(SYNCED)
        found = status_of(Path(f"/proc/{worker_of(daemon)}"))
        assert set(found["Uid"].split()) == {"1"}
        assert set(found["Gid"].split()) == {"2"}
        assert found["Groups"].split() == []
        assert status_of(Path(f"/proc/{daemon.pid}"))["Uid"].split()[0] == "0"


@ROOT
@pytest.mark.parametrize(("worker", "told"), [(NOBODY, True), (1, False)])
def test_a_worker_that_could_take_the_handlers_over(world: World, worker: int, told: bool) -> None:
    with world.daemon(SPLIT, f"--uid={worker}", f"--sync-handler-uid={NOBODY}", "-Mdirect", "-S/bin/true") as daemon:
        daemon.wait_for_log(SYNCED)
        assert ("which can take them over" in daemon.output) is told


@ROOT
def test_a_thread_is_filtered_alone(closed: World) -> None:
    """The thread with the rights goes on running handlers."""
    with closed.daemon("--splitting=thread", "--seccomp-filter", "--detach-network=non-privileged") as daemon:
        daemon.wait_for_log(SYNCED)
        closed.write("file")
        closed.wait_for_copy(daemon, "file")
        modes = {thread: found["Seccomp"] for thread, found in statuses_of(daemon.pid).items()}
        assert modes[daemon.pid] == "2"
        assert "0" in modes.values()


@ROOT
@NEEDS_GROUPS
def test_secure_splitting_is_all_of_it(closed: World) -> None:
    path, name = closed.top / "socket", f"clsync-test-{os.getpid()}"
    groups = ("--secure-splitting", f"--cgroup-group-name={name}/%PID%")
    with closed.daemon(*groups, "-Mcopy", "--socket", path) as daemon:
        daemon.wait_for_log(SYNCED)
        worker = worker_of(daemon)
        for found in statuses_of(worker).values():
            assert (found["Seccomp"], found["NoNewPrivs"], bits(found["CapEff"])) == ("2", "1", 0)
        # What it could write to would have the group removed. A scan has pipes as well, and ends.
        daemon.wait_until(lambda: not held_by(worker, "pipe:"), what="a worker that holds no pipe")
        broker = status_of(Path(f"/proc/{daemon.pid}"))
        assert (broker["Seccomp"], broker["NoNewPrivs"]) == ("0", "0")
        for pid in (daemon.pid, worker):
            assert f"/{name}/{daemon.pid}\n" in Path(f"/proc/{pid}/cgroup").read_text()
        closed.write("file")
        closed.wait_for_copy(daemon, "file")
        assert tell(closed, path, "info")[0] == 0
        os.kill(daemon.pid, signal.SIGTERM)
        assert daemon.wait() == 0
    # find(1) does not mind that groups of others go meanwhile.
    left = subprocess.run(["find", "/sys/fs/cgroup", "-name", name], capture_output=True, text=True, check=False)
    assert left.stdout == ""


@ROOT
def test_secure_splitting_that_is_set_otherwise(world: World) -> None:
    with world.daemon("--secure-splitting", "--splitting=off", "--forbid-devices=0", "-Mcopy") as daemon:
        daemon.wait_for_log(SYNCED)
        assert not daemon.at_work() or status_of(Path(f"/proc/{daemon.pid}"))["NoNewPrivs"] == "0"


def sockets_of_stopped_worker(daemon: Daemon) -> Iterator[socket.socket]:
    """Stop the process without rights; yield its sockets, each open until the next."""
    worker = worker_of(daemon)

    def stands_alone() -> bool:
        """Stop it, unless a scanner of the state is at work: that one is connected to it as well, and is not meant."""
        os.kill(worker, signal.SIGSTOP)
        daemon.wait_until(
            lambda: status_of(Path(f"/proc/{worker}"))["State"].startswith("T"), what="a stopped worker"
        )
        if daemon.descendants(b"clsync.state.scanner"):
            os.kill(worker, signal.SIGCONT)
            return False
        return True

    daemon.wait_until(stands_alone, what="a worker without scanners")
    for descriptor in _taken_sockets(worker):
        with socket.socket(fileno=descriptor) as end:
            yield end


@ROOT
def test_who_has_taken_the_worker_is_refused(closed: World) -> None:
    """Bytes that are no question, written into the worker's own socket, end both."""
    with closed.daemon(SPLIT, "-Mcopy", "-z", closed.top / "pid") as daemon:
        daemon.wait_for_log(SYNCED)
        for end in sockets_of_stopped_worker(daemon):
            end.setblocking(False)
            with suppress(OSError):  # the listening one, or closed by now
                end.send(b"\xff" * 64)
        daemon.wait(code=1)
        assert "the worker was ended" in daemon.output
    assert not (closed.top / "pid").exists()


@ROOT
def test_a_worker_that_has_left_but_does_not_end_is_ended(closed: World) -> None:
    with closed.daemon(SPLIT, "-Mcopy", "-z", closed.top / "pid") as daemon:
        daemon.wait_for_log(SYNCED)
        for end in sockets_of_stopped_worker(daemon):
            with suppress(OSError):  # of no connection
                end.shutdown(socket.SHUT_RDWR)
        daemon.wait(code=1, timeout=20)
        assert "the worker has ended (killed by SIGKILL)" in daemon.output
    assert not (closed.top / "pid").exists()


@ROOT
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT])
def test_a_worker_that_stands_still_does_not_keep_the_end(closed: World, number: signal.Signals) -> None:
    with closed.daemon(SPLIT, "-Mcopy", "-z", closed.top / "pid") as daemon:
        daemon.wait_for_log(SYNCED)
        os.kill(worker_of(daemon), signal.SIGSTOP)
        os.kill(daemon.pid, number)
        daemon.wait(code=1)
        assert "the worker was ended: it has not ended within" in daemon.output
    assert not (closed.top / "pid").exists()


def _taken_sockets(pid: int) -> list[int]:
    """Return copies of the sockets of a process (pidfd_getfd(2))."""
    import ctypes

    libc, process = ctypes.CDLL(None, use_errno=True), os.pidfd_open(pid)
    found = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        if os.readlink(path).startswith("socket:"):
            descriptor = libc.syscall(438, process, int(path.name), 0)
            assert descriptor >= 0, os.strerror(ctypes.get_errno())
            found.append(descriptor)
    os.close(process)
    return found
