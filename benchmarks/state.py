"""What the durable state costs: a record beside an initial sync, a warm start with nothing changed, steady changes.

Run as `python -m benchmarks.state [--objects 4800000]`. The trees lie in memory, the state on disk. rsync is measured
beside it: the same tree, to an empty directory and to an equal one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks import measure, trees
from benchmarks.scratch import require_memory, scratch
from clsync.core.changes import CONTENT
from clsync.core.listing import record_of
from clsync.core.rules import Rules
from clsync.core.stamps import YOUNG_NS
from clsync.kernel.durable import boot_id
from clsync.state import scan
from clsync.state.store import Confirmed, Store
from clsync.state.walker import Scope

_TARGET = b"target"
_BATCHES = 20
_CHANGES = 1000
"""Paths of a batch: with one batch a second, a busy tree."""


class Used(NamedTuple):
    """What something took."""

    seconds: float
    cpu: float
    """CPU seconds of all processes."""
    pss: float
    """Peak, megabytes, of this process and its children."""


def main() -> int:
    """Measure, and print the figures and one line of JSON."""
    options = _parser().parse_args()
    shape = trees.Shape(max(20, options.objects // 17))
    require_memory(shape.memory * 2 + (2 << 30), f"two trees of {shape.objects:,} objects")
    with scratch(options.memory_dir, options.disk_dir) as places, places.place("trees") as memory:
        source = memory / "source"
        source.mkdir()
        trees.build(source, shape)
        with places.room("state", on_disk=True) as disk:
            figures = {
                "objects": float(shape.objects),
                **asyncio.run(_measured(source, memory / "copy", disk, shape)),
            }
    for name, value in figures.items():
        print(f"{name:32} {value:14,.2f}")
    print(json.dumps(figures))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=480_000)
    parser.add_argument("--memory-dir", type=Path, default=Path("/dev/shm"))
    parser.add_argument("--disk-dir", type=Path, default=Path(tempfile.gettempdir()))
    return parser


async def _measured(source: Path, copy: Path, disk: Path, shape: trees.Shape) -> dict[str, float]:
    place = os.fsencode(disk / "state")
    store = Store.open(place, b"benchmark", [_TARGET], boot_id())
    tree = scan.here(lambda: os.open(source, os.O_RDONLY | os.O_DIRECTORY), Scope(Rules()), store.path)

    async def record() -> None:
        store.begin_record(b"", 0.0)
        await scan.record(tree)
        store.end_record(_TARGET, b"", {}, 0.0)

    async def compare() -> None:
        differences = [changes async for changes in scan.compare(tree)]
        assert not differences, differences[:3]

    async def sync() -> None:
        child = await asyncio.create_subprocess_exec("rsync", "-aH", f"{source}/", f"{copy}/")
        assert await child.wait() == 0

    async def sync_and_record() -> None:
        await asyncio.gather(sync(), record())

    async def dry_run() -> None:
        child = await asyncio.create_subprocess_exec("rsync", "-anH", "--delete", f"{source}/", f"{copy}/")
        assert await child.wait() == 0

    figures: dict[str, float] = {}

    async def note(name: str, work: Callable[[], Awaitable[None]]) -> Used:
        used = await _used(work)
        figures.update({f"{name}, s": used.seconds, f"{name}, CPU s": used.cpu, f"{name}, peak PSS MB": used.pss})
        return used

    await note("record", record)
    figures["bytes an object"] = os.path.getsize(store.path) / shape.objects
    await note("warm start", compare)
    alone = await note("initial rsync", sync)
    shutil.rmtree(copy)
    both = await note("initial rsync with record", sync_and_record)
    figures["more because of the record, %"] = (both.seconds / alone.seconds - 1) * 100
    await note("rsync -an --delete", dry_run)
    await note("warm start again", compare)
    figures |= _steady(store, source, shape)
    store.close()
    figures["bytes an object in the end"] = os.path.getsize(store.path) / shape.objects
    return figures


async def _used(work: Callable[[], Awaitable[None]]) -> Used:
    with _cpu() as cpu, measure.Peak(os.getpid()) as peak:
        begin = time.monotonic()
        await work()
        seconds = time.monotonic() - begin
    return Used(seconds, cpu(), peak.megabytes)


@contextmanager
def _cpu() -> Iterator[Callable[[], float]]:
    before = sum(os.times()[:4])
    yield lambda: sum(os.times()[:4]) - before


def _steady(store: Store, source: Path, shape: trees.Shape) -> dict[str, float]:
    """Return what the bookkeeping of changes costs, spread over the tree."""
    draw = random.Random(1)
    directories = shape.directory_paths()
    cpu, longest = 0.0, 0.0
    for _ in range(_BATCHES):
        chosen = {
            f"{draw.choice(directories)}/f{draw.randrange(shape.files)}".removeprefix("./") for _ in range(_CHANGES)
        }
        for path in chosen:
            os.chmod(source / path, 0o600)
        paths = sorted(map(os.fsencode, chosen))
        young = time.time_ns() - YOUNG_NS
        seen: dict[bytes, bytes | None] = {
            path: record_of(os.lstat(os.fsencode(source) + b"/" + path), young) for path in paths
        }
        began = time.monotonic()
        with _cpu() as used:
            store.hand_over(_TARGET, dict.fromkeys(paths, CONTENT), 0.0)
            store.confirm(_TARGET, Confirmed(seen))
            store.flushed(_TARGET, store.begin_flush())
        cpu += used()
        longest = max(longest, time.monotonic() - began)
    return {
        f"batch of {_CHANGES} changes, CPU ms": cpu / _BATCHES * 1000,
        f"batch of {_CHANGES} changes, longest, ms": longest * 1000,
    }


if __name__ == "__main__":
    sys.exit(main())
