"""What lstat(2) says, as bytes: records of one length, made and read many at a time."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from operator import attrgetter
from typing import Final, NamedTuple

from clsync.core.classify import NOT_PLAIN, Plain
from clsync.core.listing import RECORD, RECORD_SIZE, Records
from clsync.core.stamps import is_settled
from clsync.privilege.wire import Refused

_RECORD: Final = struct.Struct("<iIQQQIIQqQQqqq")
_PLAIN: Final = struct.Struct("<qqq")


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


_pack = _RECORD.pack
_fields = attrgetter(*Seen._fields[1:])
_seen = partial(tuple.__new__, Seen)
"""`Seen._make`, four times as fast."""


def packed(found: os.stat_result | OSError | None) -> bytes:
    """Return the record of what stands at a path, if anything does, or of why nobody can tell."""
    if found is None:
        return _ABSENT
    if isinstance(found, OSError):
        return _pack(found.errno or errno.EIO, *[0] * 13)
    return _pack(0, *_fields(found))


_ABSENT: Final = _pack(errno.ENOENT, *[0] * 13)


def packed_plain(found: Iterable[os.stat_result | OSError | None]) -> bytes:
    """Return the records of what stands at paths, if it is plain (`core.classify`)."""
    pack, stands, regular = _PLAIN.pack, os.stat_result, stat.S_IFREG >> 12
    records = [  # as `plain` does, of which nothing is called here: this is done for each path that changes
        pack(one.st_size, one.st_mtime_ns, one.st_ctime_ns)
        if isinstance(one, stands) and one.st_nlink == 1 and one.st_mode >> 12 == regular
        else _NOT_PLAIN
        for one in found
    ]
    return b"".join(records)


_NOT_PLAIN: Final = _PLAIN.pack(*NOT_PLAIN)


def unpacked_plain(data: bytes, count: int) -> Iterator[Plain]:
    """Yield what these records say. Raises Refused if there are not as many."""
    if len(data) != count * _PLAIN.size:
        raise Refused("an answer of the wrong length")
    return _PLAIN.iter_unpack(data)


def packed_records(found: Iterable[os.stat_result | OSError | None]) -> bytes:
    """Return the records (`core.listing`) of what stands at paths, if it is plain."""
    pack, stands, regular = RECORD.pack, os.stat_result, stat.S_IFREG >> 12
    records = [  # as `Records.note` does, of which nothing is called here: this is done for each path that changes
        pack(one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns, one.st_mode, 1, one.st_uid, one.st_gid)
        if isinstance(one, stands) and one.st_nlink == 1 and one.st_mode >> 12 == regular
        else _NO_RECORD
        for one in found
    ]
    return b"".join(records)


_NO_RECORD: Final = bytes(RECORD_SIZE)


def unpacked_records(data: bytes, paths: Sequence[bytes], young_ns: int, records: Records) -> Iterator[Plain]:
    """Yield what these records say, and note those of plain files. Raises Refused if there are not as many.

    `young_ns`: see `core.stamps.is_settled`.
    """
    if len(data) != len(paths) * RECORD_SIZE:
        raise Refused("an answer of the wrong length")
    settled, young, at = records.settled, records.young, 0
    for path, (_, size, mtime, ctime, mode, _, _, _) in zip(paths, RECORD.iter_unpack(data), strict=True):
        if mode:
            (settled if is_settled(ctime, young_ns) else young)[path] = data[at : at + RECORD_SIZE]
            yield size, mtime, ctime
        else:
            yield NOT_PLAIN
        at += RECORD_SIZE


def unpacked(data: bytes, count: int) -> Iterator[Seen]:
    """Yield what records say. Raises Refused if there are not as many."""
    if len(data) != count * _RECORD.size:
        raise Refused("an answer of the wrong length")
    return map(_seen, _RECORD.iter_unpack(data))
