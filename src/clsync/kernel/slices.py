"""Long loops that let the event loop have its turn: the kernel's event queue is drained in between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterable
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
_LOOKED_AT = 64
_TURN = 0.01


class Turn:
    """For a loop that goes on after each step: lets the event loop have its turn after 10 ms of work."""

    def __init__(self) -> None:
        self._until = time.monotonic() + _TURN

    async def rest_if_due(self) -> None:
        """Let others work, if it is time."""
        if time.monotonic() > self._until:
            await asyncio.sleep(0)
            self._until = time.monotonic() + _TURN


async def in_steps(steps: Generator[object, None, T]) -> T:
    """Do work that goes step by step, and return what comes of it; after each 10 ms the event loop gets its turn."""
    turn = Turn()
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        await turn.rest_if_due()


async def in_slices(items: Iterable[T]) -> AsyncIterator[T]:
    """Yield items; after each 10 ms of work the event loop gets its turn."""
    async for part in in_parts(items):
        for item in part:
            yield item


async def in_parts(items: Iterable[T], size: int = _LOOKED_AT) -> AsyncGenerator[list[T], None]:
    """Yield items, `size` at a time; after each 10 ms of work the event loop gets its turn."""
    turn = Turn()
    iterator = iter(items)
    while part := list(islice(iterator, size)):
        yield part
        await turn.rest_if_due()
