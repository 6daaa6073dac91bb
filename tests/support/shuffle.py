"""Shuffles a tree in which size and time tell no file from another: what is taken for something else shows as content.

python -m tests.support.shuffle --seeds 1..30 --mode rsyncdirect --monitor fanotify
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.support.daemon import Daemon, installed
from tests.support.monitors import exchange

_TIME = 10**18
NAMES = ("a", "b", "c", "d")


class Shuffler:
    """Changes a tree at random, mostly by renames."""

    def __init__(self, top: Path, outside: Path, seed: int) -> None:
        """`top` is empty, and becomes a tree of a few levels; things leave it for `outside`, and come from there."""
        self.top, self._outside, self._random = top, outside, random.Random(seed)
        self._number = 0
        for _ in range(40):
            self._make()

    def act(self, most: int = 12) -> None:
        """Make a few changes."""
        for _ in range(self._random.randint(1, most)):
            what = self._random.choice(
                (
                    self._rename,
                    self._rename,
                    self._rename,
                    self._rename,
                    self._swap,
                    self._make,
                    self._remove,
                    self._write,
                    self._leave_or_come,
                )
            )
            try:
                what()
            except OSError:
                continue  # into itself, over what is not empty, or of another kind: as it happens

    def _all(self) -> list[Path]:
        return sorted(self.top.rglob("*"))

    def _directory(self) -> Path:
        return self._random.choice([self.top, *(path for path in self._all() if path.is_dir())])

    def _name(self) -> Path:
        return self._directory() / self._random.choice(NAMES)

    def _make(self) -> None:
        path = self._name()
        if path.exists():
            return
        if self._random.random() < 0.5:
            path.mkdir()
        else:
            self._fill(path)

    def _fill(self, path: Path) -> None:
        self._number += 1
        with open(path, "r+b" if path.exists() else "wb") as file:
            file.write(b"%08d" % self._number)
        os.utime(path, ns=(_TIME, _TIME))

    def _write(self) -> None:
        files = [path for path in self._all() if path.is_file()]
        if files:
            self._fill(self._random.choice(files))

    def _rename(self) -> None:
        if paths := self._all():
            self._random.choice(paths).rename(self._name())

    def _swap(self) -> None:
        if paths := self._all():
            exchange(self._random.choice(paths), self._random.choice(paths))

    def _remove(self) -> None:
        if paths := self._all():
            path = self._random.choice(paths)
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _leave_or_come(self) -> None:
        away = self._outside / self._random.choice(NAMES)
        if self._random.random() < 0.5:
            away.rename(self._name())
        elif paths := self._all():
            self._random.choice(paths).rename(away)


def play(daemon: Daemon, shuffler: Shuffler, destination: Path, turns: int, seed: int) -> None:
    """Shuffle, at times without waiting for what was before. Raises AssertionError where the trees stay different."""
    pace = random.Random(seed)
    for _ in range(turns):
        shuffler.act()
        if pace.random() < 0.5:
            daemon.wait_for_equal(bytes(shuffler.top), bytes(destination))
        else:
            time.sleep(pace.choice((0.0, 0.01, 0.1, 0.3)))  # anything is a fit moment
    daemon.wait_for_equal(bytes(shuffler.top), bytes(destination))


def _run(seed: int, options: argparse.Namespace) -> tuple[bool, int]:
    places = random.Random(seed).choice(
        (("/dev/shm", "/dev/shm"), ("/var/tmp", "/var/tmp"), ("/dev/shm", "/var/tmp"))
    )
    with (
        tempfile.TemporaryDirectory(dir=places[0]) as one,
        tempfile.TemporaryDirectory(dir=places[0]) as outside,
        tempfile.TemporaryDirectory(dir=places[1]) as other,
    ):
        shuffler = Shuffler(Path(one), Path(outside), seed)
        delays = random.Random(seed).choice((("-t0", "-w0"), ("-t0.05", "-w0"), ("-t0.2", "-w0.1")))
        arguments = [
            f"-W{one}",
            f"-D{other}",
            f"--mode={options.mode}",
            f"--monitor={options.monitor}",
            "-d1",
            *delays,
        ]
        with Daemon(*arguments, program=[options.program]) as daemon:
            try:
                daemon.wait_for_log("initial sync done")
                play(daemon, shuffler, Path(other), options.turns, seed)
            except AssertionError as error:
                print(f"seed {seed}: {error}", flush=True)
                return False, 0
            return True, daemon.output.count("renamed at")


def _main() -> int:
    parser = argparse.ArgumentParser(description="Shuffles trees of files that look alike, and compares.")
    parser.add_argument("--seeds", default="1..10")
    parser.add_argument("--mode", default="rsyncdirect")
    parser.add_argument("--monitor", default="fanotify")
    parser.add_argument("--turns", type=int, default=25)
    parser.add_argument("--program", default=installed())
    options = parser.parse_args()
    first, _, last = options.seeds.partition("..")
    failed = renamed = 0
    for seed in range(int(first), int(last or first) + 1):
        well, times = _run(seed, options)
        failed += not well
        renamed += times
    print(
        f"{options.mode} x {options.monitor}: seeds {options.seeds}, {failed} failed, {renamed} batches with renames"
    )
    return bool(failed)


if __name__ == "__main__":
    sys.exit(_main())
