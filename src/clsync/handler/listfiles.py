"""The list files of clsync 0.4: written for one run, removed after it."""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Iterable
from functools import partial

from clsync.kernel import roles

INCLUDE, EXCLUDE = b".clsync-list", b".clsync-exclist"


class ListFiles:
    """Writes list files into a directory of the operator's, else into a private one that is made when needed."""

    def __init__(self, directory: bytes | None = None, keep: bool = False) -> None:
        """`keep`: they are not removed."""
        self._given = self._directory = directory
        self._keep = keep

    def write(self, kind: bytes, text: bytes) -> bytes:
        """Write a list; return its path. Raises OSError."""
        return roles.by_somebody(lambda: self._write(kind, text))

    def _write(self, kind: bytes, text: bytes) -> bytes:
        if self._directory is None:
            self._directory = os.fsencode(tempfile.mkdtemp(prefix="clsync-"))
        name = b"%s.%d.0.%d.%d" % (kind, os.getpid(), int(time.time()), random.getrandbits(31))
        path = os.path.join(self._directory, name)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(text)
        except OSError:
            os.unlink(path)
            raise
        return path

    def write_both(self, included: bytes, excluded: bytes) -> list[bytes]:
        """Write the two lists of rsync; return their paths. Raises OSError, and then neither is left."""
        include = self.write(INCLUDE, included)
        try:
            return [include, self.write(EXCLUDE, excluded)]
        except OSError:
            os.unlink(include)
            raise

    def drop(self, names: Iterable[bytes]) -> None:
        """Remove lists that were used. Raises OSError."""
        if not self._keep:
            for name in names:
                roles.by_somebody(partial(os.unlink, name))

    def close(self) -> None:
        """Remove the private directory."""
        if self._directory is not None and self._directory != self._given:
            try:
                roles.by_somebody(partial(os.rmdir, self._directory))
            except OSError:
                pass  # lists that were to be kept are in it
