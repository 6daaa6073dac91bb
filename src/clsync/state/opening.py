"""Finding out whether a state can be gone on with, and putting it aside where it cannot."""

from __future__ import annotations

import os
import sqlite3
from typing import Final

from clsync.core.paths import shown
from clsync.errors import Exit, OperatorError
from clsync.kernel import places
from clsync.state import schema
from clsync.state.journal import Journal
from clsync.state.mark import FILE as MARK
from clsync.state.mark import Held, Mark
from clsync.state.meta import Meta, Unusable, checksum
from clsync.state.room import refused

FILE: Final = b"state.db"
_NEW: Final = b"state.db.new"
_ASIDE: Final = b"state.db.aside"
_PATIENCE: Final = 3.0
"""Seconds to wait for one who holds the state: a part of a daemon that was killed may be on its way out."""
_OF_THE_PLACE: Final = frozenset(
    (
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_READONLY,
    )
)
"""Errors that say nothing of the file: another one would meet them as well."""
_LOGS: Final = (b"", b"-wal", b"-shm")


def lock(directory: bytes) -> Mark:
    """Make a state directory ours. Raises OperatorError where another process has it, OSError."""
    directory = os.path.abspath(directory)
    try:
        places.make_directories(directory, 0o700)
        # SQLite opens files by their paths, and follows symlinks.
        with places.reached(directory, places.demand_ours_alone, follow=True):
            pass
        os.close(places.own_directory(directory))
    except places.Unsafe as error:
        raise refused(directory, error) from None
    try:
        return Mark(os.path.join(directory, MARK), _PATIENCE)
    except Held:
        raise OperatorError(
            f"another process uses the state in {shown(directory)}",
            "end it, or name another directory by --state-dir",
            Exit.FILES,
        ) from None


Opened = tuple[sqlite3.Connection, Meta, Journal]


def open_or_make(directory: bytes, mark: Mark, identity: bytes, boot: bytes) -> tuple[*Opened, str]:
    """Return the state in a directory, or an empty one; and why the one that was there could not be used.

    Raises OSError or sqlite3.Error where there can be none here.
    """
    path = os.path.join(directory, FILE)
    found = ""
    if os.path.lexists(path):
        try:
            return *_checked(path, mark, identity, boot), ""
        except Unusable as unusable:
            found = str(unusable)
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            if isinstance(error, sqlite3.Error) and error.sqlite_errorcode & 0xFF in _OF_THE_PLACE:
                raise
            found = f"it is damaged ({error})"
        _set_aside(directory)
    mark.clear()
    rows = _made(directory, identity, boot)
    return rows, Meta(identity, boot), Journal(rows), found


def _checked(path: bytes, mark: Mark, identity: bytes, boot: bytes) -> Opened:
    rows = schema.connect(path, write=True)
    try:
        _check_kind(rows)
        for table in schema.SMALL:
            answer = rows.execute(f"PRAGMA quick_check('{table}')").fetchone()
            if answer is None or answer[0] != "ok":
                raise Unusable("it is damaged")
        meta = Meta.read(rows)
        _check_targets(rows)
        journal = Journal(rows)
        if journal.count != meta.rows:  # one that is lost are paths that stay different
            raise Unusable("it is damaged")
        _check_progress(meta, mark, boot)
        if meta.identity != identity:
            raise Unusable("it is one of another directory, or was made with other rules or settings")
    except BaseException:
        rows.close()
        raise
    return rows, meta, journal


def _check_kind(rows: sqlite3.Connection) -> None:
    if rows.execute("PRAGMA application_id").fetchone()[0] != schema.APPLICATION:
        raise Unusable("it is a database of another program")
    if rows.execute("PRAGMA user_version").fetchone()[0] != schema.VERSION:
        raise Unusable("it was made by another version of clsync")


def _check_targets(rows: sqlite3.Connection) -> None:
    for *row, written in rows.execute("SELECT key, boot, checksum FROM target"):
        if checksum(*row) != written:
            raise Unusable("it is damaged")


def _check_progress(meta: Meta, mark: Mark, boot: bytes) -> None:
    marked = mark.read()
    if marked is None:
        raise Unusable("the last run could not write it, or its mark is damaged")
    # Without power, only what was flushed is sure to be there; the rest comes again.
    if meta.sequence < (marked.written if marked.boot == boot else marked.durable):
        raise Unusable("its last changes are lost")


def _set_aside(directory: bytes) -> None:
    """Keep what cannot be used under another name, one at most. Raises OSError."""
    for log in _LOGS:
        try:
            os.replace(os.path.join(directory, FILE + log), os.path.join(directory, _ASIDE + log))
        except FileNotFoundError:
            _remove(os.path.join(directory, _ASIDE + log))


def _made(directory: bytes, identity: bytes, boot: bytes) -> sqlite3.Connection:
    new, path = os.path.join(directory, _NEW), os.path.join(directory, FILE)
    remove(new)
    remove(path)  # SQLite takes any log that lies beside a file for its own
    schema.create(new)
    os.rename(new, path)
    return schema.connect(path, write=True)


def remove(path: bytes) -> None:
    """Remove a database and its logs, as far as they are there. Raises OSError."""
    for log in _LOGS:
        _remove(path + log)


def _remove(path: bytes) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
