"""The search for hard links, in the background: files wait for it, other paths do not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import TypeVar, cast

from clsync.core.changes import CONTENT, DOUBT, NAME
from clsync.core.classify import LinkedFile
from clsync.core.links import Inode
from clsync.core.memory import remember
from clsync.daemon.linkfinder import LinkFinder, Scanned
from clsync.daemon.log import Log
from clsync.kernel.slices import in_slices

T = TypeVar("T")
_PAUSE = 1.0
"""Seconds before a search that could not be made is made again."""
_AT_ONCE = 20_000
"""Files of one search: what it finds has to be remembered until it is used."""
_COUNTED = 200_000
"""More files than are searched for in vain at any time: one that is forgotten is searched for again."""
_RESTS = 10
"""Times its length that a search is rested from, if nothing waits for the next one."""
_SLACK_NS = 10**9
"""Clocks of file systems lag by a tick, and may be set."""


class LinkSearch:
    """One scan at a time for all files that are wanted by then."""

    def __init__(
        self,
        finder: LinkFinder,
        searches: dict[LinkedFile, int],
        release: Callable[[Iterable[bytes]], None],
        revive: Callable[[Mapping[bytes, int]], None],
        watch: Callable[[bytes, LinkedFile], int],
        log: Log,
    ) -> None:
        """`searches` counts how often a file was searched for in vain; `release` lets the waiting names go on.

        `revive` is told the names of files that were changed unseen, and what has changed (`core.changes`); `watch`
        is told of files with several names (see `monitor.base.Monitor.watch_file`).
        """
        self._finder, self._searches, self._release, self._revive, self._log = finder, searches, release, revive, log
        self._watch = watch
        self._wanted: dict[LinkedFile, list[bytes]] = {}
        """Files to be searched for -> what waits for them."""
        self._unseen: dict[LinkedFile, int] = {}
        self.failing = False
        """The last scan has failed; it is made again and again."""
        self._foreign: dict[Inode, int] = {}
        """Files that have no name here -> number of links when that was found."""
        self._hasty = self._names_came = False
        self._pause: asyncio.TimerHandle | None = None
        self._rests_until = 0.0
        """No search for files for which nothing waits before that (time of the event loop)."""
        self._task: asyncio.Task[None] | None = None
        self._asked = self._answered = 0
        """Wishes, counted; all up to the second number are fulfilled."""
        self._one_round = asyncio.Lock()
        self._catalogue_wanted = False
        self._rounds: set[asyncio.Task[None]] = set()
        """Scans of everything, after an initial sync."""

    @property
    def busy(self) -> bool:
        """Tell whether a search is going on."""
        return self._task is not None or self._pause is not None or bool(self._rounds)

    def mark(self) -> int:
        """Return what stands for all that is to be searched for by now (see `over`)."""
        return self._asked

    def over(self, mark: int) -> bool:
        """Tell whether all is found that was to be searched for at a mark: neighbours may give it something for ever."""
        return self._answered >= mark and not self._rounds

    @property
    def catching_up(self) -> bool:
        """Tell whether something is searched for that an initial sync has left behind."""
        return bool(self._rounds)

    def want(self, files: Mapping[LinkedFile, Iterable[bytes]], changed: Mapping[LinkedFile, int]) -> None:
        """Search for files; what waits for each is released when it is over, and what has `changed` is told."""
        for file, names in files.items():
            self._wanted.setdefault(file, []).extend(names)
        for file, bits in changed.items():
            self._unseen[file] = self._unseen.get(file, 0) | bits
        self._asked += bool(files)
        self._begin()

    def want_unseen(self, files: Mapping[LinkedFile, int]) -> None:
        """Search for files that were changed unseen, for which nothing waits; `files` has the change bits.

        Those that have no name here belong to somebody else: they are searched for once, and none of it often.
        """
        ours = {file: bits for file, bits in files.items() if self._foreign.get(file[:2]) != file.nlink}
        self.want(dict.fromkeys(ours, ()), ours)

    def note_new_names(self) -> None:
        """Note that names have come: any file may have one here now, also one that a scan at work has missed."""
        self._foreign.clear()
        self._names_came = True

    def hurry(self) -> None:
        """Take no rest from now on: the run is to end."""
        self._hasty = True
        if self._pause is not None:
            self._begin()

    def end_rest(self) -> None:
        """Search at once for what is wanted: somebody waits."""
        self._rests_until = 0.0
        self._begin()

    def _begin(self) -> None:
        if not self._wanted or self._task is not None:
            return
        loop = asyncio.get_running_loop()
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._hasty or any(self._wanted.values()) or loop.time() >= self._rests_until:
            self._task = loop.create_task(self._search())
        else:
            self._pause = loop.call_at(self._rests_until, self._begin)

    async def close(self) -> None:
        """End the search."""
        if self._pause is not None:
            self._pause.cancel()
        for task in (self._task, *self._rounds):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _search(self) -> None:
        wanted = {file: self._wanted.pop(file) for file in list(self._wanted)[:_AT_ONCE]}
        unseen = {file: self._unseen.pop(file) for file in wanted if file in self._unseen}
        asked = 0 if self._wanted else self._asked
        self._names_came = False
        began = time.monotonic()
        found = await self._attempt(lambda: self._finder.find(set(wanted)))
        if found is None:
            self.want_unseen(unseen)
        else:
            self._rests_until = asyncio.get_running_loop().time() + _RESTS * (time.monotonic() - began)
            self._tell(found, wanted, unseen)
            self._answered = max(self._answered, asked)
        self._task = None
        self._begin()
        self._release(name for names in wanted.values() for name in names)

    def _tell(
        self,
        found: Mapping[Inode, Scanned],
        wanted: Mapping[LinkedFile, Collection[bytes]],
        unseen: Mapping[LinkedFile, int],
    ) -> None:
        names: dict[bytes, int] = {}
        for file, bits in unseen.items():
            scanned = found.get(file[:2])
            names |= dict.fromkeys(scanned.paths if scanned is not None else (), bits)
        self._revive(names)
        for file, waiting in wanted.items():
            self._judge(file, bool(waiting), found.get(file[:2]))

    def _judge(self, file: LinkedFile, waited_for: bool, scanned: Scanned | None) -> None:
        """Remember that a scan has not found a file, or not all of its names."""
        if not waited_for and scanned is None and not self._names_came:
            remember(self._foreign, file[:2], file.nlink, _AT_ONCE)
        if waited_for and (scanned is None or len(scanned.paths) < scanned.links):
            remember(self._searches, file, self._searches.get(file, 0) + 1, _COUNTED)

    def begin_catalogue(self, young_ns: int) -> None:
        """Learn all files with several names; revive those changed since `young_ns` (wall clock)."""
        if not self._catalogue_wanted:  # one that has not begun yet will do
            self._catalogue_wanted = True
            self._begin_round(lambda: self._learn_all(young_ns))

    def begin_parting(self, destination: bytes) -> None:
        """Revive the names that hang together in the directory `destination`, and are those of different files here."""
        self._begin_round(lambda: self._part(destination))

    def _begin_round(self, work: Callable[[], Awaitable[dict[bytes, int]]]) -> None:
        self._rounds.add(asyncio.get_running_loop().create_task(self._round(work)))

    async def _round(self, work: Callable[[], Awaitable[dict[bytes, int]]]) -> None:
        async with self._one_round:
            names = await work()
        # Who is woken by what follows is to see that this is over.
        self._rounds.discard(cast("asyncio.Task[None]", asyncio.current_task()))
        self._revive(names)

    async def _tried(self, scan: Callable[[], Awaitable[T]]) -> T:
        """Scan until that succeeds."""
        while (found := await self._attempt(scan)) is None:
            pass
        return found

    async def _attempt(self, scan: Callable[[], Awaitable[T]]) -> T | None:
        """Scan once; None, after a pause, where that fails.

        No process, thread or memory may be to be had, the answer may be cut short: whatever it is, files wait for this.
        """
        try:
            found = await scan()
        except Exception as error:  # noqa: BLE001 - not even a defect may leave files waiting for ever
            # Where the watched directory is away, the mirror says so, once.
            if not self.failing and not isinstance(error, FileNotFoundError):
                what = "search for changed files and hard links"
                self._log.warning(f"{what}: {error or type(error)}; it is made again")
            self.failing = True
            await asyncio.sleep(_PAUSE)
            return None
        self.failing = False
        return found

    async def _part(self, destination: bytes) -> dict[bytes, int]:
        groups = await self._tried(lambda: self._finder.groups_at(destination))
        return {name: NAME for names in groups for name in names}

    async def _learn_all(self, young_ns: int) -> dict[bytes, int]:
        self._catalogue_wanted = False
        began = time.time_ns() - _SLACK_NS
        found = await self._tried(lambda: self._finder.catalogue(young_ns))
        young = dict.fromkeys(found.young, CONTENT)
        async for file, path in in_slices(found.linked.items()):
            if self._watch(path, file) >= began:
                young[path] = CONTENT  # maybe after the scan came by, through a name that nobody has heard of
        if found.shaken:
            young[b""] = DOUBT  # rsync may have mixed up the attributes of others with theirs (decision 16)
        return young
