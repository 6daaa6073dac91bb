"""The copy handler: whatever happens to a tree, its copy becomes equal."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clsync.core.batch import DIRECTORY, FORCE, LINKED, MISSING, RECURSIVE, REGULAR, Batch, Outcome, Verdict
from clsync.core.changes import ATTRIB, CONTENT, NAME
from clsync.core.classify import Classifier, Freshness
from clsync.core.paths import ancestors
from clsync.core.rules import Rules
from clsync.handler.copy import handler as handler_module
from clsync.handler.copy import messages
from clsync.handler.copy import pool as pool_module
from clsync.handler.copy import run as run_module
from clsync.handler.copy.handler import CopyHandler
from clsync.handler.copy.place import Place
from clsync.kernel.capabilities import Capabilities, probe_destination
from clsync.kernel.files import opened
from clsync.kernel.process import python_in_reach
from clsync.kernel.sandbox import Sandbox
from clsync.kernel.walk import lstat_below
from clsync.privilege.profiles import copy_sandbox
from tests.support import churn
from tests.support.monitors import Mounted
from tests.support.playground import Playground
from tests.support.rights import as_nobody
from tests.support.sandboxes import usable
from tests.support.trees import compare, compare_trees, report, snapshot
from tests.support.waiting import wait_until
from tests.system.world import World, memory_directory

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
EVERYTHING = {b"": DIRECTORY | RECURSIVE}
ODD_NAMES = (
    b"#hash", b";", b"new\nline", b"-rf", b"\xff\xfe", b"\x80" * 255, b"y" * 255, "é".encode() * 127, b" ", b"...",
    b".a.clsync-123456", b"\\", b"%s", b"*",
)  # fmt: skip


class Rejecting:
    """Rules: paths that match, and all below them, are rejected."""

    def __init__(self, pattern: bytes) -> None:
        self._pattern = re.compile(pattern)

    def rejected(self, path: bytes) -> bool:
        return any(self._pattern.search(p) for p in (*ancestors(path), path))

    def permits(self, path: bytes, is_dir: bool) -> bool:
        return not self.rejected(path)

    def reaches(self, directory: bytes) -> bool:
        return not self.rejected(directory)

    def recursion_is_free(self, path: bytes) -> bool:
        return False


class Mirror:
    """A source, a destination, and a handler between them."""

    def __init__(self, top: Path, **options: Any) -> None:
        self.source, self.destination = top / "source", options.pop("destination", top / "destination")
        for directory in (self.source, self.destination):
            directory.mkdir(exist_ok=True)
        self.log: list[str] = []
        options.setdefault("capabilities", probe_destination(bytes(self.destination)))
        options.setdefault("acls", False)
        self.handler = CopyHandler(bytes(self.destination), log=self.log.append, **options)

    def run(self, entries: dict[bytes, int], initial: bool = False) -> Outcome:
        root = os.open(self.source, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return asyncio.run(self.handler.sync(Batch(1, dict(sorted(entries.items())), root, initial)))
        finally:
            os.close(root)

    def sync(self, entries: dict[bytes, int] = EVERYTHING, initial: bool = False) -> None:
        outcome = self.run(entries, initial)
        assert outcome.verdict is Verdict.DONE, outcome

    def close(self) -> None:
        asyncio.run(self.handler.aclose())

    def check(self, **options: Any) -> None:
        found = compare_trees(bytes(self.source), bytes(self.destination), **options)
        assert not found, report(found)


@pytest.fixture
def mirror(tmp_path: Path) -> Mirror:
    return Mirror(tmp_path)


@pytest.fixture(params=["thread", "pool", "confined"])
def both(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """Everything in a thread, in worker processes for one batch, or in one that is kept in its sandbox."""
    if request.param == "pool":
        monkeypatch.setattr(run_module, "ALONE", -1)
    mirror = Mirror(tmp_path, sandbox=confined() if request.param == "confined" else None)
    yield mirror
    mirror.close()


def confined() -> Sandbox:
    """Return the sandbox of processes that copy, as far as it can be had here.

    Whether Python can be started is tried once in a process: before a test puts something else in its place.
    """
    assert python_in_reach(of_programs=True)
    return usable(copy_sandbox)


def build(top: Path) -> None:
    """Make every kind of entry, and odd names."""
    (top / "empty").mkdir()
    deep = top / "a/b/c"
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(b"deep")
    (top / "zero").touch()
    (top / "large").write_bytes(os.urandom(3_000_000))
    (top / "link").symlink_to("a/b/c/file")
    (top / "dangling").symlink_to(b"\xff nowhere".decode("utf-8", "surrogateescape"))
    (top / "dirlink").symlink_to("a")
    os.mkfifo(top / "fifo", 0o640)
    with socket.socket(socket.AF_UNIX) as unix, Inside(top):
        unix.bind("socket")
    for number, name in enumerate(ODD_NAMES):
        with open(os.path.join(bytes(top), name), "wb") as file:
            file.write(name * number)
    os.link(top / "zero", deep / "zero again")
    os.link(deep / "file", top / "linked")
    (top / "suid").write_bytes(b"x")
    (top / "suid").chmod(0o4755)
    (top / "a/b").chmod(0o2750)
    if os.geteuid() == 0:
        os.mknod(top / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.chown(top / "large", 1234, 5678)
        os.chown(top / "suid", 1234, 5678)
        os.chmod(top / "suid", 0o6711)
        os.chown(top / "link", 12, 34, follow_symlinks=False)
        os.chown(top / "a/b/c", 99, 98)
    for path in ("a/b/c/file", "link", "a/b", "fifo", "large"):
        os.utime(top / path, ns=(10**18 + 1, 10**18 + 123456789), follow_symlinks=False)


class Inside:
    """Work in a directory: the names of sockets are short."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __enter__(self) -> None:
        self._before = Path.cwd()
        os.chdir(self._directory)

    def __exit__(self, *_: object) -> None:
        os.chdir(self._before)


# -- everything ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("initial", [False, True])
def test_every_kind_of_entry_is_copied(both: Mirror, initial: bool) -> None:
    build(both.source)
    both.sync(initial=initial)
    both.check()


def test_a_second_run_copies_nothing(both: Mirror) -> None:
    build(both.source)
    both.sync()
    before = {
        path: os.lstat(os.path.join(bytes(both.destination), path)) for path in snapshot(bytes(both.destination))
    }
    both.sync()
    for path, found in before.items():
        now = os.lstat(os.path.join(bytes(both.destination), path))
        assert (now.st_ino, now.st_ctime_ns) == (found.st_ino, found.st_ctime_ns), path


def test_all_that_is_left_over_is_deleted(both: Mirror) -> None:
    build(both.destination)
    os.chmod(both.destination / "a", 0o500)
    (both.source / "one").write_bytes(b"1")
    both.sync()
    both.check()


def test_each_type_replaces_each_other(both: Mirror) -> None:
    makers: dict[str, Callable[[Path], object]] = {
        "file": lambda p: p.write_bytes(b"content"),
        "dir": lambda p: [(p / "x/y").mkdir(parents=True), (p / "x/f").write_bytes(b"f")],
        "symlink": lambda p: p.symlink_to("elsewhere"),
        "fifo": os.mkfifo,
    }
    entries = {b"": DIRECTORY}
    for old, make_old in makers.items():
        for new, make_new in makers.items():
            make_old(both.destination / f"{old} to {new}")
            make_new(both.source / f"{old} to {new}")
            kind = {"file": REGULAR, "dir": DIRECTORY | RECURSIVE}.get(new, 0)
            entries[f"{old} to {new}".encode()] = kind
    both.sync(entries)
    both.check()


def test_a_stuffed_destination_is_replaced_recursively(both: Mirror) -> None:
    for at in range(40):
        (both.source / f"d{at}").write_bytes(b"now a file")
        (both.destination / f"d{at}/e/f").mkdir(parents=True)
        (both.destination / f"d{at}/e/file").touch()
        (both.source / f"g{at}/h").mkdir(parents=True)
        (both.source / f"g{at}/h/i").touch()
        (both.destination / f"g{at}").symlink_to("/etc")
    both.sync()
    both.check()


def test_force_copies_what_looks_equal(both: Mirror) -> None:
    for top, data in ((both.source, b"new"), (both.destination, b"old")):
        (top / "d/e").mkdir(parents=True)
        for name in ("d/file", "d/e/file"):
            (top / name).write_bytes(data)
            os.utime(top / name, ns=(10**18, 10**18))
    both.sync()
    assert (both.destination / "d/file").read_bytes() == b"old"
    both.sync({b"d": DIRECTORY | RECURSIVE, b"d/e/file": REGULAR | FORCE})
    assert (both.destination / "d/e/file").read_bytes() == b"new"
    assert (both.destination / "d/file").read_bytes() == b"old"
    both.sync({b"d": DIRECTORY | RECURSIVE | FORCE})
    both.check()


def test_nanoseconds_are_compared_and_kept(mirror: Mirror) -> None:
    (mirror.source / "file").write_bytes(b"new")
    (mirror.destination / "file").write_bytes(b"old")
    os.utime(mirror.source / "file", ns=(10**18, 10**18 + 1))
    os.utime(mirror.destination / "file", ns=(10**18, 10**18 + 2))
    mirror.sync({b"file": REGULAR})
    mirror.check()


def test_times_out_of_range_are_not_copied_again_and_again(mirror: Mirror) -> None:
    (mirror.source / "file").write_bytes(b"new")
    os.utime(mirror.source / "file", ns=(2**62 * 4, 2**62 * 4))
    time.sleep(0.02)
    mirror.sync()
    inode = os.lstat(mirror.destination / "file").st_ino
    mirror.sync()
    assert os.lstat(mirror.destination / "file").st_ino == inode


def test_coarse_times_hide_no_change(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path, capabilities=Capabilities(time_grain_ns=10**9))
    (mirror.source / "file").write_bytes(b"1")
    os.utime(mirror.source / "file", ns=(10**18, 10**18 + 1))
    time.sleep(0.02)
    mirror.sync()
    os.utime(mirror.destination / "file", ns=(10**18, 10**18))
    inode = os.lstat(mirror.destination / "file").st_ino
    mirror.sync()
    assert os.lstat(mirror.destination / "file").st_ino == inode
    (mirror.source / "file").write_bytes(b"2")
    os.utime(mirror.source / "file", ns=(10**18, 10**18 + 2))
    mirror.sync({b"file": REGULAR})
    assert (mirror.destination / "file").read_bytes() == b"2"


# -- single entries --------------------------------------------------------------------------------------------


def test_missing_parents_are_made_with_their_attributes(both: Mirror) -> None:
    (both.source / "a/b/c").mkdir(parents=True)
    (both.source / "a/b/c/file").write_bytes(b"x")
    (both.source / "a/b").chmod(0o711)
    os.utime(both.source / "a", ns=(5, 5))
    both.sync({b"a/b/c/file": REGULAR})
    both.check()


def test_parents_in_the_way_are_replaced(mirror: Mirror, tmp_path: Path) -> None:
    (mirror.source / "a/b").mkdir(parents=True)
    (mirror.source / "a/b/file").write_bytes(b"x")
    (tmp_path / "outside/b").mkdir(parents=True)
    (mirror.destination / "a").symlink_to(tmp_path / "outside")
    mirror.sync({b"a/b/file": REGULAR})
    mirror.check()
    assert not (tmp_path / "outside/b/file").exists()


@pytest.mark.parametrize("entry", [b"a", b"a/file"])
def test_another_process_is_faster_to_replace_a_parent(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, entry: bytes
) -> None:
    (mirror.source / "a").mkdir()
    (mirror.source / "a/file").write_bytes(b"x")
    in_the_way = mirror.destination / "a"
    in_the_way.touch()
    look = Place.standing

    def overtaken(place: Place, name: bytes) -> os.stat_result | None:
        found = look(place, name)
        if in_the_way.is_file():
            in_the_way.unlink()
            in_the_way.mkdir()
        return found

    monkeypatch.setattr(Place, "standing", overtaken)
    mirror.sync({entry: DIRECTORY | RECURSIVE if entry == b"a" else REGULAR})
    mirror.check()


def test_what_is_missing_is_removed_and_parents_keep_their_times(both: Mirror) -> None:
    (both.source / "a").mkdir()
    (both.destination / "a/b/c").mkdir(parents=True)
    (both.destination / "a/file").touch()
    os.utime(both.source / "a", ns=(7, 7))
    both.sync({b"a/b": MISSING, b"a/file": MISSING, b"no/such/thing": MISSING, b"": DIRECTORY})
    both.check()


def test_what_is_missing_below_something_else_is_removed(mirror: Mirror) -> None:
    (mirror.source / "a").symlink_to("/etc")
    (mirror.destination / "a").mkdir()
    (mirror.destination / "a/hostname").touch()
    mirror.sync({b"a/hostname": MISSING})
    assert not (mirror.destination / "a/hostname").exists()
    assert Path("/etc/hostname").exists()


def test_a_source_symlink_is_never_followed(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_bytes(b"secret")
    (mirror.source / "a").symlink_to(tmp_path / "outside")
    mirror.sync({b"a/secret": REGULAR})
    assert not (mirror.destination / "a").exists()


def test_what_has_vanished_or_appeared_is_left_to_its_event(mirror: Mirror) -> None:
    (mirror.source / "back").write_bytes(b"1")
    (mirror.destination / "back").write_bytes(b"2")
    mirror.sync({b"gone": REGULAR, b"gone too": DIRECTORY | RECURSIVE, b"back": MISSING})
    assert (mirror.destination / "back").exists()


def test_only_attributes_are_set_where_content_agrees(mirror: Mirror) -> None:
    (mirror.source / "file").write_bytes(b"x")
    mirror.sync()
    inode = os.lstat(mirror.destination / "file").st_ino
    (mirror.source / "file").chmod(0o4700)
    if os.geteuid() == 0:
        os.chown(mirror.source / "file", 5, 6)
        (mirror.source / "file").chmod(0o6711)
    mirror.sync({b"file": REGULAR})
    mirror.check()
    assert os.lstat(mirror.destination / "file").st_ino == inode


def test_directories_get_their_mode_and_time(both: Mirror) -> None:
    build(both.source)
    both.sync()
    (both.source / "a/new").write_bytes(b"1")
    (both.source / "a/b").chmod(0o1777)
    (both.source / "fresh").mkdir(0o711)
    os.utime(both.source / "empty", ns=(3, 3))
    both.sync({b"a/b": DIRECTORY, b"a/new": REGULAR, b"empty": DIRECTORY, b"fresh": DIRECTORY})
    both.check()


def test_paths_longer_than_the_kernel_takes(both: Mirror) -> None:
    name = b"n" * 200
    here = os.open(both.source, os.O_RDONLY)
    path = b""
    for _ in range(30):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here, path = below, path + name + b"/"
    for leaf in (b"file", b"one"):
        os.close(os.open(leaf, os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=here))
    os.link(b"one", b"two", src_dir_fd=here, dst_dir_fd=here)
    os.symlink(b"file", b"link", dir_fd=here)
    both.sync({path + b"file": REGULAR})
    both.sync()
    both.check()
    os.unlink(b"file", dir_fd=here)
    os.close(here)
    both.sync({path + b"file": MISSING, path + b"one": REGULAR | LINKED | FORCE, path + b"two": REGULAR | LINKED})
    both.check()
    subprocess.run(["rm", "-rf", both.source / ("n" * 200)], check=True)
    both.sync()
    both.check()


def test_thousands_of_levels(both: Mirror) -> None:
    here = os.open(both.source, os.O_RDONLY)
    for _ in range(2500):
        os.mkdir(b"d", dir_fd=here)
        below = os.open(b"d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open(b"file", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=here))
    os.close(here)
    both.sync()
    both.check()
    subprocess.run(["rm", "-rf", both.source / "d"], check=True)
    both.sync({b"d": MISSING, b"": DIRECTORY})
    both.check()


# -- content ---------------------------------------------------------------------------------------------------


def test_sparse_files_stay_sparse(both: Mirror) -> None:
    with (both.source / "sparse").open("wb") as file:
        file.seek(50_000_000)
        file.write(b"data")
        file.truncate(100_000_000)
    with (both.source / "small hole").open("wb") as file:
        file.truncate(30_000)
    with (both.source / "whole").open("wb") as file:
        file.write(b"x" * 9_000_001)
    both.sync()
    both.check(sparse=True)


def test_a_file_that_changes_all_the_time_is_accepted(mirror: Mirror) -> None:
    file = mirror.source / "busy"
    file.write_bytes(b"0" * 1_000_000)
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            file.write_bytes(b"%d" % number * (100_000 + number))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(20):
            mirror.sync({b"busy": REGULAR})
    finally:
        stop.set()
        thread.join()
    mirror.sync({b"busy": REGULAR | FORCE})
    mirror.check()


def test_nobody_sees_a_file_half_written(mirror: Mirror) -> None:
    file, copy = mirror.source / "file", mirror.destination / "file"
    file.write_bytes(b"0" * 3_000_000)
    mirror.sync()
    seen: set[bytes] = set()
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            data = copy.read_bytes()
            seen.add(data[:1] + b"%d" % len(data.strip(data[:1])) + b"%d" % len(data))

    thread = threading.Thread(target=look)
    thread.start()
    for digit in b"123456789":
        file.write_bytes(bytes([digit]) * 3_000_000)
        mirror.sync({b"file": REGULAR | FORCE})
    stop.set()
    thread.join()
    assert all(s[1:] == b"03000000" for s in seen), seen


@pytest.mark.parametrize("early", [True, False])
def test_who_is_killed_leaves_no_part_of_a_file(world: World, early: bool) -> None:
    """Not in a directory that is new either, where nothing was before."""

    def drafts() -> list[Path]:
        return list(world.destination.glob("new/.big.clsync-*"))

    (world.top / "new").mkdir()
    (world.top / "new/big").write_bytes(os.urandom(2_000_000))
    if early:
        (world.top / "new").rename(world.source / "new")
    with world.daemon("-Mcopy", "--bwlimit=200k") as daemon:
        if not early:
            daemon.wait_for_log("Info: initial sync done ")
            (world.top / "new").rename(world.source / "new")
        daemon.wait_until(lambda: any(draft.stat().st_size for draft in drafts()), what="a part of it")
        daemon.kill()
        assert not (world.destination / "new/big").exists()
    with world.daemon("-Mcopy") as daemon:
        world.wait_for_equal(daemon)


@ROOT
def test_what_cannot_be_removed_again_is_removed_later(mirror: Mirror) -> None:
    """The destination lets files be made in a directory, and neither renamed nor removed."""
    for top in (mirror.source, mirror.destination):
        (top / "d").mkdir()
    (mirror.source / "d/file").write_text("text")
    (mirror.source / "other").write_text("text")
    append_only: list[str | Path] = ["chattr", "+a", mirror.destination / "d"]
    if subprocess.run(append_only, capture_output=True).returncode:
        pytest.skip("no such attribute here")
    try:
        outcome = mirror.run({b"d/file": REGULAR})
    finally:
        subprocess.run(["chattr", "-a", mirror.destination / "d"], check=True)
    assert outcome.verdict is Verdict.UNWELL
    assert "does not let go of d/.file.clsync-" in outcome.message
    assert any((mirror.destination / "d").iterdir())
    mirror.sync({b"d/file": REGULAR, b"d": DIRECTORY, b"other": REGULAR, b"": DIRECTORY})
    mirror.check()


@ROOT
def test_extended_attributes_and_acls(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path, acls=True, xattrs=True)
    top = mirror.source
    (top / "d").mkdir()
    for name in ("d/file", "plain"):
        (top / name).write_bytes(b"x")
        os.setxattr(top / name, "user.one", b"1")
    (top / "link").symlink_to("plain")
    os.setxattr(top / "link", "trusted.link", b"on the link", follow_symlinks=False)
    subprocess.run(["setfacl", "-m", "u:1:rwx,d:u:2:rx", top / "d"], check=True)
    subprocess.run(["setfacl", "-m", "u:3:rw", top / "plain"], check=True)
    mirror.sync()
    mirror.check(xattrs=True)
    assert os.getxattr(mirror.destination / "link", "trusted.link", follow_symlinks=False) == b"on the link"
    os.removexattr(top / "plain", "user.one")
    os.setxattr(top / "plain", "user.two", b"2")
    subprocess.run(["setfacl", "-b", top / "plain"], check=True)
    subprocess.run(["setfacl", "-k", top / "d"], check=True)
    (top / "d/file").chmod(0o600)
    mirror.sync({b"plain": REGULAR, b"d": DIRECTORY, b"d/file": REGULAR})
    mirror.check(xattrs=True)


def test_an_extended_attribute_that_does_not_fit_fails_alone(tmp_path: Path) -> None:
    """File systems have far less room for them than for files: the destination is not full."""
    mirror = Mirror(tmp_path, xattrs=True)
    with memory_directory() as mirror.source:
        for name in ("first", "too large", "last"):
            (mirror.source / name).write_bytes(b"x")
        try:
            os.setxattr(mirror.source / "too large", "user.large", b"x" * 6000)
        except OSError as error:
            pytest.skip(f"no large extended attributes on tmpfs: {error.strerror}")
        (tmp_path / "tried").touch()
        try:
            os.setxattr(tmp_path / "tried", "user.large", b"x" * 6000)
            pytest.skip(f"the file system of {tmp_path} has room for large extended attributes")
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                pytest.skip(f"no extended attributes here: {error.strerror}")
        outcome = mirror.run(EVERYTHING)
        assert outcome.verdict is Verdict.PARTIAL, outcome
        assert outcome.failed == {
            b"too large": "the destination has no room for its extended attribute user.large"
        }, outcome
        mirror.check(ignore=lambda path: path == b"too large", xattrs=True)
        os.removexattr(mirror.source / "too large", "user.large")
        mirror.sync({b"too large": REGULAR | FORCE})
        mirror.check(xattrs=True)


# -- hard links ------------------------------------------------------------------------------------------------


def test_a_group_is_changed_grown_and_broken_off(both: Mirror) -> None:
    top = both.source
    (top / "d").mkdir()
    (top / "a").write_bytes(b"1")
    for name in ("b", "d/c"):
        os.link(top / "a", top / name)
    both.sync()
    both.check()

    (top / "b").write_bytes(b"changed through one name")
    both.sync(dict.fromkeys((b"a", b"b", b"d/c"), REGULAR | LINKED))
    both.check()

    os.link(top / "a", top / "d/new")
    both.sync(dict.fromkeys((b"a", b"b", b"d/c", b"d/new"), REGULAR | LINKED) | {b"d": DIRECTORY})
    both.check()

    data, found = (top / "b").read_bytes(), os.lstat(top / "b")
    (top / "b").unlink()
    (top / "b").write_bytes(data)
    (top / "b").chmod(0o600)
    os.utime(top / "b", ns=(found.st_atime_ns, found.st_mtime_ns))
    both.sync({b"b": REGULAR, b"": DIRECTORY})
    both.check()

    (top / "a").unlink()
    (top / "a").symlink_to("d/c")
    os.link(top / "b", top / "d/other")
    both.sync(
        {b"a": 0, b"": DIRECTORY, b"d": DIRECTORY}
        | dict.fromkeys((b"b", b"d/other", b"d/c", b"d/new"), REGULAR | LINKED)
    )
    both.check()


def test_groups_are_rearranged(both: Mirror) -> None:
    generator = random.Random(5)
    names = [f"d{n % 3}/{n}" for n in range(12)]
    for directory in ("d0", "d1", "d2"):
        (both.source / directory).mkdir()
    for _ in range(25):
        for name in names:
            (both.source / name).unlink(missing_ok=True)
        for number, name in enumerate(names):
            if number and generator.random() < 0.7:
                os.link(both.source / names[generator.randrange(number)], both.source / name)
            else:
                (both.source / name).write_bytes(b"%d" % generator.randrange(3))
                os.utime(both.source / name, ns=(10**18, 10**18))
                (both.source / name).chmod(generator.choice((0o600, 0o644)))
        force = FORCE  # same size and time, other content
        if generator.random() < 0.5:
            both.sync({b"": DIRECTORY | RECURSIVE | force})
        else:
            entries = {b"d%d" % n: DIRECTORY for n in range(3)}
            for name in names:
                linked = LINKED if os.lstat(both.source / name).st_nlink > 1 else 0
                entries[name.encode()] = REGULAR | force | linked
            both.sync(entries)
        both.check()


def test_hard_links_outside_the_source_do_not_count(mirror: Mirror, tmp_path: Path) -> None:
    (mirror.source / "file").write_bytes(b"1")
    os.link(mirror.source / "file", tmp_path / "outside")
    mirror.sync()
    mirror.check()
    (mirror.source / "file").chmod(0o600)
    mirror.sync({b"file": REGULAR | LINKED})
    mirror.check()


@pytest.mark.parametrize("change", ["renamed over", "removed"])
def test_the_name_by_which_a_linked_file_would_be_copied_is_gone(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """It was there when it was looked at: the other names are made by another one."""
    names = ("a", "b", "c")
    (mirror.source / "a").write_bytes(b"old")
    for name in names[1:]:
        os.link(mirror.source / "a", mirror.source / name)
    mirror.sync()
    (mirror.source / "b").write_bytes(b"new")
    chosen: list[bytes] = []
    renew = Place.renew

    def late(place: Place, name: bytes, *args: Any, **options: Any) -> None:
        if not chosen:
            chosen.append(name)
            file = mirror.source / os.fsdecode(name)
            file.unlink()
            if change == "renamed over":
                file.write_bytes(b"another file")
        renew(place, name, *args, **options)

    monkeypatch.setattr(Place, "renew", late)
    mirror.sync(dict.fromkeys((b"a", b"b", b"c"), REGULAR | LINKED | FORCE))
    (gone,) = chosen
    monkeypatch.undo()
    rest = [name for name in names if name.encode() != gone]
    assert [(mirror.destination / name).read_bytes() for name in rest] == [b"new", b"new"]
    kind = REGULAR if change == "renamed over" else MISSING
    mirror.sync({gone: kind | FORCE, b"": DIRECTORY})
    mirror.check()


# -- rules -----------------------------------------------------------------------------------------------------


def test_rejected_paths_are_neither_copied_nor_deleted(both: Mirror) -> None:
    build(both.source)
    rejecting = Rejecting(rb"(\.skip|keep)$")
    both.handler.rules = Rules.parse(b"-*(\\.skip|keep)(/|$)\n")
    for name in ("a/x.skip/inner", "a/b/new.skip"):
        (both.source / name).mkdir(parents=True)
    for name in ("gone/keep/me", "gone/not/me", "a/b/c/old.skip", "empty/keep"):
        (both.destination / name).mkdir(parents=True)
    both.sync()
    left = snapshot(bytes(both.destination))
    assert {b"gone", b"gone/keep", b"gone/keep/me", b"a/b/c/old.skip", b"empty/keep"} <= left.keys()
    assert b"gone/not" not in left
    assert b"a/x.skip" not in left
    found = compare_trees(
        bytes(both.source), bytes(both.destination), ignore=lambda p: rejecting.rejected(p) or p == b"gone"
    )
    assert not [f for f in found if f.aspect != "links"], report(found)


def test_protected_content_in_the_way_is_a_failure_of_that_path(mirror: Mirror) -> None:
    mirror.handler.rules = Rejecting(b"keep")
    (mirror.source / "a").write_bytes(b"file")
    (mirror.source / "b").write_bytes(b"file")
    (mirror.destination / "a/keep").mkdir(parents=True)
    outcome = mirror.run({b"a": REGULAR, b"b": REGULAR, b"gone": MISSING})
    assert outcome.verdict is Verdict.PARTIAL
    assert list(outcome.failed) == [b"a"]
    assert (mirror.destination / "b").exists()
    assert sorted(os.listdir(mirror.destination)) == ["a", "b"]


def test_a_missing_rejected_path_stays(mirror: Mirror) -> None:
    mirror.handler.rules = Rejecting(b"keep")
    (mirror.destination / "d/keep").mkdir(parents=True)
    (mirror.destination / "d/other").mkdir(parents=True)
    (mirror.destination / "keep").mkdir()
    mirror.sync({b"d": MISSING, b"keep": MISSING})
    assert sorted(snapshot(bytes(mirror.destination))) == [b"", b"d", b"d/keep", b"keep"]


def test_rules_that_no_worker_knows_are_applied_here(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path, rules=Rejecting(b"skip"))
    (mirror.source / "skip").mkdir()
    (mirror.source / "file").touch()
    mirror.sync(initial=True)
    assert os.listdir(mirror.destination) == ["file"]
    assert any("one process" in line for line in mirror.log)


def test_rules_in_workers(tmp_path: Path) -> None:

    mirror = Mirror(tmp_path, rules=Rules.parse(b"-*\\.skip(/|$)\n"))
    build(mirror.source)
    (mirror.source / "a/b.skip/c").mkdir(parents=True)
    (mirror.destination / "a/c.skip").mkdir(parents=True)
    mirror.sync(initial=True)
    mirror.check(ignore=lambda p: b".skip" in p)
    assert (mirror.destination / "a/c.skip").exists()
    assert not (mirror.destination / "a/b.skip").exists()
    assert not mirror.log


def test_full_initial_knows_no_rules(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path, rules=Rejecting(b"."), full_initial=True)
    build(mirror.source)
    mirror.sync(initial=True)
    mirror.check()


# -- what the destination or we cannot do ------------------------------------------------------------------------


def test_what_the_destination_cannot_hold_is_left_out(tmp_path: Path) -> None:
    poor = Capabilities(
        owner=False, modes=False, time_grain_ns=2 * 10**9, symlinks=False, symlink_times=False,
        hard_links=False, devices=False, specials=False, xattrs=False, acls=False, case_sensitive=False,
    )  # fmt: skip
    mirror = Mirror(tmp_path, capabilities=poor, acls=True, xattrs=True)
    build(mirror.source)
    (mirror.source / "UPPER").touch()
    (mirror.source / "upper").touch()
    (mirror.destination / "link").write_bytes(b"of another time")
    for _ in range(2):
        mirror.sync()
        mirror.sync({b"link": 0, b"linked": REGULAR | LINKED, b"a/b/c/file": REGULAR | LINKED, b"fifo": 0})
    found = snapshot(bytes(mirror.destination))
    assert {entry.kind for entry in found.values()} == {"file", "directory"}
    assert not any(entry.links for entry in found.values())
    assert found[b"linked"].digest == found[b"a/b/c/file"].digest
    assert len([path for path in found if path.lower() == b"upper"]) == 1


@ROOT
@pytest.mark.root
@pytest.mark.parametrize("initial", [False, True])
def test_without_privileges(tmp_path: Path, initial: bool) -> None:
    for above in (tmp_path, *tmp_path.parents[:2]):
        above.chmod(0o755)
    Mirror(tmp_path)
    source, destination = tmp_path / "source", tmp_path / "destination"
    build(source)
    (source / "null").unlink()
    (source / "secret").write_bytes(b"root only")
    (source / "secret").chmod(0)
    build(destination)
    (destination / "null").unlink()
    for directory in (b"a/b/c", b"a/b", b"a", b"empty"):
        for top in (source, destination):
            os.chmod(os.path.join(bytes(top), directory), 0o500)
    (source / "a/b/c/file").write_bytes(b"other")
    subprocess.run(["chown", "-hR", "65534:65534", source, destination], check=True)
    os.chown(source / "secret", 0, 0)
    os.chown(source / "large", 0, 0)

    def copy() -> None:
        mirror = Mirror(tmp_path)
        outcome = mirror.run({b"": DIRECTORY | RECURSIVE | FORCE}, initial)
        assert outcome.verdict is Verdict.PARTIAL, outcome
        assert outcome.failed == {b"secret": "cannot read it: Permission denied"}, outcome

    as_nobody(copy)
    (source / "secret").unlink()
    os.chown(source / "large", 65534, 65534)
    found = [d for d in compare_trees(bytes(source), bytes(destination)) if d.path != b""]
    assert not found, report(found)


# -- random lives ----------------------------------------------------------------------------------------------


def changed_entries(source: bytes, before: dict[bytes, Any], root: int) -> dict[bytes, int]:
    """Return exact entries for all that differs from an earlier snapshot, none of them recursive."""
    after = snapshot(source)
    paths = sorted({d.path for d in compare(before, after)})
    classifier = Classifier(lstat_below(root), Freshness(0, 0))
    classifier.add((p, ATTRIB if p in after and after[p].kind == "directory" else NAME | CONTENT) for p in paths)
    for names in {after[path].links for path in paths if path in after and after[path].links}:
        classifier.add_links(names)
    return classifier.finish()


@pytest.mark.parametrize("seed", range(12))
def test_a_random_life(both: Mirror, tmp_path: Path, seed: int) -> None:
    (tmp_path / "outside").mkdir()
    source = bytes(both.source)
    p = Playground(source, bytes(tmp_path / "outside"), f"copy {seed}")
    churn.build(p, 60)
    both.sync(initial=True)
    both.check()
    operations, weights = list(churn.OPERATIONS), list(churn.OPERATIONS.values())
    for turn in range(12):
        before = snapshot(source)
        for _ in range(p.random.choice((1, 5, 25))):
            churn.attempt(p, p.random.choices(operations, weights)[0])
        p.release()
        root = os.open(source, os.O_RDONLY)
        entries = changed_entries(source, before, root)
        os.close(root)
        both.sync(entries if turn % 3 else {b"": DIRECTORY | RECURSIVE | FORCE})
        both.check()


def test_a_run_beside_a_busy_writer_ends_equal(both: Mirror, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    p = Playground(bytes(both.source), bytes(tmp_path / "outside"), 77)
    churn.build(p, 100)
    operations, weights = list(churn.OPERATIONS), list(churn.OPERATIONS.values())
    stop = threading.Event()

    def play() -> None:
        while not stop.is_set():
            churn.attempt(p, p.random.choices(operations, weights)[0])

    thread = threading.Thread(target=play)
    thread.start()
    try:
        for _ in range(15):
            outcome = both.run({b"": DIRECTORY | RECURSIVE | FORCE})
            assert outcome.verdict is Verdict.DONE, outcome
    finally:
        stop.set()
        thread.join()
        p.release()
    both.sync({b"": DIRECTORY | RECURSIVE | FORCE})
    both.check()


# -- ends ------------------------------------------------------------------------------------------------------


def many(top: Path, directories: int, files: int) -> None:
    for d in range(directories):
        (top / f"d{d}").mkdir()
        for f in range(files):
            (top / f"d{d}/f{f}").write_bytes(b"%d" % f * 100)


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.15, 0.3])
def test_a_stopped_run_says_so_and_the_next_completes_it(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, delay: float
) -> None:
    """Its workers end by themselves: nobody waits until they have to be killed."""
    monkeypatch.setattr(pool_module, "_END", 100.0)
    many(mirror.source, 20, 300)

    async def stopped() -> Outcome:
        root = os.open(mirror.source, os.O_RDONLY)
        asyncio.get_running_loop().call_later(delay, mirror.handler.stop)
        try:
            return await mirror.handler.sync(Batch(1, EVERYTHING, root, initial=True))
        finally:
            os.close(root)

    began = time.monotonic()
    outcome = asyncio.run(stopped())
    assert outcome.verdict is Verdict.DONE or (outcome.verdict, outcome.message) == (Verdict.UNWELL, "stopped")
    assert time.monotonic() - began < 60
    mirror.sync()
    mirror.check()


def test_a_killed_worker_is_told_and_the_next_run_completes_it(mirror: Mirror) -> None:
    many(mirror.source, 20, 300)

    def kill() -> None:
        until = time.monotonic() + 5
        while time.monotonic() < until:
            found = subprocess.run(
                ["pgrep", "-P", str(os.getpid()), "-f", "clsync.handler.copy.worker"], capture_output=True
            ).stdout.split()
            if found and any(mirror.destination.iterdir()):
                os.kill(int(found[0]), 9)
                return

    thread = threading.Thread(target=kill)
    thread.start()
    outcome = mirror.run(EVERYTHING, initial=True)
    thread.join()
    assert outcome.verdict is Verdict.UNWELL or outcome.verdict is Verdict.DONE
    mirror.sync()
    mirror.check()


def test_what_a_killed_run_leaves_is_removed(mirror: Mirror) -> None:
    for top in (mirror.source, mirror.destination):
        (top / "d").mkdir()
    (mirror.source / "d/file").touch()
    (mirror.source / "d/.mine.clsync-abcdef").touch()
    mirror.sync({b"d/.mine.clsync-abcdef": REGULAR})
    (mirror.destination / "d/.file.clsync-012345").touch()
    mirror.sync({b"d/file": REGULAR})
    assert (mirror.destination / "d/.file.clsync-012345").exists()
    mirror.destination.rename(mirror.destination.with_name("away"))
    assert mirror.run({b"d/file": REGULAR}).verdict is Verdict.UNWELL
    mirror.destination.with_name("away").rename(mirror.destination)
    mirror.sync({b"d/file": REGULAR, b"d": DIRECTORY})
    mirror.check()


def test_what_a_killed_run_leaves_goes_though_rules_reject_its_name(tmp_path: Path) -> None:
    """It would have got a name that they permit."""
    mirror = Mirror(tmp_path, rules=Rules.parse(b"+f\\.txt$\n+d\n-*\n"))
    for top in (mirror.source, mirror.destination):
        (top / "d").mkdir()
    (mirror.source / "d/file.txt").touch()
    litter, theirs = (mirror.destination / f"d/.{name}.clsync-012345" for name in ("file.txt", "file.c"))
    for path in (litter, theirs):
        path.touch()
    mirror.destination.rename(mirror.destination.with_name("away"))
    assert mirror.run({b"d/file.txt": REGULAR}).verdict is Verdict.UNWELL
    mirror.destination.with_name("away").rename(mirror.destination)
    mirror.sync({b"d/file.txt": REGULAR})
    assert sorted(os.listdir(mirror.destination / "d")) == [theirs.name, "file.txt"]


def test_a_timeout_ends_a_run(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path, timeout=0.01)
    many(mirror.source, 20, 300)
    outcome = mirror.run(EVERYTHING)
    assert outcome.verdict is Verdict.UNWELL
    assert "timeout" in outcome.message


def test_the_end_of_the_parent_is_the_end_of_the_workers(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path)
    with (mirror.source / "huge").open("wb") as file:
        for _ in range(64):
            file.write(os.urandom(1 << 20))
    many(mirror.source, 20, 200)
    pid = os.fork()
    if not pid:
        try:
            mirror.run(EVERYTHING, initial=True)
        finally:
            os._exit(0)
    time.sleep(0.25)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    wait_until(lambda: not _workers_of(mirror.destination), "the end of the workers")
    mirror.sync()
    mirror.check()


def _workers_of(destination: Path) -> list[str]:
    """Return the workers that have a directory open."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"copy.worker" not in (process / "cmdline").read_bytes():
                continue
            if any(os.readlink(fd) == str(destination) for fd in (process / "fd").iterdir()):
                found.append(process.name)
        except OSError:
            continue
    return found


def test_a_destination_that_is_gone_is_unwell(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path)
    mirror.destination.rmdir()
    outcome = mirror.run(EVERYTHING)
    assert outcome.verdict is Verdict.UNWELL
    assert "create or mount it" in outcome.message


def test_the_destination_check_is_asked(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path, destination_check=lambda: "not mounted")
    assert mirror.run(EVERYTHING) == Outcome(Verdict.UNWELL, message="not mounted")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "destination"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@ROOT
@pytest.mark.root
@pytest.mark.parametrize("initial", [False, True])
def test_a_full_destination_is_unwell(small: Path, tmp_path: Path, initial: bool) -> None:
    mirror = Mirror(tmp_path)
    (mirror.source / "d").mkdir()
    (mirror.source / "d/large").write_bytes(b"x" * 3_000_000)
    outcome = mirror.run(EVERYTHING, initial)
    assert outcome.verdict is Verdict.UNWELL
    assert "no space" in outcome.message
    subprocess.run(["mount", "-o", "remount,size=10m", small], check=True)
    mirror.sync()
    mirror.check()


@ROOT
@pytest.mark.root
def test_a_read_only_destination_is_unwell(small: Path, tmp_path: Path) -> None:
    mirror = Mirror(tmp_path)
    (mirror.source / "file").touch()
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    outcome = mirror.run({b"file": REGULAR})
    assert outcome.verdict is Verdict.UNWELL
    assert "read-only" in outcome.message


@ROOT
@pytest.mark.root
@pytest.mark.parametrize("level", [1, 2])
def test_other_file_systems_are_empty_or_left_out(tmp_path: Path, level: int) -> None:
    mirror = Mirror(tmp_path, one_file_system=level)
    (mirror.source / "d/mount").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", mirror.source / "d/mount"], check=True)
    try:
        (mirror.source / "d/mount/file").touch()
        mirror.sync()
        assert (mirror.destination / "d/mount").exists() == (level == 1)
        mirror.sync({b"d/mount/file": REGULAR, b"d/mount": DIRECTORY | RECURSIVE})
        assert (mirror.destination / "d/mount").exists() == (level == 1)
        assert not (mirror.destination / "d/mount/file").exists()
    finally:
        subprocess.run(["umount", "-l", mirror.source / "d/mount"], check=True)


@ROOT
@pytest.mark.root
def test_one_failing_path_is_named(mirror: Mirror) -> None:
    build(mirror.source)
    (mirror.destination / "a/b").mkdir(parents=True)
    (mirror.destination / "a/b/left").touch()
    subprocess.run(["chattr", "+i", mirror.destination / "a/b/left"], check=False, capture_output=True)
    try:
        outcome = mirror.run(EVERYTHING)
        if outcome.verdict is Verdict.DONE:
            pytest.skip("no immutable files here")
        assert outcome.verdict is Verdict.PARTIAL
        assert list(outcome.failed) == [b"a/b/left"]
    finally:
        subprocess.run(["chattr", "-i", mirror.destination / "a/b/left"], check=False, capture_output=True)
    mirror.sync()
    mirror.check()


def test_the_source_is_not_touched(mirror: Mirror) -> None:
    build(mirror.source)
    times = {}
    for path, found in ((p, os.lstat(os.path.join(bytes(mirror.source), p))) for p in snapshot(bytes(mirror.source))):
        times[path] = (found.st_atime_ns, found.st_ctime_ns)
        if not stat.S_ISLNK(found.st_mode):
            os.utime(os.path.join(bytes(mirror.source), path), ns=(1, found.st_mtime_ns))
    mirror.sync()
    for path in times:
        found = os.lstat(os.path.join(bytes(mirror.source), path))
        if not stat.S_ISLNK(found.st_mode):
            assert found.st_atime_ns == 1, path


def test_closing_gives_everything_back(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    mirror = Mirror(tmp_path)
    build(mirror.source)
    mirror.sync()
    mirror.sync(initial=True)
    asyncio.run(mirror.handler.aclose())
    assert len(os.listdir("/proc/self/fd")) == before


# -- the worker that is kept ------------------------------------------------------------------------------------------


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Mirror]:
    """Small batches are copied by one confined process."""
    mirror = Mirror(tmp_path, sandbox=confined())
    yield mirror
    mirror.close()


def worker() -> int:
    """Return the only process that copies for us."""
    (found,) = (pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if copies_for_us(pid))
    return found


def copies_for_us(pid: int) -> bool:
    try:
        parent = int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
        return parent == os.getpid() and b"clsync.handler.copy.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False  # it is gone


def many_files(mirror: Mirror) -> None:
    for number in range(4000):
        path = mirror.source / f"{number % 40}/{number}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{number}")


def test_small_batches_are_copied_by_one_confined_process(kept: Mirror) -> None:
    """It is the same one for all of them, and holds nothing open in between."""
    workers = []
    for number in range(3):
        (kept.source / "file").write_text(f"{number}")
        kept.sync({b"file": REGULAR})
        kept.check()
        workers.append(worker())
        held = {os.readlink(place) for place in Path(f"/proc/{workers[-1]}/fd").iterdir()}
        assert not [place for place in held if place.startswith((str(kept.source), str(kept.destination)))]
    assert len({*workers}) == 1
    said = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{workers[0]}/status").read_text().splitlines() if ":\t" in line
    )
    assert said["NoNewPrivs"] == "1"
    if "seccomp" in confined().layers:
        assert said["Seccomp"] == "2"


def test_nothing_is_copied_without_the_confined_process(kept: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by this one, which could reach everything."""
    kept.sync({b"": DIRECTORY})
    os.kill(worker(), signal.SIGKILL)
    (kept.source / "file").write_text("text")
    monkeypatch.setattr(sys, "executable", "/nonexistent")
    outcome = kept.run({b"file": REGULAR})
    assert outcome.verdict is Verdict.UNWELL
    assert "workers cannot be started" in outcome.message
    assert not (kept.destination / "file").exists()
    monkeypatch.undo()
    kept.sync({b"file": REGULAR})
    kept.check()


def test_a_kept_worker_that_was_killed_is_replaced(kept: Mirror) -> None:
    for number in range(3):
        (kept.source / "file").write_text(f"{number}")
        kept.sync({b"file": REGULAR})
        kept.check()
        os.kill(worker(), signal.SIGKILL)


@pytest.mark.parametrize("which", ["source", "destination"])
def test_a_worker_is_not_kept_for_another_directory(kept: Mirror, which: str) -> None:
    """What stands there now is not what it was confined to."""
    (kept.source / "file").write_text("first")
    kept.sync({b"file": REGULAR})
    before, place = worker(), getattr(kept, which)
    place.rename(place.with_name("aside"))
    place.mkdir()
    (kept.source / "file").write_text("second")
    kept.sync({b"file": REGULAR})
    kept.check()
    if "landlock" in confined().layers:
        assert worker() != before
    if which == "destination":
        assert (place.with_name("aside") / "file").read_text() == "first"


@ROOT
def test_what_it_copies_to_can_be_unmounted_and_mounted_again(kept: Mirror) -> None:
    for number in range(3):
        with Mounted(kept.destination) as disk:
            (kept.source / "file").write_text(f"{number}")
            kept.sync({b"file": REGULAR})
            kept.check()
            disk.unmount()


def test_work_that_takes_long_gets_others_to_help(kept: Mirror) -> None:
    """And they are gone when it is done."""
    many_files(kept)
    (kept.source / "later").write_text("text")
    kept.sync({b"%d" % number: DIRECTORY | RECURSIVE for number in range(40)})
    worker()
    kept.sync({b"later": REGULAR})
    kept.check()
    worker()


def test_another_destination_in_the_source_is_written(tmp_path: Path) -> None:
    """The worker that was kept could open it, as a part of the source, but not write it."""
    (tmp_path / "source/back").mkdir(parents=True)
    kept = Mirror(
        tmp_path,
        sandbox=confined(),
        rules=Rules.parse(b"-*^back[01]?(/|$)\n"),
        destination=tmp_path / "source/back",
    )
    try:
        for number in range(2):
            (kept.source / "file").write_text(f"{number}")
            kept.sync({b"file": REGULAR})
            assert (kept.destination / "file").read_text() == f"{number}"
            kept.destination.rename(kept.destination.with_name(f"back{number}"))
            kept.destination.mkdir()
    finally:
        kept.close()


def test_clsync_does_not_copy_itself_while_its_code_is_exchanged(
    kept: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    (kept.source / "file").write_text("text")
    kept.sync({b"file": REGULAR})
    monkeypatch.setattr(pool_module, "__file__", "/nonexistent")
    os.kill(worker(), signal.SIGKILL)
    monkeypatch.setattr(sys, "executable", "/nonexistent")
    (kept.source / "file").write_text("later")
    outcome = kept.run({b"file": REGULAR})
    assert (outcome.verdict, (kept.destination / "file").read_text()) == (Verdict.UNWELL, "text")


def test_a_slow_start_is_no_reason_for_more_workers(kept: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts is how long the work takes: by a clock that stands still then, and moves on with each start."""
    slow = kept.source.with_name("slow")
    log = slow.with_name("slow.log")
    slow.write_text(f'#!/bin/sh\necho "$*" >> {log}\nexec {sys.executable} "$@"\n')
    slow.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(slow))

    def starts() -> int:
        """Return how many workers were started."""
        return log.read_text().count("copy.worker") if log.exists() else 0

    monkeypatch.setattr(pool_module, "time", SimpleNamespace(monotonic=lambda: 10.0 * starts()))
    (kept.source / "file").write_text("text")
    kept.sync({b"file": REGULAR})
    kept.check()
    assert starts() == 1


def test_closing_during_a_batch_leaves_nothing_for_later(kept: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handler_module, "_REST", 0.0)
    said: list[dict[str, Any]] = []

    async def work() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, what: said.append(what))
        with opened(bytes(kept.source)) as root:
            task = asyncio.create_task(kept.handler.sync(Batch(1, {**EVERYTHING}, root, False)))
            await asyncio.sleep(0)
            await kept.handler.aclose()
            await task
        due = loop.create_future()
        loop.call_later(0.01, due.set_result, None)  # after what was to be done before
        await due

    many_files(kept)
    asyncio.run(work())
    assert not said


# -- workers that do not do as they should ----------------------------------------------------------------------------

READY = "box.take(True); send(us, Report({}, [], 0, 0, 0, True))"
DONE = "box.take(True); send(us, Report({}, [], 1, 0, 0, True))"


def instead(top: Path, monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    """Have workers from now on that do this."""
    program = top / "program"
    first = f"#!{sys.executable}", "import pickle, signal, socket, struct, sys", f"from {messages.__name__} import *"
    program.write_text("\n".join((*first, "us = socket.socket(fileno=int(sys.argv[4])); box = Inbox(us)", *lines)))
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


def test_a_worker_that_does_not_let_go_is_not_waited_for(
    kept: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "_END", 0.2)
    instead(tmp_path, monkeypatch, READY, DONE, "while True: signal.pause()")
    kept.sync({b"file": REGULAR})
    deadline = time.monotonic() + 20  # it was killed
    while [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if copies_for_us(pid)]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.timeout(30)
def test_a_kept_worker_that_ends_at_work_is_noticed(
    kept: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers the second batch with what ends one."""
    instead(tmp_path, monkeypatch, READY, DONE, *["box.take(True); send(us, Ended())"] * 2, "box.take(True)")
    kept.sync({b"file": REGULAR})
    outcome = kept.run({b"file": REGULAR})
    assert (outcome.verdict, "has ended" in outcome.message) == (Verdict.UNWELL, True)


@pytest.mark.timeout(30)
def test_a_worker_that_talks_for_ever_does_not_keep_us(
    kept: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There may always be something more to be taken: work ends between two messages."""
    heeded: list[object] = []
    heed = pool_module.Pool._heed

    def heed_one(pool: pool_module.Pool, one: Any, message: messages.Message) -> None:
        heed(pool, one, message)
        if message == messages.Report({}, [], 0, 0, 0, False):
            heeded.append(message)
            kept.handler.stop()

    monkeypatch.setattr(pool_module.Pool, "_heed", heed_one)
    one = "one = pickle.dumps(Report({}, [], 0, 0, 0, False)); one = (struct.pack('<Q', len(one)) + one) * 4000"
    instead(tmp_path, monkeypatch, READY, "box.take(True)", one, "while True: us.sendall(one)")
    assert kept.run({b"file": REGULAR}).message == "stopped"
    assert len(heeded) == 1


@pytest.mark.timeout(30)
def test_a_worker_that_does_not_listen_does_not_keep_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads nothing of what it is to do, which is more than fits into the socket."""
    monkeypatch.setattr(pool_module, "_END", 0.2)
    kept = Mirror(tmp_path, sandbox=confined(), timeout=0.5)
    instead(tmp_path, monkeypatch, READY, "while True: signal.pause()")
    outcome = kept.run({b"%0250d" % number: MISSING | REGULAR for number in range(20_000)})
    assert (outcome.verdict, "--timeout-sync" in outcome.message) == (Verdict.UNWELL, True)
    kept.close()


def test_who_has_no_worker_has_no_place_for_one(
    kept: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = threading.Semaphore(1)
    monkeypatch.setattr(pool_module, "_ROOM", places)
    instead(tmp_path, monkeypatch, READY, "box.take(True)")
    assert kept.run({b"file": REGULAR}).verdict is Verdict.UNWELL
    assert places.acquire(blocking=False)
    places.release()


def test_work_goes_on_though_helpers_cannot_start(
    kept: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (kept.source / "file").write_text("text")
    kept.sync({b"file": REGULAR})
    monkeypatch.setattr(run_module, "ALONE", sys.maxsize)
    monkeypatch.setattr(pool_module, "PATIENCE", 0.0)
    instead(tmp_path, monkeypatch, f"open({str(tmp_path / 'called')!r}, 'w')", "box.take(True)")
    many_files(kept)
    kept.sync()
    kept.check()
    assert (tmp_path / "called").exists()


def test_fewer_workers_than_wanted_are_enough(kept: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    """More processes may not be allowed."""
    started: list[object] = []

    class Started(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            if started:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            started.append(self)
            super().__init__(*arguments, **options)

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(subprocess, "Popen", Started)
    build(kept.source)
    kept.sync(initial=True)
    kept.check()
