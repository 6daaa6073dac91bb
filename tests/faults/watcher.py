"""Reads the files of `contents` at a destination all the time, and says where one is not whole, gone or older again.

    python -m tests.faults.watcher DIRECTORY

It ends with its standard input; the last line is the number of contents that it has read.
"""

from __future__ import annotations

import errno
import os
import random
import select
import sys
from pathlib import Path

from tests.faults.contents import FILES, Torn, version_of

_AWAY = {errno.EACCES, errno.EIO, errno.ENOTCONN, errno.EPERM}
"""The whole destination cannot be read at the moment."""


class Watcher:
    """Remembers what it has seen of each file."""

    def __init__(self, top: Path) -> None:
        self._top = top
        self._versions: dict[str, int] = {}
        self._seen: dict[str, tuple[int, ...]] = {}
        self.reads = 0

    def look(self, name: str, *, anyway: bool = False) -> str:
        """Look at a file, if it is another one than before or `anyway`; return what is wrong."""
        try:
            with open(self._top / name, "rb") as file:
                found = os.fstat(file.fileno())
                stamp = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
                if not anyway and self._seen.get(name) == stamp:
                    return ""
                version = version_of(name, file.read())
        except FileNotFoundError:
            return f"{name}: it is gone" if name in self._versions else ""
        except OSError as error:
            return "" if error.errno in _AWAY else f"{name}: {error}"
        except Torn as error:
            return str(error)
        self.reads += 1
        before = self._versions.get(name, 0)
        self._versions[name], self._seen[name] = version, stamp
        return f"{name}: version {version} after version {before}" if version < before else ""


def watch(top: Path) -> None:
    """Look until standard input ends."""
    watcher = Watcher(top)
    while not select.select([sys.stdin], [], [], 0.003)[0]:
        extra = random.choice(FILES)
        for name in FILES:
            if wrong := watcher.look(name, anyway=name == extra):
                print(wrong, flush=True)
    print(watcher.reads, flush=True)


if __name__ == "__main__":
    watch(Path(sys.argv[1]))
