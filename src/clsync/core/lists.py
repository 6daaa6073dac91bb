"""What rsync is told to transfer: lists for `--files-from`, and the include and exclude lists of clsync 0.4."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import reduce
from operator import or_

from clsync.core import batch as flag
from clsync.core.changes import OF_DIRECTORY
from clsync.core.classify import CHANGE_SHIFT
from clsync.core.paths import ancestors, join, parent

RSYNC_PATH_MAX = 4095
"""rsync cannot send longer names (MAXPATHLEN of its sources, PATH_MAX of Linux)."""
TOO_LONG = f"the path is too long for rsync ({RSYNC_PATH_MAX} bytes); mode copy can sync it"
_ESCAPED = re.compile(rb"[\x00-\x1f\x7f]|\\(?=#)")


def longest(paths: Iterable[bytes]) -> bytes:
    """Return the longest of some paths, empty where there is none."""
    return max(paths, key=len, default=b"")


def too_long(path: bytes) -> bool:
    """Tell whether rsync cannot be given `path` (it is sent as `./path`, directories with a name below)."""
    return len(path) + 40 > RSYNC_PATH_MAX


def too_long_part(path: bytes) -> bytes:
    """Return the topmost path at or above one that is too long which is too long itself."""
    return next((up for up in ancestors(path) if too_long(up)), path)


def flags_of(entries: Mapping[bytes, int]) -> int:
    """Return all flags that any entry has."""
    return reduce(or_, set(entries.values()), 0)


def files_from(entries: Mapping[bytes, int], absent_name: bytes) -> Iterator[bytes]:
    """Yield `--files-from --from0` records for recipe S2 (`rsync -r --delete --delete-missing-args --force`).

    A directory whose attributes alone count is named by a path below it that does not exist: rsync then
    treats it as an implied parent, gives it its attributes, and enters nothing. The leading `./` keeps names
    that begin with `#` or `;` from being comments, and makes the root an implied parent.
    """
    if not flags_of(entries) & flag.DIRECTORY:
        if entries:
            yield b"./" + b"\0./".join(entries) + b"\0"
        return
    for path, flags in entries.items():
        if flags & flag.DIRECTORY and not flags & flag.RECURSIVE:
            yield b"./" + join(path, absent_name) + b"\0"
        else:
            yield b"./" + path + b"\0"


def files_from_flat(
    entries: Mapping[bytes, int], directories_below: Callable[[bytes], Iterable[bytes]]
) -> Iterator[bytes]:
    """Yield records for recipe F2 (`rsync -d --delete --force`, no recursion, no missing arguments).

    What is gone is deleted by listing its parent's immediate content (`./parent/`); a recursive entry becomes
    every directory of its subtree.
    """
    seen: set[bytes] = set()
    for path, flags in entries.items():
        if flags & flag.MISSING:
            records = [_content(parent(path))]
        elif flags & flag.RECURSIVE:
            records = [_content(path), *map(_content, directories_below(path))]
        else:
            records = [b"./" + path]
        for record in records:
            if record not in seen:
                seen.add(record)
                yield record + b"\0"


def _content(directory: bytes) -> bytes:
    return b"./" + directory + b"/" if directory else b"./"


_ESCAPES = {ord(c): b"\\" + c for c in (b"[", b"]", b"*", b"?", b"\\")}


def pattern(path: bytes, suffix: bytes = b"") -> bytes:
    """Return an rsync filter pattern that matches exactly `path` (anchored), plus a wildcard `suffix`.

    rsync takes a backslash literally unless the pattern has a wildcard, so names are escaped only where it
    has one. What ends a line cannot stand in a list of lines, and rsync takes a carriage return for an end as well: `?`
    stands for them. Without that, the rest of a name would be a rule of its own.
    """
    if not suffix and not any(c in path for c in b"*?[\n\r"):
        return b"/" + path
    escaped = b"".join(b"?" if c in b"\n\r" else _ESCAPES.get(c, bytes((c,))) for c in path)
    return (b"/" + escaped if path else b"") + suffix


def include_lines(path: bytes, flags: int) -> Iterator[bytes]:
    """Yield the include lines of one entry, its parents excepted, as clsync 0.4 writes them.

    The content of a directory that is missing is included too, or rsync would keep it.
    """
    if flags & flag.RECURSIVE or (flags & flag.MISSING and flags >> CHANGE_SHIFT & OF_DIRECTORY):
        yield pattern(path, b"/***")
    if not flags & flag.RECURSIVE:
        yield pattern(path) if path else b""


def include_lists(entries: Mapping[bytes, int], limit: int) -> Iterator[tuple[dict[bytes, int], bytes]]:
    """Split entries into parts of about `limit` lines (0: no limit): yield (entries, include list) of each."""
    part: dict[bytes, int] = {}
    lines: dict[bytes, None] = {}
    for path, flags in entries.items():
        part[path] = flags
        lines.update(dict.fromkeys(pattern(up) for up in ancestors(path)))
        lines.update(dict.fromkeys(include_lines(path, flags)))
        if limit and len(lines) >= limit:
            yield part, b"".join(line + b"\n" for line in lines)
            part, lines = {}, {}
    if part:
        yield part, b"".join(line + b"\n" for line in lines)


def exclude_list(rejected: Iterable[bytes], emptied: Iterable[bytes] = ()) -> bytes:
    """Return the exclude list for paths that rules reject, and for directories of which only the content is left out."""
    lines = [pattern(path) for path in rejected] + [pattern(path, b"/**") for path in emptied]
    return b"".join(line + b"\n" for line in lines)


def escape(name: bytes) -> bytes:
    r"""Return a name as rsync's messages have it: what is no text, and what would look escaped, as `\#ooo`."""
    return _ESCAPED.sub(lambda found: b"\\#%03o" % found[0][0], name)


def unescape(name: bytes) -> bytes:
    r"""Undo rsync's output escaping (`\#ooo`, three octal digits), see rsync(1), --8-bit-output."""
    parts = name.split(b"\\#")
    out = [parts[0]]
    for part in parts[1:]:
        code = part[:3]
        octal = len(code) == 3 and all(c in b"01234567" for c in code)
        out.append(bytes((int(code, 8) & 255,)) + part[3:] if octal else b"\\#" + part)
    return b"".join(out)


def deletions(itemized: bytes) -> Iterator[tuple[bytes, bool]]:
    """Yield (path, is a directory) for every `*deleting` line of `rsync -n -i --delete`."""
    for line in itemized.split(b"\n"):
        if line.startswith(b"*deleting   "):
            name = unescape(line[12:])
            yield name.rstrip(b"/"), name.endswith(b"/")
