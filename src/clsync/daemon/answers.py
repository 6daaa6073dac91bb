"""Answers of the broker that are more than values."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from typing import Any

from clsync.privilege.wire import Op

Answers = dict[Op, Callable[..., Any]]
"""What answers which question: with values, `Later`, or nothing where something is only told."""


class Later:
    """An answer that comes in parts, the last one a `Last`, or none."""

    def __init__(self, parts: AsyncGenerator[Sequence[Any], None], alone: bool = True) -> None:
        """`alone`: no other question is taken meanwhile."""
        self.parts, self.alone = parts, alone


class Last(tuple[Any, ...]):
    """The values of the end of an answer."""

    __slots__ = ()


class WithDescriptors(tuple[Any, ...]):
    """An answer that descriptors come with."""

    descriptors: Sequence[int]

    def __new__(cls, values: Iterable[Any], descriptors: Sequence[int]) -> WithDescriptors:
        """`descriptors`: closed when they are sent."""
        made = super().__new__(cls, values)
        made.descriptors = descriptors
        return made
