"""What was handed over as a directory: of what is gone, nothing else tells what it was."""

from __future__ import annotations

from typing import Any

from clsync.handler.plugin.layout import DIRECTORY, FILE, UNKNOWN

_Tree = dict[bytes, Any]
"""Name -> tree of the directories below."""


class Directories:
    """Remembers directories, up to a limit; above it nothing is known until all are told again."""

    def __init__(self, limit: int = 200_000) -> None:
        """`limit`: most directories that are remembered."""
        self._limit = limit
        self._tree: _Tree = {}
        self._count = 0
        self._complete = False

    def begin(self, complete: bool) -> None:
        """Forget all; `complete`: all that there are will be told now."""
        self._tree, self._count, self._complete = {}, 0, complete

    def was(self, path: bytes) -> int:
        """Return what stood where nothing does now (`layout`)."""
        if path in self:
            return DIRECTORY
        return FILE if self._complete else UNKNOWN

    def __contains__(self, path: bytes) -> bool:
        node: _Tree | None = self._tree
        for name in path.split(b"/"):
            node = node.get(name) if node is not None else None
        return node is not None

    def add(self, path: bytes) -> None:
        """Remember a directory, and those above it."""
        node = self._tree
        for name in path.split(b"/"):
            if name not in node:
                node[name] = {}
                self._count += 1
            node = node[name]
        if self._count > self._limit:
            self.begin(complete=False)

    def drop(self, path: bytes) -> None:
        """Forget a directory with all that was below."""
        *above, last = path.split(b"/")
        node = self._tree
        for name in above:
            node = node.get(name, {})
        if last in node:
            self._count -= _size(node.pop(last))


class Learned:
    """What a batch tells of directories; it counts when the batch is confirmed."""

    def __init__(self, known: Directories, everything: bool) -> None:
        """`everything`: the batch names all directories there are."""
        self._known, self._everything = known, everything
        self._changes: list[tuple[bytes, bool]] = []

    def note(self, path: bytes, is_directory: bool) -> None:
        """Take what stands at a path, if it is new."""
        if path and is_directory != (not self._everything and path in self._known):
            self._changes.append((path, is_directory))

    def confirm(self) -> None:
        """Remember it."""
        if self._everything:
            self._known.begin(complete=True)
        for path, is_directory in self._changes:
            if is_directory:
                self._known.add(path)
            else:
                self._known.drop(path)


def _size(tree: _Tree) -> int:
    """Return how many directories a tree has, itself included."""
    count, pending = 0, [tree]
    while pending:
        count += 1
        pending += pending.pop().values()
    return count
