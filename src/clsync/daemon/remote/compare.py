"""Comparisons on the worker's side: made by the broker, a part for each time that it is asked for one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from clsync.core.rules import Rules
from clsync.daemon.desks.shared import digest_of
from clsync.handler.compare.base import ComparisonFailed, Part, Question
from clsync.privilege.differences import unpacked_differences
from clsync.privilege.wire import Op, in_frames

if TYPE_CHECKING:
    from clsync.daemon.remote.calls import Calls


class RemoteComparison:
    """Has a target compared by the broker (see `handler.compare.base.Comparison`)."""

    def __init__(self, calls: Calls, number: int) -> None:
        """`number`: that of no other comparison."""
        self._calls, self._number = calls, number

    async def open(self, generation: int, target: int) -> None:
        """Have it made, for one of the plans of a generation. Raises OperatorError, OSError."""
        try:
            await self._calls.call(Op.COMPARE_OPEN, self._number, generation, target)
        except asyncio.CancelledError:
            await self.aclose()  # whether it was made or not
            raise

    async def differences(self, question: Question) -> AsyncGenerator[Part, None]:
        """Yield what differs. Raises ComparisonFailed; OSError where the source cannot be looked at."""
        try:
            await self._ask(question)
            done = False
            while not done:
                await question.hold()
                parts: list[list[Any]] = []
                done, entries, trouble = await self._calls.call(Op.COMPARE_NEXT, self._number, parts=parts)
                if trouble:
                    raise ComparisonFailed(trouble)
                yield Part([one for told in parts for one in unpacked_differences(*told)], entries)
        finally:
            await self._calls.call(Op.COMPARE_END, self._number)

    async def _ask(self, question: Question) -> None:
        assert question.rules is None or isinstance(question.rules, Rules)
        digest = digest_of(question.rules if question.rules is not None else Rules())
        whole = question.paths is None
        values = question.root, digest, whole, question.content, question.rate
        await self._calls.call(Op.COMPARE, self._number, *values)
        paths = list(question.paths or ())
        for part in in_frames(paths):
            self._calls.tell(Op.COMPARE_PATHS, self._number, paths[part])
            await self._calls.drained()

    async def aclose(self) -> None:
        """Give it back. Raises OperatorError, OSError."""
        await self._calls.call(Op.COMPARE_CLOSE, self._number)
