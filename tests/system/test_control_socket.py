"""The control socket: the protocol of clsync 0.4 on the wire, the file, `clsync ctl`, and the other ends of old."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from clsync import __version__
from clsync.control.server import MOST_CONNECTIONS
from clsync.control.server import version as parts_of
from clsync.errors import Exit
from clsync.options.manual import STATUS_TEXTS
from tests.support.daemon import Daemon, installed
from tests.support.environment import INHERITED
from tests.support.rights import NOBODY
from tests.system.world import ROOT, SYNCED, Ended, World

HELLO = b"0 0 0 :Protocol version is 0.\n"
MAJOR, MINOR, REVISION = parts_of(__version__)
LATE = 20
"""Seconds for what takes a moment."""


@pytest.fixture
def place() -> Iterator[Path]:
    """Return a directory for sockets: names of sockets are short."""
    with tempfile.TemporaryDirectory(prefix="clsync-ctl-") as name:
        yield Path(name)


@pytest.fixture
def path(place: Path) -> Path:
    """Return where the socket is to be."""
    return place / "socket"


class Connection:
    """A client that sends and receives bytes."""

    def __init__(self, path: Path, greeted: bool = True) -> None:
        """`greeted`: take the line with which the daemon begins."""
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(LATE)
        self.socket.connect(bytes(path))
        self._file = self.socket.makefile("rb")
        if greeted:
            assert self.line() == HELLO

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def line(self) -> bytes:
        """Return the next line; nothing at the end."""
        return self._file.readline()

    def ask(self, line: bytes) -> bytes:
        """Send a line and return the answer."""
        self.send(line)
        return self.line()

    def rest(self) -> bytes:
        """Return all that comes until the daemon closes the connection."""
        return self._file.read()

    def close(self) -> None:
        self._file.close()
        self.socket.close()


@contextmanager
def serving(world: World, path: Path, *args: str) -> Iterator[Daemon]:
    """Give a daemon with a socket, that answers."""
    with world.daemon("--socket", path, *args) as daemon:
        wait_for_greeting(daemon, path)
        yield daemon


def wait_for_greeting(daemon: Daemon, path: Path) -> None:
    """Wait until the daemon answers there."""
    wait_for_socket(daemon, path)
    Connection(path).close()


def wait_for_socket(daemon: Daemon, path: Path) -> None:
    """Wait until somebody listens there; no connection is made, as that ends the daemon of clsync 0.4."""
    accepts = re.compile(rf" 00010000 .* {re.escape(str(path))}$", re.MULTILINE)
    daemon.wait_until(lambda: accepts.search(Path("/proc/net/unix").read_text()) is not None, what="the socket")


def ctl(world: World, *args: str | bytes | Path) -> Ended:
    """Run `clsync ctl`."""
    return world.run("ctl", *args)


def told(world: World, *args: str | bytes | Path) -> str:
    """Return what `clsync ctl` prints; it must succeed."""
    done = ctl(world, *args)
    assert (done.code, done.err) == (0, ""), done
    return done.out


def status(world: World, path: Path) -> dict[str, Any]:
    """Return the status in JSON."""
    found = json.loads(told(world, "-s", path, "status", "--json"))
    assert isinstance(found, dict)
    return found


# -- the wire --------------------------------------------------------------------------------------------------


def test_the_transcript_of_the_original(world: World, path: Path) -> None:
    with serving(world, path, "-llab1"):
        client = Connection(path)
        revision = REVISION.decode()
        for sent, expected in (
            ("0 1 0", "0 150 1 0 :Acknowledged command: id == 1; num == 0."),
            ("5 200", f"5 300 {MAJOR} {MINOR} {revision} :clsync v{__version__}"),
            (
                "6 201",
                '6 301 default\3/ lab1\3/ 0 0 :config_block == "default"; label == "lab1"; flags == 0; flags_set == 0.',
            ),
            ("7 300", "7 160 300 7 :Unknown command."),
            ("8 1000", "8 161 8 :Invalid command id. Required: 0 <= cmd_id < 1000."),
            ("9 210", "9 160 210 9 :Unknown command."),
            ("1 0 0", "1 1 0 :Protocol version is 0."),
            ("1 0 5", "1 162 0 1 :Rejected command: id == 0; num == 1. Invalid arguments: Incorrect protocol id."),
            ("1 250", "1 350  :Bye."),
        ):
            assert client.ask(f"{sent}\n".encode()) == f"{expected}\n".encode()
        assert client.rest() == b""
        client.close()


def test_a_login_is_never_asked_for(world: World, path: Path) -> None:
    """Also with --socket-auth=null, which made the original ask for one after each message."""
    with serving(world, path, "--socket-auth=null"):
        client = Connection(path)
        client.send(b"1 200\n2 201\n3 250\n")
        assert [line.split()[1] for line in client.rest().splitlines()] == [b"300", b"301", b"350"]
        client.close()


@pytest.mark.parametrize("garbage", [b"garbage\n", b"\0\0\0\0", b"1\n", b"\xff" * 100_000], ids=range(4))
def test_garbage_closes_its_connection_only(world: World, path: Path, garbage: bytes) -> None:
    with serving(world, path):
        other, client = Connection(path), Connection(path)
        assert client.ask(b"1 200\n").startswith(b"1 300 ")
        try:
            client.send(garbage)
        except OSError:
            pass  # closed before it had all
        try:
            assert client.rest() == b""
        except ConnectionResetError:
            pass  # what it had not read yet
        assert other.ask(b"1 200\n").startswith(b"1 300 ")
        for each in (client, other):
            each.close()


LEAVING = (b"", b"0 1", b"0 1 0\n", b"1 200\n", b"1 400\n" * 2000, b"1 202 /dev/null/x\n", b"1 250\n")
"""What clients have sent when they leave."""


@pytest.mark.parametrize("sent", LEAVING, ids=range(len(LEAVING)))
def test_clients_that_leave(world: World, path: Path, sent: bytes) -> None:
    """At every point, without reading what they asked for."""
    with serving(world, path) as daemon:
        daemon.wait_for_log(SYNCED)
        for greeted in (False, True):
            client = Connection(path, greeted)
            client.send(sent)
            client.close()
        world.write("later")
        world.wait_for_copy(daemon, "later")
        client = Connection(path)
        assert client.ask(b"1 200\n").startswith(b"1 300 ")
        client.close()


def test_a_hundred_connections(world: World, path: Path) -> None:
    """The last ones are served, and the first are told that they have to go."""
    with serving(world, path) as daemon:
        clients = [Connection(path) for _ in range(100)]
        for client in clients[-MOST_CONNECTIONS:]:
            assert client.ask(b"1 200\n").startswith(b"1 300 ")
        for client in clients[:-MOST_CONNECTIONS]:
            assert client.rest().startswith(b"0 351  :")
        for client in clients:
            client.close()
        world.write("later")
        world.wait_for_copy(daemon, "later")


def test_die(world: World, path: Path) -> None:
    with serving(world, path) as daemon:
        daemon.wait_for_log(SYNCED)
        client = Connection(path)
        assert client.ask(b"1 240\n") == b""
        client.close()
        daemon.wait(code=0)
        assert f"control socket: uid {os.getuid()} (pid {os.getpid()}) asks for the end" in daemon.output
    assert not path.exists()


def test_it_answers_before_the_initial_sync_is_over(world: World, path: Path) -> None:
    """And while it is held up."""
    standby = world.file("standby", "")
    world.write("file")
    with serving(world, path, f"--standby-file={standby}") as daemon:
        daemon.wait_until(lambda: status(world, path)["phase"] == "hold on", what="the phase")
        found = status(world, path)
        assert (found["iteration"], found["last_sync_at"], found["pending"]) == (0, None, 1)
        standby.unlink()
        world.wait_for_copy(daemon, "file")
        daemon.wait_until(lambda: status(world, path)["phase"] == "running", what="the phase")


# -- the file --------------------------------------------------------------------------------------------------


def permissions(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    assert stat.S_ISSOCK(found.st_mode)
    return stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid


@pytest.mark.parametrize("mask", [0, 0o077, 0o277])
def test_the_socket_is_for_its_owner_alone(world: World, path: Path, mask: int) -> None:
    """Whatever the umask is."""
    shell = ("sh", "-c", f'umask {mask:o}; exec "{installed()}" "$@"', "sh")
    options = (*world.trees, "-Mcopy", "--socket", path)
    with Daemon(*options, program=shell, env=world.environment, cwd=world.top) as daemon:
        wait_for_greeting(daemon, path)
        assert permissions(path) == (0o600, os.getuid(), os.getgid())


@ROOT
@pytest.mark.root
@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (("--socket-own=nobody",), (0o600, NOBODY, NOBODY)),
        (("--socket-own=nobody:root", "--socket-mod=660"), (0o660, NOBODY, 0)),
        (("--socket-own=4711",), (0o600, 4711, 0)),
        (("--socket-own=4711:12", "--socket-mod=0620"), (0o620, 4711, 12)),
        (("--socket-mod=777",), (0o777, 0, 0)),
    ],
    ids=range(5),
)
def test_owner_and_mode(world: World, path: Path, args: tuple[str, ...], expected: tuple[int, int, int]) -> None:
    """Nobody sees it with more rights than it is to have."""
    seen, over = set[int](), threading.Event()

    def look() -> None:
        while not over.is_set():
            try:
                seen.add(stat.S_IMODE(path.stat().st_mode))
            except FileNotFoundError:
                continue

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        with serving(world, path, *args):
            assert permissions(path) == expected
    finally:
        over.set()
        watcher.join()
    assert expected[0] in seen
    assert seen <= {0, expected[0]}


def test_a_stale_socket_is_replaced(world: World, path: Path) -> None:
    with serving(world, path) as daemon:
        daemon.wait_for_log(SYNCED)
        daemon.kill()
    old = path.stat()
    with serving(world, path):
        assert (path.stat().st_mtime_ns, path.stat().st_ino) != (old.st_mtime_ns, old.st_ino)
        assert status(world, path)["version"] == __version__
    assert not path.exists()


def test_of_two_that_start_together_one_wins(world: World, path: Path) -> None:
    """Also over a stale socket; the other one says why not."""
    for _ in range(3):
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(bytes(path))
        daemons = [world.bare("-Mcopy", *world.trees, "--socket", path, "-v1").start() for _ in range(2)]
        try:
            first, second = daemons
            first.wait_until(lambda: not (first.running and second.running), what="the end of one")  # noqa: B023
            winner, loser = daemons if first.running else reversed(daemons)
            assert loser.wait(code=Exit.FILES) == Exit.FILES
            assert "is in use by another process" in loser.output
            assert status(world, path)["pid"] == winner.pid
        finally:
            for daemon in daemons:
                daemon.kill()


def test_a_socket_in_use_is_left_alone(world: World, path: Path) -> None:
    files = (f"--pid-file={world.top}/pid", f"--status-file={world.top}/status")
    with serving(world, path, "-lfirst", *files) as daemon:
        daemon.wait_for_log(SYNCED)
        message, hint = world.run(*world.trees, "--socket", path, "-v1", *files).complaint(Exit.FILES)
        assert message == f"--socket {path} is in use by another process"
        assert "clsync ctl" in hint
        assert status(world, path)["label"] == "first"
        assert (world.top / "pid").read_text() == str(daemon.pid)
        assert (world.top / "status").exists()
    assert not path.exists()


@pytest.mark.parametrize("kind", ["file", "directory", "symlink", "fifo"])
def test_nothing_but_sockets_is_replaced(world: World, path: Path, kind: str) -> None:
    match kind:
        case "file":
            path.write_text("precious")
        case "directory":
            path.mkdir()
        case "symlink":
            path.symlink_to(world.file("precious", "precious"))
        case "fifo":
            os.mkfifo(path)
    before = path.lstat()
    message, hint = world.run(*world.trees, "--socket", path, "-v1").complaint(Exit.FILES)
    assert message == f"--socket {path} is there, and is no socket"
    assert hint.startswith("remove it yourself")
    assert path.lstat() == before


@pytest.mark.parametrize(
    ("args", "code", "message", "hint"),
    [
        (
            ("-s/nonexistent/socket",),
            Exit.FILES,
            "--socket /nonexistent/socket: No such file",
            "create the directory",
        ),
        (("-s/dev/null/socket",), Exit.FILES, "--socket /dev/null/socket: Not a directory", "in a directory"),
        ((f"-s/{'x' * 107}",), Exit.USAGE, "bytes long, and 107 is the most", "a shorter one"),
        (("-s/tmp/s", "--socket-own=no-such-user"), Exit.USAGE, "no user 'no-such-user'", "getent passwd"),
        (("-s/tmp/s", "--socket-own=root:no-such"), Exit.USAGE, "no group 'no-such'", "getent group"),
        (("-s/tmp/s", "--socket-own=:root"), Exit.USAGE, "no user ''", "getent passwd"),
        (("--socket-mod=660",), Exit.USAGE, "--socket-mod without a control socket", "--socket"),
    ],
    ids=range(7),
)
def test_what_cannot_be(world: World, args: tuple[str, ...], code: int, message: str, hint: str) -> None:
    said, advice = world.run(*world.trees, "-v1", *args).complaint(code)
    assert message in said
    assert hint in advice


def test_the_socket_of_a_background_daemon_that_cannot_start(world: World, path: Path) -> None:
    path.write_text("")
    message, _ = world.run(*world.trees, "--socket", path, "-b", "-v1").complaint(Exit.FILES)
    assert "is no socket" in message


@ROOT
@pytest.mark.root
def test_only_root_can_give_it_away(world: World, path: Path) -> None:
    head = ["setpriv", "--bounding-set", "-chown"]
    done = world.run(*world.trees, "--socket", path, "--socket-own=nobody", "-v1", head=head)
    message, hint = done.complaint(Exit.FILES)
    assert message == f"--socket {path}: Operation not permitted"
    assert "only root" in hint
    assert not path.exists()


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_the_socket_is_removed_at_the_end(world: World, path: Path, sent: signal.Signals) -> None:
    with serving(world, path) as daemon:
        daemon.wait_for_log(SYNCED)
        daemon.stop(sent)
        assert not path.exists()


def test_the_socket_is_removed_after_runs_that_end_and_starts_that_fail(world: World, path: Path) -> None:
    assert world.run(*world.trees, "--socket", path, "--only-initialsync").code == 0
    assert not path.exists()
    done = world.run(*world.trees, "--socket", path, "--monitor=inotify", env={"CLSYNC_WITHOUT": "inotify"})
    assert done.code == Exit.MONITOR
    assert not path.exists()


def test_another_file_in_its_place_is_not_removed(world: World, path: Path) -> None:
    with serving(world, path) as daemon:
        path.unlink()
        path.write_text("precious")
        daemon.stop()
    assert path.read_text() == "precious"


def test_a_relative_path_is_relative_to_the_start_directory(world: World, place: Path) -> None:
    with Daemon(*world.trees, "-t0", "-w0", "--socket=socket", env=world.environment, cwd=place) as daemon:
        wait_for_greeting(daemon, place / "socket")
        daemon.wait_for_log(SYNCED)
        assert os.listdir(world.source) == []


# -- clsync ctl ------------------------------------------------------------------------------------------------


def test_status_for_programs(world: World, path: Path) -> None:
    world.write("file")
    with serving(world, path, "-llab1") as daemon:
        daemon.wait_for_log(SYNCED)
        found: dict[str, object] = {}

        def rests() -> bool:
            found.update(status(world, path))
            return (found["phase"], found["pending"], found["in_flight"]) == ("running", 0, 0)

        daemon.wait_until(rests, what="the end of the sync")
    assert found.keys() == set(re.findall(r"`(\w+)`", " ".join(STATUS_TEXTS))), "what the manual says"
    assert found["pid"] == daemon.pid
    assert (found["version"], found["config_block"], found["label"]) == (__version__, "default", "lab1")
    assert (found["source"], found["destination"]) == (str(world.source), str(world.destination))
    assert isinstance(found["iteration"], int)
    assert found["iteration"] >= 1
    assert (found["trouble"], found["failing"], found["failures"]) == (None, 0, [])
    assert found["mode"] == "rsyncdirect"
    assert found["monitor"]
    for name in ("started_at", "last_sync_at"):
        at = found[name]
        assert isinstance(at, float)
        assert abs(at - time.time()) < 60


def test_status_for_people(world: World, path: Path) -> None:
    with serving(world, path, "-llab1") as daemon:
        daemon.wait_for_log(SYNCED)
        rows = dict(line.split("  ", 1) for line in told(world, "-s", path, "status").splitlines())
    shown = {name: value.strip() for name, value in rows.items()}
    assert shown["source"] == str(world.source)
    assert (shown["label"], shown["pid"], shown["trouble"]) == ("lab1", str(daemon.pid), "-")
    assert abs(datetime.fromisoformat(shown["started at"]).timestamp() - time.time()) < 60


def test_status_names_what_fails_and_why(world: World, path: Path) -> None:
    """As it is called, whatever it is called."""
    program = world.file("handler", "#!/bin/sh\nexit 7\n", 0o755)
    (world.source / os.fsdecode(b"bad\xff\n")).touch()
    with serving(world, path, "-Mdirect", f"-S{program}", "--skip-initialsync") as daemon:
        daemon.wait_for_log("Info: watching ")
        (world.source / os.fsdecode(b"bad\xff\n")).write_text("x")
        found: dict[str, Any] = {}

        def fails() -> bool:
            found.update(status(world, path))
            return found["failing"] == 1 and not found["in_flight"]  # it is tried again and again

        daemon.wait_until(fails, what="the failure")
        (failure,) = found["failures"]
        assert failure["path"] == os.fsdecode(b"bad\xff\n")
        assert "7" in failure["reason"]
        assert time.time() - 20 < failure["next_try_at"] < time.time() + 400
        assert found["phase"] == "synchandler error"
        assert found["pending"] == 1
        line = f"failures      bad\\xff\\n: {failure['reason']} (next try: "
        daemon.wait_until(lambda: line in told(world, "-s", path, "status"), what=line)
        program.write_text("#!/bin/sh\n")
        daemon.wait_for_log("Info: bad\\xff\\n: it is synced now")
        assert status(world, path)["failures"] == []


def test_status_tells_of_a_root_that_is_away(world: World, path: Path) -> None:
    with serving(world, path) as daemon:
        daemon.wait_for_log(SYNCED)
        world.source.rename(world.top / "away")
        daemon.wait_until(lambda: status(world, path)["phase"] == "hold on", what="the phase")
        assert status(world, path)["trouble"] == "No such file or directory"
        (world.top / "away").rename(world.source)
        daemon.wait_until(lambda: status(world, path)["trouble"] is None, what="the end of the trouble")


def test_info_and_version(world: World, path: Path) -> None:
    with serving(world, path, "-l", "a b"):
        assert told(world, "-s", path, "info") == "config block  default\nlabel         a b\n"
        assert json.loads(told(world, "--json", "info", "-s", path)) == {"config_block": "default", "label": "a b"}
        assert told(world, f"--socket={path}", "version") == f"version  {__version__}\n"


@pytest.mark.parametrize("word", ["stop", "die"])
def test_stop(world: World, path: Path, word: str) -> None:
    """It returns when everything is over."""
    pid_file = world.top / "pid"
    with serving(world, path, f"--pid-file={pid_file}") as daemon:
        daemon.wait_for_log(SYNCED)
        assert told(world, "-s", path, word) == "stopped  yes\n"
        assert not path.exists()
        assert not pid_file.exists()
        assert daemon.wait(code=0, timeout=1) == 0


def test_stop_of_a_daemon_in_the_background(world: World, path: Path) -> None:
    daemon = world.daemon("-b", "--socket", path)
    try:
        process = daemon.start().process
        assert process is not None
        assert process.wait(LATE) == 0
        pid = status(world, path)["pid"]
        assert pid != daemon.pid
        assert pid in daemon.family()
        assert told(world, "-s", path, "stop") == "stopped  yes\n"
        assert not path.exists()
        assert pid not in daemon.family()
    finally:
        daemon.kill()


def test_the_socket_of_a_configuration(world: World, place: Path) -> None:
    """The block that the daemon has names it; the rest of its configuration need not be whole."""
    config = world.file(
        "conf", f"[default]\nsocket = {place}/%label%\n[one]\nlabel = one\nconfig-block-inherits = default\n"
    )
    with world.daemon(f"-H{config}", "-Kone") as daemon:
        wait_for_greeting(daemon, place / "one")
        asked = ("--json", "info")
        assert json.loads(told(world, f"-H{config}", "-Kone", *asked))["label"] == "one"
        world.environment["HOME"] = str(world.top)
        config.rename(world.top / ".clsync.conf")
        assert json.loads(told(world, "-K", "one", *asked))["config_block"] == "one"
        message, hint = ctl(world, *asked).complaint(Exit.UNREACHABLE)
        assert message == f"control socket {place}/nolabel: No such file or directory"
        assert "--socket" in hint
    (world.top / ".clsync.conf").write_text("[default]\n")
    message, hint = ctl(world, "status").complaint(Exit.USAGE)
    assert message == "no control socket is named: the configuration has no key socket"
    assert "--socket" in hint


@pytest.mark.parametrize(
    ("args", "message", "hint"),
    [
        ((), "no command", "status"),
        (("statsu",), "unknown command 'statsu'", "did you mean status?"),
        (("dump",), "clsync ctl dump takes 1 arguments, but got 0", "clsync ctl dump DIR"),
        (("set", "label"), "clsync ctl set takes 2 arguments, but got 1", "clsync ctl set KEY VALUE"),
        (("status", "more"), "takes 0 arguments, but got 1", "write: clsync ctl status"),
        (("--jsn", "status"), "unknown option --jsn", "did you mean --json?"),
        (("-x", "status"), "unknown option -x", "--help"),
        (("--json=1", "status"), "--json takes no value, but got '1'", "--json alone"),
        (("status", "--timeout"), "--timeout needs a value", "--timeout SECONDS"),
        (("status", "--timeout=soon"), "--timeout: 'soon' is not a number of seconds", "0.5"),
        (("status", "--timeout=0"), "--timeout: 0 s are too few", "1 or more"),
        (("status", "--config=x"), "--config is ambiguous", "--config-file, --config-block"),
        (("status", f"-s/{'x' * 107}"), "longer than 107 bytes", "shorter"),
    ],
    ids=range(13),
)
def test_wrong_words(world: World, args: tuple[str, ...], message: str, hint: str) -> None:
    said, advice = ctl(world, *args).complaint(Exit.USAGE)
    assert message in said
    assert hint in advice


def test_help(world: World) -> None:
    out = told(world, "--help")
    assert out.startswith("Usage: clsync ctl ")
    for word in ("status", "dump DIR", "set KEY VALUE", "-s, --socket=PATH", "--json"):
        assert word in out
    assert "clsync ctl" in world.run("--help").out


def test_only_the_first_word_is_a_command(world: World) -> None:
    message, _ = world.run("-W/nonexistent", "-Mdirect", "ctl", "status").complaint(Exit.SOURCE)
    assert message.startswith("--watch-dir /nonexistent")
    message, _ = world.run("ctl-", "status").complaint(Exit.USAGE)
    assert message == "no watch directory"


def test_where_no_daemon_is(world: World, path: Path) -> None:
    message, hint = ctl(world, "-s", path, "status").complaint(Exit.UNREACHABLE)
    assert message == f"control socket {path}: No such file or directory"
    assert "start a daemon with --socket" in hint
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(bytes(path))
    message, hint = ctl(world, "-s", path, "status").complaint(Exit.UNREACHABLE)
    assert message == f"control socket {path}: Connection refused"
    assert "nobody listens there" in hint


@ROOT
@pytest.mark.root
def test_without_the_right_to_ask(world: World, path: Path) -> None:
    head = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
    with serving(world, path, "--socket-own=nobody"):
        message, hint = world.run("ctl", "-s", path, "status", head=head).complaint(Exit.UNREACHABLE)
        assert message == f"control socket {path}: Permission denied"
        assert "--socket-own" in hint
        assert world.run("ctl", "-s", path, "status").code == 0


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "does not speak the protocol"),
        (b"0 0 7 :another protocol\n", "does not speak the protocol"),
        (b"0 0 0 :hello\n0 150 x\n1001 300 rest\n", "does not speak the protocol"),
        (b"0 351  :go\n", "too many connections"),
        (b"", "has closed the connection"),
        (None, "no answer within 0.2 s"),
    ],
    ids=range(6),
)
def test_somebody_else_at_the_socket(world: World, path: Path, said: bytes | None, message: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(bytes(path))
        listener.listen()
        caller = subprocess.Popen(
            [installed(), "ctl", "-s", path, "--timeout=0.2" if said is None else "--timeout=20", "version"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**INHERITED, **world.environment},
        )
        listener.settimeout(LATE)
        connection, _ = listener.accept()
        if said is not None:
            connection.sendall(said)
            connection.shutdown(socket.SHUT_WR)
        out, err = caller.communicate(timeout=LATE)
        connection.close()
    found, _ = Ended(caller.returncode, out, err).complaint(Exit.UNREACHABLE)
    assert message in found


def test_dump(world: World, path: Path) -> None:
    """Relative to where the command is given."""
    with serving(world, path, "-t3600") as daemon:
        daemon.wait_for_log(SYNCED)
        world.write("file")
        assert told(world, "-s", path, "dump", "a dump") == f"dump  {world.top}/a dump\n"
        assert (world.top / "a dump/instance").read_text().startswith("status == ")
        message, hint = ctl(world, "-s", path, "dump", "a dump").complaint(Exit.REFUSED)
        assert message == f"dump {world.top}/a dump: File exists"
        assert hint == "name a directory that does not exist"
        assert ctl(world, "-s", path, "dump", "/dev/null/x").complaint(Exit.REFUSED)[0].endswith("Not a directory")


def test_set(world: World, path: Path) -> None:
    """At once; the answer says what is in force."""
    with serving(world, path, "-t3600") as daemon:
        daemon.wait_for_log(SYNCED)
        assert told(world, "-s", path, "set", "label", "a b :c") == "label  a b :c\n"
        assert json.loads(told(world, "-s", path, "info", "-j"))["label"] == "a b :c"
        world.write("file")
        assert told(world, "-s", path, "set", "delay-collect", "-1") == "delay-collect  -1\n"
        world.wait_for_copy(daemon, "file")


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("watch-dir", "-x", "watch-dir cannot be changed while clsync runs"),
        ("socket-mod", "777", "socket-mod cannot be changed while clsync runs"),
        ("permit-mprotect", "1", "permit-mprotect has no effect"),
        ("lable", "x", "did you mean label?"),
        ("delay-sync", "soon", "'soon' is not a number of seconds"),
        ("sync-handler", "/bin/true", "--mode=copy runs no program"),
        ("uid", "0", "uid"),
    ],
)
def test_what_cannot_be_set(world: World, path: Path, key: str, value: str, reason: str) -> None:
    """It is said, and changes nothing."""
    with serving(world, path, "-Mcopy") as daemon:
        daemon.wait_for_log(SYNCED)
        message, _ = ctl(world, "-s", path, "set", key, value).complaint(Exit.REFUSED)
        assert message.startswith(f"set {key}: ")
        assert reason in message
        world.write("later")
        world.wait_for_copy(daemon, "later")
        assert "Traceback" not in daemon.output


# -- the others of old -----------------------------------------------------------------------------------------

ORIGINAL = Path("/usr/bin/clsync")
needs_the_original = pytest.mark.skipif(
    not ORIGINAL.exists() or os.geteuid() != 0, reason="needs root, and clsync 0.4 in /usr/bin"
)


@needs_the_original
@pytest.mark.root
def test_ctl_talks_to_the_daemon_of_old(world: World, path: Path) -> None:
    path.parent.chmod(0o777)  # it makes its socket as nobody
    args = ("-H/NULL/", *world.trees, "-Mrsyncdirect", "-Srsync", "-t1", "-w1", "-lold", f"--socket={path}")
    with Daemon(*args, program=[ORIGINAL], env=world.environment, cwd=world.top) as daemon:
        wait_for_socket(daemon, path)
        found = status(world, path)
        assert (found["version"], found["config_block"], found["label"]) == ("0.5-release", "default", "old")
        assert "clsync 0.4" in str(found["note"])
        assert told(world, "-s", path, "version") == "version  0.5-release\n"
        assert json.loads(told(world, "-s", path, "info", "-j")) == {"config_block": "default", "label": "old"}
        directory = path.parent / "dump"
        assert told(world, "-s", path, "dump", directory) == f"dump  {directory}\n"
        assert {"instance", "queue", "threads"} == set(os.listdir(directory))
        message, hint = ctl(world, "-s", path, "dump", directory).complaint(Exit.REFUSED)
        assert message == f"dump {directory}: File exists"
        assert hint == "name a directory that does not exist"
        message, _ = ctl(world, "-s", path, "set", "label", "new").complaint(Exit.REFUSED)
        assert "would set an empty value" in message
        assert json.loads(told(world, "-s", path, "info", "-j"))["label"] == "old"
        assert told(world, "-s", path, "stop") == "stopped  yes\n"
        assert daemon.wait(code=0, timeout=1) == 0


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a program that uses libclsync."""
    gcc, config = shutil.which("gcc"), shutil.which("pkg-config")
    if gcc is None or config is None:
        pytest.skip("gcc and pkg-config are not installed")
    asked = subprocess.run([config, "--cflags", "--libs", "libclsync"], check=False, capture_output=True, text=True)
    if asked.returncode:
        pytest.skip("libclsync-dev is not installed")
    # Some of its headers are in the directory of the daemon's.
    included = subprocess.run(
        [config, "--variable=includedir", "libclsync"], check=True, capture_output=True, text=True
    )
    program = tmp_path_factory.mktemp("library") / "client"
    source = Path(__file__).parents[1] / "support/libclsync_client.c"
    headers = f"-I{included.stdout.strip()}/clsync"
    subprocess.run([gcc, "-w", "-fPIC", "-o", program, source, *asked.stdout.split(), headers], check=True)
    return program


def use(library: Path, *args: str | Path) -> list[str]:
    """Run the program that uses libclsync; return its lines."""
    done = subprocess.run([library, *args], check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout.splitlines()


def test_the_library_of_old_talks_to_this_daemon(world: World, path: Path, library: Path) -> None:
    version = f"300 {MAJOR} {MINOR} {REVISION.decode()}"
    with serving(world, path, "-llab1") as daemon:
        daemon.wait_for_log(SYNCED)
        lines = use(library, path, "blocking", world.top / "dump")
        # The library reads a string of the answer to `info` with its end, and no further.
        assert lines == [
            "0 0",
            "0 150 1 0",
            f"1 {version}",
            "2 301 default\3/",
            "3 302",
            "4 199",
            "5 160 301 5",
            "6 350",
        ]
        assert f"asks for a dump to {world.top}/dump\n" in daemon.output
        assert (world.top / "dump/instance").exists()
        assert use(library, path, "thread") == [f"1001 {version}", "1002 350"]
        # In 0.4.5 this closes the connection as soon as it has sent its offer.
        assert use(library, path, "connect") == ["connected"]
        assert status(world, path)["label"] == "lab1"
        assert use(library, path, "die") == ["0 0", "0 150 1 0"]
        daemon.wait(code=0)


@pytest.mark.parametrize("in_time", [False, True])
def test_rules_that_are_read_again_while_an_option_is_set_stay(world: World, path: Path, in_time: bool) -> None:
    """The settings were made with the older ones; whether those of now are in force already, or wait as well."""
    slow, rules = world.top / "slow", world.file("rules", "-f\\.first$\n")
    world.file(
        "rsync",
        # clsync tries rsync in a directory of this kind once the rules are read.
        f"#!/bin/sh\ncase $PWD in */clsync-trial-*) while test -e {slow}; do sleep 0.02; done ;; esac\n"
        'exec /usr/bin/rsync "$@"\n',
        0o755,
    )
    world.environment["PATH"] = f"{world.top}:{os.environ['PATH']}"
    with serving(world, path, f"-R{rules}") as daemon:
        daemon.wait_for_log(SYNCED)
        slow.touch()
        setting = subprocess.Popen([installed(), "ctl", "-s", path, "set", "label", "new"], stdout=subprocess.DEVNULL)
        daemon.wait_until(lambda: bool(trials(daemon)), what="the settings in the making")
        rules.write_text("-f\\.second$\n")
        os.kill(daemon.pid, signal.SIGHUP)
        if in_time:
            daemon.wait_for_log("rules: read again")
        slow.unlink()
        assert setting.wait(20) == 0, daemon.output
        daemon.wait_for_log("label is set to 'new'")
        daemon.wait_for_log("rules: read again")
        for name in ("a.second", "b.first"):
            world.write(name)
        world.wait_for_copy(daemon, "b.first")
        assert world.copied("a.second") is None


def trials(daemon: Daemon) -> list[int]:
    """Return the processes of the daemon that try rsync."""

    def place(pid: int) -> str:
        try:
            return os.readlink(f"/proc/{pid}/cwd")
        except OSError:
            return ""

    return [pid for pid in daemon.descendants() if "clsync-trial-" in place(pid)]


@pytest.mark.parametrize("sent", [signal.SIGQUIT, signal.SIGTERM])
def test_who_waits_for_settings_when_the_run_ends(world: World, path: Path, sent: signal.Signals) -> None:
    """They do not come into force any more: what is handed over at the end is waited for, or nothing is."""
    gate, begun = world.top / "gate", world.top / "begun"
    handler = world.file("handler", f"#!/bin/sh\ntouch {begun}\nwhile [ ! -e {gate} ]; do sleep 0.05; done\n", 0o755)
    gate.touch()
    with world.daemon("-Msimple", f"-S{handler}", f"--socket={path}") as daemon:
        daemon.wait_for_log(SYNCED)
        gate.unlink()
        begun.unlink()
        world.write("file")
        daemon.wait_until(begun.exists, what="a batch on its way")
        ctl(world, "-s", path, "set", "delay-sync", "1")
        command = [installed(), "wait", f"-s{path}"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as waiting:
            time.sleep(1)
            os.kill(daemon.pid, sent)
            time.sleep(0.5)
            gate.touch()
            expected = 0 if sent == signal.SIGQUIT else Exit.UNREACHABLE
            assert waiting.wait(LATE) == expected
        daemon.wait(code=0 if sent == signal.SIGQUIT else Exit.INCOMPLETE)
        assert "Error" not in daemon.output
