"""Walks below an open directory: they see what lies there, and nothing else."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

import pytest

from clsync.kernel.walk import list_directory, walk


@pytest.fixture
def root(tmp_path: Path) -> int:
    """Return a directory with symlinks to others, open."""
    (tmp_path / "root/a/b").mkdir(parents=True)
    (tmp_path / "root/a/b/file").touch()
    (tmp_path / "outside/deep").mkdir(parents=True)
    for name, leads in (("here", "."), ("up", "../outside"), ("whole", str(tmp_path)), ("nowhere", "x")):
        (tmp_path / "root" / name).symlink_to(leads)
    return os.open(tmp_path / "root", os.O_RDONLY)


@pytest.mark.parametrize(
    ("top", "wanted"),
    [
        (b"", {b"a", b"a/b", b"a/b/file", b"here", b"up", b"whole", b"nowhere"}),
        (b"a", {b"a/b", b"a/b/file"}),
        (b"a/b/file", set()),
        (b"gone", set()),
        (b"here", set()),
        (b"here/a", set()),
        (b"up", set()),
        (b"up/deep", set()),
        (b"whole", set()),
        (b"nowhere", set()),
    ],
)
def test_nothing_lies_behind_a_symlink(root: int, top: bytes, wanted: set[bytes]) -> None:
    assert {path for path, _ in walk(root, top)} == wanted


def test_a_path_of_any_length_is_listed(root: int) -> None:
    name, levels, here = b"n" * 250, 40, os.dup(root)
    for _ in range(levels):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("last", os.O_WRONLY | os.O_CREAT, dir_fd=here))
    (found,) = list_directory(root, b"/".join([name] * levels))
    assert found.name == b"last"
    assert sum(1 for _ in walk(root, name)) == levels


@pytest.mark.parametrize("one_file_system", [False, True])
def test_a_top_that_cannot_be_looked_at_is_told(root: int, one_file_system: bool) -> None:
    """Also where it is asked first on which file system it is."""
    top, told = b"n" * 300, dict[bytes, int | None]()  # longer than names can be
    found = walk(
        root, top, one_file_system=one_file_system, unreadable=lambda p, error: told.update({p: error.errno})
    )
    assert not list(found)
    assert told == {top: errno.ENAMETOOLONG}


def open_files() -> set[str]:
    """Return what this process has open. What other tests have left open may go meanwhile, or have too long a path."""
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found.add(os.readlink(link))
    return found


def test_a_large_directory_is_walked_whole_and_holds_nothing_open(root: int, tmp_path: Path) -> None:
    """Who unmounts what lies there is not to wait for whoever uses the walk."""
    names = {b"f%04d" % number for number in range(1500)}
    for name in names:
        os.close(os.open(b"a/b/" + name, os.O_WRONLY | os.O_CREAT, dir_fd=root))
    found, held = set[bytes](), set[str]()
    for path, _ in walk(root, b"a/b"):
        found.add(path)
        if len(found) % 100 == 0:
            held |= open_files()
    assert str(tmp_path) in {os.path.dirname(one) for one in held}, "not even the root was seen to be open"
    assert str(tmp_path / "root/a/b") not in held
    assert found == {b"a/b/" + name for name in names} | {b"a/b/file"}


def test_what_becomes_a_symlink_in_the_middle_is_not_followed(root: int, tmp_path: Path) -> None:
    for number in range(1500):
        os.close(os.open(f"a/b/f{number:04}", os.O_WRONLY | os.O_CREAT, dir_fd=root))
        (tmp_path / f"outside/f{number:04}").write_bytes(b"others")
    sizes = set()
    for number, (_, found) in enumerate(walk(root, b"a/b")):
        if not number:
            os.rename("a/b", "a/old", src_dir_fd=root, dst_dir_fd=root)
            os.symlink(tmp_path / "outside", "a/b", dir_fd=root)
        sizes.add(found.st_size)
    assert sizes == {0}
