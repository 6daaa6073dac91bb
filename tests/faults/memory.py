"""Looks at the memory of the program again and again, until its own standard input ends.

python -m tests.faults.memory PID FILE SECONDS
"""

from __future__ import annotations

import select
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class Sample(NamedTuple):
    """The memory of a program at one moment."""

    at: float
    """Seconds since the beginning."""
    pss: int
    """KiB, its part of what is shared counted."""
    rss: int
    """KiB."""


def sample(pid: int, at: float) -> Sample:
    """Look at the memory of a process and of its other half, if there is one. Raises OSError where either is gone."""
    sizes = [_of(one) for one in (pid, *_others(pid))]
    return Sample(at, sum(pss for pss, _ in sizes), sum(rss for _, rss in sizes))


def _of(pid: int) -> tuple[int, int]:
    """Return the memory of a process in KiB (proc_pid_smaps_rollup(5)): PSS, RSS."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    found = {line.split()[0]: int(line.split()[1]) for line in lines[1:]}
    return found["Pss:"], found["Rss:"]


def _others(pid: int) -> list[int]:
    """Return the part without rights of a program that is split: handlers come and go."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if Path(f"/proc/{child}/comm").read_text() == "clsync-worker\n"]


def read(file: Path) -> list[Sample]:
    """Read what was written."""
    rows = [line.split() for line in file.read_text().splitlines()]
    return [Sample(float(at), int(pss), int(rss)) for at, pss, rss in rows]


def growth(samples: Sequence[Sample]) -> str:
    """Say how the memory grew: medians of the first and the last quarter, and the slope. Needs two samples."""
    lines = []
    for name in ("pss", "rss"):
        values = [getattr(one, name) for one in samples]
        quarter = max(len(values) // 4, 1)
        first, last = statistics.median(values[:quarter]), statistics.median(values[-quarter:])
        slope = statistics.linear_regression([one.at / 3600 for one in samples], values).slope
        lines.append(
            f"{name.upper()}: median of the first quarter {first:.0f} KiB, of the last one {last:.0f} KiB,"
            f" least {min(values)}, most {max(values)}; slope {slope:+.0f} KiB an hour"
        )
    return "\n".join(lines)


def main() -> None:
    """Write a line for each look."""
    pid, every, began = int(sys.argv[1]), float(sys.argv[3]), time.monotonic()
    with open(sys.argv[2], "w") as file:
        while True:
            print(*sample(pid, round(time.monotonic() - began, 1)), file=file, flush=True)
            if select.select([sys.stdin], [], [], every)[0]:
                return


if __name__ == "__main__":
    main()
