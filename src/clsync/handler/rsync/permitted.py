"""Rules and rsync: recursion is expanded here, deletions are found first, and what rules reject is protected.

A list of rejected source paths would not do: it misses what is made after the walk, and what exists only at the
destination.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import BinaryIO, NamedTuple

from clsync.core import batch as flag
from clsync.core import lists
from clsync.core.changes import NAME
from clsync.core.classify import CHANGE_SHIFT
from clsync.core.paths import ancestors, join, parent
from clsync.handler.base import PathRules, may_go
from clsync.handler.rsync.blame import TEMPORARY
from clsync.kernel import roles
from clsync.kernel.descriptors import anonymous_file
from clsync.kernel.walk import lstat_straight

Look = Callable[[bytes], os.stat_result | None]


class Doomed(NamedTuple):
    """What would be deleted at the destination."""

    missing: list[bytes]
    """Topmost paths that are gone here and may go there."""
    protected: list[bytes]
    """Topmost paths that rules reject."""
    replaced: set[bytes]
    """What is no directory here and stands where a directory with content has to give way there."""
    entries: int = 0
    """How many entries would be deleted in all, but for those that rules reject and those that stand at the source."""


def far(entries: Mapping[bytes, int], destination: bytes | None) -> set[bytes]:
    """Return the entries that may delete more than what they name. `destination`: the target, if it is local."""
    return {p for p, f in entries.items() if f & (flag.RECURSIVE | flag.MISSING) or _replaces(p, f, destination)}


def _replaces(path: bytes, flags: int, destination: bytes | None) -> bool:
    """Tell whether an entry that is no directory here may have to make one give way there."""
    if flags & flag.DIRECTORY:
        return False
    if destination is None:
        return bool(flags >> CHANGE_SHIFT & NAME)
    try:
        return stat.S_ISDIR(os.lstat(destination + b"/" + path).st_mode)
    except OSError:
        return False


@contextmanager
def listing() -> Iterator[BinaryIO]:
    """Give a file without a name for a program's output."""
    with open(anonymous_file(), "r+b") as file:
        yield file


def doomed(itemized: BinaryIO, root: int, rules: PathRules | None, litter: bool = False) -> Doomed:
    """Read what `rsync -n -i --delete` printed; `litter`: temporary files go as what they would have become."""
    itemized.seek(0)
    # What stands below something that is no directory goes with the directory that gives way to it.
    look = lstat_straight(root)
    missing, protected, replaced, count = [], [], set(), 0
    for line in itemized:
        for path, is_dir in lists.deletions(line.rstrip(b"\n")):
            up = parent(path)
            if up and _stands_no_directory(look, up):
                replaced.add(up)
            if rules is not None and not rules.permits(_plain(path) if litter else path, is_dir):
                protected.append(path)
                continue
            gone = _is_gone(look, path)
            # What stands here as it does there is in a directory that the program cannot read, or has come just now.
            count += gone or _is_another(look, path, is_dir)
            if gone and (is_directory(_seen(look, parent(path))) or not may_go(parent(path), rules)):
                missing.append(path)
    return Doomed(missing, _topmost(protected), replaced, count)


def _stands_no_directory(look: Look, path: bytes) -> bool:
    """Tell whether something stands at the source that is no directory."""
    found = _seen(look, path)
    return found is not None and not stat.S_ISDIR(found.st_mode)


def _plain(path: bytes) -> bytes:
    """Return the name that a temporary file of rsync would have got in the end."""
    directory, name = parent(path), path.rpartition(b"/")[2]
    temporary = TEMPORARY.match(name)
    return join(directory, temporary.group(1)) if temporary else path


def _seen(look: Look, path: bytes) -> os.stat_result | None:
    with suppress(OSError):
        return look(path)
    return None


def _is_gone(look: Look, path: bytes) -> bool:
    """Tell whether nothing stands at the source; what cannot be looked at may stand there."""
    try:
        return look(path) is None
    except OSError:
        return False


def _is_another(look: Look, path: bytes, was_dir: bool) -> bool:
    """Tell whether what stands at the source takes the place of a directory, or is one itself in place of something."""
    found = _seen(look, path)
    return found is not None and is_directory(found) is not was_dir


def filter_file(protected: Iterable[bytes]) -> bytes:
    """Write a filter file (rsync(1), FILTER RULES, ended by NUL for --from0) that protects paths; return its name."""
    return _written(b"P " + lists.pattern(path) for path in protected)


def deletion_file(entries: Mapping[bytes, int]) -> bytes:
    """Write a filter file for directories that are listed by their content: what is missing goes, nothing else.

    Receivers without `--delete-missing-args` know no other way to delete; what rules reject must not come along.
    """
    missing = [path for path, flags in entries.items() if flags & flag.MISSING]
    rules = [b"R " + lists.pattern(path, below) for path in missing for below in (b"", b"/**")]
    listed = {parent(path) for path in missing} | {b""}
    shown = {up for path in listed for up in (*ancestors(path), path) if up}
    rules += [b"S " + lists.pattern(path) for path in shown]
    rules += [b"H " + lists.pattern(path, b"/*") for path in listed]
    return _written([*rules, b"P *"])


def remove_file(name: bytes) -> None:
    """Remove a file of rules. Raises OSError."""
    with roles.as_programs():
        os.unlink(name)


def _written(rules: Iterable[bytes]) -> bytes:
    with roles.as_programs():
        descriptor, name = tempfile.mkstemp(prefix="clsync-filter-")
    with open(descriptor, "wb") as file:
        for rule in rules:
            file.write(rule + b"\0")
    return os.fsencode(name)


def is_directory(found: os.stat_result | None) -> bool:
    """Tell whether a real directory was found."""
    return found is not None and stat.S_ISDIR(found.st_mode)


def _topmost(paths: list[bytes]) -> list[bytes]:
    kept: set[bytes] = set()
    for path in sorted(paths):
        above = parent(path)
        while above and above not in kept:
            above = parent(above)
        if not above:
            kept.add(path)
    return sorted(kept)
