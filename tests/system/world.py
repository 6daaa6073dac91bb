"""A source and a destination, and the installed program between them."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.daemon import Argument, Daemon, installed
from tests.support.environment import INHERITED
from tests.support.trees import Ignore, compare_trees, report

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
QUICK = ("-t0.05", "-w0.05")
"""Delays of most tests: short, but a window all the same."""
AT_ONCE = ("-t0", "-w0")
MODES = ("rsyncdirect", "copy")
"""The modes that make exact mirrors."""
WATCHING = "Info: watching "
SYNCED = "Info: initial sync done "


class Ended(NamedTuple):
    """What a run that has ended leaves."""

    code: int
    out: str
    err: str

    @property
    def troubles(self) -> list[str]:
        """The lines of standard error that tell of trouble."""
        return [line for line in self.err.splitlines() if not line.startswith("Info: ")]

    def complaint(self, code: int) -> tuple[str, str]:
        """Return the message and the hint; there must be just these, and this exit code."""
        assert "Traceback" not in self.err, self.err
        assert self.code == code, f"exit code {self.code}, not {code}\n{self.err}"
        assert self.out == "", self.out
        lines = self.troubles
        assert len(lines) == 2, f"not a message and a hint:\n{self.err}"
        assert all(line.startswith("clsync: ") and len(line) > 12 for line in lines), self.err
        return lines[0].removeprefix("clsync: "), lines[1].removeprefix("clsync: ")


class World:
    """Two directories below `top`, and ways to run clsync between them."""

    def __init__(self, top: Path) -> None:
        """Make the directories."""
        self.top = Path(os.path.realpath(top))
        self.source, self.destination = self.top / "source", self.top / "destination"
        for path in (self.source, self.destination):
            path.mkdir(exist_ok=True)
        self.environment: dict[str, str] = {"HOME": str(self.top)}

    @property
    def trees(self) -> tuple[str, str]:
        """The options for the two directories."""
        return f"-W{self.source}", f"-D{self.destination}"

    # Trees

    def write(self, name: str, text: str = "") -> Path:
        """Write a file of the source, directories above it included."""
        path = self.source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text or name)
        return path

    def copied(self, name: str) -> str | None:
        """Return the text of a file at the destination, None where there is none."""
        try:
            return (self.destination / name).read_text()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def file(self, name: str, text: str, mode: int = 0o644) -> Path:
        """Write a file beside the trees."""
        path = self.top / name
        path.write_text(text)
        path.chmod(mode)
        return path

    def demand_equal(self, ignore: Ignore | None = None) -> None:
        """Fail if the trees differ."""
        differences = compare_trees(bytes(self.source), bytes(self.destination), ignore)
        assert not differences, report(differences)

    def wait_for_equal(self, daemon: Daemon, timeout: float = 20, ignore: Ignore | None = None) -> None:
        """Wait (s) until the trees are equal."""
        daemon.wait_for_equal(bytes(self.source), bytes(self.destination), timeout, ignore)

    def wait_for_copy(self, daemon: Daemon, name: str, text: str | None = None) -> None:
        """Wait until a file stands at the destination as `write` wrote it."""
        daemon.wait_until(lambda: self.copied(name) == (text or name), what=f"{name} at the destination")

    # Runs

    def daemon(self, *args: Argument, env: Mapping[str, str] | None = None, delays: Sequence[str] = QUICK) -> Daemon:
        """Return the program with both directories and short delays, not started."""
        return Daemon(*self.trees, *delays, *args, env={**self.environment, **(env or {})}, cwd=self.top)

    def bare(self, *args: Argument, env: Mapping[str, str] | None = None) -> Daemon:
        """Return the program with nothing but these arguments, not started."""
        return Daemon(*args, env={**self.environment, **(env or {})}, cwd=self.top)

    def run(
        self,
        *args: Argument,
        env: Mapping[str, str] | None = None,
        head: Sequence[Argument] = (),
        timeout: float = 120,
    ) -> Ended:
        """Run the program with nothing but these arguments until it ends (s); `head` is put before it.

        It leads a session of its own: else all such runs of all tests would share what one daemon has of a busy
        machine, where the kernel divides that by sessions (sched(7), autogroups), and a run take half a minute.
        """
        done = subprocess.run(
            [*head, installed(), *args],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={**INHERITED, **self.environment, **(env or {})},
            cwd=self.top,
            timeout=timeout,
            check=False,
            start_new_session=True,
        )
        return Ended(done.returncode, done.stdout.decode(), done.stderr.decode("utf-8", "backslashreplace"))


@contextmanager
def mounted(kind: str, place: Path, options: str = "", device: str = "none") -> Iterator[Path]:
    """Mount something for a while (needs root); `kind` "bind" binds `device`."""
    place.mkdir(parents=True, exist_ok=True)
    mount(kind, place, options, device)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=False, capture_output=True)


def mount(kind: str, place: Path, options: str = "", device: str = "none") -> None:
    """Mount something."""
    how = ["--bind"] if kind == "bind" else ["-t", kind]
    subprocess.run(["mount", *how, *(["-o", options] if options else []), device, place], check=True)


def unmount(place: Path, timeout: float = 20) -> None:
    """Unmount what is mounted there, trying again (s) while a handler at work makes it busy."""
    deadline = time.monotonic() + timeout
    while (done := subprocess.run(["umount", place], check=False, capture_output=True)).returncode:
        assert time.monotonic() < deadline, f"{done.stderr.decode()}{holders(place)}"
        time.sleep(0.02)


def holders(place: Path) -> str:
    """Return the processes that hold something below a directory, for messages."""
    found = []
    for link in [*Path("/proc").glob("[0-9]*/fd/*"), *Path("/proc").glob("[0-9]*/cwd")]:
        try:
            if Path(os.readlink(link)).is_relative_to(place):
                found.append(f"{link} -> {os.readlink(link)}")
        except OSError:
            continue
    return "\n".join(found)


def states(world: World) -> Path:
    """Return a place for states that who has no rights can get to, too."""
    return Path(INHERITED["STATE_DIRECTORY"], str(world.top).replace("/", "_"))


@contextmanager
def memory_directory() -> Iterator[Path]:
    """Give a directory on tmpfs."""
    with tempfile.TemporaryDirectory(prefix="clsync-system-", dir="/dev/shm") as name:
        yield Path(name)
