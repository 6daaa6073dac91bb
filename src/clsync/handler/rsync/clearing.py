"""Deleting at a local destination: exactly what may go. rsync takes what rules protect along, if it was not told of it."""

from __future__ import annotations

import os
import pickle
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

from clsync.core.paths import is_below, parent, shown
from clsync.handler.base import PathRules
from clsync.handler.removal import Removal
from clsync.kernel import roles
from clsync.kernel.files import DIRECTORY_FLAGS, GONE, open_beneath
from clsync.kernel.process import exit_text, signal_group, spawn
from clsync.kernel.sandbox import Sandbox

_TICK: Final = 0.1
"""Seconds between two looks whether the work is to end."""


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


def clear(
    paths: Iterable[bytes],
    root: int,
    rules: PathRules,
    spared: Iterable[bytes],
    stopping: Callable[[], bool],
    sandbox: Sandbox | None = None,
) -> dict[bytes, str]:
    """Remove paths, until `stopping`, as the user who runs handlers; return those that failed, with reasons.

    Arguments are those of `Clearing`; `sandbox`: what a process that does it can do besides.
    Raises OSError where no process can be started for that.
    """
    if roles.programs_are_others():
        return _cleared_by_others(root, (list(paths), rules, list(spared), sandbox), stopping)
    clearing = Clearing(root, rules, spared, stopping)
    with suppress(Stopped):
        clearing.clear(paths)
    return clearing.failed


def _cleared_by_others(
    root: int, work: tuple[list[bytes], PathRules, list[bytes], Sandbox | None], stopping: Callable[[], bool]
) -> dict[bytes, str]:
    argv = [os.fsencode(sys.executable), b"-I", b"-m", b"clsync.handler.rsync.cleaner"]
    with spawn(argv, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        text: bytes | None = pickle.dumps(work)
        while True:
            try:
                answer, _ = child.communicate(text, timeout=_TICK)
                break
            except subprocess.TimeoutExpired:
                text = None  # it is being written
                if stopping():
                    signal_group(child.pid, signal.SIGKILL)
    if child.returncode:
        why = "stopped" if stopping() else f"the process that deletes has ended ({exit_text(child.returncode)})"
        return dict.fromkeys(work[0], why)
    words = answer.split(b"\0")[:-1]
    return {path: shown(why) for path, why in zip(words[::2], words[1::2], strict=False)}


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
