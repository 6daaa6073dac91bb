"""What targets may not hold as the index says: on disk a row for each batch, in memory what is left of them.

A row stays as it was written until all of it is settled; then it waits for a flush. After a crash it may name more than
is dirty, which costs another transfer, and never less.

Rows may be lost with the power. Therefore the places in which something is handed over are named by a row that is durable
before, and waits for a flush from the start: one for many batches.
"""

from __future__ import annotations

import sqlite3
import struct
import zlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from clsync.core.changes import ATTRIB, CONTENT, DOUBT, NAME
from clsync.core.dirty import DirtySet
from clsync.core.paths import ancestors
from clsync.state.meta import Unusable, checksum

_COUNT: Final = struct.Struct("<I")
_BITS: Final = 4
_PLACE: Final = DOUBT | CONTENT | ATTRIB
"""Change bits of a place in which something may have been lost: a file, or a directory with all that is in it."""
_ONLY_PLACE: Final = 1 << 31
"""Beside them on disk: that counts where rows may be lost, not where a target is to have lost what it was given."""
_FEW: Final = 8
"""Of a row of which less than this part is left, that is written anew."""
_INSERT: Final = "INSERT INTO journal (target, flush, since, content, checksum) VALUES (?, ?, ?, ?, ?)"
_SETTLED: Final = "UPDATE journal SET flush = ?, checksum = ? WHERE id = ?"
_DELETE: Final = "DELETE FROM journal WHERE id = ?"


def packed(changes: Mapping[bytes, int]) -> bytes:
    """Return path -> change bits as bytes."""
    count = len(changes)
    return struct.pack(f"<{count + 1}I", count, *changes.values()) + b"\0".join(changes)


def unpacked(content: bytes) -> dict[bytes, int]:
    """Return what was packed. Raises Unusable."""
    try:
        (count,) = _COUNT.unpack_from(content)
        bits = struct.unpack_from(f"<{count}I", content, _COUNT.size)
    except struct.error:
        raise Unusable("it is damaged") from None
    paths = content[_COUNT.size + count * _BITS :].split(b"\0") if count else []
    if len(paths) != count:
        raise Unusable("it is damaged")
    return dict(zip(paths, bits, strict=True))


@dataclass(eq=False)
class _Row:
    """A row, and what is dirty of it."""

    number: int
    since: float
    sum: int
    """Checksum of the content."""
    count: int
    """Paths that it names on disk."""
    live: dict[bytes, int]
    """Path -> change bits."""
    settled: int = 0
    """Paths of it that wait for a flush."""


class Journal:
    """The rows of all targets. Every method raises sqlite3.Error, and is called within a transaction."""

    def __init__(self, rows: sqlite3.Connection) -> None:
        """Read what there is. Raises Unusable or sqlite3.Error."""
        self._rows = rows
        self.count = 0
        """Rows on disk."""
        self._owners: dict[int, dict[bytes, _Row]] = {}
        """Target -> path -> the row by which it is dirty."""
        self._settled: dict[int, tuple[int, int, int]] = {}
        """Rows that wait for a flush -> target, number of the flush, paths."""
        read: list[_Row] = []
        query = "SELECT id, target, flush, since, content, checksum FROM journal ORDER BY id"
        for number, target, flush, since, content, written in rows.execute(query):
            if not isinstance(content, bytes) or checksum(target, flush, since, zlib.crc32(content)) != written:
                raise Unusable("it is damaged")
            self.count += 1
            changes = unpacked(content)
            if flush:
                self._settled[number] = target, flush, len(changes)
            else:
                row = _Row(number, since, zlib.crc32(content), len(changes), changes)
                owners = self._owners.get(target, {})
                for path in owners.keys() & changes.keys():
                    del owners[path].live[path]  # as it was before a crash: the later row says all of it
                self._own(target, row)
                read.append(row)
        self._hot: dict[int, dict[bytes, tuple[int, float]]] = {}
        """Target -> place that is named by a durable row -> number of the flush it waits for, since when."""
        self.written = 0
        """Bytes."""
        self._void = [row for row in read if not row.live]
        """Rows that a crash has left behind: later ones name all of it."""

    def __len__(self) -> int:
        return sum(map(len, self._owners.values()))

    def unflushed(self, target: int | None = None) -> int:
        """Return how many paths wait for a flush, of a target; None: of all."""
        settled = [*self._settled.values()]  # another thread may be writing
        return sum(count for whose, _, count in settled if target in (None, whose))

    def of(self, target: int) -> dict[bytes, tuple[int, float]]:
        """Return what is dirty at a target: path -> change bits, since when."""
        return {path: (row.live[path], row.since) for path, row in self._owners.get(target, {}).items()}

    def _own(self, target: int, row: _Row) -> None:
        self._owners.setdefault(target, {}).update(dict.fromkeys(row.live, row))

    def _insert(self, target: int, flush: int, since: float, changes: Mapping[bytes, int]) -> tuple[int, int]:
        """Write a row; return its number and the checksum of its content."""
        content, since = packed(changes), float(since)
        crc = zlib.crc32(content)
        written = checksum(target, flush, since, crc)
        number = self._rows.execute(_INSERT, (target, flush, since, content, written)).lastrowid
        assert number is not None
        self.count += 1
        self.written += len(content)
        return number, crc

    def _delete(self, row: _Row) -> None:
        self._rows.execute(_DELETE, (row.number,))
        self.count -= 1

    def add(self, target: int, changes: Mapping[bytes, int], since: float, flush: int) -> None:
        """Note what may be different at a target from now on, beside what is; `flush`: the next one."""
        if not changes:
            return
        live, since = dict(changes), float(since)
        owners = self._owners.setdefault(target, {})
        for path in owners.keys() & live.keys():
            row = owners[path]
            live[path] |= row.live.pop(path)
            since = min(since, row.since)
            if not row.live:
                self._end(target, row, flush)
        number, crc = self._insert(target, 0, since, live)
        self._own(target, _Row(number, since, crc, len(live), live))

    def cold(self, target: int, paths: Iterable[bytes], since: float) -> set[bytes]:
        """Return the places of paths that no durable row names, as changed `since` then."""
        hot = self._hot.get(target, {})
        places = {path.rpartition(b"/")[0] or path for path in paths}  # `parent`, faster: of all that is handed over
        return {place for place in places if place not in hot or hot[place][1] > since}

    def heat(self, target: int, places: Iterable[bytes], since: float, flush: int) -> None:
        """Name places by a row; who calls sees to it that it is durable."""
        # Of the directory that is the root its attributes alone: what is in it is named by itself.
        self.add_lost(target, {place: _ONLY_PLACE | (_PLACE if place else ATTRIB) for place in places}, since, flush)
        self._hot.setdefault(target, {}).update(dict.fromkeys(places, (flush, since)))

    def fold(self, target: int, limit: int, flush: int) -> None:
        """Let directories stand for what is in them, where a target has too many paths."""
        owners = self._owners.get(target, {})
        if len(owners) <= limit:
            return
        since = min(row.since for row in owners.values())
        folded = DirtySet(limit)
        folded.add(((path, row.live[path]) for path, row in owners.items()), since)
        for row in {*owners.values()}:
            row.live.clear()
            self._end(target, row, flush)
        owners.clear()
        self.add(target, folded.ready, since, flush)

    def settle(self, target: int, paths: Collection[bytes], below: Collection[bytes], flush: int) -> list[bytes]:
        """Let paths be clean, and all that is `below` some; return those of the paths that no row names."""
        owners = self._owners.setdefault(target, {})
        touched, others = set[_Row](), []
        last: _Row | None = None
        for path in paths:
            row = owners.pop(path, None)
            if row is None:
                others.append(path)
                continue
            del row.live[path]
            row.settled += 1
            if row is not last:
                touched.add(row)
                last = row
        if below and owners:
            tops = {*below}
            for path in [p for p in owners if p in tops or not tops.isdisjoint((b"", *ancestors(p)) if p else ())]:
                row = owners.pop(path)
                del row.live[path]
                row.settled += 1
                touched.add(row)
        for row in touched:
            if len(row.live) * _FEW <= row.count:
                self._end(target, row, flush)
        return others

    def add_lost(self, target: int, changes: Mapping[bytes, int], since: float, flush: int) -> None:
        """Note what is dirty if a target loses what it was given before a flush."""
        if changes:
            number, _ = self._insert(target, flush, since, changes)
            self._settled[number] = target, flush, len(changes)

    def _end(self, target: int, row: _Row, flush: int) -> None:
        """Let a row wait for a flush if anything of it does; what is dirty of it gets another one."""
        if row.settled:
            self._rows.execute(_SETTLED, (flush, checksum(target, flush, row.since, row.sum), row.number))
            self._settled[row.number] = target, flush, row.settled
        else:
            self._delete(row)
        if row.live:
            number, crc = self._insert(target, 0, row.since, row.live)
            self._own(target, _Row(number, row.since, crc, len(row.live), row.live))

    def tidy(self, flush: int) -> None:
        """Let no row name more than is dirty: nobody goes on with it in this run."""
        for row in self._void:
            self._delete(row)
        self._void.clear()
        for target, owners in self._owners.items():
            for row in {*owners.values()}:
                if len(row.live) < row.count:
                    self._end(target, row, flush)

    def flushed(self, target: int, flush: int) -> None:
        """Note that a target was flushed since some rows were settled: those of this flush and of earlier ones."""
        for number in [n for n, (whose, when, _) in self._settled.items() if whose == target and when <= flush]:
            self._delete_settled(number)
        hot = self._hot.get(target, {})
        self._hot[target] = {place: (when, since) for place, (when, since) in hot.items() if when > flush}

    def doubt(self, target: int, flush: int, *, places: bool) -> set[bytes]:
        """Let all that waits for a flush be dirty; return those paths.

        `places`: also those in which rows of ours may be lost that were there.
        """
        for row in {*self._owners.get(target, {}).values()}:
            if row.settled:
                self._end(target, row, flush)
        found = set[bytes]()
        query = "SELECT since, content FROM journal WHERE id = ?"
        for number in [n for n, (whose, _, _) in self._settled.items() if whose == target]:
            since, content = self._rows.execute(query, (number,)).fetchone()
            changes = unpacked(content)
            if not places and any(bits & _ONLY_PLACE for bits in changes.values()):
                continue
            plain = {path: bits & ~_ONLY_PLACE for path, bits in changes.items()}
            lost = {p: bits | CONTENT | (0 if bits & NAME else ATTRIB) for p, bits in plain.items()}
            self.add(target, lost, since, flush)
            self._delete_settled(number)
            found |= lost.keys()
        return found

    def _delete_settled(self, number: int) -> None:
        self._rows.execute(_DELETE, (number,))
        del self._settled[number]
        self.count -= 1

    def drop(self, target: int) -> None:
        """Forget a target."""
        self.count -= self._rows.execute("DELETE FROM journal WHERE target = ?", (target,)).rowcount
        self._owners.pop(target, None)
        self._hot.pop(target, None)
        self._settled = {n: settled for n, settled in self._settled.items() if settled[0] != target}
