"""The broker, asked by somebody who is not what he should be."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import count, repeat
from pathlib import Path
from threading import Thread
from typing import Any, BinaryIO, NoReturn, cast

import pytest

from clsync.control.listener import Listening
from clsync.core.listing import Records
from clsync.core.rules import Rules
from clsync.core.verification import Aspect, Difference
from clsync.daemon.access import DirectAccess
from clsync.daemon.broker import Broker, Ended
from clsync.daemon.build import make_parts, make_room
from clsync.daemon.comparing import Comparisons
from clsync.daemon.desks.shared import digest_of
from clsync.daemon.files import SmallFile
from clsync.daemon.handlers import make_handler
from clsync.daemon.log import Log
from clsync.daemon.plan import make_plans
from clsync.daemon.prepare import DirectPreparation, Prepared
from clsync.daemon.witness import Witness
from clsync.errors import OperatorError
from clsync.handler.compare.base import Part, Question
from clsync.kernel import ops, roles, sandbox
from clsync.kernel.credentials import Ids, mask
from clsync.kernel.sandbox import trouble_with
from clsync.options import load
from clsync.privilege.looks import unpacked, unpacked_plain, unpacked_records
from clsync.privilege.port import Caller, raise_error, socket_pair
from clsync.privilege.wire import (
    FRAME_LIMIT,
    PATHS_AT_ONCE,
    SIGNATURES,
    STEPS_LIMIT,
    Frames,
    Kind,
    Op,
    framed,
    pack,
    unpack,
)
from clsync.state import messages as scanning
from clsync.state.store import Store
from tests.support.waiting import wait_until


class _Over(Exception):
    """Nobody answers any more."""


def _gone() -> NoReturn:
    raise _Over


class Asked:
    """A broker in a thread, and both ways to it."""

    def __init__(self, top: Path, *more: str, listening: Listening | None = None) -> None:
        """Make the trees below `top`; `more`: arguments; `listening`: a control socket that is heard."""
        self.source, self.destination, self.log = top / "source", top / "destination", top / "log"
        for path in (self.source, self.destination):
            path.mkdir()
        (top / "secret").write_text("secret")
        (self.source / "file").write_text("file")
        (self.source / "way").symlink_to(top)
        arguments = [f"-W{self.source}", f"-D{self.destination}", "-Mcopy", "--monitor=inotify", "-q"]
        arguments += [f"--state-dir={top / 'states'}", *more]

        def reload(changes: Any, through: Any = lambda read: read) -> Any:
            read = load([os.fsencode(a) for a in arguments], {}, through(lambda name: None), 1, changes)
            return replace(read, split_by_default=listening is not None)

        log, settings = Log(level=0), reload(())
        plans = make_plans(settings, log)
        place = make_room(plans, log)
        self.room = place.directory if place is not None else b""
        access = DirectAccess(SmallFile(None, "status-file"), log, self.room)
        state = access.for_state(plans[0]) if place is not None else None
        preparation = DirectPreparation(access, reload, log)
        first = Prepared(settings, plans, make_parts(plans, access), list(map(make_handler, plans)))
        self.digest = digest_of(plans[0].rules)
        (looks, self.looks), (runs, self.runs) = socket_pair(), socket_pair()
        self.caller = Caller(self.looks, _gone)
        self.ended = Ended()
        self.held: list[int] = []
        """Descriptors that were given out, and are open until the worker is dismissed."""
        self.expect_end: Callable[[], object]
        """Tells it that the worker was asked to end; there once it has answered."""

        async def served() -> Ended:
            witness = Witness(listening) if listening is not None else None
            broker = Broker(first, access, preparation, log, lambda: None, state, witness)
            loop = asyncio.get_running_loop()
            self.expect_end = lambda: loop.call_soon_threadsafe(broker.expect_end)
            return await broker.serve(looks, runs, self._dismissed)

        def run() -> None:
            self.ended = asyncio.run(served())

        self._thread = Thread(target=run)
        self._thread.start()

    def _dismissed(self) -> None:
        for descriptor in self.held:
            os.close(descriptor)

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

    def listed(self, root: int, path: bytes) -> list[bytes]:
        """Return the names in a directory."""
        (listing,) = self.caller.call(Op.LIST, root, [path])
        found: list[bytes] = []
        done = False
        while not done:
            parts, (done,) = self.caller.collect(Op.LIST_NEXT, listing)
            found += [name for _, _, names, _ in parts for name in names]
        return found

    def ask(self, op: Op, *values: Any, parts: list[list[Any]] | None = None) -> list[Any]:
        """Ask what takes time; return the end of the answer, and take its `parts`."""
        self.runs.sendall(framed(op, Kind.REQUEST, 9, pack(SIGNATURES[op].request, *values)))
        frames = Frames()
        self.runs.settimeout(10)
        while True:
            while (frame := frames.next()) is None:
                data = self.runs.recv(65536)
                if not data:
                    _gone()
                frames.feed(data)
            assert frame.number == 9
            if frame.kind in (Kind.OPERATOR_ERROR, Kind.OS_ERROR):
                raise_error(frame)
            if frame.kind == Kind.END:
                return unpack(SIGNATURES[op].end, frame.body)
            if parts is not None:
                parts.append(unpack(SIGNATURES[op].more, frame.body))


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
    assert sorted(asked.listed(root, b"")) == [b"file", b"way"]


def test_behind_a_symlink_there_is_nothing_to_be_seen(asked: Asked) -> None:
    root = asked.root()
    (records,) = asked.caller.call(Op.LOOK, root, [b"way", b"way/secret", b"way/source/file"])
    assert [seen.errno for seen in unpacked(records, 3)] == [0, 2, 2]
    assert not asked.listed(root, b"way")
    asked.source.joinpath("file").write_bytes(b"123")
    (records,) = asked.caller.call(Op.LOOK_PLAIN, root, [b"way", b"way/source/file", b"file", b"nothing"])
    assert [size for size, _, _ in unpacked_plain(records, 4)] == [-1, -1, 3, -1]


def test_a_long_directory_is_listed_in_turns(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides have other things to do meanwhile, and neither has room for all of it."""
    monkeypatch.setattr("clsync.daemon.desks.tree.TURN", 0.0)
    names = {b"f%d" % number for number in range(1000)}
    for name in names:
        os.close(os.open(bytes(asked.source) + b"/" + name, os.O_CREAT | os.O_WRONLY))
    root, before = asked.root(), len(os.listdir("/proc/self/fd"))
    (listing,) = asked.caller.call(Op.LIST, root, [b""])
    parts, (done,) = asked.caller.collect(Op.LIST_NEXT, listing)
    assert not done
    assert sum(len(names) for _, _, names, _ in parts) < len(names)
    assert {*asked.listed(root, b"")} >= names
    asked.caller.call(Op.CLOSE_ROOT, root)
    assert len(os.listdir("/proc/self/fd")) < before
    with end_of(asked, "never given"):
        asked.caller.collect(Op.LIST_NEXT, listing)


def test_what_lies_behind_a_symlink_is_not_watched(asked: Asked) -> None:
    (monitor,) = asked.caller.call(Op.MONITOR_OPEN, asked.digest)
    while not asked.caller.call(Op.MONITOR_ARM, monitor)[0]:
        pass
    for path, heard in ((b"file", True), (b"way/secret", False)):
        found = os.stat(path, dir_fd=(directory := os.open(asked.source, os.O_PATH)))
        os.close(directory)
        (ctime,) = asked.caller.call(Op.MONITOR_WATCH_FILE, monitor, [path], [found.st_dev, found.st_ino, 2])
        assert bool(ctime) is heard


def test_what_lies_behind_a_symlink_is_not_handed_over(asked: Asked) -> None:
    asked.ask(Op.HANDLER_OPEN, 1, 0, 0)
    for op, values in (
        (Op.HANDLER_BATCH, (1, 1, asked.root(), False, "running", 0, -1, asked.digest)),
        (Op.HANDLER_ENTRIES, (1, [b"file", b"way/secret"], [32, 32])),
    ):
        asked.runs.sendall(framed(op, Kind.REQUEST, 0, pack(SIGNATURES[op].request, *values)))
    assert asked.ask(Op.HANDLER_SYNC, 1)[0] == "partial"
    assert [path.name for path in asked.destination.iterdir()] == ["file"]


def test_a_directory_that_was_real_when_it_was_looked_at_is_looked_at_again_later(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clsync.daemon.desks.shared._FRESH", 0.0)
    (asked.source / "dir").mkdir()
    (asked.source / "dir/secret").write_text("ours")
    asked.ask(Op.HANDLER_OPEN, 1, 0, 0)
    root = asked.root()
    asked.caller.call(Op.LOOK_PLAIN, root, [b"dir/secret"])
    (asked.source / "dir").rename(asked.source / "other")
    (asked.source / "dir").symlink_to(asked.source.parent)
    for op, values in (
        (Op.HANDLER_BATCH, (1, 1, root, False, "running", 0, -1, asked.digest)),
        (Op.HANDLER_ENTRIES, (1, [b"dir/secret"], [32])),
    ):
        asked.runs.sendall(framed(op, Kind.REQUEST, 0, pack(SIGNATURES[op].request, *values)))
    parts: list[list[Any]] = []
    assert asked.ask(Op.HANDLER_SYNC, 1, parts=parts)[0] == "partial"
    assert ["again", [b"dir/secret"], []] in parts


def test_what_stands_at_a_destination_is_not_handed_over(tmp_path: Path) -> None:
    (other := tmp_path / "other").mkdir()
    (work := tmp_path / "work").mkdir()
    (other / "private").write_text("of the other destination")
    asked = Asked(work, f"-D{other}")
    asked.ask(Op.HANDLER_OPEN, 1, 0, 0)
    (directory,) = asked.caller.call(Op.OPEN_ROOT, bytes(other))
    with end_of(asked, "to hand over what is not watched"):
        for op, values in (
            (Op.HANDLER_BATCH, (1, 1, directory, False, "running", 0, -1, asked.digest)),
            (Op.HANDLER_ENTRIES, (1, [b"private"], [32])),
        ):
            asked.runs.sendall(framed(op, Kind.REQUEST, 0, pack(SIGNATURES[op].request, *values)))
        asked.ask(Op.HANDLER_SYNC, 1)
    assert not list(asked.destination.iterdir())


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
        (Op.MONITOR_MOVES, (1,)),
        (Op.STATUS, ("owned",)),
        (Op.SCAN, (5, [])),
        (Op.STATE_SCAN, (1, False, b"rules of my own", 0.0)),
        (Op.STATE_SCAN, (77, False, b"", 0.0)),
        (Op.ADOPT, (5,)),
    ],
)
def test_what_was_never_given(asked: Asked, op: Op, values: tuple[Any, ...]) -> None:
    with end_of(asked, "never given" if op is not Op.STATUS else "a status"):
        asked.caller.call(op, *values)


@pytest.mark.parametrize("options", [["-c", "import os"], ["--all", "9" * 5000], ["--all", "x"], ["--all"]])
def test_scans_that_there_are_not(asked: Asked, options: list[str]) -> None:
    with end_of(asked, "to scan"):
        asked.caller.call(Op.SCAN, asked.root(), options)


@contextmanager
def scan_below(root: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Give the input and the output of a scan; it has to fail, but not by an exception that nobody expected."""
    argv = [sys.executable, "-I", "-c", ops._SEARCH.decode()]
    with tempfile.TemporaryFile() as said:
        with subprocess.Popen(
            argv, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, bufsize=0
        ) as scan:
            assert scan.stdin is not None
            assert scan.stdout is not None
            yield cast(BinaryIO, scan.stdin), cast(BinaryIO, scan.stdout)
            assert scan.wait(60) == 1
        said.seek(0)
        assert b"Traceback" not in said.read()


@pytest.mark.parametrize(
    "wishes",
    [
        repeat(b"9" * 4096),
        (b"1 %d 2\n" % inode for inode in count()),
        [b"1 2\n"],
        [b"one two three\n"],
    ],
    ids=["a line without an end", "files without an end", "no file", "no numbers"],
)
def test_scans_do_not_believe_who_asks(tmp_path: Path, wishes: Iterable[bytes]) -> None:
    with scan_below(tmp_path) as (asked, found):
        with suppress(BrokenPipeError):
            asked.writelines(wishes)
            asked.close()
        assert found.read() == b""


@pytest.mark.parametrize("options", [[], ["--stat"], ["--all", "0"]], ids=str)
def test_a_search_that_cannot_enter_its_sandbox_ends(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], options: list[str]
) -> None:
    """It finds nothing, and says why."""
    monkeypatch.setattr(sandbox._Layers, "usable", frozenset(("landlock", "capabilities")))
    monkeypatch.setenv("CLSYNC_WITHOUT", "landlock")  # for the process that searches alone
    (scan,) = asked.caller.call(Op.SCAN, asked.root(), options)
    inlet, outlet = asked.caller.descriptors
    os.close(inlet)
    with open(outlet, "rb") as found:
        assert found.read() == b""
    assert asked.ask(Op.SCAN_END, scan, False) == [1]
    said = "clsync: the search for names: its sandbox cannot be entered: Function not implemented (CLSYNC_WITHOUT=landlock)"
    assert capfd.readouterr().err.splitlines() == [said]


def test_scans_whom_nobody_hears_end_quietly(tmp_path: Path) -> None:
    """Broker and worker are both gone."""
    for name in range(2000):
        (tmp_path / f"{name:0200}").touch()  # more than a pipe holds
    device, inodes = os.stat(tmp_path).st_dev, [entry.inode() for entry in os.scandir(tmp_path)]
    with scan_below(tmp_path) as (asked, found):
        asked.write(b"".join(b"%d %d 1\n" % (device, inode) for inode in inodes))
        found.close()
        asked.close()


def test_scans_whose_end_is_waited_for_count(asked: Asked) -> None:
    """They go on as long as the worker holds their pipes; it is dismissed before they are waited for."""
    root = asked.root()
    with end_of(asked, "more than there can be"):
        for number in range(1, 100):
            (scan,) = asked.caller.call(Op.SCAN, root, [])
            asked.held += asked.caller.descriptors
            asked.runs.sendall(framed(Op.SCAN_END, Kind.REQUEST, number, pack("ub", scan, False)))
    assert len(asked.held) <= 16


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
        (Op.HANDLER_RENAME, (1, b""), "never given"),
        (Op.HANDLER_HOST, (1, True), "never given"),
        (Op.HOOK_RUN, (0, "/bin/sh", "running", 1), "a hook"),
        (Op.HOOK_RUN, (0, "exit-hook", "running", 1), "a hook"),
        (Op.ADOPT, (0,), "by the wrong way"),
        (Op.LOOK, (1, []), "by the wrong way"),
    ],
)
def test_what_nobody_may_run(asked: Asked, op: Op, values: tuple[Any, ...], why: str) -> None:
    with pytest.raises(_Over):
        asked.ask(op, *values)
    assert why in asked.wait().trouble


def test_who_does_not_listen_is_not_talked_to(asked: Asked) -> None:
    """Questions are taken only as long as the answers are, which would fill the memory of the broker."""
    root = asked.root()
    questions = framed(Op.LOOK, Kind.REQUEST, 1, pack("uP", root, [b"file"] * 8000)) * 1000
    asked.looks.settimeout(1)
    with pytest.raises(TimeoutError):
        asked.looks.sendall(questions)


def test_a_batch_that_is_not_handed_over_is_given_back(asked: Asked) -> None:
    root, before = asked.root(), len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        asked.ask(Op.HANDLER_OPEN, 1, 0, 0)
        head = pack(SIGNATURES[Op.HANDLER_BATCH].request, 1, 1, root, False, "running", 0, -1, asked.digest)
        asked.runs.sendall(framed(Op.HANDLER_BATCH, Kind.REQUEST, 0, head))
        asked.ask(Op.HANDLER_CLOSE, 1)
    assert len(os.listdir("/proc/self/fd")) < before + 10


def test_a_batch_for_which_there_is_no_descriptor(asked: Asked) -> None:
    """It comes back, and may be tried again."""
    asked.ask(Op.HANDLER_OPEN, 1, 0, 0)
    head = pack(SIGNATURES[Op.HANDLER_BATCH].request, 1, 1, asked.root(), False, "running", 0, -1, asked.digest)
    entry = pack(SIGNATURES[Op.HANDLER_ENTRIES].request, 1, [b"file"], [32])

    def hand_over() -> None:
        asked.runs.sendall(framed(Op.HANDLER_BATCH, Kind.REQUEST, 0, head))
        asked.runs.sendall(framed(Op.HANDLER_ENTRIES, Kind.REQUEST, 0, entry))
        assert asked.ask(Op.HANDLER_SYNC, 1)[0] == "done"

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            hand_over()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    hand_over()


def test_a_batch_that_would_fill_the_memory(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clsync.daemon.desks.handlers._MOST_BYTES", 100_000)
    asked.ask(Op.HANDLER_OPEN, 1, 0, 0)
    head = pack(SIGNATURES[Op.HANDLER_BATCH].request, 1, 1, asked.root(), False, "running", 0, -1, asked.digest)
    with end_of(asked, "a batch that is too long"):
        asked.runs.sendall(framed(Op.HANDLER_BATCH, Kind.REQUEST, 0, head))
        for number in range(1000):
            entry = pack(SIGNATURES[Op.HANDLER_ENTRIES].request, 1, [b"%d" % number + b"x" * 200], [32])
            asked.runs.sendall(framed(Op.HANDLER_ENTRIES, Kind.REQUEST, 0, entry))
        asked.ask(Op.HANDLER_CLOSE, 1)


def test_hooks_are_run_one_by_one(tmp_path: Path) -> None:
    """Whoever has taken the worker may have them run, but not a thousand of them."""
    hook = tmp_path / "hook"
    hook.write_text("#!/bin/sh\nsleep 600\n")
    hook.chmod(0o755)
    asked = Asked(tmp_path, f"--exit-hook={hook}", f"--pre-exit-hook={hook}")
    for option in ("exit-hook", "pre-exit-hook"):
        question = pack(SIGNATURES[Op.HOOK_RUN].request, 0, option, "exiting", 1)
        asked.runs.sendall(framed(Op.HOOK_RUN, Kind.REQUEST, 1, question))
    assert "two hooks at once" in asked.wait().trouble


def rename(asked: Asked, *steps: tuple[int, bytes, bytes], digest: bytes | None = None) -> int:
    """Have names changed; return how many of the steps were done. `steps`: (kind and whether a directory, from, to)."""
    asked.ask(Op.HANDLER_OPEN, 1, 0, 0)
    kinds, sources, targets = ([step[at] for step in steps] for at in range(3))
    values = 1, kinds, sources, targets
    asked.runs.sendall(framed(Op.HANDLER_STEPS, Kind.REQUEST, 0, pack(SIGNATURES[Op.HANDLER_STEPS].request, *values)))
    return int(asked.ask(Op.HANDLER_RENAME, 1, asked.digest if digest is None else digest)[0])


def test_a_target_that_is_here_has_no_host_to_be_asked(asked: Asked) -> None:
    asked.ask(Op.HANDLER_OPEN, 1, 0, 0)
    assert asked.ask(Op.HANDLER_HOST, 1, True) == [None, False]


MAKE_DIRECTORY, MOVE_FILE, MOVE_DIRECTORY = 1, 2, 3


def test_names_are_changed_at_the_destination(asked: Asked) -> None:
    (asked.destination / "a").mkdir()
    (asked.destination / "a/file").write_text("file")
    steps = (MAKE_DIRECTORY, b"", b"b"), (MOVE_FILE, b"a/file", b"b/file"), (MOVE_DIRECTORY, b"a", b"b/a")
    assert rename(asked, *steps) == 3
    assert sorted(path.name for path in (asked.destination / "b").iterdir()) == ["a", "file"]
    assert {path.name for path in asked.source.parent.glob("s[eo]*")} == {"source", "secret"}


def test_names_behind_a_symlink_stay(asked: Asked) -> None:
    (asked.destination / "way").symlink_to(asked.source.parent)
    assert rename(asked, (MOVE_FILE, b"way/secret", b"mine")) == 0
    assert [path.name for path in asked.destination.iterdir()] == ["way"]


@pytest.mark.parametrize(
    ("kinds", "sources", "targets", "why"),
    [
        ([6], [b"a"], [b"b"], "a kind of step"),
        ([MOVE_FILE], [b""], [b"b"], "from nowhere"),
        ([MOVE_FILE], [b"a"], [b""], "to nowhere"),
        ([MAKE_DIRECTORY], [b"a"], [b"b"], "a step from nowhere"),
        ([MOVE_FILE], [b"a", b"b"], [b"c"], "steps that are none"),
        ([MOVE_FILE], [b"../secret"], [b"b"], "leads out"),
        ([MOVE_FILE], [b"a"], [b"/tmp/b"], "leads out"),
    ],
)
def test_steps_that_there_are_not(
    asked: Asked, kinds: list[int], sources: list[bytes], targets: list[bytes], why: str
) -> None:
    asked.ask(Op.HANDLER_OPEN, 1, 0, 0)
    with pytest.raises(_Over):
        asked.ask(Op.HANDLER_STEPS, 1, kinds, sources, targets)
    assert why in asked.wait().trouble


def test_more_steps_than_there_can_be(asked: Asked) -> None:
    asked.ask(Op.HANDLER_OPEN, 1, 0, 0)
    values = 1, [MOVE_FILE] * PATHS_AT_ONCE, [b"a"] * PATHS_AT_ONCE, [b"b"] * PATHS_AT_ONCE
    steps = framed(Op.HANDLER_STEPS, Kind.REQUEST, 0, pack(SIGNATURES[Op.HANDLER_STEPS].request, *values))
    with suppress(ConnectionError):
        for _ in range(STEPS_LIMIT // PATHS_AT_ONCE + 1):
            asked.runs.sendall(steps)
    assert "more steps" in asked.wait().trouble


def test_names_that_rules_protect_stay(tmp_path: Path) -> None:
    (tmp_path / "rules").write_text("-*^theirs(/|$)\n")
    asked = Asked(tmp_path, f"-R{tmp_path}/rules")
    try:
        (asked.destination / "theirs").mkdir()
        (asked.destination / "ours").mkdir()
        for step in ((MOVE_DIRECTORY, b"theirs", b"x"), (MOVE_DIRECTORY, b"ours", b"theirs/x")):
            assert rename(asked, step) == 0
            asked.ask(Op.HANDLER_CLOSE, 1)
        assert rename(asked, (MOVE_DIRECTORY, b"ours", b"x")) == 1
        with pytest.raises(_Over):
            asked.ask(Op.HANDLER_RENAME, 1, b"rules of my own")
    finally:
        asked.close()


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


def test_a_macro_makes_no_other_hook_out_of_a_permitted_one(tmp_path: Path) -> None:
    """With `%watch-dir%` for one name the path is that of the permitted hook; it stands for several."""
    permitted, mark, work = tmp_path / "hook", tmp_path / "mark", tmp_path / "work"
    work.mkdir()
    for program in (permitted, other := tmp_path / f"other{permitted}"):
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(f"#!/bin/sh\nprintf %s {program} >>{mark}\n")
        program.chmod(0o755)
    up = len((tmp_path / "other/one").parts) - 1
    asked = Asked(work, f"--exit-hook={permitted}")
    try:
        for text in (
            f"{tmp_path}/other/%watch-dir%{'/..' * up}{permitted}",
            f"%watch-dir%/..{permitted}",
            str(other),
            "hook",
        ):
            with pytest.raises(OperatorError, match="cannot be set with --splitting"):
                asked.ask(Op.PREPARE, ["exit-hook"], [text])
        asked.ask(
            Op.HOOK_RUN, asked.ask(Op.PREPARE, ["exit-hook"], [f"{work}/../hook"])[0], "exit-hook", "exiting", 1
        )
    finally:
        asked.close()
    assert mark.read_text() == str(permitted)


def test_a_worker_that_waits_for_a_hook_is_not_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for nothing else, and not for long after it."""
    monkeypatch.setattr("clsync.daemon.broker.ENDING", 1.0)
    hook, runs, go = tmp_path / "hook", tmp_path / "runs", tmp_path / "go"
    hook.write_text(f"#!/bin/sh\n: >{runs}\nuntil [ -e {go} ]; do sleep 0.05; done\n")
    hook.chmod(0o755)
    (tmp_path / "below").mkdir()
    asked = Asked(tmp_path / "below", f"--exit-hook={hook}")
    try:
        asked.root()
        run = framed(
            Op.HOOK_RUN, Kind.REQUEST, 9, pack(SIGNATURES[Op.HOOK_RUN].request, 0, "exit-hook", "exiting", 1)
        )
        asked.runs.sendall(run)
        until = time.monotonic() + 20
        while not runs.exists():
            assert time.monotonic() < until
            time.sleep(0.01)
        asked.expect_end()
        time.sleep(2)  # what is to be shown is that nothing happens
        asked.root()
        go.touch()
        ended = asked.wait()
        assert (ended.late, ended.code, ended.trouble) == (True, None, "")
    finally:
        asked.close()


# -- what the state needs --------------------------------------------------------------------------------------


class Scanning:
    """A scanner that a worker drives."""

    def __init__(self, asked: Asked, record: bool) -> None:
        """Have it started."""
        (self._number,) = asked.caller.call(Op.STATE_SCAN, asked.root(), record, asked.digest, 0.0)
        self._asked, self._inbox = asked, scanning.Inbox()
        self._socket = socket.socket(fileno=asked.caller.descriptors[0])
        self._socket.settimeout(20)

    def told(self, *tops: bytes, before: bytes = b"") -> list[tuple[bytes, list[bytes]]]:
        """Give it directories; return what it says until it has nothing to do. Raises ConnectionError."""
        self._socket.sendall(before + scanning.message(scanning.WORK, tops))
        said: list[tuple[bytes, list[bytes]]] = []
        while not said or said[-1][0] not in (scanning.IDLE, scanning.FAILED):
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionError
            said += self._inbox.feed(data)
        return said

    def found(self, *tops: bytes, before: bytes = b"") -> list[bytes]:
        """Give it directories; return what differs there."""
        told = self.told(*tops, before=before)
        assert told[-1][0] == scanning.IDLE, told
        return sorted(part.partition(b" ")[2] for letter, parts in told if letter == scanning.FOUND for part in parts)

    def close(self) -> None:
        """Let it end."""
        self._socket.close()
        assert self._asked.ask(Op.SCAN_END, self._number, False) == [0]


def recorded(asked: Asked) -> None:
    """Have the tree recorded, as a worker does it."""
    store = Store.open(asked.room, b"identity", [b"target"], b"boot" * 4)
    store.begin_record(b"", 0.0)
    scan = Scanning(asked, record=True)
    assert not scan.found(b"")
    scan.close()
    store.end_record(b"target", b"", {}, 0.0)
    store.close()


def test_what_scanners_find_is_for_the_worker(asked: Asked) -> None:
    recorded(asked)
    (asked.source / "new").write_text("new")
    scan = Scanning(asked, record=False)
    assert b"new" in scan.found(b"")
    scan.close()
    (records,) = asked.caller.call(Op.LOOK_RECORDS, asked.root(), [b"file", b"way", b"nothing"])
    noted = Records()
    assert [size for size, _, _ in unpacked_records(records, [b"file", b"way", b"nothing"], 1 << 62, noted)] == [
        4,
        -1,
        -1,
    ]
    assert noted.settled.keys() == {b"file"}


def test_a_scanner_looks_nowhere_else(asked: Asked) -> None:
    """Not by paths that lead out, nor by other settings than those of who has started it."""
    recorded(asked)
    scan = Scanning(asked, record=False)
    hostile = scanning.message(b"S", [b"record", b"0", b"/etc/passwd", b""])
    outside = [b"..", b"/etc", b"way", b"way/destination", b"../destination", b"a/../.."]
    assert set(scan.found(*outside, before=hostile)) <= {*outside}
    scan.close()


def test_scanners_go_by_the_rules_that_the_broker_has_read(tmp_path: Path) -> None:
    (work := tmp_path / "work").mkdir()
    (rules := tmp_path / "rules").write_text("-f^secret$\n+*.*\n")
    asked = Asked(work, f"-R{rules}")
    try:
        recorded(asked)
        for name in ("secret", "told"):
            (asked.source / name).write_text(name)
        scan = Scanning(asked, record=False)
        found = scan.found(b"")
        assert b"told" in found
        assert b"secret" not in found
        scan.close()
    finally:
        asked.close()


def test_more_scanners_than_there_can_be(asked: Asked) -> None:
    recorded(asked)
    for _ in range(4):
        asked.caller.call(Op.STATE_SCAN, asked.root(), False, asked.digest, 0.0)
        asked.held += asked.caller.descriptors
    with end_of(asked, "more scanners"):
        asked.caller.call(Op.STATE_SCAN, asked.root(), False, asked.digest, 0.0)


@pytest.mark.skipif(bool(trouble_with("landlock")), reason="needs Landlock")
def test_a_scanner_can_write_nothing_but_the_state(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the worker puts into the place of the state."""
    recorded(asked)
    victim = asked.source.parent / "secret"
    for name in (b"state.db", b"state.db-wal", b"state.db-shm"):
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(asked.room, name))
    os.symlink(victim, os.path.join(asked.room, b"state.db"))
    monkeypatch.setattr(sandbox._Layers, "usable", frozenset(("landlock", "capabilities")))
    for record in (True, False):
        with suppress(ConnectionError):
            assert Scanning(asked, record).told(b"")[-1][0] == scanning.FAILED
    assert victim.read_text() == "secret"


@pytest.mark.root
def test_who_a_scanner_is(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(asked)
    for name in (b".", *os.listdir(asked.room)):
        os.chown(os.path.join(asked.room, name), 65534, 65534)
    monkeypatch.setattr(roles._Assigned, "keeper", Ids(65534, 65534, ()))
    monkeypatch.setattr(roles._Assigned, "keeping", mask(("CAP_DAC_READ_SEARCH",)))
    asked.source.chmod(0o700)
    scan = Scanning(asked, record=False)
    assert b"new" not in scan.found(b"")
    fields = [
        dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines() if ":\t" in line)
        for children in Path("/proc/self/task").glob("*/children")
        for pid in children.read_text().split()
        for task in (Path("/proc", pid),)
        if b"clsync.state.scanner" in (task / "cmdline").read_bytes()
    ]
    assert [field["Uid"].split() for field in fields] == [["65534"] * 4]
    assert {int(fields[0][f"Cap{which}"], 16) for which in ("Eff", "Prm")} == {mask(("CAP_DAC_READ_SEARCH",))}
    (asked.source / "new").write_text("new")
    assert b"new" in scan.found(b"")
    scan.close()


def test_what_stands_only_at_a_destination(asked: Asked) -> None:
    assert asked.ask(Op.TARGET_EMPTY, 0) == [True]
    (asked.destination / "left").write_text("x")
    (asked.destination / "file").write_text("x")
    (asked.destination / "outside").symlink_to("/etc")
    assert asked.ask(Op.TARGET_EMPTY, 0) == [False]
    parts: list[list[Any]] = []
    asked.ask(Op.TARGET_ONLY_THERE, 0, [b"", b"nothing", b"outside", b"way"], parts=parts)
    assert sorted(path for (paths,) in parts for path in paths) == [b"left", b"outside"]
    assert asked.ask(Op.FLUSH, 0) == asked.ask(Op.FLUSH, 1) == [True]


@pytest.mark.parametrize(
    ("op", "values"),
    [
        (Op.TARGET_EMPTY, (1,)),
        (Op.TARGET_ONLY_THERE, (7, [b"a"])),
        (Op.TARGET_ABSENT, (7, [b"a"])),
        (Op.TARGET_COUNT, (7, [b"a"], 1)),
        (Op.FLUSH, (2,)),
    ],
)
def test_targets_that_there_are_not(asked: Asked, op: Op, values: tuple[Any, ...]) -> None:
    with pytest.raises(_Over):
        asked.ask(op, *values)
    assert "a target that there is not" in asked.wait().trouble


# -- comparisons ---------------------------------------------------------------------------------------------------


class Comparing:
    """A target that is compared."""

    def __init__(self, asked: Asked, number: int = 1, target: int = 0) -> None:
        """Have it made ready."""
        self._asked, self._number, self._root = asked, number, asked.root()
        asked.ask(Op.COMPARE_OPEN, number, 0, target)

    def begin(self, *paths: bytes, whole: bool = False, content: bool = False, rate: int = 0) -> None:
        """Ask a question."""
        self._asked.ask(Op.COMPARE, self._number, self._root, self._asked.digest, whole, content, rate)
        if paths:
            told(self._asked, Op.COMPARE_PATHS, self._number, list(paths))

    def found(self, *paths: bytes, whole: bool = False, content: bool = False) -> dict[bytes, Aspect]:
        """Return the answer to a question, all of it."""
        self.begin(*paths, whole=whole, content=content)
        parts: list[list[Any]] = []
        done = False
        while not done:
            done, _, trouble = self._asked.ask(Op.COMPARE_NEXT, self._number, parts=parts)
            assert not trouble
        self._asked.ask(Op.COMPARE_END, self._number)
        return {path: Aspect(one) for paths, aspects, _ in parts for path, one in zip(paths, aspects, strict=True)}


def told(asked: Asked, op: Op, *values: Any, number: int = 0) -> None:
    """Say something, and wait for no answer."""
    asked.runs.sendall(framed(op, Kind.REQUEST, number, pack(SIGNATURES[op].request, *values)))


def comparing_processes() -> list[str]:
    """Return the processes of ours that compare."""
    return [
        pid
        for children in Path("/proc/self/task").glob("*/children")
        for pid in children.read_text().split()
        if b"clsync.handler.compare.child" in Path("/proc", pid, "cmdline").read_bytes()
    ]


def test_it_tells_what_differs(asked: Asked) -> None:
    """All of it, or only of some paths; several questions one after the other."""
    os.utime(asked.source, (1, 1))
    os.utime(asked.destination, (1, 1))
    comparing = Comparing(asked)
    missing = {b"file": Aspect.MISSING, b"way": Aspect.MISSING}
    assert comparing.found(whole=True) == missing
    (asked.destination / "extra").touch()
    os.utime(asked.destination, (1, 1))
    assert comparing.found(whole=True) == missing | {b"extra": Aspect.EXTRA}
    assert comparing.found(b"extra", b"way") == {b"extra": Aspect.EXTRA, b"way": Aspect.MISSING}
    assert comparing.found() == {}
    (asked.destination / "file").write_text("FILE")
    for path in (asked.source, asked.destination):
        os.utime(path / "file", (1, 1))
    assert comparing.found(b"file") == {}
    assert comparing.found(b"file", content=True) == {b"file": Aspect.CONTENT}
    asked.ask(Op.COMPARE_CLOSE, 1)


def test_it_compares_by_the_rules_that_it_has_read(tmp_path: Path) -> None:
    (work := tmp_path / "work").mkdir()
    (rules := tmp_path / "rules").write_text("-f^secret$\n")
    asked = Asked(work, f"-R{rules}")
    (asked.source / "secret").touch()
    found = Comparing(asked).found(whole=True)
    assert b"file" in found
    assert b"secret" not in found
    with pytest.raises(_Over):
        asked.ask(Op.COMPARE, 1, asked.root(), digest_of(Rules()), True, False, 0)
    assert "never given" in asked.wait().trouble


def test_nothing_is_compared_behind_a_symlink(asked: Asked) -> None:
    (asked.destination / "way").symlink_to(asked.source)
    assert Comparing(asked).found(b"way/secret", b"way/file", content=True) == {}


@pytest.mark.parametrize(
    ("op", "values", "why"),
    [
        (Op.COMPARE_OPEN, (2, 99, 0), "settings that there never were"),
        (Op.COMPARE_OPEN, (2, 0, 1), "a target that there is not"),
        (Op.COMPARE_OPEN, (1, 0, 0), "a comparison twice"),
        (Op.COMPARE_NEXT, (2,), "never given"),
        (Op.COMPARE_NEXT, (1,), "an answer to no question"),
        (Op.COMPARE_PATHS, (1, [b"file"]), "paths of no question"),
        (Op.COMPARE, (1, 77, b"", True, False, 0), "never given"),
    ],
)
def test_comparisons_that_nobody_may_make(asked: Asked, op: Op, values: tuple[Any, ...], why: str) -> None:
    asked.ask(Op.COMPARE_OPEN, 1, 0, 0)
    with pytest.raises(_Over):
        asked.ask(op, *values)
    assert why in asked.wait().trouble


@pytest.mark.parametrize(
    ("op", "values", "why"),
    [
        (Op.COMPARE_PATHS, (1, [b"../secret"]), "a path that leads out"),
        (Op.COMPARE_PATHS, (1, [b"a"] * 20), "more paths than there can be"),
        (Op.COMPARE_NEXT, (1,), "two parts at once"),
    ],
)
def test_questions_that_nobody_may_ask(
    asked: Asked, op: Op, values: tuple[Any, ...], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clsync.daemon.comparing._MOST_PATHS", 10)
    Comparing(asked).begin(b"file")
    with end_of(asked, why):
        for number in (1, 2):
            told(asked, op, *values, number=number)
        asked.ask(Op.COMPARE_CLOSE, 1)


def test_two_questions_for_one_comparison(asked: Asked) -> None:
    comparing = Comparing(asked)
    comparing.begin(whole=True)
    with end_of(asked, "two questions"):
        comparing.begin(whole=True)


def test_what_is_not_watched_is_not_compared(tmp_path: Path) -> None:
    (other := tmp_path / "other").mkdir()
    (work := tmp_path / "work").mkdir()
    asked = Asked(work, f"-D{other}")
    asked.ask(Op.COMPARE_OPEN, 1, 0, 0)
    (directory,) = asked.caller.call(Op.OPEN_ROOT, bytes(other))
    with end_of(asked, "to compare what is not watched"):
        asked.ask(Op.COMPARE, 1, directory, asked.digest, True, False, 0)


def test_what_the_handler_alone_knows_is_not_compared(tmp_path: Path) -> None:
    asked = Asked(tmp_path, "-Mdirect", "-S/bin/true", "--state-dir=none")
    with end_of(asked, "the handler alone knows"):
        asked.ask(Op.COMPARE_OPEN, 1, 0, 0)


def test_more_comparisons_than_there_can_be(asked: Asked) -> None:
    """So many may have asked for it: that is no lie."""
    for number in range(8):
        asked.ask(Op.COMPARE_OPEN, number, 0, 0)
    with pytest.raises(OSError, match="too many comparisons"):
        asked.ask(Op.COMPARE_OPEN, 8, 0, 0)
    asked.ask(Op.COMPARE_CLOSE, 0)
    assert b"file" in Comparing(asked, 8).found(whole=True)


def test_settings_that_were_forgotten(asked: Asked) -> None:
    """A question about them may have been on its way."""
    for number in range(1, 6):
        assert asked.ask(Op.PREPARE, ["verbose"], ["1"])[0] == number
        asked.caller.call(Op.ADOPT, number)
    with pytest.raises(OSError, match="the settings were changed"):
        asked.ask(Op.COMPARE_OPEN, 1, 0, 0)
    asked.ask(Op.COMPARE_OPEN, 1, 5, 0)


def test_a_question_is_ended(asked: Asked) -> None:
    """Whoever waits for a part is told that there is none any more; the next question is answered."""
    for name in range(100):
        (asked.source / f"f{name}").touch()
    gc.collect()  # what other tests have left open is not to be closed meanwhile
    before = len(os.listdir("/proc/self/fd"))
    comparing = Comparing(asked)
    comparing.begin(whole=True, rate=1)
    while not asked.ask(Op.COMPARE_NEXT, 1)[1]:
        pass
    assert len(comparing_processes()) == 1
    assert len(os.listdir("/proc/self/fd")) > before + 1
    asked.ask(Op.COMPARE_END, 1)
    assert not comparing_processes()
    # But for the watched directory; pipes are closed in the next turns of the broker's event loop.
    wait_until(lambda: len(os.listdir("/proc/self/fd")) == before + 1, what="the end of all that was opened")
    comparing.begin(whole=True, rate=1)
    told(asked, Op.COMPARE_NEXT, 1, number=9)
    told(asked, Op.COMPARE_END, 1, number=10)
    frames, ended = Frames(), dict[int, list[Any]]()
    while len(ended) < 2:
        while (frame := frames.next()) is None:
            frames.feed(asked.runs.recv(65536))
        if frame.kind == Kind.END:
            ended[frame.number] = unpack(SIGNATURES[Op(frame.op)].end, frame.body)
    assert ended == {9: [True, 0, ""], 10: []}
    assert len(comparing.found(whole=True)) > 100


def test_a_comparison_ends_with_the_worker(asked: Asked) -> None:
    for name in range(100):
        (asked.source / f"f{name}").touch()
    Comparing(asked).begin(whole=True, rate=1)
    told(asked, Op.COMPARE_NEXT, 1, number=1)
    asked.close()
    assert asked.ended == Ended()
    assert not comparing_processes()


class _Steps:
    """Something that could compare for ever."""

    reached = 0

    async def differences(self, question: Question) -> AsyncGenerator[Part, None]:
        while True:
            self.reached += 1
            yield Part([Difference(b"%d" % self.reached, Aspect.SIZE)], self.reached)
            await question.hold()

    async def aclose(self) -> None:
        self.reached = -1


def test_a_comparison_goes_no_further_than_it_is_asked(tmp_path: Path) -> None:
    """Nothing piles up, and where the worker rests the comparison does."""

    async def answered(parts: AsyncGenerator[Sequence[Any], None]) -> list[tuple[Any, ...]]:
        told = [tuple(values) async for values in parts]
        for _ in range(20):
            await asyncio.sleep(0)  # whatever could go on now does
        return told

    async def asked() -> None:
        steps, comparisons = _Steps(), Comparisons()

        async def make() -> _Steps:
            return steps

        await answered(comparisons.open(1, make))
        root = os.open(tmp_path, os.O_RDONLY)
        comparisons.ask(1, Question(root, None))
        os.close(root)
        for number in (1, 2, 3):
            part = [b"%d" % number], [Aspect.SIZE], [1]
            assert await answered(comparisons.next(1)) == [part, (False, number, "")]
            assert steps.reached == number
            assert await answered(comparisons.next(1)) == [(False, 0, "")], "it asks whether to go on"
            assert steps.reached == number
        await comparisons.aclose()
        assert (steps.reached, len(comparisons)) == (-1, 0)

    asyncio.run(asked())


def test_a_destination_that_is_away_is_told(asked: Asked) -> None:
    asked.destination.rename(asked.destination.with_name("elsewhere"))
    asked.destination.mkdir()
    comparing = Comparing(asked)
    comparing.begin(whole=True)
    done, _, trouble = asked.ask(Op.COMPARE_NEXT, 1)
    assert done
    assert "another directory stands there now" in trouble


def test_no_state_no_scanners(tmp_path: Path) -> None:
    (work := tmp_path / "work").mkdir()
    asked = Asked(work, "--state-dir=none")
    with end_of(asked, "a state that there is not"):
        asked.caller.call(Op.STATE_SCAN, asked.root(), True, asked.digest, 0.0)


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
