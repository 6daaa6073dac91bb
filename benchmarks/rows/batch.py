"""Many files of a tree rewritten: time until all are at the destination, CPU time until the daemon is idle."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import measure, trees
from benchmarks.programs import CLSYNC_OLD, LSYNCD, Job, Program, clsync_new, started
from benchmarks.rows.base import Bench, Metric, Row, Sample, Target
from benchmarks.scratch import inotify_limits, raised, require_memory

_DIRECTORIES = 12_500
"""With 16 files in each: 200,000 files."""
_CHANGED = 10_000
_PATIENCE = 300.0


class Batch(Row):
    """Row `batch`."""

    name = "batch"
    title = "10,000 of 200,000 files rewritten, delay 1 s"
    programs = (
        CLSYNC_OLD,
        LSYNCD,
        clsync_new("fanotify", "rsyncdirect"),
        clsync_new("inotify", "rsyncdirect"),
        clsync_new("fanotify", "copy"),
    )
    metrics = (
        Metric("seconds", "all at the destination", "s"),
        Metric("cpu", "CPU with handlers", "s"),
        Metric("lost", "not at the destination", "", 0),
    )
    targets = tuple(
        Target(program.name, metric, 2.0)
        for program in programs
        if program.name.startswith("clsync-new")
        for metric in ("seconds", "cpu")
    )

    @contextlib.contextmanager
    def prepared(self, bench: Bench) -> Iterator[None]:
        """Build the tree; the destination is another file system."""
        shape = trees.Shape(bench.scaled(_DIRECTORIES, 20), size=100)
        self._paths = list(shape.file_paths())
        require_memory(2 * shape.memory + (1 << 30), f"two trees of {shape.objects:,} objects")
        with (
            bench.scratch.place("source") as self._source,
            bench.scratch.place("destination") as self._destination,
            raised(inotify_limits(shape.directories, 100_000)),
        ):
            trees.build(self._source, shape)
            trees.build(self._destination, shape)
            yield

    def measure(self, bench: Bench, program: Program, room: Path, number: int) -> Sample:
        """Rewrite the files of this round under a daemon that is idle."""
        argv = ["rsync", "-aH", "--delete", "--modify-window=-1", f"{self._source}/", f"{self._destination}/"]
        subprocess.run(argv, check=True)
        chosen = random.Random(bench.seed + number).sample(
            self._paths, min(len(self._paths), bench.scaled(_CHANGED, 100))
        )
        with started(program, Job(self._source, self._destination, room, delay=1)) as running:
            running.settle(2.0, 120)
            before = measure.cpu(running.pid).whole
            content = b"round %d of %s\n" % (number, program.name.encode())
            for path in chosen:
                (self._source / path).write_bytes(content)
            begin = time.monotonic()
            late = self._arrive(chosen, begin + _PATIENCE)
            seconds = time.monotonic() - begin
            running.settle(1.5, 120)
            used = measure.cpu(running.pid).whole - before
        wrong = sum(1 for path in chosen if (self._destination / path).read_bytes() != content)
        return {"seconds": seconds, "cpu": used, "lost": float(max(wrong, late))}

    def _arrive(self, paths: list[str], deadline: float) -> int:
        """Wait until every path has the source's modification time at the destination; return how many have not."""
        waiting = [(str(self._destination / path), os.stat(self._source / path).st_mtime_ns) for path in paths]
        while waiting and time.monotonic() < deadline:
            waiting = [(path, mtime) for path, mtime in waiting if os.stat(path).st_mtime_ns != mtime]
            time.sleep(0.005)
        return len(waiting)
