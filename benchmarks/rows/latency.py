"""One file written until it is readable at the destination, with all delays 0."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import trees
from benchmarks.programs import CLSYNC_OLD, LSYNCD, Job, Program, Running, clsync_new, started
from benchmarks.rows.base import Bench, Metric, Row, Sample, Target, columns
from benchmarks.scratch import inotify_limits, raised

_WRITES = 300
_INTERVAL = 0.2
_JITTER = 0.02
_POLL = 0.0002
_PATIENCE = 20.0
_SHAPE = trees.Shape(directories=64, size=100)
_SIZE = 4000


class Latency(Row):
    """Row `latency`."""

    name = "latency"
    title = "one file written until readable at the destination, delays 0"
    programs = (
        CLSYNC_OLD,
        LSYNCD,
        clsync_new("fanotify", "rsyncdirect"),
        clsync_new("inotify", "rsyncdirect"),
        clsync_new("fanotify", "copy"),
        clsync_new("inotify", "copy"),
    )
    metrics = (
        Metric("p50", "p50", "ms", 2),
        Metric("p99", "p99", "ms", 2),
        Metric("lost", "never arrived", "", 0),
    )
    targets = tuple(
        Target(f"clsync-new-{monitor}-{mode}", metric, limit)
        for mode, limits in (("rsyncdirect", (8, 40)), ("copy", (2, 10)))
        for monitor in ("fanotify", "inotify")
        for metric, limit in zip(("p50", "p99"), limits, strict=True)
    )

    @contextlib.contextmanager
    def prepared(self, bench: Bench) -> Iterator[None]:
        """Build a small tree; the destination is another file system."""
        with (
            bench.scratch.place("source") as self._source,
            bench.scratch.place("destination") as self._destination,
            raised(inotify_limits(_SHAPE.directories, 0)),
        ):
            trees.build(self._source, _SHAPE)
            yield

    def measure(self, bench: Bench, program: Program, room: Path, number: int) -> Sample:
        """Write this round's share of the files, one every 200 ms."""
        writes = max(5, bench.scaled(_WRITES, 20) // bench.rounds)
        files = list(_SHAPE.file_paths())
        chance = random.Random(bench.seed + number)
        chance.shuffle(files)
        job = Job(self._source, self._destination, room, delay=0)
        with started(program, job) as running:
            self._wait_for_initial_sync(running, files)
            times, lost = self._write_all(itertools.islice(itertools.cycle(files), writes), chance, number)
            running.alive()
        return {"milliseconds": times, "lost": [float(lost)]}

    def conclude(self, samples: Sequence[Sample]) -> dict[str, float]:
        """Return percentiles over the writes of all rounds."""
        pooled = columns(samples)
        times = sorted(pooled["milliseconds"])
        if not times:
            return {"lost": sum(pooled["lost"])}
        last = times[min(len(times) - 1, int(len(times) * 0.99))]
        return {"p50": statistics.median(times), "p99": last, "lost": sum(pooled["lost"])}

    def _wait_for_initial_sync(self, running: Running, files: list[str]) -> None:
        """Wait until the tree is there, the daemon idle, and one change has got through."""
        running.settle(1.0, 60)
        probe = files.pop()
        self._write_all([probe], random.Random(0), -1)
        running.settle(1.0, 60)

    def _write_all(
        self, files: Iterator[str] | list[str], chance: random.Random, number: int
    ) -> tuple[list[float], int]:
        """Write the files in their time, look for all that are under way; return milliseconds and how many were lost."""
        times: list[float] = []
        under_way: dict[str, tuple[float, bytes]] = {}
        lost = 0
        due = time.monotonic()
        for count, name in enumerate(files):
            due += _INTERVAL + chance.uniform(0, _JITTER)
            self._watch(under_way, times, due)
            # Nobody has written this before, no other program either.
            content = f"{time.time_ns()} {number} {count} {name} ".encode().ljust(_SIZE, b"x")
            under_way[name] = (time.perf_counter(), content)
            _write(self._source / name, content)
        self._watch(under_way, times, time.monotonic() + _PATIENCE, until_empty=True)
        lost = len(under_way)
        return times, lost

    def _watch(
        self,
        under_way: dict[str, tuple[float, bytes]],
        times: list[float],
        end: float,
        until_empty: bool = False,
    ) -> None:
        while (left := end - time.monotonic()) > 0:
            for name, (begin, content) in list(under_way.items()):
                if _read(self._destination / name) == content:
                    times.append((time.perf_counter() - begin) * 1000)
                    del under_way[name]
            if under_way:
                time.sleep(_POLL)
            elif until_empty:
                return
            else:
                time.sleep(left)


def _write(path: Path, content: bytes) -> None:
    file = os.open(path, os.O_WRONLY | os.O_TRUNC)
    os.write(file, content)
    os.close(file)


def _read(path: Path) -> bytes:
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return b""
    try:
        return os.read(file, _SIZE + 1)
    finally:
        os.close(file)
