"""Comparisons of targets with the source."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any, Final

from clsync.daemon.answers import Answers, Later
from clsync.daemon.comparing import Comparisons
from clsync.daemon.desks.shared import Shared, known
from clsync.daemon.handlers import can_compare
from clsync.handler.compare.base import Question
from clsync.privilege.wire import Op, Refused

_MOST_COMPARISONS: Final = 8
"""For one target."""


class Comparing:
    """Compares for the worker."""

    def __init__(self, shared: Shared) -> None:
        """Nothing is compared yet."""
        self._shared = shared
        self._comparisons = Comparisons()
        self.quick: Answers = {}
        self.slow: Answers = {
            Op.COMPARE_OPEN: self._open,
            Op.COMPARE: self._ask,
            Op.COMPARE_PATHS: self._paths,
            Op.COMPARE_NEXT: self._next,
            Op.COMPARE_END: self._end,
            Op.COMPARE_CLOSE: self._close,
        }

    def stop(self) -> None:
        """Tell everything to end."""
        self._comparisons.stop()

    async def aclose(self) -> None:
        """Give everything back. Raises OperatorError, OSError."""
        await self._comparisons.aclose()

    def _open(self, number: int, generation: int, target: int) -> Later:
        if generation > self._shared.newest:
            raise Refused("settings that there never were")
        prepared = self._shared.generations.get(generation)
        if prepared is None:
            raise OSError(errno.ESTALE, "the settings were changed")
        if target >= len(prepared.plans):
            raise Refused("a target that there is not")
        made = prepared.plans[target]
        if not can_compare(made):
            raise Refused("to compare what the handler alone knows")
        if len(self._comparisons) >= _MOST_COMPARISONS * len(prepared.plans):
            # No lie: so many may have asked for it.
            raise OSError(errno.EBUSY, "too many comparisons are at work")
        opened = self._comparisons.open(number, lambda: self._shared.access.new_comparison(made))
        return Later(opened, alone=False)

    def _ask(self, number: int, root: int, digest: bytes, whole: bool, content: bool, rate: int) -> Sequence[Any]:
        directory, rules = known(self._shared.directories, root), known(self._shared.rules, digest)
        self._shared.demand_source(root, "compare")
        question = Question(directory, rules if rules else None, None if whole else (), content, rate)
        self._comparisons.ask(number, question)
        return ()

    def _paths(self, number: int, paths: list[bytes]) -> None:
        self._comparisons.add(number, paths)

    def _next(self, number: int) -> Later:
        return Later(self._comparisons.next(number), alone=False)

    def _end(self, number: int) -> Later:
        return Later(self._comparisons.end(number), alone=False)

    def _close(self, number: int) -> Later:
        return Later(self._comparisons.close(number), alone=False)
