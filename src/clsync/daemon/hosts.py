"""Whether what a target on another host was given is still there: that host may have lost its power (decision 44)."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from clsync.core.batch import Outcome, Verdict
from clsync.core.trouble import Trouble, kind_of
from clsync.daemon.keeping import Keeping
from clsync.handler.base import AsksHost, Handler, HostNews
from clsync.state.store import Dirty, Store

_WRITTEN: Final = 120.0
"""Seconds after which any host has written what it was given: Linux does after 35, and what names it after 30 more."""
_ASK_EVERY: Final = 60.0
"""Seconds between two questions after batches, while nobody answers."""


Lose = Callable[[Callable[[Store], list[Dirty]]], Awaitable[int]]
"""Lets be handed over again what the target may have lost: what it is given returns. Returns how many paths that are."""


class Host:
    """The host of one target, for as long as one state is kept.

    What it has not said it has flushed is not flushed, and what it was given before it has booted may be lost.
    """

    def __init__(self, keeping: Keeping, key: bytes, called: str, handler: Callable[[], Handler], lose: Lose) -> None:
        """`key` and `called`: of the target; `handler` returns who can be asked of it."""
        self._keeping, self._key, self._called, self._handler, self._lose = keeping, key, called, handler, lose
        self._log = keeping.log
        self._known = False
        """It has said in which boot it is."""
        self._mute = False
        """It never does."""
        self._asked_at = float("-inf")
        self._begun: deque[tuple[float, int]] = deque()
        """When flushes began, and their numbers."""

    async def begin(self) -> None:
        """Find out at a start what of the last run may be lost."""
        news = await self._ask(flush=False)
        if news.boot:
            await self._note_boot(news.boot)
        else:
            await self._doubt("it does not say whether it has booted")

    async def note(self, outcome: Outcome) -> None:
        """Be told how a batch went, before anything of it is confirmed."""
        if outcome.verdict is not Verdict.UNWELL:
            if not (self._known or self._mute) and time.monotonic() - self._asked_at > _ASK_EVERY:
                self._asked_at = time.monotonic()
                news = await self._ask(flush=False)
                if news.boot:
                    await self._note_boot(news.boot)
        elif self._mute and kind_of(outcome.message, outcome.code) is Trouble.CONNECTION:
            await self._doubt("it was out of reach, and may have lost its power")

    async def flushed(self, number: int) -> int:
        """Have the target flushed; return up to which flush all is durable there now, 0 where that is not known.

        `number`: of the flush that begins.
        """
        written = self._written(number)
        news = await self._ask(flush=True)
        if news.boot == b"" or (news.boot and await self._note_boot(news.boot)):
            return 0
        return number if news.flushed else written

    def _written(self, number: int) -> int:
        """Note that a flush begins; return the last one that began so long ago that it has come about by itself."""
        now = time.monotonic()
        self._begun.append((now, number))
        while len(self._begun) > 1 and self._begun[1][0] <= now - _WRITTEN:
            self._begun.popleft()
        since, oldest = self._begun[0]
        return oldest if since <= now - _WRITTEN else 0

    async def _ask(self, *, flush: bool) -> HostNews:
        handler = self._handler()
        news = await handler.ask_host(flush=flush) if isinstance(handler, AsksHost) else HostNews(None)
        if news.boot is None and not self._mute:
            self._log.debug(1, f"the host of {self._called} does not say in which boot it is")
        self._mute = news.boot is None
        return news

    async def _note_boot(self, boot: bytes) -> bool:
        """Note in which boot the host is; tell whether that is another one."""
        store = self._keeping.kept
        if store is None:
            return False
        before = await self._keeping.access.apart(store.boot_of, self._key)
        self._known = True
        if before == boot:
            return False
        lost = await self._lose(lambda store: store.note_boot(self._key, boot))
        self._tell(lost, "it has booted")
        return True

    async def _doubt(self, why: str) -> None:
        if self._keeping.kept is not None:
            self._tell(await self._lose(self._doubted), why)

    def _doubted(self, store: Store) -> list[Dirty]:
        return store.doubt(self._key) if store.awaiting_flush(self._key) else []

    def _tell(self, lost: int, why: str) -> None:
        self._begun.clear()
        if lost:
            self._log.info(f"the host of {self._called}: {why}; {lost} paths are handed over again")
