"""Comparisons that the broker makes for the worker: by its own plans and rules, and no faster than it is asked."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Final

from clsync.daemon.answers import Last
from clsync.handler.compare.base import Comparison, ComparisonFailed, Part, Question
from clsync.privilege.differences import packed_differences
from clsync.privilege.wire import Refused

_MOST_PATHS: Final = 200_000
"""Of one question. The worker holds fewer differences at a time."""
Parts = AsyncGenerator[Sequence[Any], None]


class _Answering:
    """A question that is being answered: one part for each time that somebody asks for one."""

    def __init__(self, comparison: Comparison, question: Question) -> None:
        self._comparison, self._question = comparison, replace(question, hold=self._hold)
        self._asked = asyncio.Event()
        self._told: asyncio.Future[Part] | None = None
        self._task = asyncio.get_running_loop().create_task(self._answer())
        self.waited_for = False
        """Whether somebody waits for a part, or is being told one."""

    async def next(self) -> Part | None:
        """Return the next part, None after the last one. Raises ComparisonFailed, OSError."""
        told: asyncio.Future[Part] = asyncio.get_running_loop().create_future()
        self._told = told
        self._asked.set()
        await asyncio.wait((told, self._task), return_when=asyncio.FIRST_COMPLETED)
        if told.done():
            return told.result()
        if not self._task.cancelled():
            self._task.result()
        return None

    async def _answer(self) -> None:
        await self._asked.wait()
        async with aclosing(self._comparison.differences(self._question)) as parts:
            async for part in parts:
                await self._tell(part)

    async def _hold(self) -> None:
        """Let the worker say when it goes on."""
        await self._tell(Part([], 0))

    async def _tell(self, part: Part) -> None:
        assert self._told is not None
        self._told.set_result(part)
        self._asked.clear()
        await self._asked.wait()

    def stop(self) -> None:
        """End it as it is."""
        self._task.cancel()

    async def stopped(self) -> None:
        """End it as it is, and wait for that."""
        self.stop()
        await asyncio.wait((self._task,))
        if not self._task.cancelled():
            self._task.exception()  # who had to know was told


@dataclass
class _Compared:
    """One target that is compared."""

    comparison: Comparison | None = None
    """None while it is being made."""
    gone: bool = False
    """The worker does not want it any more."""
    question: Question | None = None
    paths: list[bytes] = field(default_factory=list)
    """Those of the question that have come."""
    answering: _Answering | None = None

    async def end(self) -> None:
        """End the question, if there is one."""
        if self.answering is not None:
            await self.answering.stopped()
        if self.question is not None:
            os.close(self.question.root)
        self.question, self.paths, self.answering = None, [], None

    async def aclose(self) -> None:
        """Give everything back. Raises OperatorError, OSError."""
        await self.end()
        if self.comparison is not None:
            await self.comparison.aclose()


class Comparisons:
    """All that the worker has asked for."""

    def __init__(self) -> None:
        self._known: dict[int, _Compared] = {}

    def __len__(self) -> int:
        return len(self._known)

    def open(self, number: int, make: Callable[[], Awaitable[Comparison]]) -> Parts:
        """Have what compares a target made. Raises Refused; the answer OperatorError and OSError."""
        if number in self._known:
            raise Refused("a comparison twice")
        one = self._known[number] = _Compared()
        return self._opened(number, one, make)

    async def _opened(self, number: int, one: _Compared, make: Callable[[], Awaitable[Comparison]]) -> Parts:
        try:
            made = await make()
        except BaseException:
            if self._known.get(number) is one:
                del self._known[number]
            raise
        if one.gone:
            await made.aclose()
            raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))
        one.comparison = made
        yield Last(())

    def ask(self, number: int, question: Question) -> None:
        """Take a question; its descriptor is duplicated. Its paths, if there are any, come later.

        Raises Refused, OSError.
        """
        one = self._ready(number)
        if one.question is not None:
            raise Refused("two questions for one comparison")
        one.question = replace(question, root=os.dup(question.root))

    def add(self, number: int, paths: list[bytes]) -> None:
        """Take paths of a question that has not begun. Raises Refused."""
        one = self._ready(number)
        if one.question is None or one.question.paths is None or one.answering is not None:
            raise Refused("paths of no question")
        one.paths += paths
        if len(one.paths) > _MOST_PATHS:
            raise Refused("more paths than there can be")

    def next(self, number: int) -> Parts:
        """Let a question be answered, one part further. Raises Refused; the answer OSError."""
        one = self._ready(number)
        if one.question is None or one.comparison is None:
            raise Refused("an answer to no question")
        if one.answering is None:
            paths = None if one.question.paths is None else one.paths
            one.answering = _Answering(one.comparison, replace(one.question, paths=paths))
        if one.answering.waited_for:
            raise Refused("two parts at once")
        one.answering.waited_for = True
        return self._told(one.answering)

    async def _told(self, answering: _Answering) -> Parts:
        trouble, part = "", None
        try:
            part = await answering.next()
            for told in packed_differences(part.differences if part is not None else ()):
                yield told
        except ComparisonFailed as error:
            trouble = str(error) or "it cannot be compared"
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 - what a destination says must not end both
            trouble = f"{type(error).__name__}: {error}"
        finally:
            answering.waited_for = False
        yield Last((part is None, part.entries if part is not None else 0, trouble))

    def end(self, number: int) -> Parts:
        """End a question, whether it is answered or not."""
        return self._ended(self._known.get(number))

    async def _ended(self, one: _Compared | None) -> Parts:
        if one is not None:
            await one.end()
        yield Last(())

    def close(self, number: int) -> Parts:
        """End all of a comparison, whether it is made or not."""
        one = self._known.pop(number, None)
        if one is not None:
            one.gone = True
        return self._closed(one)

    async def _closed(self, one: _Compared | None) -> Parts:
        if one is not None:
            await one.aclose()
        yield Last(())

    def stop(self) -> None:
        """Let nobody wait for a part any more."""
        for one in self._known.values():
            one.gone = True
            if one.answering is not None:
                one.answering.stop()

    async def aclose(self) -> None:
        """End everything. Raises OperatorError, OSError."""
        left = [one.aclose() for one in self._known.values()]
        self._known = {}
        for result in await asyncio.gather(*left, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    def _ready(self, number: int) -> _Compared:
        one = self._known.get(number)
        if one is None or one.comparison is None:
            raise Refused("a comparison that was never given")
        return one
