"""The directory of a state, and who it belongs to."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Timer

import pytest

from clsync.kernel.credentials import Ids
from clsync.kernel.places import Unsafe
from clsync.state.mark import Held, Mark, distrust
from clsync.state.room import is_shut, make_room

ROOT, NOBODY, OTHER = Ids(0, 0, ()), Ids(65534, 65534, ()), Ids(65533, 65533, ())
FILES = ("state.db", "state.db-wal", "state.mark")

pytestmark = pytest.mark.root


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """Return where there is to be one."""
    return tmp_path / "above" / "states" / "one"


def filled(room: Path, keeper: Ids) -> None:
    """Make one with files."""
    make_room(bytes(room), keeper)
    for name in FILES:
        (room / name).write_text(name)
        os.chown(room / name, keeper.uid, keeper.gid)


def owners(room: Path) -> set[int]:
    return {path.stat().st_uid for path in (room, *room.iterdir())}


def test_others_pass_by_and_see_nothing(room: Path) -> None:
    before = os.umask(0o077)
    try:
        assert not make_room(bytes(room), NOBODY)
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in (room, room.parent, room.parent.parent)] == [0o700, 0o711, 0o711]
    assert [path.stat().st_uid for path in (room, room.parent)] == [NOBODY.uid, 0]


def test_files_of_root_are_given(room: Path) -> None:
    filled(room, ROOT)
    assert not make_room(bytes(room), NOBODY)
    assert owners(room) == {NOBODY.uid}
    assert (room / "state.db").read_text() == "state.db"


@pytest.mark.parametrize("keeper", [ROOT, OTHER])
def test_files_of_somebody_else_are_removed(room: Path, keeper: Ids) -> None:
    filled(room, NOBODY)
    (room / "more").write_text("of the operator")
    assert make_room(bytes(room), keeper)
    assert [path.name for path in room.iterdir()] == ["more"]
    assert room.stat().st_uid == keeper.uid
    assert not make_room(bytes(room), keeper)


def test_what_is_no_file_of_a_state_is_not_given(room: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("victim")
    filled(room, ROOT)
    os.link(victim, room / "state.db.new")
    with pytest.raises(Unsafe):
        make_room(bytes(room), NOBODY)
    assert victim.stat().st_uid == room.stat().st_uid == 0
    os.unlink(room / "state.db.new")
    (room / "state.db.new").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic"):
        make_room(bytes(room), NOBODY)
    assert victim.stat().st_uid == 0


def test_a_symlink_in_its_place(room: Path, tmp_path: Path) -> None:
    (victim := tmp_path / "victim").mkdir()
    room.parent.mkdir(parents=True)
    room.symlink_to(victim)
    with pytest.raises(OSError, match="Not a directory"):
        make_room(bytes(room), NOBODY)
    assert victim.stat().st_uid == 0


def test_directories_above_that_others_may_write(room: Path) -> None:
    filled(room, ROOT)
    room.parent.chmod(0o777)
    with pytest.raises(Unsafe):
        make_room(bytes(room), NOBODY)
    with pytest.raises(Unsafe):
        make_room(bytes(room.parent / "more" / "two"), NOBODY)
    assert not (room.parent / "more").exists()


@pytest.mark.parametrize("keeper", [ROOT, NOBODY])
@pytest.mark.parametrize(("owner", "mode"), [(OTHER.uid, 0o700), (OTHER.uid, 0o777), (0, 0o777), (0, 0o1775)])
def test_what_somebody_else_may_have_prepared(room: Path, keeper: Ids, owner: int, mode: int) -> None:
    """In a directory like /tmp it is neither taken nor given away; one that others may write is not used anywhere."""
    room.mkdir(parents=True)
    if owner:
        room.parent.chmod(0o1777)
    (room / "state.db").write_text("prepared")
    os.chown(room, owner, owner)
    room.chmod(mode)
    with pytest.raises(Unsafe, match="somebody else" if mode == 0o700 else "others may write into it"):
        make_room(bytes(room), keeper)
    found = room.stat()
    assert (found.st_uid, found.st_mode & 0o7777) == (owner, mode)
    assert (room / "state.db").stat().st_uid == 0


@pytest.mark.parametrize("mode", [0o711, 0o1777])
def test_one_that_root_has_made_by_hand(room: Path, mode: int) -> None:
    room.mkdir(parents=True, mode=0o755)
    room.parent.chmod(mode)
    assert not make_room(bytes(room), NOBODY)
    assert not make_room(bytes(room), NOBODY)
    assert (room.stat().st_uid, room.stat().st_mode & 0o777) == (NOBODY.uid, 0o700)


def test_what_cannot_be_removed_stays_who_made_it(room: Path) -> None:
    """Else the next one with rights would read what lies beside it."""
    filled(room, NOBODY)
    (room / "state.aaa").mkdir()
    with pytest.raises(Unsafe, match="cannot be removed"):
        make_room(bytes(room), ROOT)
    assert room.stat().st_uid == NOBODY.uid


def test_who_cannot_get_there() -> None:
    with TemporaryDirectory(prefix="clsync-room-", dir="/dev/shm") as above:
        room = Path(above, "one")
        make_room(bytes(room), NOBODY)
        assert is_shut(bytes(room), NOBODY)
        assert not is_shut(bytes(room), ROOT)
        os.chmod(above, 0o711)
        assert not is_shut(bytes(room), NOBODY)


def test_a_mark_with_another_name_is_left_alone(room: Path, tmp_path: Path) -> None:
    """Whoever may write the directory may have put it there."""
    victim = tmp_path / "victim"
    victim.write_text("victim" * 20)
    filled(room, NOBODY)
    (room / "state.mark").unlink()
    os.link(victim, room / "state.mark")
    with pytest.raises(OSError, match="something else"):
        distrust(bytes(room))
    assert victim.read_text() == "victim" * 20


def test_who_holds_it_is_waited_for(room: Path) -> None:
    make_room(bytes(room), ROOT)
    first = Mark(bytes(room / "state.mark"))
    with pytest.raises(Held):
        Mark(bytes(room / "state.mark"))
    Timer(0.1, first.close).start()
    Mark(bytes(room / "state.mark"), 60.0).close()
