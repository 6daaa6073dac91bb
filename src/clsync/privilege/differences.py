"""Differences as the broker tells the worker of them: columns of paths and numbers, a frame's worth at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from clsync.core.verification import Aspect, Difference
from clsync.privilege.wire import Refused, in_frames

_ALL: Final = sum(Aspect)

Told = tuple[list[bytes], list[int], list[int]]
"""Paths; of each: its aspects, and how many entries it stands for."""


def packed_differences(found: Sequence[Difference]) -> Iterator[Told]:
    """Yield differences as they are told."""
    paths = [one.path for one in found]
    for part in in_frames(paths):
        yield paths[part], [int(one.aspects) for one in found[part]], [one.entries for one in found[part]]


def unpacked_differences(paths: list[bytes], aspects: list[int], entries: list[int]) -> list[Difference]:
    """Return what was told. Raises Refused where it is none."""
    if not len(paths) == len(aspects) == len(entries) or any(one & ~_ALL for one in aspects):
        raise Refused("differences that are none")
    return [Difference(path, Aspect(one), count) for path, one, count in zip(paths, aspects, entries, strict=True)]
