"""The standby file: while it exists, nothing is synced."""

from __future__ import annotations

from collections.abc import Callable

from clsync.core.paths import shown
from clsync.daemon.log import Log

_LOOK = 1.0
"""Seconds between two looks."""


class Standby:
    """Looks for the file before each batch."""

    def __init__(self, path: bytes | None, stands: Callable[[bytes], bool], log: Log) -> None:
        """`path` None: there is no such file; `stands` tells whether something stands at a path."""
        self._path, self._stands, self._log = path, stands, log
        self.until = 0.0
        """Not to be asked before that (monotonic seconds)."""
        self.active = False

    def holds(self, now: float) -> bool:
        """Tell whether nothing is to be synced now (monotonic seconds)."""
        holds = self._path is not None and self._stands(self._path)
        if holds != self.active and self._path is not None:
            then = "nothing is synced until it is gone" if holds else "going on"
            self._log.info(f"standby file {shown(self._path)} {'is there' if holds else 'is gone'}: {then}")
        self.active = holds
        self.until = now + _LOOK if holds else 0.0
        return holds
