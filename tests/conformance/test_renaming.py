"""One suite for all that renames at a destination: what is done, what is refused, and that nothing is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from clsync.core.moves import Kind, Step
from clsync.handler.base import Renamed
from clsync.handler.renaming import rename_local
from clsync.handler.rsync import renaming
from clsync.kernel import roles
from clsync.kernel.credentials import ids
from tests.support.monitors import Mounted

Rename = Callable[[Path, Sequence[Step]], Renamed]
ODD = (
    b"new\nline", b"\n", b"\xff\xfe", b" ", b"-rf", b"#a", b"st*ar", b"br[ack]", b"q?m", b"back\\slash", b"\\0101",
    b"qu'\"o", b"$HOME", b"`id`", b"a:b", b"~", b"%s%b", b"x" * 255, b"...", b"\x01\x7f",
)  # fmt: skip
ASIDE = b".clsync-aside"


def by_shell(*shell: str) -> Rename:
    """Return what runs the script for the other end of ssh here, by one shell."""

    def rename(destination: Path, steps: Sequence[Step]) -> Renamed:
        said = subprocess.run(
            shell, input=renaming.script(os.fsencode(destination), steps, ASIDE), stdout=subprocess.PIPE, check=False
        ).stdout
        assert renaming.understood(said)
        return renaming.renamed(said, steps, ASIDE)

    return rename


SHELLS = {
    name: command
    for name, *command in (("dash",), ("bash", "--posix"), ("busybox", "sh"), ("zsh", "--emulate", "sh"), ("ksh",))
    if shutil.which(name)
}
"""What `sh` may be, as it is called then."""


@pytest.fixture(params=["local", *SHELLS])
def rename(request: pytest.FixtureRequest) -> Rename:
    """Each way to rename."""
    name = str(request.param)
    if name == "local":
        return lambda destination, steps: rename_local(os.fsencode(destination), steps)
    return by_shell(name, *SHELLS[name])


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """A destination with some directories and files."""
    destination = tmp_path / "destination"
    for name in ("a", "b", "c/d"):
        (destination / name / "sub").mkdir(parents=True)
        (destination / name / "file").write_text(name)
    (destination / "f").write_text("f")
    (destination / "g").write_text("g")
    return destination


def move(source: bytes, target: bytes, is_dir: bool = True) -> Step:
    return Step(Kind.MOVE, source, target, is_dir)


def make(target: bytes) -> Step:
    return Step(Kind.MAKE, b"", target, True)


def contents(top: Path) -> dict[str, str | None]:
    """Return path -> text, None of directories."""
    return {
        os.path.relpath(path, top): None
        if path.is_dir() and not path.is_symlink()
        else os.fsdecode(path.read_bytes())
        for path in top.rglob("*")
    }


def test_directories_and_files_are_moved(top: Path, rename: Rename) -> None:
    inode = (top / "a").stat().st_ino
    steps = [move(b"a", b"c/d/new"), make(b"x"), make(b"x/y"), move(b"f", b"x/y/f", False), make(b"x")]
    assert rename(top, steps) == Renamed(5, frozenset((1, 2)))
    assert (top / "c/d/new").stat().st_ino == inode
    assert (top / "x/y/f").read_text() == "f"
    assert not (top / "a").exists()


@pytest.mark.parametrize("name", ODD, ids=repr)
def test_any_name(top: Path, rename: Rename, name: bytes) -> None:
    new = os.fsencode(top) + b"/" + name
    back = b"y" + name[1:] if len(name) > 1 else b"yy"
    steps = [move(b"a", name), move(b"f", name + b"/" + name, False), move(name, back)]
    assert rename(top, steps) == Renamed(3)
    assert os.path.exists(os.path.join(os.fsencode(top), back, name))
    assert not os.path.exists(new)


def test_what_stands_there_makes_way(top: Path, rename: Rename) -> None:
    before = contents(top)
    assert rename(top, [move(b"a", b"b"), move(b"f", b"g", False)]) == Renamed(2)
    after = contents(top)
    assert after["b/file"] == "a"
    assert after["a/file"] == "b", "lost"
    assert after["g"] == "f"
    assert "f" not in after
    assert len(after) == len(before) - 1


def test_a_file_takes_the_place_of_a_directory(top: Path, rename: Rename) -> None:
    assert rename(top, [move(b"f", b"b", False), move(b"a", b"g")]) == Renamed(2)
    after = contents(top)
    assert after["b"] == "f"
    assert after["g/file"] == "a"
    assert after["f/file"] == "b"
    assert after["a"] == "g"


def test_a_symlink_that_stands_there_is_not_followed(top: Path, rename: Rename) -> None:
    outside = top.parent / "outside"
    outside.mkdir()
    (top / "link").symlink_to(outside)
    (top / "other").symlink_to(outside)
    assert rename(top, [move(b"a", b"link"), move(b"f", b"other", False)]) == Renamed(2)
    assert not list(outside.iterdir())
    assert (top / "link/file").read_text() == "a"
    assert not (top / "link").is_symlink()
    assert (top / "other").read_text() == "f"
    assert not (top / "other").is_symlink()


def a_symlink_on_the_way(top: Path) -> list[Step]:
    (top / "link").symlink_to(top / "c")
    return [move(b"a", b"link/d/new")]


def a_symlink_on_the_way_from(top: Path) -> list[Step]:
    (top / "link").symlink_to(top / "c")
    return [move(b"link/d", b"new")]


def a_symlink_to_a_directory(top: Path) -> list[Step]:
    (top / "link").symlink_to(top / "c")
    return [move(b"link", b"new")]


def a_symlink_to_a_file(top: Path) -> list[Step]:
    (top / "link").symlink_to(top / "f")
    return [move(b"link", b"new", False)]


def another_kind(top: Path) -> list[Step]:
    return [move(b"f", b"new")]


def another_kind_of_thing(top: Path) -> list[Step]:
    return [move(b"a", b"new", False)]


def a_fifo(top: Path) -> list[Step]:
    os.mkfifo(top / "fifo")
    return [move(b"fifo", b"new", False)]


def nothing(top: Path) -> list[Step]:
    return [move(b"z", b"new")]


def nowhere(top: Path) -> list[Step]:
    return [move(b"a", b"z/new")]


def into_itself(top: Path) -> list[Step]:
    return [move(b"c", b"c/d/new")]


def a_file_for_a_directory(top: Path) -> list[Step]:
    return [make(b"f")]


def a_symlink_for_a_directory(top: Path) -> list[Step]:
    (top / "link").symlink_to(top / "c")
    return [make(b"link")]


@pytest.mark.parametrize(
    "case",
    [
        a_symlink_on_the_way, a_symlink_on_the_way_from, a_symlink_to_a_directory, a_symlink_to_a_file, another_kind,
        another_kind_of_thing, a_fifo, nothing, nowhere, into_itself, a_file_for_a_directory, a_symlink_for_a_directory,
    ],
)  # fmt: skip
def test_what_is_not_as_expected_is_left_alone(
    top: Path, rename: Rename, case: Callable[[Path], list[Step]], capfd: pytest.CaptureFixture[str]
) -> None:
    """And nothing after it is done."""
    steps = [*case(top), move(b"b", b"after")]
    before = names(top)
    assert rename(top, steps).steps == 0
    assert names(top) == before
    del capfd  # what the shell says


def names(top: Path) -> dict[str, int]:
    return {os.path.relpath(path, top): path.lstat().st_ino for path in top.rglob("*")}


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_no_other_file_system_is_entered_or_left(top: Path, rename: Rename) -> None:
    """`mv` would copy, and delete."""
    with Mounted(top / "a/sub"):
        (top / "a/sub/below").mkdir()
        before = names(top)
        for step in (
            move(b"a/sub/below", b"new"),
            move(b"b", b"a/sub/new"),
            move(b"a/sub", b"new"),
            make(b"a/sub/x"),
        ):
            assert rename(top, [step]).steps == 0
        assert names(top) == before


def test_two_names_change_places(top: Path) -> None:
    steps = [Step(Kind.SWAP, b"a", b"c/d", True), Step(Kind.SWAP, b"f", b"b", False)]
    assert rename_local(os.fsencode(top), steps) == Renamed(2)
    after = contents(top)
    assert (after["a/file"], after["c/d/file"], after["f/file"], after["b"]) == ("c/d", "a", "b", "f")


def test_by_a_process_of_who_runs_handlers(top: Path) -> None:
    """It is told what is done, and what was made; after what cannot be done, nothing is."""
    roles.assign(own=ids(), programs=ids(), starter=ids())
    try:
        steps = [make(b"x"), move(b"a", b"x/a"), make(b"b"), move(b"none", b"y"), move(b"b", b"after")]
        assert rename_local(os.fsencode(top), steps) == Renamed(3, frozenset((0,)))
    finally:
        roles.assign(own=ids(), programs=None, starter=ids())
    assert (top / "x/a/file").read_text() == "a"
    assert (top / "b").exists()


def test_a_destination_that_is_not_there(tmp_path: Path) -> None:
    assert rename_local(os.fsencode(tmp_path / "none"), [make(b"a")]) == Renamed(0)


def test_what_may_be_left_is_told() -> None:
    steps = [move(b"a", b"b"), move(b"b", b"c")]
    assert renaming.renamed(b"clsync renames\n0\n", steps, ASIDE) == Renamed(1, left=(ASIDE,))


@pytest.mark.parametrize(("directory", "well"), [(b"a/b.c", True), (b"", True), (b"~/a", False), (b"a b", False)])
def test_directories_that_shells_read_in_different_ways(directory: bytes, well: bool) -> None:
    assert renaming.reachable(directory) is well
