"""From changes to entries, against a small tree in memory: all that is dirty is covered, nothing false is asked for."""

from __future__ import annotations

import stat
from dataclasses import dataclass, field

from hypothesis import given, note

from clsync.core.batch import DIRECTORY, FORCE, LINKED, MISSING, RECURSIVE, REGULAR
from clsync.core.changes import ATTRIB, CONTENT, DOUBT, NAME
from clsync.core.classify import CHANGE_SHIFT, NOT_PLAIN, Classifier, Freshness, LinkedFile, Plain, plain
from clsync.core.paths import ancestors, is_below, join, parent
from tests.support.proofs import Choices, choices, examples

NAMES = [b"a", b"b", b"no", b"c"]
KINDS = [stat.S_IFREG, stat.S_IFDIR, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO]
BITS = [ATTRIB, CONTENT, NAME, DOUBT, ATTRIB | CONTENT, CONTENT | NAME, NAME | DOUBT]
FRESH = Freshness(100, 200)
BIG = 50


@dataclass
class Node:
    """What `lstat` says."""

    st_mode: int
    st_ino: int
    st_nlink: int = 1
    st_size: int = 0
    st_mtime_ns: int = 0
    st_dev: int = 1
    touched: bool = False
    """Somebody has set the mtime."""
    st_uid: int = 0
    st_gid: int = 0
    st_rdev: int = 0

    @property
    def st_ctime_ns(self) -> int:
        """That of the mtime, where it was not set."""
        return self.st_mtime_ns + self.touched

    @property
    def is_dir(self) -> bool:
        """Tell whether it is a directory."""
        return stat.S_ISDIR(self.st_mode)


@dataclass
class Tree:
    """A tree in memory. A look through anything but directories is a mistake of who looks."""

    nodes: dict[bytes, Node] = field(default_factory=lambda: {b"": Node(stat.S_IFDIR, 0)})

    def lstat(self, path: bytes) -> Node | None:
        """Answer as the kernel does, symlinks excepted: they are not to be walked through."""
        for up in ancestors(path):
            assert up in self.nodes, f"looked below {up!r}, where nothing stands"
            assert self.nodes[up].is_dir, f"looked through {up!r}"
        return self.nodes.get(path)

    def reduced(self, path: bytes) -> bytes:
        """Return the first ancestor that is no directory, else the path."""
        return next((up for up in ancestors(path) if up not in self.nodes or not self.nodes[up].is_dir), path)

    def plain(self, path: bytes) -> Plain:
        """Tell what counts of a regular file with one name, below directories alone."""
        node = self.nodes.get(path) if self.reduced(path) == path else None
        return plain(node) if node is not None else NOT_PLAIN


def any_tree(c: Choices) -> Tree:
    tree = Tree()
    directories = [b""]
    for number in range(1, 1 + c.number(14)):
        path = join(c.one(directories), c.one(NAMES))
        if path in tree.nodes:
            continue
        kind = c.one(KINDS)
        node = Node(kind | 0o644, number, c.one([1, 1, 1, 2]), c.one([0, 10, 99]), c.one([150, 100, 200, 201, 0]))
        tree.nodes[path] = node
        if node.is_dir:
            directories.append(path)
    return tree


def any_changes(c: Choices) -> dict[bytes, int]:
    paths = (b"/".join(c.some(NAMES, 4)) for _ in range(c.number(10)))
    return {path: c.one(BITS) for path in paths}


def permits(path: bytes, is_dir: bool) -> bool:
    """Reject what is called `no`, and all below it."""
    return b"no" not in path.split(b"/")


def classified(
    tree: Tree, changes: dict[bytes, int], parts: int, rules: bool, ripe: frozenset[bytes], short: bool
) -> Classifier:
    classifier = Classifier(tree.lstat, FRESH, permits if rules else None, big=BIG, ripe=ripe)
    items = list(changes.items())
    for at in range(parts):
        part = items[at::parts]
        if short:
            part = classifier.add_plain(part, [tree.plain(path) for path, _ in part])
        classifier.add(part)
    return classifier


@examples(20)
@given(choices(111))
def test_everything_dirty_is_covered_and_batches_keep_their_promises(drawn: Choices) -> None:
    tree, changes, rules = any_tree(drawn), any_changes(drawn), drawn.number(2) == 1
    ripe = frozenset(path for path in changes if drawn.number(2))
    note(f"{tree}\n{changes} rules: {rules}")
    classifier = classified(tree, changes, 1 + drawn.number(3), rules, ripe, drawn.number(2) == 1)
    entries = classifier.finish()
    for path, bits in changes.items():
        real = tree.reduced(path)
        if not rules or permits(real, True):
            covered(tree, classifier, entries, real, bits if real == path else NAME, real in ripe)
    check_batch(tree, entries)
    if rules:
        assert all(permits(path, True) for path in entries)
    for path in entries:
        assert any(path in (tree.reduced(p), parent(tree.reduced(p))) for p in changes), f"nobody spoke of {path!r}"
    assert not classifier.unreadable


def covered(
    tree: Tree, classifier: Classifier, entries: dict[bytes, int], path: bytes, bits: int, is_ripe: bool
) -> None:
    """Check that a change leads to an entry that is thorough enough."""
    node = tree.nodes.get(path)
    flags = entries.get(path)
    above = 0
    for up in (b"", *ancestors(path)):
        above |= entries.get(up, 0) if up != path and entries.get(up, 0) & RECURSIVE else 0
    if node is not None and stat.S_ISREG(node.st_mode) and bits & (CONTENT | NAME):
        if node.st_size > BIG and not is_ripe:
            assert classifier.postponed[path] & bits == bits
            return
        if not 100 < node.st_mtime_ns <= 200:
            assert (flags or 0) & FORCE or above & FORCE, f"{path!r} may be skipped"
            return
    if flags is None:
        assert above, f"{path!r} is lost"
        return
    assert flags >> CHANGE_SHIFT & bits == bits
    if node is None:
        assert flags & MISSING or not path
    elif node.is_dir:
        assert flags & DIRECTORY
        assert bool(flags & RECURSIVE) >= bool(bits & (NAME | DOUBT))
        assert bool(flags & FORCE) >= bool(bits & NAME)
    else:
        assert not flags & (MISSING | DIRECTORY | RECURSIVE)
        assert bool(flags & REGULAR) == stat.S_ISREG(node.st_mode)


def check_batch(tree: Tree, entries: dict[bytes, int]) -> None:
    """Check what `core.batch.Batch` promises to handlers."""
    assert list(entries) == sorted(entries)
    for path, flags in entries.items():
        for up, above in entries.items():
            if is_below(path, up):
                assert above & DIRECTORY, f"{path!r} lies below {up!r}"
                assert not above & RECURSIVE or (flags & (FORCE | LINKED) and not above & FORCE)
        assert bool(flags & MISSING) == (path not in tree.nodes)


@examples(5)
@given(choices(110))
def test_slices_make_no_difference(drawn: Choices) -> None:
    tree, changes = any_tree(drawn), any_changes(drawn)
    whole = classified(tree, changes, 1, True, frozenset(), short=False)
    sliced = classified(tree, changes, 3, True, frozenset(), short=True)
    assert whole.finish() == sliced.finish()
    assert (whole.postponed.keys(), whole.linked) == (sliced.postponed.keys(), sliced.linked)


@examples(5)
@given(choices(110))
def test_every_name_seen_of_a_linked_file_is_noted(drawn: Choices) -> None:
    tree, changes = any_tree(drawn), any_changes(drawn)
    classifier = classified(tree, changes, 1, False, frozenset(changes), short=False)
    for path in changes:
        real = tree.reduced(path)
        node = tree.nodes.get(real)
        if node is not None and node.st_nlink > 1 and not node.is_dir and real not in classifier.postponed:
            assert real in classifier.linked[LinkedFile(1, node.st_ino, 2)]
    assert all(tree.nodes[name].st_ino == file.ino for file, seen in classifier.linked.items() for name in seen)
