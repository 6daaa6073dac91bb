"""Child processes: spawned without blocking the loop, ended with everything they started."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence


def spawn(
    argv: Sequence[bytes],
    *,
    cwd: int,
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    env: Mapping[bytes, bytes] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program in the directory behind the descriptor `cwd`, in a process group of its own.

    The signal mask and dispositions of the child are the default ones. Descriptors left None are inherited.
    Raises OSError (ENOENT, EACCES, ...) where the program cannot be run.
    """
    # vfork is used (no preexec_fn, no user=): the cost does not grow with our memory.
    return subprocess.Popen(
        list(argv),
        cwd=b"/proc/self/fd/%d" % cwd,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env=env,
        process_group=0,
        restore_signals=True,
    )


def signal_group(pid: int, number: int) -> None:
    """Send a signal to a child's whole process group; nothing happens where it is gone."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        pass


def exit_text(code: int) -> str:
    """Describe a `Popen.returncode` for a person."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
