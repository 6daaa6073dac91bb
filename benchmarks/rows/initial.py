"""The first copy of a large tree, beside a bare `rsync -aH`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from benchmarks import measure, trees
from benchmarks.errors import BenchmarkError
from benchmarks.programs import RSYNC, Job, Program, clsync_new, started
from benchmarks.rows.base import Bench, Metric, Row, Sample, Target
from benchmarks.scratch import inotify_limits, raised, require_disk, require_memory

_DIRECTORIES = 62_500
"""With 16 files in each: 1,000,000 files."""
_SIZE = 500


class Initial(Row):
    """Rows `initial` (a tmpfs to an ext4) and `initial-one` (both on one tmpfs)."""

    programs = (RSYNC, clsync_new("fanotify", "rsyncdirect"), clsync_new("fanotify", "copy"))
    metrics = (
        Metric("seconds", "start to end", "s", 1),
        Metric("cpu", "CPU", "s", 1),
        Metric("pss", "peak PSS", "MB", 1),
        Metric("lost", "missing or different", "", 0),
    )

    def __init__(self, one: bool) -> None:
        self.name = "initial-one" if one else "initial"
        self.title = "initial sync of 1 M small files, " + ("one file system" if one else "two file systems")
        self._one = one
        limits = (1.3, 2.0) if one else (1.05, 1.5)
        self.targets = tuple(
            Target(f"clsync-new-fanotify-{mode}", "seconds", limit, RSYNC.name)
            for mode, limit in zip(("rsyncdirect", "copy"), limits, strict=True)
        )

    @contextlib.contextmanager
    def prepared(self, bench: Bench) -> Iterator[None]:
        """Build the source."""
        self._shape = trees.Shape(bench.scaled(_DIRECTORIES, 20), size=_SIZE)
        what = f"a tree of {self._shape.objects:,} objects"
        self._room = self._shape.file_count * 4096 * 2 + (1 << 30)
        on_disk = not self._one and not bench.scratch.mounts
        require_memory(self._shape.memory * (1 if on_disk else 2) + (4 << 30), what)
        if on_disk:
            require_disk(self._room, bench.scratch.disk, what)
        with (
            bench.scratch.place("memory") as self._memory,
            raised(inotify_limits(self._shape.directories, 0)),
        ):
            self._source = self._memory / "source"
            self._source.mkdir()
            trees.build(self._source, self._shape)
            yield

    def measure(self, bench: Bench, program: Program, room: Path, number: int) -> Sample:
        """Copy the tree into an empty directory."""
        if self._one:
            base = self._memory / "copy"
            base.mkdir()
        else:
            base = bench.scratch.ext4("copy", self._room)
        destination = base / "tree"
        destination.mkdir()
        os.sync()
        try:
            job = Job(self._source, destination, room, initial_only=True)
            with _CpuOfChildren() as used, started(program, job) as running:
                with measure.Peak(running.pid) as peak:
                    seconds = running.wait(3600)
            lost = self._missing(destination)
        finally:
            bench.scratch.drop(base)
        return {"seconds": seconds, "cpu": used.seconds, "pss": peak.megabytes, "lost": float(lost)}

    def _missing(self, destination: Path) -> int:
        """Return how many files have not arrived with their size and time."""
        lost = 0
        for path in self._shape.file_paths():
            try:
                seen = os.stat(destination / path)
            except FileNotFoundError:
                lost += 1
                continue
            lost += seen.st_size != _SIZE or seen.st_mtime != trees.OLD
        if lost == self._shape.file_count:
            raise BenchmarkError("nothing has been copied")
        return lost


class _CpuOfChildren:
    """CPU seconds of the children waited for meanwhile."""

    def __enter__(self) -> _CpuOfChildren:
        self._before = os.times()
        return self

    def __exit__(self, *_: object) -> None:
        now = os.times()
        self.seconds = sum(now[2:4]) - sum(self._before[2:4])
