"""Processes and threads that cannot be started: a limit of the system is reached, and the operator can mend that."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from clsync.errors import Exit, OperatorError
from clsync.options import Settings

_NO_THREAD: Final = "can't start new thread"
"""What Python says of it: there is no error of its own for that."""


@contextmanager
def told_of_limits(settings: Settings) -> Iterator[None]:
    """Let what fails for want of processes and threads be an error of the operator's. Raises OperatorError."""
    try:
        yield
    except (BlockingIOError, RuntimeError) as error:
        if isinstance(error, BlockingIOError) and error.errno != errno.EAGAIN:
            raise
        if isinstance(error, RuntimeError) and str(error) != _NO_THREAD:
            raise
        raise _trouble(settings) from None


def _trouble(settings: Settings) -> OperatorError:
    what = "no more processes and threads can be started"
    if settings.cgroup_pids:
        where, hint = f"--cgroup-pids={settings.cgroup_pids}: ", "allow 20 and more, or leave it out"
    else:
        where, hint = "", "raise the limit: ulimit -u, TasksMax= of a unit, or pids.max of the group"
    return OperatorError(where + what, hint, Exit.PRIVILEGE)
