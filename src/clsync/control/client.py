"""The other end of the control socket: for `clsync ctl`, with this daemon and with that of clsync 0.4."""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from clsync.control.listener import LONGEST_PATH
from clsync.control.protocol import (
    LONGEST_ANSWER,
    PROTOCOL,
    Argument,
    Id,
    Line,
    Malformed,
    ProtocolError,
    Reader,
    request,
)
from clsync.errors import Exit, OperatorError
from clsync.options.values import shown

_CHUNK: Final = 65_536
_FOR_EVER: Final = 10.0**9
_LONGEST_SLEEP: Final = 10.0**6
"""Seconds; the system's own limit is 2^31 ms."""
_TURN: Final = 0.01
"""Seconds between two tries to connect."""
_FIRST_NUMBER: Final = 1000
"""Of requests: the server numbers its own lines from 0."""


class Unknown(Exception):
    """The daemon does not know this request: it is an older one."""


class Client:
    """A connection to a daemon. All methods raise OperatorError where it does not answer, or refuses."""

    def __init__(self, connection: socket.socket, path: bytes, timeout: float) -> None:
        """`timeout`: seconds that an answer may take."""
        self._socket, self._timeout, self._where = connection, timeout, f"control socket {shown(path)}"
        self._reader, self._lines = Reader(LONGEST_ANSWER), list[Line]()
        self._number = _FIRST_NUMBER

    def negotiate(self) -> None:
        """Agree on the protocol."""
        deadline = self._deadline()
        offer = self._line(deadline)
        if offer.id != Id.NEGOTIATE or self._checked(offer).numbers() != [PROTOCOL]:
            raise self._strange()
        self._send(request(0, Id.NEGOTIATED, PROTOCOL))
        if self._answer_to(0, deadline).id != Id.ACKNOWLEDGED:
            raise self._strange()

    def version(self) -> tuple[int, str]:
        """Return the first number of the daemon's version, and the whole of it."""
        answer = self._ask(Id.VERSION, Id.VERSION_IS)
        major, minor = answer.numbers()
        return major, f"{major}.{minor}{shown(answer.strings()[0])}"

    def info(self) -> tuple[bytes, bytes]:
        """Return the configuration block and the label."""
        block, label = self._ask(Id.INFO, Id.INFO_IS).strings()
        return block, label

    def status(self) -> Mapping[str, object]:
        """Return what goes on in the daemon. Raises Unknown where it is clsync 0.4."""
        return self._object(self._ask(Id.STATUS, Id.STATUS_IS))

    def _object(self, answer: Line) -> Mapping[str, object]:
        try:
            found = json.loads(answer.strings()[0])
        except ValueError:
            raise self._strange() from None
        if not isinstance(found, dict):
            raise self._strange()
        return found

    def wait(self, targets: Sequence[str], until_synced: bool, timeout: float | None) -> Mapping[str, object]:
        """Return what has become of what had changed; `timeout`: seconds that may take, None: any.

        Raises Unknown where the daemon is clsync 0.4.
        """
        asked = json.dumps({"targets": targets, "until_synced": until_synced}).encode()
        usual = self._timeout
        self._timeout = _FOR_EVER if timeout is None else timeout
        try:
            return self._object(self._ask(Id.WAIT, Id.ARRIVED, asked))
        except _Late:
            raise OperatorError(
                f"not everything has arrived within {self._timeout:g} s",
                "see clsync ctl status, or give it more time with --timeout",
                Exit.LATE,
            ) from None
        finally:
            self._timeout = usual

    def verify(
        self, targets: Sequence[str], content: bool, repair: bool, tell: Callable[[Mapping[str, object]], None]
    ) -> Mapping[str, object]:
        """Have some targets (none: all) compared with the source, however long that takes; return what came of it.

        `tell` is told how far it is, and what was found. Raises Unknown where the daemon is an older one.
        """
        asked = json.dumps({"targets": targets, "content": content, "repair": repair}).encode()
        number = self._next_number()
        self._send(request(number, Id.VERIFY, asked))
        while True:
            answer = self._answer_to(number, time.monotonic() + _FOR_EVER)
            if answer.id == Id.VERIFIED:
                return self._object(self._checked(answer))
            if answer.id == Id.UNKNOWN:
                raise Unknown
            if answer.id != Id.VERIFYING:
                raise self._refusal(answer)
            tell(self._object(self._checked(answer)))

    def pause(self, targets: Sequence[str], paused: bool) -> None:
        """Let nothing be handed over to some targets (none: to all), or let it go on.

        Raises Unknown where the daemon is clsync 0.4.
        """
        asked = json.dumps({"targets": targets}).encode()
        self._ask(*((Id.PAUSE, Id.PAUSED) if paused else (Id.RESUME, Id.RESUMED)), asked)

    def accept(self, targets: Sequence[str]) -> None:
        """Let what was held back be deleted at some targets (none: at all).

        Raises Unknown where the daemon is clsync 0.4.
        """
        self._ask(Id.ACCEPT, Id.ACCEPTED, json.dumps({"targets": targets}).encode())

    def dump(self, directory: bytes) -> None:
        """Have the queues written to a new directory, an absolute path."""
        self._ask(Id.DUMP, Id.DUMPED, directory)

    def set(self, key: bytes, value: bytes) -> None:
        """Change an option of the daemon."""
        self._ask(Id.SET, Id.HAS_SET, key, value)

    def die(self) -> None:
        """End the daemon, and wait until its process has ended."""
        process, number = self._process(), self._next_number()
        try:
            self._send(request(number, Id.DIE))
            deadline = self._deadline()
            self._wait_for_close(number, deadline)
            if process is not None and not select.select([process], [], [], max(deadline - time.monotonic(), 0))[0]:
                raise self._late("the daemon has not ended")
        finally:
            if process is not None:
                os.close(process)

    def _wait_for_close(self, number: int, deadline: float) -> None:
        """Wait for the only good answer to a request. Raises OperatorError where there is another one."""
        while True:
            try:
                line = self._line(deadline)
            except _Closed:
                return
            if (line.number, line.id) == (number, Id.FAILED):
                raise self._refusal(line)

    def _process(self) -> int | None:
        """Return a descriptor of the daemon's process (pidfd_open(2)); None where it cannot be seen from here."""
        pid: int = struct.unpack("iII", self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        try:
            return os.pidfd_open(pid)
        except OSError:
            return None

    def _ask(self, id: Id, expected: Id, *arguments: Argument) -> Line:
        number = self._next_number()
        try:
            self._send(request(number, id, *arguments))
        except Malformed as error:
            raise OperatorError(f"this cannot be sent: {error}", "leave them out") from None
        answer = self._answer_to(number, self._deadline())
        if answer.id == expected:
            return self._checked(answer)
        if answer.id == Id.UNKNOWN:
            raise Unknown
        raise self._refusal(answer)

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    def _deadline(self) -> float:
        return time.monotonic() + self._timeout

    def _answer_to(self, number: int, deadline: float) -> Line:
        """Return the next line with this number; prompts for a login are for people."""
        while (line := self._line(deadline)).number != number or line.id == Id.LOGIN:
            continue
        return line

    def _line(self, deadline: float) -> Line:
        while not self._lines:
            try:
                self._socket.settimeout(min(max(deadline - time.monotonic(), 0.001), _LONGEST_SLEEP))
                data = self._socket.recv(_CHUNK)
            except TimeoutError:
                if time.monotonic() < deadline:
                    continue
                raise self._late("no answer") from None
            except OSError:
                data = b""
            if not data:
                raise _Closed(f"{self._where}: the daemon has closed the connection", "see its messages")
            self._reader.feed(data)
            try:
                self._lines += self._reader.lines()
            except ProtocolError:
                raise self._strange() from None
        line = self._lines.pop(0)
        if line.id == Id.LEAVING:
            raise OperatorError(f"{self._where}: the daemon has too many connections", "try again", Exit.UNREACHABLE)
        return line

    def _late(self, what: str) -> _Late:
        return _Late(f"{self._where}: {what} within {self._timeout:g} s")

    def _send(self, data: bytes) -> None:
        try:
            self._socket.settimeout(self._timeout)
            self._socket.sendall(data)
        except OSError as error:
            what = error.strerror or "no answer"
            raise OperatorError(f"{self._where}: {what}", "see whether the daemon runs", Exit.UNREACHABLE) from None

    def _checked(self, line: Line) -> Line:
        try:
            line.arguments()
        except Malformed:
            raise self._strange() from None
        return line

    def _refusal(self, line: Line) -> OperatorError:
        if line.id == Id.FAILED:
            function, argument, why = self._checked(line).strings()
            asked = f"{shown(function.removeprefix(b'sync_'))} {shown(argument)}".rstrip()
            what = f"{asked}: {shown(why)}"
            exists = errno.EEXIST in self._checked(line).numbers()
            hint = "name a directory that does not exist" if exists else "the daemon's own messages may say more"
            return OperatorError(what, hint, Exit.REFUSED)
        return OperatorError(f"the daemon refuses: {shown(line.rest)}", "see clsync(1), clsync ctl", Exit.REFUSED)

    def _strange(self) -> OperatorError:
        return OperatorError(
            f"{self._where}: what answers there does not speak the protocol of clsync",
            "name the socket that a daemon was given with --socket",
            Exit.UNREACHABLE,
        )


class _Closed(OperatorError):
    """The connection has ended."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message, hint, Exit.UNREACHABLE)


class _Late(OperatorError):
    """There was no answer in time."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "see what the daemon does, or give it more time with --timeout", Exit.UNREACHABLE)


@contextmanager
def connected(path: bytes, timeout: float) -> Iterator[Client]:
    """Talk to a daemon for the time of a `with` block. Raises OperatorError. `timeout`: seconds an answer may take."""
    where = f"control socket {shown(path)}"
    if len(path) > LONGEST_PATH:
        raise OperatorError(f"{where}: the path is longer than {LONGEST_PATH} bytes", "name a shorter one")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            _connect(connection, path, time.monotonic() + timeout)
        except TimeoutError:
            raise OperatorError(f"{where}: no answer", "see what the daemon does", Exit.UNREACHABLE) from None
        except OSError as error:
            why = os.strerror(error.errno or errno.EIO)
            raise OperatorError(
                f"{where}: {why}", _HINTS.get(error.errno or 0, _NO_DAEMON), Exit.UNREACHABLE
            ) from None
        client = Client(connection, path, timeout)
        client.negotiate()
        yield client


def _connect(connection: socket.socket, path: bytes, deadline: float) -> None:
    """Connect, in our turn: others may wait to be accepted, as many as there may be. Raises OSError."""
    while True:
        try:
            connection.connect(path)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError from None
            time.sleep(_TURN)


_NO_DAEMON: Final = "start a daemon with --socket, or name the socket of the one that runs"
_HINTS: Final = {
    errno.ECONNREFUSED: "nobody listens there: the daemon has ended, start it again",
    errno.EACCES: "ask as the owner of the socket, or start the daemon with --socket-own or --socket-mod",
    errno.EPROTOTYPE: "this is a socket of another kind",
}
