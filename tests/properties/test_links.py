"""The names of hard-linked files: an answer is right whatever happened since the last scan, and memory is bounded."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from clsync.core.links import LinkIndex
from tests.support.proofs import examples

NAMES = [b"%d" % n for n in range(5)]
INODES = [(1, n) for n in range(2)]
names = st.sampled_from(NAMES)
inodes = st.sampled_from(INODES)


@dataclass
class Found:
    """What `lstat` says of a name."""

    st_dev: int
    st_ino: int
    st_nlink: int
    st_mode: int = 0o100644
    st_size: int = 0
    st_mtime_ns: int = 0
    st_ctime_ns: int = 0
    st_uid: int = 0
    st_gid: int = 0
    st_rdev: int = 0


class Links(RuleBasedStateMachine):
    """Some inodes with names below the root and others outside, and an index that is told of scans only."""

    @initialize(limit=st.sampled_from([3, 8, 100]))
    def begin(self, limit: int) -> None:
        self.limit = limit
        self.index = LinkIndex(limit)
        self.below: dict[bytes, tuple[int, int]] = {}
        self.outside = dict.fromkeys(INODES, 0)
        self.misled: set[tuple[int, int]] = set()
        """Inodes of which a scan missed a name."""
        self.untold: set[bytes] = set()
        """Names that are new, of which no event has told the index yet: one that was outside may have come below."""

    # -- what happens in the tree ------------------------------------------------------------------------------

    @rule(name=names, inode=inodes)
    def link(self, name: bytes, inode: tuple[int, int]) -> None:
        """A new name, or one renamed over another."""
        self.below[name] = inode
        self.untold.add(name)

    @rule(name=names)
    def unlink(self, name: bytes) -> None:
        self.below.pop(name, None)

    @rule(inode=inodes, count=st.integers(0, 2))
    def elsewhere(self, inode: tuple[int, int], count: int) -> None:
        self.outside[inode] = count

    # -- what the index is told --------------------------------------------------------------------------------

    @rule(inode=inodes, missed=st.none() | names)
    def scan(self, inode: tuple[int, int], missed: bytes | None) -> None:
        """A scan; it may miss a name that is moved meanwhile."""
        found = self._names(inode) - {missed}
        if found:
            self.index.learn(inode, found, self._links(inode))
            self.untold -= found
            self.misled |= {inode} if missed in self._names(inode) else set()

    @rule(inode=inodes)
    def scan_in_peace(self, inode: tuple[int, int]) -> None:
        """After two whole scans the answer is known, if it fits in."""
        found = self._names(inode)
        if not found:
            return
        self.misled.discard(inode)
        self.untold -= found
        for _ in range(2):
            self.index.doubt(inode)
            self.index.learn(inode, found, self._links(inode))
        if len(found) <= self.limit and self.index.siblings(next(iter(found))) is not None:
            assert not self.index.unsure(inode)
            assert self.index.complete(inode, [min(found)], self._links(inode), self._lstat) == found

    @rule(inode=inodes, data=st.data())
    def ask(self, inode: tuple[int, int], data: st.DataObject) -> None:
        """With some names that were just seen."""
        real = self._names(inode)
        if not real:
            return
        seen = data.draw(st.sets(st.sampled_from(sorted(real)), min_size=1))
        answer = self.index.complete(inode, seen, self._links(inode), self._lstat)
        if answer is not None:
            self.untold -= seen
            assert seen <= answer <= real, "a name that is none"
            assert answer >= real - self.untold or self.outside[inode] or inode in self.misled, "a name is missing"

    @rule(inode=inodes)
    def ask_with_all(self, inode: tuple[int, int]) -> None:
        """Who sees all links needs no scan."""
        real = self._names(inode)
        self.index.forget(inode)
        if real and not self.outside[inode]:
            assert self.index.complete(inode, real, self._links(inode), self._lstat) == real

    @rule(name=names)
    def ask_siblings(self, name: bytes) -> None:
        found = self.index.siblings(name)
        if found is not None:
            assert name not in found[1]
            assert found[0] in INODES

    @invariant()
    def memory_is_bounded(self) -> None:
        held = [path for known in self.index._known.values() for path in known.paths | known.former]
        assert len(held) <= self.limit
        assert self.index._inodes.keys() <= set(held)

    def _names(self, inode: tuple[int, int]) -> frozenset[bytes]:
        return frozenset(name for name, there in self.below.items() if there == inode)

    def _links(self, inode: tuple[int, int]) -> int:
        return len(self._names(inode)) + self.outside[inode]

    def _lstat(self, path: bytes) -> Found | None:
        inode = self.below.get(path)
        return Found(*inode, self._links(inode)) if inode is not None else None


TestLinks = Links.TestCase
TestLinks.settings = examples(3)


def test_names_outside_are_believed_when_two_scans_agree() -> None:
    index = LinkIndex()
    index.learn((1, 1), [b"a"], 2)
    assert index.unsure((1, 1))
    index.doubt((1, 1))
    assert index.complete((1, 1), [b"a"], 2, lambda path: None) is None, "a doubted answer asks for a scan"
    index.learn((1, 1), [b"a"], 2)
    assert not index.unsure((1, 1))
    assert index.complete((1, 1), [b"a"], 2, lambda path: None) == frozenset([b"a"])


def test_a_former_name_leads_to_the_names_there_are() -> None:
    index = LinkIndex()
    index.learn((1, 1), [b"a", b"b"], 2)
    index.learn((1, 1), [b"b", b"c"], 2)
    assert index.siblings(b"a") == ((1, 1), frozenset([b"b", b"c"]))
    assert index.siblings(b"x") is None


def test_a_name_found_beside_names_outside_asks_for_a_scan() -> None:
    """One of the outside names may have moved below the root, or this one may be new."""
    index = LinkIndex()
    for _ in range(2):
        index.learn((1, 1), [b"a"], 2)
    assert index.complete((1, 1), [b"b"], 2, lambda path: None) is None


def test_a_name_that_stands_for_something_else_now_is_none() -> None:
    index = LinkIndex()
    index.learn((1, 1), [b"a", b"b"], 2)
    assert index.complete((1, 1), [b"b"], 2, lambda path: Found(1, 2, 1)) is None
    assert index.complete((1, 1), [b"b", b"c"], 2, lambda path: Found(1, 2, 1)) == frozenset([b"b", b"c"])
    every = [b"b", b"c", b"d"]
    assert index.complete((1, 1), every, 2, lambda path: None) == frozenset(every), "a mount shows names twice"


def test_names_that_pass_from_file_to_file_take_no_more_memory() -> None:
    index = LinkIndex(limit=10)
    for inode in range(100):
        index.learn((1, inode), [b"a", b"b"], 2)
    assert len(index._known) <= 5
    assert index.siblings(b"a") == ((1, 99), frozenset([b"b"]))


def test_the_least_recently_used_goes_first() -> None:
    index = LinkIndex(limit=4)
    index.learn((1, 1), [b"a", b"b"], 2)
    index.learn((1, 2), [b"c", b"d"], 2)
    assert index.complete((1, 1), [b"a", b"b"], 2, lambda path: None) == frozenset([b"a", b"b"])
    index.learn((1, 3), [b"e", b"f"], 2)
    assert index.siblings(b"a") is not None
    assert index.siblings(b"c") is None
