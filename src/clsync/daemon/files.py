"""The pid file and the status file: a word each, removed at the end."""

from __future__ import annotations

import os

from clsync.core.paths import shown
from clsync.errors import Exit, OperatorError
from clsync.kernel import roles


class SmallFile:
    """A file with one word in it."""

    def __init__(self, path: bytes | None, option: str) -> None:
        """`path` None: there is no such file, and nothing is done."""
        self._path = os.path.abspath(path) if path is not None else None
        self._option = option

    def write(self, text: str) -> None:
        """Replace the content. Raises OperatorError."""
        if self._path is None:
            return
        path = self._path

        def write() -> None:
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)

        try:
            roles.by_somebody(write)
        except OSError as error:
            raise OperatorError(
                f"--{self._option} {shown(self._path)}: {error.strerror}",
                "name a file in a directory that exists and may be written",
                Exit.FILES,
            ) from None

    def give_away(self) -> None:
        """Give the file to who clsync is about to become. Raises OperatorError."""
        if self._path is None:
            return
        own = roles.own_ids()
        try:
            os.chown(self._path, own.uid, own.gid, follow_symlinks=False)
        except OSError as error:
            raise OperatorError(
                f"--{self._option} {shown(self._path)} cannot be given to user {own.uid}: {error.strerror}",
                "name a file on a file system that keeps owners",
                Exit.FILES,
            ) from None

    def remove(self) -> None:
        """Remove the file; empty it where that is forbidden."""
        path = self._path
        if path is None:
            return
        for act in (lambda: os.unlink(path), lambda: os.truncate(path, 0)):
            try:
                roles.by_somebody(act)
            except OSError:
                continue
            return
