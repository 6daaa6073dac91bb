"""A process that deletes at a local destination: `python -I -m clsync.handler.rsync.cleaner`, run there.

Standard input: the paths, the rules, the directories that are spared, and the sandbox to work in, pickled. Standard
output: `path NUL reason NUL` for each path that cannot be removed. It is ended where it is to stop.
"""

from __future__ import annotations

import os
import pickle
import sys

from clsync.handler.rsync.clearing import Clearing
from clsync.kernel.landlock import WRITE, Allowed
from clsync.kernel.sandbox import stay_within


def main() -> None:
    """Do it."""
    paths, rules, spared, sandbox = pickle.load(sys.stdin.buffer)
    root = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if sandbox is not None:
        stay_within(sandbox, [Allowed(b".", WRITE)])
    clearing = Clearing(root, rules, spared, lambda: False)
    clearing.clear(paths)
    for path, why in clearing.failed.items():
        sys.stdout.buffer.write(b"%s\0%s\0" % (path, os.fsencode(why)))


if __name__ == "__main__":
    main()
