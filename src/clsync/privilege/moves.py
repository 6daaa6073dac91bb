"""Renames as broker and worker tell each other of them: columns of paths and numbers, a frame's worth at a time."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final

from clsync.core.moves import Kind, Move, Step
from clsync.privilege.wire import Refused, in_frames

_KINDS: Final = tuple(Kind)
_TIME, _WORD = struct.Struct("<d"), struct.Struct("<Q")
_FIELDS: Final = 3
"""Numbers that go with each move."""

Moved = tuple[list[bytes], list[bytes], list[int]]
"""Old and new paths, empty where there is none; of each: is it a directory, since when, its inode."""
Steps = tuple[list[int], list[bytes], list[bytes]]
"""Twice the number of the kind, and 1 for a directory; sources and targets."""


def packed_moves(moves: Sequence[Move]) -> Iterator[Moved]:
    """Yield moves as they are told."""
    olds, news = [move.old or b"" for move in moves], [move.new or b"" for move in moves]
    for part in _parts(olds, news):
        numbers = [n for m in moves[part] for n in (m.is_dir, _WORD.unpack(_TIME.pack(m.since))[0], m.inode)]
        yield olds[part], news[part], numbers


def unpacked_moves(olds: list[bytes], news: list[bytes], numbers: list[int]) -> Iterator[Move]:
    """Yield what was told. Raises Refused where it is none."""
    if not len(olds) == len(news) == len(numbers) / _FIELDS:
        raise Refused("moves that are none")
    rows = zip(olds, news, numbers[::_FIELDS], numbers[1::_FIELDS], numbers[2::_FIELDS], strict=True)
    for old, new, is_dir, since, inode in rows:
        yield Move(old or None, new or None, bool(is_dir), _TIME.unpack(_WORD.pack(since))[0], inode)


def packed_steps(steps: Sequence[Step]) -> Iterator[Steps]:
    """Yield steps as they are told."""
    sources, targets = [step.source for step in steps], [step.target for step in steps]
    for part in _parts(sources, targets):
        kinds = [_KINDS.index(step.kind) << 1 | step.is_dir for step in steps[part]]
        yield kinds, sources[part], targets[part]


def unpacked_steps(kinds: list[int], sources: list[bytes], targets: list[bytes]) -> list[Step]:
    """Return what was told. Raises Refused where it is none."""
    if not len(kinds) == len(sources) == len(targets):
        raise Refused("steps that are none")
    steps = []
    for number, source, target in zip(kinds, sources, targets, strict=True):
        if number >> 1 >= len(_KINDS):
            raise Refused("a kind of step that there is not")
        kind = _KINDS[number >> 1]
        if not target or (kind is Kind.MAKE) is bool(source):
            raise Refused("a step from nowhere, or to nowhere")
        steps.append(Step(kind, source, target, bool(number & 1)))
    return steps


def _parts(first: Sequence[bytes], second: Sequence[bytes]) -> Iterator[slice]:
    """Cut two columns of paths into parts that go into one frame each."""
    return in_frames([one + other for one, other in zip(first, second, strict=True)])
