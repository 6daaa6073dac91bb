"""Barriers: what has arrived, by whatever name it was handed over."""

from __future__ import annotations

from clsync.core.barrier import Barrier
from clsync.core.changes import CONTENT, NAME
from clsync.core.dirty import DirtySet


def test_a_path_arrives_with_a_directory_above_it_that_came_meanwhile() -> None:
    dirty = DirtySet()
    dirty.add([(b"a/file", CONTENT)], 0.0)
    before = dirty.take()
    barrier = Barrier(dirty, 1.0)
    dirty.add([(b"a", NAME)], 1.0)
    dirty.settle(before, before, {})
    barrier.note(before, 0.5, {}, (), dirty)
    assert barrier.left == {b"a/file"}
    later = dirty.take()
    dirty.settle(later, later, {})
    barrier.note(later, 2.0, {}, (), dirty)
    assert barrier.over
