"""Which paths an rsync run could not make equal, as its messages tell."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from clsync.core import batch as flag
from clsync.core.lists import unescape
from clsync.core.paths import parent, shown

_QUOTED = re.compile(rb'"([^"]*(?:"[^"]*)*)"')
_SUMMARY = re.compile(rb"rsync(?: error|: \[.*\] error|  ?warning)?: .*\(code \d+\) at |^rsync error: ")
_SKIPPED = b"IO error encountered"


class Blame(NamedTuple):
    """What the messages of a run say."""

    failed: dict[bytes, str]
    """Entry of the batch, or a directory above one -> reason."""
    complete: bool
    """Every message was understood: what is not in `failed` went well."""
    deletion_skipped: bool
    """Recursive deletions were left out because of read errors."""


def blame(messages: bytes, entries: Mapping[bytes, int], prefixes: Iterable[bytes], cut: bool) -> Blame:
    """Find the entries that messages complain of.

    `prefixes`: absolute paths (or module names) that rsync puts before a path, at either end. `cut`: some of the
    messages are lost.
    """
    failed: dict[bytes, str] = {}
    complete, skipped = not cut, False
    known = sorted((p.rstrip(b"/") + b"/" for p in prefixes), key=len, reverse=True)
    for line in messages.splitlines():
        if not line.strip() or _SUMMARY.search(line):
            continue
        if line.startswith(_SKIPPED):
            skipped = True
            continue
        entry = _entry_of(line, entries, known)
        if entry is None:
            complete = False
        else:
            failed.setdefault(entry, reason(line))
    return Blame(failed, complete and bool(failed), skipped)


def reason(line: bytes) -> str:
    """Return what a message says, without the program's own words before it."""
    text = shown(line)
    return text.removeprefix("rsync: ")


def first_line(messages: bytes) -> str:
    """Return the message that says most about why a run failed."""
    lines = [line for line in messages.splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(b"rsync error:")] or lines
    return reason(telling[0]) if telling else ""


def _entry_of(line: bytes, entries: Mapping[bytes, int], prefixes: list[bytes]) -> bytes | None:
    quoted = _QUOTED.search(line)
    if quoted is None:
        return None
    name = unescape(quoted.group(1))
    for prefix in prefixes:
        if name.startswith(prefix):
            name = name[len(prefix) :]
            break
    name = name.removeprefix(b"./").rstrip(b"/")
    if name.rpartition(b"/")[2].startswith(b".") and name not in entries:
        # The receiver's temporary file: .name.XXXXXX
        base = name.rpartition(b"/")[2][1:].rpartition(b".")[0]
        above = parent(name)
        plain = above + b"/" + base if above else base
        name = plain if plain in entries else name
    if name in entries or _is_above(name, entries):
        return name
    while name:
        name = parent(name)
        if entries.get(name, 0) & flag.RECURSIVE:
            return name
    return None


def _is_above(name: bytes, entries: Mapping[bytes, int]) -> bool:
    """Tell whether a path is an implied parent of an entry: rsync sets its attributes too."""
    below = name + b"/" if name else b""
    return any(path.startswith(below) for path in entries)
