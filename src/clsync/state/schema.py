"""The tables of the state, and how its files are opened."""

from __future__ import annotations

import os
import sqlite3
import string
from typing import Final

APPLICATION: Final = 0x636C736E
"""What SQLite's header says of whose file it is."""
VERSION: Final = 2
_PAGE: Final = 4096
"""A changed directory costs a page or two. Larger ones save 7 bytes an object, and take twice as long to write."""
_LOG_PAGES: Final = 4096
_LOG_LEFT: Final = 4 << 20
"""Bytes that the log keeps, which grows as far as it has to."""
_CACHE_KIB: Final = 4096
_PLAIN: Final = frozenset(b"/-_." + string.ascii_letters.encode() + string.digits.encode())
"""Bytes that stand for themselves in a URI; urllib.parse does the same, and every scanner would have to import it."""
_PATIENCE: Final = 60.0
"""Seconds that a writer waits for another one: none of them writes for longer than some 10 ms at a time."""

TABLES: Final = """
CREATE TABLE meta (id INTEGER PRIMARY KEY, content BLOB NOT NULL, checksum INTEGER NOT NULL);
CREATE TABLE target (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, boot BLOB NOT NULL, checksum INTEGER NOT NULL);
CREATE TABLE listing (path BLOB NOT NULL, first BLOB NOT NULL, entries BLOB NOT NULL, UNIQUE (path, first));
CREATE TABLE journal (id INTEGER PRIMARY KEY, target INTEGER NOT NULL, flush INTEGER NOT NULL, since REAL NOT NULL,
                      content BLOB NOT NULL, checksum INTEGER NOT NULL);
"""
SMALL: Final = ("meta", "target", "journal")
"""Tables whose every row counts; a listing that is lost or damaged is only looked at again."""


def connect(path: bytes, *, write: bool) -> sqlite3.Connection:
    """Open an existing file. Raises sqlite3.Error."""
    plain = os.fsencode(os.path.abspath(path))
    name = "".join(chr(byte) if byte in _PLAIN else f"%{byte:02x}" for byte in plain)
    connection = sqlite3.connect(
        f"file:{name}?mode={'rw' if write else 'ro'}",
        uri=True,
        timeout=_PATIENCE,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=32,
    )
    try:
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        connection.execute("PRAGMA mmap_size = 0")  # what is mapped counts as memory
        if write:
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
            connection.execute(f"PRAGMA journal_size_limit = {_LOG_LEFT}")
    except BaseException:
        connection.close()
        raise
    return connection


def create(path: bytes) -> None:
    """Make an empty file with the tables. Raises sqlite3.Error or OSError."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    connection = connect(path, write=True)
    try:
        connection.execute(f"PRAGMA page_size = {_PAGE}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.executescript(f"BEGIN; {TABLES} COMMIT;")
        connection.execute(f"PRAGMA user_version = {VERSION}")
    finally:
        connection.close()
