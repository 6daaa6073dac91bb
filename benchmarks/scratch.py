"""Where the data of a run lies: made, measured for size, and removed whatever happens."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks import kernel
from benchmarks.errors import BenchmarkError


class Scratch:
    """One directory for all data in memory, one for all data on disk. Use `scratch()`."""

    def __init__(self, memory: Path, disk: Path, mounts: bool) -> None:
        self.memory = memory
        self.disk = disk
        self.mounts = mounts
        self._mounted: list[Path] = []

    def file_system(self, name: str) -> Path:
        """Return an empty directory in memory: a tmpfs of its own for root, else a plain directory."""
        path = self.memory / name
        path.mkdir()
        if self.mounts:
            kernel.mount_tmpfs(path)
            self._mounted.append(path)
        return path

    def ext4(self, name: str, size: int) -> Path:
        """Return an empty ext4 of `size` bytes, new and in memory; without root a directory on the disk.

        An aged ext4 looks long for free inodes: the same copy took 2 s on a new one and 22 s on the disk of a machine.
        """
        if not self.mounts:
            return self.directory(name, on_disk=True)
        image = self.memory / f"{name}.img"
        path = self.memory / name
        path.mkdir()
        with image.open("wb") as file:
            file.truncate(size)
        whole = "lazy_itable_init=0,lazy_journal_init=0"
        try:
            subprocess.run(["mkfs.ext4", "-q", "-i", "8192", "-E", whole, os.fspath(image)], check=True)
            subprocess.run(["mount", "-o", "loop", os.fspath(image), os.fspath(path)], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise BenchmarkError(f"cannot make an ext4 in memory: {error}") from error
        image.unlink()
        self._mounted.append(path)
        return path

    def directory(self, name: str, on_disk: bool = False) -> Path:
        """Return an empty directory everybody may write to (clsync 0.4 runs as nobody)."""
        path = (self.disk if on_disk else self.memory) / name
        path.mkdir()
        path.chmod(0o1777)
        return path

    def drop(self, path: Path) -> None:
        """Remove a file system or directory with all that is in it."""
        if path in self._mounted:
            kernel.unmount(path)
            self._mounted.remove(path)
            path.rmdir()
        else:
            subprocess.run(["rm", "-rf", "--", os.fspath(path)], check=True)

    @contextlib.contextmanager
    def place(self, name: str) -> Iterator[Path]:
        """Lend a file system (see `file_system`)."""
        path = self.file_system(name)
        try:
            yield path
        finally:
            self.drop(path)

    @contextlib.contextmanager
    def room(self, name: str, on_disk: bool = False) -> Iterator[Path]:
        """Lend a directory (see `directory`)."""
        path = self.directory(name, on_disk)
        try:
            yield path
        finally:
            self.drop(path)


@contextlib.contextmanager
def scratch(memory: Path, disk: Path) -> Iterator[Scratch]:
    """Make the two directories below `memory` and `disk`, and remove them at the end."""
    mounts = True
    try:
        kernel.private_mounts()
    except OSError:
        mounts = False
    with _temporary(memory) as in_memory, _temporary(disk) as on_disk:
        yield Scratch(in_memory, on_disk, mounts)


@contextlib.contextmanager
def _temporary(base: Path) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="clsync-bench-", dir=base)).resolve()
    path.chmod(0o755)
    try:
        yield path
    finally:
        subprocess.run(["rm", "-rf", "--one-file-system", "--", os.fspath(path)], check=False)


def require_memory(needed: int, what: str) -> None:
    """Raise BenchmarkError when `needed` bytes are not to be had."""
    available = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemAvailable")
    )
    if needed > available:
        raise BenchmarkError(
            f"{what} needs {needed / 1e9:.1f} GB of memory, {available / 1e9:.1f} GB are free: use a smaller --scale"
        )


def require_disk(needed: int, where: Path, what: str) -> None:
    """Raise BenchmarkError when the disk at `where` has not `needed` bytes free."""
    room = os.statvfs(where)
    free = room.f_bavail * room.f_frsize
    if needed > free:
        raise BenchmarkError(
            f"{what} needs {needed / 1e9:.1f} GB at {where}, {free / 1e9:.1f} GB are free: "
            "use --disk-dir or a smaller --scale"
        )


@contextlib.contextmanager
def raised(settings: Mapping[str, int]) -> Iterator[None]:
    """Raise settings below /proc/sys to at least the values given, and put them back at the end.

    A setting that somebody else has changed meanwhile is left as it is.
    """
    before: dict[Path, tuple[str, str]] = {}
    try:
        for name, least in settings.items():
            path = Path("/proc/sys") / name
            old = path.read_text().strip()
            if int(old) >= least:
                continue
            try:
                path.write_text(str(least))
            except OSError as error:
                raise BenchmarkError(
                    f"{name} is {old}, {least} are needed and it cannot be raised ({error.strerror}): run as root"
                ) from error
            before[path] = (old, str(least))
        yield
    finally:
        for path, (old, ours) in before.items():
            if path.read_text().strip() == ours:
                path.write_text(old)


def inotify_limits(directories: int, events: int) -> dict[str, int]:
    """Return the settings the inotify daemons need to watch `directories` and to queue `events`."""
    return {
        "fs/inotify/max_user_watches": 2 * directories + 65536,
        "fs/inotify/max_queued_events": max(events, 16384),
    }
