"""What the monitors tell of renames: where things stood when the window opened, and where they stand now."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.monitors import Mounted, Watch, exchange

Moves = set[tuple[bytes | None, bytes | None]]
IS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not IS_ROOT, reason="needs root")
KINDS = [pytest.param("fanotify", marks=[pytest.mark.root, needs_root]), "inotify"]
EVERY = [*KINDS, "poll"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree to be watched, and a directory outside it."""
    (tmp_path / "outside/d").mkdir(parents=True)
    top = tmp_path / "root"
    for name in ("a", "b", "c"):
        (top / name / "sub" / "deep").mkdir(parents=True)
        (top / name / "file").write_text(name)
        (top / name / "sub/file").write_text(name)
    (top / "file").write_text("x")
    (top / "other").write_text("y")
    os.link(top / "file", top / "linked")
    os.symlink("file", top / "symlink")
    (top / "empty").mkdir()
    return top


def rename_a_directory(top: Path) -> None:
    (top / "a").rename(top / "new")


def rename_a_file(top: Path) -> None:
    (top / "other").rename(top / "a/file2")


def rename_a_file_over_another(top: Path) -> None:
    (top / "a/file").rename(top / "b/file")


def rename_over_an_empty_directory(top: Path) -> None:
    (top / "a").rename(top / "empty")


def chain(top: Path) -> None:
    (top / "a").rename(top / "n1")
    (top / "n1").rename(top / "n2")
    (top / "n2").rename(top / "n3")


def chain_of_a_file(top: Path) -> None:
    (top / "other").rename(top / "n1")
    (top / "n1").rename(top / "c/n2")


def shift(top: Path) -> None:
    (top / "c").rename(top / "d")
    (top / "b").rename(top / "c")
    (top / "a").rename(top / "b")


def swap_by_hand(top: Path) -> None:
    (top / "a").rename(top / "t")
    (top / "b").rename(top / "a")
    (top / "t").rename(top / "b")


def swap_at_once(top: Path) -> None:
    exchange(top / "a", top / "b")


def out_of_what_is_moved(top: Path) -> None:
    (top / "a").rename(top / "new")
    (top / "new/sub").rename(top / "moved")


def within_what_is_moved(top: Path) -> None:
    (top / "a/sub").rename(top / "a/bus")
    (top / "a").rename(top / "new")


def into_what_is_moved(top: Path) -> None:
    (top / "a").rename(top / "b/a")
    (top / "b").rename(top / "new")


def into_a_new_directory(top: Path) -> None:
    (top / "new/deep").mkdir(parents=True)
    (top / "a").rename(top / "new/deep/a")


def upside_down(top: Path) -> None:
    (top / "a/sub").rename(top / "sub")
    (top / "a").rename(top / "sub/deep/a")


def there_and_back(top: Path) -> None:
    (top / "a").rename(top / "t")
    (top / "t").rename(top / "a")


def unpack(top: Path) -> None:
    (top / "a/sub").rename(top / "sub")
    (top / "a/file").rename(top / "file2")
    (top / "a").rmdir()


CASES: list[tuple[Callable[[Path], None], list[bytes], Moves]] = [
    (rename_a_directory, [b"new"], {(b"a", b"new")}),
    (rename_a_file, [b"a/file2"], {(b"other", b"a/file2")}),
    (rename_a_file_over_another, [b"b/file"], {(b"a/file", b"b/file")}),
    (rename_over_an_empty_directory, [b"empty"], {(b"a", b"empty")}),
    (chain, [b"n3"], {(b"a", b"n3")}),
    (chain_of_a_file, [b"c/n2"], {(b"other", b"c/n2")}),
    (shift, [b"b"], {(b"c", b"d"), (b"b", b"c"), (b"a", b"b")}),
    (swap_by_hand, [b"b"], {(b"a", b"b"), (b"b", b"a")}),
    (swap_at_once, [b"b"], {(b"a", b"b"), (b"b", b"a")}),
    (out_of_what_is_moved, [b"moved"], {(b"a", b"new"), (b"a/sub", b"moved")}),
    (within_what_is_moved, [b"new"], {(b"a", b"new"), (b"a/sub", b"new/bus")}),
    (into_what_is_moved, [b"new"], {(b"a", b"new/a"), (b"b", b"new")}),
    (into_a_new_directory, [b"new"], {(b"a", b"new/deep/a")}),
    (upside_down, [b"sub/deep/a"], {(b"a/sub", b"sub"), (b"a", b"sub/deep/a")}),
]


def fully(moves: Moves) -> Moves:
    """Return the moves of which both ends are known."""
    return {(old, new) for old, new in moves if old is not None and new is not None}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("act", "seen", "moves"), CASES, ids=[act.__name__ for act, _, _ in CASES])
def test_each_thing_that_was_moved_is_told_once(
    root: Path, kind: str, act: Callable[[Path], None], seen: list[bytes], moves: Moves
) -> None:
    with Watch(root, kind) as watch:
        act(root)
        assert fully(watch.moved(seen)) == moves


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_back_in_its_place_is_nowhere_else(root: Path, kind: str) -> None:
    with Watch(root, kind) as watch:
        there_and_back(root)
        assert fully(watch.moved([b"a"])) <= {(b"a", b"a")}


@pytest.mark.root
@needs_root
def test_what_was_in_a_directory_that_is_gone_is_known_by_its_old_name(root: Path) -> None:
    with Watch(root, "fanotify") as watch:
        unpack(root)
        assert fully(watch.moved([b"sub", b"file2"])) == {(b"a/sub", b"sub"), (b"a/file", b"file2")}


def make_and_rename(top: Path) -> None:
    (top / "made").mkdir()
    (top / "made").rename(top / "new")
    (top / "fresh").write_text("x")
    (top / "fresh").rename(top / "old")


def rename_what_is_no_plain_file(top: Path) -> None:
    (top / "linked").rename(top / "new")
    (top / "symlink").rename(top / "old")


def rename_away(top: Path) -> None:
    (top / "a").rename(top.parent / "outside/a")
    (top / "other").rename(top.parent / "outside/other")
    (top / "old").touch()
    (top / "new").touch()


def rename_in(top: Path) -> None:
    (top.parent / "outside/d").rename(top / "new")
    (top / "old").touch()


def replace_what_was_renamed(top: Path) -> None:
    (top / "other").rename(top / "new")
    (top / "new").unlink()
    (top / "new").write_text("another one")
    (top / "old").touch()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "act", [make_and_rename, rename_what_is_no_plain_file, rename_away, rename_in, replace_what_was_renamed]
)
def test_what_has_no_place_at_the_destination_or_none_here_is_not_told_as_moved(
    root: Path, kind: str, act: Callable[[Path], None]
) -> None:
    with Watch(root, kind) as watch:
        act(root)
        assert fully(watch.moved([b"new", b"old"])) == set()


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_which_two_may_have_been_swapped_are_told_right_or_not_at_all(root: Path, kind: str) -> None:
    with Watch(root, kind) as watch:
        exchange(root / "other", root / "b/file")
        told = fully(watch.moved([b"other", b"b/file"]))
    right = {(b"other", b"b/file"), (b"b/file", b"other")}
    assert told == (right if kind == "fanotify" else set())


def on_from_a_swap(top: Path) -> None:
    (top / "other").rename(top / "n1")
    exchange(top / "n1", top / "b/file")
    (top / "n1").rename(top / "n2")


def on_from_where_another_one_was_linked(top: Path) -> None:
    (top / "other").rename(top / "n1")
    (top / "n1").unlink()
    os.link(top / "b/file", top / "n1")
    (top / "b/file").unlink()
    (top / "n1").rename(top / "n2")


def on_from_where_another_one_was_made(top: Path) -> None:
    (top / "other").rename(top / "n1")
    (top / "n1").unlink()
    (top / "n1").touch()
    (top / "n1").rename(top / "n2")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "act", [on_from_a_swap, on_from_where_another_one_was_linked, on_from_where_another_one_was_made]
)
def test_what_stood_at_a_name_for_a_while_is_not_taken_for_what_stood_there_next(
    root: Path, kind: str, act: Callable[[Path], None]
) -> None:
    with Watch(root, kind) as watch:
        act(root)
        assert (b"other", b"n2") not in watch.moved([b"n2"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_next_window_begins_anew(root: Path, kind: str) -> None:
    with Watch(root, kind) as watch:
        (root / "a").rename(root / "new")
        watch.moved([b"new"])
        (root / "new").rename(root / "newer")
        assert fully(watch.moved([b"newer"])) == {(b"new", b"newer")}
        (root / "file3").touch()
        assert watch.moved([b"file3"]) == set()


@pytest.mark.root
@needs_root
def test_what_was_renamed_after_the_window_was_ended_makes_all_of_it_unsure(root: Path) -> None:
    """The paths are those of now, and would be taken for those of then."""
    with Watch(root, "fanotify") as watch:
        (root / "a/sub").rename(root / "a/bus")
        watch.pump_until(watch.monitor.drain, "the event")
        watch.monitor.take()
        (root / "a").rename(root / "new")
        assert [move for move in watch.monitor.moves() if move is not None] == []


@pytest.mark.root
@needs_root
@pytest.mark.parametrize("kind", KINDS)
def test_what_takes_a_mount_along_is_not_told(root: Path, kind: str) -> None:
    with Mounted(root / "a/sub/deep"), Watch(root, kind) as watch:
        (root / "a").rename(root / "new")
        try:
            assert watch.moved([b"new"]) == set()
        finally:
            (root / "new").rename(root / "a")  # to be unmounted there


def many(top: Path, number: int) -> Iterator[Path]:
    place = top / "many"
    place.mkdir()
    for n in range(number):
        path = place / f"{n}"
        path.touch()
        yield path


@pytest.mark.parametrize("kind", KINDS)
def test_too_many_are_not_told_at_all(root: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("fanotify", "filemoves", "inotify"):
        monkeypatch.setattr(f"clsync.monitor.{name}.MOVES_LIMIT", 20)
    paths = list(many(root, 30))
    with Watch(root, kind) as watch:
        for path in paths:
            path.rename(path.with_name(f"moved{path.name}"))
        assert watch.moved([b"many/moved29"]) == set()
        paths[0].with_name("moved0").rename(root / "back")
        assert watch.moved([b"back"]) == {(b"many/moved0", b"back")}


@pytest.mark.parametrize("kind", EVERY)
def test_nothing_moved_nothing_told(root: Path, kind: str) -> None:
    with Watch(root, kind) as watch:
        (root / "a/file").write_text("longer than before")
        shutil.rmtree(root / "b")
        (root / "z").mkdir()
        assert watch.moved([b"z"]) == set()
