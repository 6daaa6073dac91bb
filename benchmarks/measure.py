"""What a daemon and all its processes cost: CPU time and proportional memory, from proc(5)."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

_TICK = 1 / os.sysconf("SC_CLK_TCK")
MB = 1e6


class Cpu(NamedTuple):
    """CPU seconds, user and system."""

    whole: float
    """Of the living processes and of all children they have waited for."""
    own: float
    """Of the living processes alone: without handlers that have ended."""


def tree(pid: int) -> list[int]:
    """Return the process and all its descendants that are alive."""
    found = []
    pending = [pid]
    while pending:
        process = pending.pop()
        try:
            tasks = list(Path(f"/proc/{process}/task").iterdir())
        except OSError:
            continue
        found.append(process)
        for task in tasks:
            pending.extend(_children(task))
    return found


def _children(task: Path) -> list[int]:
    try:
        return [int(child) for child in (task / "children").read_text().split()]
    except OSError:
        return []


def cpu(pid: int) -> Cpu:
    """Return the CPU time of a process and its descendants (resolution: one tick, 10 ms)."""
    whole = own = 0.0
    for process in tree(pid):
        try:
            text = Path(f"/proc/{process}/stat").read_text()
        except OSError:
            continue
        fields = text.rpartition(")")[2].split()
        user, system, waited_user, waited_system = (int(field) * _TICK for field in fields[11:15])
        own += user + system
        whole += user + system + waited_user + waited_system
    return Cpu(whole, own)


def pss(pid: int) -> float:
    """Return the proportional set size of a process and its descendants, megabytes (10**6)."""
    total = 0
    for process in tree(pid):
        try:
            text = Path(f"/proc/{process}/smaps_rollup").read_text()
        except OSError:
            continue  # ended meanwhile
        total += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return total * 1024 / MB


def settle(pid: int, quiet: float, deadline: float) -> bool:
    """Wait until the processes have used no CPU for `quiet` seconds; false: not before `deadline` (monotonic)."""
    last = cpu(pid).whole
    since = time.monotonic()
    while time.monotonic() < deadline:
        time.sleep(0.05)
        now = cpu(pid).whole
        if now - last > 1.5 * _TICK or now < last:
            last, since = now, time.monotonic()
        elif time.monotonic() - since >= quiet:
            return True
    return False


class Peak:
    """The largest PSS of a tree of processes, looked at every `period` seconds by a thread."""

    def __init__(self, pid: int, period: float = 0.25, probe: Callable[[int], float] = pss) -> None:
        self.megabytes = 0.0
        self._pid = pid
        self._period = period
        self._probe = probe
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.megabytes = max(self.megabytes, self._probe(self._pid))
            if self._end.wait(self._period):
                return
