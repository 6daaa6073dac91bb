"""What a directory looked like, packed: sorted names with a signature each, so that an unchanged one is one comparison.

A packed listing is one or several parts. A part: a checksum over its path and all that follows, the number of names,
a record of 48 bytes for each, the names with slashes between them. The empty name is the directory itself; where it
stands in its parent only its type is recorded, so that what happens in it changes one listing, not two.
"""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from clsync.core.changes import ATTRIB, CONTENT, NAME, OF_DIRECTORY
from clsync.core.stamps import is_settled, settles_before

SELF: Final = b""
"""The name under which a listing has its directory."""
PART: Final = 128
"""Names in one part of a long listing; more than twice as many are divided."""
_HEAD: Final = struct.Struct("<II")
_COUNT: Final = struct.Struct("<I")
RECORD: Final = struct.Struct("<QQqqIIII")
"""The fields of `Signature`."""
RECORD_SIZE: Final = RECORD.size
A_DIRECTORY: Final = RECORD.pack(0, 0, 0, 0, stat.S_IFDIR, 0, 0, 0)
"""The record with which a directory stands in the one that holds it."""
_YOUNG: Final = -1
"""In place of a ctime that a later change may have as well: no file has it."""
_CTIME: Final = slice(24, 32)
_KIND: Final = 33
"""Where these are in a record."""
_YOUNG_CTIME: Final = struct.pack("<q", _YOUNG)


class DamagedListing(Exception):
    """A part is not what was packed."""


class Looked(Protocol):
    """The fields of `os.stat_result` that a signature has."""

    @property
    def st_ino(self) -> int: ...

    @property
    def st_size(self) -> int: ...

    @property
    def st_mtime_ns(self) -> int: ...

    @property
    def st_ctime_ns(self) -> int: ...

    @property
    def st_mode(self) -> int: ...

    @property
    def st_nlink(self) -> int: ...

    @property
    def st_uid(self) -> int: ...

    @property
    def st_gid(self) -> int: ...

    @property
    def st_rdev(self) -> int: ...

    @property
    def st_dev(self) -> int: ...


class Signature(NamedTuple):
    """What tells that something is still what it was; contents, link targets and xattrs show in the ctime."""

    ino: int
    size: int
    """Of a device: its number."""
    mtime_ns: int
    ctime_ns: int
    mode: int
    nlink: int
    """Of a directory 0: it counts subdirectories."""
    uid: int
    gid: int

    @property
    def is_dir(self) -> bool:
        """Tell whether it is one of a directory."""
        return stat.S_ISDIR(self.mode)

    def looks_like(self, other: Signature) -> bool:
        """Tell whether another one differs in nothing that is copied: it may be a later one of the same."""
        return self._copied() == other._copied()

    def _copied(self) -> tuple[int, ...]:
        return self.size, self.mtime_ns, self.mode, self.uid, self.gid

    def is_later_than(self, other: Signature) -> bool:
        """Tell whether it is surely one of the same thing, taken after it had changed."""
        return self.ino == other.ino and self.ctime_ns > other.ctime_ns != _YOUNG


def record_of(found: Looked, young_ns: int) -> bytes:
    """Pack what lstat found; for `young_ns` see `core.stamps`."""
    ctime = found.st_ctime_ns
    size, nlink = found.st_size, found.st_nlink
    kind = stat.S_IFMT(found.st_mode)
    if kind == stat.S_IFDIR:
        size = nlink = 0  # they follow from its content, and differ from file system to file system
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        size = found.st_rdev
    return RECORD.pack(
        found.st_ino,
        size,
        found.st_mtime_ns,
        ctime if is_settled(ctime, young_ns) else _YOUNG,
        found.st_mode,
        nlink,
        found.st_uid,
        found.st_gid,
    )


def signature_of(found: Looked, young_ns: int) -> Signature:
    """Return the signature of what lstat found; for `young_ns` see `core.stamps`."""
    return unpacked(record_of(found, young_ns))


def packed(signature: Signature) -> bytes:
    """Return a signature as a record."""
    return RECORD.pack(*signature)


def unpacked(record: bytes) -> Signature:
    """Return a record as a signature."""
    return Signature._make(RECORD.unpack(record))


def is_directory(record: bytes) -> bool:
    """Tell whether a record is one of a directory."""
    return record[_KIND] & 0xF0 == stat.S_IFDIR >> 8


def present(record: bytes) -> bytes:
    """Return the record with which something stands in the directory that holds it."""
    return A_DIRECTORY if is_directory(record) else record


def as_young(record: bytes) -> bytes:
    """Return a record of something that may change without another stamp."""
    return record[: _CTIME.start] + _YOUNG_CTIME + record[_CTIME.stop :]


@dataclass(frozen=True, slots=True)
class Records:
    """What was seen, of regular files with one name while somebody looked for something else."""

    settled: dict[bytes, bytes | None] = field(default_factory=dict)
    """Path -> record; None: nothing stood there."""
    young: dict[bytes, bytes] = field(default_factory=dict)
    """The same of those that had changed a moment before, with the time at which they did."""

    def note(self, path: bytes, found: Looked, young_ns: int) -> None:
        """Note a file; for `young_ns` see `core.stamps`."""
        ctime = found.st_ctime_ns
        record = RECORD.pack(
            found.st_ino, found.st_size, found.st_mtime_ns, ctime, found.st_mode, 1, found.st_uid, found.st_gid
        )
        if is_settled(ctime, young_ns):
            self.settled[path] = record
        else:
            self.young[path] = record


class Observed(NamedTuple):
    """Names that were looked at, in the order they were given."""

    names: list[bytes]
    records: list[bytes]
    directories: list[bytes]
    """Those of the names that are directories'."""
    linked: list[tuple[int, int, bytes]]
    """Files with several names: inode, links, name."""


def observe(
    names: Iterable[bytes],
    look: Callable[[bytes], Looked],
    young_ns: int,
    keep: Callable[[bytes, Looked], bool] | None = None,
) -> Observed:
    """Look at names of one directory; what is gone meanwhile, or is not to be kept, is left out.

    Raises the OSError of `look`, but for what is gone.
    """
    pack, old_ns = RECORD.pack, settles_before(young_ns)  # nearly all is older: no call for each
    kept, records, directories, linked = Observed([], [], [], [])
    # Millions of turns: this loop is what a scan costs.
    for name in names:
        try:
            found = look(name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        if keep is not None and not keep(name, found):
            continue
        mode, ctime, links = found.st_mode, found.st_ctime_ns, found.st_nlink
        if mode & 0o170000 == 0o040000:
            directories.append(name)
            records.append(A_DIRECTORY)
        elif mode & 0o120000 == 0o020000:  # devices
            records.append(record_of(found, young_ns))
        else:
            records.append(
                pack(
                    found.st_ino,
                    found.st_size,
                    found.st_mtime_ns,
                    ctime if ctime < old_ns or is_settled(ctime, young_ns) else _YOUNG,
                    mode,
                    links,
                    found.st_uid,
                    found.st_gid,
                )
            )
            if links > 1:
                linked.append((found.st_ino, links, name))
        kept.append(name)
    return Observed(kept, records, directories, linked)


def pack_part(path: bytes, names: list[bytes], records: list[bytes]) -> bytes:
    """Pack a part of the listing of `path`; `names` are sorted."""
    body = _COUNT.pack(len(names)) + b"".join(records) + b"/".join(names)
    return _COUNT.pack(zlib.crc32(body, zlib.crc32(path))) + body


def entries_in(head: bytes) -> int:
    """Return how many entries a part has, by its first 8 bytes; what is damaged is not noticed here."""
    return int(_HEAD.unpack(head)[1]) if len(head) == _HEAD.size else 0


def own_record(part: bytes) -> bytes:
    """Return the record of the directory itself, by the first part of its listing; what is damaged is not noticed here."""
    return part[_HEAD.size : _HEAD.size + RECORD.size]


def unpack_part(path: bytes, part: bytes) -> dict[bytes, bytes]:
    """Return name -> record of a part of the listing of `path`, sorted. Raises DamagedListing."""
    return {name: part[at : at + RECORD_SIZE] for name, at in _places(path, part).items()}


def _places(path: bytes, part: bytes) -> dict[bytes, int]:
    """Return name -> where its record begins in a part of the listing of `path`, sorted. Raises DamagedListing."""
    if not isinstance(part, bytes) or len(part) < _HEAD.size:  # where it is kept, it may have become anything
        raise DamagedListing(path)
    checksum, count = _HEAD.unpack_from(part)
    if zlib.crc32(part[4:], zlib.crc32(path)) != checksum:
        raise DamagedListing(path)
    end = _HEAD.size + count * RECORD_SIZE
    names = part[end:].split(b"/") if end < len(part) or count else []
    if len(names) != count or len(part) < end:
        raise DamagedListing(path)
    places = dict(zip(names, range(_HEAD.size, end, RECORD_SIZE), strict=True))
    if len(places) != count:
        raise DamagedListing(path)
    return places


def exchange(path: bytes, part: bytes, records: Mapping[bytes, bytes]) -> bytes | None:
    """Return a part of the listing of `path` with other records of some names; None: it does not have all of them.

    Raises DamagedListing.
    """
    places, size = _places(path, part), RECORD_SIZE
    new = bytearray(part)
    for name, record in records.items():
        at = places.get(name)
        if at is None:
            return None
        new[at : at + size] = record
    del new[: _COUNT.size]
    return _COUNT.pack(zlib.crc32(new, zlib.crc32(path))) + new


def parts_of(path: bytes, entries: Mapping[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """Pack a whole listing; return (first name, part). The first part begins with the empty name."""
    names = sorted(entries)
    if len(names) <= 2 * PART:
        return [(SELF, pack_part(path, names, [entries[name] for name in names]))]
    cuts = [names[at : at + PART] for at in range(0, len(names), PART)]
    return [
        (cut[0] if at else SELF, pack_part(path, cut, [entries[name] for name in cut])) for at, cut in enumerate(cuts)
    ]


def change(old: bytes | None, new: bytes | None) -> int:
    """Return what has to be said of a name (`core.changes`) whose record was `old` and is `new`; None: nothing there."""
    if old == new:
        return 0
    if old is None or new is None:
        one = unpacked(new if old is None else old)  # type: ignore[arg-type]
        return NAME | OF_DIRECTORY if one.is_dir else NAME
    was, now = unpacked(old), unpacked(new)
    if was.ino != now.ino or stat.S_IFMT(was.mode) != stat.S_IFMT(now.mode):
        return NAME | OF_DIRECTORY if was.is_dir or now.is_dir else NAME
    if was.is_dir:
        return ATTRIB
    # Another size or mtime shows by itself that the content may differ. A ctime alone does not say what has changed; nor
    # is it known of what was young in which version it has arrived.
    shows = (was.size, was.mtime_ns) != (now.size, now.mtime_ns) and was.ctime_ns != _YOUNG
    return ATTRIB if shows else ATTRIB | CONTENT


def changes(old: Mapping[bytes, bytes], new: Mapping[bytes, bytes]) -> dict[bytes, int]:
    """Return name -> what has to be said of it (`core.changes`), for the names whose records differ."""
    found = {name: change(record, new.get(name)) for name, record in old.items() if new.get(name) != record}
    found |= {name: change(None, record) for name, record in new.items() if name not in old}
    return found
