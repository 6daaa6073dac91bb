"""The directory of a state: made for who keeps it, and taken from who kept it before."""

from __future__ import annotations

import os
import stat
from typing import Final, NamedTuple

from clsync.core.paths import shown
from clsync.errors import Exit, OperatorError
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
    what was written without. He has kept it before, as nobody but us can have put it there. Raises OSError; Unsafe where
    that is not so, where others may write it, or in whose way others have a hand.
    """
    above = 0o700 if os.geteuid() else 0o711  # a part without rights has to get there, in this run or another one
    _demand_way(os.path.dirname(directory))  # before anything is made there
    places.make_directories(os.path.dirname(directory), above, lambda made: os.fchmod(made, above))
    places.make_directories(directory, 0o700, lambda made: os.fchown(made, keeper.uid, keeper.gid))
    ours = (0, os.geteuid())
    with places.reached(directory, places.demand_ours_alone) as (where, name):
        room = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=where)
        strangers = places.has_strangers(os.fstat(where))
    try:
        found = os.fstat(room)
        places.demand_closed(found)
        if strangers:
            places.demand_owner(found, *ours, keeper.uid)
        if found.st_uid == keeper.uid:
            return False
        if found.st_uid in ours:
            _hand_over(room, keeper)
            return False
        return _take(room, keeper)
    finally:
        os.close(room)


def _demand_way(directory: bytes) -> None:
    """See that nobody else can change what there is of an absolute path. Raises OSError; Unsafe."""
    while not os.path.lexists(directory):
        directory = os.path.dirname(directory)
    if directory != b"/":
        with places.reached(directory, places.demand_ours_alone, follow=True):
            pass


def _hand_over(room: int, keeper: Ids) -> None:
    """Give a room of ours to who is to keep it. Raises OSError."""
    os.fchmod(room, 0o700)
    for one in _files(room):
        _give(room, one, keeper)
    os.fchown(room, keeper.uid, keeper.gid)


def _take(room: int, keeper: Ids) -> bool:
    """Take a room from who has kept it, without his state; tell whether there was one. Raises OSError."""
    before = os.fstat(room)
    os.fchown(room, os.geteuid(), os.getegid())
    os.fchmod(room, 0o700)
    try:
        found = _files(room)
        for one in found:
            os.unlink(one, dir_fd=room)
    except OSError as error:
        os.fchown(room, before.st_uid, before.st_gid)  # what is left there is not ours
        raise places.Unsafe(f"what somebody else has left in it cannot be removed: {error.strerror}") from None
    os.fchown(room, keeper.uid, keeper.gid)
    return bool(found)


def _files(room: int) -> list[bytes]:
    return [one for one in map(os.fsencode, os.listdir(room)) if one.startswith(_OURS)]


def refused(directory: bytes, error: places.Unsafe) -> OperatorError:
    """Return what is said where others have a hand in the directory of a state."""
    return OperatorError(
        f"--state-dir: the state cannot be kept in {shown(directory)}: {error.strerror}",
        "remove it if it is not yours, or name a directory below those that are root's or yours alone by --state-dir",
        Exit.FILES,
    )


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
