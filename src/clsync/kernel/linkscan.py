"""The other names of hard-linked files: one walk by d_ino, without a stat per entry, in a process of its own.

Run as `python -I -m clsync.kernel.linkscan [--stat]` in the watched root. Standard input: `device inode links`,
one file a line. Standard output: `device inode path NUL` for every name found. Memory: what is wanted, and one
directory. `--stat` is for file systems whose d_ino is not the st_ino (some overlays).
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator

from clsync.core.paths import join
from clsync.kernel.walk import list_directory, lstat_below

Inode = tuple[int, int]


def names_of(root: int, wanted: dict[Inode, int], by_stat: bool = False) -> Iterator[tuple[Inode, bytes]]:
    """Yield (device and inode, path) for every name of a wanted file below the directory descriptor `root`.

    `wanted` maps (device, inode) to the number of links; the walk ends early when all of them are found.
    """
    look = lstat_below(root)
    inodes = {inode for _, inode in wanted}
    left = sum(wanted.values())
    pending = [b""]
    while pending and left > 0:
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
                if found is not None and (found.st_dev, found.st_ino) in wanted and stat.S_ISREG(found.st_mode):
                    yield (found.st_dev, found.st_ino), path
                    left -= 1


def main() -> None:
    """Read what is wanted, write what is found."""
    wanted = {}
    for line in sys.stdin.buffer:
        device, inode, links = map(int, line.split())
        wanted[device, inode] = links
    root = os.open(b".", os.O_RDONLY | os.O_DIRECTORY)
    out = sys.stdout.buffer
    for (device, inode), path in names_of(root, wanted, "--stat" in sys.argv[1:]):
        out.write(b"%d %d %s\0" % (device, inode, path))
    out.flush()


if __name__ == "__main__":
    main()
