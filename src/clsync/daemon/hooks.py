"""Programs of the operator's that are run when the daemon ends."""

from __future__ import annotations

import os
from typing import Protocol

from clsync.core.paths import shown
from clsync.daemon.log import Log
from clsync.handler.runner import Runner, surroundings
from clsync.kernel.files import opened
from clsync.kernel.process import exit_text


class Hook(Protocol):
    """Something that is run at the end."""

    async def run(self, status: str, iteration: int) -> None:
        """Run it to its end. What it answers changes nothing; a failure is told."""
        ...

    def stop(self) -> None:
        """End it, if it runs."""
        ...


class ProgramHook:
    """A program that is run with the label as its only argument, in the watched directory, like a handler."""

    def __init__(self, program: bytes, option: str, label: bytes, root: bytes, log: Log) -> None:
        """`root`: the watched directory; if it is away, the program is run in `/`."""
        self._program, self._option, self._label, self._root, self._log = program, option, label, root, log
        self._runner = Runner()

    async def run(self, status: str, iteration: int) -> None:
        """Run it to its end. What it answers changes nothing; a failure is told."""
        what = f"--{self._option} {shown(self._program)}"
        self._log.info(f"running {what}")
        env = surroundings(status, iteration)
        argv = [self._program, self._label]
        try:
            with opened(self._root if os.path.isdir(self._root) else b"/") as place:
                result = await self._runner.run(argv, cwd=place, env=env, keep_messages=False)
        except OSError as error:
            self._log.error(f"{what} cannot be run: {error.strerror}", "see that it is there and executable")
            return
        if result.code:
            self._log.warning(f"{what}: {exit_text(result.code)}")

    def stop(self) -> None:
        """End it, if it runs."""
        self._runner.stop()
