"""What a mirror needs beside the tree that may take rights: done in this process, or asked of one that has them."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from clsync.core.rules import Rules
from clsync.daemon.dump import State, write_dump
from clsync.daemon.files import SmallFile
from clsync.daemon.handlers import make_comparison, make_handler
from clsync.daemon.hooks import Hook, ProgramHook
from clsync.daemon.log import Log
from clsync.daemon.plan import Plan, find_program, read_rules
from clsync.daemon.question import Terminal, deletion_question
from clsync.handler.base import Handler
from clsync.handler.compare.base import Comparison
from clsync.kernel import roles
from clsync.kernel.ops import DirectOps, KernelOps
from clsync.monitor import TreeMonitor
from clsync.monitor.base import Monitor
from clsync.privilege import trust
from clsync.privilege.profiles import scan_sandbox

if TYPE_CHECKING:
    from clsync.daemon.stateaccess import DirectStateAccess, StateAccess


class Access(Protocol):
    """What a mirror needs, and may not be able to do itself."""

    ops: KernelOps

    def open_monitor(self, made: Plan, rules: Rules) -> Monitor:
        """Return what watches the tree, not armed yet. Raises OperatorError, OSError."""
        ...

    async def new_handler(self, made: Plan) -> Handler:
        """Return another handler of a plan. Raises OperatorError."""
        ...

    async def new_comparison(self, made: Plan) -> Comparison:
        """Return what compares the target of a plan with the source. Raises OperatorError, ComparisonFailed."""
        ...

    def hook(self, made: Plan, option: str) -> Hook | None:
        """Return the hook that an option names, if it names one. Raises OperatorError."""
        ...

    def read_rules(self, made: Plan) -> Rules:
        """Read the rules file of a plan. Raises OperatorError."""
        ...

    def write_status(self, word: str) -> None:
        """Write the status file. Raises OperatorError."""
        ...

    def stands(self, path: bytes) -> bool:
        """Tell whether something stands at the path of the standby file."""
        ...

    async def write_dump(self, directory: bytes, states: Sequence[State], *, asked: bool) -> None:
        """Write states into a new directory; `asked`: a client of the control socket has named it. Raises OSError."""
        ...

    def heard(self, connection: int) -> socket.socket | None:
        """Return where to read what a client of the control socket says; None: from its own connection."""
        ...

    async def ask_to_delete(self, made: Plan, count: int) -> bool | None:
        """Ask at the terminal whether so many entries may go at the target of a plan; None: nobody is there."""
        ...

    def for_state(self, made: Plan) -> StateAccess:
        """Return what the state of a source needs."""
        ...


class DirectAccess:
    """Does all of it in this process (see `Access`)."""

    def __init__(self, status_file: SmallFile, log: Log, state: bytes = b"") -> None:
        """`status_file`: where the status goes; `state`: the directory of the state, if there is one."""
        self.ops: KernelOps = DirectOps(scan_sandbox)
        self._status_file, self._log, self._state = status_file, log, state
        self._terminal = Terminal()

    def open_monitor(self, made: Plan, rules: Rules) -> Monitor:
        """Return what watches the tree, not armed yet. Raises OperatorError, OSError."""
        s = made.settings
        return TreeMonitor(
            made.root,
            kind=s.monitor,
            rules=rules,
            follow_mounts=not (s.one_file_system or s.exclude_mount_points),
            poll_interval=s.poll_interval,
            log=self._log.warning,
        )

    async def new_handler(self, made: Plan) -> Handler:
        """Return another handler of a plan. Raises OperatorError."""
        # It looks at the destination, which may hang; the plan is its own then.
        return await asyncio.to_thread(make_handler, replace(made))

    async def new_comparison(self, made: Plan) -> Comparison:
        """Return what compares the target of a plan with the source. Raises OperatorError."""
        return await asyncio.to_thread(make_comparison, replace(made))

    def hook(self, made: Plan, option: str) -> Hook | None:
        """Return the hook that an option names. Raises OperatorError."""
        name = getattr(made.settings, option.replace("-", "_"))
        if name is None:
            return None
        program = find_program(name, f"--{option}")
        if trust.is_demanded(made.settings):
            trust.demand_of_root(program, f"--{option}")
        return ProgramHook(program, option, made.settings.label, made.root, self._log)

    def heard(self, connection: int) -> None:
        """Return None: nobody else has to hear it."""

    def read_rules(self, made: Plan) -> Rules:
        """Read the rules file of a plan. Raises OperatorError."""
        return read_rules(made.settings)

    def write_status(self, word: str) -> None:
        """Write the status file. Raises OperatorError."""
        self._status_file.write(word)

    def stands(self, path: bytes) -> bool:
        """Tell whether something stands at a path."""
        return os.path.lexists(path)

    async def write_dump(self, directory: bytes, states: Sequence[State], *, asked: bool) -> None:
        """Write states into a new directory; what the operator has named is written by who may. Raises OSError."""

        def write() -> None:
            write_dump(directory, states)

        await asyncio.to_thread(write if asked else lambda: roles.by_somebody(write))

    async def ask_to_delete(self, made: Plan, count: int) -> bool | None:
        """Ask at the terminal whether so many entries may go at the target of a plan; None: nobody is there."""
        return await self._terminal.ask(deletion_question(count, made.name))

    def close(self) -> None:
        """Wait for no answer at the terminal any more."""
        self._terminal.close()

    def for_state(self, made: Plan) -> DirectStateAccess:
        """Return what the state of a source needs."""
        from clsync.daemon.stateaccess import DirectStateAccess  # late: it needs a database
        from clsync.state.opening import FILE

        return DirectStateAccess(made.root, os.path.join(self._state, FILE))
