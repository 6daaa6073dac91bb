"""Parts of the copy handler that can be looked at alone."""

from __future__ import annotations

import errno
import os
import pickle
import socket
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from clsync.core.batch import DIRECTORY, FORCE, LINKED, MISSING, RECURSIVE, REGULAR
from clsync.handler.copy import content, messages
from clsync.handler.copy.content import Copier
from clsync.handler.copy.place import Place, temporary
from clsync.handler.copy.roots import Roots
from clsync.handler.copy.settings import Context, Settings
from clsync.handler.copy.trouble import Refused, Unwell, destination_trouble
from clsync.handler.copy.units import Inode, Linked, Links, Listed, Tree, groups, phases
from clsync.kernel import files
from clsync.kernel.capabilities import Capabilities, probe_destination
from clsync.kernel.files import data_ranges, open_beneath

FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


@pytest.mark.parametrize(
    "name", [b"a", b"n" * 255, b"\x80" * 255, "é".encode() * 127, "x€".encode() * 63, b"\xff" * 240]
)
def test_a_temporary_name_fits_and_says_whose_it_is(name: bytes) -> None:
    made = temporary(name)
    assert len(made) <= 255
    assert made.startswith(b"." + name[:200])
    assert made[:-6].endswith(b".clsync-")
    try:
        name.decode()
    except UnicodeDecodeError:
        return
    made.decode()


@pytest.mark.parametrize("resolved", [True, False])
def test_no_symlink_is_followed_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resolved: bool) -> None:
    monkeypatch.setattr(files, "_has_openat2", resolved and files._has_openat2)
    (tmp_path / "a/b/c").mkdir(parents=True)
    (tmp_path / "a/link").symlink_to("b")
    (tmp_path / "top").symlink_to("a")
    root = os.open(tmp_path, os.O_RDONLY)
    before = len(os.listdir("/proc/self/fd"))
    for path in (b"", b"a", b"a/b", b"a/b/c"):
        os.close(open_beneath(root, path, FLAGS))
    for path in (b"top", b"top/b", b"a/link", b"a/link/c", b"a/b/no", b"no/b/c"):
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is looked at below
            open_beneath(root, path, FLAGS)
        assert caught.value.errno in files.GONE, path
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(root)


@pytest.mark.parametrize("resolved", [True, False])
def test_a_path_of_any_length_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resolved: bool) -> None:
    monkeypatch.setattr(files, "_has_openat2", resolved and files._has_openat2)
    root = here = os.open(tmp_path, os.O_RDONLY)
    name, levels = b"n" * 250, 50
    for _ in range(levels):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        if here != root:
            os.close(here)
        here = below
    found = open_beneath(root, b"/".join([name] * levels), FLAGS)
    assert os.path.samestat(os.fstat(found), os.fstat(here))
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FileNotFoundError):
        open_beneath(root, b"/".join([name] * (levels + 20)), FLAGS)
    assert len(os.listdir("/proc/self/fd")) == before
    for descriptor in (found, here, root):
        os.close(descriptor)


def test_what_is_moved_away_while_it_is_opened_is_gone(tmp_path: Path) -> None:
    """Whatever the kernel calls it."""
    (tmp_path / "root/a/b/c/d").mkdir(parents=True)
    inside, outside = tmp_path / "root/a/b", tmp_path / "b"
    over = threading.Event()

    def move() -> None:
        while not over.is_set():
            inside.rename(outside)
            outside.rename(inside)

    mover = threading.Thread(target=move)
    mover.start()
    root = os.open(tmp_path / "root", os.O_RDONLY | os.O_DIRECTORY)
    met = Counter[str]()
    try:
        until = time.monotonic() + 20
        while time.monotonic() < until and sum(met.values()) < 100_000:
            try:
                os.close(open_beneath(root, b"a/b/c/d", FLAGS))
                met["opened"] += 1
            except FileNotFoundError:
                met["gone"] += 1
    finally:
        over.set()
        mover.join()
        os.close(root)
    assert met["opened"]
    assert met["gone"]


def test_holes_are_not_data(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb+") as file:
        file.truncate(10 << 20)
        assert list(data_ranges(file.fileno(), 10 << 20)) == []
        file.seek(4 << 20)
        file.write(b"x")
        file.flush()
        ((start, end),) = data_ranges(file.fileno(), 10 << 20)
        assert start <= 4 << 20 < end <= 10 << 20


@pytest.mark.parametrize("can", ["range", "nothing"])
def test_content_is_copied_in_every_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can: str) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EOPNOTSUPP, "no")

    if can == "nothing":
        monkeypatch.setattr(content, "clone", refuse)
        monkeypatch.setattr(os, "copy_file_range", refuse)
    data = os.urandom(3_000_001)
    (tmp_path / "a").write_bytes(data)
    with (tmp_path / "a").open("rb") as source, (tmp_path / "b").open("wb") as destination:
        seen = os.fstat(source.fileno())
        Copier(lambda: None).copy(source.fileno(), destination.fileno(), seen, seen.st_dev)
    assert (tmp_path / "b").read_bytes() == data


def test_an_input_error_is_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    monkeypatch.setattr(os, "copy_file_range", fail)
    (tmp_path / "a").write_bytes(b"x" * 100_000)
    with (tmp_path / "a").open("rb") as source, (tmp_path / "b").open("wb") as destination:
        seen = os.fstat(source.fileno())
        with pytest.raises(Refused, match="Input/output"):
            Copier(lambda: None).copy(source.fileno(), destination.fileno(), seen, -1)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_some_errors_are_of_the_whole_destination(number: int) -> None:
    assert isinstance(destination_trouble(OSError(number, os.strerror(number)), b"x"), Unwell)
    assert isinstance(destination_trouble(OSError(errno.EACCES, "no"), b"x"), Refused)


def test_entries_become_units_by_directory() -> None:
    entries = {
        b"": DIRECTORY,
        b"a": DIRECTORY | RECURSIVE,
        b"a/b/forced": REGULAR | FORCE,
        b"a/linked": REGULAR | LINKED,
        b"c/1": REGULAR,
        b"c/2": MISSING,
    }
    parts = phases(entries, hard_links=True)
    assert parts.first == [
        Listed(b"", []),
        Listed(b"", [(b"a", DIRECTORY | RECURSIVE)]),
        Listed(b"c", [(b"1", REGULAR)]),
    ]
    assert parts.gone == [Listed(b"c", [(b"2", MISSING)])]
    assert parts.forced == [Listed(b"a/b", [(b"forced", REGULAR | FORCE)])]
    assert parts.linked == {b"a/linked": REGULAR | LINKED}
    assert phases({b"": DIRECTORY | RECURSIVE}, True).first == [Tree(b"", False)]
    assert phases({b"x": REGULAR | LINKED}, hard_links=False).first == [Listed(b"", [(b"x", REGULAR | LINKED)])]


def test_a_large_directory_is_several_units() -> None:
    units = phases({b"d/%d" % n: REGULAR for n in range(2500)}, True).first
    assert [len(unit.names) for unit in units if isinstance(unit, Listed)] == [1000, 1000, 500]


def test_names_of_one_file_come_together() -> None:
    one, other = Inode(1, 1), Inode(1, 2)
    names = [Linked(one, b"b", False), Linked(other, b"c", False), Linked(one, b"a", True), Linked(one, b"b", False)]
    assert groups(names) == [Links([(one, True, [b"a", b"b"]), (other, False, [b"c"])])]


def test_the_probe_leaves_nothing_behind(tmp_path: Path) -> None:
    found = probe_destination(bytes(tmp_path))
    assert os.listdir(tmp_path) == []
    assert found.time_grain_ns == 1
    assert found.symlinks
    assert found.case_sensitive
    assert found.owner == (os.geteuid() == 0)
    assert found.devices == (os.geteuid() == 0)


def test_the_probe_says_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        probe_destination(bytes(tmp_path / "no"))


def test_what_is_lacking_is_named() -> None:
    assert Capabilities().lacks() == []
    assert Capabilities(owner=False, acls=False).lacks() == ["owners", "ACLs"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_directory_whose_group_changes_while_files_are_made_in_it(tmp_path: Path) -> None:
    """New files inherit it, and another process may have set it."""
    source, destination = tmp_path / "source", tmp_path / "destination"
    for directory in (source, destination):
        directory.mkdir()
        os.chown(directory, 0, 12)
        directory.chmod(0o2755)
    for name in ("first", "second"):
        (source / name).write_text("text")
    source_root, destination_root = (os.open(directory, FLAGS) for directory in (source, destination))
    plain = Settings(Capabilities(), None, 0, False, False, False, frozenset(), exact_modes=True)
    context = Context(source_root, destination_root, os.fstat(source_root).st_dev, plain)
    place = Place(Roots(context), b"", source_root, destination_root)
    old = os.umask(0)
    try:
        for name in ("first", "second"):
            place.make(name.encode(), (source / name).stat(), None, False)
            os.chown(destination, 0, 34)
    finally:
        os.umask(old)
        place.close()
    assert [(destination / name).stat().st_gid for name in ("first", "second")] == [12, 12]


def test_a_worker_says_nothing_but_what_workers_say() -> None:
    """It may be another user's: nothing is run that it names."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        inbox = messages.Inbox(ours, of_worker=True)
        report = messages.Report({b"\xff": "why"}, [Linked(Inode(1, 2), b"name", True)], 3, 4, 5, True)
        given = messages.Given([Tree(b"a", True), Listed(b"b", [(b"c", 1)])])
        for message in (report, given, messages.Broken("text", True), messages.Ended(), messages.Shut()):
            messages.send(theirs, message)
            assert inbox.take(wait=True) == message

        class Evil:
            def __reduce__(self) -> tuple[object, ...]:
                return os.system, ("touch /tmp/never",)

        for evil in (Evil(), messages.Work([])):
            messages.send(theirs, evil)  # type: ignore[arg-type]
            with pytest.raises(pickle.UnpicklingError, match="is no message"):
                messages.Inbox(ours, of_worker=True).take(wait=True)


@pytest.mark.parametrize(
    "message",
    [
        messages.Report(None, [], 0, 0, 0, True),  # type: ignore[arg-type]
        messages.Report({b"a": 1}, [], 0, 0, 0, True),  # type: ignore[dict-item]
        messages.Report({}, [Linked(Inode(1, 2), 3, True)], 0, 0, 0, True),  # type: ignore[arg-type]
        messages.Report({}, [], "", 0, 0, True),  # type: ignore[arg-type]
        messages.Given(None),  # type: ignore[arg-type]
        messages.Given([1]),  # type: ignore[list-item]
        messages.Broken("text", True, None),  # type: ignore[arg-type]
    ],
    ids=str,
)
def test_what_a_worker_says_is_made_of_what_it_should_be(message: messages.Said) -> None:
    """What is done with it would raise anything else, and end clsync."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        messages.send(theirs, message)
        with pytest.raises(pickle.UnpicklingError, match="of something else"):
            messages.Inbox(ours, of_worker=True).take(wait=True)
