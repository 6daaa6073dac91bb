"""The directory of a state: made for who keeps it, and taken from who kept it before."""

from __future__ import annotations

import os
import stat
from typing import Final, NamedTuple

from clsync.kernel import credentials, places
from clsync.kernel.credentials import Ids

_OURS: Final = b"state."
"""What the names of all files of a state begin with."""


class Place(NamedTuple):
    """Where a state is kept."""

    directory: bytes
    asked: bool
    """Somebody has named it: there is no run without."""
    boot: bytes
    """See `kernel.durable.boot_id`."""
    one_clock: bool = False
    """The watched tree is stamped by the clock of this kernel (`kernel.mounts.has_our_clock`)."""


def make_room(directory: bytes, keeper: Ids) -> bool:
    """Make the directory of a state, for who is to keep it; tell whether there was a state of somebody else.

    Its files are given to him, if they were ours. Those of somebody else are removed: whoever has rights does not read
    what was written without. Raises OSError.
    """
    above = 0o700 if os.geteuid() else 0o711  # a part without rights has to get there, in this run or another one
    places.make_directories(os.path.dirname(directory), above, lambda made: os.fchmod(made, above))
    places.make_directories(directory, 0o700, lambda made: os.fchown(made, keeper.uid, keeper.gid))
    with places.reached(directory, places.demand_ours_alone) as (where, name):
        room = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=where)
    try:
        owner = os.fstat(room).st_uid
        if owner == keeper.uid:
            return False
        taken = owner not in (0, os.geteuid())
        if taken:
            os.fchown(room, os.geteuid(), os.getegid())
        os.fchmod(room, 0o700)
        found = [one for one in map(os.fsencode, os.listdir(room)) if one.startswith(_OURS)]
        for one in found:
            if taken:
                os.unlink(one, dir_fd=room)
            else:
                _give(room, one, keeper)
        os.fchown(room, keeper.uid, keeper.gid)
        return taken and bool(found)
    finally:
        os.close(room)


def is_shut(directory: bytes, keeper: Ids) -> bool:
    """Tell whether who is to keep a state cannot get at its directory. Raises OSError."""
    with credentials.assumed(keeper):
        try:
            os.close(os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        except PermissionError:
            return True
    return False


def _give(room: int, name: bytes, keeper: Ids) -> None:
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=room)
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise places.Unsafe("there is something else than files of a state in it")
        os.fchown(file, keeper.uid, keeper.gid)
    finally:
        os.close(file)
