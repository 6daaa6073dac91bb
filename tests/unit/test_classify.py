"""Classification: what no rule of thumb covers."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from clsync.core.batch import FORCE, LINKED, MISSING, RECURSIVE, REGULAR
from clsync.core.changes import ATTRIB, CONTENT, DOUBT, NAME, OF_DIRECTORY
from clsync.core.classify import CHANGE_SHIFT, Classifier, Cover, Freshness, LinkedFile, plain
from tests.properties.test_classify import Node

NEVER = Freshness(0, 0)
FILE, DIR = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755


def test_an_error_that_is_neither_yes_nor_no_is_kept() -> None:
    def broken(path: bytes) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    classifier = Classifier(broken, NEVER)
    classifier.add([(b"a", CONTENT), (b"d/b", CONTENT)])
    assert classifier.unreadable == {b"a": "Input/output error", b"d/b": "Input/output error"}
    assert classifier.finish() == {}


def test_what_was_reported_of_a_directory_counts_for_the_file_it_became() -> None:
    tree: dict[bytes, Node] = {b"x": Node(FILE, 1)}
    classifier = Classifier(tree.get, NEVER)
    classifier.add([(b"x/below", CONTENT)])
    classifier.add([(b"x", ATTRIB)])
    assert classifier.entries[b"x"] == REGULAR | FORCE | (NAME | OF_DIRECTORY | ATTRIB) << CHANGE_SHIFT


def test_freshness_is_open_at_its_beginning_and_closed_at_its_end() -> None:
    times = {b"a": 100, b"b": 101, b"c": 200, b"d": 201}
    classifier = Classifier(lambda p: Node(FILE, 1, st_mtime_ns=times[p]), Freshness(100, 200))
    classifier.add((p, CONTENT) for p in times)
    assert {p: bool(f & FORCE) for p, f in classifier.entries.items()} == {b"a": 1, b"b": 0, b"c": 0, b"d": 1}


@pytest.mark.parametrize("short", [True, False])
def test_an_mtime_that_somebody_has_set_proves_nothing(short: bool) -> None:
    """It may be that of a version sent long ago, which had it from the future."""

    def look(path: bytes) -> Node:
        return Node(FILE, 1, st_mtime_ns=150, touched=path == b"set")

    classifier = Classifier(look, Freshness(100, 200))
    changes = [(p, CONTENT) for p in (b"set", b"written")]
    if short:
        changes = classifier.add_plain(changes, [plain(look(path)) for path, _ in changes])
        assert not changes
    classifier.add(changes)
    assert {p: bool(f & FORCE) for p, f in classifier.entries.items()} == {b"set": True, b"written": False}


def test_only_files_listed_for_their_attributes_are_counted() -> None:
    sizes = {b"a": 5, b"b": 70}
    classifier = Classifier(lambda p: Node(FILE, 1, st_size=sizes[p]), NEVER)
    classifier.add([(b"a", ATTRIB), (b"b", CONTENT)])
    assert classifier.attribute_bytes == 5


def test_a_rejected_name_that_comes_or_goes_touches_its_directory() -> None:
    tree = {b"": Node(DIR, 1), b"d": Node(DIR, 2), b"d/no": Node(FILE, 3)}
    classifier = Classifier(tree.get, NEVER, lambda path, is_dir: not path.endswith(b"no"))
    classifier.add([(b"d/no", NAME)])
    assert list(classifier.finish()) == [b"d"]
    classifier = Classifier(tree.get, NEVER, lambda path, is_dir: not path.endswith(b"no"))
    classifier.add([(b"d/no", CONTENT)])
    assert classifier.finish() == {}


def test_a_change_through_a_rejected_name_is_a_change_of_the_file() -> None:
    classifier = Classifier(lambda p: Node(FILE, 7, st_nlink=2), NEVER, lambda path, is_dir: path != b"no")
    classifier.add([(b"no", CONTENT | ATTRIB)])
    file = LinkedFile(1, 7, 2)
    assert classifier.through_rejected == {file: CONTENT | ATTRIB}
    assert list(classifier.linked[file]) == [b"no"]


def test_what_is_missing_may_have_been_either_kind() -> None:
    classifier = Classifier(lambda p: None, NEVER, lambda path, is_dir: is_dir)
    classifier.add([(b"gone", NAME)])
    assert classifier.finish()[b"gone"] & MISSING


def test_names_of_one_file_share_what_has_to_be_done() -> None:
    classifier = Classifier(lambda p: Node(FILE, 7, st_nlink=2), NEVER)
    classifier.add([(b"a", CONTENT)])
    classifier.add_links([b"a", b"b"])
    assert {p: f & 0xFF for p, f in classifier.finish().items()} == dict.fromkeys(
        [b"a", b"b"], LINKED | FORCE | REGULAR
    )


def test_a_doubtful_directory_does_not_swallow_forced_files() -> None:
    tree = {b"": Node(DIR, 1), b"d": Node(DIR, 2), b"d/a": Node(FILE, 3), b"d/b": Node(FILE, 4)}
    changes = [(b"d/a", CONTENT), (b"d/b", ATTRIB)]
    doubtful = Classifier(tree.get, NEVER)
    doubtful.add([(b"d", DOUBT), *changes])
    assert list(doubtful.finish()) == [b"d", b"d/a"]
    renamed = Classifier(tree.get, NEVER)
    renamed.add([(b"d", NAME), *changes])
    assert list(renamed.finish()) == [b"d"]


def test_cover_sums_up_all_directories_above() -> None:
    entries = {b"": RECURSIVE | FORCE, b"a": RECURSIVE}
    cover = Cover(set(entries), entries)
    assert cover.covered(b"a/b/c", LINKED | FORCE)
    assert not Cover({b"a"}, entries).covered(b"a/b/c", LINKED)
    assert not Cover({b"a"}, entries).covered(b"ab", 0)
