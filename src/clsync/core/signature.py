"""What of a path has to change before it is handed over again (`--modification-signature`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from clsync.core.memory import remember

_REMEMBERED = 1_000_000
"""Paths; the one that was handed over longest ago is forgotten first, and handed over once too often."""


class Signatures:
    """The fields of lstat(2), of paths that were handed over because of an event."""

    def __init__(self, fields: Iterable[str]) -> None:
        """`fields`: names of `os.stat_result` without `st_`; times are compared to the nanosecond."""
        self.names = [f"st_{name}_ns" if name.endswith("time") else f"st_{name}" for name in sorted(fields)]
        """The fields, as `os.stat_result` names them."""
        self._known: dict[bytes, int] = {}

    def of(self, found: object) -> int:
        """Return the signature of what lstat found."""
        return hash(tuple(getattr(found, name) for name in self.names))

    def unchanged(self, path: bytes, signature: int) -> bool:
        """Tell whether a path was handed over with this signature last time."""
        return self._known.get(path) == signature

    def confirm(self, signatures: Mapping[bytes, int | None]) -> None:
        """Note what was handed over; None: it is gone, and what comes in its place is new."""
        for path, signature in signatures.items():
            if signature is None:
                self._known.pop(path, None)
            else:
                remember(self._known, path, signature, _REMEMBERED)
