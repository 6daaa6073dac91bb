"""What a mirror needs beside the tree that may take rights: done in this process, or asked of one that has them."""

from __future__ import annotations

import os
from typing import Protocol

from clsync.core.rules import Rules
from clsync.daemon.dump import State, write_dump
from clsync.daemon.files import SmallFile
from clsync.daemon.handlers import make_handler
from clsync.daemon.hooks import Hook, ProgramHook
from clsync.daemon.log import Log
from clsync.daemon.plan import Plan, find_program, read_rules
from clsync.handler.base import Handler
from clsync.kernel.ops import DirectOps, KernelOps
from clsync.monitor import TreeMonitor
from clsync.monitor.base import Monitor


class Access(Protocol):
    """What a mirror needs, and may not be able to do itself."""

    ops: KernelOps

    def open_monitor(self, made: Plan, rules: Rules) -> Monitor:
        """Return what watches the tree, not armed yet. Raises OperatorError, OSError."""
        ...

    def new_handler(self, made: Plan) -> Handler:
        """Return another handler of a plan. Raises OperatorError."""
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

    def write_dump(self, directory: bytes, state: State) -> None:
        """Write the state into a new directory. Raises OSError."""
        ...


class DirectAccess:
    """Does all of it in this process (see `Access`)."""

    def __init__(self, status_file: SmallFile, log: Log) -> None:
        """`status_file`: where the status goes."""
        self.ops: KernelOps = DirectOps()
        self._status_file, self._log = status_file, log

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

    def new_handler(self, made: Plan) -> Handler:
        """Return another handler of a plan. Raises OperatorError."""
        return make_handler(made)

    def hook(self, made: Plan, option: str) -> Hook | None:
        """Return the hook that an option names. Raises OperatorError."""
        name = getattr(made.settings, option.replace("-", "_"))
        if name is None:
            return None
        return ProgramHook(find_program(name, f"--{option}"), option, made.settings.label, made.root, self._log)

    def read_rules(self, made: Plan) -> Rules:
        """Read the rules file of a plan. Raises OperatorError."""
        return read_rules(made.settings)

    def write_status(self, word: str) -> None:
        """Write the status file. Raises OperatorError."""
        self._status_file.write(word)

    def stands(self, path: bytes) -> bool:
        """Tell whether something stands at a path."""
        return os.path.lexists(path)

    def write_dump(self, directory: bytes, state: State) -> None:
        """Write the state into a new directory. Raises OSError."""
        write_dump(directory, state)
