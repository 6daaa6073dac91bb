"""The search for hard links, in the background: files wait for it, other paths do not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from clsync.core.classify import LinkedFile
from clsync.daemon.linkfinder import LinkFinder
from clsync.daemon.log import Log

_PAUSE = 1.0
"""Seconds before a search that could not be made is made again."""


class LinkSearch:
    """One scan at a time for all files that are wanted by then."""

    def __init__(
        self,
        finder: LinkFinder,
        searches: dict[LinkedFile, int],
        release: Callable[[Iterable[bytes]], None],
        log: Log,
    ) -> None:
        """`searches` counts how often a file was searched for; `release` lets the waiting names go on."""
        self._finder, self._searches, self._release, self._log = finder, searches, release, log
        self._wanted: set[LinkedFile] = set()
        self._waiting: set[bytes] = set()
        self._task: asyncio.Task[None] | None = None

    @property
    def busy(self) -> bool:
        """Tell whether a search is going on."""
        return self._task is not None

    def want(self, files: set[LinkedFile], names: Iterable[bytes]) -> None:
        """Search for files; `names` are released when it is over."""
        self._wanted |= files
        self._waiting.update(names)
        if self._wanted and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._search())

    async def close(self) -> None:
        """End the search."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _search(self) -> None:
        while self._wanted:
            wanted, self._wanted = self._wanted, set()
            waiting, self._waiting = self._waiting, set()
            try:
                await self._finder.find(wanted)
                for file in wanted:
                    self._searches[file] = self._searches.get(file, 0) + 1
            except OSError as error:
                self._log.error(f"search for hard links: {error}", "it is made again")
                await asyncio.sleep(_PAUSE)
            if not self._wanted:
                self._task = None
            self._release(waiting)
