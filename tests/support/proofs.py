"""Drawing much from hypothesis at little cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from hypothesis import settings
from hypothesis import strategies as st

T = TypeVar("T")


def examples(factor: float) -> settings:
    """Return the settings for `factor` times the examples of the profile (see tests/conftest.py)."""
    return settings(max_examples=max(1, int(settings().max_examples * factor)))


class Choices:
    """Choices taken from a string of bytes, the first option where it has ended.

    Drawing a value piece by piece costs hypothesis up to 0.1 ms a piece, a string of any length costs as much as one.
    A string is made simpler byte by byte, so options are to be given with the simplest first.
    """

    def __init__(self, source: bytes) -> None:
        """`source`: what hypothesis drew."""
        self._source = iter(source)

    def number(self, below: int) -> int:
        """Return a number from 0 up."""
        return next(self._source, 0) % below

    def one(self, options: Sequence[T]) -> T:
        """Return one of the options."""
        return options[self.number(len(options))]

    def some(self, options: Sequence[T], most: int) -> list[T]:
        """Return up to `most` options."""
        return [self.one(options) for _ in range(self.number(most + 1))]


def choices(size: int = 120) -> st.SearchStrategy[Choices]:
    """Return the strategy for `size` choices and no end of first options after them."""
    return st.binary(min_size=size, max_size=size).map(Choices)
