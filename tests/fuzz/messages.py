"""What processes of ours say to each other: broker and worker, scanners, workers that copy, modules."""

from __future__ import annotations

import asyncio
import os
import pickle
import pickletools
import socket
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, cast

from clsync.api import Kind as ObjectKind
from clsync.core.batch import DIRECTORY, MISSING, REGULAR
from clsync.core.changes import ATTRIB, CONTENT, NAME
from clsync.core.classify import CHANGE_SHIFT
from clsync.daemon.remote.calls import Calls
from clsync.errors import OperatorError
from clsync.handler.copy import messages as copying
from clsync.handler.copy.units import Listed
from clsync.handler.plugin import protocol
from clsync.handler.plugin.directories import Directories
from clsync.handler.plugin.process import Process
from clsync.handler.plugin.pychild import _objects
from clsync.handler.plugin.records import Records, event
from clsync.privilege import wire
from clsync.privilege.looks import unpacked
from clsync.privilege.port import Caller
from clsync.privilege.wire import SIGNATURES, Frames, Kind, Op, Refused
from clsync.state import messages as scanning
from tests.fuzz.target import Feed, target
from tests.unit.test_broker import Asked

_OPS = sorted(SIGNATURES)


def _values(signature: str, feed: Feed) -> list[Any]:
    """Make values that fit a signature."""
    text = feed.some(20).decode("utf-8", "surrogateescape")
    makers: dict[str, Callable[[], Any]] = {
        "u": lambda: feed.number(8),
        "i": lambda: feed.number(7) - (1 << 54),
        "d": lambda: float(feed.number(4)),
        "b": lambda: bool(feed.number() & 1),
        "y": lambda: feed.some(40),
        "o": lambda: feed.some(40) if feed.number() & 1 else None,
        "s": lambda: text,
        "P": lambda: [feed.path() for _ in range(feed.number() % 5)],
        "I": lambda: [feed.number(4) for _ in range(feed.number() % 5)],
        "U": lambda: [feed.number(8) for _ in range(feed.number() % 5)],
        "L": lambda: [feed.some(9) if feed.number() & 1 else None for _ in range(feed.number() % 5)],
        "T": lambda: [text] * (feed.number() % 5),
    }
    return [makers[kind]() for kind in signature]


@target(b"\x00" * 20, b"\x05" * 60, bytes(range(256)))
def broker_frames(data: bytes) -> None:
    """Messages of every kind come through as they are; with anything changed in them they are refused, or fit again."""
    feed = Feed(data)
    op = feed.one(_OPS)
    part = feed.number() % 3
    signature = SIGNATURES[op][part]
    values = _values(signature, feed)
    body = wire.pack(signature, *values)
    assert wire.unpack(signature, body) == values
    frames = Frames()
    for piece in feed.pieces(wire.framed(op, Kind.REQUEST, 7, body)):
        frames.feed(piece)
    assert frames.next() == (op, Kind.REQUEST, 7, body)
    changed = bytearray(body)
    if changed:
        changed[feed.number(2) % len(changed)] ^= 1 << feed.number() % 8
    _demand_refused_or_whole(signature, bytes(changed))
    _demand_refused_or_whole(signature, body + feed.some(9))


def _demand_refused_or_whole(signature: str, body: bytes) -> None:
    try:
        values = wire.unpack(signature, body)
    except Refused:
        return
    if "d" not in signature:  # two numbers that are none are not equal
        assert wire.pack(signature, *values) == body
    for kind, value in zip(signature, values, strict=True):
        for path in value if kind == "P" else ():
            assert not path.startswith(b"/")
            assert not {b"", b".", b".."} & set(path.split(b"/")[bool(not path) :])


@target(
    struct.pack("<IBBI", 4, 4, 0, 1) + bytes(4),
    struct.pack("<IBBI", 0xFFFFFFFF, 4, 0, 1),
    b"\xff\xff\xff\xff" * 8,
    struct.pack("<I", 0xFFFFFFFE) * 4,
)
def broker_noise(data: bytes) -> None:
    """Bytes of any kind are frames, or refused; and so is what is in them, whatever it is to be."""
    frames = Frames()
    frames.feed(data)
    try:
        while frames.next() is not None:
            pass
    except Refused:
        pass
    for signature in {part for parts in SIGNATURES.values() for part in parts}:
        _demand_refused_or_whole(signature, data)
    for count in (0, 1, 7):
        try:
            assert len(list(unpacked(data, count))) == count
        except Refused:
            pass


@target(b"\x00\x00\x01" * 9, bytes(range(250)), b"\x1f\x20\x21\x22\x23" * 20, cost=40)
def broker_requests(data: bytes) -> None:
    """Whatever a worker asks a real broker for, by either way, it gets what it may have, or both end."""
    feed = Feed(data)
    with tempfile.TemporaryDirectory(prefix="clsync-fuzz-") as top:
        asked = Asked(Path(top))
        try:
            root = asked.root()
            for number in range(1, 12):
                op = feed.one(_OPS)
                signature = SIGNATURES[op].request
                values = _values(signature, feed)
                small = {"u": feed.number() % 4, "y": asked.digest, "s": "running"}
                if feed.number() % 4:  # else whatever it is
                    values = [small.get(kind, value) for kind, value in zip(signature, values, strict=True)]
                    values[:1] = [root if signature[:1] == "u" and feed.number() & 1 else one for one in values[:1]]
                way = asked.looks if feed.number() & 1 else asked.runs
                way.sendall(wire.framed(op, Kind.REQUEST, number, wire.pack(signature, *values)))
        except OSError:
            pass  # it has ended
        finally:
            asked.close()
        outside = {path.name for path in Path(top).iterdir()} - {"source", "destination", "log", "states"}
        assert outside == {"secret"}
        assert Path(top, "secret").read_text() == "secret"
        for path in Path(top, "destination").rglob("*"):
            assert path.is_symlink() or not path.is_file() or path.read_text() == "file", path


class _Gone(Exception):
    """Nobody answers."""


def _gone() -> NoReturn:
    raise _Gone


@target(
    struct.pack("<IBBI", 1, int(Op.STANDBY), int(Kind.END), 1) + b"\1",
    struct.pack("<IBBI", 0, int(Op.STANDBY), int(Kind.OS_ERROR), 1),
    wire.framed(Op.STANDBY, Kind.OPERATOR_ERROR, 1, wire.pack("iss", 5, "m", "h")),
)
def answers_to_the_worker(data: bytes) -> None:
    """The worker takes an answer, an error, or the end; both where it waits and where it does not."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(5)
        theirs.sendall(data[:60_000])
        theirs.shutdown(socket.SHUT_WR)
        caller = Caller(ours, _gone)
        try:
            assert isinstance(caller.call(Op.STANDBY)[0], bool)
        except (_Gone, OSError, OperatorError):
            pass
    asyncio.run(_called(data))


async def _called(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def gone() -> NoReturn:
        if not ended.done():
            ended.set_result(None)
        raise _Gone  # out of a callback: as if the process had ended

    strange: list[Any] = []

    def told(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not isinstance(context.get("exception"), _Gone):
            strange.append(context)

    asyncio.get_running_loop().set_exception_handler(told)
    with theirs:
        calls = Calls(ours, gone)
        call = asyncio.ensure_future(calls.call(Op.HANDLER_CLOSE, 1))
        await asyncio.sleep(0)
        theirs.sendall(data[:60_000])
        theirs.shutdown(socket.SHUT_WR)
        await asyncio.wait((call, ended), return_when=asyncio.FIRST_COMPLETED, timeout=5)
        await asyncio.wait((ended,), timeout=5)
        assert ended.done(), "the end was not seen"
        if call.done():
            assert isinstance(call.exception(), OSError | OperatorError | None)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    assert not strange, strange


@target(b"\x03abc\x00", bytes(range(100)))
def scanner_messages(data: bytes) -> None:
    """What a scanner says comes through in any pieces."""
    feed = Feed(data)
    letters = (scanning.WORK, scanning.SHARE, scanning.FOUND, scanning.LINKED, scanning.IDLE, scanning.FAILED)
    sent = list[tuple[bytes, list[bytes]]]()
    while feed and len(sent) < 8:
        sent.append((feed.one(letters), [feed.path() for _ in range(1 + feed.number() % 4)]))
    stream = b"".join(scanning.message(letter, parts) for letter, parts in sent)
    inbox, found = scanning.Inbox(), []
    for piece in feed.pieces(stream):
        found += list(inbox.feed(piece))
    assert found == sent


@target(struct.pack("<Ic", 0xFFFFFFFF, b"D"), struct.pack("<Ic", 0, b"D") * 9)
def scanner_noise(data: bytes) -> None:
    """Bytes of any kind are messages, or refused."""
    inbox = scanning.Inbox()
    try:
        for letter, _ in inbox.feed(data):
            assert len(letter) == 1
    except scanning.Malformed:
        pass


_REPORT = copying.Report({b"a": "why"}, [], 1, 2, 3, True)
_GIVEN = copying.Given([Listed(b"x", [(b"y", 1)])])


def _takes_memory(data: bytes) -> bool:
    """Tell whether a pickle has a memo with large numbers: such a table is made as a whole."""
    try:
        return any(code.name in ("PUT", "LONG_BINPUT") for code, _, _ in pickletools.genops(data))
    except Exception:  # noqa: BLE001 - it is none; what comes before counts all the same
        return b"r" in data or b"p" in data


@target(
    *(pickle.dumps(one, 5) for one in (_REPORT, _GIVEN, copying.Ended(), copying.Shut())),
    b"cos\nsystem\n(S'true'\ntR.",
    b"\x80\x05K\x01.",
)
def copier_messages(data: bytes) -> None:
    """Whatever a worker that copies says is one of its messages, or refused; it cannot name anything else."""
    if _takes_memory(data):
        return
    ours, theirs = socket.socketpair()
    with ours, theirs:
        payload = data[:60_000]
        theirs.sendall(struct.pack("<Q", len(payload)) + payload)
        theirs.close()
        try:
            said = copying.Inbox(ours, of_worker=True).take(wait=True)
        except pickle.UnpicklingError:
            return
        assert isinstance(said, copying.Said)


class _Quiet:
    """Takes messages of a module."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def error(self, text: str) -> None:
        self.said.append(text)

    warning = info = error

    def debug(self, level: int, text: str) -> None:
        assert isinstance(level, int)
        self.said.append(text)


@target(b"=0", b"=x", b"=" + b"9" * 5000, b"D", b"Dx text", b"!why", b"Fpath\0why", b"E\x1b[31m\n", b"", b"\xff")
def module_packets(data: bytes) -> None:
    """Whatever the process of a module says is a message, an answer, or the end of it."""

    async def heeded() -> None:
        log = _Quiet()
        answer = asyncio.get_running_loop().create_future()
        process = SimpleNamespace(_answer=answer, _log=log, _name="module", failed={})
        process._said = lambda text: Process._said(cast(Process, process), text)
        for packet in data.split(b"\xfe")[:50]:
            Process._heed(cast(Process, process), packet[:1], packet[1:])
        if answer.done() and (error := answer.exception()) is not None:
            assert isinstance(error, protocol.Refused)
        assert all(text.isprintable() for text in (*log.said, *process.failed.values()))

    asyncio.run(heeded())


@target(b"\x03abc", bytes(range(120)))
def module_records(data: bytes) -> None:
    """Objects come out of the file of records as they were put there."""
    feed, known = Feed(data), Directories(1000)
    expected = list[tuple[bytes, ObjectKind, ObjectKind, int]]()
    with Records() as records:
        while feed and len(expected) < 50:
            path = feed.path()
            flags = feed.one((REGULAR, DIRECTORY, MISSING))
            flags |= feed.one((ATTRIB, CONTENT, NAME)) << CHANGE_SHIFT
            found = event(path, flags, known)
            records.add(path, found, 0)
            expected.append((path, ObjectKind(found.new), ObjectKind(found.old), found.mask))
        read = list(_objects(os.dup(records.finish()), b"/source")) if expected else []
    assert [(one.path, one.kind, one.before, one.mask) for one in read] == expected
