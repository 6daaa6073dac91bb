"""A process that renames at a local destination: `python -I -m clsync.handler.renamer`, run there.

Standard input: the steps, and the sandbox to work in, pickled. Standard output: one byte for each that is done, as soon
as it is.
"""

from __future__ import annotations

import os
import pickle
import sys

from clsync.handler.renaming import DONE, MADE, carried_out
from clsync.kernel.landlock import WRITE, Allowed
from clsync.kernel.sandbox import stay_within


def main() -> None:
    """Do it."""
    root = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    steps, sandbox = pickle.load(sys.stdin.buffer)
    if sandbox is not None:
        stay_within(sandbox, [Allowed(b".", WRITE)])
    for made in carried_out(root, steps):
        os.write(sys.stdout.fileno(), MADE if made else DONE)


if __name__ == "__main__":
    main()
