"""Writes new versions of the files of `contents`, by renames, until its standard input ends.

    python -m tests.faults.author DIRECTORY SEED CLOCK

The file CLOCK holds what mtimes are off by (s); it may be missing.
"""

from __future__ import annotations

import random
import select
import sys
import time
from contextlib import suppress
from pathlib import Path

from tests.faults.contents import FILES, put, versions


def sow(top: Path, draw: random.Random) -> None:
    """Make the first version of each file."""
    for name in FILES:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        put(top, name, 1, _size(draw))


def write(top: Path, seed: str, clock: Path) -> None:
    """Write until standard input ends; what cannot be written now is written later."""
    draw = random.Random(seed)
    latest: dict[str, int] = {}
    while not select.select([sys.stdin], [], [], draw.uniform(0, 0.08))[0]:
        if not latest and not (latest := dict(versions(top))):
            continue  # the disk is away
        name = draw.choice(FILES)
        size, mtime_ns = _size(draw), None
        with suppress(OSError, ValueError):
            mtime_ns = time.time_ns() + int(float(clock.read_text()) * 1e9)
        with suppress(OSError):
            put(top, name, latest[name] + 1, size, mtime_ns)
            latest[name] += 1


def _size(draw: random.Random) -> int:
    return draw.randrange(3000) if draw.random() < 0.8 else draw.randrange(1_500_000)


if __name__ == "__main__":
    write(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
