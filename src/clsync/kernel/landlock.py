"""What a thread, and all that it starts, may do with files and sockets (landlock(7), Linux 5.13)."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Iterable
from contextlib import suppress
from typing import Final, NamedTuple

from clsync.kernel.features import refuse_if_forced
from clsync.kernel.libc import LIBC, checked

EXECUTE: Final = 1 << 0
WRITE_FILE: Final = 1 << 1
READ_FILE: Final = 1 << 2
READ_DIR: Final = 1 << 3
REMOVE: Final = 1 << 4 | 1 << 5
MAKE_DIR: Final = 1 << 7
MAKE_REG: Final = 1 << 8
MAKE_SOCK: Final = 1 << 9
_MAKE: Final = 1 << 6 | MAKE_DIR | MAKE_REG | MAKE_SOCK | 1 << 10 | 1 << 11 | 1 << 12
REFER: Final = 1 << 13
"""Rename and link from one directory to another (version 2)."""
TRUNCATE: Final = 1 << 14
"""(version 3)."""
IOCTL_DEVICE: Final = 1 << 15
"""(version 5)."""

READ: Final = READ_FILE | READ_DIR
RUN: Final = READ | EXECUTE
USE: Final = READ_FILE | WRITE_FILE | TRUNCATE | IOCTL_DEVICE
"""What is done with a file that stays what it is, or a device."""
WRITE: Final = READ | WRITE_FILE | REMOVE | _MAKE | REFER | TRUNCATE
"""Anything below a directory, but running programs and giving orders to devices."""
EVERYTHING: Final = WRITE | EXECUTE | IOCTL_DEVICE
_OF_FILES: Final = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEVICE
_SINCE: Final = ((2, REFER), (3, TRUNCATE), (5, IOCTL_DEVICE))
_TCP: Final = 1 << 0 | 1 << 1
_TCP_SINCE: Final = 4
_ABSTRACT_SOCKETS: Final = 1 << 0
_SIGNALS: Final = 1 << 1
_SCOPES_SINCE: Final = 6

_CREATE_RULESET: Final = 444  # the same numbers on every architecture but alpha
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
_ASK_VERSION: Final = 1
_PATH_BENEATH: Final = 1


class Allowed(NamedTuple):
    """What may be done with a file, or at and below a directory."""

    path: bytes
    access: int


def version() -> int:
    """Return the version of Landlock that is in force. Raises OSError (ENOSYS, EOPNOTSUPP) where there is none."""
    refuse_if_forced("landlock")
    return _call(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_ASK_VERSION))


def restrict(allowed: Iterable[Allowed], *, network: bool) -> None:
    """Allow this thread, and all that it starts, only that, for good. Raises OSError.

    Paths that are not there are left out. Not `network`: neither TCP nor abstract sockets of others. Signals reach
    nobody outside. EPERM: the thread has neither CAP_SYS_ADMIN nor `no_new_privs`.
    """
    known, handled = version(), EVERYTHING
    for since, access in _SINCE:
        if known < since:
            handled &= ~access
    tcp = _TCP if not network and known >= _TCP_SINCE else 0
    scopes = _SIGNALS | (0 if network else _ABSTRACT_SOCKETS) if known >= _SCOPES_SINCE else 0
    attributes = struct.pack("=QQQ", handled, tcp, scopes)
    size = 24 if known >= _SCOPES_SINCE else 16 if known >= _TCP_SINCE else 8
    ruleset = _call(_CREATE_RULESET, attributes, ctypes.c_size_t(size), ctypes.c_uint32(0))
    try:
        for path, access in allowed:
            with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                _add(ruleset, path, access & handled)
        _call(_RESTRICT_SELF, ruleset, ctypes.c_uint32(0))
    finally:
        os.close(ruleset)


def _add(ruleset: int, path: bytes, access: int) -> None:
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            access &= _OF_FILES
        if access:
            _call(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", access, place), ctypes.c_uint32(0))
    except OSError as error:
        if error.errno != errno.EBADFD:  # a file system without names, such as that of pipes, knows no rules
            raise
    finally:
        os.close(place)


def _call(number: int, *arguments: object) -> int:
    return checked(LIBC.syscall(ctypes.c_long(number), *arguments))
