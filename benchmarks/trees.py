"""Trees to watch: their shape is arithmetic, so no list of them is kept, and two processes build them."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.workers import Workers

OLD = 1_600_000_000
"""Modification time of what was built, seconds: any later write is newer."""
_INODE = 1300
"""Bytes of memory an empty file of a tmpfs takes (inode, name, directory offset), rounded up."""
_PAGE = 4096
_BUILDERS = 2


class Shape(NamedTuple):
    """`directories` (the root among them) in a tree of `fanout` children each, `files` in every one."""

    directories: int
    files: int = 16
    fanout: int = 16
    size: int = 0
    """Bytes of content of each file."""

    @property
    def file_count(self) -> int:
        """All files."""
        return self.directories * self.files

    @property
    def objects(self) -> int:
        """All files and directories."""
        return self.directories * (self.files + 1)

    @property
    def memory(self) -> int:
        """Bytes it takes in a tmpfs, roughly."""
        pages = -(-self.size // _PAGE)
        return self.objects * _INODE + self.file_count * pages * _PAGE

    def directory_paths(self) -> list[str]:
        """Return all directories relative to the root (`.`), parents before children."""
        paths = ["."]
        for number in range(1, self.directories):
            paths.append(f"{paths[(number - 1) // self.fanout]}/d{number:x}")
        return [path[2:] if path != "." else path for path in paths]

    def file_paths(self) -> Iterator[str]:
        """Yield all files relative to the root."""
        for directory in self.directory_paths():
            for number in range(self.files):
                yield f"{directory}/f{number}" if directory != "." else f"f{number}"


def build(root: Path, shape: Shape) -> None:
    """Make the tree in the empty directory `root`; 4.8 million objects take about 20 s."""
    directories = shape.directory_paths()
    here = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for path in directories[1:]:
            os.mkdir(path, 0o755, dir_fd=here)
    finally:
        os.close(here)
    with Workers([_builder(root, shape, directories[part::_BUILDERS]) for part in range(_BUILDERS)]) as workers:
        workers.go()
        workers.wait()


def _builder(root: Path, shape: Shape, directories: list[str]) -> Callable[[], None]:
    names = [f"f{number}" for number in range(shape.files)]
    content = bytes(65 + i % 26 for i in range(shape.size))

    def work() -> None:
        os.chdir(root)
        # Deepest first: a directory gets its old time when nothing is made in it any more.
        for path in reversed(directories):
            directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            for name in names:
                if content:
                    _write(name, content, directory)
                else:
                    os.mknod(name, stat.S_IFREG | 0o644, dir_fd=directory)
            if content:
                os.utime(directory, (OLD, OLD))
            os.close(directory)

    return work


def _write(name: str, content: bytes, directory: int) -> None:
    file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=directory)
    os.write(file, content)
    os.utime(file, (OLD, OLD))
    os.close(file)


def rewriter(root: Path, paths: list[str], passes: int) -> Callable[[], None]:
    """Return the work of one writer: rewrite all `paths` in place, `passes` times, as fast as it goes."""

    def work() -> None:
        os.chdir(root)
        for number in range(passes):
            content = b"pass %d\n" % number
            for path in paths:
                file = os.open(path, os.O_WRONLY)
                os.pwrite(file, content, 0)
                os.close(file)

    return work
