"""Child processes: spawned without blocking the loop, ended with everything they started."""

from __future__ import annotations

import errno
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Final

from clsync.kernel import roles
from clsync.kernel.sandbox import Sandbox, start_within

HERE: Final = b"\0"
"""A word of a command that stands for the directory it is started in, by a name that leads there whatever is mounted at,
or unmounted from, the path of that directory meanwhile."""
_AS_ITSELF: Final = b"/./"
"""What follows that name: it is no part of what rsync makes at the destination by `--relative`."""

_TRIAL: Final = 10.0
"""Seconds that Python may take to find our code."""


def spawn(
    argv: Sequence[bytes],
    *,
    cwd: int,
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    env: Mapping[bytes, bytes] | None = None,
    pass_fds: Sequence[int] = (),
    scanner: bool = False,
    keeper: bool = False,
    sandbox: Sandbox | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program in the directory behind the descriptor `cwd`, in a process group of its own.

    `HERE` among the words stands for that directory.
    It is run by who runs handlers (`kernel.roles`); a `scanner` by ourselves, with what reading the tree needs,
    one of who is the `keeper` of the state by that user, likewise.
    A script without `#!` is run by the shell, as execvp(3) does it. With a `sandbox` it can do no more than that allows.

    The signal mask and dispositions of the child are the default ones. Descriptors left None are inherited, and
    those in `pass_fds`.
    Raises OSError (ENOENT, EACCES, ...) where the program cannot be run.
    """

    def start(words: Sequence[bytes], cwd: int) -> subprocess.Popen[bytes]:
        # vfork is used (no preexec_fn, no user=): the cost does not grow with our memory.
        here = b"/proc/self/fd/%d" % cwd
        return subprocess.Popen(
            [here + _AS_ITSELF if word == HERE else word for word in words],
            cwd=here,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=env,
            pass_fds=(*pass_fds, cwd) if HERE in words else pass_fds,
            process_group=0,
            restore_signals=True,
        )

    def run(words: Sequence[bytes]) -> subprocess.Popen[bytes]:
        if sandbox is not None:
            return start_within(sandbox, cwd, partial(start, words))
        with roles.as_keeper() if keeper else roles.as_scanner() if scanner else roles.as_programs():
            return start(words, cwd)

    try:
        return run(argv)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
    # In a sandbox of its own: a namespace of processes ends with the first one, even if that could run nothing.
    return run([b"/bin/sh", *argv])


@functools.cache  # what is missing later is being upgraded, and no reason to do without a sandbox
def python_in_reach(*, of_programs: bool) -> bool:
    """Tell whether processes with our code can be started: another root may not have it, and users may not be let in.

    `of_programs`: by who runs handlers. Waits for a process, the first time.
    """
    with roles.as_programs() if of_programs else nullcontext():
        if not (os.path.exists(__file__) and os.access(sys.executable, os.X_OK, effective_ids=True)):
            return False
    # Isolated, as ours are started, Python does not look where PYTHONPATH says, nor among the packages of a user.
    try:
        return _code_of_trial(of_programs) <= 0
    except OSError:
        return True  # who starts one is told why that fails


def _code_of_trial(of_programs: bool) -> int:
    """Return with what a process ends that does no more than to find our code; negative: nobody can tell."""
    words = [os.fsencode(sys.executable), b"-I", b"-c", b"import clsync"]
    root, nothing = os.open(b"/", os.O_PATH | os.O_DIRECTORY), os.open(os.devnull, os.O_RDWR)
    try:
        child = spawn(words, cwd=root, stdin=nothing, stdout=nothing, stderr=nothing, scanner=not of_programs)
    finally:
        os.close(nothing)
        os.close(root)
    try:
        return child.wait(_TRIAL)
    except subprocess.TimeoutExpired:
        signal_group(child.pid, signal.SIGKILL)
        return child.wait()


def signal_group(pid: int, number: int) -> None:
    """Send a signal to a child's whole process group; nothing happens where it is gone."""
    try:
        with roles.as_programs():
            os.killpg(pid, number)
    except ProcessLookupError:
        pass
    except PermissionError:
        os.killpg(pid, number)  # it has become somebody else: CAP_KILL counts for ourselves


_WAITS_FOR_FIFO = (b"wait_for_partner", b"fifo_open")
_WAITS_FOR_OTHERS = (b"poll_schedule_timeout", b"do_select", b"do_sys_poll", b"do_epoll_wait", b"ep_poll")


def activity(pid: int, *, alone: bool = False) -> tuple[int, ...] | None:
    """Return figures that change as long as a process or (unless it counts `alone`) a descendant does anything at all.

    None where one of them waits for something else than for another process: a disk, a lock, a signal. Where one
    waits for somebody to open the other end of a fifo, it alone counts.
    Sources: proc_pid_stat(5), proc_pid_io(5), /proc/PID/wchan, /proc/PID/task/PID/children (Linux 3.5).
    """
    figures: list[int] = []
    pending = [pid]
    others_only = True
    try:
        while pending:
            one = pending.pop()
            if not alone:
                pending += map(int, _read(b"/proc/%d/task/%d/children" % (one, one)).split())
            waits = _read(b"/proc/%d/wchan" % one)
            if waits.startswith(_WAITS_FOR_FIFO):
                return (one,)
            fields = _read(b"/proc/%d/stat" % one).rpartition(b")")[2].split()
            others_only &= waits.startswith(_WAITS_FOR_OTHERS) and fields[0] == b"S"
            figures += [one, int(fields[11]), int(fields[12])]
            figures += [int(line.split()[1]) for line in _read(b"/proc/%d/io" % one).splitlines()[:4]]
    except (OSError, IndexError):
        return None
    return tuple(figures) if others_only else None


def _read(path: bytes) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.read(4096)


def started_ns() -> int:
    """Return the wall-clock time (ns) at which this process began, to a hundredth of a second (proc_pid_stat(5))."""
    ticks = int(_read(b"/proc/self/stat").rpartition(b")")[2].split()[19])
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time_ns() - int(age * 1e9)


def group_alive(group: int) -> bool:
    """Tell whether a process group has a member that still runs (zombies do not)."""
    return bool(_members(group))


def signal_last(group: int, number: int) -> None:
    """Send a signal to those members of a child's process group that have started no other one of it."""
    members = _members(group)
    for pid in members.keys() - {*members.values()}:
        try:
            with roles.as_programs():
                os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            pass  # the group is signalled later, anyway


def _members(group: int) -> dict[int, int]:
    """Return the members of a process group that still run -> their parents."""
    found: dict[int, int] = {}
    for name in os.listdir(b"/proc"):
        if name.isdigit():
            try:
                fields = _read(b"/proc/%s/stat" % name).rpartition(b")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == group and fields[0] not in b"ZX":
                found[int(name)] = int(fields[1])
    return found


def exit_text(code: int) -> str:
    """Describe a `Popen.returncode` for a person."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def is_stopped(pid: int) -> bool:
    """Tell whether a process was stopped (SIGSTOP, a debugger), as /proc/PID/stat says it; False where it does not."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1] in (b"T", b"t")
    except OSError:
        return False
