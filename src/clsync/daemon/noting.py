"""Writes down what a handler is about to be given, and looks what it is now."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

from clsync.core import batch as flag
from clsync.core.batch import Batch
from clsync.core.changes import CONTENT, DOUBT, NAME
from clsync.core.classify import CHANGE_SHIFT
from clsync.core.listing import Records, as_young, is_directory, record_of
from clsync.core.paths import ancestors, parent
from clsync.core.stamps import YOUNG_NS, is_settled
from clsync.daemon.handed import Handed
from clsync.daemon.indexed import FAR, Look, looked_for
from clsync.daemon.keeping import Keeping
from clsync.daemon.resolve import bits_of
from clsync.state import scan
from clsync.state.store import Store

_WIDE: Final = NAME | DOUBT
_LISTED: Final = 50_000
"""Names below a directory that are looked at here; more of them by processes of their own."""
_NAME_BYTES: Final = 60
"""Of a listing, about."""


def noted(
    keeping: Keeping,
    store: Store,
    key: bytes,
    batch: Batch,
    taken: Mapping[bytes, int],
    since: float,
    records: Records,
) -> Handed:
    """Write down what a handler is about to be given, and return what it is now.

    `key`: of the target; for the others see `TargetMemory.before`.
    """
    entries, root = batch.entries, batch.root
    walker = keeping.access.walker(root, keeping.scope)
    unsure = {flags: _unsure(flags) for flags in {*entries.values()}}
    changes = dict(zip(entries, map(unsure.__getitem__, entries.values()), strict=True))
    handed = Handed(changes, since)
    deep = any(flags & flag.RECURSIVE for flags in unsure)
    tops = {path for path, flags in entries.items() if flags & flag.RECURSIVE} if deep else set[bytes]()
    store.hand_over(key, changes, since, deep=tops)
    left = _LISTED
    for path in sorted(tops):
        found = scan.listings(walker, path, left) if path and left > 0 else None
        if found is not None:
            handed.trees[path] = found
            left -= sum(len(part) for _, parts in found for _, part in parts) // _NAME_BYTES
    handed.listed = _LISTED - left
    _sign(keeping, handed, entries, tops, root, records)
    for path in taken.keys() - entries.keys():
        # Nothing stands below what is no directory, and its row of the journal is to go.
        if any(not entries.get(up, flag.DIRECTORY) & (flag.DIRECTORY | flag.MISSING) for up in ancestors(path)):
            handed.seen[path] = None
    return handed


def _sign(
    keeping: Keeping, handed: Handed, entries: Mapping[bytes, int], tops: set[bytes], root: int, records: Records
) -> None:
    """Look at what is handed over by its own name, and at the directories in which names come or go."""
    rules, looks = keeping.scope.rules, keeping.root.ops.looks(root)
    young_ns = time.time_ns() - YOUNG_NS
    seen, young = handed.seen, handed.young = records.settled, records.young
    for path in seen.keys() - entries.keys():
        del seen[path]
    for path in young.keys() - entries.keys():
        del young[path]

    def sign(path: bytes, look: Look) -> None:
        try:
            found = look(path)
        except OSError:
            return
        if found is None:
            seen[path] = None
            return
        record = record_of(found, FAR)
        if is_directory(record) and rules and not rules.sync(path, True):
            return
        if is_settled(found.st_ctime_ns, young_ns):
            seen[path] = record
        else:
            young[path] = record

    for path, look in looked_for(looks, entries.keys() - seen.keys() - young.keys()):
        sign(path, look)
    if tops:
        for path in [p for p in (*seen, *young) if not tops.isdisjoint((p, *ancestors(p)))]:
            seen.pop(path, None)
            young.pop(path, None)
    comes = {flags for flags in {*entries.values()} if flags & flag.MISSING or flags >> CHANGE_SHIFT & _WIDE}
    above = {parent(path) for path, flags in entries.items() if flags in comes and path} if comes else set[bytes]()
    above = {path for path in above - entries.keys() if tops.isdisjoint((path, *ancestors(path)))}
    for path, look in looked_for(looks, above):
        sign(path, look)
        record = seen.get(path) or young.get(path)
        if record is None or not is_directory(record):
            seen.pop(path, None)
            young.pop(path, None)
    seen |= {path: as_young(record) for path, record in young.items()}


def _unsure(flags: int) -> int:
    """Return what may be different at a target when an entry was given to a handler, and nobody knows what came of it."""
    if flags & flag.DIRECTORY:
        return bits_of(flags)
    # It may be there in another version of the same size and mtime, or be no file at all.
    return bits_of(flags) | (NAME | CONTENT if flags & flag.MISSING else CONTENT)
