"""The daemon's end of the control socket: any number of clients, none of which can harm the daemon or another."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import select
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, Protocol

from clsync import __version__
from clsync.control.listener import Listening
from clsync.control.peer import CHANGES, Peer, peer_of
from clsync.control.protocol import (
    MOST_IDS,
    PROTOCOL,
    Id,
    Line,
    Malformed,
    ProtocolError,
    Reader,
    answer,
    sendable,
)
from clsync.errors import OperatorError
from clsync.options.values import shown

MOST_CONNECTIONS: Final = 64
_CHUNK: Final = 4096
_CLOSING: Final = 1.0
"""Seconds."""
_GONE_CHECK: Final = 0.5
"""Seconds between two looks whether a client that waits is still there."""


_DONE: Final = {Id.PAUSE: Id.PAUSED, Id.RESUME: Id.RESUMED, Id.ACCEPT: Id.ACCEPTED}


class Instance(Protocol):
    """What the daemon offers to the clients of its control socket."""

    def info(self) -> tuple[bytes, bytes]:
        """Return the configuration block and the label."""

    def status(self) -> Mapping[str, object]:
        """Return what goes on, as it is to be written in JSON."""

    async def wait(self, targets: Collection[str], until_synced: bool) -> Mapping[str, object]:
        """Wait until what has changed by now has arrived; return what became of it, for JSON. Raises OperatorError."""

    def pause(self, targets: Collection[str], paused: bool) -> None:
        """Hand over nothing to some targets (none: to all), or go on. Raises OperatorError."""

    def accept(self, targets: Collection[str]) -> None:
        """Let what was held back be deleted at some targets (none: at all). Raises OperatorError."""

    async def verify(
        self, targets: Collection[str], content: bool, repair: bool, tell: Callable[[Mapping[str, object]], None]
    ) -> Mapping[str, object]:
        """Compare some targets (none: all) with the source; return what has come of it, for JSON. Raises OperatorError.

        `content`: of files as well. `repair`: make equal what differs. `tell` is told how far it is, and what was found.
        """

    async def dump(self, directory: bytes) -> None:
        """Write the queues to a new directory. Raises OSError."""

    async def set(self, key: str, value: bytes) -> None:
        """Change an option. Raises OperatorError, OSError."""

    def end(self) -> None:
        """End the daemon, as SIGTERM does."""


Heard = Callable[[int], socket.socket | None]
"""Is given the descriptor of a client who may ask for changes; returns where to read what he says, None: there."""


@asynccontextmanager
async def serving(
    listener: Listening,
    instance: Instance,
    log: Callable[[str], None],
    most: int = MOST_CONNECTIONS,
    heard: Heard = lambda connection: None,
) -> AsyncIterator[None]:
    """Answer clients for the time of a `with` block. `most`: connections at a time; `log` is told who asks for what."""
    clients = _Clients(listener, instance, log, most, heard)
    server = await asyncio.start_unix_server(clients.serve, sock=listener)
    try:
        yield
    finally:
        server.close()
        await clients.end()


class _Client:
    """A connection, and when it last asked for something (monotonic seconds)."""

    def __init__(self, writer: asyncio.StreamWriter, task: asyncio.Task[None]) -> None:
        self.writer, self.task, self.peer = writer, task, peer_of(writer.get_extra_info("socket"))
        self.asked_at = time.monotonic()
        self.busy = False


class _Clients:
    """All connections."""

    def __init__(
        self, listener: Listening, instance: Instance, log: Callable[[str], None], most: int, heard: Heard
    ) -> None:
        self._listening, self._instance, self._log, self._most, self._heard = listener, instance, log, most, heard
        self._clients: set[_Client] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until its end, however it comes."""
        task = asyncio.current_task()
        assert task is not None
        self._make_room()
        client = _Client(writer, task)
        self._clients.add(client)
        try:
            async with self._words(client, reader) as words:
                await self._talk(client, words, writer)
            writer.close()
            await writer.wait_closed()
        except (OSError, ProtocolError, asyncio.CancelledError):
            pass  # it has gone, speaks something else, or is to make room
        finally:
            self._clients.discard(client)
            # What nobody reads is not kept.
            writer.transport.abort() if writer.transport.get_write_buffer_size() else writer.close()
            await _closed(writer)

    @asynccontextmanager
    async def _words(self, client: _Client, reader: asyncio.StreamReader) -> AsyncIterator[asyncio.StreamReader]:
        """Give where a client is read from: somebody may hear what those say who may ask for changes."""
        if not client.peer.may_change(self._listening):
            yield reader
            return
        client.writer.transport.pause_reading()  # type: ignore[attr-defined] # it reads, too
        connection = client.writer.get_extra_info("socket").fileno()
        other = self._heard(connection)
        if other is None:
            client.writer.transport.resume_reading()  # type: ignore[attr-defined]
            yield reader
            return
        words, back = await asyncio.open_unix_connection(sock=other)
        try:
            yield words
        finally:
            back.close()

    async def end(self) -> None:
        """End all connections."""
        tasks = [client.task for client in self._clients]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _make_room(self) -> None:
        """Send away the connection that has rested longest, where there are too many: one of who has most of them."""
        if len(self._clients) < self._most:
            return
        held = Counter(client.peer.uid for client in self._clients)
        oldest = min(self._clients, key=lambda client: (-held[client.peer.uid], client.busy, client.asked_at))
        self._clients.discard(oldest)
        oldest.writer.write(answer(0, Id.LEAVING))
        oldest.task.cancel()

    async def _talk(self, client: _Client, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(0, Id.NEGOTIATE, PROTOCOL))
        lines = Reader()
        while data := await reader.read(_CHUNK):
            lines.feed(data)
            for line in lines.lines():
                client.asked_at, client.busy = time.monotonic(), True
                writer.write(await self._answer(line, client.peer, writer))
                await writer.drain()
                await asyncio.sleep(0)  # many requests at once are not to hold up anything else
                client.busy = False
                if line.id == Id.QUIT:
                    return

    async def _answer(self, line: Line, peer: Peer, writer: asyncio.StreamWriter) -> bytes:
        if line.id >= MOST_IDS:
            return answer(line.number, Id.INVALID_ID, line.number)
        if line.id in CHANGES and not peer.may_change(self._listening):
            why = "only root, and the owner and group of the socket, may ask for this"
            return _failed(line, CHANGES[line.id], b"", errno.EPERM, why)
        try:
            match line.id:
                case Id.NEGOTIATE | Id.NEGOTIATED:
                    return _negotiated(line)
                case Id.VERSION:
                    return answer(line.number, Id.VERSION_IS, *version(__version__))
                case Id.INFO:
                    block, label = map(sendable, self._instance.info())
                    return answer(line.number, Id.INFO_IS, block, label, 0, 0)
                case Id.STATUS:
                    return answer(line.number, Id.STATUS_IS, json.dumps(self._instance.status()).encode())
                case Id.WAIT:
                    return await self._wait(line, writer)
                case Id.VERIFY:
                    return await self._verify(line, peer, writer)
                case Id.PAUSE | Id.RESUME | Id.ACCEPT:
                    return self._of_targets(line, peer)
                case Id.DUMP:
                    return await self._dump(line, peer)
                case Id.SET:
                    return await self._set(line, peer)
                case Id.DIE:
                    self._log(f"control socket: {peer} asks for the end")
                    self._instance.end()
                    return b""
                case Id.QUIT:
                    return answer(line.number, Id.BYE)
        except Malformed as error:
            return answer(line.number, Id.INVALID_ARGUMENTS, line.id, line.number, reason=str(error).encode())
        return answer(line.number, Id.UNKNOWN, line.id, line.number)

    async def _wait(self, line: Line, writer: asyncio.StreamWriter) -> bytes:
        """Answer when everything has arrived, or be cancelled when the client has gone."""
        targets, until_synced = _asked(line)
        task = asyncio.ensure_future(self._instance.wait(targets, until_synced))
        try:
            while not task.done():
                await _waited(task, writer)
            return answer(line.number, Id.ARRIVED, json.dumps(task.result()).encode())
        except OperatorError as error:
            return _refused(line, b"wait", b"", error)
        finally:
            task.cancel()

    async def _verify(self, line: Line, peer: Peer, writer: asyncio.StreamWriter) -> bytes:
        """Answer bit by bit while targets are compared, or be cancelled when the client has gone."""
        asked = _object_in(line)
        targets, _ = _asked(line)
        content, repair = bool(asked.get("content", False)), bool(asked.get("repair", False))
        self._log(f"control socket: {peer} asks for {'repair' if repair else 'verify'}")
        told: list[bytes] = []

        def tell(what: Mapping[str, object]) -> None:
            told.append(answer(line.number, Id.VERIFYING, json.dumps(what).encode()))

        task = asyncio.ensure_future(self._instance.verify(targets, content, repair, tell))
        try:
            while True:
                await _waited(task, writer)
                over = task.done()
                while told:
                    writer.write(told.pop(0))
                    await writer.drain()
                if over:
                    return answer(line.number, Id.VERIFIED, json.dumps(task.result()).encode())
        except OperatorError as error:
            return _refused(line, b"verify", b"", error)
        finally:
            task.cancel()

    def _of_targets(self, line: Line, peer: Peer) -> bytes:
        asked = Id(line.id)
        word, done = asked.name.lower(), _DONE[asked]
        targets, _ = _asked(line)
        try:
            if asked == Id.ACCEPT:
                self._instance.accept(targets)
            else:
                self._instance.pause(targets, asked == Id.PAUSE)
        except OperatorError as error:
            return _refused(line, word.encode(), b"", error)
        of = ", ".join(targets) or "all"
        self._log(f"control socket: {peer} asks for {word} of {of}")
        return answer(line.number, done)

    async def _dump(self, line: Line, peer: Peer) -> bytes:
        directory = line.strings()[0]
        self._log(f"control socket: {peer} asks for a dump to {shown(directory)}")
        try:
            await self._instance.dump(directory)
        except OSError as error:
            code = error.errno or errno.EIO
            return _failed(line, b"sync_dump", directory, code, os.strerror(code))
        return answer(line.number, Id.DUMPED)

    async def _set(self, line: Line, peer: Peer) -> bytes:
        key, value = line.strings()
        try:
            await self._instance.set(shown(key), value)
        except OperatorError as error:
            return _refused(line, b"set", key, error)
        except OSError as error:
            return _failed(line, b"set", key, error.errno or errno.EIO, f"{error}; the old settings stay in force")
        self._log(f"control socket: {peer} has set {shown(key)} to {shown(value)}")
        return answer(line.number, Id.HAS_SET)


def version(text: str) -> tuple[int, int, bytes]:
    """Return the parts of a version as they are sent: two numbers, and the rest with what comes before it."""
    found = re.fullmatch(r"(\d+)\.(\d+)(\S+)", text)
    assert found is not None, f"{text} is no version"
    return int(found[1]), int(found[2]), found[3].encode()


def _asked(line: Line) -> tuple[list[str], bool]:
    """Return the targets that a client names, and whether it waits until all is synced. Raises Malformed."""
    asked = _object_in(line)
    try:
        return [str(name) for name in asked["targets"]], bool(asked.get("until_synced", False))
    except (TypeError, LookupError):
        raise Malformed("No such JSON") from None


def _object_in(line: Line) -> dict[str, Any]:
    """Return what a client asks for. Raises Malformed."""
    try:
        asked = json.loads(line.strings()[0])
    except ValueError:
        raise Malformed("No such JSON") from None
    if not isinstance(asked, dict):
        raise Malformed("No such JSON")
    return asked


def _negotiated(line: Line) -> bytes:
    if line.numbers() != [PROTOCOL]:
        raise Malformed("Incorrect protocol id")
    if line.id == Id.NEGOTIATE:
        return answer(line.number, Id.NEGOTIATED, PROTOCOL)
    return answer(line.number, Id.ACKNOWLEDGED, line.id, line.number)


def _refused(line: Line, function: bytes, argument: bytes, error: OperatorError) -> bytes:
    what = f"{error.message}; {error.hint}" if error.hint else error.message
    return _failed(line, function, argument, errno.EINVAL, what)


def _failed(line: Line, function: bytes, argument: bytes, code: int, what: str) -> bytes:
    message = sendable(what.encode("utf-8", "backslashreplace"))
    return answer(line.number, Id.FAILED, function, sendable(argument), code, message)


async def _closed(writer: asyncio.StreamWriter) -> None:
    """Wait for the end of a connection; how it came about is of no interest, but somebody has to ask.

    This is the last that its task does: being cancelled here is as good as that.
    """
    try:
        async with asyncio.timeout(_CLOSING):
            await writer.wait_closed()
    except (OSError, TimeoutError, asyncio.CancelledError):
        pass


async def _waited(task: asyncio.Future[Any], writer: asyncio.StreamWriter) -> None:
    """Wait a moment for a task that works for a client. Raises ConnectionResetError where the client has gone."""
    await asyncio.wait((task,), timeout=_GONE_CHECK)
    if _has_left(writer) and not task.done():
        raise ConnectionResetError


def _has_left(writer: asyncio.StreamWriter) -> bool:
    """Tell whether the other end is closed, also where there is more to be read of it (poll(2), POLLRDHUP)."""
    ends = select.poll()
    ends.register(writer.get_extra_info("socket").fileno(), select.POLLRDHUP)
    return bool(ends.poll(0))
