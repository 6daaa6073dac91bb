"""Processes that are forked, wait at a gate and then work at full speed, all at once."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from types import TracebackType

from benchmarks.errors import BenchmarkError


class Workers:
    """One process for each piece of work. Made before threads are, so that fork is safe."""

    def __init__(self, work: Sequence[Callable[[], None]]) -> None:
        self._gate, self._opener = os.pipe()
        self._children = [self._fork(piece) for piece in work]
        os.close(self._gate)

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self._children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        self.go()

    def go(self) -> None:
        """Open the gate."""
        if self._opener >= 0:
            os.close(self._opener)
            self._opener = -1

    def wait(self) -> None:
        """Wait for the end of the work; raises BenchmarkError when a piece failed."""
        while self._children:
            _, status = os.waitpid(self._children[-1], 0)
            self._children.pop()
            if status:
                raise BenchmarkError(f"a process that makes or changes files ended with status {status}")

    def _fork(self, work: Callable[[], None]) -> int:
        child = os.fork()
        if child:
            return child
        code = 1
        try:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.close(self._opener)
            os.read(self._gate, 1)
            work()
            code = 0
        except BaseException:  # noqa: BLE001 -- a forked copy must never return into its parent's code
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)
