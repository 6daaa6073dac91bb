"""Who a process or a thread is: user, groups and capabilities (credentials(7), capabilities(7)).

What is set here counts for the calling thread alone, unless said otherwise: the kernel knows no process-wide identity,
and it is the C library that sets all threads, which is wrong for what one thread does for somebody else.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from clsync.kernel.libc import LIBC, checked, function
from clsync.options.names import CAPABILITIES

_VERSION: Final = 0x20080522
_PR_GET_DUMPABLE: Final = 3
_PR_SET_DUMPABLE: Final = 4
_PR_SET_KEEPCAPS: Final = 8
_PR_CAPBSET_READ: Final = 23
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_AMBIENT_IS_SET: Final = 1
_AMBIENT_RAISE: Final = 2
_AMBIENT_CLEAR_ALL: Final = 4
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
    """User, group and supplementary groups."""

    uid: int
    gid: int
    groups: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CapabilitySets:
    """Sets of capabilities, as bits by their numbers."""

    effective: int
    permitted: int
    inheritable: int


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def mask(names: Iterable[str]) -> int:
    """Return the bits of capabilities."""
    return sum(1 << CAPABILITIES.index(name) for name in set(names))


def names_in(bits: int) -> list[str]:
    """Return the names of capabilities; what has none is left out."""
    return [name for number, name in enumerate(CAPABILITIES) if bits >> number & 1]


def ids() -> Ids:
    """Return the effective ids of this thread."""
    return Ids(os.geteuid(), os.getegid(), tuple(sorted(os.getgroups())))


def capabilities() -> CapabilitySets:
    """Return the capabilities of this thread. Raises OSError."""
    words = (ctypes.c_uint32 * 6)()
    checked(LIBC.capget(ctypes.byref(_Header(_VERSION, 0)), words))
    return CapabilitySets(*(words[at] | words[at + 3] << 32 for at in range(3)))


def set_capabilities(sets: CapabilitySets) -> None:
    """Set the capabilities of this thread. Raises OSError."""
    parts = (sets.effective, sets.permitted, sets.inheritable)
    words = (ctypes.c_uint32 * 6)(*(p & 0xFFFFFFFF for p in parts), *(p >> 32 for p in parts))
    checked(LIBC.capset(ctypes.byref(_Header(_VERSION, 0)), words))


def bounding() -> int:
    """Return the bounding set: what programs can get at most."""
    return sum(1 << n for n in range(len(CAPABILITIES)) if _prctl(_PR_CAPBSET_READ, n, 0, 0, 0) == 1)


def limit_bounding(kept: int) -> None:
    """Take from the bounding set what is not in `kept`; for good. Raises OSError (EPERM without CAP_SETPCAP)."""
    for number in range(len(CAPABILITIES)):
        if not kept >> number & 1 and _prctl(_PR_CAPBSET_READ, number, 0, 0, 0) == 1:
            checked(_prctl(_PR_CAPBSET_DROP, number, 0, 0, 0))


def ambient() -> int:
    """Return the ambient set: what programs get though they have no right to it by themselves."""
    possible = names_in(capabilities().inheritable)  # nothing else can be in it
    numbers = map(CAPABILITIES.index, possible)
    return sum(1 << n for n in numbers if _prctl(_PR_CAP_AMBIENT, _AMBIENT_IS_SET, n, 0, 0) == 1)


def set_ambient(bits: int) -> None:
    """Set the ambient set of this thread (Linux 4.3); it has to be permitted and inheritable. Raises OSError."""
    checked(_prctl(_PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL, 0, 0, 0))
    for number in range(bits.bit_length()):
        if bits >> number & 1:
            checked(_prctl(_PR_CAP_AMBIENT, _AMBIENT_RAISE, number, 0, 0))


def no_new_privileges() -> None:
    """See that no program that is run gets more rights than we have; for good (Linux 3.5). Raises OSError."""
    checked(_prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def become(wanted: Ids, sets: CapabilitySets, raised: int = 0) -> None:
    """Give this thread all ids, these capabilities, and the ambient ones in `raised`. Raises OSError.

    ENOSYS: the numbers of the system calls of this machine are not known here.
    """
    set_groups, set_gids, set_uids = _calls()
    groups = (ctypes.c_uint32 * len(wanted.groups))(*wanted.groups)
    # The ids of another user end capabilities without this, which is over with the next program.
    checked(_prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0))
    checked(LIBC.syscall(ctypes.c_long(set_groups), ctypes.c_long(len(wanted.groups)), groups))
    for number, one in ((set_gids, wanted.gid), (set_uids, wanted.uid)):
        checked(LIBC.syscall(ctypes.c_long(number), *[ctypes.c_uint32(one)] * 3))
    set_capabilities(sets)
    set_ambient(raised)


def _calls() -> tuple[int, int, int]:
    try:
        return _CALLS[platform.machine()]
    except KeyError:
        raise OSError(errno.ENOSYS, f"system calls of {platform.machine()} are not known here") from None


@contextmanager
def dumpable_as_before() -> Iterator[None]:
    """Let the process be traced by whoever may now, and leave cores: the ids of a thread change that for all of it."""
    before = _prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0)
    try:
        yield
    finally:
        if before == 1:  # the only value that can be set
            _prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)


@contextmanager
def assumed(wanted: Ids, extra_ambient: int = 0) -> Iterator[None]:
    """Be somebody else in this thread for a while. A program that is started meanwhile is that user for good.

    Where that is root, the thread has the capabilities that it has anyway, and a program has all; else there are none
    but the ambient ones, which are given to programs, and those in `extra_ambient`. Raises OSError (EPERM without
    CAP_SETUID and CAP_SETGID).
    """
    before, sets, raised = ids(), capabilities(), ambient()
    both = (raised | extra_ambient) & sets.permitted
    somebody_else = wanted != before
    if somebody_else and mask(("CAP_SETUID", "CAP_SETGID")) & ~sets.permitted:
        raise PermissionError(errno.EPERM, "another user needs CAP_SETUID and CAP_SETGID")
    _calls()
    try:
        within = CapabilitySets(sets.permitted if not wanted.uid else both, sets.permitted, sets.inheritable | both)
        if somebody_else:
            become(wanted, within, both)
        else:
            set_capabilities(replace(within, effective=sets.effective))
            set_ambient(both)
        yield
    finally:
        try:
            set_capabilities(CapabilitySets(sets.permitted, sets.permitted, sets.inheritable | both))
            if somebody_else:
                become(before, sets, raised)
            else:
                set_ambient(raised)
                set_capabilities(sets)
        except OSError:
            os.abort()  # a thread that stays somebody else is worse than none
