"""What lstat(2) says, as bytes: records of one length, made and read many at a time."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from clsync.privilege.wire import Refused

_RECORD: Final = struct.Struct("<iIQQQIIQqQQqqq")
_pack = _RECORD.pack


class Seen(NamedTuple):
    """What stands at a path; the fields of `os.stat_result` that anybody here asks for."""

    errno: int
    """0: all is well; ENOENT: nothing stands there; else nobody can tell."""
    st_mode: int
    st_ino: int
    st_dev: int
    st_nlink: int
    st_uid: int
    st_gid: int
    st_rdev: int
    st_size: int
    st_blksize: int
    st_blocks: int
    st_atime_ns: int
    st_mtime_ns: int
    st_ctime_ns: int


def packed(found: os.stat_result) -> bytes:
    """Return the record of what stands at a path."""
    return _pack(
        0, found.st_mode, found.st_ino, found.st_dev, found.st_nlink, found.st_uid, found.st_gid, found.st_rdev,
        found.st_size, found.st_blksize, found.st_blocks, found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns,
    )  # fmt: skip


def packed_error(error: OSError) -> bytes:
    """Return the record that says why nobody can tell."""
    return _pack(error.errno or errno.EIO, *[0] * 13)


ABSENT: Final = _pack(errno.ENOENT, *[0] * 13)


def unpacked(data: bytes, count: int) -> Iterator[Seen]:
    """Yield what records say. Raises Refused if there are not as many."""
    if len(data) != count * _RECORD.size:
        raise Refused("an answer of the wrong length")
    return map(Seen._make, _RECORD.iter_unpack(data))
