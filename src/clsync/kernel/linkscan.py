"""The other names of hard-linked files: one walk by d_ino, without a stat per entry, in a process of its own.

Run as `python -I -m clsync.kernel.linkscan [--stat | --all NS]` in the watched root. Standard input: `device inode
links`, one file a line (0 links: not known); with `--all` nothing: a catalogue is wanted. Standard output: `device
inode links path NUL` for every name found. Memory: what is wanted, and one directory. `--stat` is for file systems
whose d_ino is not the st_ino (some overlays). Who asks is not trusted: there is a limit to what can be wanted.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Final

from clsync.core.paths import join
from clsync.kernel.mounts import devices_shown_twice
from clsync.kernel.walk import list_directory, lstat_below, walk

Inode = tuple[int, int]
YOUNG: Final = (0, 0)
"""In place of an inode: the file was changed lately."""
MOST_WANTED: Final = 100_000
"""Files of one search."""
_LONGEST_LINE: Final = 3 * 21
"""Bytes: three numbers of 64 bits."""


def names_of(root: int, wanted: dict[Inode, int], by_stat: bool = False) -> Iterator[tuple[Inode, int, bytes]]:
    """Yield (device and inode, links, path) for every name of a wanted file below the directory descriptor `root`.

    `wanted` maps (device, inode) to the number of links; the walk ends early when all of them are found, unless a
    file system is seen twice: then there are more.
    """
    look = lstat_below(root)
    inodes = {inode for _, inode in wanted}
    expected = {inode: max(links, 1) for inode, links in wanted.items()}
    left = sum(expected.values())
    again = bool(devices_shown_twice(root))
    pending = [b""]
    while pending and (left > 0 or again):
        directory = pending.pop()
        try:
            entries = list_directory(root, directory)
        except OSError:
            continue  # not ours to read: then no handler of ours can read it either
        for entry in entries:
            path = join(directory, entry.name)
            if entry.is_dir(follow_symlinks=False):
                pending.append(path)
            elif by_stat or entry.inode() in inodes:
                found = look(path)
                inode = (found.st_dev, found.st_ino) if found is not None else YOUNG
                if found is not None and inode in wanted:
                    # It may have got or lost names since it was wanted.
                    left += found.st_nlink - expected.pop(inode, found.st_nlink) - 1
                    yield inode, found.st_nlink, path


def catalogue(root: int, young_ns: int, limit: int) -> Iterator[tuple[Inode, int, bytes]]:
    """Yield (device and inode, links, path) for names of files with several, at most `limit` of them.

    And (`YOUNG`, 0, path) for regular files whose status has changed since `young_ns` (wall clock).
    """
    for path, found in walk(root, b""):
        if stat.S_ISDIR(found.st_mode):
            continue
        if found.st_nlink > 1 and limit > 0:
            limit -= 1
            yield (found.st_dev, found.st_ino), found.st_nlink, path
        if found.st_ctime_ns >= young_ns and stat.S_ISREG(found.st_mode):
            yield YOUNG, 0, path


def scanned(root: int, options: Sequence[bytes], wishes: BinaryIO) -> Iterator[tuple[Inode, int, bytes]]:
    """Yield what the options ask for, and the lines in `wishes` (see above).

    Raises OSError: EINVAL where a line is none, E2BIG where more is wanted than there can be.
    """
    if options[:1] == [b"--all"]:
        yield from catalogue(root, int(options[1]), 100_000)
        return
    yield from names_of(root, _wanted(wishes), b"--stat" in options)


def _wanted(wishes: BinaryIO) -> dict[Inode, int]:
    wanted: dict[Inode, int] = {}
    while line := wishes.readline(_LONGEST_LINE):
        try:
            device, inode, links = map(int, line.split())
        except ValueError:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL)) from None
        wanted[device, inode] = links
        if len(wanted) > MOST_WANTED:
            raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
    return wanted


def main() -> int:
    """Read what is wanted, write what is found; return the exit code."""
    try:
        _answer()
    except OSError as error:
        if error.errno != errno.EPIPE:  # else nobody is there any more, and that is no news
            sys.stderr.write(f"clsync: the search for names: {error.strerror}\n")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python writes what is left at the end
        return 1
    return 0


def _answer() -> None:
    options = [os.fsencode(argument) for argument in sys.argv[1:]]
    if options[:1] == [b"--all"]:
        os.nice(10)
    root = os.open(b".", os.O_RDONLY | os.O_DIRECTORY)
    out = sys.stdout.buffer
    try:
        for (device, inode), links, path in scanned(root, options, sys.stdin.buffer):
            out.write(b"%d %d %d %s\0" % (device, inode, links, path))
        out.flush()
    except BrokenPipeError:  # who has asked was killed
        os._exit(1)  # not by exit(): that would try to write the rest


if __name__ == "__main__":
    sys.exit(main())
