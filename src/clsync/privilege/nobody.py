"""Giving rights up, for good: the worker becomes nobody, the broker keeps what its work takes (capabilities(7)).

What is set here counts for the calling thread alone: the kernel knows no process-wide identity, and the C library, which
sets all threads, would be wrong where only one of them is to lose something.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
from typing import Final, NamedTuple

from clsync.kernel.libc import LIBC, checked, function

NOBODY: Final = 65534
"""User and group, where the machine has no other ones of this name."""
_VERSION: Final = 0x20080522
_PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 23, 24, 38
_ALL: Final = (1 << 41) - 1
_BROKER: Final = (
    1 << 0  # CHOWN, and the four that follow: the copier sets what a file had
    | 1 << 1  # DAC_OVERRIDE
    | 1 << 2  # DAC_READ_SEARCH
    | 1 << 3  # FOWNER
    | 1 << 4  # FSETID
    | 1 << 5  # KILL: handlers that have become somebody else, and the worker
    | 1 << 6  # SETGID
    | 1 << 7  # SETUID
    | 1 << 19  # SYS_PTRACE: to see whether a handler does anything at all
    | 1 << 21  # SYS_ADMIN: fanotify marks, private views of mounts, trusted extended attributes
    | 1 << 27  # MKNOD
    | 1 << 31  # SETFCAP
)
_CALLS: Final = {
    "x86_64": (116, 119, 117),
    "aarch64": (159, 149, 147),
    "riscv64": (159, 149, 147),
    "loongarch64": (159, 149, 147),
    "ppc64le": (81, 169, 164),
    "s390x": (206, 210, 208),
    "i686": (206, 210, 208),
    "armv7l": (206, 210, 208),
}
"""Machine -> numbers of setgroups, setresgid, setresuid, with ids of 32 bits."""

_prctl = function("prctl", ctypes.c_int, *[ctypes.c_ulong] * 4)


class Ids(NamedTuple):
    """A user and a group."""

    uid: int
    gid: int


def nobody() -> Ids:
    """Return the ids of nobody."""
    import pwd

    try:
        found = pwd.getpwnam("nobody")
    except KeyError:
        return Ids(NOBODY, NOBODY)
    return Ids(found.pw_uid, found.pw_gid)


def give_up_all(ids: Ids, *, alone: bool) -> None:
    """Become somebody without any capability, who can never get one again; `alone`: nor start a process or a thread.

    Who may not change ids keeps them, and loses the rest. Raises OSError; ENOSYS: the system calls of this machine are
    not known here.
    """
    if os.geteuid() == 0:
        for number in range(_ALL.bit_length()):
            if _prctl(_PR_CAPBSET_READ, number, 0, 0, 0) == 1:
                checked(_prctl(_PR_CAPBSET_DROP, number, 0, 0, 0))
        _become(ids)
    _set_capabilities(0)
    checked(_prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    if alone:
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def keep_for_broker() -> None:
    """Keep the capabilities that a broker needs; programs that are run get what the kernel gives. Raises OSError."""
    if os.geteuid() == 0:
        _set_capabilities(_BROKER & _permitted())


def _become(ids: Ids) -> None:
    numbers = _CALLS.get(platform.machine())
    if numbers is None:
        raise OSError(38, f"the system calls of {platform.machine()} are not known here")
    set_groups, set_gids, set_uids = numbers
    checked(LIBC.syscall(ctypes.c_long(set_groups), ctypes.c_long(0), None))
    for number, one in ((set_gids, ids.gid), (set_uids, ids.uid)):
        checked(LIBC.syscall(ctypes.c_long(number), *[ctypes.c_uint32(one)] * 3))


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def _permitted() -> int:
    words = (ctypes.c_uint32 * 6)()
    checked(LIBC.capget(ctypes.byref(_Header(_VERSION, 0)), words))
    return words[1] | words[4] << 32


def _set_capabilities(kept: int) -> None:
    low, high = kept & 0xFFFFFFFF, kept >> 32
    checked(LIBC.capset(ctypes.byref(_Header(_VERSION, 0)), (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)))
