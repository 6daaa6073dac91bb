"""Handlers that do nothing, and ways to see them called."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import kernel
from benchmarks.errors import BenchmarkError
from benchmarks.programs import Running

_MARKER = """#!/bin/sh
printf '%s\\n' "$*" >> {log}
"""
_COLLECTOR = """#!/bin/sh
{{ cat; printf '\\0'; }} >> {log}
"""


class Calls:
    """The calls of a handler, seen by the kernel's events of one file it touches."""

    def __init__(self, handler: Path, events: kernel.FileEvents, log: Path | None) -> None:
        self.handler = handler
        self._events = events
        self._log = log

    def count(self) -> int:
        """Return how often it was called so far."""
        if self._log is None:
            return self._events.read()
        return sum(1 for line in self._log.read_text().splitlines() if _is_call(line))

    def wait(self, running: Running, number: int, timeout: float) -> float:
        """Wait for call number `number` (from 1); return its time.monotonic().

        Raises BenchmarkError when the program ends or the call does not come.
        """
        deadline = time.monotonic() + timeout
        while True:
            at = self._events.wait(0.5)
            if at is not None and self.count() >= number:
                return at
            running.alive()
            if time.monotonic() > deadline:
                raise BenchmarkError(f"{running.name}: no call {number} of its handler after {timeout:.0f} s")


def _is_call(arguments: str) -> bool:
    """Tell a call from a question what the handler is (`--version`), or what a target has (a dry run)."""
    return not arguments.endswith("--version") and not arguments.startswith("-n ")


@contextlib.contextmanager
def marker(room: Path) -> Iterator[Calls]:
    """Make a handler that notes its arguments (one short shell, no other program)."""
    log = _log(room)
    handler = _script(room / "marker", _MARKER.format(log=log))
    with kernel.FileEvents(log, kernel.IN_CLOSE_WRITE) as events:
        yield Calls(handler, events, log)


@contextlib.contextmanager
def true(room: Path) -> Iterator[Calls]:
    """Make a copy of /bin/true; the kernel tells when it is executed."""
    handler = room / "true"
    shutil.copy("/bin/true", handler)
    with kernel.FileEvents(handler, kernel.IN_OPEN) as events:
        yield Calls(handler, events, None)


@contextlib.contextmanager
def collector(room: Path) -> Iterator[tuple[Path, Path]]:
    """Make a handler that keeps its standard input; yields it and the file it adds to."""
    log = _log(room)
    yield _script(room / "collector", _COLLECTOR.format(log=log)), log


def _log(room: Path) -> Path:
    log = room / "calls"
    log.touch()
    log.chmod(0o666)
    return log


def _script(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path
