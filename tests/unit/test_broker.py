"""The broker, asked by somebody who is not what he should be."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any, NoReturn

import pytest

from clsync.daemon.access import DirectAccess
from clsync.daemon.broker import Broker, Ended, digest_of
from clsync.daemon.build import make_parts
from clsync.daemon.files import SmallFile
from clsync.daemon.handlers import make_handler
from clsync.daemon.log import Log
from clsync.daemon.plan import make_plans
from clsync.daemon.prepare import DirectPreparation, Prepared
from clsync.errors import OperatorError
from clsync.kernel.credentials import Ids
from clsync.options import load
from clsync.privilege.looks import unpacked
from clsync.privilege.port import Caller, socket_pair
from clsync.privilege.wire import FRAME_LIMIT, SIGNATURES, Frames, Kind, Op, framed, pack, unpack


class _Over(Exception):
    """Nobody answers any more."""


def _gone() -> NoReturn:
    raise _Over


class Asked:
    """A broker in a thread, and both ways to it."""

    def __init__(self, top: Path, *more: str) -> None:
        """Make the trees below `top`; `more`: arguments."""
        self.source, self.destination, self.log = top / "source", top / "destination", top / "log"
        for path in (self.source, self.destination):
            path.mkdir()
        (top / "secret").write_text("secret")
        (self.source / "file").write_text("file")
        (self.source / "way").symlink_to(top)
        arguments = [f"-W{self.source}", f"-D{self.destination}", "-Mcopy", "--monitor=inotify", "-q", *more]

        def reload(changes: Any, through: Any = lambda read: read) -> Any:
            return load([os.fsencode(a) for a in arguments], {}, through(lambda name: None), 1, changes)

        log, settings = Log(level=0), reload(())
        plans = make_plans(settings, log)
        access = DirectAccess(SmallFile(None, "status-file"), log)
        preparation = DirectPreparation(access, reload, log)
        first = Prepared(settings, plans, make_parts(plans, access), list(map(make_handler, plans)))
        self.digest = digest_of(plans[0].rules)
        (looks, self.looks), (runs, self.runs) = socket_pair(), socket_pair()
        self.caller = Caller(self.looks, _gone)
        self.ended = Ended()

        async def served() -> Ended:
            broker = Broker(first, access, preparation, Ids(65534, 65534, ()), log, lambda: None)
            return await broker.serve(looks, runs)

        def run() -> None:
            self.ended = asyncio.run(served())

        self._thread = Thread(target=run)
        self._thread.start()

    def wait(self) -> Ended:
        """Wait for its end."""
        self._thread.join(10)
        assert not self._thread.is_alive(), "it is still there"
        return self.ended

    def close(self) -> None:
        """Leave it."""
        self.looks.close()
        self.runs.close()
        self.wait()

    def root(self) -> int:
        """Have the watched directory opened."""
        return int(self.caller.call(Op.OPEN_ROOT, bytes(self.source))[0])

    def ask(self, op: Op, *values: Any) -> list[Any]:
        """Ask what takes time; return the end of the answer."""
        self.runs.sendall(framed(op, Kind.REQUEST, 9, pack(SIGNATURES[op].request, *values)))
        frames = Frames()
        self.runs.settimeout(10)
        while True:
            while (frame := frames.next()) is None:
                data = self.runs.recv(65536)
                if not data:
                    _gone()
                frames.feed(data)
            if frame.kind == Kind.OPERATOR_ERROR:
                raise OperatorError(*unpack("iss", frame.body)[1:])
            if frame.kind == Kind.END:
                return unpack(SIGNATURES[op].end, frame.body)


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[Asked]:
    """Return a broker."""
    made = Asked(tmp_path)
    yield made
    made.close()


@contextmanager
def end_of(asked: Asked, why: str) -> Iterator[None]:
    """Demand that what happens in this block ends the broker, for this reason."""
    try:
        yield
        asked.caller.call(Op.STANDBY)
    except (_Over, ConnectionError):
        pass
    else:
        pytest.fail("it goes on")
    ended = asked.wait()
    assert ended.trouble
    assert why in ended.trouble
    assert (ended.code, ended.error) == (None, None)


def test_it_looks_at_what_is_asked_for(asked: Asked) -> None:
    root = asked.root()
    (records,) = asked.caller.call(Op.LOOK, root, [b"", b"file", b"nothing", b"file/below"])
    assert [seen.errno for seen in unpacked(records, 4)] == [0, 0, 2, 2]
    parts, _ = asked.caller.collect(Op.LIST, root, [b""])
    assert sorted(name for _, _, names, _ in parts for name in names) == [b"file", b"way"]


def test_behind_a_symlink_there_is_nothing_to_be_seen(asked: Asked) -> None:
    root = asked.root()
    (records,) = asked.caller.call(Op.LOOK, root, [b"way", b"way/secret", b"way/source/file"])
    assert [seen.errno for seen in unpacked(records, 3)] == [0, 2, 2]
    assert not [names for _, _, names, _ in asked.caller.collect(Op.LIST, root, [b"way"])[0] if names]


def test_what_lies_behind_a_symlink_is_not_handed_over(asked: Asked) -> None:
    asked.ask(Op.HANDLER_OPEN, 1, 0, 0)
    for op, values in (
        (Op.HANDLER_BATCH, (1, 1, asked.root(), False, "running", 0, -1, asked.digest)),
        (Op.HANDLER_ENTRIES, (1, [b"file", b"way/secret"], [32, 32])),
    ):
        asked.runs.sendall(framed(op, Kind.REQUEST, 0, pack(SIGNATURES[op].request, *values)))
    assert asked.ask(Op.HANDLER_SYNC, 1)[0] == "partial"
    assert [path.name for path in asked.destination.iterdir()] == ["file"]


@pytest.mark.parametrize("path", [b"..", b"../secret", b"/etc/passwd", b"a/../../secret", b"a\0b"])
def test_paths_that_lead_out(asked: Asked, path: bytes) -> None:
    with end_of(asked, "a path that leads out"):
        asked.caller.call(Op.LOOK, asked.root(), [path])


@pytest.mark.parametrize("path", [b"/", b"/etc", b"/proc", b""])
def test_directories_that_are_not_ours(asked: Asked, path: bytes) -> None:
    with end_of(asked, "to open"):
        asked.caller.call(Op.OPEN_ROOT, path)


@pytest.mark.parametrize(
    ("op", "values"),
    [
        (Op.LOOK, (77, [b"file"])),
        (Op.CLOSE_ROOT, (0,)),
        (Op.IDENTITY, (3,)),
        (Op.MONITOR_OPEN, (b"rules of my own",)),
        (Op.MONITOR_DRAIN, (1,)),
        (Op.STATUS, ("owned",)),
        (Op.SCAN, (5, [])),
    ],
)
def test_what_was_never_given(asked: Asked, op: Op, values: tuple[Any, ...]) -> None:
    with end_of(asked, "never given" if op is not Op.STATUS else "a status"):
        asked.caller.call(op, *values)


def test_scans_that_there_are_not(asked: Asked) -> None:
    with end_of(asked, "to scan"):
        asked.caller.call(Op.SCAN, asked.root(), ["-c", "import os"])


def test_more_than_there_can_be(asked: Asked) -> None:
    with end_of(asked, "more than there can be"):
        for _ in range(1000):
            asked.root()


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 64,
        framed(Op.LOOK, Kind.REQUEST, 1, b"noise"),
        framed(Op.LOOK, Kind.END, 1, pack("uP", 1, [])),
        (0).to_bytes(4, "little") + bytes((200, 0)) + bytes(4),
        (FRAME_LIMIT + 1).to_bytes(4, "little") + bytes((Op.LOOK, 0)) + bytes(4),
        framed(Op.HANDLER_SYNC, Kind.REQUEST, 1, pack("u", 1)),
        framed(Op.PREPARE, Kind.REQUEST, 1, pack("TT", [], [])),
    ],
    ids=["noise", "noise in a frame", "an answer", "no operation", "too long", "the other way", "settings"],
)
def test_garbage(asked: Asked, data: bytes) -> None:
    with end_of(asked, ""):
        asked.looks.sendall(data)


@pytest.mark.parametrize(
    ("op", "values", "why"),
    [
        (Op.HANDLER_OPEN, (1, 99, 0), "never given"),
        (Op.HANDLER_OPEN, (1, 0, 1), "a target that there is not"),
        (Op.HANDLER_SYNC, (1,), "never given"),
        (Op.HOOK_RUN, (0, "/bin/sh", "running", 1), "a hook"),
        (Op.HOOK_RUN, (0, "exit-hook", "running", 1), "a hook"),
        (Op.ADOPT, (5,), "never given"),
        (Op.LOOK, (1, []), "by the wrong way"),
    ],
)
def test_what_nobody_may_run(asked: Asked, op: Op, values: tuple[Any, ...], why: str) -> None:
    with pytest.raises(_Over):
        asked.ask(op, *values)
    assert why in asked.wait().trouble


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sync-handler", "/bin/sh"), ("destination-dir", "/"), ("mode", "direct"), ("--", "-x"), ("---", "-x"),
        ("config-file", "/etc/shadow"), ("rules-file", "/etc/shadow"), ("exit-hook", "/bin/sh"), ("label", "x"),
        ("splitting", "off"), ("custom-signals", "40:x"), ("", "a block"),
    ],
)  # fmt: skip
def test_settings_that_the_worker_may_not_change(asked: Asked, key: str, value: str) -> None:
    """That may be asked for by a client of the control socket: it is refused, and all goes on."""
    with pytest.raises(OperatorError):
        asked.ask(Op.PREPARE, [key], [value])
    assert asked.ask(Op.PREPARE, ["delay-sync"], ["3"])[0] == 1
    asked.root()


def test_the_worker_goes_without_a_word(asked: Asked) -> None:
    asked.looks.close()
    ended = asked.wait()
    assert ended == Ended()


def test_what_the_worker_says_at_its_end(asked: Asked) -> None:
    asked.caller.call(Op.FAILED, 7, "what", "then")
    asked.close()
    assert asked.ended.error is not None
    assert (asked.ended.code, asked.ended.error.message, asked.ended.error.hint) == (7, "what", "then")


def test_a_socket_is_closed_twice_without_harm(asked: Asked) -> None:
    root = asked.root()
    asked.caller.call(Op.CLOSE_ROOT, root)
    with end_of(asked, "never given"):
        asked.caller.call(Op.CLOSE_ROOT, root)
