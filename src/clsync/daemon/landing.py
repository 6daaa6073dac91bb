"""Writes to the state what is confirmed of all that has landed."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from clsync.core.listing import record_of
from clsync.core.stamps import YOUNG_NS
from clsync.daemon.handed import Handed
from clsync.daemon.holding import TargetMemory
from clsync.daemon.indexed import looked_for
from clsync.daemon.root import Directory
from clsync.kernel.ops import Looks
from clsync.state.store import Confirmed, Store

_AT_ONCE: Final = 16_384
"""Paths confirmed in one transaction: who is about to hand over waits for it."""


def write(root: Directory, store: Store, works: Iterable[tuple[TargetMemory, Handed]], before_ns: int) -> None:
    """Confirm all of it, the oldest first.

    `before_ns`: when it began to be found out what of it has changed again (wall-clock nanoseconds).
    """
    # Where it has gone, what is dirty stays dirty: everything will be compared.
    with suppress(OSError), root.opened() as here:
        waiting: list[tuple[bytes, Confirmed]] = []
        for target, handed in _together(works):
            if handed.recorded:
                _confirm(store, waiting)
                for top in handed.recorded:
                    store.end_record(target.key, top, handed.again, handed.since)
            _ripen(handed, root.ops.looks(here), before_ns - YOUNG_NS)
            waiting.append((target.key, Confirmed(handed.seen, handed.trees, handed.again)))
        _confirm(store, waiting)


def _ripen(handed: Handed, looks: Looks, young_ns: int) -> None:
    """Take for known what had changed a moment before it was handed over, and has not since."""
    for path, look in looked_for(looks, handed.young.keys() & handed.seen.keys()):
        try:
            found = look(path)
        except OSError:
            continue
        if found is not None and record_of(found, young_ns) == handed.young[path]:
            handed.seen[path] = handed.young[path]


def _together(works: Iterable[tuple[TargetMemory, Handed]]) -> list[tuple[TargetMemory, Handed]]:
    """Let paths by their own names that were handed over one after the other be one: a directory is then written once.

    What was handed over again, or lies below something that was, is only in the later one (`TargetMemory.judge`).
    """
    found: list[tuple[TargetMemory, Handed]] = []
    for target, handed in works:
        if found and found[-1][0] is target and found[-1][1].plain and handed.plain:
            found[-1][1].seen |= handed.seen
            found[-1][1].young |= handed.young
        else:
            found.append((target, handed))
    return found


def _confirm(store: Store, works: list[tuple[bytes, Confirmed]]) -> None:
    """Confirm everything, so much at once that nobody waits for long; leave nothing to be confirmed."""
    part, count = list[tuple[bytes, Confirmed]](), 0
    for key, (seen, trees, again) in works:
        paths = [*seen]
        for at in range(0, max(len(paths), 1), _AT_ONCE):
            chosen = seen if len(paths) <= _AT_ONCE else {path: seen[path] for path in paths[at : at + _AT_ONCE]}
            part.append((key, Confirmed(chosen, trees, again)))
            trees, again, count = {}, {}, count + len(chosen)
            if count >= _AT_ONCE:
                store.confirm_all(part)
                part, count = [], 0
    if part:
        store.confirm_all(part)
    works.clear()
