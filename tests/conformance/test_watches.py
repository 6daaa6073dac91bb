"""inotify watches stand where the monitor thinks they do, however fast directories are moved and exchanged."""

from __future__ import annotations

import os
import random
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clsync.core.rules import Rules
from clsync.kernel.inotify import add_watch
from clsync.monitor.inotify import InotifyMonitor
from tests.support.monitors import exchange
from tests.support.seeds import fresh_seeds

NAMES = "abcd"


def directories(top: Path) -> list[Path]:
    return sorted(Path(path) for path, _, _ in os.walk(top))


def shuffle(top: Path, generator: random.Random, count: int) -> None:
    """Make, move, exchange and remove directories."""
    for _ in range(count):
        one, other = generator.choice(directories(top)), generator.choice(directories(top))
        try:
            match generator.randrange(8):
                case 0 | 1:
                    (one / generator.choice(NAMES)).mkdir()
                case 2 | 3 | 4:
                    one.rename(other / generator.choice(NAMES))
                case 5 | 6:
                    exchange(one, other)
                case _ if one != top:
                    shutil.rmtree(one)
        except OSError:
            pass  # below itself, not empty, gone


def misplaced(monitor: InotifyMonitor, top: Path) -> Iterator[str]:
    """Yield the directories that are watched under another name, or not at all."""
    for path in directories(top):
        watch = add_watch(monitor._instance, bytes(path))
        said = monitor._tree.path(watch) if watch in monitor._tree else None
        if said != os.fsencode("" if path == top else path.relative_to(top)):
            yield f"{path.relative_to(top)}: {said!r}"


@pytest.mark.parametrize("seed", [203, 104, *fresh_seeds(1)])
def test_watches_follow_directories(tmp_path: Path, seed: int) -> None:
    print(f"seed: {seed}")
    generator = random.Random(seed)
    top = tmp_path / "top"
    for first in NAMES:
        for second in NAMES:
            (top / first / second / "a").mkdir(parents=True)
    monitor = InotifyMonitor(bytes(top), b"", Rules())
    try:
        for _ in monitor.arm():
            pass
        for _ in range(25):
            writer = threading.Thread(target=shuffle, args=(top, generator, generator.randint(5, 60)))
            writer.start()
            while writer.is_alive():
                monitor.drain()
                time.sleep(random.random() * 0.012)  # as events are read while a window is open
            writer.join()
            until = time.monotonic() + 10
            while list(misplaced(monitor, top)) and time.monotonic() < until:
                monitor.drain()
                time.sleep(0.005)
            assert not list(misplaced(monitor, top))
            assert list(monitor.take()) is not None
    finally:
        monitor.close()
