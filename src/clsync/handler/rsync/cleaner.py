"""A process that deletes at a local destination: `python -I -m clsync.handler.rsync.cleaner`, run there.

Standard input: the paths, the rules and the directories that are spared, pickled. Standard output: `path NUL reason NUL`
for each path that cannot be removed. It is ended where it is to stop.
"""

from __future__ import annotations

import os
import pickle
import sys

from clsync.handler.rsync.clearing import Clearing


def main() -> None:
    """Do it."""
    paths, rules, spared = pickle.load(sys.stdin.buffer)
    root = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    clearing = Clearing(root, rules, spared, lambda: False)
    clearing.clear(paths)
    for path, why in clearing.failed.items():
        sys.stdout.buffer.write(b"%s\0%s\0" % (path, os.fsencode(why)))


if __name__ == "__main__":
    main()
