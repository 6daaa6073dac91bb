"""The worker's side: all that takes rights is asked of the broker. Nothing else in the pipeline knows of it."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import socket
import stat
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NoReturn

from clsync.core.batch import Batch, Outcome, Verdict
from clsync.core.classify import LinkedFile, Plain, Stat
from clsync.core.listing import YOUNG_NS, Records
from clsync.core.moves import Move, Step
from clsync.core.paths import ancestors, join
from clsync.core.rules import Rules
from clsync.daemon.broker import digest_of
from clsync.daemon.build import make_parts
from clsync.daemon.dump import State, fill_dump
from clsync.daemon.hooks import Hook
from clsync.daemon.log import Log
from clsync.daemon.parts import Parts
from clsync.daemon.plan import Plan, for_each_destination
from clsync.daemon.prepare import Prepared, Reload, with_what_stays
from clsync.daemon.remotecompare import RemoteComparison
from clsync.handler.base import Handler, HostNews, PathRules, Renamed
from clsync.handler.compare.base import Comparison, ComparisonFailed
from clsync.handler.rsync import Target
from clsync.kernel import places
from clsync.kernel.ops import Identity, KernelOps, Looks, Scan
from clsync.kernel.slices import in_steps
from clsync.monitor.base import Changed, Monitor, Unnamed
from clsync.options import Assignment, Change, Settings
from clsync.privilege.looks import Seen, unpacked, unpacked_plain, unpacked_records
from clsync.privilege.moves import packed_steps, unpacked_moves
from clsync.privilege.port import Caller, Port, raise_error
from clsync.privilege.wire import SIGNATURES, STEPS_LIMIT, Frame, Kind, Op, Refused, framed, in_frames, pack, unpack

if TYPE_CHECKING:
    from clsync.daemon.remotestate import OneThread
    from clsync.daemon.stateaccess import StateAccess

_LISTED_AT_ONCE: Final = 32
_REMEMBERED: Final = 65_536


class Calls:
    """Asks for what takes time: answers come when they are there."""

    def __init__(self, sock: Any, gone: Callable[[], NoReturn]) -> None:
        """`gone` is called where nobody answers any more."""
        self._socket, self._gone = sock, gone
        self._port: Port | None = None
        self._numbers = itertools.count(1)
        self._waiting: dict[int, tuple[Op, asyncio.Future[list[Any]], list[list[Any]]]] = {}

    def tell(self, op: Op, *values: Any) -> None:
        """Say something that is not answered."""
        self._send(op, 0, values)

    async def drained(self) -> None:
        """Wait until what was said is taken."""
        if self._port is not None:
            await self._port.drained()

    async def call(self, op: Op, *values: Any, parts: list[list[Any]] | None = None) -> list[Any]:
        """Ask; return the values of the end of the answer. Raises OSError and OperatorError, as the broker did."""
        number = next(self._numbers)
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = op, future, [] if parts is None else parts
        self._send(op, number, values)
        return await future

    def _send(self, op: Op, number: int, values: Sequence[Any]) -> None:
        if self._port is None:
            self._port = Port(self._socket, self._received, lambda trouble: self._gone())
        self._port.send(framed(op, Kind.REQUEST, number, pack(SIGNATURES[op].request, *values)))

    def _received(self, frame: Frame) -> None:
        op, future, parts = self._waiting.get(frame.number, (None, None, None))
        if op != frame.op or future is None or parts is None:
            raise Refused("an answer to something else, or to nothing")
        if frame.kind == Kind.MORE:
            parts.append(unpack(SIGNATURES[op].more, frame.body))
            return
        del self._waiting[frame.number]
        if future.done():
            return  # nobody waits any more
        if frame.kind == Kind.END:
            future.set_result(unpack(SIGNATURES[op].end, frame.body))
            return
        try:
            raise_error(frame)
        except Refused:
            raise
        except Exception as error:  # noqa: BLE001 - it is handed on to who asked
            future.set_exception(error)


# -- the tree --------------------------------------------------------------------------------------------------


class RemoteOps:
    """Looks at the tree through the broker (see `KernelOps`)."""

    def __init__(self, caller: Caller, calls: Calls) -> None:
        """`caller` and `calls`: the ways to it."""
        self._caller, self._calls = caller, calls

    def open(self, path: bytes) -> int:
        """Have a directory opened. Raises OSError."""
        (number,) = self._caller.call(Op.OPEN_ROOT, path)
        return int(number)

    def close(self, directory: int) -> None:
        """Give it back."""
        self._caller.call(Op.CLOSE_ROOT, directory)

    def identity(self, directory: int) -> Identity:
        """Return what an open directory is known by. Raises OSError."""
        return Identity(*self._caller.call(Op.IDENTITY, directory)[:3])

    def is_linked(self, directory: int) -> bool:
        """Tell whether an open directory has a name still."""
        return bool(self._caller.call(Op.IDENTITY, directory)[4])

    def device(self, directory: int) -> int:
        """Return its device number."""
        return int(self._caller.call(Op.IDENTITY, directory)[3])

    def looks(self, directory: int) -> Looks:
        """Return lstat for paths relative to it."""
        return _RemoteLooks(self._caller, directory)

    def walk(
        self, directory: int, top: bytes, enter: Callable[[bytes], bool], one_file_system: bool
    ) -> Iterator[tuple[bytes, Stat]]:
        """Yield everything below."""
        device = None
        if one_file_system:
            found = self.looks(directory).lstat(top)
            device = found.st_dev if found is not None else None
        pending = [top]
        while pending:
            tops = [pending.pop() for _ in range(min(len(pending), _LISTED_AT_ONCE))]
            for number, name, seen in self._listed(directory, tops):
                path = join(tops[number], name)
                yield path, seen
                if stat.S_ISDIR(seen.st_mode) and (device is None or seen.st_dev == device) and enter(path):
                    pending.append(path)

    def entries(self, directory: int, path: bytes) -> dict[bytes, Seen]:
        """Return what stands in one directory, as far as it stands there still. Raises OSError."""
        found: dict[bytes, Seen] = {}
        (listing,) = self._caller.call(Op.LIST, directory, [path])
        done = False
        while not done:
            parts, (done,) = self._caller.collect(Op.LIST_NEXT, listing)
            for _, trouble, names, records in parts:
                _raise_for(trouble, path)
                for name, seen in zip(names, unpacked(records, len(names)), strict=True):
                    if seen.errno != errno.ENOENT:
                        _raise_for(seen.errno, join(path, name))
                        found[name] = seen
        return found

    def _listed(self, directory: int, tops: list[bytes]) -> Iterator[tuple[int, bytes, Seen]]:
        """Yield what stands in directories: the number of the directory, the name, its lstat."""
        (listing,) = self._caller.call(Op.LIST, directory, tops)
        done = False
        while not done:
            parts, (done,) = self._caller.collect(Op.LIST_NEXT, listing)
            for number, _, names, records in parts:
                for name, seen in zip(names, unpacked(records, len(names)), strict=True):
                    if not seen.errno:
                        yield number, name, seen

    def devices_shown_twice(self, directory: int) -> set[int]:
        """Return the devices that are shown twice."""
        return set(self._caller.call(Op.SHOWN_TWICE, directory)[0])

    def scan(self, directory: int, options: Sequence[str]) -> Scan:
        """Have a search started. Raises OSError."""
        (number,) = self._caller.call(Op.SCAN, directory, list(options))
        return _RemoteScan(self._calls, number, *self._caller.descriptors)


def _raise_for(number: int, path: bytes) -> None:
    """Raise the OSError of an error number, if it is one."""
    if number:
        raise OSError(number, os.strerror(number), path)


class _RemoteLooks(Looks):
    """lstat of the broker, for many paths at once where they are known before."""

    at_once = 4096

    def __init__(self, caller: Caller, directory: int) -> None:
        super().__init__(self._lstat, self._plain)
        self._caller, self._directory = caller, directory
        self._records: Records | None = None
        self._seen: dict[bytes, Seen] = {}
        """What will be asked for."""
        self._above: dict[bytes, Seen] = {}
        """Directories that were looked at: for one batch once is enough."""

    def expect(self, paths: Collection[bytes]) -> None:
        """Look at paths, and at the directories above them."""
        above: set[bytes] = set()
        for directory in {path.rpartition(b"/")[0] for path in paths}:
            if directory and directory not in self._above:
                above.add(directory)
                above.update(up for up in ancestors(directory) if up not in self._above)
        if len(self._above) > _REMEMBERED:
            self._above.clear()
        self._seen = self._look(list(paths))
        self._above |= self._look(sorted(above))

    def _look(self, paths: list[bytes]) -> dict[bytes, Seen]:
        found: dict[bytes, Seen] = {}
        for part in in_frames(paths):
            these = paths[part]
            (records,) = self._caller.call(Op.LOOK, self._directory, these)
            found.update(zip(these, unpacked(records, len(these)), strict=True))
        return found

    def _found(self, path: bytes) -> Seen:
        seen = self._seen.get(path) or self._above.get(path)
        return seen if seen is not None else self._look([path])[path]

    def _plain(self, paths: Sequence[bytes], real: set[bytes]) -> Iterator[Plain]:
        for part in in_frames(paths):
            these = paths[part]
            if self._records is None:
                (records,) = self._caller.call(Op.LOOK_PLAIN, self._directory, these)
                yield from unpacked_plain(records, len(these))
            else:
                young_ns = time.time_ns() - YOUNG_NS
                (records,) = self._caller.call(Op.LOOK_RECORDS, self._directory, these)
                yield from unpacked_records(records, these, young_ns, self._records)

    def note(self, records: Records) -> None:
        """Be told where to note what `plain` sees."""
        self._records = records

    def _lstat(self, path: bytes) -> Seen | None:
        seen = self._found(path)
        if seen.errno == errno.ENOENT:
            return None
        _raise_for(seen.errno, path)
        return seen


class _RemoteScan:
    """A search that the broker has started (see `Scan`)."""

    def __init__(self, calls: Calls, number: int, inlet: int, outlet: int) -> None:
        self._calls, self._number, self.inlet, self.outlet = calls, number, inlet, outlet

    def end_input(self) -> None:
        """Close its standard input."""
        if self.inlet >= 0:
            os.close(self.inlet)
            self.inlet = -1

    async def end(self, kill: bool) -> int:
        """Wait for its end."""
        self.close()
        (code,) = await self._calls.call(Op.SCAN_END, self._number, kill)
        return int(code)

    def close(self) -> None:
        """Give the pipes back."""
        self.end_input()
        if self.outlet >= 0:
            os.close(self.outlet)
            self.outlet = -1


# -- the monitor -----------------------------------------------------------------------------------------------


class RemoteMonitor:
    """A monitor of the broker's: it reads what the kernel tells, and names what was changed (see `Monitor`)."""

    def __init__(self, caller: Caller, rules: Rules) -> None:
        """Have it made. Raises OperatorError, OSError."""
        self._caller = caller
        (self._number,) = caller.call(Op.MONITOR_OPEN, digest_of(rules))
        (self._descriptor,) = caller.descriptors
        self._root_gone, self._looking, self._due, self._rest = False, False, -1.0, 0.0

    def arm(self) -> Iterator[None]:
        """Start watching (see `Monitor`)."""
        while not self._call(Op.MONITOR_ARM)[0]:
            yield

    def fileno(self) -> int:
        """Return a descriptor that is readable whenever `drain` has something to do."""
        return self._descriptor

    def root_gone(self) -> bool:
        """Tell whether the root was gone when `drain` was called last."""
        return self._root_gone

    def describe(self) -> str:
        """Return what watches which file system, and why."""
        return str(self._call(Op.MONITOR_DESCRIBE)[0])

    def due(self) -> float | None:
        """Return when `drain` wants to be called."""
        return self._due if self._due >= 0 else None

    def begin_look(self) -> None:
        """Begin to look at everything again (see `Monitor`)."""
        self._call(Op.MONITOR_LOOK)
        self._looking = True

    def looking(self) -> bool:
        """Tell whether that look went on when `drain` was called last."""
        return self._looking

    def rest(self) -> float:
        """Return for how long events may gather in the kernel, as things were when `drain` was called last."""
        return self._rest

    def drain(self) -> bool:
        """Fold what the kernel has (see `Monitor`)."""
        filled, self._root_gone, self._looking, self._due, self._rest = self._call(Op.MONITOR_DRAIN)
        return bool(filled)

    def take(self) -> Iterator[Changed]:
        """End the window (see `Monitor`)."""
        self._call(Op.MONITOR_TAKE)
        return self._named()

    def _named(self) -> Iterator[Changed]:
        done = False
        while not done:
            parts, (done,) = self._caller.collect(Op.MONITOR_NEXT, self._number)
            yield from ((paths, bits) for bits, paths in parts)
            if not parts:
                yield [], 0

    def moves(self) -> Iterator[Move | None]:
        """Yield what was moved in the window that `take` ended (see `Monitor`)."""
        self._call(Op.MONITOR_MOVES)
        done = False
        while not done:
            parts, (done,) = self._caller.collect(Op.MONITOR_NEXT_MOVES, self._number)
            for part in parts:
                yield from unpacked_moves(*part)
            yield None

    def survivors(self) -> Iterator[Unnamed | None]:
        """Yield files that were changed through a name which is gone (see `Monitor`)."""
        self._call(Op.MONITOR_SURVIVORS)
        done = False
        while not done:
            parts, (done,) = self._caller.collect(Op.MONITOR_NEXT_SURVIVORS, self._number)
            for numbers, paths, named in parts:
                files = zip(*[iter(numbers)] * 4, strict=True)
                for (dev, ino, nlink, bits), path in zip(files, paths, strict=True):
                    yield Unnamed(LinkedFile(dev, ino, nlink), path if named else None, bits)
            yield None

    def watch_file(self, path: bytes, file: LinkedFile) -> int:
        """Hear of changes to a file with several names (see `Monitor`)."""
        return int(self._caller.call(Op.MONITOR_WATCH_FILE, self._number, [path], list(file))[0])

    def compared(self, directories: Iterable[bytes], since_ns: int) -> None:
        """Take note of what was handed over whole (see `Monitor`)."""
        listed = list(directories)
        for part in in_frames(listed):
            self._caller.call(Op.MONITOR_COMPARED, self._number, listed[part], since_ns)

    def close(self) -> None:
        """Give everything back."""
        self._call(Op.MONITOR_CLOSE)
        os.close(self._descriptor)

    def _call(self, op: Op) -> list[Any]:
        return self._caller.call(op, self._number)


# -- handlers and hooks ----------------------------------------------------------------------------------------


class RemoteHandler:
    """A handler of the broker's (see `Handler`)."""

    def __init__(self, calls: Calls, number: int, generation: int, target: int) -> None:
        """`generation`: of the plans that it follows; `target`: the number of the one among them."""
        self._calls, self._number, self._generation, self._target = calls, number, generation, target
        self._opened = False
        self.rules: PathRules | None = None
        self.trusts_times, self.coarse_ns = False, 0
        self.glues: bytes | None = None
        self._renames = self.swaps = False

    async def open(self) -> None:
        """Have it made ready. Raises OperatorError."""
        self._opened = True
        answer = await self._calls.call(Op.HANDLER_OPEN, self._number, self._generation, self._target)
        self.trusts_times, self.coarse_ns, self.glues, self._renames, self.swaps = answer

    async def sync(self, batch: Batch) -> Outcome:
        """Hand a batch over."""
        number = self._number
        most = -1 if batch.most_deletions is None else batch.most_deletions
        head = (batch.number, batch.root, batch.initial, batch.status, batch.attribute_bytes, most, self._digest())
        self._calls.tell(Op.HANDLER_BATCH, number, *head)
        paths, flags, linked = list(batch.entries), list(batch.entries.values()), list(batch.linked)
        for part in in_frames(paths):
            self._calls.tell(Op.HANDLER_ENTRIES, number, paths[part], flags[part])
            await self._calls.drained()
        for part in in_frames(linked):
            self._calls.tell(Op.HANDLER_LINKED, number, linked[part])
            await self._calls.drained()
        parts: list[list[Any]] = []
        try:
            verdict, message, code, spared = await self._calls.call(Op.HANDLER_SYNC, number, parts=parts)
        except OSError as error:
            return Outcome(Verdict.UNWELL, message=str(error), code=error.errno or 1)
        failed: dict[bytes, str] = {}
        others: dict[str, set[bytes]] = {"hopeless": set(), "again": set()}
        for what, those, reasons in parts:
            if what == "failed":
                failed.update(zip(those, reasons, strict=True))
            else:
                others[what].update(those)
        return Outcome(
            Verdict(verdict), failed, frozenset(others["hopeless"]), frozenset(others["again"]), message, code, spared
        )

    async def rename(self, steps: Sequence[Step]) -> Renamed:
        """Have names changed at the destination (see `handler.base.Renames`)."""
        if not self._renames or len(steps) > STEPS_LIMIT:
            return Renamed(0)
        for part in packed_steps(steps):
            self._calls.tell(Op.HANDLER_STEPS, self._number, *part)
            await self._calls.drained()
        done, made, left = await self._calls.call(Op.HANDLER_RENAME, self._number, self._digest())
        return Renamed(done, frozenset(made), tuple(left))

    async def ask_host(self, *, flush: bool) -> HostNews:
        """Have the host of the target asked (see `handler.base.AsksHost`)."""
        if not self._opened:
            return HostNews(b"")
        try:
            boot, flushed = await self._calls.call(Op.HANDLER_HOST, self._number, flush)
        except OSError:
            return HostNews(b"")
        return HostNews(boot, flushed)

    def _digest(self) -> bytes:
        assert self.rules is None or isinstance(self.rules, Rules)
        return digest_of(self.rules if self.rules is not None else Rules())

    def stop(self) -> None:
        """End the run at work."""
        if self._opened:
            self._calls.tell(Op.HANDLER_STOP, self._number)

    async def aclose(self) -> None:
        """Give everything back. Raises OperatorError."""
        if self._opened:
            self._opened = False
            await self._calls.call(Op.HANDLER_CLOSE, self._number)


class RemoteHook:
    """A hook of the broker's (see `Hook`)."""

    def __init__(self, calls: Calls, generation: Callable[[], int | None], option: str) -> None:
        """`option`: the name of the option that says what is run; `generation`: that of the settings in force.

        It returns None where these say that nothing is run.
        """
        self._calls, self._generation, self._option = calls, generation, option
        self._runs = False

    async def run(self, status: str, iteration: int) -> None:
        """Have it run to its end."""
        generation = self._generation()
        if generation is None:
            return
        self._runs = True
        try:
            await self._calls.call(Op.HOOK_RUN, generation, self._option, status, iteration)
        finally:
            self._runs = False

    def stop(self) -> None:
        """End it, if it runs."""
        if self._runs:
            self._calls.tell(Op.HOOK_STOP)


# -- everything else -------------------------------------------------------------------------------------------


class RemoteAccess:
    """Asks the broker (see `Access`, `Preparation`)."""

    def __init__(
        self,
        caller: Caller,
        calls: Calls,
        settings: Settings,
        plans: Sequence[Plan],
        reload: Reload,
        log: Log,
        thread: OneThread | None,
    ) -> None:
        """`settings`, `plans`: those that broker and worker have in common from the beginning.

        `thread`: for what the state has to wait for, if there is one.
        """
        self._ops = RemoteOps(caller, calls)
        self.ops: KernelOps = self._ops
        self._caller, self._calls, self._reload, self._log = caller, calls, reload, log
        self._thread = thread
        self._handlers, self._comparisons = itertools.count(1), itertools.count(1)
        self._generations = [(plans, 0)]
        self._settings, self._current = settings, 0

    def open_monitor(self, made: Plan, rules: Rules) -> Monitor:
        """Return what watches the tree, not armed yet. Raises OperatorError, OSError."""
        return RemoteMonitor(self._caller, rules)

    def first_handlers(self) -> list[Handler]:
        """Return the handlers of the plans of the beginning."""
        return [self._handler(made) for made in self._generations[0][0]]

    async def new_handler(self, made: Plan) -> Handler:
        """Return another handler of a plan. Raises OSError where the settings have changed too often since then."""
        return self._handler(made)

    def _handler(self, made: Plan) -> Handler:
        return RemoteHandler(self._calls, next(self._handlers), *self._place(made))

    async def new_comparison(self, made: Plan) -> Comparison:
        """Return what compares the target of a plan with the source. Raises OperatorError, ComparisonFailed."""
        comparison = RemoteComparison(self._calls, next(self._comparisons))
        try:
            await comparison.open(*self._place(made))
        except OSError as error:
            raise ComparisonFailed(f"it cannot be compared now: {error.strerror}") from None
        return comparison

    def hook(self, made: Plan, option: str) -> Hook | None:
        """Return the hook that an option names, if it names one."""
        name = option.replace("-", "_")

        def generation() -> int | None:
            return self._current if getattr(self._settings, name) is not None else None

        return RemoteHook(self._calls, generation, option) if getattr(made.settings, name) is not None else None

    def read_rules(self, made: Plan) -> Rules:
        """Have the rules file read. Raises OperatorError."""
        (text,) = self._caller.call(Op.RULES)
        return Rules.parse(text)

    def write_status(self, word: str) -> None:
        """Have the status file written. Raises OperatorError."""
        self._caller.call(Op.STATUS, word)

    def stands(self, path: bytes) -> bool:
        """Tell whether something stands at the path of the standby file."""
        return bool(self._caller.call(Op.STANDBY)[0])

    async def write_dump(self, directory: bytes, states: Sequence[State], *, asked: bool) -> None:
        """Write states into the directory of --dump-dir, or one that nobody may make. Raises OSError."""
        own = directory == self._settings.dump_dir
        if own or self._settings.split_by_default:
            self._caller.call(Op.DUMP, None if own else directory)
            (made,) = self._caller.descriptors
        else:
            made = places.make_directory(directory, 0o750)
        try:
            await in_steps(fill_dump(made, states))
        finally:
            os.close(made)

    def heard(self, connection: int) -> socket.socket | None:
        """Let the broker hear what a client says who may ask for changes: else it does none for him."""
        if not self._settings.split_by_default:
            return None
        try:
            self._caller.call(Op.HEAR, descriptor=connection)
        except OSError:
            return None
        (where,) = self._caller.descriptors
        return socket.socket(fileno=where)

    async def ask_to_delete(self, made: Plan, count: int) -> bool | None:
        """Have it asked at the terminal whether so many entries may go; None: nobody is there."""
        try:
            somebody, yes = await self._calls.call(Op.ASK_TO_DELETE, *self._place(made), count)
        except OSError:
            return None
        return bool(yes) if somebody else None

    def close(self) -> None:
        """Leave it to the broker, which waits for no answer any more when the worker is gone."""

    def for_state(self, made: Plan) -> StateAccess:
        """Return what the state of a source needs."""
        from clsync.daemon.remotestate import RemoteStateAccess  # late: it needs a database

        assert self._thread is not None
        return RemoteStateAccess(self._caller, self._calls, self._ops, self._thread)

    async def prepare(
        self, changes: Sequence[Change], settings: Settings, plans: Sequence[Plan], parts: Parts
    ) -> Prepared:
        """Lay changes over all that was written. Raises OperatorError."""
        keys = [change.key if isinstance(change, Assignment) else "" for change in changes]
        values = [change.text if isinstance(change, Assignment) else change.name for change in changes]
        texts = [value.decode("utf-8", "surrogateescape") for value in values]
        each: list[list[Any]] = []
        answer = await self._calls.call(Op.PREPARE, keys, texts, parts=each)
        generation, root, rules_read, rules, names, contents = answer
        files = dict(zip(map(os.fsencode, names), contents, strict=True))
        new = with_what_stays(self._reload(changes, lambda read_file: files.__getitem__), settings, self._log)
        common = {"root": root, "rules": Rules.parse(rules), "rules_read": rules_read}
        made = [
            _plan(old, one, common, values)
            for old, one, values in zip(plans, for_each_destination(new), each, strict=True)
        ]
        current = [old for old in self._generations[:-3] if old[1] == self._current]
        self._generations = [*current, *self._generations[-3:], (made, generation)]
        handlers = [self._handler(one) if values[0] else None for one, values in zip(made, each, strict=True)]
        return Prepared(new, made, make_parts(made, self), handlers)

    def adopt(self, prepared: Prepared) -> None:
        """Be told what is in force."""
        self._settings, (self._current, _) = prepared.settings, self._place(prepared.plans[0])
        self._caller.call(Op.ADOPT, self._current)  # with an answer: what is asked next is about these

    def _place(self, made: Plan) -> tuple[int, int]:
        """Return the generation of a plan, and its number among the plans of that. Raises OSError: it is too old."""
        for plans, generation in self._generations:
            for number, plan in enumerate(plans):
                if plan is made:
                    return generation, number
        raise OSError(errno.ESTALE, "the settings were changed")


def _plan(old: Plan, settings: Settings, common: Mapping[str, Any], values: Sequence[Any]) -> Plan:
    """Return what the broker has made of settings for one destination."""
    _, name, mode, why, program, arguments, destination, given, local = values
    return replace(
        old, settings=settings, name=name, mode=mode, why=why, program=program, arguments=arguments, local=local,
        destination=Target(destination) if destination is not None else None,
        given=Target(given) if given is not None else None, **common,
    )  # fmt: skip
