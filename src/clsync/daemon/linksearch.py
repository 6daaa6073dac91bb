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
        revive: Callable[[Iterable[bytes]], None],
        log: Log,
    ) -> None:
        """`searches` counts how often a file was searched for; `release` lets the waiting names go on.

        `revive` is told the names of files that were written unseen.
        """
        self._finder, self._searches, self._release, self._revive, self._log = finder, searches, release, revive, log
        self._wanted: set[LinkedFile] = set()
        self._unseen: set[LinkedFile] = set()
        self._waiting: set[bytes] = set()
        self.failing = False
        """The last scan has failed; it is made again and again."""
        self._task: asyncio.Task[None] | None = None
        self._catalogue: asyncio.Task[None] | None = None

    @property
    def busy(self) -> bool:
        """Tell whether a search is going on."""
        return self._task is not None or self._catalogue is not None

    def want(self, files: set[LinkedFile], names: Iterable[bytes]) -> None:
        """Search for files; `names` are released when it is over."""
        self._wanted |= files
        self._waiting.update(names)
        self._begin()

    def want_unseen(self, files: set[LinkedFile]) -> None:
        """Search for files that were written unseen."""
        self._wanted |= files
        self._unseen |= files
        self._begin()

    def _begin(self) -> None:
        if self._wanted and self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._search())

    async def close(self) -> None:
        """End the search."""
        for task in (self._task, self._catalogue):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _search(self) -> None:
        while self._wanted:
            wanted, self._wanted = self._wanted, set()
            waiting, self._waiting = self._waiting, set()
            unseen, self._unseen = self._unseen, set()
            try:
                found = await self._finder.find(wanted)
                self._revive({name for file in unseen for name in found.get((file.dev, file.ino), ())})
                for file in wanted:
                    self._searches[file] = self._searches.get(file, 0) + 1
                self.failing = False
            except OSError as error:
                if not self.failing:
                    self._log.error(f"search for hard links: {error}", "it is made again")
                self.failing = True
                self._wanted |= unseen
                self._unseen |= unseen
                await asyncio.sleep(_PAUSE)
            if not self._wanted:
                self._task = None
            self._release(waiting)

    def begin_catalogue(self, young_ns: int) -> None:
        """Learn all files with several names; revive those changed since `young_ns` (wall clock)."""
        self._catalogue = asyncio.get_running_loop().create_task(self._learn_all(young_ns))

    async def _learn_all(self, young_ns: int) -> None:
        while True:
            try:
                young = await self._finder.catalogue(young_ns)
                self.failing = False
                break
            except OSError as error:
                if not self.failing:
                    self._log.warning(f"search for changed files and hard links: {error}; it is made again")
                self.failing = True
                await asyncio.sleep(_PAUSE)
        # Who is woken by what follows is to see that this is over.
        self._catalogue = None
        self._revive(young)
