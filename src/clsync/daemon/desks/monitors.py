"""Monitors: what the kernel tells, and the rules by which it is named."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from clsync.core.classify import LinkedFile
from clsync.core.moves import Move
from clsync.core.rules import Rules
from clsync.daemon.answers import Answers, Last, Later, WithDescriptors
from clsync.daemon.desks.shared import TURN, Shared, known
from clsync.daemon.looking import AT_ONCE, looked_at
from clsync.daemon.renames import visible
from clsync.kernel.files import opened
from clsync.monitor.base import Changed, Monitor, Unnamed
from clsync.privilege.moves import packed_moves
from clsync.privilege.wire import PATHS_AT_ONCE, Op, Refused, in_frames

_ARM_TURN: Final = 0.02
"""Seconds of work for one question."""
_MOST_MONITORS: Final = 3
_Item = TypeVar("_Item")


@dataclass
class _Watching:
    """A monitor at work for the worker."""

    monitor: Monitor
    rules: Rules
    arming: Iterator[None] | None = None
    taking: Iterator[Changed] | None = None
    moves: Iterator[Move | None] | None = None
    survivors: Iterator[Unnamed | None] | None = None


class Monitors:
    """Watches for the worker."""

    def __init__(self, shared: Shared) -> None:
        """Nothing is watched yet."""
        self._shared = shared
        self._watching: dict[int, _Watching] = {}
        self.quick: Answers = {
            Op.RULES: self._read_rules,
            Op.MONITOR_OPEN: self._open,
            Op.MONITOR_ARM: self._arm,
            Op.MONITOR_DRAIN: self._drain,
            Op.MONITOR_LOOK: self._look,
            Op.MONITOR_DESCRIBE: self._describe,
            Op.MONITOR_TAKE: self._take,
            Op.MONITOR_NEXT: self._next,
            Op.MONITOR_MOVES: self._moves,
            Op.MONITOR_NEXT_MOVES: self._next_moves,
            Op.MONITOR_SURVIVORS: self._survivors,
            Op.MONITOR_NEXT_SURVIVORS: self._next_survivors,
            Op.MONITOR_WATCH_FILE: self._watch_file,
            Op.MONITOR_COMPARED: self._compared,
            Op.MONITOR_CLOSE: self._close,
        }
        self.slow: Answers = {}

    def close(self) -> None:
        """Watch nothing any more."""
        for watching in self._watching.values():
            watching.monitor.close()

    def _read_rules(self) -> Sequence[Any]:
        rules = self._shared.access.read_rules(self._shared.made)
        self._shared.note_rules(rules)
        return (rules.source_text,)

    def _open(self, digest: bytes) -> WithDescriptors:
        rules = known(self._shared.rules, digest)
        if len(self._watching) >= _MOST_MONITORS:
            raise Refused("more monitors than there can be")
        number, monitor = self._shared.number(), self._shared.access.open_monitor(self._shared.made, rules)
        self._watching[number] = _Watching(monitor, rules, monitor.arm())
        return WithDescriptors((number,), (os.dup(monitor.fileno()),))

    def _arm(self, number: int) -> Sequence[Any]:
        watching = known(self._watching, number)
        until = time.monotonic() + _ARM_TURN
        for _ in watching.arming or ():
            if time.monotonic() > until:
                return (False,)
        watching.arming = None
        return (True,)

    def _drain(self, number: int) -> Sequence[Any]:
        monitor = known(self._watching, number).monitor
        filled, due = monitor.drain(), monitor.due()
        return filled, monitor.root_gone(), monitor.looking(), -1.0 if due is None else due, monitor.rest()

    def _look(self, number: int) -> Sequence[Any]:
        known(self._watching, number).monitor.begin_look()
        return ()

    def _describe(self, number: int) -> Sequence[Any]:
        return (known(self._watching, number).monitor.describe(),)

    def _take(self, number: int) -> Sequence[Any]:
        watching = known(self._watching, number)
        watching.taking = watching.monitor.take()
        return ()

    def _next(self, number: int) -> Later:
        watching = known(self._watching, number)
        if watching.taking is None:
            raise Refused("a window that nobody took")

        async def parts(taking: Iterator[Changed]) -> AsyncGenerator[Sequence[Any], None]:
            together: dict[int, list[bytes]] = {}
            count, until, done = 0, time.monotonic() + TURN, True
            for paths, bits in taking:
                together.setdefault(bits, []).extend(paths)
                count += len(paths)
                if count >= PATHS_AT_ONCE or time.monotonic() > until:
                    done = False
                    break
            for bits, found in together.items():
                for part in in_frames(found):
                    yield bits, found[part]
            yield Last((done,))

        return Later(parts(watching.taking))

    def _moves(self, number: int) -> Sequence[Any]:
        watching = known(self._watching, number)
        watching.moves = watching.monitor.moves()
        return ()

    def _next_moves(self, number: int) -> Later:
        watching = known(self._watching, number)
        if watching.moves is None:
            raise Refused("moves that nobody asked for")

        async def parts(moves: Iterator[Move | None]) -> AsyncGenerator[Sequence[Any], None]:
            seen = (visible(move, watching.rules) if move is not None else None for move in moves)
            found, done = _in_turn(seen, PATHS_AT_ONCE)
            for part in packed_moves(found):
                yield part
            yield Last((done,))

        return Later(parts(watching.moves))

    def _survivors(self, number: int) -> Sequence[Any]:
        watching = known(self._watching, number)
        watching.survivors = watching.monitor.survivors()
        return ()

    def _next_survivors(self, number: int) -> Later:
        watching = known(self._watching, number)
        if watching.survivors is None:
            raise Refused("survivors that nobody asked for")

        async def parts(survivors: Iterator[Unnamed | None]) -> AsyncGenerator[Sequence[Any], None]:
            found, done = _in_turn(survivors, AT_ONCE)
            for named in (True, False):
                these = [one for one in found if (one.path is not None) is named]
                yield [n for one in these for n in (*one.file, one.bits)], [one.path or b"" for one in these], named
            yield Last((done,))

        return Later(parts(watching.survivors))

    def _watch_file(self, number: int, paths: list[bytes], file: list[int]) -> Sequence[Any]:
        if len(paths) != 1 or len(file) != 3:
            raise Refused("a file that is none")
        monitor = known(self._watching, number).monitor
        try:
            with opened(self._shared.made.root) as root:
                stands = next(looked_at(root, paths)) is not None
        except OSError:
            stands = False  # it is the monitor that tells of a root that is gone
        return (monitor.watch_file(paths[0], LinkedFile(*file)) if stands else 0,)

    def _compared(self, number: int, paths: list[bytes], since: int) -> Sequence[Any]:
        known(self._watching, number).monitor.compared(paths, since)
        return ()

    def _close(self, number: int) -> Sequence[Any]:
        watching = known(self._watching, number)
        del self._watching[number]
        for work in (watching.arming, watching.taking, watching.moves, watching.survivors):
            if hasattr(work, "close"):
                work.close()
        watching.monitor.close()
        return ()


def _in_turn(items: Iterator[_Item | None], most: int) -> tuple[list[_Item], bool]:
    """Take what there is for one answer; tell whether that was all. None is a step without anything."""
    until, found = time.monotonic() + TURN, list[_Item]()
    for item in items:
        if item is not None:
            found.append(item)
        if len(found) >= most or time.monotonic() > until:
            return found, False
    return found, True
