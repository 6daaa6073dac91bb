"""Which paths an rsync run could not make equal, as its messages tell."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from clsync.core import batch as flag
from clsync.core.lists import TOO_LONG, too_long_part, unescape
from clsync.core.paths import ancestors, is_below, join, parent, shown

_QUOTED = re.compile(rb'"([^"]*(?:"[^"]*)*)"')
_UNQUOTED = re.compile(
    rb"^(?:cannot delete non-empty directory|could not make way for [a-z -]+|filename overflows max-path len by \d+)"
    rb": (.+)$"
)
_DELETING = re.compile(rb"delete_file: \w+\((.+)\) failed: ")
_ARROW = re.compile(rb'(?:rename|copy|symlink|link) "(.+?)"(?: \(in .+?\))? [-=]> ')
_TOO_LONG = re.compile(rb"^filename overflows max-path len|failed: File name too long \(36\)$")
_UNREADABLE = re.compile(rb"^rsync: \[sender\] (?:send_files failed to open|opendir|readlink_stat)\b")
ABSENT = b".clsync-absent-"
"""How the name begins that stands for a directory's attributes in lists (see `core.lists.files_from`)."""
_ABSENT_NAME = re.compile(rb"/?\.clsync-absent-[0-9a-f]+")
TEMPORARY = re.compile(rb"^\.(.+)\.[A-Za-z0-9]{6}$", re.DOTALL)
_SAID = 400
"""Characters of the beginning, and of the end, of a message that are told."""
_SUMMARY = re.compile(
    rb"rsync(?: error|: \[.*\] error|  ?warning)?: .*\(code \d+\) at |^rsync error: |"
    rb"^Deletions stopped due to --max-delete "
)
_SPARED = re.compile(rb"^Deletions stopped due to --max-delete limit \((\d+) skipped\)$", re.MULTILINE)
IN_THE_WAY: Final = b"could not make way for "
"""What is said where a directory with content stands in the way, and has to stay."""
_NOT_VERIFIED = re.compile(rb"^ERROR: (.+) failed verification -- update discarded\.")
_UNSURE = re.compile(
    rb"^(?!.*(?:\[sender\]|read errors mapping|send_files failed)).* \((?:5|107|110|112|116|121)\)$", re.MULTILINE
)
"""EIO, ENOTCONN, ETIMEDOUT, EHOSTDOWN, ESTALE, EREMOTEIO: what has failed may have been done."""
_READ = ("[sender] read errors mapping ", "read errors mapping ")
_TOO_SHORT = "No data available (61)"


class Blame(NamedTuple):
    """What the messages of a run say."""

    failed: dict[bytes, str]
    """Entry of the batch, a directory above one, or a path below one that is too long for rsync -> reason."""
    vanished: set[bytes]
    """Recursive or linked entries in which something vanished: what hangs together there may be torn."""
    complete: bool
    """Every message was understood: what is not in `failed` went well."""


def blame(messages: bytes, entries: Mapping[bytes, int], prefixes: Iterable[bytes], cut: bool) -> Blame:
    """Find the entries that messages complain of.

    `prefixes`: absolute paths (or module names) that rsync puts before a path, at either end. `cut`: some of the
    messages are lost.
    """
    failed: dict[bytes, str] = {}
    vanished: set[bytes] = set()
    complete = not cut
    places = _Places(entries)
    known = sorted((p.rstrip(b"/") + b"/" for p in prefixes), key=len, reverse=True)
    for line in messages.splitlines():
        if not line.strip() or _SUMMARY.search(line):
            continue
        name = _name_in(line, known)
        entry = None if name is None else places.entry_of(name, b"[sender]" in line)
        if name is not None and entry is not None and name != entry and not is_below(name, entry):
            name = entry  # a temporary file that stands for it
        if name is not None and entry is not None and _TOO_LONG.search(line):
            # Only this path is left out: a recursive entry above it goes well.
            failed[too_long_part(name)] = TOO_LONG
        elif name is not None and entry is not None and _UNREADABLE.search(line):
            failed[name] = reason(line)  # the same: everything else below a recursive entry went well
        elif name is not None and entry is not None and line.startswith(IN_THE_WAY):
            failed.setdefault(name, reason(line))
        elif entry is None:
            complete = False
        elif line.startswith((b"file has vanished: ", b"directory has vanished: ")):
            if entries.get(entry, 0) & (flag.RECURSIVE | flag.LINKED):
                vanished.add(entry)
        else:
            failed.setdefault(entry, reason(line))
    return Blame(failed, vanished, complete and bool(failed or vanished))


def spared(messages: bytes) -> int:
    """Return how many deletions `--max-delete` has held back: files, and directories that were empty."""
    return sum(int(count) for count in _SPARED.findall(messages))


def unsure(messages: bytes) -> bool:
    """Tell whether the target has failed in a way that leaves open what was done: a temporary file may stand there."""
    return _UNSURE.search(messages) is not None


def half_read(why: str) -> bool:
    """Tell whether a path failed because the file ended too early, or was another one by the end: it may have changed."""
    return (why.startswith(_READ) and why.endswith(_TOO_SHORT)) or _NOT_VERIFIED.match(why.encode()) is not None


def reason(line: bytes) -> str:
    """Return what a message says, without the program's own words before it."""
    text = shown(_ABSENT_NAME.sub(b"", line)).removeprefix("rsync: ")
    # A path may be long; the error comes after it.
    return text if len(text) <= 2 * _SAID else f"{text[:_SAID]} [...] {text[-_SAID:]}"


def first_line(messages: bytes) -> str:
    """Return the message that says most about why a run failed."""
    lines = [line for line in messages.splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(b"rsync error:")] or lines
    return reason(telling[0]) if telling else ""


def _name_in(line: bytes, prefixes: list[bytes]) -> bytes | None:
    """Return the path a message speaks of, relative to either end."""
    patterns = (_UNQUOTED, _NOT_VERIFIED, _DELETING, _ARROW, _QUOTED)
    quoted = next(filter(None, (pattern.search(line) for pattern in patterns)), None)
    if quoted is None:
        return None
    name = unescape(quoted.group(1))
    prefix = next((p for p in prefixes if name.startswith(p)), b"")
    name = name[len(prefix) :].removeprefix(b"./").rstrip(b"/")
    return b"" if name == b"." else name


class _Places:
    """The entries of a batch and the directories above them."""

    def __init__(self, entries: Mapping[bytes, int]) -> None:
        self._entries = entries

    @functools.cached_property
    def _above(self) -> set[bytes]:
        """The implied parents of entries: rsync sets their attributes too."""
        return {b"", *(up for path in self._entries for up in ancestors(path))}

    def entry_of(self, name: bytes, sent: bool) -> bytes | None:
        """Return the entry of the batch to which a path belongs; `sent`: the path is one of the source."""
        entries = self._entries
        if name.rpartition(b"/")[2].startswith(ABSENT):
            name = parent(name)
        temporary = None if sent or name in entries else TEMPORARY.match(name.rpartition(b"/")[2])
        if temporary is not None:
            plain = join(parent(name), temporary.group(1))
            name = plain if plain in entries else name
        if name in entries or name in self._above:
            return name
        while name:
            name = parent(name)
            if entries.get(name, 0) & flag.RECURSIVE:
                return name
        return None
