"""Memory that is bounded."""

from __future__ import annotations

from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


def remember(known: dict[K, V], key: K, value: V, limit: int) -> None:
    """Note a value as the latest; of files that are gone nobody tells, so the oldest is dropped when there are many."""
    known.pop(key, None)
    known[key] = value
    if len(known) > limit:
        del known[next(iter(known))]
