"""The rows of the index: for each directory, the parts of its listing."""

from __future__ import annotations

import sqlite3
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping

from clsync.core.changes import NAME, OF_DIRECTORY
from clsync.core.listing import (
    A_DIRECTORY,
    PART,
    SELF,
    DamagedListing,
    Signature,
    change,
    changes,
    entries_in,
    exchange,
    is_directory,
    own_record,
    pack_part,
    unpack_part,
    unpacked,
)
from clsync.core.paths import join, parent

Parts = list[tuple[bytes, bytes]]
"""(first name, packed part); the first one begins with the directory itself."""

_PARTS = "SELECT first, entries FROM listing WHERE path = ? ORDER BY first"
_PART = "SELECT rowid, first, entries FROM listing WHERE path = ? AND first <= ? ORDER BY first DESC LIMIT 1"
_PUT = "INSERT INTO listing VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET entries = excluded.entries"
_CHANGE = "UPDATE listing SET entries = ? WHERE rowid = ?"
_DROP_PART = "DELETE FROM listing WHERE rowid = ?"
_DROP = "DELETE FROM listing WHERE path = ?"
_HOLDS = "SELECT 1 FROM listing WHERE path >= ? AND path < ? LIMIT 1"
_HOLDS_ANY = "SELECT 1 FROM listing WHERE path > x'' LIMIT 1"
_DROP_BELOW = "DELETE FROM listing WHERE path >= ? AND path < ?"


def below(path: bytes) -> tuple[bytes, bytes]:
    """Return two keys: what lies strictly below `path` (not empty) is the first or more, and less than the second."""
    return path + b"/", path + b"0"  # the byte after the slash


def parts_in(rows: sqlite3.Connection, path: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the parts of a listing in order, none where it is not known. Raises sqlite3.Error."""
    return rows.execute(_PARTS, (path,))


def put(rows: sqlite3.Connection, listings: Iterable[tuple[bytes, Parts]]) -> None:
    """Write whole listings of directories that are not in the index. Raises sqlite3.Error."""
    rows.executemany(_PUT, ((path, first, part) for path, parts in listings for first, part in parts))


def objects(rows: sqlite3.Connection, tops: Iterable[bytes]) -> int:
    """Return how many entries there are below some directories, none of which lies below another. Raises sqlite3.Error."""
    count = 0
    for top in tops:
        where, keys = ("path = ? OR (path >= ? AND path < ?)", (top, *below(top))) if top else ("?", (1,))
        for first, head in rows.execute(f"SELECT first, substr(entries, 1, 8) FROM listing WHERE {where}", keys):
            count += entries_in(head) - (first == SELF)
    return count


def directories(rows: sqlite3.Connection) -> Iterator[tuple[bytes, bytes]]:
    """Yield all directories with their own records. Raises sqlite3.Error."""
    for path, part in rows.execute("SELECT path, entries FROM listing WHERE first = ?", (SELF,)):
        yield path, own_record(part)


def forget(rows: sqlite3.Connection, path: bytes) -> None:
    """Remove the listings at and below `path`. Raises sqlite3.Error."""
    if not path:
        rows.execute("DELETE FROM listing")
        return
    rows.execute(_DROP, (path,))
    rows.execute(_DROP_BELOW, below(path))


def update(rows: sqlite3.Connection, path: bytes, names: Mapping[bytes, bytes | None]) -> dict[bytes, bytes | None]:
    """Let the listing of a directory say of some names what they are; None: gone. Return what it said else, and of whom.

    A directory that is not in the index stays so. Raises sqlite3.Error or DamagedListing.
    """
    before: dict[bytes, bytes | None] = {}
    for row, first, part, chosen in _parts_with(rows, path, names):
        entries = unpack_part(path, part)
        known = len(before)
        for name, record in chosen.items():
            old = entries.get(name)
            if old == record:
                continue
            before[name] = old
            if record is None:
                del entries[name]
            else:
                entries[name] = record
        if len(before) > known:
            _write_part(rows, row, path, first, entries)
    return before


def _exchange(rows: sqlite3.Connection, path: bytes, names: Mapping[bytes, bytes | None]) -> None:
    """Do what `update` does, faster where no name comes or goes, and tell nothing."""
    for row, _, part, chosen in _parts_with(rows, path, names):
        stay = {name: record for name, record in chosen.items() if record is not None}
        new = exchange(path, part, stay) if len(stay) == len(chosen) else None
        if new is None:
            update(rows, path, chosen)
        elif new != part:
            rows.execute(_CHANGE, (new, row))


def _parts_with(
    rows: sqlite3.Connection, path: bytes, names: Mapping[bytes, bytes | None]
) -> Iterator[tuple[int, bytes, bytes, Mapping[bytes, bytes | None]]]:
    """Yield the parts of a listing that have names, or would: row, first name, part, those names; the last one first."""
    todo = sorted(names)
    while todo:
        found = rows.execute(_PART, (path, todo[-1])).fetchone()
        if found is None:
            return
        row, first, part = found
        if not isinstance(first, bytes):  # SQLite keeps any type in any column
            raise DamagedListing(path)
        cut = bisect_left(todo, first)
        yield row, first, part, {name: names[name] for name in todo[cut:]} if cut else names
        del todo[cut:]


def _write_part(
    rows: sqlite3.Connection, row: int, path: bytes, first: bytes, entries: Mapping[bytes, bytes]
) -> None:
    names = sorted(entries)
    if not names and first != SELF:
        rows.execute(_DROP_PART, (row,))
        return
    # The part keeps the key it has; what is cut off begins with its own first name.
    size = PART if len(names) > 2 * PART else max(len(names), 1)
    head = names[:size]
    rows.execute(_CHANGE, (pack_part(path, head, [entries[name] for name in head]), row))
    for at in range(size, len(names), size):
        cut = names[at : at + size]
        rows.execute(_PUT, (path, cut[0], pack_part(path, cut, [entries[name] for name in cut])))


def confirm(rows: sqlite3.Connection, seen: Mapping[bytes, bytes | None], *, tell: bool = True) -> dict[bytes, int]:
    """Let the index say of some paths what they are, by their records; None: nothing stands there.

    Return the paths that it said else of, with what has changed (`core.changes`), if somebody is to be told. Raises
    sqlite3.Error or DamagedListing.
    """
    wanted: dict[bytes, dict[bytes, bytes | None]] = {}
    here, names = b"", dict[bytes, bytes | None]()
    for path, record in seen.items():
        up, _, name = path.rpartition(b"/")
        is_dir = record is not None and is_directory(record)
        if path:
            if up != here or not names:  # neighbours mostly
                here, names = up, wanted.setdefault(up, {})
            names[name] = A_DIRECTORY if is_dir else record
        if is_dir:
            wanted.setdefault(path, {})[SELF] = record
    changed: dict[bytes, int] = {}
    for directory, names in wanted.items():
        # Also below what was no directory: a listing may be known whose directory is not.
        holds = _holds_listings(rows, directory)
        if not (holds or tell):
            _exchange(rows, directory, names)
            continue
        for name, old in update(rows, directory, names).items():
            path = join(directory, name)
            if tell:
                changed[path] = changed.get(path, 0) | change(old, names[name])
            if holds and name != SELF and old is not None:
                forget(rows, path)
    return changed


def _holds_listings(rows: sqlite3.Connection, directory: bytes) -> bool:
    """Tell whether anything below a directory has a listing: in most directories there are files alone."""
    where, keys = (_HOLDS, below(directory)) if directory else (_HOLDS_ANY, ())
    return rows.execute(where, keys).fetchone() is not None


def superseded(rows: sqlite3.Connection, seen: Mapping[bytes, bytes | None]) -> set[bytes]:
    """Return the paths of which the index has a later record than these. Raises sqlite3.Error or DamagedListing."""
    found = set()
    for path, record in seen.items():
        if record is None:
            continue
        directory, name = (path, SELF) if is_directory(record) else (parent(path), path.rpartition(b"/")[2])
        part = rows.execute(_PART, (directory, name)).fetchone()
        known = unpack_part(directory, part[2]).get(name) if part is not None else None
        if known is not None and unpacked(known).is_later_than(unpacked(record)):
            found.add(path)
    return found


def noted(rows: sqlite3.Connection, paths: Iterable[bytes]) -> dict[bytes, Signature]:
    """Return what the index says of some paths, of those it knows. Raises sqlite3.Error or DamagedListing."""
    found = {}
    for path in paths:
        for directory, name in ((path, SELF), (parent(path), path.rpartition(b"/")[2])):
            part = rows.execute(_PART, (directory, name)).fetchone()
            record = unpack_part(directory, part[2]).get(name) if part is not None else None
            if record is not None:
                found[path] = unpacked(record)
                break
    return found


def listing(rows: sqlite3.Connection, path: bytes) -> dict[bytes, bytes]:
    """Return name -> record of what a directory holds, nothing if it is not known.

    Raises sqlite3.Error or DamagedListing.
    """
    found: dict[bytes, bytes] = {}
    for _, part in parts_in(rows, path):
        found |= unpack_part(path, part)
    found.pop(SELF, None)
    return found


def graft(rows: sqlite3.Connection, top: bytes, listings: Iterable[tuple[bytes, Parts]]) -> None:
    """Replace all that is known at and below a directory. Raises sqlite3.Error or DamagedListing."""
    forget(rows, top)
    put(rows, listings)
    enter(rows, top)


def differences(rows: sqlite3.Connection, top: bytes, listings: Iterable[tuple[bytes, Parts]]) -> dict[bytes, int]:
    """Return what some listings at and below a directory say else than the index does (`core.changes`).

    Raises sqlite3.Error or DamagedListing.
    """
    where, keys = ("path = ? OR (path >= ? AND path < ?)", (top, *below(top))) if top else ("?", (1,))
    old: dict[bytes, dict[bytes, bytes]] = {}
    for path, part in rows.execute(f"SELECT path, entries FROM listing WHERE {where}", keys):
        old.setdefault(path, {}).update(unpack_part(path, part))
    found: dict[bytes, int] = {}
    for path, parts in listings:
        known = old.pop(path, None)
        if known is None:
            found[path] = NAME | OF_DIRECTORY
            continue
        new = {name: record for _, part in parts for name, record in unpack_part(path, part).items()}
        found |= {join(path, name): bits for name, bits in changes(known, new).items()}
    return found | dict.fromkeys(old, NAME | OF_DIRECTORY)


def enter(rows: sqlite3.Connection, top: bytes) -> None:
    """Let the listing that holds a directory say that there is one. Raises sqlite3.Error or DamagedListing."""
    if top:
        update(rows, parent(top), {top.rpartition(b"/")[2]: A_DIRECTORY})
