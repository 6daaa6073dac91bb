"""What holds everything up by the operator's word: a file that exists, or the time of day."""

from __future__ import annotations

import time
from collections.abc import Callable

from clsync.core.paths import shown
from clsync.daemon.log import Log
from clsync.options.hours import Hours

_LOOK = 1.0
"""Seconds between two looks for the file."""
_LONGEST = 60.0
"""Seconds between two looks at the clock on the wall: it may be set."""


class Standby:
    """Looks before each batch."""

    def __init__(self, path: bytes | None, stands: Callable[[bytes], bool], hours: Hours, log: Log) -> None:
        """`path`: while this file exists, nothing is synced (None: there is no such file), nor outside the `hours`.

        `stands` tells whether something stands at a path.
        """
        self._path, self._stands, self._hours, self._log = path, stands, hours, log
        self.until = 0.0
        """Not to be asked before that (monotonic seconds)."""
        self.why = ""
        """What holds everything up; empty where nothing does."""

    @property
    def active(self) -> bool:
        """Whether nothing is to be synced."""
        return bool(self.why)

    def holds(self, now: float) -> bool:
        """Tell whether nothing is to be synced now (monotonic seconds)."""
        why, wait, over = "", 0.0, ""
        closed = self._opens_in()
        if self._path is not None and self._stands(self._path):
            why, wait, over = f"standby file {shown(self._path)} is there", _LOOK, "it is gone"
        elif closed:
            why, wait, over = f"it is not the time of --sync-hours={self._hours}", min(closed, _LONGEST), "it is"
        if why and why != self.why:
            self._log.info(f"{why}: nothing is synced until {over}")
        elif self.why and not why:
            self._log.info(f"no longer so: {self.why}; going on")
        self.why, self.until = why, now + wait if why else 0.0
        return bool(why)

    def _opens_in(self) -> float:
        clock = time.time()
        at = time.localtime(clock)
        return self._hours.opens_in(at.tm_wday, at.tm_hour, at.tm_min, at.tm_sec + clock % 1)
