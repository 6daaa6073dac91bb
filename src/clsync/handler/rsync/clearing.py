"""Deleting at a local destination: exactly what may go. rsync takes what rules protect along, if it was not told of it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable

from clsync.core.paths import is_below, parent
from clsync.handler.base import PathRules
from clsync.handler.removal import Removal
from clsync.kernel.files import DIRECTORY_FLAGS, GONE, open_beneath


class Stopped(Exception):
    """The work is to end now."""


class Clearing:
    """Removes paths, with all below them that may go."""

    def __init__(self, root: int, rules: PathRules, spared: Iterable[bytes], stopping: Callable[[], bool]) -> None:
        """`root`: the destination, open; `spared`: directories that stay whatever rules say.

        `stopping` tells whether the work is to end.
        """
        self.rules: PathRules = _Sparing(rules, frozenset(spared))
        self.failed: dict[bytes, str] = {}
        """What could not be removed -> why."""
        self._root, self._stopping = root, stopping
        self._removal = Removal(self, self._opened)

    def _opened(self, path: bytes) -> int:
        return open_beneath(self._root, path, DIRECTORY_FLAGS)

    def pause(self) -> None:
        """Raise Stopped where the work is to end."""
        if self._stopping():
            raise Stopped

    def blame(self, path: bytes, error: OSError) -> None:
        """Note that a path cannot be removed."""
        self.failed[path] = f"cannot be removed at the destination: {error.strerror}"

    def clear(self, paths: Iterable[bytes]) -> None:
        """Remove what stands at some paths. Raises Stopped."""
        for path in paths:
            self.pause()
            self._clear(path)

    def _clear(self, path: bytes) -> None:
        try:
            directory = self._opened(parent(path))
        except OSError as error:
            if error.errno not in GONE:
                self.blame(path, error)
            return
        try:
            found = os.lstat(path.rpartition(b"/")[2], dir_fd=directory)
            self._removal.remove(path, directory, stat.S_ISDIR(found.st_mode), False)
        except FileNotFoundError:
            pass
        except OSError as error:
            self.blame(path, error)
        finally:
            os.close(directory)


class _Sparing:
    """Rules, and directories that stay."""

    def __init__(self, rules: PathRules, spared: frozenset[bytes]) -> None:
        self._rules, self._spared = rules, spared

    def permits(self, path: bytes, is_dir: bool) -> bool:
        return path not in self._spared and self._rules.permits(path, is_dir)

    def reaches(self, directory: bytes) -> bool:
        return directory not in self._spared and self._rules.reaches(directory)

    def recursion_is_free(self, path: bytes) -> bool:
        if any(spared == path or is_below(spared, path) for spared in self._spared):
            return False
        return self._rules.recursion_is_free(path)
