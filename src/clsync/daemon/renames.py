"""Renames of one target: what was moved at the source is moved there, too, before the batch that makes it exact.

An optimisation, and only where it is sure: the batch alone would do. What is carried out here is compared afterwards, as
what is in doubt is, instead of being sent again.
"""

from __future__ import annotations

import secrets
import stat
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from clsync.core.changes import ATTRIB, CARRIED, CONTENT, DOUBT, MOVED, NAME, OF_DIRECTORY
from clsync.core.classify import Classifier, Freshness
from clsync.core.dirty import DirtySet
from clsync.core.moves import Kind, Move, Plan, Step
from clsync.core.overlap import Overlap
from clsync.core.paths import ancestors, parent
from clsync.core.rules import Rules
from clsync.core.steps import done
from clsync.handler.base import PathRules, Renamed, Renames
from clsync.kernel.ops import Looks

_WIDE = NAME | DOUBT
"""A change of a directory that concerns everything below it."""


@dataclass
class Arrival:
    """What a target was handed last."""

    entries: Mapping[bytes, int]
    at: float
    """When it had ended (monotonic seconds)."""


class Source(NamedTuple):
    """What the source is asked."""

    looks: Looks
    rules: PathRules | None


class Moves:
    """What was moved in the window that a target is to be handed next."""

    def __init__(self) -> None:
        self._moves: list[Move] = []
        self._unsure: set[Move] = set()
        """Those of them of which the target may not have what stood there before."""
        self.since = 0.0
        """When that window was opened (wall clock)."""

    def note(self, moves: Sequence[Move], since: float, dirty: DirtySet) -> None:
        """Note what was moved in a window; `dirty`: what the target did not have before, without that window."""
        if not moves:
            return
        if self._moves:
            self.forget()  # two windows: places of the one are none of the other
            return
        self._moves, self.since = list(moves), since
        waiting = dirty.paths()
        held = waiting | {up for path in waiting for up in ancestors(path)}
        self._unsure = {move for move in moves if _is_held(move, held, dirty)} if waiting else set()

    def forget(self) -> None:
        """Use none of it."""
        self._moves, self._unsure = [], set()

    def take(self) -> list[Move]:
        """Return the moves, and forget them."""
        moves, self._moves = self._moves, []
        return moves

    def sure(self, move: Move) -> bool:
        """Tell whether the target has what stood at the old place, if nothing was handed over since."""
        return move not in self._unsure


def _is_held(move: Move, held: set[bytes], dirty: DirtySet) -> bool:
    """Tell whether something at or below the old place, or all that is around it, is not known to be equal."""
    if move.old is None or move.old in held:
        return True
    return any(dirty.bits_of(up) & _WIDE for up in (b"", *ancestors(move.old)))


def overtaken(moves: Iterable[Move], last: Arrival | None) -> set[bytes]:
    """Return the places of what the last batch may have dealt with, before or after it was moved."""
    early = [move for move in moves if last is not None and move.since < last.at]
    if not early or last is None:
        return set()
    overlap = Overlap()
    done(overlap.begin(last.entries))
    places = {path for move in early for path in (move.old, move.new) if path is not None}
    met = places.difference(*overlap.free(places))
    dealt = [move for move in early if move.old in met or move.new in met]
    return {path for move in dealt for path in (move.old, move.new) if path is not None}


def lies_in(move: Move, places: set[bytes]) -> bool:
    """Tell whether something was moved from or to one of some places, or a place below one."""
    paths = [path for path in (move.old, move.new) if path is not None]
    return any(up in places for path in paths for up in (*ancestors(path), path)) if places else False


async def carry_out(
    moves: list[Move],
    sure: Callable[[Move], bool],
    handler: Renames,
    source: Source,
    taken: MutableMapping[bytes, int],
) -> dict[bytes, bool]:
    """Move at the target what can be moved there, and let `taken` say what is left to be done.

    Return what has only to be compared: path -> it is a directory.
    """
    rules = source.rules
    source.looks.expect([move.new for move in moves if move.old is not None and move.new is not None])
    stands = Classifier(source.looks.lstat, Freshness(0, 0)).stands

    def wanted(move: Move) -> bool:
        if move.old is None or move.new is None or not sure(move):
            return False
        if rules is not None and not (
            is_free(move.old, move.is_dir, rules) and is_free(move.new, move.is_dir, rules)
        ):
            return False
        found = stands(move.new)
        if found is None or found.st_ino != (move.inode or found.st_ino):
            return False
        return stat.S_ISDIR(found.st_mode) if move.is_dir else stat.S_ISREG(found.st_mode) and found.st_nlink == 1

    token = secrets.token_hex(6).encode()
    plan = Plan(
        moves,
        wanted,
        came=lambda path: bool(taken.get(path, 0) & NAME),
        spare=lambda number: b".clsync-%s-%d" % (token, number),
        swaps=handler.swaps,
    )
    spares = plan.aside_ever()
    if rules is not None and not all(is_free(path, True, rules) for path in spares):
        return {}  # what is put aside would not be removed
    result = await handler.rename(plan.steps) if plan.steps else Renamed(0)
    arrived = plan.done(result.steps)
    compared = dict.fromkeys(plan.made(result.made), True)
    compared |= {move.new: move.is_dir for move in arrived if move.new is not None}
    for path, is_dir in compared.items():
        changed = taken.get(path, 0)
        written = CONTENT if changed & (CONTENT | CARRIED) else 0
        taken[path] = changed & ~(NAME | MOVED | OF_DIRECTORY) | DOUBT if is_dir else written | ATTRIB
    left = [*plan.aside(result.steps), *result.left]
    for path in left:
        taken[path] = NAME
    # The directories that held or hold what was moved have other times now.
    touched = {parent(path) for step in plan.steps[: result.steps] for path in (step.source, step.target) if path}
    for path in touched | ({b""} if left else set()):
        taken[path] = taken.get(path, 0) | ATTRIB
    return compared


def visible(move: Move, rules: Rules) -> Move:
    """Return what may be told of a move to who knows what rules let through alone."""
    old, new = (None if path is None or not _is_told(path, rules) else path for path in (move.old, move.new))
    return move._replace(old=old, new=new)


def _is_told(path: bytes, rules: Rules) -> bool:
    return not rules or rules.watches(parent(path))


def demanded(steps: Iterable[Step], rules: Rules) -> bool:
    """Tell whether rules let all steps be carried out, as who has made them should have seen to."""
    return not rules or all(_may_be_done(step, rules) for step in steps)


def _may_be_done(step: Step, rules: Rules) -> bool:
    if step.kind is Kind.MAKE:
        return rules.reaches(step.target)
    return all(rules.recursion_is_free(p) and rules.reaches(parent(p)) for p in (step.source, step.target))


def is_free(path: bytes, is_dir: bool, rules: PathRules) -> bool:
    """Tell whether no rule can reject anything at or below a path."""
    return rules.recursion_is_free(path) and rules.permits(path, is_dir)
