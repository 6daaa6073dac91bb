"""Programs that a process which was killed has left behind: found by a mark in their environment.

The mark says when their starter began and what they work for. A starter that lives is an ancestor of theirs; who is
left was given to another parent.
"""

from __future__ import annotations

import os
import signal
from typing import Final

from clsync.kernel import roles

_VARIABLE: Final = b"CLSYNC_WORKS_FOR"


def work_of(root: int, target: bytes) -> bytes:
    """Return a name for the work of copying the directory with the descriptor `root` to a target."""
    found = os.fstat(root)
    return b"%d:%d %s" % (found.st_dev, found.st_ino, target)


def mark(work: bytes) -> dict[bytes, bytes]:
    """Return what is to be in the environment of a program that this process starts."""
    try:
        return {_VARIABLE: b"%s %s" % (_stat(os.getpid())[1], work)}
    except OSError:
        return {}  # there is no /proc


def orphans(work: bytes) -> list[int]:
    """Return the processes that do the same work for nobody; those into which we may not look are not found."""
    found = []
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []  # it is not mounted here
    for pid in pids:
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                marks = [v for v in file.read().split(b"\0") if v.startswith(_VARIABLE + b"=")]
            if marks and not _kept(pid, marks[0].partition(b"=")[2], work):
                found.append(pid)
        except (OSError, IndexError):
            continue  # it has ended, or is not ours to look into
    return found


def end(pid: int, number: signal.Signals) -> None:
    """Send a signal to one of them, if it is still there. Raises OSError where that is not allowed."""
    try:
        with roles.as_programs():
            os.kill(pid, number)
    except ProcessLookupError:
        pass


def _kept(pid: int, text: bytes, work: bytes) -> bool:
    """Tell whether a process works for something else, or for a starter that lives."""
    began, _, other = text.partition(b" ")
    if other != work:
        return True
    while pid > 1:
        parent, its_begin = _stat(pid)
        if its_begin == began:
            return True
        pid = parent
    return False


def _stat(pid: int) -> tuple[int, bytes]:
    """Return parent and time of the start (ticks) of a process (proc_pid_stat(5)). Raises OSError, IndexError."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    if fields[0] in b"ZX":
        raise ProcessLookupError(pid)
    return int(fields[1]), fields[19]
