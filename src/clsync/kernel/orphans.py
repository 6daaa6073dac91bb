"""Programs that a process which was killed has left behind: found by a mark in their environment.

The mark says when their starter began and what they work for. A starter that lives is an ancestor of theirs; who is
left was given to another parent.

All that carries a mark of ours is left over. A program of the operator's may have begun something that is to stay: there
it is a program that is still at work itself, known by its name, in the group that it leads and in its starter's session,
and with it this group.
"""

from __future__ import annotations

import os
import signal
from typing import Final, NamedTuple

from clsync.kernel import roles

_VARIABLE: Final = b"CLSYNC_WORKS_FOR"
_ANY: Final = b"-"
"""In place of a session."""
_WORDS: Final = 4


class _Found(NamedTuple):
    """What proc_pid_stat(5) says of a process that runs."""

    parent: int
    group: int
    session: bytes
    began: bytes
    """Ticks."""


def work_of(root: int, target: bytes) -> bytes:
    """Return a name for the work of copying the directory with the descriptor `root` to a target."""
    found = os.fstat(root)
    return b"%d:%d %s" % (found.st_dev, found.st_ino, target)


def mark(work: bytes, *, theirs: bool = False) -> dict[bytes, bytes]:
    """Return what is to be in the environment of a program that this process starts; `theirs`: of the operator's."""
    try:
        found = _stat(os.getpid())
    except OSError:
        return {}  # there is no /proc
    return {_VARIABLE: b"%s %s %s" % (found.began, found.session if theirs else _ANY, work)}


def orphans(work: bytes, program: bytes = b"") -> list[int]:
    """Return the processes that do the same work for nobody, groups as negative numbers (kill(2)).

    `program`: the operator's. Those into which we may not look are not found.
    """
    if os.getpid() == 1:
        return []  # who starts everything here has lived all the time
    try:
        return [
            left for name in os.listdir("/proc") if name.isdigit() and (left := _looked(int(name), work, program))
        ]
    except OSError:
        return []  # it is not mounted here


def _looked(pid: int, work: bytes, program: bytes) -> int:
    """Return what is to be ended of a process, 0: nothing."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            marks = [v for v in file.read().split(b"\0") if v.startswith(_VARIABLE + b"=")]
        return _left(pid, marks[0].partition(b"=")[2], work, program) if marks else 0
    except (OSError, IndexError, ValueError):
        return 0  # it has ended, is not ours to look into, or has somebody else's mark


def end(one: int, number: signal.Signals) -> None:
    """Send a signal to one of them, if it is still there. Raises OSError where that is not allowed."""
    try:
        with roles.as_programs():
            os.kill(one, number)
    except ProcessLookupError:
        pass


def _left(pid: int, text: bytes, work: bytes, program: bytes) -> int:
    """Return what is to be ended of the process with this mark: itself, or its group; 0: nothing.

    Raises OSError, IndexError, ValueError.
    """
    began, session, other = text.split(b" ", 2)
    if other != work:
        return 0
    found = _stat(pid)
    group = session != _ANY
    if group and (found.group != pid or found.session != session or not _runs(pid, program)):
        return 0
    while found.began != began:
        if found.parent <= 1:
            return -pid if group else pid
        found = _stat(found.parent)
    return 0


def _runs(pid: int, program: bytes) -> bool:
    """Tell whether a process runs a program, or what that is written for: an interpreter has few words before it."""
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return program in file.read().split(b"\0")[:_WORDS]


def _stat(pid: int) -> _Found:
    """Look at a process. Raises OSError, IndexError."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    if fields[0] in b"ZX":
        raise ProcessLookupError(pid)
    return _Found(int(fields[1]), int(fields[2]), fields[3], fields[19])
