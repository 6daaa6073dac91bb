"""The pid file and the status file: a word each, removed at the end."""

from __future__ import annotations

import os

from clsync.core.paths import shown
from clsync.errors import Exit, OperatorError


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
        try:
            with open(self._path, "w", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise OperatorError(
                f"--{self._option} {shown(self._path)}: {error.strerror}",
                "name a file in a directory that exists and may be written",
                Exit.FILES,
            ) from None

    def remove(self) -> None:
        """Remove the file; empty it where that is forbidden."""
        if self._path is None:
            return
        try:
            os.unlink(self._path)
        except OSError:
            try:
                os.truncate(self._path, 0)
            except OSError:
                pass
