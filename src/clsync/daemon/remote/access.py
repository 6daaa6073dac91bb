"""All that a worker asks for (see `daemon.access`)."""

from __future__ import annotations

import errno
import itertools
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from clsync.core.rules import Rules
from clsync.daemon.build import make_parts
from clsync.daemon.dump import State, fill_dump
from clsync.daemon.hooks import Hook
from clsync.daemon.log import Log
from clsync.daemon.parts import Parts
from clsync.daemon.plan import Plan, for_each_destination
from clsync.daemon.prepare import Prepared, Reload, with_what_stays
from clsync.daemon.remote.calls import Calls
from clsync.daemon.remote.compare import RemoteComparison
from clsync.daemon.remote.handlers import RemoteHandler, RemoteHook
from clsync.daemon.remote.monitor import RemoteMonitor
from clsync.daemon.remote.tree import RemoteOps
from clsync.handler.base import Handler
from clsync.handler.compare.base import Comparison, ComparisonFailed
from clsync.handler.rsync import Target
from clsync.kernel.ops import KernelOps
from clsync.kernel.slices import in_steps
from clsync.monitor.base import Monitor
from clsync.options import Assignment, Change, Settings
from clsync.privilege.port import Caller
from clsync.privilege.wire import Op

if TYPE_CHECKING:
    from clsync.daemon.remote.state import OneThread
    from clsync.daemon.stateaccess import StateAccess


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
        """Write states into the directory of --dump-dir, or one that root has named at the socket. Raises OSError."""
        with closing(_RemoteDump(self._caller, None if directory == self._settings.dump_dir else directory)) as place:
            await in_steps(fill_dump(place, states))

    def heard(self, connection: int) -> socket.socket | None:
        """Let the broker hear what root says: it does for nobody else what concerns more than times and messages."""
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

    def for_state(self, made: Plan) -> StateAccess:
        """Return what the state of a source needs."""
        from clsync.daemon.remote.state import RemoteStateAccess  # late: it needs a database

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


class _RemoteDump:
    """The directory of a dump, at the broker (see `daemon.dump.Place`)."""

    def __init__(self, caller: Caller, directory: bytes | None) -> None:
        """Have it made; None: that of --dump-dir. Raises OSError."""
        self._caller = caller
        (self._number,) = caller.call(Op.DUMP, directory)

    def directory(self, name: bytes) -> None:
        """Have a directory made there. Raises OSError."""
        self._caller.call(Op.DUMP_DIRECTORY, self._number, name)

    def file(self, name: bytes) -> int:
        """Return a descriptor of a new file there. Raises OSError."""
        self._caller.call(Op.DUMP_FILE, self._number, name)
        (descriptor,) = self._caller.descriptors
        return descriptor

    def close(self) -> None:
        """Give it back."""
        self._caller.call(Op.DUMP_END, self._number)
