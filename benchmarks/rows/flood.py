"""Files rewritten at full speed: CPU time of the daemon for each rewrite."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import handlers, measure, trees
from benchmarks.errors import BenchmarkError
from benchmarks.programs import CLSYNC_OLD, LSYNCD, Job, Program, Running, clsync_new, started
from benchmarks.rows.base import Bench, Metric, Row, Sample, Target
from benchmarks.scratch import inotify_limits, raised, require_memory
from benchmarks.workers import Workers

_DIRECTORIES = 23_750
"""With 16 files in each: 380,000 files."""
_PASSES = 3
_WRITERS = 2
_EVENTS = 4
"""Events of one rewrite that may wait in the kernel's queue."""
_FANOTIFY, _INOTIFY = "clsync-new-fanotify-rsyncdirect", "clsync-new-inotify-rsyncdirect"


class Flood(Row):
    """Row `flood`."""

    name = "flood"
    title = "1.14 M rewrites of 380,000 files"
    programs = (
        CLSYNC_OLD,
        LSYNCD,
        clsync_new("fanotify", "rsyncdirect"),
        clsync_new("inotify", "rsyncdirect"),
    )
    metrics = (
        Metric("micros", "CPU per rewrite", "us"),
        Metric("micros_own", "without handlers", "us"),
        Metric("pss", "peak PSS", "MB", 1),
        Metric("writing", "rewriting took", "s", 1),
        Metric("lost", "files not handed over", "", 0),
    )
    targets = (
        Target(_FANOTIFY, "micros", 0.5, CLSYNC_OLD.name),
        Target(_INOTIFY, "micros", 0.8, CLSYNC_OLD.name),
        Target(_FANOTIFY, "pss", 120),
        Target(_INOTIFY, "pss", 120),
        Target(_FANOTIFY, "lost", 0),
        Target(_INOTIFY, "lost", 0),
    )

    @contextlib.contextmanager
    def prepared(self, bench: Bench) -> Iterator[None]:
        """Build the tree; the kernel's queue is made long enough for the slowest."""
        shape = trees.Shape(bench.scaled(_DIRECTORIES, 20), size=16)
        self._paths = list(shape.file_paths())
        self._delay = max(3, round(30 * min(1.0, bench.scale * 2)))
        rewrites = len(self._paths) * _PASSES
        require_memory(shape.memory + (2 << 30), f"a tree of {shape.objects:,} objects")
        with (
            bench.scratch.place("source") as self._source,
            bench.scratch.room("destination") as self._destination,
            raised(inotify_limits(shape.directories, rewrites * _EVENTS)),
        ):
            trees.build(self._source, shape)
            yield

    def measure(self, bench: Bench, program: Program, room: Path, number: int) -> Sample:
        """Flood a daemon whose handler is /bin/true."""
        with (
            self._writers() as writers,
            handlers.true(room) as calls,
            started(program, self._job(room, calls.handler)) as running,
        ):
            calls.wait(running, 1, 120)
            running.settle(2.0, 120)
            before, called = measure.cpu(running.pid), calls.count()
            with measure.Peak(running.pid) as peak:
                writing = self._flood(writers, running)
            if calls.count() == called:
                raise BenchmarkError(f"{program.name} has not called its handler")
            after = measure.cpu(running.pid)
        rewrites = len(self._paths) * _PASSES
        return {
            "micros": (after.whole - before.whole) / rewrites * 1e6,
            "micros_own": (after.own - before.own) / rewrites * 1e6,
            "pss": peak.megabytes,
            "writing": writing,
        }

    def verify(self, bench: Bench, program: Program, room: Path) -> Sample:
        """Flood our daemon once more, with a handler that keeps the lists, and count what is in none."""
        if not program.name.startswith("clsync-new"):
            return {}
        with (
            self._writers() as writers,
            handlers.collector(room) as (handler, log),
            started(program, self._job(room, handler)) as running,
        ):
            running.settle(3.0, 120)
            log.write_bytes(b"")
            self._flood(writers, running)
        return {"lost": float(missing(self._paths, log.read_bytes()))}

    def _job(self, room: Path, handler: Path) -> Job:
        return Job(self._source, self._destination, room, handler=handler, delay=self._delay)

    def _writers(self) -> Workers:
        return Workers(
            [trees.rewriter(self._source, self._paths[part::_WRITERS], _PASSES) for part in range(_WRITERS)]
        )

    def _flood(self, writers: Workers, running: Running) -> float:
        """Rewrite all, wait until the daemon has been idle for longer than its delay; return seconds of rewriting."""
        begin = time.monotonic()
        writers.go()
        writers.wait()
        writing = time.monotonic() - begin
        running.settle(self._delay + 3.0, 1200)
        return writing


def missing(paths: list[str], lists: bytes) -> int:
    """Return how many of `paths` stand in none of the NUL-separated lists, neither they nor a directory above."""
    listed = set(lists.replace(b"\n", b"\0").split(b"\0"))
    if listed & {b".", b"./", b"./."}:
        return 0
    return sum(1 for path in paths if not _is_listed(b"./" + path.encode(), listed))


def _is_listed(path: bytes, listed: set[bytes]) -> bool:
    while path != b".":
        if path in listed or path + b"/" in listed:
            return True
        path = path.rpartition(b"/")[0]
    return False
