"""Renaming at a local destination: no symlink is followed, no file system is left, and nothing is lost."""

from __future__ import annotations

import os
import pickle
import stat
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from clsync.core.moves import Kind, Step
from clsync.core.paths import parent
from clsync.handler.base import Renamed
from clsync.kernel import roles
from clsync.kernel.files import DIRECTORY_FLAGS, open_beneath, open_straight
from clsync.kernel.process import spawn
from clsync.kernel.rename import exchange, rename_free
from clsync.kernel.sandbox import Sandbox

MADE: Final = b"m"
DONE: Final = b"d"
"""What the process says of a step that has made a directory, and of any other one."""
_PRIVATE: Final = 0o700


def rename_local(destination: bytes, steps: Sequence[Step], sandbox: Sandbox | None = None) -> Renamed:
    """Carry out steps below a directory, as the user who runs handlers, until one of them cannot be done.

    `sandbox`: what a process that does it can do besides.
    """
    try:
        with roles.as_programs():
            root = open_straight(destination, DIRECTORY_FLAGS)
    except OSError:
        return Renamed(0)
    try:
        made = _by_others(root, steps, sandbox) if roles.programs_are_others() else list(carried_out(root, steps))
    except OSError:
        return Renamed(0)  # no process can be started
    finally:
        os.close(root)
    return Renamed(len(made), frozenset(number for number, new in enumerate(made) if new))


def carried_out(root: int, steps: Iterable[Step]) -> Iterator[bool]:
    """Carry out steps below an open directory, until one cannot be done; of each, yield whether it made a directory."""
    renaming = _Renaming(root)
    for step in steps:
        try:
            made = renaming.do(step)
        except OSError:
            return
        yield made


def _by_others(root: int, steps: Sequence[Step], sandbox: Sandbox | None) -> list[bool]:
    """Have it done by a process (see `handler.renamer`). Raises OSError where none can be started."""
    argv = [os.fsencode(sys.executable), b"-I", b"-m", b"clsync.handler.renamer"]
    with spawn(argv, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        answer, _ = child.communicate(pickle.dumps((list(steps), sandbox)))
    return [byte == MADE[0] for byte in answer]


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
