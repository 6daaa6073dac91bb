"""What is kept on disk: listings, rows of the journal, the mark, the file itself."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import zlib
from functools import cache
from pathlib import Path

from clsync.core.listing import SELF, DamagedListing, change, pack_part, packed, parts_of, signature_of, unpack_part
from clsync.errors import OperatorError
from clsync.state import index
from clsync.state.mark import Mark
from clsync.state.store import Confirmed, Store
from tests.fuzz.target import Feed, target

_BOOT = b"boot" * 4
_RECORD = bytes(range(48))
_PLACE = tempfile.TemporaryDirectory(prefix="clsync-fuzz-")


@target(pack_part(b"path", [b"", b"a"], [_RECORD, _RECORD])[4:], b"\xff\xff\xff\xff", b"\1\0\0\0x", b"\0\0\0\0")
def listings(data: bytes) -> None:
    """A part whose checksum holds is names and records, or damaged; one with another checksum is damaged."""
    part = zlib.crc32(data, zlib.crc32(b"path")).to_bytes(4, "little") + data
    try:
        found = unpack_part(b"path", part)
    except DamagedListing:
        return
    assert pack_part(b"path", list(found), list(found.values())) == part
    for record in found.values():
        change(record, None)
        change(record, _RECORD)
    try:
        unpack_part(b"other", part)
    except DamagedListing:
        return
    raise AssertionError("a listing of another directory was taken")


@cache
def _kept() -> Path:
    """Make a state that holds something; return its directory."""
    place = Path(_PLACE.name, "kept")
    store = Store.open(bytes(place), b"identity", [b"one", b"two"], _BOOT)
    looked = signature_of(os.lstat(_PLACE.name), 1 << 62)
    listing: index.Parts = parts_of(b"", {SELF: packed(looked), b"x": packed(looked)})
    store.confirm(b"one", Confirmed({}, {b"": [(b"", listing)]}))
    store.hand_over(b"one", {b"a": 1, b"b\xff\n": 2}, 1.0)
    store.close()
    return place


def _opened(place: Path) -> None:
    """Open a state, whatever it is, and ask what is dirty."""
    store = Store.open(bytes(place), b"identity", [b"one", b"two"], _BOOT)
    try:
        for target_ in (b"one", b"two"):
            for dirty in store.dirty(target_):
                assert isinstance(dirty.path, bytes)
                assert isinstance(dirty.bits, int)
        store.confirm(b"one", Confirmed({b"a": None, b"x": None}))
    finally:
        store.close()


@target(b"\x00\x10\x00\x00\x05", b"\x00\x64\x00\x00\x01", b"\x01\x00\x00\x00\xff", b"\x02\x20\x00\x00\x80", cost=60)
def damaged_states(data: bytes) -> None:
    """A state in which bytes were changed is gone on with, or set aside for a new one, and never believed half."""
    feed = Feed(data)
    place = Path(_PLACE.name, "damaged")
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(_kept(), place)
    place.chmod(0o700)
    files = sorted(path for path in place.iterdir() if path.stat().st_size)
    for _ in range(1 + feed.number() % 9):
        path = files[feed.number() % len(files)]
        content = bytearray(path.read_bytes() or b"x")
        at = feed.number(4) % len(content)
        new = feed.some(16) or b"\xff"
        content[at : at + len(new)] = new
        path.write_bytes(content if feed.number() % 9 else content[:at])
    try:
        _opened(place)
    except (OSError, sqlite3.Error, OperatorError):
        pass


_COLUMNS = {
    "meta": ("content", "checksum"),
    "target": ("id", "key", "boot", "checksum"),
    "journal": ("target", "flush", "since", "content", "checksum"),
    "listing": ("path", "first", "entries"),
}


@target(b"\0\0\1\5", b"\0\0\2text", b"\2\1\2\xff", b"\4\2\1\5", b"\1\3\0", b"\3\2\3", cost=20)
def state_rows(data: bytes) -> None:
    """Rows in which a value has become another one, of any type, are gone on with, or the state is set aside."""
    feed = Feed(data)
    table = feed.one(list(_COLUMNS))
    column = feed.one(_COLUMNS[table])
    value: object = [None, feed.number(8) - 5, feed.some(50).decode("latin-1"), feed.some(50), feed.number(3) / 7][
        feed.number() % 5
    ]
    place = Path(_PLACE.name, "rows")
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(_kept(), place)
    place.chmod(0o700)
    rows = sqlite3.connect(place / "state.db")
    try:
        rows.execute(f"UPDATE {table} SET {column} = ?", (value,))
        rows.commit()
    except (sqlite3.Error, OverflowError):
        return  # SQLite itself does not take it
    finally:
        rows.close()
    _opened(place)


@target(b"", bytes(44), b"clsync m" + bytes(40))
def marks(data: bytes) -> None:
    """A mark that is not what was written says nothing."""
    path = os.fsencode(os.path.join(_PLACE.name, "mark"))
    with open(path, "wb") as file:
        file.write(data)
    mark = Mark(path)
    try:
        assert mark.read() is None or data.startswith(b"clsync m")
    finally:
        mark.close()
