"""Where watched directories stand: a tree of inotify watches that takes little memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

_LEFT_LIMIT = 20_000
"""Directories noted in one go."""


class WatchTree:
    """Watch descriptor -> (watch of the parent, name). Flat arrays: 100 bytes less a directory than tuples."""

    def __init__(self) -> None:
        self._parents = array("i")
        self._names: list[bytes | None] = []
        self._later: dict[int, tuple[int, bytes]] = {}
        self._dense = True
        self.count = 0
        self.version = 0
        """Grows whenever a directory may stand elsewhere than before."""
        self.newest = 0
        """The largest watch descriptor so far: the kernel counts upwards."""
        self.left: dict[int, tuple[int, bytes, float]] = {}
        """Watch of a directory that stands elsewhere now, or is gone -> where it stood first, `clock`.

        Emptied by the reader.
        """
        self.clock = 0.0
        """Set by the reader."""

    def put(self, watch: int, parent: int, name: bytes) -> bool:
        """Note where a watched directory stands; tell whether it was not known."""
        self.version += 1
        self.newest = max(self.newest, watch)
        if watch == len(self._names) and self._dense:
            self.count += 1
            self._parents.append(parent)
            self._names.append(name)
            return True
        fresh = watch not in self
        if not fresh and self._place(watch) != (parent, name) and len(self.left) < _LEFT_LIMIT:
            self.left.setdefault(watch, (*self._place(watch), self.clock))
        self.count += fresh
        if watch < len(self._names):
            self._parents[watch], self._names[watch] = parent, name
        elif self._dense and watch < len(self._names) + 16:
            while len(self._names) < watch:
                self._parents.append(0)
                self._names.append(None)
            self._parents.append(parent)
            self._names.append(name)
        else:
            self._later[watch] = parent, name
        return fresh

    def settle(self) -> None:
        """End the dense part: watch descriptors are never used again, so what comes later is kept apart."""
        self._dense = False

    def drop(self, watch: int) -> None:
        """Forget a watch."""
        if watch not in self:
            return
        self.count -= 1
        self.version += 1
        if self.left and len(self.left) < _LEFT_LIMIT:
            self.left.setdefault(watch, (*self._place(watch), self.clock))
        if watch < len(self._names):
            self._names[watch] = None
        else:
            del self._later[watch]

    def _place(self, watch: int) -> tuple[int, bytes]:
        """Return what was `put` of a known watch."""
        if watch < len(self._names):
            return self._parents[watch], self._names[watch] or b""
        return self._later[watch]

    def __contains__(self, watch: int) -> bool:
        """Tell whether a watch is known."""
        if 0 <= watch < len(self._names):
            return self._names[watch] is not None
        return watch in self._later

    def __iter__(self) -> Iterator[int]:
        """Yield all watches."""
        yield from (watch for watch, name in enumerate(self._names) if name is not None)
        yield from list(self._later)

    def parent(self, watch: int) -> int:
        """Return the watch of the parent; 0 above the top."""
        return self._parents[watch] if watch < len(self._names) else self._later[watch][0]

    def path(self, watch: int) -> bytes | None:
        """Return the path of a watched directory below the top; None where it hangs on nothing."""
        parts: list[bytes] = []
        while watch:
            if watch not in self or len(parts) > 4096:
                return None
            name = self._names[watch] if watch < len(self._names) else self._later[watch][1]
            parts.append(name or b"")
            watch = self.parent(watch)
        return b"/".join(filter(None, reversed(parts)))
