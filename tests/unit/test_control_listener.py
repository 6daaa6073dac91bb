"""The socket file, while others begin at the same place."""

from __future__ import annotations

import fcntl
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from clsync.control.listener import Listener
from clsync.errors import OperatorError


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a lock on a directory."""
    descriptor = os.open(directory, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


def times_open(path: Path) -> int:
    """Return how many descriptors of this process stand for a path."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{name}") == str(path)
        except FileNotFoundError:
            continue
    return found


def test_one_that_is_bound_and_about_to_listen_is_not_taken_for_a_stale_one(tmp_path: Path) -> None:
    path, troubles = tmp_path / "s", list[str]()

    def begin() -> None:
        listener = Listener(bytes(path), 0o600, None)
        try:
            listener.open().close()
        except OperatorError as error:
            troubles.append(error.message)

    second = threading.Thread(target=begin)
    with socket.socket(socket.AF_UNIX) as first:
        with locked(tmp_path):
            first.bind(bytes(path))
            before = path.lstat()
            second.start()
            while second.is_alive() and times_open(tmp_path) < 2:
                time.sleep(0.001)
            first.listen()
        second.join()
        assert troubles == [f"--socket {path} is in use by another process"]
        assert path.lstat().st_ino == before.st_ino


def test_a_lock_that_is_never_let_go_of_holds_nobody_up(tmp_path: Path) -> None:
    """Everybody who may read the directory can take one."""
    listener = Listener(bytes(tmp_path / "s"), 0o640, None)
    with locked(tmp_path):
        started = time.monotonic()
        listener.open().close()
        assert time.monotonic() - started < 20
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o640
    listener.remove()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_sockets_of_other_kinds_that_are_in_use_are_left_alone(tmp_path: Path, kind: socket.SocketKind) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX, kind) as other:
        other.bind(bytes(path))
        if kind == socket.SOCK_SEQPACKET:
            other.listen()
        with pytest.raises(OperatorError, match="--socket"):
            Listener(bytes(path), 0o600, None).open()
        assert path.is_socket()
