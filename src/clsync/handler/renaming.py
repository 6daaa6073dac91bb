"""Renaming at a local destination: no symlink is followed, no file system is left, and nothing is lost."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from clsync.core.moves import Kind, Step
from clsync.core.paths import parent
from clsync.handler.base import Renamed
from clsync.kernel import roles
from clsync.kernel.files import DIRECTORY_FLAGS, open_beneath, opened
from clsync.kernel.rename import exchange, rename_free

_PRIVATE = 0o700


def rename_local(destination: bytes, steps: Sequence[Step]) -> Renamed:
    """Carry out steps below a directory, until one of them cannot be done."""
    if roles.programs_are_others():
        return Renamed(0)  # it would be done with rights that they do not have
    made: set[int] = set()
    try:
        with opened(destination) as root:
            renaming = _Renaming(root)
            for number, step in enumerate(steps):
                try:
                    if renaming.do(step):
                        made.add(number)
                except OSError:
                    return Renamed(number, frozenset(made))
    except OSError:
        return Renamed(0)
    return Renamed(len(steps), frozenset(made))


class _Renaming:
    """Changes names below an open directory. Everything here raises OSError."""

    def __init__(self, root: int) -> None:
        self._root, self._device = root, os.fstat(root).st_dev

    def do(self, step: Step) -> bool:
        """Carry out one step; tell whether a directory was made."""
        with self._opened(parent(step.target)) as there:
            name = step.target.rpartition(b"/")[2]
            if step.kind is Kind.MAKE:
                return self._make(there, name)
            with self._opened(parent(step.source)) as here:
                source = step.source.rpartition(b"/")[2]
                self._demand(here, source, step.is_dir)
                if step.kind is Kind.SWAP:
                    exchange(here, source, there, name)
                else:
                    self._move(here, source, there, name, step.is_dir)
        return False

    @contextmanager
    def _opened(self, path: bytes) -> Iterator[int]:
        directory = open_beneath(self._root, path, DIRECTORY_FLAGS)
        try:
            if os.fstat(directory).st_dev != self._device:
                raise OSError(f"{os.fsdecode(path)} is on another file system")
            yield directory
        finally:
            os.close(directory)

    def _demand(self, directory: int, name: bytes, is_dir: bool) -> None:
        """See that the thing expected stands there: a directory, or a regular file."""
        found = os.lstat(name, dir_fd=directory)
        kind = stat.S_ISDIR if is_dir else stat.S_ISREG
        if not kind(found.st_mode) or found.st_dev != self._device:
            raise OSError(f"{os.fsdecode(name)} is something else")

    def _make(self, directory: int, name: bytes) -> bool:
        try:
            os.mkdir(name, _PRIVATE, dir_fd=directory)
        except FileExistsError:
            self._demand(directory, name, is_dir=True)
            return False
        return True

    def _move(self, here: int, source: bytes, there: int, name: bytes, is_dir: bool) -> None:
        try:
            rename_free(here, source, there, name)
        except FileExistsError:
            if is_dir or stat.S_ISDIR(os.lstat(name, dir_fd=there).st_mode):
                # What stood there is for the batch to remove: from the name that has become free.
                exchange(here, source, there, name)
            else:
                os.rename(source, name, src_dir_fd=here, dst_dir_fd=there)
