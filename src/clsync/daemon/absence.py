"""The time in which the watched root is not there: nothing is synced, and above all nothing is deleted."""

from __future__ import annotations

import time
from collections.abc import Callable

from clsync.core.paths import shown
from clsync.daemon.log import Log
from clsync.daemon.root import Directory

_BETWEEN_LOOKS = 1.0
"""Seconds between two looks for a root that is gone."""


class Absence:
    """Knows whether the root is away, and when it is looked for next."""

    def __init__(self, root: Directory, log: Log, begun: Callable[[], None]) -> None:
        """`begun` is called when it turns out that the root is away."""
        self._root, self._log, self._begun = root, log, begun
        self.trouble = ""
        """Why it is away."""
        self.look_at: float | None = None
        """When it is looked for (monotonic seconds); None: it is there."""

    @property
    def lasts(self) -> bool:
        """Whether the root is away, as far as is known."""
        return self.look_at is not None

    def begin(self) -> None:
        """Note that it is gone, or that nobody knows."""
        if self.look_at is None:
            self.look_at = 0.0
            self._begun()

    def now(self) -> bool:
        """Look whether it is away now; if so, it is looked for."""
        away = self._root.trouble() is not None or self.lasts
        if away:
            self.begin()
        return away

    def go_on(self, trouble: str) -> bool:
        """Wait until it is back, or has no `trouble` any more; tell whether that is news, which the log is told as well."""
        news = not self.look_at or trouble != self.trouble
        if news:
            where = shown(self._root.path)
            self._log.error(f"watch directory {where}: {trouble}", "nothing is synced or deleted until it is back")
        self.trouble = trouble
        self.look_at = time.monotonic() + _BETWEEN_LOOKS
        return news

    def end(self) -> None:
        """Note that it is back."""
        self.look_at = None
