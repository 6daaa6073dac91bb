"""What root says at the control socket: read along by who has the rights.

The worker answers at the socket, and is not believed. This reads what comes from root before the worker does: only what
was really asked for is done. The owner and the group of the socket may ask for changes as well, but not for what is run,
as whom, or where: they would be root by that.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from typing import Final

from clsync.control.listener import Listening
from clsync.control.peer import peer_of
from clsync.control.protocol import Id, Line, Malformed, ProtocolError, Reader
from clsync.core.memory import remember
from clsync.options import Assignment
from clsync.options.values import shown

_MOST: Final = 128
"""Connections."""
_CHUNK: Final = 4096
_REMEMBERED: Final = 10_000
"""What was asked for; the oldest is forgotten first."""


class Witness:
    """Hears who may ask for anything."""

    def __init__(self, listening: Listening) -> None:
        """`listening`: the control socket."""
        self._listening = listening
        self._said: dict[Assignment, None] = {}
        self._directories: dict[bytes, None] = {}
        self._open: set[_Ear] = set()

    def has_said(self, change: Assignment) -> bool:
        """Tell whether somebody who may has asked for it."""
        return change in self._said

    def has_named(self, directory: bytes) -> bool:
        """Tell whether somebody who may has asked for a dump there."""
        return directory in self._directories

    def hear(self, descriptor: int) -> int:
        """Read along from now on what comes at a connection, which is ours from now on; return where to read it.

        Raises OSError: EPERM where it is none of the control socket's, or its client is not who runs clsync; EMFILE.
        """
        try:
            connection = socket.socket(fileno=descriptor)
        except OSError:
            os.close(descriptor)
            raise
        try:
            self._demand_right(connection)
            if len(self._open) >= _MOST:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError:
            connection.close()
            raise
        self._open.add(_Ear(connection, here, self._note, self._open.discard))
        return there.detach()

    def close(self) -> None:
        """Hear nobody any more."""
        for ear in list(self._open):
            ear.close()

    def _demand_right(self, connection: socket.socket) -> None:
        """See that it was accepted here, from root, or the user who runs clsync. Raises OSError.

        Who connects to a socket of root's has root at the other end as well: he has no name, or another one.
        """
        accepted = connection.family == socket.AF_UNIX and connection.getsockname() == self._listening.getsockname()
        peer = peer_of(connection) if accepted else None
        if peer is None or peer.pid == os.getpid() or peer.uid not in (0, os.geteuid()):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    def _note(self, line: Line) -> None:
        try:
            if line.id == Id.SET:
                key, value = line.strings()
                remember(self._said, Assignment(shown(key), value), None, _REMEMBERED)
            elif line.id == Id.DUMP:
                remember(self._directories, line.strings()[0], None, _REMEMBERED)
        except Malformed:
            pass  # the worker says so


class _Ear:
    """Hands on what comes at one connection, when it is noted."""

    def __init__(
        self,
        connection: socket.socket,
        onward: socket.socket,
        note: Callable[[Line], None],
        closed: Callable[[_Ear], None],
    ) -> None:
        """`onward`: where it is read; `note` is told each line, `closed` that this is over."""
        self._connection, self._onward, self._note, self._closed = connection, onward, note, closed
        self._lines: Reader | None = Reader()
        """None: it speaks something else, and is understood no more."""
        self._waiting = memoryview(b"")
        self._loop = asyncio.get_running_loop()
        for end in (connection, onward):
            end.setblocking(False)
        self._loop.add_reader(connection.fileno(), self._readable)
        self._loop.add_reader(onward.fileno(), self.close)  # nothing comes from there but its end

    def close(self) -> None:
        """End: the worker has all there is, and the client is left to it."""
        for end in (self._connection, self._onward):
            self._loop.remove_reader(end.fileno())
            self._loop.remove_writer(end.fileno())
            end.close()
        self._closed(self)

    def _readable(self) -> None:
        try:
            data = self._connection.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self._hear(data)
        self._loop.remove_reader(self._connection.fileno())
        self._waiting = memoryview(data)
        self._hand_on()

    def _hear(self, data: bytes) -> None:
        if self._lines is None:
            return
        try:
            self._lines.feed(data)
            for line in self._lines.lines():
                self._note(line)
        except ProtocolError:
            self._lines = None

    def _hand_on(self) -> None:
        """Send what waits; the client is not read before all of it is gone."""
        try:
            self._waiting = self._waiting[self._onward.send(self._waiting) :]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        if self._waiting:
            self._loop.add_writer(self._onward.fileno(), self._hand_on)
        else:
            self._loop.remove_writer(self._onward.fileno())
            self._loop.add_reader(self._connection.fileno(), self._readable)
