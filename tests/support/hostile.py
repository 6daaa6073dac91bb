"""Somebody else with a hand in a directory: what he plants there, and what he must not reach."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.rights import NOBODY

_LINKS = 400


class Victim:
    """A file and a directory of root's that nobody else may touch, and how they were."""

    def __init__(self, top: Path) -> None:
        """Make both below `top`, a directory of root's alone."""
        self.top = top
        top.mkdir(mode=0o700)
        self.file, self.directory = top / "file", top / "directory"
        self.file.write_text("secret")
        self.file.chmod(0o600)
        self.directory.mkdir(mode=0o700)
        self._before = self._state()

    def _state(self) -> object:
        looked = [path.lstat() for path in (self.top, self.file, self.directory)]
        return (
            self.file.read_text(),
            [(found.st_mode, found.st_uid, found.st_gid) for found in looked],
            sorted(path.name for path in self.top.rglob("*")),
        )

    def demand_untouched(self) -> None:
        """Fail if anything about it has changed."""
        assert self._state() == self._before


def hostile_directory(path: Path, mode: int = 0o755) -> Path:
    """Make a directory that belongs to nobody (the user of that name)."""
    path.mkdir()
    os.chown(path, NOBODY, NOBODY)
    path.chmod(mode)
    for above in list(path.parents)[:3]:
        above.chmod(above.stat().st_mode | 0o111)
    return path


@contextmanager
def swapping(directory: Path, names: Sequence[str], victim: Victim) -> Iterator[None]:
    """Put symlinks, hard links, FIFOs and files in the place of some names, in a loop, as who owns the directory."""
    for number in range(_LINKS):
        # Where fs.protected_hardlinks is off, he could make them himself.
        os.link(victim.file, directory / f"link-{number}")
    pid = os.fork()
    if not pid:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            _swap(directory, names, victim)
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        for number in range(_LINKS):
            with suppress(FileNotFoundError):
                (directory / f"link-{number}").unlink()
        for name in names:
            with suppress(FileNotFoundError):
                (directory / name).unlink()


def _swap(directory: Path, names: Sequence[str], victim: Victim) -> None:
    links, spare = iter(range(_LINKS)), directory / "spare"
    while True:
        for name in names:
            for kind in ("symlink", "file", "link", "fifo", "nothing"):
                with suppress(OSError):
                    if kind == "symlink":
                        spare.symlink_to(victim.file)
                    elif kind == "file":
                        spare.write_text("9999999")
                    elif kind == "fifo":
                        os.mkfifo(spare)
                    elif kind == "link" and (number := next(links, None)) is not None:
                        os.rename(directory / f"link-{number}", spare)
                    if kind == "nothing":
                        (directory / name).unlink()
                    else:
                        os.rename(spare, directory / name)
                time.sleep(0.0005)
