"""What every comparison of a destination offers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from clsync.core.verification import Difference
from clsync.handler.base import PathRules

RUN_COST = 5000
"""Entries as which the start of a process counts where there is a rate: it takes as long as looking at so many."""


async def _never() -> None:
    """Go on."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be compared."""

    root: int
    """Descriptor of the watched directory, valid until the comparison has ended."""
    rules: PathRules | None
    paths: Collection[bytes] | None = None
    """Just these, and nothing below them; None: everything."""
    content: bool = False
    """Files of equal size and mtime as well."""
    rate: int = 0
    """Entries a second at most, 0 for any. 64 KiB of content count as one."""
    hold: Callable[[], Awaitable[None]] = _never
    """Awaited often: it goes on when that returns."""


class Part(NamedTuple):
    """Something of what a comparison has found."""

    differences: list[Difference]
    entries: int
    """How many entries were looked at."""


class ComparisonFailed(Exception):
    """The destination cannot be compared now; the text says why."""


class Comparison(Protocol):
    """Compares one destination with the source."""

    def differences(self, question: Question) -> AsyncGenerator[Part, None]:
        """Yield what differs. It changes nothing. Raises ComparisonFailed."""
        ...

    async def aclose(self) -> None:
        """Give everything back."""
        ...
