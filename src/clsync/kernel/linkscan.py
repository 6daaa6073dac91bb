"""The other names of hard-linked files: one walk by d_ino, without a stat per entry, in a process of its own.

Run by `main`, with `[--sandbox FD] [--stat | --all NS]` as arguments, in the watched root. Standard input:
`device inode links`, one file a line (0 links: not known); with `--all` nothing: a catalogue is wanted. Standard output:
`device inode links path NUL` for every name found. Memory: what is wanted, and one directory. `--stat` is for file
systems whose d_ino is not the st_ino (some overlays). Who asks is not trusted: there is a limit to what can be wanted,
and the process enters the sandbox that who starts it has put into the file FD, before it reads anything else.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import BinaryIO, Final

from clsync.core.paths import join
from clsync.core.stamps import is_settled
from clsync.kernel.mounts import devices_shown_twice
from clsync.kernel.walk import list_directory, lstat_below, walk

Inode = tuple[int, int]
YOUNG: Final = (0, 0)
"""In place of an inode: the file was changed lately."""
MOST_WANTED: Final = 100_000
"""Files of one search."""
_LONGEST_LINE: Final = 3 * 21
"""Bytes: three numbers of 64 bits."""


def names_of(root: int, wanted: dict[Inode, int], again: bool, by_stat: bool) -> Iterator[tuple[Inode, int, bytes]]:
    """Yield (device and inode, links, path) for every name of a wanted file below the directory descriptor `root`.

    `wanted` maps (device, inode) to the number of links; the walk ends early when all of them are found, unless a
    file system is seen `again`: then there are more.
    """
    look = lstat_below(root)
    inodes = {inode for _, inode in wanted}
    expected = {inode: max(links, 1) for inode, links in wanted.items()}
    left = sum(expected.values())
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
        if stat.S_ISREG(found.st_mode) and not is_settled(found.st_ctime_ns, young_ns):
            yield YOUNG, 0, path


def scanned(
    root: int, options: Sequence[bytes], wishes: BinaryIO, confine: Callable[[], None] = lambda: None
) -> Iterator[tuple[Inode, int, bytes]]:
    """Yield what the options ask for, and the lines in `wishes` (see above).

    From `confine` on only the tree and `wishes` are looked at. Raises what it raises, and OSError: EINVAL where a line is
    none, E2BIG where more is wanted than there can be.
    """
    if options[:1] == [b"--all"]:
        confine()
        yield from catalogue(root, int(options[1]), 100_000)
        return
    again = bool(devices_shown_twice(root))
    confine()
    yield from names_of(root, _wanted(wishes), again, b"--stat" in options)


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


def main() -> None:
    """Read what is wanted, write what is found. The exit code is 1 where that fails."""
    try:
        _answer()
    except OSError as error:
        if error.errno != errno.EPIPE:  # else who has asked is gone, and that is no news
            sys.stderr.write(f"clsync: the search for names: {error.strerror}\n")
        os._exit(1)  # not by exit(): that would try to write the rest


def _answer() -> None:
    options = [os.fsencode(argument) for argument in sys.argv[1:]]
    root = os.open(b".", os.O_RDONLY | os.O_DIRECTORY)
    order = None
    if options[:1] == [b"--sandbox"]:
        order = int(options[1])
        del options[:2]
    if options[:1] == [b"--all"]:
        os.nice(10)
    out = sys.stdout.buffer
    for (device, inode), links, path in scanned(root, options, sys.stdin.buffer, partial(_confine, root, order)):
        out.write(b"%d %d %d %s\0" % (device, inode, links, path))
    out.flush()


def _confine(root: int, order: int | None) -> None:
    """Enter the sandbox that the file `order` tells, if there is one. Directories at and below `root` can be read in it.

    Raises OSError.
    """
    if order is None:
        return
    import pickle  # late, as all that only a sandbox takes

    from clsync.kernel.landlock import READ_DIR, Allowed
    from clsync.kernel.sandbox import Sandbox, stay_within

    with open(order, "rb") as file:
        sandbox: Sandbox = pickle.load(file)
    try:
        stay_within(sandbox, (Allowed(b"/proc/self/fd/%d" % root, READ_DIR),))
    except OSError as error:
        raise OSError(error.errno, f"its sandbox cannot be entered: {error.strerror}") from None
