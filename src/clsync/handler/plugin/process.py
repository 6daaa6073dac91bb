"""The daemon's end of the process of a module."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Sequence
from typing import Protocol

from clsync.core.paths import shown
from clsync.handler.plugin import protocol
from clsync.handler.plugin.protocol import End, Refused, Request
from clsync.handler.runner import GRACE, ended, group_ended
from clsync.kernel.files import opened
from clsync.kernel.priority import USUAL, Priority, set_priority
from clsync.kernel.process import exit_text, signal_group, spawn

_PACKETS = 1000
"""Most that are read at once: what says more than that is not to hold up the loop."""


class Log(Protocol):
    """Where the messages of a module go."""

    def error(self, text: str) -> None:
        """Take an error."""

    def warning(self, text: str) -> None:
        """Take a warning."""

    def info(self, text: str) -> None:
        """Take what is told."""

    def debug(self, level: int, text: str) -> None:
        """Take what somebody in search of a fault wants to know."""


class Gone(Exception):
    """The process has ended before it has answered; the text says how."""

    def __init__(self, status: int) -> None:
        """`status`: as `Popen.returncode`."""
        super().__init__(exit_text(status))
        self.code = status


class Process:
    """One life of it."""

    def __init__(
        self, name: str, log: Log, argv: Sequence[bytes], *, quiet: bool = False, priority: Priority = USUAL
    ) -> None:
        """Start it; the module is loaded by the first request. Raises OSError.

        `argv`: a program of ours that is given the number of its socket's descriptor as last argument.

        `name` stands before its messages; `quiet`: it is not to hold on to a terminal.
        """
        self._name, self._log = name, log
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._connection.setblocking(False)
        with theirs, opened(b"/") as place, open(os.devnull, "r+b", buffering=0) as nothing:
            output, errors = (nothing.fileno() if quiet and os.isatty(at) else None for at in (1, 2))
            self._child = spawn(
                [*argv, b"%d" % theirs.fileno()],
                cwd=place,
                stdin=nothing.fileno(),
                stdout=output,
                stderr=errors,
                pass_fds=[theirs.fileno()],
            )
        if priority:
            set_priority(self._child.pid, priority)
        loop = asyncio.get_running_loop()
        self._gone = loop.create_task(ended(self._child))
        self._answer: asyncio.Future[int] | None = None
        self._killer: asyncio.TimerHandle | None = None
        self._stopped = False
        self.failed: dict[bytes, str] = {}
        """What the module said that it did not do in the last call."""
        self.timed_out = False
        """A request took too long."""
        loop.add_reader(self._connection, self._read)

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return not self._gone.done()

    @property
    def spent(self) -> bool:
        """Whether it must not be asked anything else but to end."""
        return self.timed_out or self._stopped or not self.alive

    async def ask(self, request: Request, descriptors: Sequence[int] = (), timeout: float = 0.0) -> int:
        """Return what the module answers. Raises Refused, Gone; OSError where it cannot be asked.

        `timeout`: seconds after which what is at work is ended, 0 for none.
        """
        loop = asyncio.get_running_loop()
        answer = self._answer = loop.create_future()
        self.failed = {}
        timer = (
            loop.call_later(timeout, self._expire, 0.0 if isinstance(request, End) else GRACE) if timeout else None
        )
        try:
            try:
                protocol.send(self._connection, request, descriptors)
            except ConnectionError:
                pass  # it has ended, or will
            await asyncio.wait({answer, self._gone}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            signal_group(self._child.pid, signal.SIGKILL)
            raise
        finally:
            for handle in (timer, self._killer):
                if handle is not None:
                    handle.cancel()
        self._read()  # its last words
        if answer.done():
            return int(answer.result())
        answer.cancel()
        raise Gone(self._gone.result())

    def stop(self) -> None:
        """End the call at work: SIGTERM for all it has started, SIGKILL where that does not help."""
        if self._answer is not None and not self._answer.done():
            self._stopped = True
            self._terminate(GRACE)

    async def close(self) -> None:
        """See it end, and what it has started, if it did not end by itself."""
        asyncio.get_running_loop().remove_reader(self._connection)
        self._connection.close()
        if self.spent:
            await group_ended(self._child.pid)
        else:
            await asyncio.wait({self._gone}, timeout=GRACE)
            if self.alive:
                signal_group(self._child.pid, signal.SIGKILL)
        await self._gone

    def _terminate(self, grace: float) -> None:
        if self.alive:
            signal_group(self._child.pid, signal.SIGTERM)
            loop = asyncio.get_running_loop()
            self._killer = loop.call_later(grace, signal_group, self._child.pid, signal.SIGKILL)

    def _expire(self, grace: float) -> None:
        self.timed_out = True
        self._terminate(grace)

    def _read(self) -> None:
        """Take what it has said."""
        for _ in range(_PACKETS):
            try:
                packet = self._connection.recv(protocol.PACKET)
            except BlockingIOError:
                return
            except ConnectionError:
                packet = b""
            if not packet:
                asyncio.get_running_loop().remove_reader(self._connection)
                return
            self._heed(packet[:1], packet[1:])

    def _heed(self, kind: bytes, text: bytes) -> None:
        if kind in (protocol.ANSWER, protocol.REFUSAL):
            if self._answer is None or self._answer.done():
                return
            if kind == protocol.ANSWER:
                self._answer.set_result(int(text))
            else:
                self._answer.set_exception(Refused(shown(text)))
        elif kind == protocol.FAILED:
            path, _, why = text.partition(b"\0")
            self.failed[path] = shown(why)
        elif kind == protocol.DEBUG:
            self._log.debug(int(text[:1]), self._said(text[1:]))
        else:
            tell = {protocol.WARNING: self._log.warning, protocol.INFO: self._log.info}
            tell.get(kind, self._log.error)(self._said(text))

    def _said(self, text: bytes) -> str:
        return f"{self._name}: {shown(text.rstrip())}"
