"""A process that renames at a local destination: `python -I -m clsync.handler.renamer`, run there.

Standard input: the steps, pickled. Standard output: one byte for each that is done, as soon as it is.
"""

from __future__ import annotations

import os
import pickle
import sys

from clsync.handler.renaming import DONE, MADE, carried_out


def main() -> None:
    """Do it."""
    root = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for made in carried_out(root, pickle.load(sys.stdin.buffer)):
        os.write(sys.stdout.fileno(), MADE if made else DONE)


if __name__ == "__main__":
    main()
