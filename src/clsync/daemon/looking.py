"""Looks at the tree for somebody who names any path: below one directory, without a symlink on the way."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Generator, Iterator, Sequence, Set
from dataclasses import replace
from itertools import islice
from typing import Any, Final

from clsync.core.batch import Batch
from clsync.kernel.files import DIRECTORY_FLAGS, GONE, open_beneath
from clsync.privilege.looks import packed

AT_ONCE: Final = 256
_REMEMBERED: Final = 256
"""Bytes of a path: longer ones are looked at again."""
_WHERE: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW


def looked_at(
    root: int, paths: list[bytes], real: set[bytes] | None = None
) -> Iterator[os.stat_result | OSError | None]:
    """Yield what stands at paths below a directory, or why nobody can tell; behind a symlink stands nothing.

    Directories above them that are real, all the way, are added to `real`.
    """
    lstat = os.lstat
    above, here, closing = b"", root, -1
    missing: OSError | None = None
    """The answer for everything in `above`, where it has no descriptor."""
    try:
        for path in paths:
            directory, _, name = path.rpartition(b"/")
            if directory != above:
                if closing >= 0:
                    os.close(closing)
                    closing = -1
                above, here, missing = directory, root, None
                if directory:
                    try:
                        here = closing = open_beneath(root, directory, _WHERE)
                    except OSError as error:
                        here, missing = -1, error if error.errno not in GONE else None
                    else:
                        if real is not None and len(directory) <= _REMEMBERED:
                            real.add(directory)
            if here < 0:
                yield missing
                continue
            try:
                yield lstat(name or b".", dir_fd=here)
            except (FileNotFoundError, NotADirectoryError):
                yield None
            except OSError as error:
                yield error
    finally:
        if closing >= 0:
            os.close(closing)


def listed(root: int, paths: list[bytes]) -> Generator[Sequence[Any], None, None]:
    """Yield what stands in directories: (which one, error number, names, their lstat)."""
    for number, path in enumerate(paths):
        try:
            directory = open_beneath(root, path, DIRECTORY_FLAGS)
        except OSError as error:
            yield number, 0 if error.errno in GONE else error.errno or 0, [], b""
            continue
        try:
            with os.scandir(directory) as entries:
                while names := [os.fsencode(entry.name) for entry in islice(entries, AT_ONCE)]:
                    yield number, 0, names, b"".join(map(packed, looked_at(directory, names)))
        except OSError as error:
            yield number, error.errno or 0, [], b""
        finally:
            os.close(directory)


async def straight_only(batch: Batch, real: Set[bytes]) -> tuple[Batch, list[bytes]]:
    """Leave out entries that do not lie below real directories alone now; return these, too.

    The worker has looked, a moment ago, or says so. `real`: directories of which we know that.
    """
    directories = {path.rpartition(b"/")[0] for paths in (batch.entries, batch.linked) for path in paths}
    directories -= real
    crooked: set[bytes] = set()
    for count, directory in enumerate(directories, 1):
        try:
            os.close(open_beneath(batch.root, directory, _WHERE))
        except OSError as error:
            if error.errno in GONE:  # else the handler meets it, and names it
                crooked.add(directory)
        if not count % AT_ONCE:
            await asyncio.sleep(0)
    if not crooked:
        return batch, []
    left = {path: flags for path, flags in batch.entries.items() if path.rpartition(b"/")[0] not in crooked}
    linked = [path for path in batch.linked if path.rpartition(b"/")[0] not in crooked]
    return replace(batch, entries=left, linked=linked), [path for path in batch.entries if path not in left]
