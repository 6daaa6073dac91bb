"""A module in a process of its own, which is started anew where it has ended."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence

from clsync.core.paths import shown
from clsync.errors import Exit, OperatorError
from clsync.handler.plugin.checks import check_module
from clsync.handler.plugin.process import Gone, Log, Process
from clsync.handler.plugin.protocol import End, Refused, Request, Start, StartPython
from clsync.handler.runner import GRACE
from clsync.kernel.files import opened
from clsync.kernel.priority import Priority

_LOADING = 60.0
"""Seconds that loading and initialising may always take: that is no call yet."""
_SEE = "see its messages above"


class LoadedModule:
    """Calls a module; it may crash, hang and fail."""

    def __init__(
        self,
        start: Start | StartPython,
        log: Log,
        *,
        root: bytes,
        timeout: float,
        codes_done: Iterable[int],
        quiet: bool,
        priority: Priority,
    ) -> None:
        """`root`: the watched directory; `timeout`: seconds a call may take, 0 for as long as it likes.

        `quiet`: its process is not to hold on to a terminal. `priority`: of the process.
        """
        self._quiet, self._priority = quiet, priority
        self._start, self._log, self._root = start, log, root
        self._timeout, self._codes_done = timeout, frozenset(codes_done) | {0}
        self._name = shown(os.path.basename(start.module))
        python = sys.executable.encode()
        # The operator's own modules are found by PYTHONPATH, ours alone need none; neither in a current directory.
        self._argv = (
            [python, b"-I", b"-m", b"clsync.handler.plugin.child"]
            if isinstance(start, Start)
            else [python, b"-P", b"-m", b"clsync.handler.plugin.pychild"]
        )
        self.failed: dict[bytes, str] = {}
        """What the last call did not do, though it answers that all is well."""
        self._init = "clsyncapi_init" if isinstance(start, Start) else "its import"
        self._process: Process | None = None
        self.stopping = False
        """It is to end: no call is made any more."""

    async def begin(self, root: int) -> None:
        """Load it and let it initialise, unless it is to end. Raises OperatorError."""
        if self.stopping:
            return
        if isinstance(self._start, Start):
            check_module(self._start.module)
        try:
            trouble = await self._initialised(root)
        except OSError as error:
            trouble = OperatorError(f"{self._name} cannot be started: {error.strerror}", "try again", Exit.HANDLER)
        if trouble is None:
            return
        await self._close()
        if not self.stopping:
            raise trouble

    async def ask(self, root: int, request: Request, descriptors: Sequence[int]) -> tuple[str, int]:
        """Make a call; return why it failed, nothing if it did not, and its exit code.

        Raises OperatorError where the module has ended and cannot be loaded again, OSError where it cannot be asked.
        """
        if self._process is not None and not self._process.alive:
            self._log.warning(f"{self._name} has ended between two batches")
            await self._close()
        if self._process is None:
            await self.begin(root)
        if self._process is None:
            return "stopped", 0
        process, why = self._process, ""
        self.failed = {}
        try:
            code = exit_code(await process.ask(request, [root, *descriptors], self._timeout))
            if code not in self._codes_done:
                why = f"{self._name}: {self._start.function} answers {code}"
            self.failed = process.failed
        except Gone as how:
            code, why = how.code, f"{self._name} has ended in {self._start.function}: {how}"
        if process.timed_out:
            why = f"{self._name}: {self._start.function} took longer than --timeout-sync"
        if process.spent:
            await self.end()
        return why, code

    def stop(self) -> None:
        """End the call at work."""
        self.stopping = True
        if self._process is not None:
            self._process.stop()

    async def end(self) -> int:
        """Let it clean up, and end; return the exit code it answers with, 0 where it cannot answer any more."""
        process = self._process
        try:
            if process is None or not process.alive:
                return 0
            with opened(self._root if os.path.isdir(self._root) else b"/") as root:
                return exit_code(await process.ask(End(), [root], GRACE))
        except (Gone, OSError) as trouble:
            self._log.warning(f"{self._name} has not ended by itself: {trouble}")
            return 0
        finally:
            await self._close()

    async def _initialised(self, root: int) -> OperatorError | None:
        """Start a process; return what is wrong with the module, None if nothing is. Raises OSError."""
        where = f"--sync-handler {shown(self._start.module)}"
        self._process = Process(self._name, self._log, self._argv, quiet=self._quiet, priority=self._priority)
        answer = 0
        patience = max(self._timeout, _LOADING) if self._timeout else 0.0
        try:
            answer = await self._process.ask(self._start, [root], patience)
        except Refused as why:
            return OperatorError(f"{where} cannot be loaded: {why}", self._hint(), Exit.HANDLER)
        except Gone as how:
            if not self._process.timed_out:
                return OperatorError(f"{where} has ended in {self._init}: {how}", _SEE, Exit.HANDLER)
        if self._process.timed_out:
            return OperatorError(f"{where}: {self._init} took longer than {patience:g} s", _SEE, Exit.HANDLER)
        if answer:
            return OperatorError(f"{where}: {self._init} answers {answer}", _SEE, exit_code(answer))
        return None

    def _hint(self) -> str:
        if isinstance(self._start, Start):
            return f"a module for this mode has {self._start.function}, and is linked with all it needs"
        return "write package.module:function, and set PYTHONPATH where it is not installed"

    async def _close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await process.close()


def exit_code(value: int) -> int:
    """Return what is left of a function's value as an exit code: never 0 for what is not 0."""
    return value & 0xFF or (0xFF if value else 0)
