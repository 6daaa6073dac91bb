"""Removing directories at the destination: any depth, no symlink followed, what rules protect stays."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Final, Protocol

from clsync.core.paths import join
from clsync.handler.base import PathRules

_CODEC: Final = sys.getfilesystemencoding()


def listing(directory: int) -> list[tuple[bytes, bool, bool]]:
    """Return (name, is a directory, is a regular file) of all in an open directory. Raises OSError."""
    with os.scandir(directory) as entries:
        return [
            (
                entry.name.encode(_CODEC, "surrogateescape"),
                entry.is_dir(follow_symlinks=False),
                entry.is_file(follow_symlinks=False),
            )
            for entry in entries
        ]


class Context(Protocol):
    """Who removes, and what is to be left alone."""

    @property
    def rules(self) -> PathRules | None: ...

    def pause(self) -> None:
        """Rest where others wait; raise where the work is to end."""
        ...

    def blame(self, path: bytes, error: OSError) -> None:
        """Note that a path cannot be removed; raise where that ends the work."""
        ...


class Removal:
    """Empties directories. Memory: the names of the directories on the way down."""

    def __init__(self, context: Context, open_directory: Callable[[bytes], int]) -> None:
        """`open_directory` opens a directory of the destination so that it can be changed. Raises OSError."""
        self._context, self._rules, self._open = context, context.rules, open_directory

    def remove(self, path: bytes, directory: int, is_dir: bool, free: bool) -> bool:
        """Remove what stands at a path, but what rules protect; tell whether all of it is gone. Raises OSError.

        `directory`: the one that holds it, open. `free`: rules need not be asked.
        """
        rules, name = self._rules, path.rpartition(b"/")[2]
        if not free and rules is not None and not rules.permits(path, is_dir):
            if is_dir and rules.reaches(path):
                self.empty(path, free)
            return False
        try:
            if not is_dir:
                os.unlink(name, dir_fd=directory)
            elif self.empty(path, free):
                os.rmdir(name, dir_fd=directory)
            else:
                return False
        except FileNotFoundError:
            pass
        return True

    def count(self, path: bytes, is_dir: bool, free: bool) -> int:
        """Return how many entries `remove` would remove. Raises OSError."""
        rules, count, pending = self._rules, 0, [(path, is_dir)]
        while pending:
            path, is_dir = pending.pop()
            permitted = free or rules is None or rules.permits(path, is_dir)
            count += permitted
            if is_dir and (permitted or (rules is not None and rules.reaches(path))):
                self._context.pause()
                pending += [(join(path, name), below) for name, below, _ in self._listed(path)]
        return count

    def _listed(self, path: bytes) -> list[tuple[bytes, bool, bool]]:
        try:
            directory = self._open(path)
        except FileNotFoundError:
            return []
        try:
            return listing(directory)
        finally:
            os.close(directory)

    def empty(self, top: bytes, free: bool) -> bool:
        """Remove what is in a directory; tell whether nothing is left. Failures are noted. Raises what `Context` does.

        `free`: rules need not be asked.
        """
        free = free or self._rules is None or self._rules.recursion_is_free(top)
        kept: set[bytes] = set()
        stack: list[tuple[bytes, list[bytes] | None]] = [(top, None)]
        while stack:
            path, emptied = stack.pop()
            self._context.pause()
            try:
                directory = self._open(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                self._keep(kept, path, error)
                continue
            try:
                if emptied is None:
                    below = self._enter(path, directory, free, kept)
                    if below:
                        stack.append((path, below))
                        stack.extend((join(path, name), None) for name in below)
                else:
                    self._leave(path, directory, emptied, kept)
            except OSError as error:
                self._keep(kept, path, error)
            finally:
                os.close(directory)
        return top not in kept

    def _enter(self, path: bytes, directory: int, free: bool, kept: set[bytes]) -> list[bytes]:
        """Remove what is no directory; return the directories to be emptied."""
        rules, below = self._rules, []
        for name, is_dir, _ in listing(directory):
            if not free and rules is not None and not rules.permits(join(path, name), is_dir):
                kept.add(path)
                if is_dir and rules.reaches(join(path, name)):
                    kept.add(join(path, name))  # it stays, and what it holds may go
                    below.append(name)
            elif is_dir:
                below.append(name)
            else:
                self._context.pause()
                self._try(os.unlink, path, directory, name, kept)
        return below

    def _leave(self, path: bytes, directory: int, emptied: list[bytes], kept: set[bytes]) -> None:
        for name in emptied:
            if join(path, name) in kept:
                kept.discard(join(path, name))
                kept.add(path)
            else:
                self._try(os.rmdir, path, directory, name, kept)

    def _try(self, act: Callable[..., None], path: bytes, directory: int, name: bytes, kept: set[bytes]) -> None:
        try:
            act(name, dir_fd=directory)
        except FileNotFoundError:
            pass
        except OSError as error:
            kept.add(path)
            self._context.blame(join(path, name), error)

    def _keep(self, kept: set[bytes], path: bytes, error: OSError) -> None:
        kept.add(path)
        self._context.blame(path, error)
