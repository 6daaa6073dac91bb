"""What of a path has to change before it is handed over again (`--modification-signature`)."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from operator import attrgetter
from typing import NamedTuple

from clsync.core.memory import remember
from clsync.core.paths import ancestors
from clsync.core.stamps import is_settled

_REMEMBERED = 1_000_000
"""Paths; the one that was handed over longest ago is forgotten first, and handed over once too often."""
_VERSION = attrgetter("st_ctime_ns", "st_ino", "st_dev")


class Signed(NamedTuple):
    """What lstat found of a path before it was handed over."""

    signature: int
    """Of the fields that count."""
    version: tuple[int, int, int]
    """Another one after each change, whatever it was; begins with the time of the last one."""


class Signatures:
    """The fields of lstat(2), of paths that were handed over because of an event.

    What changed on its way may have been handed over as it was for a moment only: it is not taken for known, though
    the fields be as they were. A handler that may itself change what it is given is believed the second time: its
    own changes would call it for ever.
    """

    def __init__(self, fields: Iterable[str], *, leaves_alone: bool = False) -> None:
        """`fields`: names of `os.stat_result` without `st_`; times are compared to the nanosecond.

        `leaves_alone`: the handler never changes what it is given.
        """
        self.names = [f"st_{name}_ns" if name.endswith("time") else f"st_{name}" for name in sorted(fields)]
        """The fields, as `os.stat_result` names them."""
        self._leaves_alone = leaves_alone
        self._known: dict[bytes, int] = {}
        self._changed: dict[bytes, int] = {}
        """Paths that changed on their way last time -> the signature that they had afterwards."""

    def of(self, found: object) -> Signed:
        """Return what counts of what lstat found."""
        return Signed(hash(tuple(getattr(found, name) for name in self.names)), _VERSION(found))

    def unchanged(self, path: bytes, signed: Signed) -> bool:
        """Tell whether a path was handed over with this signature last time."""
        return self._known.get(path) == signed.signature

    def forget(self, paths: Iterable[bytes], replaced: Collection[bytes] = ()) -> None:
        """Forget what is about to be handed over, and what is below what is `replaced`: what comes in its place is new."""
        for path in paths:
            self._known.pop(path, None)
        if b"" in replaced:
            self._known.clear()
        elif replaced:
            tops = set(replaced)
            for path in [path for path in self._known if not tops.isdisjoint(ancestors(path))]:
                del self._known[path]

    def confirm(self, path: bytes, before: Signed, found: object, settled_ns: int) -> None:
        """Note that a path was handed over; `found`: by lstat afterwards, None for nothing.

        `settled_ns`: a change after the first lstat has given it a later ctime than that (wall-clock ns).
        """
        after = self.of(found) if found is not None else None
        expected = self._changed.pop(path, None)
        if after is None:
            return
        still = after == before and is_settled(before.version[0], settled_ns)
        if still or self._is_its_own(expected, before, after):
            remember(self._known, path, before.signature, _REMEMBERED)
        else:
            remember(self._changed, path, after.signature, _REMEMBERED)

    def _is_its_own(self, expected: int | None, before: Signed, after: Signed) -> bool:
        """Tell whether a change is taken for one that the handler has made."""
        return not self._leaves_alone and expected == before.signature == after.signature
