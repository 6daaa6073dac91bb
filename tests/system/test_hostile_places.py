"""Files of the daemon where somebody else may write: nothing he has put there is followed, overwritten or given away."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from clsync.daemon.dump import State, begin_dump, fill_dump
from clsync.errors import OperatorError
from clsync.state.store import Store
from tests.support.hostile import Victim, hostile_directory, swapping
from tests.support.recorder import Recorder
from tests.support.rights import NOBODY
from tests.system.world import ROOT, SYNCED, World

pytestmark = [ROOT, pytest.mark.root]
FILES = 7
OTHER = 4711
"""A user who is neither root nor the daemon."""
STATE = State("running", [], ({}, {}, {}, {}), {}, "", False)


@pytest.fixture
def victim(world: World) -> Victim:
    """Return what nobody may touch."""
    return Victim(world.top / "victim")


@pytest.fixture
def hostile(world: World) -> Path:
    """Return a directory of somebody else's."""
    return hostile_directory(world.top / "hostile")


def plant(kind: str, place: Path, victim: Victim) -> None:
    """Put something in a place, as the owner of the directory might."""
    match kind:
        case "symlink":
            place.symlink_to(victim.file)
        case "symlink to nothing":
            place.symlink_to(victim.directory / "new")
        case "link":
            os.link(victim.file, place)
        case "fifo":
            os.mkfifo(place)
        case "device":
            os.mknod(place, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        case "directory":
            place.mkdir()
        case "file":
            place.write_text("9999999")
    if kind != "link":
        os.chown(place, OTHER, OTHER, follow_symlinks=False)


@pytest.mark.parametrize("option", ["--pid-file", "--status-file"])
@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("symlink", "symlink"),
        ("symlink to nothing", "symlink"),
        ("fifo", "no regular file"),
        ("device", "no regular file"),
        ("directory", "no regular file"),
    ],
)
def test_what_is_no_file_is_refused(
    world: World, hostile: Path, victim: Victim, option: str, kind: str, word: str
) -> None:
    plant(kind, hostile / "word", victim)
    before = (hostile / "word").lstat()
    message, hint = world.run(*world.trees, "-Mcopy", f"{option}={hostile}/word").complaint(FILES)
    assert f"{option} {hostile}/word" in message
    assert word in message
    assert "remove" in hint
    assert (hostile / "word").lstat().st_ino == before.st_ino
    victim.demand_untouched()


@pytest.mark.parametrize("kind", ["link", "file"])
@pytest.mark.parametrize("user", [(), ("--uid=nobody", "--gid=nogroup")], ids=["root", "nobody"])
def test_files_of_others_are_replaced(
    world: World, hostile: Path, victim: Victim, kind: str, user: tuple[str, ...]
) -> None:
    """A hard link is not written to, nor given away with what it is another name of."""
    pid_file, status_file = hostile / "pid", hostile / "status"
    for place in (pid_file, status_file):
        plant(kind, place, victim)
    os.chown(world.destination, NOBODY, NOBODY)
    held = pid_file.open()
    with world.daemon("-Mcopy", "-z", pid_file, f"--status-file={status_file}", *user) as daemon:
        daemon.wait_for_log(SYNCED)
        assert pid_file.read_text() == str(daemon.pid)
        daemon.wait_until(lambda: status_file.read_text() == "running", what="running")
        for place in (pid_file, status_file):
            found = place.stat()
            assert (found.st_uid, found.st_nlink) == (NOBODY if user else 0, 1)
        assert held.read() in ("secret", "9999999")
    held.close()
    victim.demand_untouched()
    assert not pid_file.exists()


def test_ours_are_written_in_place(world: World) -> None:
    """Whoever has one open, or watches it, sees what becomes of it."""
    status_file = world.file("status", "old")
    before = status_file.stat().st_ino
    with world.daemon("-Mcopy", f"--status-file={status_file}") as daemon:
        daemon.wait_until(lambda: status_file.read_text() == "running", what="running")
        assert status_file.stat().st_ino == before


@pytest.mark.parametrize(
    "option", ["--pid-file={}/pid", "--status-file={}/status", "--socket={}/socket", "-L{}", "-L{}/lists"]
)
def test_a_way_that_somebody_else_has_laid(world: World, hostile: Path, victim: Victim, option: str) -> None:
    way = hostile / "way"
    way.symlink_to(victim.directory)
    os.chown(way, NOBODY, NOBODY, follow_symlinks=False)
    recorder = Recorder(world.top)
    arguments = ("-Mrsyncshell", recorder.option, option.format(way))
    message, _ = world.run(*world.trees, *arguments).complaint(FILES)
    assert f"the symlink {way} belongs to somebody else (user {NOBODY})" in message
    victim.demand_untouched()


def test_a_way_of_roots_own_is_gone(world: World, victim: Victim) -> None:
    way = world.top / "way"
    way.symlink_to(world.top)
    with world.daemon("-Mcopy", "-z", way / "pid", "--socket", way / "socket") as daemon:
        daemon.wait_for_log(SYNCED)
        assert (world.top / "pid").read_text() == str(daemon.pid)
        assert stat.S_ISSOCK((world.top / "socket").stat().st_mode)
    assert not (world.top / "pid").exists()
    assert not (world.top / "socket").exists()


@pytest.mark.parametrize("splitting", ["off", "process"])
def test_places_that_are_swapped_all_the_time(world: World, hostile: Path, victim: Victim, splitting: str) -> None:
    """It starts, or says why it does not; whatever happens, nothing outside is touched."""
    names = ("pid", "status", "socket")
    arguments = (
        *(*world.trees, "-Mcopy", "--only-initialsync", f"--splitting={splitting}"),
        *("-z", hostile / "pid", f"--status-file={hostile}/status"),
        *("--socket", hostile / "socket", "--socket-own=nobody", "--socket-mod=666"),
    )
    codes = set()
    with swapping(hostile, names, victim):
        for _ in range(3):
            ended = world.run(*arguments)
            assert "Traceback" not in ended.err, ended.err
            codes.add(ended.code)
            victim.demand_untouched()
    assert codes <= {0, FILES}
    victim.demand_untouched()


def test_status_goes_on_while_it_is_swapped(world: World, hostile: Path, victim: Victim) -> None:
    with world.daemon("-Mcopy", f"--status-file={hostile}/status") as daemon:
        daemon.wait_for_log(SYNCED)
        with swapping(hostile, ("status",), victim):
            for number in range(8):
                os.kill(daemon.pid, signal.SIGUSR2)
                world.write(f"file{number}")
                world.wait_for_copy(daemon, f"file{number}")
        victim.demand_untouched()


def test_a_sticky_directory(world: World, victim: Victim) -> None:
    """As /tmp is, with everything there before us that could have been guessed."""
    sticky = hostile_directory(world.top / "sticky", 0o1777)
    os.chown(sticky, 0, 0)
    plant("file", sticky / "pid", victim)
    plant("symlink", sticky / "dump", victim)
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(sticky / "socket"))
    stale.close()
    os.chown(sticky / "socket", NOBODY, NOBODY)
    path = sticky / "socket"
    with world.daemon("-Mcopy", "-z", sticky / "pid", f"--dump-dir={sticky}/dump", "--socket", path) as daemon:
        daemon.wait_for_log(SYNCED)
        assert (sticky / "pid").read_text() == str(daemon.pid)
        assert (sticky / "pid").stat().st_uid == path.stat().st_uid == 0
        os.kill(daemon.pid, signal.SIGIO)
        daemon.wait_for_log("File exists")
    victim.demand_untouched()


@pytest.mark.parametrize(("owner", "mode"), [(NOBODY, 0o700), (0, 0o770), (0, 0o1777)])
def test_list_directories_that_others_may_write(world: World, owner: int, mode: int) -> None:
    """Who can exchange a list says what the handler does."""
    lists = world.top / "lists"
    lists.mkdir()
    os.chown(lists, owner, owner)
    lists.chmod(mode)
    recorder = Recorder(world.top)
    message, hint = world.run(*world.trees, "-Mrsyncshell", recorder.option, f"-L{lists}").complaint(FILES)
    assert f"--lists-dir {lists}: others may write into it (owner {owner}, mode {mode:04o})" in message
    assert "chmod 700" in hint


def test_a_dump_stays_where_it_was_begun(tmp_path: Path) -> None:
    """Its directory is moved, and another one put in its place."""
    victim = Victim(tmp_path / "victim")
    with closing(begin_dump(bytes(tmp_path / "dump"))) as place:
        for step, _ in enumerate(fill_dump(place, [STATE])):
            if not step:
                (tmp_path / "dump").rename(tmp_path / "moved")
                (tmp_path / "dump").symlink_to(victim.directory)
    victim.demand_untouched()
    assert sorted(os.listdir(tmp_path / "moved" / "queue")) == ["0", "1", "2", "3"]


def open_state(path: Path) -> None:
    Store.open(bytes(path), b"identity", [b"target"], b"boot" * 4).close()


def of_nobody(path: Path) -> None:
    os.chown(path, NOBODY, NOBODY)


@pytest.mark.parametrize(
    "spoil",
    [
        of_nobody,
        lambda path: of_nobody(path.parent),
        lambda path: path.chmod(0o777),
        lambda path: path.parent.chmod(0o775),
    ],
    ids=["of somebody else", "below one of somebody else", "open", "below an open one"],
)
def test_states_where_others_may_write(world: World, spoil: Callable[[Path], None]) -> None:
    """SQLite would follow what they put there."""
    place = world.top / "states" / "one"
    open_state(place)
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    open_state(place)
    spoil(place)
    with pytest.raises(OperatorError, match=r"others (can change|may write into)") as caught:
        open_state(place)
    assert caught.value.code == FILES


@pytest.mark.parametrize("splitting", ["off", "process"])
def test_a_state_that_somebody_else_has_prepared(world: World, victim: Victim, splitting: str) -> None:
    """Below a directory like /tmp, under the name that is known beforehand. One that is made there is closed, and used."""
    world.top.chmod(0o711)
    (shared := world.top / "shared").mkdir()
    shared.chmod(0o1777)
    options = ("-Mcopy", f"--state-dir={shared}", f"--splitting={splitting}", "--only-initialsync")
    assert world.run(*world.trees, *options).code == 0
    (place,) = shared.iterdir()
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert world.run(*world.trees, *options).code == 0
    place.rename(world.top / "away")
    place.mkdir()
    (place / "state.db").symlink_to(victim.file)
    os.chown(place, OTHER, OTHER)
    place.chmod(0o777)
    message, hint = world.run(*world.trees, *options).complaint(FILES)
    assert message.startswith(f"--state-dir: the state cannot be kept in {place}: others may write into it")
    assert "name a directory" in hint
    assert (place.stat().st_uid, stat.S_IMODE(place.stat().st_mode)) == (OTHER, 0o777)
    assert os.listdir(place) == ["state.db"]
    victim.demand_untouched()


def test_a_state_behind_a_symlink_of_somebody_else(world: World, hostile: Path, victim: Victim) -> None:
    (hostile / "way").symlink_to(victim.directory)
    os.chown(hostile / "way", NOBODY, NOBODY, follow_symlinks=False)
    with pytest.raises(OperatorError):
        open_state(hostile / "way" / "state")
    victim.demand_untouched()


def test_list_files_have_their_own_names(world: World, hostile: Path) -> None:
    """Also in the temporary directory that is somebody else's: there it is an error, and the paths stay unsynced."""
    recorder = Recorder(world.top)
    with world.daemon("-Mrsyncshell", recorder.option, env={"TMPDIR": str(hostile)}) as daemon:
        daemon.wait_for_log(SYNCED)
        lists = [Path(os.fsdecode(argument)) for argument in recorder.calls[-1].arguments[2:]]
        assert all(path.parent.parent == hostile for path in lists)
        (place,) = {path.parent for path in lists}
        assert (place.stat().st_uid, stat.S_IMODE(place.stat().st_mode)) == (0, 0o700)
        place.rename(hostile / "moved")
        subprocess.run(["setpriv", "--reuid=65534", "--clear-groups", "mkdir", place], check=True)
        world.write("file")
        daemon.wait_for_log("others may write into it")
        assert not list(place.iterdir())
        place.rmdir()
        count = len(recorder.calls)
        (hostile / "moved").rename(place)
        recorder.wait_for_calls(daemon, count + 1)
