"""The control protocol: what clients say to the daemon, and what something at the socket says to clients."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import tempfile
from collections.abc import Callable, Collection, Mapping
from typing import Any, cast

from clsync.cli.ctl import _rows
from clsync.control.client import Client, Unknown
from clsync.control.listener import Listener
from clsync.control.protocol import LONGEST_ANSWER, Line, Malformed, ProtocolError, Reader, request
from clsync.control.server import serving
from clsync.core.paths import printable
from clsync.errors import OperatorError
from tests.fuzz.target import target


class _Instance:
    """A daemon that does nothing."""

    def info(self) -> tuple[bytes, bytes]:
        return b"block\n\3/", b"label \xff"

    def status(self) -> Mapping[str, object]:
        return {"path": os.fsdecode(b"\xff\n")}

    async def wait(self, targets: Collection[str], until_synced: bool) -> Mapping[str, object]:
        assert all(isinstance(target, str) for target in targets)
        assert isinstance(until_synced, bool)
        if targets:
            raise OperatorError(f"there is no target {targets}", "name another one")
        return {"failing": 0}

    def pause(self, targets: Collection[str], paused: bool) -> None:
        if targets:
            raise OperatorError(f"there is no target {targets}")

    def accept(self, targets: Collection[str]) -> None:
        if targets:
            raise OperatorError(f"there is no target {targets}")

    async def verify(
        self, targets: Collection[str], content: bool, repair: bool, tell: Callable[[Mapping[str, object]], None]
    ) -> Mapping[str, object]:
        assert isinstance(content, bool)
        assert isinstance(repair, bool)
        if targets:
            raise OperatorError(f"there is no target {targets}", "name another one")
        tell({"path": os.fsdecode(b"\xff\n")})
        return {"differing": 1}

    async def dump(self, directory: bytes) -> None:
        assert b"\0" not in directory
        raise FileExistsError(17, "File exists")

    async def set(self, key: str, value: bytes) -> None:
        assert key.isprintable()
        raise OperatorError(f"there is no option {key}", "leave it out")

    def end(self) -> None:
        """End, if it were a daemon."""


_LINES = (
    b"0 1 0\n",
    b"1 200\n2 201\n3 400\n4 250\n",
    b'5 401 {"targets": []}\3/\n',
    b'5 402 {"targets": ["x", 3]}\3/\n',
    b'5 404 {"targets": []}\3/\n6 404 {"targets": ["x"]}\3/\n',
    b'5 405 {"targets": [], "content": true, "repair": 0}\3/\n6 405 {"targets": ["x"]}\3/\n',
    b"6 211 key\3/ value with blanks\3/\n",
    b"7 202 /path\n7 202 \xff\3/\n",
    b"8 240\n9 1000\n",
    b"0 0 1_0\n",
    b"99999999999999999999 9999999999\n",
)


@target(*_LINES, cost=4)
def control_requests(data: bytes) -> None:
    """Whatever a client sends, it gets lines of the protocol, and the server serves the next one."""

    async def exchanged() -> bytes:
        with tempfile.TemporaryDirectory(prefix="clsync-fuzz-") as place:
            listener = Listener(os.fsencode(place) + b"/s", 0o600, None)
            said: list[str] = []
            strange: list[dict[str, Any]] = []
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: strange.append(context))
            async with serving(listener.open(), _Instance(), said.append):
                answers = b""
                for sent in (data[:100_000], b"1 200\n"):
                    reader, writer = await asyncio.open_unix_connection(listener.path.decode())
                    writer.write(sent)
                    writer.write_eof()
                    try:
                        answers += await asyncio.wait_for(reader.read(), 10)
                    except ConnectionResetError:
                        answers += b""
                    writer.close()
            assert all(line.isprintable() for line in said), said
            assert not strange, strange
            listener.remove()
            return answers

    lines = Reader(LONGEST_ANSWER)
    lines.feed(asyncio.run(exchanged()))
    answers = list(lines.lines())
    assert answers
    assert answers[-1].id == 300
    for line in answers:
        line.arguments()


@target(*_LINES, b"x" * 20_000, b"1 2 3")
def control_lines(data: bytes) -> None:
    """Bytes are lines or an error, whatever pieces they come in, and what is read can be written again."""

    def read(*chunks: bytes) -> tuple[list[Line], bool]:
        lines, found = Reader(), list[Line]()
        try:
            for chunk in chunks:
                lines.feed(chunk)
                found += lines.lines()
        except ProtocolError:
            return found, True
        return found, False

    whole, failed = read(data)
    cut = len(data) // 2
    pieces, failed_so = read(data[:cut], data[cut:])
    assert (pieces, failed_so) == (whole, failed) or failed or failed_so
    for line in whole:
        try:
            arguments = line.arguments()
            written = request(line.number, line.id, *arguments)
        except Malformed:
            continue
        again = Reader(1 << 20)
        again.feed(written)
        assert next(iter(again.lines())).arguments() == arguments


_GREETING = b"0 0 0 :hello\n0 150 1 0 :ok\n"


@target(
    _GREETING + b"1001 300 1 0 x :v\n",
    _GREETING + b'1001 500 {"targets": [{}]}\3/ :\n',
    _GREETING + b"1001 199 a\3/ b\3/ 17 c\3/ :\n",
    _GREETING + b"1001 500 [[[[\3/ :\n",
    b"0 351  :go\n",
    b"0 0 0 :" + b"x" * 5000,
)
def control_answers(data: bytes) -> None:
    """Whatever answers at a socket, a client shows an answer, or says what is wrong."""
    for ask in (Client.status, Client.version, Client.info):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.sendall(data[:60_000])
            theirs.shutdown(socket.SHUT_WR)
            client = Client(ours, b"/socket", 5)
            try:
                client.negotiate()
                answer: object = ask(client)
            except Unknown:
                continue
            except OperatorError as error:
                answer = (error.message, error.hint)
            if isinstance(answer, tuple) and isinstance(answer[0], str):
                assert all(printable(text) == text for text in answer), answer
            if isinstance(answer, Mapping):
                _demand_shown(answer)


@target(
    b'{"targets": [{"destination": "x"}, 3], "failures": [{"path": "\\u001b[31m"}], "a": {"b": {}}}',
    b'{"started_at": 1e300, "x_at": -9e18, "y_at": NaN, "z": null, "t": true}',
    b'{"targets": 3, "a": [[["x"]]], "": ""}',
)
def status_for_people(data: bytes) -> None:
    """Whatever a daemon tells of itself is shown line by line, and never does anything to a terminal."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(found, dict):
        _demand_shown(cast(Mapping[str, object], found))


def _demand_shown(answer: Mapping[str, object]) -> None:
    for row in _rows(answer):
        assert row.isprintable(), ascii(row)
