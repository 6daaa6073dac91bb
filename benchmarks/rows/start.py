"""Start on a huge tree: exec until the monitor is armed and the handler is called for the first time."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path

from benchmarks import handlers, measure, trees
from benchmarks.programs import CLSYNC_OLD, LSYNCD, Job, Program, Running, clsync_new, started
from benchmarks.rows.base import Bench, Metric, Row, Sample, Target
from benchmarks.scratch import inotify_limits, raised, require_memory

DIRECTORIES = 281_739
"""With 16 files in each: 4,789,563 objects."""
_FANOTIFY, _INOTIFY = "clsync-new-fanotify-rsyncdirect", "clsync-new-inotify-rsyncdirect"


class Start(Row):
    """Rows `start` and `start-rule`."""

    programs = (
        CLSYNC_OLD,
        LSYNCD,
        clsync_new("fanotify", "rsyncdirect"),
        clsync_new("inotify", "rsyncdirect"),
    )
    metrics = (
        Metric("seconds", "exec to first call", "s", 3),
        Metric("cpu_first", "CPU until first call", "s"),
        Metric("cpu", "CPU until idle", "s"),
        Metric("pss", "peak PSS from first call until idle", "MB", 1),
    )

    def __init__(self, rule: bool) -> None:
        self.name = "start-rule" if rule else "start"
        self.title = "start on a tree of 4.8 M objects" + (", one rule" if rule else "")
        self._rule = ".tmp" if rule else ""
        times = (0.8, 0.8) if rule else (0.1, 0.8)
        self.targets = (
            Target(_FANOTIFY, "seconds", times[0], CLSYNC_OLD.name),
            Target(_INOTIFY, "seconds", times[1], CLSYNC_OLD.name),
            Target(_FANOTIFY, "pss", 40),
            Target(_INOTIFY, "pss", 80),
        )

    @contextlib.contextmanager
    def prepared(self, bench: Bench) -> Iterator[None]:
        """Build the tree."""
        shape = trees.Shape(bench.scaled(DIRECTORIES, 20))
        require_memory(shape.memory + (1 << 30), f"a tree of {shape.objects:,} objects")
        with (
            bench.scratch.place("source") as self._source,
            bench.scratch.room("destination") as self._destination,
            raised(inotify_limits(shape.directories, 0)),
        ):
            trees.build(self._source, shape)
            self._directories = shape.directory_paths()
            yield

    def measure(self, bench: Bench, program: Program, room: Path, number: int) -> Sample:
        """Start the program; then change something deep to prove that it was armed."""
        deep = self._directories[random.Random(bench.seed + number).randrange(len(self._directories))]
        proof = self._source / deep / "proof"
        job = Job(self._source, self._destination, room, delay=1, rule=self._rule)
        with handlers.marker(room) as calls, started(program, job._replace(handler=calls.handler)) as running:
            first = calls.wait(running, 1, 300)
            cpu_first = measure.cpu(running.pid).whole
            with measure.Peak(running.pid) as peak:
                self._prove(proof, calls, running)
            return {
                "seconds": first - running.started,
                "cpu_first": cpu_first,
                "cpu": measure.cpu(running.pid).whole,
                "pss": peak.megabytes,
            }

    def _prove(self, proof: Path, calls: handlers.Calls, running: Running) -> None:
        """Change something at once, and again when the program is idle; wait for the calls.

        An initial sync in several calls hides the first of them; the second is always one of its own.
        """
        try:
            for _ in range(2):
                before = calls.count()
                proof.touch()
                calls.wait(running, before + 1, 300)
                running.settle(1.0, 300)
        finally:
            proof.unlink()
