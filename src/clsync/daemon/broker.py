"""The broker: keeps the rights, looks at the tree, runs what it was configured to run, and believes nobody.

Everything it does for the worker is one of `privilege.wire.Op`. Whatever else it is asked for ends both.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import time
import traceback
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from clsync.core.batch import Batch, Outcome, Verdict
from clsync.core.classify import LinkedFile
from clsync.core.moves import Move, Step
from clsync.core.paths import shown
from clsync.core.rules import Rules
from clsync.daemon.access import Access
from clsync.daemon.answers import Last, Later, WithDescriptors
from clsync.daemon.comparing import Comparisons
from clsync.daemon.handlers import can_compare
from clsync.daemon.hooks import Hook
from clsync.daemon.log import Log
from clsync.daemon.looking import AT_ONCE, listed, looked_at, straight_only
from clsync.daemon.parts import MOST_IN_FLIGHT
from clsync.daemon.permission import demand_free
from clsync.daemon.plan import Plan, one_file_system_level
from clsync.daemon.prepare import DirectPreparation, Prepared, recording
from clsync.daemon.renames import demanded, visible
from clsync.daemon.witness import Witness
from clsync.errors import OperatorError
from clsync.handler.base import Handler, Renamed, Renames
from clsync.handler.compare.base import Question
from clsync.kernel import places
from clsync.kernel.credentials import Ids
from clsync.kernel.files import opened
from clsync.kernel.mounts import devices_shown_twice
from clsync.kernel.ops import Scan
from clsync.monitor.base import Changed, Monitor, Unnamed
from clsync.options import Assignment, Block, Change
from clsync.privilege.looks import packed, packed_plain, packed_records
from clsync.privilege.moves import packed_moves, unpacked_steps
from clsync.privilege.port import Port, error_frame
from clsync.privilege.wire import (
    PATHS_AT_ONCE,
    SIGNATURES,
    STEPS_LIMIT,
    Frame,
    Kind,
    Op,
    Refused,
    framed,
    in_frames,
    pack,
    unpack,
)

if TYPE_CHECKING:
    from clsync.daemon.stateaccess import DirectStateAccess
    from clsync.state.scan import Running

_TURN: Final = 0.01
"""Seconds of work for one question, where it can be cut in parts."""
_ARM_TURN: Final = 0.02
_MOST_DIRECTORIES: Final = 64
"""For one target, as the others: each batch on its way holds one."""
_MOST_HANDLERS: Final = 4 * MOST_IN_FLIGHT
_MOST_TASKS: Final = 2 * _MOST_HANDLERS
_MOST_COMPARISONS: Final = 8
_MOST_MONITORS: Final = 3
_MOST_SCANS: Final = 4
_MOST_SCANNERS: Final = 4
"""Of the whole state (`state.scan.MOST`)."""
_MOST_ENTRIES: Final = 4_000_000
"""In one batch."""
_MOST_BYTES: Final = 1 << 30
"""In the paths of all batches that come in, or are on their way."""
_GENERATIONS: Final = 4
"""Plans that are remembered: the one in force, and what may take its place."""
ENDING: Final = 15.0
"""Seconds in which a worker that was told to end does, if nothing of the operator's keeps it."""
_LOOK: Final = 0.5
_LONGEST_TIME: Final = 20
"""Digits of a time in nanoseconds."""
_WORDS: Final = frozenset(
    (
        "starting",
        "initsync",
        "running",
        "rehashing",
        "hold on",
        "synchandler error",
        "lastsync",
        "preexit",
        "terminating",
        "exiting",
    )
)


@dataclass
class Ended:
    """How the worker ended."""

    code: int | None = None
    """Its exit code; None: it did not say."""
    error: OperatorError | None = None
    """What hindered it."""
    trouble: str = ""
    """What it did that it should not have done."""
    late: bool = False
    """It was told to end, and has not."""


@dataclass
class _Watching:
    """A monitor at work for the worker."""

    monitor: Monitor
    rules: Rules
    arming: Iterator[None] | None = None
    taking: Iterator[Changed] | None = None
    moves: Iterator[Move | None] | None = None
    survivors: Iterator[Unnamed | None] | None = None


class _Listing(NamedTuple):
    """Directories that the worker is told what stands in."""

    root: int
    """Number of what they are below."""
    parts: Generator[Sequence[Any], None, None]


@dataclass
class _Hired:
    """A handler at work for the worker, and the batch that is coming in."""

    handler: Handler | None
    """None while it is being made."""
    gone: bool = False
    """The worker does not want it any more."""
    head: Batch | None = None
    trouble: OSError | None = None
    """Why it cannot be taken."""
    entries: dict[bytes, int] = field(default_factory=dict)
    linked: list[bytes] = field(default_factory=list)
    size: int = 0
    """Bytes of the paths in it; of those at work, too."""
    steps: list[Step] = field(default_factory=list)
    """Changes of names that are coming in."""
    at_work: bool = False
    stopped: bool = False
    """What is at work was told to end."""

    def drop(self) -> None:
        """Forget the batch that is coming in."""
        if self.head is not None:
            os.close(self.head.root)
        self.head, self.trouble, self.entries, self.linked, self.size = None, None, {}, [], 0
        self.steps = []


class Broker:
    """Serves one worker."""

    def __init__(
        self,
        first: Prepared,
        access: Access,
        preparation: DirectPreparation,
        worker: Ids,
        log: Log,
        ready: Callable[[], None],
        state: DirectStateAccess | None = None,
        witness: Witness | None = None,
    ) -> None:
        """`first`: what was made before the worker was. `worker`: who that is. `state`: if he keeps one.

        `witness`: what it hears may be set, and dumped to; without one that is less.
        """
        self._access, self._preparation, self._log, self._ready = access, preparation, log, ready
        self._worker, self._state, self._witness = worker, state, witness
        self._generations = {0: first}
        self._current = self._newest = 0
        self._rules: dict[bytes, Rules] = {}
        self._note_rules(first.plans[0].rules)
        self._directories: dict[int, int] = {}
        """Number that the worker knows -> descriptor."""
        self._sources: set[int] = set()
        """Those of the watched directory: nothing else is handed over."""
        self._watching: dict[int, _Watching] = {}
        self._listings: dict[int, _Listing] = {}
        self._scans: dict[int, Scan | Running] = {}
        self._ending: set[int] = set()
        """Scans that are waited for."""
        self._scanners: set[int] = set()
        """Those of the scans that look at the tree for the state."""
        self._hired: dict[int, _Hired] = {}
        self._asking: set[int] = set()
        """Targets for which somebody is being asked, or was."""
        self._comparisons = Comparisons()
        self._hook: Hook | None = None
        """The one that runs."""
        self._last_number = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._over: asyncio.Event = asyncio.Event()
        self._leaves = False
        self.ended = Ended()
        self._ports: list[Port] = []

    # -- the course of it --------------------------------------------------------------------------------------

    async def serve(self, looks: Any, runs: Any, dismiss: Callable[[], None] = lambda: None) -> Ended:
        """Serve until the worker is gone; then end and give back everything. `looks`, `runs`: sockets.

        `dismiss` is called first then: a worker that goes on may hold what everything else waits for.
        """
        quick = Port(looks, lambda frame: self._take(quick, frame, self._quick), self._end, in_turn=True, takes=True)
        slow = Port(runs, lambda frame: self._take(slow, frame, self._slow), self._end, in_turn=True)
        self._ports = [quick, slow]
        try:
            await self._over.wait()
        finally:
            dismiss()
            await self._close()
        return self.ended

    def expect_end(self) -> None:
        """Be told that the worker was asked to end: it is ended if it does not. More than once is as good as once."""
        if not self._leaves:
            self._leaves = True
            self._begin(self._wait_for_end())

    async def _wait_for_end(self) -> None:
        left = ENDING
        while not self._over.is_set() and left > 0:
            await asyncio.sleep(_LOOK)
            left = ENDING if self._is_waited_for() else left - _LOOK
        if not self._over.is_set():
            self.ended.late = True
            self._end("")

    def _is_waited_for(self) -> bool:
        """Tell whether a worker that is about to end has something to wait for: a hook, or what was told to end."""
        return self._hook is not None or any(hired.at_work and hired.stopped for hired in self._hired.values())

    def _end(self, trouble: str) -> None:
        self.ended.trouble = self.ended.trouble or trouble
        self._over.set()
        for port in self._ports:
            port.close()

    async def _close(self) -> None:
        if self._witness is not None:
            self._witness.close()
        for hired in self._hired.values():
            hired.drop()
            if hired.handler is not None:
                hired.handler.stop()
        self._hook_stop()
        self._access.close()
        self._comparisons.stop()
        if self._state is not None:
            self._state.stop()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for scan in self._scans.values():
            await scan.end(kill=True)
        handlers = [h.handler for h in self._hired.values() if h.handler is not None]
        handlers += [h for p in self._generations.values() for h in p.handlers if h is not None]
        everything: list[Handler | Comparisons] = [self._comparisons, *handlers]
        for left in everything:
            try:
                await left.aclose()
            except (OperatorError, OSError) as error:
                self._log.error(str(error))
        for watching in self._watching.values():
            watching.monitor.close()
        for descriptor in self._directories.values():
            os.close(descriptor)

    # -- questions and answers ---------------------------------------------------------------------------------

    def _take(self, port: Port, frame: Frame, known: dict[Op, Callable[..., Any]]) -> None:
        """Answer a frame; a defect of ours ends both sides, too: nobody waits for what never comes. Raises Refused."""
        try:
            self._answer(port, frame, known)
        except Refused:
            raise
        except Exception as error:  # noqa: BLE001 - see above
            traceback.print_exc()
            self._end(f"{type(error).__name__}: {error}")

    def _answer(self, port: Port, frame: Frame, known: dict[Op, Callable[..., Any]]) -> None:
        try:
            op = Op(frame.op)
        except ValueError:
            raise Refused(f"operation {frame.op}") from None
        work = known.get(op)
        if work is None or frame.kind != Kind.REQUEST:
            raise Refused(f"operation {op.name} by the wrong way")
        values = unpack(SIGNATURES[op].request, frame.body)
        try:
            answer = work(self, *values)
        except (OSError, OperatorError) as error:
            port.send(error_frame(op, frame.number, error))
            return
        if isinstance(answer, Later):
            self._demand_room(self._tasks, _MOST_TASKS)
            if answer.alone:
                port.paused = True
            self._begin(self._answer_later(port, op, frame.number, answer))
        elif answer is not None:
            self._send(port, op, frame.number, answer)

    def _send(self, port: Port, op: Op, number: int, answer: Sequence[Any]) -> None:
        descriptors = answer.descriptors if isinstance(answer, WithDescriptors) else ()
        port.send(framed(op, Kind.END, number, pack(SIGNATURES[op].end, *answer)), descriptors)

    async def _answer_later(self, port: Port, op: Op, number: int, later: Later) -> None:
        try:
            async for values in later.parts:
                if isinstance(values, Last):
                    self._send(port, op, number, values)
                    break
                port.send(framed(op, Kind.MORE, number, pack(SIGNATURES[op].more, *values)))
                await port.drained()
            else:
                self._send(port, op, number, ())
        except (OSError, OperatorError) as error:
            port.send(error_frame(op, number, error))
        finally:
            await later.parts.aclose()
            if later.alone:
                port.resume()

    def _begin(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._end(f"{type(error).__name__}: {error}")

    def _number(self) -> int:
        self._last_number += 1
        return self._last_number

    def _demand_room(self, among: Sized, most: int) -> None:
        """See that there is room for one more; `most`: for one target. Raises Refused."""
        if len(among) >= most * len(self._generations[self._current].plans):
            raise Refused("more than there can be")

    # -- the tree ----------------------------------------------------------------------------------------------

    @property
    def _made(self) -> Plan:
        """What concerns the source is the same in all plans."""
        return self._generations[self._current].plans[0]

    def _open_root(self, path: bytes) -> Sequence[Any]:
        plans = self._generations[self._current].plans
        if path != self._made.root and not any(path in made.directories for made in plans):
            raise Refused(f"to open {shown(path)}")
        self._demand_room(self._directories, _MOST_DIRECTORIES)
        number = self._number()
        self._directories[number] = self._access.ops.open(path)
        if path == self._made.root:
            self._sources.add(number)
        return (number,)

    def _close_root(self, number: int) -> Sequence[Any]:
        os.close(_known(self._directories, number))
        del self._directories[number]
        for left in [key for key, listing in self._listings.items() if listing.root == number]:
            self._listings.pop(left).parts.close()
        self._sources.discard(number)
        return ()

    def _identity(self, number: int) -> Sequence[Any]:
        directory = _known(self._directories, number)
        found = os.fstat(directory)
        return (*self._access.ops.identity(directory), found.st_dev, found.st_nlink)

    def _look(self, number: int, paths: list[bytes]) -> Sequence[Any]:
        return (b"".join(map(packed, looked_at(_known(self._directories, number), paths))),)

    def _look_plain(self, number: int, paths: list[bytes]) -> Sequence[Any]:
        return (packed_plain(looked_at(_known(self._directories, number), paths)),)

    def _look_records(self, number: int, paths: list[bytes]) -> Sequence[Any]:
        return (packed_records(looked_at(_known(self._directories, number), paths)),)

    def _list(self, number: int, paths: list[bytes]) -> Sequence[Any]:
        directory = _known(self._directories, number)
        self._demand_room(self._listings, _MOST_DIRECTORIES)
        listing = self._number()
        self._listings[listing] = _Listing(number, listed(directory, paths))
        return (listing,)

    def _list_next(self, number: int) -> Later:
        listing = _known(self._listings, number)

        async def parts(names: Iterator[Sequence[Any]]) -> AsyncGenerator[Sequence[Any], None]:
            until = time.monotonic() + _TURN
            for part in names:
                yield part
                if time.monotonic() > until:
                    yield Last((False,))
            del self._listings[number]
            yield Last((True,))

        return Later(parts(listing.parts))

    def _shown_twice(self, number: int) -> Sequence[Any]:
        return (list(devices_shown_twice(_known(self._directories, number))),)

    def _scan(self, number: int, options: list[str]) -> WithDescriptors:
        directory = _known(self._directories, number)
        if options not in ([], ["--stat"]) and not (
            len(options) == 2
            and options[0] == "--all"
            and options[1].isdecimal()
            and options[1].isascii()
            and len(options[1]) <= _LONGEST_TIME
        ):
            raise Refused("to scan in a way that there is not")
        self._demand_room(self._scans, _MOST_SCANS)
        scan, number = self._access.ops.scan(directory, options), self._number()
        self._scans[number] = scan
        ends = os.dup(scan.inlet), os.dup(scan.outlet)
        scan.close()
        return WithDescriptors((number,), ends)

    def _scan_end(self, number: int, kill: bool) -> Later:
        scan = _known(self._scans, number)
        if number in self._ending:
            raise Refused("the end of a scan twice")
        self._ending.add(number)

        async def ended() -> AsyncGenerator[Sequence[Any], None]:
            try:
                code = await scan.end(kill)
            finally:
                self._ending.discard(number)
                self._scanners.discard(number)
                del self._scans[number]
            yield Last((code,))

        return Later(ended(), alone=False)

    # -- the state of the worker -------------------------------------------------------------------------------

    def _state_scan(self, record: bool, digest: bytes, since: float) -> WithDescriptors:
        """Start a scanner by our own rules; the worker is only told what it finds, and says where it goes on.

        `since`: see `state.messages.Order`; what it is changes nothing but what the worker will take for sure.
        """
        from clsync.state.messages import COMPARE, RECORD
        from clsync.state.walker import Scope

        rules, state = _known(self._rules, digest), self._demand_state()
        if len(self._scanners) >= _MOST_SCANNERS:
            raise Refused("more scanners than there can be")
        scope = Scope(rules, one_file_system_level(self._made.settings))
        scanner, number = state.start(RECORD if record else COMPARE, scope, since), self._number()
        self._scans[number] = scanner
        self._scanners.add(number)
        return WithDescriptors((number,), (scanner.connection.detach(),))

    def _demand_state(self) -> DirectStateAccess:
        """Return what the state needs. Raises Refused where there is none."""
        if self._state is None:
            raise Refused("something for a state that there is not")
        self._state.follow([plan.local for plan in self._generations[self._current].plans])
        return self._state

    def _target_empty(self, target: int) -> Later:
        state = self._demand_state()
        self._demand_target(target)

        async def told() -> AsyncGenerator[Sequence[Any], None]:
            yield Last((await state.is_empty(target),))

        return Later(told(), alone=False)

    def _target_only_there(self, target: int, directories: list[bytes]) -> Later:
        state = self._demand_state()
        self._demand_target(target)

        async def told() -> AsyncGenerator[Sequence[Any], None]:
            found = await state.only_there(target, directories)
            for part in in_frames(found):
                yield (found[part],)

        return Later(told(), alone=False)

    def _flush(self, target: int) -> Later:
        """Flush the file system of a target, from 1 on, or the watched one (0)."""
        state = self._demand_state()
        if target:
            self._demand_target(target - 1)

        async def flushed() -> AsyncGenerator[Sequence[Any], None]:
            yield Last((await state.flush(target - 1 if target else None),))

        return Later(flushed(), alone=False)

    def _demand_target(self, target: int) -> None:
        if target >= len(self._generations[self._current].plans):
            raise Refused("a target that there is not")

    # -- monitors ----------------------------------------------------------------------------------------------

    def _note_rules(self, rules: Rules) -> bytes:
        digest = digest_of(rules)
        self._rules.pop(digest, None)
        self._rules[digest] = rules
        while len(self._rules) > _GENERATIONS:
            del self._rules[next(iter(self._rules))]
        return digest

    def _read_rules(self) -> Sequence[Any]:
        rules = self._access.read_rules(self._made)
        self._note_rules(rules)
        return (rules.source_text,)

    def _monitor_open(self, digest: bytes) -> WithDescriptors:
        rules = _known(self._rules, digest)
        if len(self._watching) >= _MOST_MONITORS:
            raise Refused("more monitors than there can be")
        number, monitor = self._number(), self._access.open_monitor(self._made, rules)
        self._watching[number] = _Watching(monitor, rules, monitor.arm())
        return WithDescriptors((number,), (os.dup(monitor.fileno()),))

    def _monitor_arm(self, number: int) -> Sequence[Any]:
        watching = _known(self._watching, number)
        until = time.monotonic() + _ARM_TURN
        for _ in watching.arming or ():
            if time.monotonic() > until:
                return (False,)
        watching.arming = None
        return (True,)

    def _monitor_drain(self, number: int) -> Sequence[Any]:
        monitor = _known(self._watching, number).monitor
        filled, due = monitor.drain(), monitor.due()
        return filled, monitor.root_gone(), monitor.looking(), -1.0 if due is None else due, monitor.rest()

    def _monitor_look(self, number: int) -> Sequence[Any]:
        _known(self._watching, number).monitor.begin_look()
        return ()

    def _monitor_describe(self, number: int) -> Sequence[Any]:
        return (_known(self._watching, number).monitor.describe(),)

    def _monitor_take(self, number: int) -> Sequence[Any]:
        watching = _known(self._watching, number)
        watching.taking = watching.monitor.take()
        return ()

    def _monitor_next(self, number: int) -> Later:
        watching = _known(self._watching, number)
        if watching.taking is None:
            raise Refused("a window that nobody took")

        async def parts(taking: Iterator[Changed]) -> AsyncGenerator[Sequence[Any], None]:
            together: dict[int, list[bytes]] = {}
            count, until, done = 0, time.monotonic() + _TURN, True
            for paths, bits in taking:
                together.setdefault(bits, []).extend(paths)
                count += len(paths)
                if count >= PATHS_AT_ONCE or time.monotonic() > until:
                    done = False
                    break
            for bits, found in together.items():
                for part in in_frames(found):
                    yield bits, found[part]
            yield Last((done,))

        return Later(parts(watching.taking))

    def _monitor_moves(self, number: int) -> Sequence[Any]:
        watching = _known(self._watching, number)
        watching.moves = watching.monitor.moves()
        return ()

    def _monitor_next_moves(self, number: int) -> Later:
        watching = _known(self._watching, number)
        if watching.moves is None:
            raise Refused("moves that nobody asked for")

        async def parts(moves: Iterator[Move | None]) -> AsyncGenerator[Sequence[Any], None]:
            until, done, found = time.monotonic() + _TURN, True, list[Move]()
            for move in moves:
                if move is not None:
                    found.append(visible(move, watching.rules))
                if len(found) >= PATHS_AT_ONCE or time.monotonic() > until:
                    done = False
                    break
            for part in packed_moves(found):
                yield part
            yield Last((done,))

        return Later(parts(watching.moves))

    def _monitor_survivors(self, number: int) -> Sequence[Any]:
        watching = _known(self._watching, number)
        watching.survivors = watching.monitor.survivors()
        return ()

    def _monitor_next_survivors(self, number: int) -> Later:
        watching = _known(self._watching, number)
        if watching.survivors is None:
            raise Refused("survivors that nobody asked for")

        async def parts(survivors: Iterator[Unnamed | None]) -> AsyncGenerator[Sequence[Any], None]:
            until, done, found = time.monotonic() + _TURN, True, list[Unnamed]()
            for survivor in survivors:
                if survivor is not None:
                    found.append(survivor)
                if len(found) >= AT_ONCE or time.monotonic() > until:
                    done = False
                    break
            for named in (True, False):
                these = [one for one in found if (one.path is not None) is named]
                yield [n for one in these for n in (*one.file, one.bits)], [one.path or b"" for one in these], named
            yield Last((done,))

        return Later(parts(watching.survivors))

    def _monitor_watch_file(self, number: int, paths: list[bytes], file: list[int]) -> Sequence[Any]:
        if len(paths) != 1 or len(file) != 3:
            raise Refused("a file that is none")
        monitor = _known(self._watching, number).monitor
        try:
            with opened(self._made.root) as root:
                stands = next(looked_at(root, paths)) is not None
        except OSError:
            stands = False  # it is the monitor that tells of a root that is gone
        return (monitor.watch_file(paths[0], LinkedFile(*file)) if stands else 0,)

    def _monitor_compared(self, number: int, paths: list[bytes], since: int) -> Sequence[Any]:
        _known(self._watching, number).monitor.compared(paths, since)
        return ()

    def _monitor_close(self, number: int) -> Sequence[Any]:
        watching = _known(self._watching, number)
        del self._watching[number]
        for work in (watching.arming, watching.taking, watching.moves, watching.survivors):
            if hasattr(work, "close"):
                work.close()
        watching.monitor.close()
        return ()

    # -- files of ours -----------------------------------------------------------------------------------------

    def _status(self, word: str) -> Sequence[Any]:
        if word not in _WORDS:
            raise Refused("a status that there is not")
        self._access.write_status(word)
        return ()

    def _standby(self) -> Sequence[Any]:
        path = self._generations[self._current].parts.standby
        return (path is not None and self._access.stands(path),)

    def _dump(self, directory: bytes | None) -> WithDescriptors:
        if directory is None:
            directory = self._generations[self._current].settings.dump_dir
        elif self._witness is None or not self._witness.has_named(directory):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if directory is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        made = places.make_directory(directory, 0o750)
        try:
            if os.geteuid() == 0:
                os.chown(made, self._worker.uid, self._worker.gid)
        except OSError:
            os.close(made)
            raise
        return WithDescriptors((), (made,))

    def _hear(self) -> WithDescriptors:
        descriptor = self._ports[0].take_descriptor()
        if self._witness is None:
            os.close(descriptor)
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return WithDescriptors((), (self._witness.hear(descriptor),))

    def _is_ready(self) -> Sequence[Any]:
        self._ready()
        return ()

    def _has_ended(self, code: int) -> Sequence[Any]:
        self.ended.code = code & 0xFF
        return ()

    def _has_failed(self, code: int, message: str, hint: str) -> Sequence[Any]:
        self.ended.code, self.ended.error = code & 0xFF, OperatorError(message, hint, code)
        return ()

    # -- handlers and hooks ------------------------------------------------------------------------------------

    def _handler_open(self, number: int, generation: int, target: int) -> Later:
        prepared = _known(self._generations, generation)
        if target >= len(prepared.plans):
            raise Refused("a target that there is not")
        if number in self._hired:
            raise Refused("a handler twice")
        self._demand_room(self._hired, _MOST_HANDLERS)
        # The first one was made with the plan: whatever hinders it was told then.
        hired = self._hired[number] = _Hired(prepared.handlers[target])
        left = [None if at == target else handler for at, handler in enumerate(prepared.handlers)]
        self._generations[generation] = prepared._replace(handlers=left)

        async def opened() -> AsyncGenerator[Sequence[Any], None]:
            handler = hired.handler or await self._access.new_handler(prepared.plans[target])
            if hired.gone:
                await handler.aclose()
                raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
            hired.handler = handler
            await handler.open()
            renames = isinstance(handler, Renames)
            swaps = isinstance(handler, Renames) and handler.swaps
            yield Last((handler.trusts_times, handler.coarse_ns, handler.glues, renames, swaps))

        return Later(opened(), alone=False)

    def _handler_batch(
        self,
        number: int,
        batch: int,
        root: int,
        initial: bool,
        status: str,
        attribute_bytes: int,
        most_deletions: int,
        digest: bytes,
    ) -> None:
        hired, handler = self._resting(number)
        if status not in _WORDS:
            raise Refused("a status that there is not")
        directory, rules = _known(self._directories, root), _known(self._rules, digest)
        if root not in self._sources:
            raise Refused("to hand over what is not watched")
        hired.drop()
        handler.rules = rules if rules else None
        try:
            own = os.dup(directory)  # the worker may give its number back at any time
        except OSError as error:
            hired.trouble = error  # this is not answered, but what comes of the batch is
            return
        most = most_deletions if most_deletions >= 0 else None
        hired.head = Batch(batch, {}, own, initial, status, attribute_bytes=attribute_bytes, most_deletions=most)

    def _handler_entries(self, number: int, paths: list[bytes], flags: list[int]) -> None:
        hired, _ = self._resting(number)
        if len(paths) != len(flags):
            raise Refused("a batch that is none")
        self._make_longer(hired, paths)
        hired.entries.update(zip(paths, flags, strict=True))

    def _handler_linked(self, number: int, paths: list[bytes]) -> None:
        hired, _ = self._resting(number)
        self._make_longer(hired, paths)
        hired.linked += paths

    def _make_longer(self, hired: _Hired, paths: list[bytes]) -> None:
        """See that paths may be added to what comes in. Raises Refused."""
        hired.size += sum(map(len, paths))
        if (
            len(hired.entries) + len(hired.linked) > _MOST_ENTRIES
            or sum(h.size for h in self._hired.values()) > _MOST_BYTES
        ):
            raise Refused("a batch that is too long")

    def _handler_steps(self, number: int, kinds: list[int], sources: list[bytes], targets: list[bytes]) -> None:
        hired, _ = self._resting(number)
        self._make_longer(hired, [*sources, *targets])
        hired.steps += unpacked_steps(kinds, sources, targets)
        if len(hired.steps) > STEPS_LIMIT:
            raise Refused("more steps than there can be")

    def _handler_rename(self, number: int, digest: bytes) -> Later:
        hired, handler = self._resting(number)
        rules, steps = _known(self._rules, digest), hired.steps
        if not isinstance(handler, Renames):
            raise Refused("to rename where nothing can")
        hired.steps, hired.at_work, hired.stopped = [], True, False

        async def renamed() -> AsyncGenerator[Sequence[Any], None]:
            try:
                result = await handler.rename(steps) if demanded(steps, rules) else Renamed(0)
            finally:
                hired.at_work, hired.size = False, 0
            yield Last((result.steps, list(result.made), list(result.left)))

        return Later(renamed(), alone=False)

    def _resting(self, number: int) -> tuple[_Hired, Handler]:
        hired: _Hired = _known(self._hired, number)
        if hired.at_work or hired.handler is None:
            raise Refused("two batches for one handler, or one for none")
        return hired, hired.handler

    def _handler_sync(self, number: int) -> Later:
        hired, handler = self._resting(number)
        head, hired.head = hired.head, None
        if hired.trouble is not None:
            trouble = hired.trouble
            hired.drop()
            raise trouble
        if head is None:
            raise Refused("a batch without a beginning")
        hired.at_work, hired.stopped = True, False
        batch = replace(head, entries=hired.entries, linked=hired.linked)
        hired.entries, hired.linked = {}, []
        return Later(self._synced(hired, handler, batch), alone=False)

    async def _synced(self, hired: _Hired, handler: Handler, batch: Batch) -> AsyncGenerator[Sequence[Any], None]:
        try:
            kept, crooked = await straight_only(batch)
            outcome = await handler.sync(kept) if kept.entries else Outcome(Verdict.DONE)
        finally:
            hired.at_work, hired.size = False, 0
            os.close(batch.root)
        verdict = outcome.verdict
        if crooked and verdict is Verdict.DONE:
            verdict = Verdict.PARTIAL
        failed = outcome.failed
        for what, paths in (
            ("failed", list(failed)),
            ("hopeless", list(outcome.hopeless)),
            ("again", [*outcome.again, *crooked]),
        ):
            reasons = [failed[path] for path in paths] if what == "failed" else []
            for part in in_frames(paths, reasons):
                yield what, paths[part], reasons[part]
        yield Last((verdict.value, outcome.message, outcome.code, outcome.spared))

    def _handler_stop(self, number: int) -> None:
        hired = self._hired.get(number)
        if hired is not None and hired.handler is not None:
            hired.stopped = True
            hired.handler.stop()

    def _handler_close(self, number: int) -> Later:
        hired: _Hired = _known(self._hired, number)
        del self._hired[number]
        hired.drop()

        async def closed() -> AsyncGenerator[Sequence[Any], None]:
            hired.gone = True
            if hired.handler is not None:
                await hired.handler.aclose()
            yield Last(())

        return Later(closed(), alone=False)

    def _hook_run(self, generation: int, option: str, status: str, iteration: int) -> Later:
        prepared = _known(self._generations, generation)
        hook = {"pre-exit-hook": prepared.parts.pre_exit, "exit-hook": prepared.parts.at_exit}.get(option)
        if hook is None or status not in _WORDS:
            raise Refused("a hook that there is not")
        if self._hook is not None:
            raise Refused("two hooks at once")
        self._hook = hook

        async def run() -> AsyncGenerator[Sequence[Any], None]:
            try:
                await hook.run(status, iteration)
            finally:
                self._hook = None
            yield Last(())

        return Later(run(), alone=False)

    def _hook_stop(self) -> None:
        if self._hook is not None:
            self._hook.stop()

    def _ask_to_delete(self, generation: int, target: int, count: int) -> Later:
        prepared = _known(self._generations, generation)
        if target >= len(prepared.plans) or target in self._asking:
            raise Refused("to ask for a target that there is not, or twice")
        self._asking.add(target)

        async def asked() -> AsyncGenerator[Sequence[Any], None]:
            answer = await self._access.ask_to_delete(prepared.plans[target], count)
            if answer is None:
                self._asking.discard(target)
            yield Last((answer is not None, answer is True))

        return Later(asked(), alone=False)

    # -- comparisons -------------------------------------------------------------------------------------------

    def _compare_open(self, number: int, generation: int, target: int) -> Later:
        if generation > self._newest:
            raise Refused("settings that there never were")
        prepared = self._generations.get(generation)
        if prepared is None:
            raise OSError(errno.ESTALE, "the settings were changed")
        if target >= len(prepared.plans):
            raise Refused("a target that there is not")
        made = prepared.plans[target]
        if not can_compare(made):
            raise Refused("to compare what the handler alone knows")
        if len(self._comparisons) >= _MOST_COMPARISONS * len(prepared.plans):
            # No lie: so many may have asked for it.
            raise OSError(errno.EBUSY, "too many comparisons are at work")
        opened = self._comparisons.open(number, lambda: self._access.new_comparison(made))
        return Later(opened, alone=False)

    def _compare(self, number: int, root: int, digest: bytes, whole: bool, content: bool, rate: int) -> Sequence[Any]:
        directory, rules = _known(self._directories, root), _known(self._rules, digest)
        if root not in self._sources:
            raise Refused("to compare what is not watched")
        question = Question(directory, rules if rules else None, None if whole else (), content, rate)
        self._comparisons.ask(number, question)
        return ()

    def _compare_paths(self, number: int, paths: list[bytes]) -> None:
        self._comparisons.add(number, paths)

    def _compare_next(self, number: int) -> Later:
        return Later(self._comparisons.next(number), alone=False)

    def _compare_end(self, number: int) -> Later:
        return Later(self._comparisons.end(number), alone=False)

    def _compare_close(self, number: int) -> Later:
        return Later(self._comparisons.close(number), alone=False)

    # -- other settings ----------------------------------------------------------------------------------------

    def _prepare(self, keys: list[str], texts: list[str]) -> Later:
        if len(keys) != len(texts) or len(keys) > 10_000:
            raise Refused("changes that are none")
        changes = [_change(key, text) for key, text in zip(keys, texts, strict=True)]

        async def prepared() -> AsyncGenerator[Sequence[Any], None]:
            current = self._generations[self._current]
            demand_free(changes, current.settings, self._witness.has_said if self._witness is not None else None)
            files: dict[bytes, bytes | None] = {}
            through = recording(files)
            new = await self._preparation.prepare(changes, current.settings, current.plans, current.parts, through)
            for made, handler in zip(new.plans, new.handlers, strict=True):
                yield handler is not None, *_told(made)
            yield Last((self._note(new), *_told_once(new.plans[0], files)))

        return Later(prepared(), alone=False)

    def _note(self, new: Prepared) -> int:
        """Remember what may be in force soon; return its number."""
        self._newest += 1
        self._generations[self._newest] = new
        self._forget_generations()
        self._note_rules(new.plans[0].rules)
        return self._newest

    def _adopt(self, generation: int) -> Sequence[Any]:
        settings = _known(self._generations, generation).settings
        self._current = generation
        self._log.follow(settings)
        return ()

    def _forget_generations(self) -> None:
        for old in list(self._generations)[:-_GENERATIONS]:
            if old != self._current:
                for dismissed in self._generations.pop(old).handlers:
                    if dismissed is not None:
                        self._begin(dismissed.aclose())

    _quick: Final[dict[Op, Callable[..., Any]]] = {
        Op.OPEN_ROOT: _open_root,
        Op.CLOSE_ROOT: _close_root,
        Op.IDENTITY: _identity,
        Op.LOOK: _look,
        Op.LOOK_PLAIN: _look_plain,
        Op.LOOK_RECORDS: _look_records,
        Op.LIST: _list,
        Op.LIST_NEXT: _list_next,
        Op.SHOWN_TWICE: _shown_twice,
        Op.SCAN: _scan,
        Op.STATE_SCAN: _state_scan,
        Op.RULES: _read_rules,
        Op.STATUS: _status,
        Op.STANDBY: _standby,
        Op.DUMP: _dump,
        Op.HEAR: _hear,
        Op.ADOPT: _adopt,
        Op.MONITOR_OPEN: _monitor_open,
        Op.MONITOR_ARM: _monitor_arm,
        Op.MONITOR_LOOK: _monitor_look,
        Op.MONITOR_DRAIN: _monitor_drain,
        Op.MONITOR_DESCRIBE: _monitor_describe,
        Op.MONITOR_TAKE: _monitor_take,
        Op.MONITOR_NEXT: _monitor_next,
        Op.MONITOR_MOVES: _monitor_moves,
        Op.MONITOR_NEXT_MOVES: _monitor_next_moves,
        Op.MONITOR_SURVIVORS: _monitor_survivors,
        Op.MONITOR_NEXT_SURVIVORS: _monitor_next_survivors,
        Op.MONITOR_WATCH_FILE: _monitor_watch_file,
        Op.MONITOR_COMPARED: _monitor_compared,
        Op.MONITOR_CLOSE: _monitor_close,
        Op.READY: _is_ready,
        Op.ENDED: _has_ended,
        Op.FAILED: _has_failed,
    }
    """What is answered at once, one question after the other."""
    _slow: Final[dict[Op, Callable[..., Any]]] = {
        Op.SCAN_END: _scan_end,
        Op.TARGET_EMPTY: _target_empty,
        Op.TARGET_ONLY_THERE: _target_only_there,
        Op.FLUSH: _flush,
        Op.HANDLER_OPEN: _handler_open,
        Op.HANDLER_BATCH: _handler_batch,
        Op.HANDLER_ENTRIES: _handler_entries,
        Op.HANDLER_LINKED: _handler_linked,
        Op.HANDLER_SYNC: _handler_sync,
        Op.HANDLER_STEPS: _handler_steps,
        Op.HANDLER_RENAME: _handler_rename,
        Op.HANDLER_STOP: _handler_stop,
        Op.HANDLER_CLOSE: _handler_close,
        Op.HOOK_RUN: _hook_run,
        Op.HOOK_STOP: _hook_stop,
        Op.ASK_TO_DELETE: _ask_to_delete,
        Op.PREPARE: _prepare,
        Op.COMPARE_OPEN: _compare_open,
        Op.COMPARE: _compare,
        Op.COMPARE_PATHS: _compare_paths,
        Op.COMPARE_NEXT: _compare_next,
        Op.COMPARE_END: _compare_end,
        Op.COMPARE_CLOSE: _compare_close,
    }
    """What is answered when it is done; where nothing is to be answered, it is only told."""


def digest_of(rules: Rules) -> bytes:
    """Return what rules are known by: the worker can only choose among those that the broker has read.

    Those that let everything through are as good as none.
    """
    return hashlib.sha256(rules.source_text if rules else b"").digest()


def _known(among: dict[Any, Any], number: Any) -> Any:
    """Return what the worker was given. Raises Refused."""
    try:
        return among[number]
    except KeyError:
        raise Refused("something that it was never given") from None


def _told(made: Plan) -> Sequence[Any]:
    """Return what the worker is told of a plan."""
    destination, given = made.destination, made.given
    return (
        *(made.name, made.mode, made.why, made.program, made.arguments),
        *(destination.text if destination is not None else None, given.text if given is not None else None),
        made.local,
    )


def _told_once(made: Plan, files: Mapping[bytes, bytes | None]) -> Sequence[Any]:
    """Return what the worker is told of all plans; `files`: what was read for them."""
    names = [os.fsdecode(name) for name in files]
    return made.root, made.rules_read, made.rules.source_text, names, list(files.values())


def _change(key: str, text: str) -> Change:
    value = text.encode("utf-8", "surrogateescape")
    return Assignment(key, value) if key else Block(value)
