"""Packed listings and the index that holds them, beside plain dictionaries."""

from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clsync.core import listing as packing
from clsync.core.changes import NAME
from clsync.core.listing import SELF, DamagedListing, Signature, change, changes, pack_part, packed, unpack_part
from clsync.core.paths import is_below, join, parent
from clsync.state import index, schema
from tests.support.proofs import Choices, choices, examples

NAMES = st.binary(min_size=1, max_size=12).filter(lambda name: not {0, 47} & set(name))
MODES = [0o100644, 0o100600, 0o040755, 0o120777, 0o010644, 0o060600]
SIGNATURES = st.builds(
    Signature,
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from(MODES),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
)
LISTINGS = st.dictionaries(NAMES | st.just(SELF), SIGNATURES.map(packed), max_size=9)


def part_of(path: bytes, entries: dict[bytes, bytes]) -> bytes:
    names = sorted(entries)
    return pack_part(path, names, [entries[name] for name in names])


@given(NAMES, LISTINGS)
def test_what_was_packed_is_unpacked(path: bytes, entries: dict[bytes, bytes]) -> None:
    assert unpack_part(path, part_of(path, entries)) == entries


@given(NAMES, LISTINGS, st.data())
def test_a_part_with_another_bit_or_path_is_damaged(
    path: bytes, entries: dict[bytes, bytes], data: st.DataObject
) -> None:
    part = bytearray(part_of(path, entries))
    part[data.draw(st.integers(0, len(part) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(DamagedListing):
        unpack_part(path, bytes(part))
    with pytest.raises(DamagedListing):
        unpack_part(path + b"x", part_of(path, entries))
    with pytest.raises(DamagedListing):
        unpack_part(path, part_of(path, entries)[: data.draw(st.integers(0, len(part) - 1))])


@given(LISTINGS, LISTINGS)
def test_changes_name_exactly_what_differs(old: dict[bytes, bytes], new: dict[bytes, bytes]) -> None:
    found = changes(old, new)
    assert found.keys() == {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
    assert all(found.values())


@given(SIGNATURES, SIGNATURES)
def test_another_inode_or_type_is_another_thing_under_the_name(old: Signature, new: Signature) -> None:
    same = old.ino == new.ino and old.mode & 0o170000 == new.mode & 0o170000
    bits = change(packed(old), packed(new))
    assert bool(bits & NAME) == (not same)
    assert bool(bits) == (old != new)


# -- the index ---------------------------------------------------------------------------------------------------

DIRECTORIES = [b"", b"d", b"d/e", b"d0", b"d-"]
LEAVES = [b"a", b"b", b"e", b"\n", b"\xff", *(b"%d" % number for number in range(8))]


def any_signature(drawn: Choices) -> Signature:
    return Signature(drawn.number(3), drawn.number(2), 0, 0, drawn.one(MODES[:4]), 1, 0, 0)


class Model:
    """An index as a dictionary: directory -> name -> record."""

    def __init__(self) -> None:
        self.listings: dict[bytes, dict[bytes, bytes]] = {}

    def forget(self, top: bytes) -> None:
        self.listings = {p: names for p, names in self.listings.items() if p != top and not is_below(p, top)}

    def set(self, directory: bytes, name: bytes, record: bytes | None) -> bool:
        """Tell whether that is news."""
        names = self.listings.get(directory)
        if names is None or names.get(name) == record:
            return False
        if record is None:
            del names[name]
        else:
            names[name] = record
        return True

    def confirm(self, path: bytes, signature: Signature | None) -> bool:
        name = path.rpartition(b"/")[2]
        news = False
        if path:
            old = self.listings.get(parent(path), {}).get(name)
            news = self.set(parent(path), name, None if signature is None else packing.present(packed(signature)))
            if news and old is not None:
                self.forget(path)
        if signature is not None and signature.is_dir:
            news |= self.set(path, SELF, packed(signature))
        return news


def read(rows: sqlite3.Connection) -> dict[bytes, dict[bytes, bytes]]:
    found: dict[bytes, dict[bytes, bytes]] = {}
    for path, first, part in rows.execute("SELECT path, first, entries FROM listing ORDER BY path, first"):
        entries = unpack_part(path, part)
        assert first == SELF or (min(entries) >= first and first > max(found[path]))
        found.setdefault(path, {}).update(entries)
    return found


def test_nothing_is_known_below_what_has_become_another_file() -> None:
    """A listing may be known whose directory was a file when that was looked at."""
    rows = sqlite3.connect(":memory:", isolation_level=None)
    rows.executescript(schema.TABLES)
    directory, file = Signature(1, 0, 0, 0, 0o40755, 0, 0, 0), Signature(2, 0, 0, 0, 0o100644, 1, 0, 0)
    index.graft(rows, b"", [(b"", [(SELF, part_of(b"", {SELF: packed(directory), b"d": packed(file)}))])])
    index.graft(rows, b"d/e", [(b"d/e", [(SELF, part_of(b"d/e", {SELF: packed(directory)}))])])
    index.confirm(rows, {b"d": packed(file._replace(ino=3))})
    assert read(rows).keys() == {b""}


@examples(3)
@given(choices(200), st.sampled_from([1, 2, 3, 100]))
def test_the_index_says_what_a_dictionary_says(drawn: Choices, size: int) -> None:
    rows = sqlite3.connect(":memory:", isolation_level=None)
    rows.executescript(schema.TABLES)
    model = Model()
    patch = pytest.MonkeyPatch()
    patch.setattr(index, "PART", size)
    try:
        for _ in range(12):
            if drawn.number(3) == 0:
                top = drawn.one(DIRECTORIES)
                names = {
                    SELF: packed(any_signature(drawn)),
                    **{n: packed(any_signature(drawn)) for n in drawn.some(LEAVES, 6)},
                }
                index.graft(rows, top, [(top, [(SELF, part_of(top, names))])])
                model.forget(top)
                if top:
                    model.set(parent(top), top.rpartition(b"/")[2], packing.A_DIRECTORY)
                model.listings[top] = names
            else:
                path = join(drawn.one(DIRECTORIES), drawn.one(LEAVES)) if drawn.number(4) else drawn.one(DIRECTORIES)
                signature = any_signature(drawn) if drawn.number(3) or not path else None
                record = None if signature is None else packed(signature)
                assert (path in index.confirm(rows, {path: record})) == model.confirm(path, signature)
            assert read(rows) == model.listings
    finally:
        patch.undo()
        rows.close()
