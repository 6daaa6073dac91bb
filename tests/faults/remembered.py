"""What the state on disk says, against what there is: each path is in its index, or in its journal."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from clsync.core.changes import DOUBT
from clsync.core.listing import is_directory
from clsync.core.paths import ancestors, join
from clsync.state import index, journal
from clsync.state.opening import FILE


def forgotten(directory: Path, source: Path) -> list[str]:
    """Return what the only state below a directory does not know of a source that is equal to its only target, or too much.

    What the next start would hand over again counts as known.
    """
    (file,) = directory.rglob(os.fsdecode(FILE))
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as rows:
        rows.execute("BEGIN")
        dirty = dict[bytes, int]()
        for (content,) in rows.execute("SELECT content FROM journal WHERE flush = 0"):
            dirty |= journal.unpacked(content)
        if dirty.get(b"", 0) & DOUBT:
            return []
        known, pending = set[bytes](), [b""]
        while pending:
            for name, record in index.listing(rows, path := pending.pop()).items():
                known.add(join(path, name))
                pending += [join(path, name)] if is_directory(record) else []
    there = set(_walked(bytes(source)))
    wrong = [(path, "is not remembered") for path in there - known]
    wrong += [(path, "is remembered, and gone") for path in known - there]
    return [
        f"{os.fsdecode(path)!r}: {how}" for path, how in wrong if dirty.keys().isdisjoint((path, *ancestors(path)))
    ]


def _walked(top: bytes) -> Iterator[bytes]:
    for above, directories, files in os.walk(top):
        for name in directories + files:
            yield os.path.relpath(os.path.join(above, name), top)
