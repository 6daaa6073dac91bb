"""What a state says of itself, and rows that tell whether they are what was written."""

from __future__ import annotations

import sqlite3
import struct
import zlib
from dataclasses import dataclass
from typing import Final

_FIXED: Final = struct.Struct("<16sQQQ")


class Unusable(Exception):
    """A file is not a state to go on with; the text says why."""


@dataclass
class Meta:
    """The one row that says what the others are."""

    identity: bytes
    """Of what the state is one: the root and all settings that make another tree of it."""
    boot: bytes
    """Of the last run."""
    sequence: int = 0
    """Transactions that count (`state.mark`)."""
    rows: int = 0
    """Of the journal."""
    flush: int = 1
    """What is confirmed now is durable when this flush is over."""

    def write(self, rows: sqlite3.Connection) -> None:
        """Write the row. Raises sqlite3.Error."""
        numbers = _FIXED.pack(self.boot, self.sequence, self.rows, self.flush)
        content = numbers + self.identity
        rows.execute("INSERT OR REPLACE INTO meta VALUES (1, ?, ?)", (content, zlib.crc32(content)))

    @classmethod
    def read(cls, rows: sqlite3.Connection) -> Meta:
        """Read the row. Raises Unusable or sqlite3.Error."""
        found = rows.execute("SELECT content, checksum FROM meta WHERE id = 1").fetchone()
        if found is None or not isinstance(found[0], bytes):  # SQLite keeps any type in any column
            raise Unusable("it is damaged")
        if len(found[0]) < _FIXED.size or zlib.crc32(found[0]) != found[1]:
            raise Unusable("it is damaged")
        content = found[0]
        boot, sequence, count, flush = _FIXED.unpack_from(content)
        return cls(content[_FIXED.size :], boot, sequence, count, flush)


def checksum(*fields: bytes | float) -> int:
    """Return a checksum over the fields of a row."""
    return zlib.crc32(repr(fields).encode("ascii", "backslashreplace"))
