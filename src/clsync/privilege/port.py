"""The two ends of a socket pair: one that waits for each answer, and one that lives in an event loop."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

from clsync.errors import OperatorError
from clsync.kernel.descriptors import received
from clsync.privilege.wire import ERRORS, SIGNATURES, Frame, Frames, Kind, Op, Refused, framed, pack, unpack

_CHUNK: Final = 1 << 18
_MOST_DESCRIPTORS: Final = 2
_AT_A_TURN: Final = 8
"""Reads between two turns of the event loop."""


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected sockets with room for a large answer. Raises OSError."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    for end in pair:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    return pair


def error_frame(op: Op, number: int, error: OSError | OperatorError) -> bytes:
    """Return the answer that says why something could not be done."""
    if isinstance(error, OperatorError):
        body = pack(ERRORS[Kind.OPERATOR_ERROR], error.code, error.message, error.hint)
        return framed(op, Kind.OPERATOR_ERROR, number, body)
    path = os.fsencode(error.filename) if isinstance(error.filename, str | bytes) else None
    body = pack(ERRORS[Kind.OS_ERROR], error.errno or 0, error.strerror or str(error), path)
    return framed(op, Kind.OS_ERROR, number, body)


def raise_error(frame: Frame) -> NoReturn:
    """Raise what an answer tells. Raises OSError, OperatorError; Refused where it tells nothing of the kind."""
    if frame.kind == Kind.OPERATOR_ERROR:
        code, message, hint = unpack(ERRORS[Kind.OPERATOR_ERROR], frame.body)
        raise OperatorError(message, hint, code)
    if frame.kind != Kind.OS_ERROR:
        raise Refused(f"an answer of kind {frame.kind}")
    number, text, path = unpack(ERRORS[Kind.OS_ERROR], frame.body)
    raise OSError(number, text) if path is None else OSError(number, text, path)


class Caller:
    """Asks, and waits for the answer; one question at a time. For any thread."""

    def __init__(self, sock: socket.socket, gone: Callable[[], NoReturn]) -> None:
        """`gone` is called where nobody answers any more."""
        self._socket, self._gone = sock, gone
        self._frames = Frames()
        self._number = 0
        self._turn = threading.Lock()
        self._came = threading.local()

    @property
    def descriptors(self) -> list[int]:
        """Those that came with the last answer to this thread."""
        came: list[int] = self._came.descriptors
        return came

    def call(self, op: Op, *values: Any, descriptor: int = -1) -> list[Any]:
        """Ask; return the values of the answer. Raises OSError and OperatorError, as the other side did.

        `descriptor` goes with the question, if there is one.
        """
        return self.collect(op, *values, descriptor=descriptor)[1]

    def collect(self, op: Op, *values: Any, descriptor: int = -1) -> tuple[list[list[Any]], list[Any]]:
        """Ask; return the parts of the answer, and the values of its end (see `call`)."""
        with self._turn:
            return self._collect(op, values, descriptor)

    def _collect(self, op: Op, values: Sequence[Any], descriptor: int) -> tuple[list[list[Any]], list[Any]]:
        signature = SIGNATURES[op]
        self._number = (self._number + 1) & 0xFFFFFFFF
        self._came.descriptors = []
        parts = []
        try:
            question = framed(op, Kind.REQUEST, self._number, pack(signature.request, *values))
            sent = socket.send_fds(self._socket, [question], [descriptor]) if descriptor >= 0 else 0
            self._socket.sendall(question[sent:])
            while True:
                frame = self._next()
                if frame.number != self._number:
                    continue  # the answer to a question that a signal has cut short
                if frame.op != op:
                    self._gone()
                if frame.kind == Kind.MORE:
                    parts.append(unpack(signature.more, frame.body))
                elif frame.kind == Kind.END:
                    return parts, unpack(signature.end, frame.body)
                else:
                    break
        except (ConnectionError, Refused):
            self._gone()
        try:
            raise_error(frame)
        except Refused:
            self._gone()

    def _next(self) -> Frame:
        while (frame := self._frames.next()) is None:
            data, descriptors = received(self._socket, _CHUNK, _MOST_DESCRIPTORS)
            self._came.descriptors += descriptors
            if not data:
                self._gone()
            self._frames.feed(data)
        return frame


class Port:
    """Sends and receives frames in an event loop."""

    def __init__(
        self,
        sock: socket.socket,
        received: Callable[[Frame], None],
        ended: Callable[[str], None],
        *,
        in_turn: bool = False,
        takes: bool = False,
    ) -> None:
        """`received` is given each frame (Refused ends all); `ended` is called once, with what is wrong, if anything.

        `in_turn`: no frame is taken while the other side has not taken what was sent. At one end alone: else both wait.
        `takes`: descriptors may come with frames.
        """
        self._socket, self._received, self._ended, self._in_turn, self._takes = sock, received, ended, in_turn, takes
        self._given: list[int] = []
        """Descriptors that have come, and were not taken."""
        self._frames = Frames()
        self._queue: deque[tuple[memoryview, Sequence[int]]] = deque()
        self._drained = asyncio.Event()
        self._drained.set()
        self._open = True
        self.paused = False
        """Frames wait until `resume`."""
        sock.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock.fileno(), self._readable)

    def send(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send a frame; what does not go now goes later. The descriptors are closed when they are sent."""
        self._queue.append((memoryview(data), descriptors))
        if not self._open:
            self._drop_queue()
        elif len(self._queue) == 1:
            self._write()

    async def drained(self) -> None:
        """Wait until the other side has taken what was sent."""
        await self._drained.wait()

    def resume(self) -> None:
        """Go on with the frames that wait."""
        if self.paused and self._open:
            self.paused = False
            self._go_on()

    def close(self, trouble: str = "") -> None:
        """End; `ended` is told."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._drop_queue()
        _close_all(self._given)
        self._given = []
        self._drained.set()
        self._socket.close()
        self._ended(trouble)

    @property
    def _waits(self) -> bool:
        """Whether no frame is taken now."""
        return self.paused or (self._in_turn and bool(self._queue))

    def _go_on(self) -> None:
        if not self._waits:
            self._loop.add_reader(self._socket.fileno(), self._readable)
            self._loop.call_soon(self._dispatch)

    def _drop_queue(self) -> None:
        for _, descriptors in self._queue:
            _close_all(descriptors)
        self._queue.clear()

    def _write(self) -> None:
        try:
            while self._queue:
                view, descriptors = self._queue[0]
                sent = socket.send_fds(self._socket, [view], descriptors) if descriptors else self._socket.send(view)
                _close_all(descriptors)
                if sent < len(view):
                    self._queue[0] = view[sent:], ()
                else:
                    self._queue.popleft()
        except BlockingIOError:
            self._drained.clear()
            self._loop.add_writer(self._socket.fileno(), self._write)
            return
        except OSError:
            self.close()
            return
        if not self._drained.is_set():
            self._loop.remove_writer(self._socket.fileno())
            self._drained.set()
            self._go_on()

    def _readable(self) -> None:
        for _ in range(_AT_A_TURN):
            if not self._open or self._waits:
                return
            try:
                data, descriptors = self._received_now()
            except BlockingIOError:
                return
            except OSError:
                data, descriptors = b"", []
            self._given += descriptors
            if len(self._given) > _MOST_DESCRIPTORS:
                self.close("more descriptors than there can be")
                return
            if not data:
                self.close()
                return
            self._frames.feed(data)
            self._dispatch()
            if len(data) < _CHUNK:
                return  # that was all

    def _received_now(self) -> tuple[bytes, list[int]]:
        if not self._takes:
            return self._socket.recv(_CHUNK), []
        return received(self._socket, _CHUNK, _MOST_DESCRIPTORS)

    def take_descriptor(self) -> int:
        """Return the descriptor that came with the question that is being answered. Raises Refused: there is none."""
        if not self._given:
            raise Refused("nothing where a descriptor should be")
        return self._given.pop(0)

    def _dispatch(self) -> None:
        try:
            while self._open and not self._waits and (frame := self._frames.next()) is not None:
                self._received(frame)
                if self._given:
                    raise Refused("a descriptor that nobody wants")
        except Refused as error:
            self.close(str(error))
            return
        if self._waits and self._open:
            self._loop.remove_reader(self._socket.fileno())


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
