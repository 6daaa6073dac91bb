"""What a state remembers over restarts, and what becomes of files it cannot go on with."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from clsync.core.changes import ATTRIB, CONTENT, DOUBT, NAME
from clsync.core.listing import Signature, pack_part, packed, unpacked
from clsync.errors import Exit, OperatorError
from clsync.kernel.durable import boot_id, flush_file_system
from clsync.state import schema
from clsync.state.place import default_directory, directory_of
from clsync.state.store import Confirmed, Dirty, Store
from tests.system.world import mounted

A, B = b"target a", b"target b"
BOOT, LATER = b"0" * 16, b"1" * 16
EVERYTHING = {b"": DOUBT}
PLACE = ATTRIB | CONTENT | DOUBT
FILE = packed(Signature(7, 3, 10**18, 10**18, 0o100644, 1, 0, 0))
DIRECTORY = packed(Signature(1, 0, 0, 0, 0o040755, 0, 0, 0))
NEWER = packed(unpacked(FILE)._replace(ctime_ns=2 * 10**18))
NEWEST = packed(unpacked(FILE)._replace(ctime_ns=3 * 10**18))


def opened(place: Path, *targets: bytes, boot: bytes = BOOT, identity: bytes = b"source") -> Store:
    return Store.open(os.fsencode(place), identity, targets or (A,), boot)


def paths(dirty: list[Dirty]) -> dict[bytes, int]:
    return {one.path: one.bits for one in dirty}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def store(place: Path) -> Iterator[Store]:
    """Give a state whose target is known to be equal."""
    made = equal(opened(place))
    yield made
    made.close()


def equal(store: Store, *targets: bytes) -> Store:
    store.begin_record(b"", 0.0)
    for target in targets or (A,):
        store.end_record(target, b"", {}, 0.0)
    store.flushed(A, store.begin_flush())
    return store


def again(store: Store, place: Path, *targets: bytes, boot: bytes = BOOT) -> Store:
    """Open a state anew as after a crash."""
    store.close()
    return opened(place, *targets, boot=boot)


def test_a_new_target_is_to_be_synced_as_a_whole(place: Path) -> None:
    store = opened(place)
    assert paths(store.dirty(A)) == EVERYTHING
    assert not store.found
    store = again(equal(store), place, A, B)
    assert (store.dirty(A), paths(store.dirty(B))) == ([], EVERYTHING)
    store.close()


def test_a_target_that_was_left_out_is_forgotten(place: Path) -> None:
    store = again(equal(opened(place, A, B), A, B), place, A)
    store = again(store, place, A, B)
    assert (store.dirty(A), paths(store.dirty(B))) == ([], EVERYTHING)
    store.close()


def test_what_a_handler_has_is_dirty_until_it_is_confirmed(store: Store, place: Path) -> None:
    store.hand_over(A, {b"d/f": CONTENT, b"g": NAME}, 5)
    store = again(store, place)
    assert store.dirty(A) == [
        Dirty(b"", ATTRIB, 5.0),
        Dirty(b"d", ATTRIB, 5.0),
        Dirty(b"d/f", CONTENT, 5.0),
        Dirty(b"g", NAME, 5.0),
    ]
    store.hand_over(A, {b"d/f": ATTRIB}, 3)
    assert Dirty(b"d/f", CONTENT | ATTRIB, 3.0) in store.dirty(A)
    store.confirm(A, Confirmed({b"d/f": FILE}))
    assert paths(store.dirty(A)) == {b"": ATTRIB, b"g": NAME}
    store.confirm(A, Confirmed({b"g": None}))
    assert again(store, place).dirty(A) == []


def test_what_has_changed_again_stays_dirty(store: Store, place: Path) -> None:
    store.hand_over(A, {b"f": CONTENT, b"d": NAME}, 0)
    store.confirm(A, Confirmed({b"f": FILE}, {b"d": []}, {b"f": CONTENT, b"d/new": NAME}))
    assert paths(again(store, place).dirty(A)) == {b"": ATTRIB, b"f": CONTENT, b"d": ATTRIB, b"d/new": NAME}


@pytest.mark.parametrize(
    ("flushed", "boot", "lost"), [(False, BOOT, False), (False, LATER, True), (True, LATER, False)]
)
def test_without_a_flush_what_was_confirmed_is_dirty_after_another_boot(
    store: Store, place: Path, flushed: bool, boot: bytes, lost: bool
) -> None:
    store.hand_over(A, {b"f": CONTENT, b"gone": NAME}, 0)
    store.confirm(A, Confirmed({b"f": FILE, b"gone": None}))
    if flushed:
        store.flushed(A, store.begin_flush())
    expected = {b"": ATTRIB, b"f": PLACE, b"gone": NAME | PLACE} if lost else {}
    assert paths(again(store, place, boot=boot).dirty(A)) == expected


def test_a_flush_is_for_what_was_confirmed_before_it_began(store: Store) -> None:
    store.confirm(A, Confirmed({b"before": FILE}))
    flush = store.begin_flush()
    store.confirm(A, Confirmed({b"after": FILE, b"before": NEWER}))
    store.flushed(A, flush)
    assert store.awaiting_flush() == 2
    assert paths(store.note_boot(A, b"first")) == {b"after": ATTRIB | CONTENT, b"before": ATTRIB | CONTENT}
    assert store.awaiting_flush() == 0


def test_a_target_that_has_booted_may_have_lost_what_was_not_flushed(store: Store, place: Path) -> None:
    assert store.note_boot(A, b"its first") == []
    store.confirm(A, Confirmed({b"flushed": FILE}))
    store.flushed(A, store.begin_flush())
    store.confirm(A, Confirmed({b"f": FILE}))
    store = again(store, place)
    assert (store.note_boot(A, b"its first"), store.dirty(A)) == ([], [])
    lost = {b"f": ATTRIB | CONTENT}
    assert paths(store.note_boot(A, b"its second")) == lost
    store = again(store, place)
    assert paths(store.dirty(A)) == {b"": ATTRIB, **lost}
    assert store.note_boot(A, b"its second") == []
    store.close()


def test_what_a_host_has_lost_is_what_was_confirmed(store: Store, place: Path) -> None:
    """Places in which something was handed over are for rows of ours that are lost with our power."""
    store.note_boot(A, b"its first")
    store.hand_over(A, {b"d/f": CONTENT, b"d/g": CONTENT, b"d/h": CONTENT}, 0)
    store.confirm(A, Confirmed({b"d/f": FILE}))
    store = again(store, place)
    assert store.boot_of(A) == b"its first"
    assert paths(store.note_boot(A, b"its second")).keys() == {b"d/f", b"d/g", b"d/h"}
    assert paths(store.dirty(A))[b"d"] == ATTRIB
    assert store.awaiting_flush(A) == 1
    assert paths(again(store, place, boot=LATER).dirty(A))[b"d"] == PLACE


def test_what_is_settled_of_a_row_may_be_lost_as_well(store: Store) -> None:
    """Most of the row is on its way still."""
    store.note_boot(A, b"its first")
    store.hand_over(A, {b"%d" % number: CONTENT for number in range(8)}, 0)
    store.confirm(A, Confirmed({b"0": FILE}))
    store.note_boot(A, b"its second")
    assert paths(store.dirty(A)).keys() == {b"", *(b"%d" % number for number in range(8))}


def test_who_cannot_be_asked_may_have_lost_everything_that_was_not_flushed(store: Store) -> None:
    store.confirm(A, Confirmed({b"f": FILE}))
    store.flushed(A, store.begin_flush())
    store.confirm(A, Confirmed({b"g": FILE}))
    assert paths(store.doubt(A)).keys() == {b"g"}
    assert store.doubt(A) == []


def test_the_log_is_short_again_after_much_was_written(store: Store, place: Path) -> None:
    log = place / "state.db-wal"
    for number in range(3):
        noise = random.Random(number).randbytes(schema._LOG_LEFT)
        store.confirm(A, Confirmed({}, {b"d%d" % number: [(b"d%d" % number, [(b"", noise)])]}))
    assert log.stat().st_size > schema._LOG_LEFT
    store._changes = -schema._LOG_LEFT  # much was written
    store.shorten_log()
    store.hand_over(A, {b"f": CONTENT}, 0)
    assert log.stat().st_size <= schema._LOG_LEFT


@pytest.mark.parametrize("name", [None, "state.db", "state.mark"])
def test_a_state_that_was_removed_is_kept_no_longer(store: Store, place: Path, name: str | None) -> None:
    """That is said, once; what was put in its place is left alone."""
    told: list[str] = []
    store.on_lost = told.append
    store.shorten_log()
    assert not store.lost
    if name is None:
        place.rename(place.with_name("moved"))
        place.mkdir()
    else:
        (place / name).unlink()
    theirs = place / (name or "state.db")
    theirs.write_text("theirs")
    for _ in range(2):
        store.confirm(A, Confirmed({b"file": None}))
    assert told == ["it was removed, or another one was put in its place"]
    store.close()
    assert theirs.read_text() == "theirs"


def test_a_tree_that_is_being_recorded_is_in_doubt(store: Store, place: Path) -> None:
    store.begin_record(b"d", 4.0)
    store = again(store, place)
    assert store.dirty(A)[-1].path == b"d"
    assert store.dirty(A)[-1].bits & DOUBT
    store.hand_over(A, {b"d/x": CONTENT, b"d0": CONTENT}, 5)
    store.end_record(A, b"d", {b"d/y": NAME, b"elsewhere": NAME}, 5.0)
    assert paths(again(store, place).dirty(A)) == {b"": ATTRIB, b"d": ATTRIB, b"d/y": NAME, b"d0": CONTENT}


def test_another_target_is_told_of_what_the_index_no_longer_says(place: Path) -> None:
    store = equal(opened(place, A, B), A, B)
    store.confirm(A, Confirmed({}, {b"": listing(DIRECTORY, f=FILE)}))
    store.confirm(B, Confirmed({}, {b"": listing(DIRECTORY, f=FILE)}))
    assert store.dirty(B) == []
    store.confirm(A, Confirmed({b"f": NEWER}))
    assert b"f" in paths(store.dirty(B))
    store.confirm(B, Confirmed({b"f": NEWER}))
    assert store.dirty(B) == []
    assert paths(store.dirty(A)).keys() <= {b""}
    store.close()


def test_two_targets_that_get_the_same_have_no_exceptions(place: Path) -> None:
    store = equal(opened(place, A, B), A, B)
    for target in (A, B):
        store.confirm(target, Confirmed({}, {b"": listing(DIRECTORY, f=FILE, g=FILE)}))
    assert (store.dirty(A), store.dirty(B)) == ([], [])
    store.confirm(A, Confirmed({}, {b"": listing(DIRECTORY, f=NEWER, g=FILE)}))
    assert (store.dirty(A), paths(store.dirty(B))) == ([], {b"": ATTRIB, b"f": ATTRIB | CONTENT})
    store.confirm(B, Confirmed({}, {b"": listing(DIRECTORY, f=NEWER, g=FILE)}))
    assert (store.dirty(A), store.dirty(B)) == ([], [])
    store.close()


def test_a_slower_target_does_not_set_the_index_back(place: Path) -> None:
    store = equal(opened(place, A, B), A, B)
    for target in (A, B):
        store.confirm(target, Confirmed({}, {b"": listing(DIRECTORY, f=FILE)}))
    store.hand_over(B, {b"f": CONTENT}, 0)
    store.confirm(A, Confirmed({b"f": NEWEST}))
    store.confirm(B, Confirmed({b"f": NEWER}))
    assert (store.dirty(A), set(paths(store.dirty(B)))) == ([], {b"", b"f"})
    store.confirm(B, Confirmed({b"f": NEWEST}))
    assert (store.dirty(A), store.dirty(B)) == ([], [])
    store.close()


def test_a_long_journal_folds_into_directories(place: Path) -> None:
    store = equal(opened(place, A, B), A, B)
    store.limit = 1000
    store.hand_over(B, {b"kept": NAME}, 3.0)
    for part in range(20):
        store.hand_over(A, {b"d%d/%d" % (part, number): CONTENT for number in range(100)}, 5.0 + part)
    found = store.dirty(A)
    assert len(found) < 1500
    doubtful = {dirty.path for dirty in found if dirty.bits & DOUBT and dirty.since == 5.0}
    assert doubtful
    covered = doubtful | {dirty.path for dirty in found}
    for part in range(20):
        names = {b"d%d/%d" % (part, number) for number in range(100)}
        assert b"d%d" % part in doubtful or names <= covered
    assert b"kept" in paths(again(store, place, A, B).dirty(B))


def listing(root: bytes, **files: bytes) -> list[tuple[bytes, list[tuple[bytes, bytes]]]]:
    names = [b"", *map(str.encode, sorted(files))]
    return [(b"", [(b"", pack_part(b"", names, [root, *(files[n] for n in sorted(files))]))])]


# -- files that cannot be used -----------------------------------------------------------------------------------


def test_a_second_process_is_refused(store: Store, place: Path) -> None:
    with pytest.raises(OperatorError, match="another process uses the state") as refused:
        opened(place)
    assert refused.value.code == Exit.FILES
    assert "--state-dir" in refused.value.hint


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda p: (p / "state.db").write_bytes(b"no database at all" * 999), "damaged"),
        (lambda p: (p / "state.db").write_bytes(b""), "another program"),
        (lambda p: os.truncate(p / "state.db", 8192), "damaged"),
        (lambda p: (p / "state.mark").unlink(), "mark"),
        (lambda p: execute(p, "PRAGMA user_version = 99"), "another version"),
        (lambda p: execute(p, "PRAGMA application_id = 99"), "another program"),
        (lambda p: execute(p, "DELETE FROM journal WHERE flush = 0"), "damaged"),
        (lambda p: execute(p, "UPDATE journal SET flush = 1"), "damaged"),
        (lambda p: execute(p, "UPDATE target SET key = x'00'"), "damaged"),
        (lambda p: execute(p, "DELETE FROM journal WHERE flush > 0"), "damaged"),
        (lambda p: execute(p, "DELETE FROM meta"), "damaged"),
        (lambda p: execute(p, "DROP TABLE meta"), "damaged"),
    ],
    ids=lambda value: None if callable(value) else value,
)
def test_what_cannot_be_used_is_set_aside(store: Store, place: Path, spoil: object, why: str) -> None:
    store.hand_over(A, {b"f": NAME}, 0)
    store.confirm(A, Confirmed({b"g": FILE}))
    store.close()
    assert callable(spoil)
    spoil(place)
    store = opened(place)
    assert why in store.found
    assert paths(store.dirty(A)) == EVERYTHING
    assert (place / "state.db.aside").exists()
    assert not again(equal(store), place).found


def execute(place: Path, statement: str) -> None:
    rows = sqlite3.connect(place / "state.db")
    rows.execute(statement)
    rows.commit()
    rows.close()


def test_a_state_of_another_source_is_set_aside(store: Store, place: Path) -> None:
    store.close()
    store = opened(place, identity=b"another source")
    assert "another directory" in store.found
    assert paths(store.dirty(A)) == EVERYTHING
    store.close()


@pytest.mark.parametrize("seed", range(3))
def test_a_state_with_flipped_bytes_forgets_nothing(place: Path, tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    store = equal(opened(place))
    expected = {b"dir/%d" % number: NAME for number in range(500)}
    store.hand_over(A, expected, 1.0)
    copy = tmp_path / "copy"
    refused = 0
    for turn in range(60):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(place, copy)  # as a crash leaves it, with its log
        victim = copy / draw.choice(["state.db", "state.db-wal", "state.mark"])
        data = bytearray(victim.read_bytes())
        for _ in range(draw.choice([1, 1, 20])):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        victim.write_bytes(data)
        damaged = opened(copy)
        found = paths(damaged.dirty(A))
        complete = expected.items() <= found.items() or found == {b"": DOUBT}
        assert complete, f"seed {seed}, turn {turn}, {victim.name}: {found}, {damaged.found}"
        refused += bool(damaged.found)
        damaged.close()
    assert refused > 20
    store.close()


def test_a_log_that_was_set_back_is_noticed(store: Store, place: Path, tmp_path: Path) -> None:
    store.hand_over(A, {b"old": NAME}, 0)
    copy = tmp_path / "copy"
    shutil.copytree(place, copy)
    store.hand_over(A, {b"new": NAME}, 0)
    shutil.copy(place / "state.mark", copy / "state.mark")
    later = opened(copy)
    assert later.found == "its last changes are lost"
    assert paths(later.dirty(A)) == EVERYTHING
    later.close()


def test_unflushed_transactions_may_be_gone_after_another_boot(store: Store, place: Path, tmp_path: Path) -> None:
    store.hand_over(A, {b"f": NAME}, 0)
    copy = tmp_path / "copy"
    shutil.copytree(place, copy)
    store.confirm(A, Confirmed({b"f": None}))
    shutil.copy(place / "state.mark", copy / "state.mark")
    later = opened(copy, boot=LATER)
    assert not later.found
    assert b"f" in paths(later.dirty(A))
    later.close()


def test_what_was_handed_over_since_the_last_flush_is_in_doubt_after_a_loss_of_power(
    store: Store, place: Path, tmp_path: Path
) -> None:
    """Whatever of it is on disk: the directories are there."""
    store.hand_over(A, {b"d/f": CONTENT, b"top": CONTENT}, 5.0)
    copy = tmp_path / "copy"
    shutil.copytree(place, copy)
    store.hand_over(A, {b"d/g": NAME, b"top": CONTENT}, 6.0)  # nobody waits for the disk
    store.confirm(A, Confirmed({b"d/g": None}))
    shutil.copy(place / "state.mark", copy / "state.mark")
    later = opened(copy, boot=LATER)
    assert not later.found
    found = paths(later.dirty(A))
    assert found[b"d"] & DOUBT
    assert found[b"top"] & CONTENT
    assert b"e" not in found
    later.close()


def test_a_directory_is_durable_before_anything_in_it_is_handed_over(
    store: Store, place: Path, tmp_path: Path
) -> None:
    """And again once what was handed over before was flushed."""
    for changes in ({b"d/f": CONTENT}, {b"e/f": CONTENT}, {b"d/f": CONTENT}):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(place, copy)
        store.hand_over(A, changes, 5.0)
        assert not store.is_prompt(A, [b"x/f"], 5.0)
        assert store.is_prompt(A, changes, 5.0)
        shutil.copy(place / "state.mark", copy / "state.mark")
        later = opened(copy, boot=LATER)
        assert later.found == "its last changes are lost"
        later.close()
        if b"e/f" in changes:
            store.flushed(A, store.begin_flush())


# -- places that fail --------------------------------------------------------------------------------------------


def test_a_state_that_cannot_be_written_is_given_up_and_not_trusted(store: Store, place: Path) -> None:
    said: list[str] = []
    store.on_lost = said.append
    store._rows.execute("PRAGMA max_page_count = 1")  # SQLite's own disk full
    store.hand_over(A, {b"%d" % number: NAME for number in range(5000)}, 0)
    store.hand_over(A, {b"f": NAME}, 0)
    store.confirm(A, Confirmed({b"f": FILE}))
    assert len(said) == 1
    assert "full" in said[0]
    assert paths(store.dirty(A)) == EVERYTHING
    store.close()
    store = opened(place)
    assert paths(store.dirty(A)) == EVERYTHING
    store.close()


def test_a_start_is_not_confused_by_what_a_crash_has_left(place: Path, tmp_path: Path) -> None:
    store = equal(opened(place))
    shutil.copytree(place, tmp_path / "copy")
    store.close()
    (place / "state.db").unlink()
    shutil.copy(tmp_path / "copy" / "state.db-wal", place / "state.db-wal")  # a log that is whole, of another file
    (place / "state.db.new").write_bytes(b"half")
    (place / "state.db.new-wal").write_bytes(b"half")
    store = opened(place)
    assert paths(store.dirty(A)) == EVERYTHING
    assert again(equal(store), place).dirty(A) == []


@pytest.mark.root
def test_a_full_disk_ends_the_state_and_nothing_else(tmp_path: Path) -> None:
    said: list[str] = []
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted("tmpfs", disk, "size=400k"):
        store = equal(opened(disk / "state"))
        store.on_lost = said.append
        for number in range(40):
            store.hand_over(A, {b"%d/%d" % (number, name): NAME for name in range(500)}, 0)
        assert store.lost
        assert len(said) == 1
        assert paths(store.dirty(A)) == EVERYTHING
        store.close()
        store = opened(disk / "state")
        assert paths(store.dirty(A)) == EVERYTHING
        store.close()


@pytest.mark.root
def test_a_directory_that_cannot_be_written_is_an_error_at_once(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted("tmpfs", disk):
        equal(opened(disk / "state")).close()
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.raises((OSError, sqlite3.Error)):
            opened(disk / "state")
        with pytest.raises((OSError, sqlite3.Error)):
            opened(disk / "another")


@pytest.mark.root
def test_a_disk_that_turns_read_only_ends_the_state(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    image = tmp_path / "image"
    with open(image, "wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    with mounted("ext4", disk, "loop", str(image)):
        store = equal(opened(disk / "state"))
        subprocess.run(["mount", "-o", "remount,abort", disk], check=False, capture_output=True)
        store.hand_over(A, {b"f": NAME}, 0)
        assert store.lost
        store.confirm(A, Confirmed({b"f": FILE}))
        store.close()


# -- places ------------------------------------------------------------------------------------------------------


def test_states_have_places_of_their_own() -> None:
    assert default_directory(True, {b"XDG_STATE_HOME": b"/x"}) == b"/var/lib/clsync"
    assert default_directory(False, {b"XDG_STATE_HOME": b"/x"}) == b"/x/clsync"
    assert default_directory(False, {b"XDG_STATE_HOME": b"x"}).endswith(b"/.local/state/clsync")
    places = {
        directory_of(b"/s", source, instance) for source in (b"/a/b", b"/a_b", b"/") for instance in (b"", b"2")
    }
    assert len(places) == 6
    assert all(os.path.dirname(place) == b"/s" for place in places)
    assert len(os.path.basename(directory_of(b"/s", b"/" + b"\n" * 5000))) < 200


def test_what_is_durable() -> None:
    assert boot_id() == boot_id()
    assert len(boot_id()) == 16
    directory = os.open("/", os.O_RDONLY)
    flush_file_system(directory)
    os.close(directory)
    with pytest.raises(OSError, match="descriptor"):
        flush_file_system(directory)
