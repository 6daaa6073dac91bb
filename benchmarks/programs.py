"""The programs that are compared, and how each is started at its best for the same job."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks import measure
from benchmarks.errors import BenchmarkError


class Job(NamedTuple):
    """What a program has to do."""

    source: Path
    destination: Path
    private: Path
    """A directory for what the program itself writes: configuration, lists, state, messages."""
    handler: Path | None = None
    """Run instead of rsync."""
    delay: int = 1
    """Seconds between a change and its batch."""
    rule: str = ""
    """A file name ending that is rejected, like `.tmp`."""
    initial_only: bool = False


class Program(NamedTuple):
    """A program that can be measured."""

    name: str
    command: Callable[[Job], list[str]]
    """Writes what configuration the program needs and returns its argv."""
    version: Callable[[], str]


def clsync_new(monitor: str, mode: str) -> Program:
    """Return our program with a monitor (`fanotify`, `inotify`) and a mode (`rsyncdirect`, `copy`)."""

    def command(job: Job) -> list[str]:
        argv = [str(our_clsync()), "--config-file=/NULL/", "-W", str(job.source), "-D", str(job.destination)]
        argv += ["-M", mode, f"--monitor={monitor}", "-t", str(job.delay), "-w", str(job.delay)]
        return argv + _clsync_options(job)

    return Program(f"clsync-new-{monitor}-{mode}", command, lambda: _first_line([str(our_clsync()), "-V"]))


def _clsync_old_command(job: Job) -> list[str]:
    argv = ["/usr/bin/clsync", "-H", "/NULL/", "-W", str(job.source), "-D", str(job.destination)]
    argv += ["-M", "rsyncdirect", "-t", str(job.delay), "-w", str(job.delay)]
    if job.handler is None:
        argv += ["-S", _rsync()]
    return argv + _clsync_options(job)


def _clsync_options(job: Job) -> list[str]:
    argv = []
    if job.handler is not None:
        argv += ["-S", str(job.handler)]
    if job.rule:
        rules = job.private / "rules"
        rules.write_text(f"-f{job.rule.replace('.', chr(92) + '.')}$\n+*\n")
        argv += ["-R", str(rules)]
    if job.initial_only:
        argv.append("--only-initialsync")
    return argv


_LSYNCD = """\
settings {{ nodaemon = true }}
sync {{
  default.rsync, source = "{source}/", target = "{destination}/", delay = {delay}, {exclude}
  rsync = {{ archive = true, hard_links = true, binary = "{binary}" }}
}}
"""


def _lsyncd_command(job: Job) -> list[str]:
    config = job.private / "lsyncd.lua"
    text = _LSYNCD.format(
        source=job.source,
        destination=job.destination,
        delay=job.delay,
        exclude=f'exclude = {{ "*{job.rule}" }},' if job.rule else "",
        binary=job.handler or _rsync(),
    )
    config.write_text(text)
    return ["/usr/bin/lsyncd", str(config)]


def _rsync_command(job: Job) -> list[str]:
    return [_rsync(), "-aH", f"{job.source}/", f"{job.destination}/"]


def _rsync() -> str:
    found = shutil.which("rsync")
    if found is None:
        raise BenchmarkError("rsync is not installed: apt-get install rsync")
    return found


def our_clsync() -> Path:
    """Return the clsync command that belongs to this interpreter, or the one of CLSYNC in the environment."""
    return Path(os.environ.get("CLSYNC") or Path(sys.executable).parent / "clsync")


def _first_line(argv: list[str]) -> str:
    """Return the first line a program prints, `` where it is not to be had."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[0].strip() if lines and not done.returncode else ""


CLSYNC_OLD = Program("clsync-0.4", _clsync_old_command, lambda: _first_line(["/usr/bin/clsync", "-V"]))
LSYNCD = Program("lsyncd", _lsyncd_command, lambda: _first_line(["/usr/bin/lsyncd", "-version"]))
RSYNC = Program("rsync", _rsync_command, lambda: _first_line(["rsync", "--version"]))


class Running:
    """A program that has been started."""

    def __init__(self, program: Program, process: subprocess.Popen[bytes], log: Path, started: float) -> None:
        self.name = program.name
        self.pid = process.pid
        self.started = started
        """time.monotonic() just before fork and exec."""
        self._process = process
        self._log = log

    def alive(self) -> None:
        """Raise BenchmarkError when the program has ended."""
        if self._process.poll() is not None:
            raise BenchmarkError(f"{self.name} ended with status {self._process.returncode}: {self.messages()}")

    def wait(self, timeout: float) -> float:
        """Wait for a program that is meant to end; return seconds since its start.

        Raises BenchmarkError when it fails or does not end.
        """
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise BenchmarkError(f"{self.name} has not ended after {timeout:.0f} s") from None
        seconds = time.monotonic() - self.started
        if code:
            raise BenchmarkError(f"{self.name} ended with status {code}: {self.messages()}")
        return seconds

    def messages(self) -> str:
        """Return the last it has said."""
        text = self._log.read_text(errors="replace")[-600:].strip()
        return " / ".join(text.splitlines()[-5:]) or "(no message)"

    def settle(self, quiet: float, timeout: float) -> None:
        """Wait until it is idle; raises BenchmarkError when it ends or stays busy."""
        idle = measure.settle(self.pid, quiet, time.monotonic() + timeout)
        self.alive()
        if not idle:
            raise BenchmarkError(f"{self.name} is still busy after {timeout:.0f} s")

    def stop(self) -> None:
        """End it with all its descendants."""
        family = measure.tree(self.pid)
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                family = measure.tree(self.pid)
                self._process.kill()
                self._process.wait()
        for pid in set(family) & set(measure.tree(os.getpid())):
            # An orphan has become our child; a number used anew by somebody else is not in our tree.
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


@contextlib.contextmanager
def started(program: Program, job: Job) -> Iterator[Running]:
    """Run a program for the time of a `with` block. Raises BenchmarkError when it is not there."""
    argv = program.command(job)
    log = job.private / "messages"
    env = dict(os.environ, TMPDIR=str(job.private), HOME=str(job.private))
    env |= {name: str(job.private) for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR")}
    env.pop("PYTHONPATH", None)
    with log.open("wb") as messages:
        begin = time.monotonic()
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=messages,
                stderr=messages,
                cwd="/",
                env=env,
                start_new_session=True,
            )
        except OSError as error:
            raise BenchmarkError(f"{program.name}: cannot run {argv[0]}: {error.strerror}") from error
    running = Running(program, process, log, begin)
    try:
        yield running
    finally:
        running.stop()
