"""The server of the control socket with an instance of its own: what it is asked for, and clients that misbehave."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from clsync.control.client import Client, connected
from clsync.control.listener import Listener
from clsync.control.protocol import Id, answer
from clsync.control.server import serving
from clsync.errors import Exit, OperatorError

MOST = 4
HELLO = answer(0, Id.NEGOTIATE, 0)


class Daemon:
    """Remembers what it was asked for."""

    def __init__(self) -> None:
        self.options: dict[str, bytes] = {}
        self.dumps: list[bytes] = []
        self.ended = False
        self.cost = 0.0
        """Seconds that setting an option takes."""
        self.label = b"lab1"
        self.ready_to_dump = asyncio.Event()
        self.ready_to_dump.set()

    def info(self) -> tuple[bytes, bytes]:
        return b"default", self.label

    def status(self) -> Mapping[str, object]:
        return {"phase": "running", "path": os.fsdecode(b"\xff\n")}

    async def wait(self, targets: Collection[str], until_synced: bool) -> Mapping[str, object]:
        return {"failing": 0}

    def pause(self, targets: Collection[str], paused: bool) -> None:
        """Pause, if it handed over anything."""

    def accept(self, targets: Collection[str]) -> None:
        """Delete, if it held back anything."""

    async def verify(
        self, targets: Collection[str], content: bool, repair: bool, tell: Callable[[Mapping[str, object]], None]
    ) -> Mapping[str, object]:
        return {"differing": 0}

    async def dump(self, directory: bytes) -> None:
        await self.ready_to_dump.wait()
        if directory in self.dumps:
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), directory)
        self.dumps.append(directory)

    async def set(self, key: str, value: bytes) -> None:
        if key == "rules-file":
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        if key != "label":
            raise OperatorError(f"there is no option {key}", "did you mean label?")
        until = time.thread_time() + self.cost
        while time.thread_time() < until:
            continue
        self.options[key] = value

    def end(self) -> None:
        self.ended = True


class Served:
    """A server at work."""

    def __init__(self, path: Path) -> None:
        self.path, self.daemon, self.said = path, Daemon(), list[str]()

    async def ask(self, use: Callable[[Client], object]) -> None:
        """Use a client, in a thread: it blocks."""

        def work() -> None:
            with connected(bytes(self.path), 10) as client:
                use(client)

        await asyncio.to_thread(work)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a connection that has been greeted."""
        reader, writer = await asyncio.open_unix_connection(self.path)
        assert await reader.readline() == HELLO
        return reader, writer

    async def exchange(self, *lines: bytes) -> list[bytes]:
        """Send lines, and return what comes until the connection ends; our side is closed after them."""
        reader, writer = await self.connect()
        writer.write(b"".join(lines))
        writer.write_eof()
        found = await reader.read()
        writer.close()
        return found.splitlines(keepends=True)


@asynccontextmanager
async def served(path: Path) -> AsyncIterator[Served]:
    """Serve at a path."""
    here = Served(path)
    listener = Listener(bytes(path), 0o600, None)
    async with serving(listener.open(), here.daemon, here.said.append, MOST):
        yield here
    listener.remove()


Run = Callable[[Callable[[Served], Awaitable[None]]], None]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return what runs a test while a server serves."""

    def run(act: Callable[[Served], Awaitable[None]]) -> None:
        async def main() -> None:
            async with asyncio.timeout(30):
                async with served(tmp_path / "s") as here:
                    await act(here)

        asyncio.run(main())
        assert not (tmp_path / "s").exists()

    return run


def test_dump(run: Run) -> None:
    async def act(here: Served) -> None:
        await here.ask(lambda client: client.dump(b"/a b"))
        await here.ask(lambda client: client.dump(b"/plain"))
        assert here.daemon.dumps == [b"/a b", b"/plain"]
        with pytest.raises(OperatorError) as raised:
            await here.ask(lambda client: client.dump(b"/plain"))
        assert (raised.value.message, raised.value.code) == ("dump /plain: File exists", Exit.REFUSED)
        assert "does not exist" in raised.value.hint
        assert await here.exchange(b"2 202 /plain\n", b"3 202\n") == [
            b'2 199 sync_dump\3/ /plain\3/ 17 File exists\3/ :sync_dump(/plain): Error #17: "File exists".\n',
            b"3 162 202 3 :Rejected command: id == 202; num == 3. Invalid arguments: a word is missing.\n",
        ]
        assert all(f"uid {os.getuid()} (pid " in said for said in here.said)

    run(act)


def test_set(run: Run) -> None:
    async def act(here: Served) -> None:
        for value in (b"zz", b"a b :c ", b"", b"\xff"):
            await here.ask(lambda client, value=value: client.set(b"label", value))  # type: ignore[misc]
            assert here.daemon.options == {"label": value}
        assert await here.exchange(b"1 211 label by hand\n") == [b"1 311  :Set\n"]
        assert here.daemon.options == {"label": b"by hand"}
        with pytest.raises(OperatorError) as raised:
            await here.ask(lambda client: client.set(b"lable", b"x"))
        assert raised.value.code == Exit.REFUSED
        assert raised.value.message == "set lable: there is no option lable; did you mean label?"
        with pytest.raises(OperatorError, match=r"Too many open files.*the old settings stay in force"):
            await here.ask(lambda client: client.set(b"rules-file", b"x"))
        assert await here.exchange(b"1 211\n") == [
            b"1 162 211 1 :Rejected command: id == 211; num == 1. Invalid arguments: a word is missing.\n"
        ]

    run(act)


def test_a_value_that_would_break_the_line_is_not_sent(run: Run) -> None:
    async def act(here: Served) -> None:
        with pytest.raises(OperatorError, match="cannot be sent"):
            await here.ask(lambda client: client.set(b"label", b"a\nb"))
        assert here.daemon.options == {}

    run(act)


def test_a_label_that_would_break_the_line_is_escaped(run: Run) -> None:
    async def act(here: Served) -> None:
        here.daemon.label = b"a\nb\3/c"
        found = list[tuple[bytes, bytes]]()
        await here.ask(lambda client: found.append(client.info()))
        assert found == [(b"default", rb"a\nb\x03/c")]

    run(act)


def test_status_is_one_line_whatever_the_names(run: Run) -> None:
    async def act(here: Served) -> None:
        (line,) = await here.exchange(b"1 400\n")
        assert line.startswith(b"1 500 {")
        text, _, rest = line.removeprefix(b"1 500 ").partition(b"\3/")
        assert rest == b" :Status.\n"
        assert os.fsencode(json.loads(text)["path"]) == b"\xff\n"

    run(act)


def test_die_is_not_answered(run: Run) -> None:
    async def act(here: Served) -> None:
        assert await here.exchange(b"1 240\n", b"2 250\n") == [b"2 350  :Bye.\n"]
        assert here.daemon.ended
        assert "asks for the end" in here.said[-1]

    run(act)


def test_a_dump_that_takes_long_holds_up_nobody_else(run: Run) -> None:
    async def act(here: Served) -> None:
        here.daemon.ready_to_dump.clear()
        reader, writer = await here.connect()
        writer.write(b"1 202 /d\n2 200\n")
        await here.ask(lambda client: client.version())
        assert here.daemon.dumps == []
        here.daemon.ready_to_dump.set()
        assert await reader.readline() == b"1 302  :Ready\n"
        assert (await reader.readline()).startswith(b"2 300 ")
        writer.close()

    run(act)


def test_the_one_that_has_rested_longest_makes_room(run: Run) -> None:
    """Others keep their connections, and one at work is not disturbed."""

    async def act(here: Served) -> None:
        here.daemon.ready_to_dump.clear()
        connections = [await here.connect() for _ in range(MOST)]
        (busy, busy_writer), (first, _), (active, active_writer), (second, _) = connections
        busy_writer.write(b"1 202 /d\n")
        while not here.said:
            await asyncio.sleep(0.001)  # until the dump has begun
        for reader, writer in (connections[1], connections[3], connections[2]):
            writer.write(b"1 200\n")
            assert (await reader.readline()).startswith(b"1 300 ")
        for resting in (first, second):
            connections.append(await here.connect())
            assert await resting.read() == answer(0, Id.LEAVING)
        active_writer.write(b"2 200\n")
        assert (await active.readline()).startswith(b"2 300 ")
        here.daemon.ready_to_dump.set()
        assert await busy.readline() == b"1 302  :Ready\n"
        for _, writer in connections:
            writer.close()

    run(act)


def test_who_never_reads_is_let_go_of(run: Run) -> None:
    """Nothing is kept for it but what the kernel holds."""

    async def act(here: Served) -> None:
        before = len(os.listdir("/proc/self/fd"))
        stubborn = list[socket.socket]()
        for _ in range(3 * MOST):
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            client.connect(bytes(here.path))
            stubborn.append(client)
            try:
                while True:
                    client.send(b"1 400\n" * 100)
                    await asyncio.sleep(0)
            except (BlockingIOError, ConnectionError):
                pass
        deadline = time.monotonic() + 20
        # The server's ends: the listener is counted before.
        while len(os.listdir("/proc/self/fd")) - before - len(stubborn) > MOST:
            assert time.monotonic() < deadline, "connections are kept"
            await asyncio.sleep(0.01)
        for client in stubborn:
            client.close()

    run(act)


def test_many_requests_at_once_hold_up_nobody_else(run: Run) -> None:
    async def act(here: Served) -> None:
        reader, writer = await here.connect()
        here.daemon.cost = 0.002
        writer.write(b"1 211 label x\n" * 200)
        flood = asyncio.ensure_future(reader.readexactly(len(b"1 311  :Set\n") * 200))
        longest = 0.0
        while not flood.done():
            started = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - started)
        assert longest < 0.05
        writer.close()

    run(act)


def test_the_end_closes_all_connections(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path / "s") as here:
            reader, writer = await here.connect()
        assert await reader.read() == b""
        writer.close()

    asyncio.run(main())
