"""Work that goes step by step, so that whoever does it can let others have their turn in between."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
_AT_A_STEP = 512
"""Paths; a step takes about a millisecond."""


def parts(items: Iterable[T]) -> Iterator[list[T]]:
    """Yield items, as many at a time as go into one step."""
    iterator = iter(items)
    while part := list(islice(iterator, _AT_A_STEP)):
        yield part


def done(steps: Generator[object, None, T]) -> T:
    """Do all steps without a pause, and return what comes of them."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
