"""What is set at the control socket of a daemon that is split by default: what was asked for, and nothing else."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

import pytest

from clsync.control.listener import Listener, Listening
from clsync.control.protocol import LONGEST_REQUEST, Id, request
from clsync.daemon.witness import _MOST
from clsync.errors import OperatorError
from clsync.privilege.wire import Op
from tests.system.world import ROOT
from tests.unit.test_broker import Asked, end_of

_CLIENT = """
import os, socket, sys
if len(sys.argv) > 2:
    os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
with socket.socket(socket.AF_UNIX) as here:
    here.connect(sys.argv[1])
    here.sendall(sys.stdin.buffer.read())
    here.shutdown(socket.SHUT_WR)
    here.recv(1)
"""


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Listening]:
    """Return a control socket, for everybody to connect to."""
    for path in (tmp_path, *tmp_path.parents[:2]):
        path.chmod(0o755)
    listener = Listener(bytes(tmp_path / "socket"), 0o666, None)
    with listener.open() as made:
        made.setblocking(True)
        yield made
    listener.remove()


@pytest.fixture
def heard(tmp_path: Path, listening: Listening) -> Iterator[Asked]:
    """Return a broker that hears who may ask for changes."""
    (tmp_path / "below").mkdir()
    made = Asked(tmp_path / "below", listening=listening)
    yield made
    made.close()


@contextmanager
def client(listening: Listening, said: bytes | None, *, nobody: bool = False) -> Iterator[socket.socket]:
    """Give the connection of another process, which says something and leaves, or nothing and stays."""
    argv = [sys.executable, "-c", _CLIENT, os.fsdecode(listening.getsockname()), *(["nobody"] if nobody else [])]
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        if said is not None:
            process.stdin.write(said)
            process.stdin.close()
        connection, _ = listening.accept()
        with connection:
            yield connection


def hear(asked: Asked, connection: socket.socket) -> bytes:
    """Have a connection heard; return all that is read of it."""
    asked.caller.call(Op.HEAR, descriptor=connection.fileno())
    (where,) = asked.caller.descriptors
    with socket.socket(fileno=where) as words:
        words.settimeout(20)
        return b"".join(iter(lambda: words.recv(65536), b""))


def test_what_was_said_may_be_set(heard: Asked, listening: Listening) -> None:
    said = b"".join((request(1, Id.STATUS), request(2, Id.SET, b"label", b"a b"), request(3, Id.STATUS)))
    with pytest.raises(OperatorError, match="cannot be set"):
        heard.ask(Op.PREPARE, ["label"], ["a b"])
    with client(listening, said) as connection:
        assert hear(heard, connection) == said
    assert heard.ask(Op.PREPARE, ["label"], ["a b"])[0] == 1
    for key, value in (("label", "a"), ("label", "a b c"), ("mode", "a b")):
        with pytest.raises(OperatorError, match="cannot be set"):
            heard.ask(Op.PREPARE, [key], [value])


def test_what_was_said_may_be_dumped_to(heard: Asked, listening: Listening, tmp_path: Path) -> None:
    named, other = bytes(tmp_path / "named"), bytes(tmp_path / "other")
    with client(listening, request(1, Id.DUMP, named)) as connection:
        hear(heard, connection)
    (number,) = heard.caller.call(Op.DUMP, named)
    heard.caller.call(Op.DUMP_DIRECTORY, number, b"queue")
    heard.caller.call(Op.DUMP_FILE, number, b"queue/0")
    os.close(heard.caller.descriptors[0])
    heard.caller.call(Op.DUMP_END, number)
    assert os.listdir(named) == [b"queue"]
    assert os.listdir(named + b"/queue") == [b"0"]
    with pytest.raises(PermissionError):
        heard.caller.call(Op.DUMP, other)
    assert not os.path.exists(other)


def test_lines_come_whole_however_they_are_cut(heard: Asked, listening: Listening) -> None:
    long = b"x" * (LONGEST_REQUEST - 100)
    said = b"".join(request(number, Id.SET, b"label", b"%d%s" % (number, long)) for number in range(40))
    with client(listening, said) as connection:
        assert hear(heard, connection) == said
    assert heard.ask(Op.PREPARE, ["label"], [f"39{long.decode()}"])[0] == 1


def test_who_speaks_something_else_is_handed_on_and_not_understood(heard: Asked, listening: Listening) -> None:
    said = b"\0binary\n" + request(1, Id.SET, b"label", b"x")
    with client(listening, said) as connection:
        assert hear(heard, connection) == said
    with pytest.raises(OperatorError, match="cannot be set"):
        heard.ask(Op.PREPARE, ["label"], ["x"])


@ROOT
def test_who_may_only_look_is_not_heard(heard: Asked, listening: Listening) -> None:
    with client(listening, request(1, Id.SET, b"label", b"x"), nobody=True) as connection:
        with pytest.raises(PermissionError):
            hear(heard, connection)


def test_a_worker_that_speaks_for_itself_is_not_heard(heard: Asked, listening: Listening) -> None:
    """Also by sockets that have root at their other end, and by what is no socket."""
    with socket.socket(socket.AF_UNIX) as own:
        own.connect(listening.getsockname())  # root listens there
        accepted, _ = listening.accept()
        pair = socket.socketpair()
        pipe = [open(end, "rb", buffering=0) for end in os.pipe()]
        with accepted, pair[0], pair[1], pipe[0], pipe[1], socket.socket() as other, listening.dup() as same:
            ends: list[socket.socket | FileIO] = [own, accepted, *pair, *pipe, other, same]
            for end in ends:
                with pytest.raises(OSError):  # noqa: PT011 - whatever it is
                    heard.caller.call(Op.HEAR, descriptor=end.fileno())
    heard.root()  # and all goes on


def test_more_than_can_be_heard(heard: Asked, listening: Listening) -> None:
    with client(listening, None) as connection:
        for _ in range(_MOST):
            heard.caller.call(Op.HEAR, descriptor=connection.fileno())
            heard.held += heard.caller.descriptors
        with pytest.raises(OSError, match="open files"):
            heard.caller.call(Op.HEAR, descriptor=connection.fileno())


def test_a_descriptor_where_none_should_be(heard: Asked, listening: Listening) -> None:
    with end_of(heard, "nothing where a descriptor should be"):
        heard.caller.call(Op.HEAR)


@pytest.mark.parametrize("most", [1, 300])
def test_descriptors_that_nobody_wants(heard: Asked, most: int) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with end_of(heard, "descriptor"):
        for _ in range(most):
            heard.caller.call(Op.STANDBY, descriptor=0)
    assert len(os.listdir("/proc/self/fd")) <= before


def test_without_a_witness_nobody_is_heard(tmp_path: Path, listening: Listening) -> None:
    (tmp_path / "below").mkdir()
    asked = Asked(tmp_path / "below")
    try:
        with client(listening, request(1, Id.SET, b"label", b"x")) as connection:
            with pytest.raises(PermissionError):
                hear(asked, connection)
    finally:
        asked.close()
