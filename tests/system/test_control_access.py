"""The control socket and those who may connect, but should not have a say; clients that cost; names on a terminal."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from clsync.control.client import Client, connected
from clsync.errors import OperatorError
from tests.support.daemon import Daemon
from tests.support.recorder import Recorder
from tests.support.rights import NOBODY
from tests.system.world import ROOT, SYNCED, World

OTHER, GROUP = 4711, 4712
REFUSED = "only root, and the owner and group of the socket, may ask for this"


@pytest.fixture
def path() -> Iterator[Path]:
    """Return where the socket is to be: a short path, that everybody may reach."""
    with tempfile.TemporaryDirectory(prefix="clsync-ctl-") as name:
        Path(name).chmod(0o755)
        yield Path(name) / "socket"


class Who(NamedTuple):
    """A user, as who something is asked."""

    uid: int
    gid: int = OTHER
    groups: Sequence[int] = ()


def asked_by(who: Who, path: Path, ask: Callable[[Client], object]) -> str:
    """Ask a daemon as somebody else; return what hinders it, nothing if nothing does."""
    outlet, inlet = os.pipe()
    pid = os.fork()
    if not pid:
        said = "it has failed"
        try:
            os.setgroups(who.groups)
            os.setresgid(who.gid, who.gid, who.gid)
            os.setresuid(who.uid, who.uid, who.uid)
            with connected(bytes(path), 20) as client:
                ask(client)
            said = ""
        except OperatorError as error:
            said = error.message
        finally:
            os.write(inlet, said.encode())
            os._exit(0)
    os.close(inlet)
    os.waitpid(pid, 0)
    with open(outlet, encoding="utf-8") as pipe:
        return pipe.read()


CHANGES: dict[str, Callable[[Client], object]] = {
    "set": lambda client: client.set(b"label", b"other"),
    "dump": lambda client: client.dump(b"/tmp/clsync-never"),
    "pause": lambda client: client.pause([], True),
    "resume": lambda client: client.pause([], False),
    "die": Client.die,
}
QUESTIONS: dict[str, Callable[[Client], object]] = {
    "status": Client.status,
    "info": Client.info,
    "version": Client.version,
    "wait": lambda client: client.wait([], False, 20.0),
}


@ROOT
@pytest.mark.root
@pytest.mark.parametrize("splitting", ["off", "process"])
def test_who_may_only_connect_may_only_look(world: World, path: Path, splitting: str) -> None:
    with world.daemon("-Mcopy", "--socket", path, "--socket-mod=666", f"--splitting={splitting}") as daemon:
        daemon.wait_for_log(SYNCED)
        for who in (Who(NOBODY), Who(OTHER), Who(OTHER, OTHER, (1,))):
            for name, question in QUESTIONS.items():
                assert asked_by(who, path, question) == "", name
            for name, change in CHANGES.items():
                assert REFUSED in asked_by(who, path, change), name
        assert asked_by(Who(0, 0), path, CHANGES["pause"]) == ""
        assert asked_by(Who(0, 0), path, CHANGES["resume"]) == ""
        world.write("file")
        world.wait_for_copy(daemon, "file")
        asked = [line for line in daemon.output.splitlines() if "asks for" in line]
        assert len(asked) == 2
        assert all("control socket: uid 0 " in line for line in asked)
        assert not Path("/tmp/clsync-never").exists()


@ROOT
@pytest.mark.root
@pytest.mark.parametrize(
    ("own", "mode", "who", "hindrance"),
    [
        ("4711", "666", Who(OTHER), ""),
        ("root:4712", "666", Who(OTHER, GROUP), ""),
        ("root:4712", "660", Who(OTHER, GROUP), ""),
        ("root:4712", "660", Who(OTHER, OTHER, (1, GROUP, 3)), ""),
        ("root:4712", "666", Who(OTHER, OTHER, (1, 3)), REFUSED),
        ("root:4712", "660", Who(OTHER, OTHER, (1, 3)), "Permission denied"),
        ("root:4712", "646", Who(OTHER, GROUP), "Permission denied"),
    ],
    ids=range(7),
)
def test_owner_and_group(world: World, path: Path, own: str, mode: str, who: Who, hindrance: str) -> None:
    with world.daemon("-Mcopy", "--socket", path, f"--socket-own={own}", f"--socket-mod={mode}") as daemon:
        daemon.wait_for_log(SYNCED)
        said = asked_by(who, path, CHANGES["pause"])
        assert hindrance in said if hindrance else said == "", said
        assert f"control socket: uid {who.uid} " in daemon.output or hindrance


@ROOT
@pytest.mark.root
@pytest.mark.parametrize(
    ("own", "who"), [("4711", Who(OTHER)), ("root:4712", Who(OTHER, GROUP))], ids=["owner", "group"]
)
@pytest.mark.parametrize("splitting", ["auto", "process"])
def test_owner_and_group_say_nothing_of_what_root_runs(
    world: World, path: Path, own: str, who: Who, splitting: str
) -> None:
    """They would be root by that, or have it write and delete where they like."""
    hook, made, elsewhere = world.file("hook", "#!/bin/sh\n", 0o755), world.top / "made", world.top / "elsewhere"
    with world.daemon(
        "-Mcopy", f"--splitting={splitting}", "--socket", path, f"--socket-own={own}", "--socket-mod=660"
    ) as daemon:
        daemon.wait_for_log(SYNCED)
        assert asked_by(who, path, lambda client: client.set(b"delay-sync", b"0.3")) == ""
        for key, value in (("exit-hook", hook), ("destination-dir", elsewhere), ("standby-file", hook)):
            said = asked_by(who, path, partial(Client.set, key=key.encode(), value=bytes(value)))
            assert "cannot be set with --splitting" in said, said
        assert "Permission denied" in asked_by(who, path, lambda client: client.dump(bytes(made)))
        assert asked_by(Who(0, 0), path, lambda client: client.dump(bytes(made))) == ""
        assert (made / "instance").read_text().startswith("status == ")
        assert made.stat().st_uid == 0
    assert not elsewhere.exists()


# -- clients that cost -----------------------------------------------------------------------------------------


def memory_of(daemon: Daemon) -> int:
    """Return the memory of a daemon (resident, KiB; proc_pid_status(5))."""
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS:")).split()[1])


def test_clients_cost_little(world: World, path: Path) -> None:
    """Thousands that come and stay, half a line each, others that ask for much and read nothing: the mirror goes on."""
    with world.daemon("-Mcopy", "--socket", path) as daemon:
        daemon.wait_for_log(SYNCED)
        before = memory_of(daemon)
        held = []
        for number in range(2000):
            client = socket.socket(socket.AF_UNIX)
            client.connect(bytes(path))
            client.settimeout(20)
            try:
                client.send(b"1 400\n" * 100 if number % 3 else b"1 211 " + b"x" * 16_000)
            except OSError:
                pass  # others have come meanwhile
            held.append(client)
        world.write("file")
        world.wait_for_copy(daemon, "file")
        with connected(bytes(path), 20) as other:
            assert other.status()["phase"] == "running"
        assert memory_of(daemon) - before < 20_000, "KiB"
        for client in held:
            client.close()


def test_a_line_without_an_end(world: World, path: Path) -> None:
    """Its connection is closed after some 16 KiB."""
    with world.daemon("-Mcopy", "--socket", path) as daemon:
        daemon.wait_for_log(SYNCED)
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(20)
        client.connect(bytes(path))
        sent = 0
        try:
            while sent < 64 << 20:
                sent += client.send(b"1 211 " + b"x" * 65_536)
        except (BrokenPipeError, ConnectionResetError):
            pass
        client.close()
        assert sent < 8 << 20, "bytes that were taken"


@ROOT
@pytest.mark.root
def test_who_has_many_connections_makes_room_for_others(world: World, path: Path) -> None:
    """Of two users, the one with most connections loses one; the other keeps his only one."""
    with world.daemon("-Mcopy", "--socket", path, "--socket-mod=666") as daemon:
        daemon.wait_for_log(SYNCED)
        with connected(bytes(path), 20) as client:

            def crowd(_client: Client) -> None:
                held = []
                for _ in range(200):
                    one = socket.socket(socket.AF_UNIX)
                    one.connect(bytes(path))
                    held.append(one)
                with connected(bytes(path), 20) as last:
                    last.version()

            assert asked_by(Who(OTHER), path, crowd) == ""
            assert client.status()["phase"] == "running"


# -- names on a terminal ---------------------------------------------------------------------------------------

ODD = (
    b"\x1b[31mred\x1b[0m",
    b"line\nfeed\rback",
    b"\xe2\x80\xaeevil\xe2\x80\xac",  # bidirectional override
    b"\xff\xfe",
    b"\xc2\x9b31m",  # a control sequence in one character
    b"zero\xe2\x80\x8bwidth",
    b"\x07bell\x08\x7f",
)


def demand_printable(text: str) -> None:
    """Fail if a terminal would do anything with a text but show it, line by line."""
    for line in text.splitlines():
        assert line.isprintable(), ascii(line)
    assert len(text.splitlines()) == text.count("\n"), ascii(text)


def test_names_never_reach_a_terminal_as_they_are(world: World, path: Path) -> None:
    """In the log, in answers, in a dump, in the words of who waits."""
    recorder = Recorder(world.top, "exit 7")
    for name in ODD:
        Path(os.fsdecode(bytes(world.source) + b"/" + name)).write_text("x")
    dump = world.top / "dump"
    with world.daemon("-Mdirect", recorder.option, "--socket", path, "-d3") as daemon:
        daemon.wait_until(lambda: world.run("ctl", "-s", path, "status").out.count("exit code 7") >= len(ODD))
        demand_printable(daemon.output)
        for words in (["status"], ["status", "--json"], ["info"], ["dump", str(dump)], ["wait", "--timeout=20"]):
            ended = world.run("ctl", "-s", path, *words)
            demand_printable(ended.out)
            demand_printable(ended.err)
        told = world.run("ctl", "-s", path, "status", "--json")
        names = {os.fsencode(failure["path"]) for failure in json.loads(told.out)["failures"]}
        assert names >= set(ODD), "for programs they are what they are"
        for file in dump.rglob("*"):
            if file.is_file():
                text = file.read_text()
                for line in text.split("\n"):
                    assert line.replace("\t", "").isprintable(), ascii(line)
        demand_printable(daemon.output)
        daemon.stop(code=None)


@pytest.mark.parametrize(
    ("option", "name"),
    list(
        zip(
            ["-W", "-D", "-R", "-H", "-S", "--", "-M", "--socket-own=", "-L/dev/null/"], [*ODD, *ODD[:2]], strict=True
        )
    ),
    ids=range(9),
)
def test_complaints_show_what_is_odd(world: World, option: str, name: bytes) -> None:
    ended = world.run(*world.trees, "-Mrsyncshell", "-S/bin/true", os.fsencode(option) + name)
    assert ended.code not in (0, 1), ended
    demand_printable(ended.err)
