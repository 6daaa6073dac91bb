"""The installed program as a child process.

    with Daemon("-W", source, "-D", destination, "-t0.1") as daemon:
        daemon.wait_for_equal(source, destination)
        daemon.stop()

Leaving the block ends the program and everything it started, whatever happened.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.environment import INHERITED
from tests.support.trees import Difference, Ignore, compare_trees, report

Argument = str | bytes | os.PathLike[str]

_MARK = "CLSYNC_TEST_RUN"
_TAIL = 12000


def installed() -> str:
    """Return the path of the program: $CLSYNC, else the `clsync` beside the running interpreter."""
    return os.environ.get("CLSYNC") or str(Path(sys.executable).with_name("clsync"))


class Daemon:
    """Runs `clsync` with `args` (or another `program`), output of both descriptors kept in a file."""

    def __init__(
        self,
        *args: Argument,
        env: Mapping[str, str] | None = None,
        cwd: Argument | None = None,
        program: Sequence[Argument] | None = None,
    ) -> None:
        """Take what to run; `env` is added to the environment, `program` replaces `clsync` (argv head)."""
        self.command = [*(program or (installed(),)), *args]
        self._mark = uuid.uuid4().hex
        self.environment = {**INHERITED, "PYTHONUNBUFFERED": "1", **(env or {}), _MARK: self._mark}
        self._cwd = cwd
        self._log = tempfile.TemporaryFile()
        self.process: subprocess.Popen[bytes] | None = None

    # Life

    def start(self) -> Self:
        """Start the program. It leads a session of its own."""
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=self.environment,
            cwd=self._cwd,
            start_new_session=True,
        )
        return self

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        try:
            if kind is None and self.running:
                self.stop()
        finally:
            self.kill()
            self._log.close()

    def stop(self, sent: int = signal.SIGTERM, *, code: int | None = 0, timeout: float = 10) -> int:
        """Send a signal, wait (s) for the end and return the exit code.

        TERM and INT may interrupt a handler: then 3 is as good as 0.

        Raises AssertionError if the program does not end in time, ends with another code than `code` (None:
        any), has printed a traceback or leaves processes behind.
        """
        if self.running:
            self._child.send_signal(sent)
        if code != 0 or sent not in (signal.SIGTERM, signal.SIGINT):
            return self.wait(code=code, timeout=timeout)
        ended = self.wait(code=None, timeout=timeout)
        assert ended in (0, 3), f"exit code {ended}\n{self.tail}"
        return ended

    def wait(self, *, code: int | None = 0, timeout: float = 60) -> int:
        """Wait (s) for a program that ends by itself; same checks and result as `stop`."""
        try:
            ended = self._child.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout} s\n{self.tail}") from None
        assert "Traceback (most recent call last)" not in self.output, self.output
        assert code is None or ended == code, f"exit code {ended}, not {code}\n{self.tail}"
        self._wait_for_heirs()
        return ended

    def kill(self) -> None:
        """End the program and its descendants at once, also those that left its session."""
        while family := self.family():
            for pid in family:
                _send(pid, signal.SIGKILL)
            if self.process is not None:
                self.process.wait()
            time.sleep(0.002)

    @property
    def running(self) -> bool:
        """Whether the program itself is alive."""
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        """The process id of the program."""
        return self._child.pid

    @property
    def _child(self) -> subprocess.Popen[bytes]:
        assert self.process is not None, "not started"
        return self.process

    # What it says

    @property
    def output(self) -> str:
        """Everything printed so far."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode("utf-8", "backslashreplace")

    @property
    def tail(self) -> str:
        """The last part of the output."""
        output = self.output
        return output if len(output) <= _TAIL else "...\n" + output[-_TAIL:]

    # What it is waited for

    def wait_until(self, condition: Callable[[], bool], timeout: float = 20, what: str = "the condition") -> None:
        """Wait (s) until `condition` holds. Raises AssertionError with the output when it does not, or cannot."""
        deadline = time.monotonic() + timeout
        while not condition():
            if not self.running:
                code = self._child.returncode
                assert condition(), f"ended with {code} before {what}\n{self.tail}"
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"{what} did not come about in {timeout} s\n{self.tail}")
            time.sleep(0.005)

    def wait_for_log(self, text: str, timeout: float = 20) -> None:
        """Wait (s) until `text` has been printed."""
        self.wait_until(lambda: text in self.output, timeout, f"{text!r} in the output")

    def wait_for_equal(
        self,
        source: bytes,
        destination: bytes,
        timeout: float = 20,
        ignore: Ignore | None = None,
        *,
        xattrs: bool = False,
    ) -> None:
        """Wait (s) until both trees are equal. Raises AssertionError that names the differences."""
        last: list[Difference] = []

        def equal() -> bool:
            last[:] = compare_trees(source, destination, ignore, xattrs=xattrs)
            return not last

        try:
            self.wait_until(equal, timeout, "equality")
        except AssertionError as error:
            raise AssertionError(f"{report(last)}\n{error}") from None

    # Its processes

    @contextmanager
    def held(self) -> Iterator[None]:
        """Stop all its processes meanwhile: what is done then is seen at once, however long a busy disk takes for it."""
        held: set[int] = set()
        while more := set(self.family()) - held:  # what it has started meanwhile
            held |= more
            self._signal(more, signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal(held, signal.SIGCONT)

    @staticmethod
    def _signal(pids: Iterable[int], number: int) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):  # ended meanwhile
                os.kill(pid, number)

    def descendants(self, word: bytes = b"") -> list[int]:
        """Return the processes the program has started, theirs included; a second one that is the program is not.

        `word`: those alone that have it in their command line.

        It is the program if it goes by the same command line (see --splitting).
        """
        parents = {pid: parent for pid, parent, _ in _processes()}
        found = {self.pid}
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        own = _read(f"/proc/{self.pid}/cmdline")
        return sorted(
            pid
            for pid in found
            if pid != self.pid
            and word in (command := _read(f"/proc/{pid}/cmdline"))
            and (parents[pid] != self.pid or command != own)
        )

    def at_work(self) -> list[int]:
        """Return the processes it has started, but for those that copy: one of them waits for what comes next."""
        copying = self.descendants(b"clsync.handler.copy.worker")
        return [pid for pid in self.descendants() if pid not in copying]

    def family(self) -> list[int]:
        """Return all living processes of this run, orphans too: by session and by a mark in the environment."""
        if self.process is None:
            return []
        mark = f"{_MARK}={self._mark}".encode()
        own = self.process.pid
        return [pid for pid, _, session in _processes() if pid == own or session == own or mark in _environment(pid)]

    def _wait_for_heirs(self) -> None:
        deadline = time.monotonic() + 20  # what ends by itself has its time on a busy machine; what stays, stays
        while heirs := self.family():
            if time.monotonic() > deadline:
                raise AssertionError(f"processes left behind: {commands(heirs)}\n{self.tail}")
            time.sleep(0.01)


def _processes() -> Iterator[tuple[int, int, int]]:
    """Yield (pid, parent, session) of every process that is not a zombie (proc_pid_stat(5))."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            fields = _read(f"/proc/{name}/stat").rpartition(b")")[2].split()
            if fields and fields[0] not in (b"Z", b"X"):
                yield int(name), int(fields[1]), int(fields[3])


def _environment(pid: int) -> bytes:
    return _read(f"/proc/{pid}/environ")


def commands(pids: Iterable[int]) -> list[str]:
    """Return the beginnings of the command lines of processes, for messages; nothing of those that have ended."""
    lines = (_read(f"/proc/{pid}/cmdline").replace(b"\0", b" ") for pid in pids)
    return [line.decode("utf-8", "backslashreplace")[:200] for line in lines]


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
