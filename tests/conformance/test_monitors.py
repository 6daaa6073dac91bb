"""One suite for every monitor: what changes in a tree is reported, whatever it is; what does not, is not."""

from __future__ import annotations

import gc
import mmap
import os
import shutil
import socket
import stat
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from clsync.core.changes import CONTENT, DOUBT, MOVED, NAME, OF_DIRECTORY
from clsync.core.rules import Rules
from clsync.errors import Exit, OperatorError
from clsync.monitor.fanotify import FanotifyMonitor
from clsync.monitor.inotify import InotifyMonitor
from tests.support.flood import flood
from tests.support.monitors import (
    WRITTEN,
    Mounted,
    Watch,
    exchange,
    named,
    wait_for_clock,
    watch_in_child,
)

IS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not IS_ROOT, reason="needs root")
FANOTIFY = pytest.param("fanotify", marks=[pytest.mark.root, needs_root])
KINDS = [FANOTIFY, "inotify", "poll", "auto"]
SOON = 5.0
"""What takes a tenth of a second, or one look of who polls, has taken place after these seconds on a busy machine."""
ODD_NAMES = (
    b"new\nline", b"\xff\xfe", b"x" * 255, b"\x80" * 255, b" ", b"-rf", b"#a", b";b", b"...", b"a\\b", b"*", b"\x01",
    "é".encode() * 127,
)  # fmt: skip


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Every monitor."""
    return str(request.param)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A watched directory, with a neighbour outside it."""
    (tmp_path / "outside").mkdir()
    top = tmp_path / "root"
    top.mkdir()
    return top


@pytest.fixture
def roomy(tmp_path: Path) -> Iterator[Path]:
    """The same in memory where there is some: for trees of thousands."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path
    with tempfile.TemporaryDirectory(prefix="clsync-test-", dir=memory) as top:
        Path(top, "outside").mkdir()
        Path(top, "root").mkdir()
        yield Path(top, "root")


def outside(root: Path) -> Path:
    """Return a directory on the same file system that is not watched."""
    return root.parent / "outside"


def build(top: Path) -> None:
    """Make a small tree: files, directories with content, links."""
    for name in ("d", "d/e", "d/e/f", "other", "other/deep", "empty"):
        (top / name).mkdir()
    for name in ("a", "b", "d/a", "d/b", "d/e/a", "d/e/f/a", "other/a", "other/deep/a"):
        (top / name).write_bytes(b"before " + name.encode())
    (top / "link").symlink_to("a")
    os.link(top / "a", top / "d/linked")
    os.mkfifo(top / "fifo")


KEPT: list[int] = []
"""Descriptors that a case leaves open."""


# -- what happens to a tree ------------------------------------------------------------------------------------


def create(top: Path) -> None:
    (top / "new").touch()
    (top / "d/e/new").write_bytes(b"content")


def write(top: Path) -> None:
    (top / "b").write_bytes(b"longer than it was before")


def append(top: Path) -> None:
    with open(top / "d/b", "ab") as file:
        file.write(b"more")


def append_and_keep_open(top: Path) -> None:
    descriptor = os.open(top / "d/b", os.O_WRONLY | os.O_APPEND)
    os.write(descriptor, b"more")
    KEPT.append(descriptor)


def truncate(top: Path) -> None:
    os.truncate(top / "d/b", 0)
    os.truncate(top / "b", 1 << 20)


def rewrite_same_size(top: Path) -> None:
    found = os.stat(top / "b")
    with open(top / "b", "r+b") as file:
        file.write(b"B")
    os.utime(top / "b", ns=(found.st_atime_ns, found.st_mtime_ns))


def overwrite_in_place(top: Path) -> None:
    descriptor = os.open(top / "d/e/a", os.O_RDWR)
    os.pwrite(descriptor, b"!", 2)
    os.close(descriptor)


def change_mode(top: Path) -> None:
    (top / "b").chmod(0o600)
    (top / "d/e").chmod(0o700)


def change_owner(top: Path) -> None:
    owner = (1234, 5678) if IS_ROOT else (os.geteuid(), os.getgroups()[-1] if os.getgroups() else -1)
    os.chown(top / "b", *owner)
    os.chown(top / "d", *owner)
    os.chown(top / "link", *owner, follow_symlinks=False)


def change_times(top: Path) -> None:
    for name in ("b", "d/e", "link"):
        os.utime(top / name, ns=(1, 10**18 + 1), follow_symlinks=False)


def change_xattr(top: Path) -> None:
    try:
        os.setxattr(top / "b", "user.test", b"1")
        os.setxattr(top / "d/e", "user.test", b"1")
    except OSError as error:
        pytest.skip(f"no extended attributes here: {error.strerror}")


def make_directory(top: Path) -> None:
    (top / "new").mkdir()
    (top / "d/e/new").mkdir()


def make_deep_tree(top: Path) -> None:
    deep = top / "new"
    for number in range(60):
        deep.mkdir()
        (deep / "file").write_bytes(b"%d" % number)
        deep /= "d"


def make_wide_tree(top: Path) -> None:
    for one in range(40):
        for two in range(5):
            below = top / f"new{one}/{two}/x/y"
            below.mkdir(parents=True)
            (below / "file").write_bytes(b"x")


def make_and_remove(top: Path) -> None:
    (top / "new/x/y").mkdir(parents=True)
    (top / "new/x/y/file").touch()
    shutil.rmtree(top / "new/x")


def rename_file(top: Path) -> None:
    (top / "b").rename(top / "c")
    (top / "d/b").rename(top / "other/b")


def rename_over(top: Path) -> None:
    (top / "b").rename(top / "d/b")


def rename_over_hard_link(top: Path) -> None:
    (top / "b").rename(top / "d/linked")


def rename_directory(top: Path) -> None:
    (top / "d").rename(top / "g")


def rename_directory_deeper(top: Path) -> None:
    (top / "d").rename(top / "other/deep/d")


def rename_chain(top: Path) -> None:
    (top / "d").rename(top / "g")
    (top / "other").rename(top / "d")
    (top / "g/e").rename(top / "other")
    (top / "other/f/a").write_bytes(b"in a moved directory")


def rename_over_empty_directory(top: Path) -> None:
    (top / "d").rename(top / "empty")


def rename_ancestor_after_write(top: Path) -> None:
    (top / "d/e/f/a").write_bytes(b"written before the rename")
    (top / "d").rename(top / "g")


def rename_ancestor_between_writes(top: Path) -> None:
    (top / "d/e/f/a").write_bytes(b"written before the rename")
    (top / "d").rename(top / "g")
    (top / "g/e/f/new").write_bytes(b"written after it")
    (top / "g/e/a").write_bytes(b"written after it, too")


def exchange_files(top: Path) -> None:
    exchange(top / "b", top / "d/b")


def exchange_directories(top: Path) -> None:
    exchange(top / "d", top / "other/deep")


def exchange_file_and_directory(top: Path) -> None:
    exchange(top / "b", top / "d")


def exchange_twice_and_write(top: Path) -> None:
    exchange(top / "d", top / "other")
    (top / "d/deep/a").write_bytes(b"in the other one")
    exchange(top / "d", top / "other")
    (top / "other/deep/a").write_bytes(b"back again and longer")


def move_out(top: Path) -> None:
    (top / "b").rename(outside(top) / "b")
    (top / "d").rename(outside(top) / "d")


def move_in(top: Path) -> None:
    (outside(top) / "in").rename(top / "in")
    (outside(top) / "file").rename(top / "d/file")


def move_in_and_write(top: Path) -> None:
    (outside(top) / "in").rename(top / "in")
    (top / "in/x/file").write_bytes(b"written inside")
    (top / "in/x/new/dir").mkdir(parents=True)
    (top / "in/x/new/dir/file").write_bytes(b"written inside")


def move_in_over(top: Path) -> None:
    (outside(top) / "file").rename(top / "b")


def exchange_with_outside(top: Path) -> None:
    exchange(top / "d", outside(top) / "in")
    exchange(top / "b", outside(top) / "file")


def move_out_and_back(top: Path) -> None:
    (top / "d").rename(outside(top) / "d")
    (outside(top) / "d/e/a").write_bytes(b"written out there")
    (outside(top) / "d").rename(top / "d")


def hard_link(top: Path) -> None:
    os.link(top / "b", top / "d/b2")


def hard_link_from_outside(top: Path) -> None:
    os.link(outside(top) / "file", top / "d/b2")


def write_through_hard_link(top: Path) -> None:
    (top / "d/linked").write_bytes(b"seen under both names")


def unlink(top: Path) -> None:
    (top / "b").unlink()
    (top / "d/e/f/a").unlink()
    (top / "link").unlink()
    (top / "fifo").unlink()


def unlink_hard_link(top: Path) -> None:
    (top / "d/linked").unlink()


def remove_directory(top: Path) -> None:
    (top / "empty").rmdir()


def remove_tree(top: Path) -> None:
    shutil.rmtree(top / "d")


def remove_everything(top: Path) -> None:
    for entry in top.iterdir():
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def remove_and_make_again(top: Path) -> None:
    shutil.rmtree(top / "d")
    (top / "d/e").mkdir(parents=True)
    (top / "d/e/a").write_bytes(b"another one")


def replace_directory_by_file(top: Path) -> None:
    shutil.rmtree(top / "d")
    (top / "d").write_bytes(b"a file now")


def replace_file_by_directory(top: Path) -> None:
    (top / "b").unlink()
    (top / "b/x").mkdir(parents=True)
    (top / "b/x/y").touch()


def replace_directory_by_symlink(top: Path) -> None:
    (top / "d").rename(top / "moved")
    (top / "d").symlink_to("moved")
    (top / "d/e/a").write_bytes(b"written through a symlink")


def make_symlink(top: Path) -> None:
    (top / "d/sym").symlink_to("nowhere")
    (top / "link").unlink()
    (top / "link").symlink_to("b")


def make_special_files(top: Path) -> None:
    os.mkfifo(top / "d/pipe", 0o640)
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(f"/proc/self/fd/{kept_directory(top)}/socket")
    if IS_ROOT:
        os.mknod(top / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))


def make_odd_names(top: Path) -> None:
    for number, name in enumerate(ODD_NAMES):
        with open(os.path.join(os.fsencode(top / "d"), name), "wb") as file:
            file.write(b"x" * number)
        os.mkdir(os.path.join(os.fsencode(top), name))
        with open(os.path.join(os.fsencode(top), name, name), "wb") as file:
            file.write(b"y" * number)


def write_mapped(top: Path) -> None:
    with open(top / "d/b", "r+b") as file:
        with mmap.mmap(file.fileno(), 0) as mapped:
            mapped[0:1] = b"M"
            mapped.flush()


def write_mapped_after_close(top: Path) -> None:
    with open(top / "d/b", "r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0)
    mapped[0:1] = b"M"
    mapped.close()


def save_atomically(top: Path) -> None:
    temporary = top / "d/.b.tmp"
    temporary.write_bytes(b"saved")
    temporary.rename(top / "d/b")


def save_with_backup(top: Path) -> None:
    (top / "d/b").rename(top / "d/b~")
    (top / "d/b").write_bytes(b"saved")


def change_root(top: Path) -> None:
    top.chmod(0o700)
    os.utime(top, ns=(1, 10**18 + 7))


def punch_hole(top: Path) -> None:
    with open(top / "large", "r+b") as file:
        file.seek(1 << 20)
        file.truncate()
        file.seek(3 << 20)
        file.write(b"end")


def copy_into_new_directories(top: Path) -> None:
    shutil.copytree(top / "d", top / "new", symlinks=True)
    shutil.copytree(top / "new", top / "d/again", symlinks=True)


ACTIONS: list[Callable[[Path], None]] = [
    create, write, append, append_and_keep_open, truncate, rewrite_same_size, overwrite_in_place, change_mode,
    change_owner, change_times, change_xattr, make_directory, make_deep_tree, make_wide_tree, make_and_remove,
    rename_file, rename_over, rename_over_hard_link, rename_directory, rename_directory_deeper, rename_chain,
    rename_over_empty_directory, rename_ancestor_after_write, rename_ancestor_between_writes, exchange_files,
    exchange_directories, exchange_file_and_directory, exchange_twice_and_write, move_out, move_in,
    move_in_and_write, move_in_over, exchange_with_outside, move_out_and_back, hard_link, hard_link_from_outside,
    write_through_hard_link, unlink, unlink_hard_link, remove_directory, remove_tree, remove_everything,
    remove_and_make_again, replace_directory_by_file, replace_file_by_directory, replace_directory_by_symlink,
    make_symlink, make_special_files, make_odd_names, write_mapped, write_mapped_after_close, save_atomically,
    save_with_backup, change_root, punch_hole, copy_into_new_directories,
]  # fmt: skip


def kept_directory(top: Path) -> int:
    """Return a descriptor of a directory: names of sockets are short."""
    KEPT.append(os.open(top, os.O_RDONLY | os.O_DIRECTORY))
    return KEPT[-1]


@pytest.fixture(autouse=True)
def _close_kept() -> Iterator[None]:
    yield
    while KEPT:
        os.close(KEPT.pop())


def prepare(root: Path) -> None:
    """Make the tree, and what can be moved into it."""
    build(root)
    (root / "large").write_bytes(bytes(2 << 20))
    (outside(root) / "in/x").mkdir(parents=True)
    (outside(root) / "in/x/file").write_bytes(b"from outside")
    (outside(root) / "file").write_bytes(b"from outside")


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.__name__)
def test_a_change_is_reported(kind: str, root: Path, action: Callable[[Path], None]) -> None:
    prepare(root)
    with Watch(root, kind) as watch:
        action(root)
        watch.expect_complete()
        watch.rest()
        watch.restart()
        # What was made or moved is watched like everything else.
        for directory, _, names in os.walk(os.fsencode(root)):
            for name in names:
                path = os.path.join(directory, name)
                if stat.S_ISREG(os.lstat(path).st_mode):
                    with open(path, "ab") as file:
                        file.write(b"+")
            with open(os.path.join(directory, b"one more"), "wb"):
                pass
        watch.expect_complete()


# -- what is not reported --------------------------------------------------------------------------------------


def test_nothing_is_reported_of_a_neighbour(kind: str, root: Path) -> None:
    prepare(root)
    with Watch(root, kind) as watch:
        neighbour = outside(root)
        (neighbour / "file").write_bytes(b"changed")
        (neighbour / "in").rename(neighbour / "out")
        (neighbour / "out/x").chmod(0o700)
        shutil.rmtree(neighbour / "out")
        (neighbour.parent / "root2").mkdir()
        (neighbour.parent / "root2/file").touch()
        watch.expect_nothing()


def test_reading_is_no_change(kind: str, root: Path) -> None:
    build(root)
    with Watch(root, kind) as watch:
        for directory, _, names in os.walk(root):
            for name in names:
                if os.path.isfile(os.path.join(directory, name)):
                    Path(directory, name).read_bytes()
        watch.expect_nothing()


def test_what_was_moved_out_is_reported_no_longer(kind: str, root: Path) -> None:
    build(root)
    with Watch(root, kind) as watch:
        (root / "d").rename(outside(root) / "d")
        watch.expect_complete()
        watch.restart()
        (outside(root) / "d/e/f/a").write_bytes(b"not ours")
        (outside(root) / "d/e/new").mkdir()
        (outside(root) / "d/e/new/file").touch()
        watch.expect_nothing(lambda path: path.startswith(b"d"))


def test_a_symlink_is_not_followed(kind: str, root: Path) -> None:
    (outside(root) / "file").touch()
    (root / "link").symlink_to(outside(root))
    with Watch(root, kind) as watch:
        (outside(root) / "file").write_bytes(b"not ours")
        (root / "link/new").touch()
        (root / "another").symlink_to(outside(root))
        watch.expect([b"another"])
        (root / "another/newer").touch()
        watch.expect_nothing(lambda path: path == b"another")


def test_a_path_below_a_long_path(kind: str, root: Path) -> None:
    """Longer than PATH_MAX as a whole: reached directory by directory."""
    here = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    name = b"n" * 200
    made = []
    try:
        for _ in range(12):
            os.mkdir(name, dir_fd=here)
            below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
            os.close(here)
            here = below
            made.append(name)
        with Watch(root, kind) as watch:
            os.close(os.open(b"file", os.O_WRONLY | os.O_CREAT, dir_fd=here))
            watch.expect([b"/".join(made) + b"/file"])
    finally:
        os.close(here)


# -- rules -----------------------------------------------------------------------------------------------------


def test_rules_decide_where_names_count(kind: str, root: Path) -> None:
    """Walk-rejected directories and what is below them are silent, monitor-rejected ones themselves alone."""
    for name in ("walk/below", "monitor/below", "free/below", "all/below"):
        (root / name).mkdir(parents=True)
    rules = Rules.parse(b"-w^walk$\n-m^monitor$\n-*^all$\n-f\\.tmp$\n")
    with Watch(root, kind, rules=rules) as watch:
        for name in ("walk", "monitor", "free", "all"):
            (root / name / "file").write_bytes(b"x")
            (root / name / "below/file").write_bytes(b"x")
            (root / name / "new/deep").mkdir(parents=True)
            (root / name / "new/deep/file").write_bytes(b"x")
        watch.expect([b"free/file", b"free/below/file", b"free/new/deep/file", b"monitor/below/file"])
        watch.expect_no_names(
            lambda path: (
                path.startswith((b"free", b"monitor/below/", b"monitor/new/"))
                or path in (b"monitor", b"walk", b"all")
            )
        )


def test_rules_follow_a_directory_that_is_renamed(kind: str, root: Path) -> None:
    (root / "hidden/below").mkdir(parents=True)
    (root / "plain/below").mkdir(parents=True)
    rules = Rules.parse(b"-w^hidden\n")
    with Watch(root, kind, rules=rules) as watch:
        (root / "hidden").rename(root / "open")
        watch.expect([b"open"], WRITTEN)
        (root / "open/below/file").write_bytes(b"x")
        watch.expect([b"open/below/file"])
        (root / "plain").rename(root / "hidden")
        watch.expect([b"plain"])
        watch.seen.clear()
        (root / "hidden/below/file").write_bytes(b"x")
        watch.expect_no_names(lambda path: path == b"hidden" or path.startswith(b"plain"))


# -- windows ---------------------------------------------------------------------------------------------------


def test_take_ends_the_window_when_it_is_called(kind: str, root: Path) -> None:
    """What comes after `take` was called belongs to the next window, also before the first step."""
    with Watch(root, kind) as watch:
        (root / "first").touch()
        watch.pump_until(watch.monitor.drain, "the first change")
        taking = watch.monitor.take()
        (root / "second").touch()
        watch.pump_until(watch.monitor.drain, "the second change")
        first = dict(named(taking))
        assert b"first" in first
        assert b"second" not in first
        assert b"second" in watch.take()
        assert watch.take() == {}


def test_a_half_used_take_goes_on_while_events_come(kind: str, root: Path) -> None:
    names = [b"%d" % number for number in range(200)]
    with Watch(root, kind) as watch:
        for name in names:
            (root / os.fsdecode(name)).touch()
        watch.pump_until(watch.monitor.drain, "a change")
        taken: set[bytes] = set()
        for number, (path, _) in enumerate(named(watch.monitor.take())):
            taken.add(path)
            if not number % 10:
                (root / f"late{number}").touch()
                watch.monitor.drain()
        watch.seen.update(dict.fromkeys(taken, 15))
        watch.seen.pop(b"", None)
        watch.expect([*names, *(b"late%d" % n for n in range(0, len(taken), 10))])


def test_a_rename_while_the_window_is_named(kind: str, root: Path) -> None:
    """Paths are current when they are yielded; what is renamed afterwards is reported in the next window."""
    build(root)
    with Watch(root, kind) as watch:
        (root / "d/e/f/a").write_bytes(b"changed")
        watch.pump_until(watch.monitor.drain, "the change")
        taking = watch.monitor.take()
        (root / "d").rename(root / "g")
        watch.seen.update(dict(named(taking)))
        watch.expect_complete()


@pytest.mark.parametrize("how", ["moved in", "made"])
def test_a_large_new_tree_is_taken_before_it_is_watched(kind: str, roomy: Path, how: str) -> None:
    """A handler may copy it at once; what changes after that is reported, watched already or not."""
    large = outside(roomy) / "large"
    for number in range(3000):
        (large / f"{number % 50}/{number}").mkdir(parents=True)
    with Watch(roomy, kind) as watch:
        if how == "moved in":
            large.rename(roomy / "large")
        else:
            subprocess.run(["cp", "-r", large, roomy], check=True)
        watch.pump_until(watch.monitor.drain, "the new tree")
        watch.take()
        watch.restart()
        for number in range(3000):
            (roomy / f"large/{number % 50}/{number}/file").touch()
        watch.expect_complete()


def test_the_window_is_empty_until_something_happens(kind: str, root: Path) -> None:
    build(root)
    with Watch(root, kind) as watch:
        for _ in range(20):
            watch.pump(0.02)
        assert watch.take() == {}


def test_draining_while_it_is_armed_reports_nothing(kind: str, root: Path) -> None:
    build(root)
    with Watch(root, kind, armed=False) as watch:
        wait_for_clock()
        for _ in watch.monitor.arm():
            watch.monitor.drain()
        watch.expect_nothing()


def test_what_is_gone_with_its_directory_is_not_named(kind: str, root: Path) -> None:
    build(root)
    with Watch(root, kind) as watch:
        (root / "d").rename(outside(root) / "d")
        shutil.rmtree(root / "other")
        watch.expect_complete()
        watch.expect_nothing(lambda path: path in (b"d", b"other"))


def test_changes_while_it_is_armed_are_not_lost(kind: str, root: Path) -> None:
    """Each is either there when arming ends, or reported: here, all must be, as nothing is compared meanwhile."""
    for number in range(300):
        (root / f"{number}/x").mkdir(parents=True)
    with Watch(root, kind, armed=False) as watch:
        stop = threading.Event()
        made: list[bytes] = []

        def churn() -> None:
            number = 0
            while not stop.is_set():
                name = f"{number % 300}/x/{number}"
                (root / name).touch()
                made.append(name.encode())
                number += 1

        thread = threading.Thread(target=churn)
        thread.start()
        try:
            for _ in watch.monitor.arm():
                watch.monitor.drain()
            armed = len(made)
            watch.pump_until(lambda: len(made) > armed + 100, "more files")
        finally:
            stop.set()
            thread.join()
        # The one at work when arming ended may be on either side.
        watch.expect(made[armed + 1 :])


def test_everything_is_given_back(kind: str, root: Path) -> None:
    build(root)
    gc.collect()  # what the tests before have left open is not to go meanwhile
    before = sorted(os.listdir("/proc/self/fd"))
    watch = Watch(root, kind)
    (root / "b").write_bytes(b"x")
    watch.expect([b"b"])
    watch.monitor.close()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_window_that_ends_before_a_rename_is_followed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store through a mapping may leave all times as they are: the name must come, even if it comes late."""
    build(root)
    monitor = InotifyMonitor(bytes(root), b"", Rules())
    for _ in monitor.arm():
        pass
    try:
        with monkeypatch.context() as patched:
            patched.setattr(monitor, "_go_on", lambda until: None)  # as if there had been no time for it
            (root / "d").rename(root / "g")
            monitor.drain()
            assert (b"g", NAME | MOVED | OF_DIRECTORY) in named(monitor.take())
            (root / "g/e/f/a").write_bytes(b"changed")
            monitor.drain()
            assert list(named(monitor.take())) == [(b"d/e/f/a", CONTENT)]
        while monitor.due() is not None or not monitor.drain():
            monitor.drain()
        assert (b"g/e/f/a", CONTENT) in named(monitor.take())
        assert not monitor.drain()
    finally:
        monitor.close()


@pytest.mark.parametrize("gone", ["removed", "renamed", "replaced"])
def test_a_root_that_is_gone_is_noticed(kind: str, root: Path, gone: str, request: pytest.FixtureRequest) -> None:
    build(root)
    with Watch(root, kind) as watch:
        assert not watch.monitor.root_gone()
        if gone == "removed":
            shutil.rmtree(root)
        elif gone == "renamed":
            root.rename(root.parent / "elsewhere")
        else:
            root.rename(root.parent / "elsewhere")
            root.mkdir()
        watch.pump_until(watch.monitor.root_gone, "the root is gone", SOON)


@pytest.mark.parametrize("single_first", [True, False])
@pytest.mark.parametrize("kind", [FANOTIFY, "inotify"])
def test_names_count_once_however_they_came(kind: str, single_first: bool, root: Path, mounts: ExitStack) -> None:
    """One by one or many at a time; with as many names as it may hold, a window folds nothing."""
    if kind == "fanotify":
        mounts.enter_context(Mounted(root))  # names of others on its file system would count
    names = [b"f%02d" % number for number in range(40)]
    for name in names:
        (root / os.fsdecode(name)).touch()
    monitor: FanotifyMonitor | InotifyMonitor
    if kind == "fanotify":
        monitor = FanotifyMonitor(Rules(), limit=50)
        monitor.add(b"", bytes(root))
    else:
        monitor = InotifyMonitor(bytes(root), b"", Rules(), limit=50)
        for _ in monitor.arm():
            pass

    def drained() -> None:
        monitor.drain()
        while monitor.due() is not None:
            monitor.drain()

    try:
        for single in (single_first, not single_first):
            for name in names:
                (root / os.fsdecode(name)).write_bytes(b"text")
                if single:
                    drained()
            drained()
        seen = named(monitor.take())
        assert {path for path, _ in seen} == set(names)
    finally:
        monitor.close()


# -- limits of the machine -------------------------------------------------------------------------------------


@pytest.mark.root
@needs_root
@pytest.mark.parametrize("kind", ["inotify", "auto"])
def test_an_overflow_leaves_everything_in_doubt(root: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """New directories are found all the same, and watched from then on."""
    build(root)
    monkeypatch.setattr("clsync.kernel.features._FORCED", frozenset(("fanotify",)))
    with Watch(root, kind) as watch:
        flood(root)
        make_wide_tree(root)
        (root / "d").rename(root / "moved")
        watch.expect_complete()
        assert watch.seen[b""] & DOUBT
        # All watches are set again when nothing is left to do.
        watch.rest()
        watch.restart()
        for name in ("new0/0/x/y/file", "new39/4/x/y/file", "moved/e/f/a", "b"):
            (root / name).write_bytes(b"written after the overflow")
            watch.expect_complete()
            watch.restart()
        watch.expect_nothing()


@pytest.mark.root
@needs_root
def test_an_overflow_is_taken_before_everything_is_watched_again(roomy: Path) -> None:
    """A handler may compare everything at once; what changes after that is reported, watched already or not."""
    for number in range(2000):
        (outside(roomy) / f"large/{number % 50}/{number}").mkdir(parents=True)
    with Watch(roomy, "inotify") as watch:
        flood(roomy)
        (outside(roomy) / "large").rename(roomy / "large")
        watch.pump_until(
            lambda: watch.monitor.drain() and bool(watch.take().get(b"", 0) & DOUBT),
            "the overflow",
        )
        watch.restart()
        for number in range(2000):
            (roomy / f"large/{number % 50}/{number}/file").touch()
        watch.expect_complete()


def small_limit(name: str, limit: int) -> list[str]:
    """Return the words that run a command in a user namespace with a small limit, or skip."""
    words = ["unshare", "-Ur", "sh", "-c", f'echo {limit} > /proc/sys/user/{name}; exec "$@"', "sh"]
    if shutil.which("unshare") is None or subprocess.run([*words, "true"], capture_output=True).returncode:
        pytest.skip("no user namespaces here")
    return words


@pytest.mark.parametrize("when", ["while arming", "later"])
def test_out_of_watches_it_polls(root: Path, when: str) -> None:
    for number in range(30 if when == "while arming" else 5):
        (root / f"{number}/x").mkdir(parents=True)
    described, log = watch_in_child(root, "auto", before=small_limit("max_inotify_watches", 20))
    assert described.startswith("poll every 0.1 s (inotify: ")
    assert "more directories than watches" in log
    assert "sysctl fs.inotify.max_user_watches" in log
    assert os.fspath(root) in log


def test_out_of_instances_it_polls(root: Path) -> None:
    described, log = watch_in_child(root, "auto", before=small_limit("max_inotify_instances", 0))
    assert described.startswith("poll every 0.1 s (inotify: ")
    assert "sysctl fs.inotify.max_user_instances" in log


# -- features that a kernel may lack ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("absent", "chosen"),
    [
        ("fanotify", "inotify (no fanotify: the kernel does not have it)"),
        pytest.param("fanotify_rename", "fanotify", marks=[pytest.mark.root, needs_root]),
        pytest.param("fanotify_target", "fanotify", marks=[pytest.mark.root, needs_root]),
        pytest.param("open_tree", "fanotify", marks=[pytest.mark.root, needs_root]),
        pytest.param("fanotify_rename,fanotify_target,open_tree", "fanotify", marks=[pytest.mark.root, needs_root]),
        ("fanotify,inotify", "poll every 0.1 s"),
        pytest.param("inotify", "fanotify", marks=[pytest.mark.root, needs_root]),
    ],
)
def test_a_missing_feature_is_done_without(root: Path, absent: str, chosen: str) -> None:
    build(root)
    described, _ = watch_in_child(root, "auto", env={"CLSYNC_WITHOUT": absent})
    assert described.startswith(chosen)


def test_without_privilege_inotify_is_chosen(root: Path) -> None:
    """In a user namespace nobody has CAP_SYS_ADMIN over the file system."""
    described, _ = watch_in_child(root, "auto", before=small_limit("max_inotify_watches", 10_000))
    assert described == "inotify (no fanotify: it needs root (CAP_SYS_ADMIN))"


@pytest.mark.parametrize("kind", ["fanotify", "inotify"])
def test_a_demanded_monitor_that_cannot_be_had_is_an_error(
    root: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clsync.kernel.features._FORCED", frozenset((kind,)))
    with pytest.raises(OperatorError) as raised, Watch(root, kind):
        pass
    assert raised.value.code == Exit.MONITOR
    assert f"--monitor={kind}" in raised.value.message
    assert raised.value.hint


# -- mounts ----------------------------------------------------------------------------------------------------


@pytest.fixture
def mounts() -> Iterator[ExitStack]:
    """Unmounts what a test leaves mounted."""
    with ExitStack() as stack:
        yield stack


def change_inside(top: Path, turn: str) -> None:
    """Make changes of every sort in a directory, other ones every turn."""
    (top / turn / "deep").mkdir(parents=True)
    (top / turn / "deep/file").write_bytes(b"made")
    (top / "file").write_text(turn)
    (top / turn / "deep").rename(top / turn / "renamed")
    (top / turn / "renamed/file").write_bytes(b"written again")


@pytest.mark.root
@needs_root
class TestMounts:
    """File systems mounted at, below and away from the root."""

    def test_a_mount_that_was_there_is_watched(self, kind: str, root: Path, mounts: ExitStack) -> None:
        point = root / "a/mount"
        point.mkdir(parents=True)
        mounted = mounts.enter_context(Mounted(point))
        with Watch(root, kind) as watch:
            for turn in ("one", "two"):
                change_inside(point, turn)
                change_inside(root / "a", turn)
                watch.expect_complete()
                watch.restart()
            mounted.unmount()
            watch.expect([b"a/mount"], DOUBT)
            watch.restart()
            change_inside(point, "what was hidden")
            change_inside(root, "the rest")
            watch.expect_complete()

    def test_a_mount_that_comes_is_watched(self, kind: str, root: Path, mounts: ExitStack) -> None:
        point = root / "a/mount"
        point.mkdir(parents=True)
        with Watch(root, kind) as watch:
            mounted = mounts.enter_context(Mounted(point))
            change_inside(point, "at once")
            watch.expect_complete()
            watch.rest()
            watch.restart()
            change_inside(point, "later")
            watch.expect_complete()
            mounted.unmount()
            watch.expect([b"a/mount"], DOUBT)
            watch.restart()
            change_inside(root, "after it went")
            watch.expect_complete()

    def test_a_mount_in_a_mount_comes_and_goes(self, kind: str, root: Path, mounts: ExitStack) -> None:
        (root / "outer").mkdir()
        with Watch(root, kind) as watch:
            outer = mounts.enter_context(Mounted(root / "outer"))
            (root / "outer/x/inner").mkdir(parents=True)
            inner = mounts.enter_context(Mounted(root / "outer/x/inner"))
            watch.expect([b"outer", b"outer/x/inner"], DOUBT)
            watch.rest()
            watch.restart()
            change_inside(root / "outer/x/inner", "inside")
            change_inside(root / "outer/x", "between")
            watch.expect_complete()
            inner.unmount()
            outer.unmount()
            watch.expect([b"outer"], DOUBT)

    def test_a_mount_over_a_mount(self, kind: str, root: Path, mounts: ExitStack) -> None:
        point = root / "mount"
        point.mkdir()
        mounts.enter_context(Mounted(point))
        (point / "hidden").touch()
        with Watch(root, kind) as watch:
            over = mounts.enter_context(Mounted(point))
            watch.expect([b"mount"], DOUBT)
            watch.rest()
            watch.restart()
            change_inside(point, "above")
            watch.expect_complete()
            over.unmount()
            watch.expect([b"mount"], DOUBT)
            watch.rest()
            watch.restart()
            (point / "hidden").write_bytes(b"seen again")
            change_inside(point, "below")
            watch.expect_complete()

    def test_an_ancestor_of_a_mount_is_renamed(self, kind: str, root: Path, mounts: ExitStack) -> None:
        (root / "a/mount").mkdir(parents=True)
        mounts.enter_context(Mounted(root / "a/mount"))
        try:
            with Watch(root, kind) as watch:
                (root / "a").rename(root / "b")
                watch.expect_complete()
                watch.restart()
                change_inside(root / "b/mount", "afterwards")
                watch.expect_complete()
        finally:
            subprocess.run(["umount", root / "b/mount"], capture_output=True)

    def test_two_views_of_one_directory(self, kind: str, root: Path, mounts: ExitStack) -> None:
        """A bind mount inside the root: a change is one of both paths."""
        (root / "d").mkdir()
        (root / "view").mkdir()
        mounts.enter_context(Mounted(root / "view", "--bind", os.fspath(root / "d")))
        with Watch(root, kind) as watch:
            (root / "d/file").write_bytes(b"x")
            (root / "view/other").write_bytes(b"x")
            watch.expect([b"d/file", b"view/file", b"d/other", b"view/other"])

    def test_one_file_of_another_file_system(self, kind: str, root: Path, mounts: ExitStack) -> None:
        """A file that is mounted on a file does not stop anything."""
        (root / "file").touch()
        mounts.enter_context(Mounted(root / "file", "--bind", "/proc/version"))
        with Watch(root, kind) as watch:
            (root / "other").touch()
            watch.expect([b"other"])

    def test_other_mounts_are_left_alone_if_asked(self, kind: str, root: Path, mounts: ExitStack) -> None:
        for name in ("early", "late"):
            (root / name).mkdir()
        early = mounts.enter_context(Mounted(root / "early"))
        with Watch(root, kind, follow_mounts=False) as watch:
            late = mounts.enter_context(Mounted(root / "late"))
            for name in ("early", "late"):
                (root / name / "x").mkdir()
                (root / name / "x/file").write_bytes(b"x")
            watch.expect_nothing(lambda path: path in (b"early", b"late"))
            early.unmount()
            late.unmount()
            watch.seen.clear()
            change_inside(root, "still watched")
            watch.expect([b"file", b"still watched"])

    def test_the_file_system_of_the_root_can_be_unmounted(self, kind: str, root: Path, mounts: ExitStack) -> None:
        """Nothing of ours keeps it busy, also not after work; within a second it is known to be gone."""
        mounted = mounts.enter_context(Mounted(root))
        (root / "top").mkdir()
        for top in (root, root / "top"):
            if not os.path.ismount(root):
                mounted = mounts.enter_context(Mounted(root))
                (root / "top").mkdir()
            with Watch(top, kind) as watch:
                change_inside(top, "before")
                watch.expect_complete()
                assert not watch.monitor.root_gone()
                mounted.unmount()
                watch.pump_until(watch.monitor.root_gone, "the root is gone", SOON)
                watch.take()

    def test_a_mount_over_the_root(self, kind: str, root: Path, mounts: ExitStack) -> None:
        """What the path leads to now is another directory."""
        build(root)
        with Watch(root, kind) as watch:
            mounts.enter_context(Mounted(root))
            watch.pump_until(watch.monitor.root_gone, "the root is gone", SOON)

    def test_mounts_elsewhere_do_not_matter(self, kind: str, root: Path, mounts: ExitStack) -> None:
        point = outside(root) / "mount"
        point.mkdir()
        with Watch(root, kind) as watch:
            mounted = mounts.enter_context(Mounted(point))
            (point / "file").touch()
            mounted.unmount()
            watch.expect_nothing()

    def test_a_directory_of_a_mount_is_watched_alone(self, kind: str, root: Path, mounts: ExitStack) -> None:
        """The root is below a mount point; its neighbours on that file system are none of ours."""
        mounts.enter_context(Mounted(root))
        for name in ("ours", "theirs"):
            (root / name).mkdir()
        with Watch(root / "ours", kind) as watch:
            change_inside(root / "theirs", "now")
            (root / "file").touch()
            watch.expect_nothing()
            change_inside(root / "ours", "now")
            watch.expect_complete()


@pytest.mark.root
@needs_root
class TestFileSystems:
    """`auto` finds a way on file systems that cannot be watched by everything."""

    def test_overlay(self, root: Path, mounts: ExitStack) -> None:
        scratch = outside(root) / "overlay"
        scratch.mkdir()
        mounts.enter_context(Mounted(scratch))  # an overlay on an overlay is refused, on tmpfs it is not
        for name in ("lower", "upper", "work"):
            (scratch / name).mkdir()
        (scratch / "lower/below").mkdir()
        (scratch / "lower/below/file").write_bytes(b"lower")
        options = f"lowerdir={scratch}/lower,upperdir={scratch}/upper,workdir={scratch}/work"
        mounts.enter_context(Mounted(root, "-t", "overlay", "-o", options, "overlay"))
        with Watch(root, "auto") as watch:
            (root / "below/file").write_bytes(b"copied up")
            watch.expect_complete()
            watch.restart()
            change_inside(root / "below", "now")
            change_inside(root, "now")
            watch.expect_complete()

    @pytest.mark.parametrize("top", ["", "subvolume"])
    def test_btrfs(self, root: Path, mounts: ExitStack, top: str) -> None:
        self._mount_image(root, mounts, "btrfs", "128M")
        subprocess.run(["btrfs", "subvolume", "create", root / "subvolume"], check=True, capture_output=True)
        (root / "subvolume/d").mkdir()
        with Watch(root / top, "auto") as watch:
            change_inside(root / "subvolume/d", "now")
            if not top:
                change_inside(root, "now")
            watch.expect_complete()

    @pytest.mark.parametrize("type_", ["ext4", "xfs", "vfat"])
    def test_others(self, root: Path, mounts: ExitStack, type_: str) -> None:
        self._mount_image(root, mounts, type_, "320M")
        with Watch(root, "auto") as watch:
            for turn in ("one", "two"):
                change_inside(root, turn)
                watch.expect_complete()
                watch.restart()

    def _mount_image(self, root: Path, mounts: ExitStack, kind: str, size: str) -> None:
        """Mount a new file system on the root, or skip."""
        program = f"mkfs.{kind}"
        if shutil.which(program) is None or (kind == "btrfs" and shutil.which("btrfs") is None):
            pytest.skip(f"{program} is not installed")
        image = outside(root) / "image"
        subprocess.run(["truncate", "-s", size, image], check=True)
        subprocess.run([program, image], check=True, capture_output=True)
        try:
            mounts.enter_context(Mounted(root, "-o", "loop", os.fspath(image)))
        except subprocess.CalledProcessError as error:
            pytest.skip(f"{kind} cannot be mounted here: {error.stderr.decode().strip()}")


@pytest.mark.root
@needs_root
def test_events_gather_only_while_the_queue_is_read_to_its_end(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Watch(root, "fanotify") as watch:
        for number in range(200):
            (root / f"new{number}").touch()
        with monkeypatch.context() as patch:
            patch.setattr("clsync.monitor.fanotify._READ", 4096)
            patch.setattr("clsync.monitor.fanotify._DRAIN_SECONDS", 0.0)
            watch.monitor.drain()
            assert watch.monitor.rest() == 0.0
        watch.pump_until(lambda: watch.monitor.drain() and watch.monitor.rest() > 0, "the end of the queue")
