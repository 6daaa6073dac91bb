"""Priorities of processes: nice values and I/O classes (setpriority(2), ioprio_set(2), Linux 2.6.13)."""

from __future__ import annotations

import ctypes
import os
import platform
import threading
from typing import Final, NamedTuple

from clsync.kernel import roles
from clsync.kernel.libc import LIBC, checked

IO_CLASSES: Final = {"realtime": 1, "best-effort": 2, "idle": 3}
_IOPRIO_SET: Final = {
    "x86_64": 251, "aarch64": 30, "riscv64": 30, "loongarch64": 30, "i686": 289, "armv7l": 314, "ppc64le": 273,
    "s390x": 282,
}  # fmt: skip
"""Machine -> number of the system call, which the C library does not have."""
_PROCESS, _GROUP = 1, 2
_CLASS_SHIFT: Final = 13
_MIDDLE: Final = 4


class Priority(NamedTuple):
    """How much a process counts beside others; what is None stays as it is."""

    nice: int | None = None
    io_class: str | None = None

    def __bool__(self) -> bool:
        """Whether anything is to be changed."""
        return self.nice is not None or self.io_class is not None


USUAL: Final = Priority()
"""That of who starts the process."""


def io_priority(io_class: str) -> int:
    """Return a class as ioprio_set(2) takes it, of the middle level where it has levels."""
    number = IO_CLASSES[io_class]
    return number << _CLASS_SHIFT | (0 if io_class == "idle" else _MIDDLE)


def set_priority(group: int, priority: Priority) -> None:
    """Set the priority of a process group that was started a moment ago. Raises OSError (EPERM, ENOSYS)."""
    try:
        with roles.as_programs():
            if priority.nice is not None:
                os.setpriority(os.PRIO_PGRP, group, priority.nice)
            if priority.io_class is not None:
                _set_io(group, io_priority(priority.io_class))
    except ProcessLookupError:
        pass  # it has ended already


def set_own_priority(priority: Priority) -> None:
    """Set the priority of this thread, and of what it starts from now on. Raises OSError (EPERM, ENOSYS)."""
    if priority.nice is not None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), priority.nice)
    if priority.io_class is not None:
        _set_io(0, io_priority(priority.io_class), _PROCESS)


def trouble_with(priority: Priority) -> str:
    """Tell why a priority cannot be given; empty where it can. It is tried, on a thread that ends then."""
    found = [""]

    def attempt() -> None:
        try:
            with roles.as_programs():
                set_own_priority(priority)
        except OSError as error:
            found.append(error.strerror or str(error))

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return found[-1]


def _set_io(who: int, value: int, which: int = _GROUP) -> None:
    number = _IOPRIO_SET.get(platform.machine())
    if number is None:
        raise OSError(38, f"ioprio_set(2) of {platform.machine()} is not known here")
    checked(LIBC.syscall(ctypes.c_long(number), which, who, value))
