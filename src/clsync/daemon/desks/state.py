"""What the worker needs that keeps the state: scanners, and looks at targets."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from clsync.daemon.answers import Answers, Last, Later, WithDescriptors
from clsync.daemon.desks.shared import Shared, known
from clsync.daemon.desks.tree import Tree
from clsync.daemon.plan import one_file_system_level
from clsync.privilege.wire import Op, Refused, in_frames

if TYPE_CHECKING:
    from clsync.daemon.stateaccess import DirectStateAccess


_MOST_SCANNERS: Final = 4
"""Of the whole state (`state.scan.MOST`)."""


class State:
    """Looks for the state of the worker."""

    def __init__(self, shared: Shared, tree: Tree, state: DirectStateAccess | None) -> None:
        """`state`: what does it; None: no state is kept."""
        self._shared, self._tree, self._state = shared, tree, state
        self.quick: Answers = {Op.STATE_SCAN: self._scan}
        self.slow: Answers = {
            Op.TARGET_EMPTY: self._is_empty,
            Op.TARGET_ONLY_THERE: self._only_there,
            Op.TARGET_ABSENT: self._absent,
            Op.TARGET_COUNT: self._count,
            Op.FLUSH: self._flush,
        }

    def stop(self) -> None:
        """End what is waited for."""
        if self._state is not None:
            self._state.stop()

    def _scan(self, number: int, record: bool, digest: bytes, since: float) -> WithDescriptors:
        """Start a scanner by our own rules; the worker is only told what it finds, and says where it goes on.

        `since`: see `state.messages.Order`; what it is changes nothing but what the worker will take for sure.
        """
        from clsync.state.messages import COMPARE, RECORD
        from clsync.state.walker import Scope

        rules, state = known(self._shared.rules, digest), self._demanded()
        root = known(self._shared.directories, number)
        self._shared.demand_source(number, "scan")
        if len(self._tree.scanners) >= _MOST_SCANNERS:
            raise Refused("more scanners than there can be")
        scope = Scope(rules, one_file_system_level(self._shared.made.settings))
        scanner = state.start(RECORD if record else COMPARE, root, scope, since)
        return WithDescriptors((self._tree.note_scanner(scanner),), (scanner.connection.detach(),))

    def _demanded(self) -> DirectStateAccess:
        """Return what the state needs. Raises Refused where there is none."""
        if self._state is None:
            raise Refused("something for a state that there is not")
        self._state.follow([plan.local for plan in self._shared.now.plans])
        return self._state

    def _is_empty(self, target: int) -> Later:
        state = self._demanded()
        self._demand_target(target)

        async def told() -> AsyncGenerator[Sequence[Any], None]:
            yield Last((await state.is_empty(target),))

        return Later(told(), alone=False)

    def _count(self, target: int, paths: list[bytes], most: int) -> Later:
        state = self._demanded()
        self._demand_target(target)

        async def told() -> AsyncGenerator[Sequence[Any], None]:
            yield Last((await state.count(target, paths, most),))

        return Later(told(), alone=False)

    def _only_there(self, target: int, directories: list[bytes]) -> Later:
        return self._paths(target, lambda state: state.only_there(target, directories))

    def _absent(self, target: int, paths: list[bytes]) -> Later:
        return self._paths(target, lambda state: state.absent(target, paths))

    def _paths(self, target: int, find: Callable[[DirectStateAccess], Awaitable[list[bytes]]]) -> Later:
        """Answer with paths of a target."""
        state = self._demanded()
        self._demand_target(target)

        async def told() -> AsyncGenerator[Sequence[Any], None]:
            found = await find(state)
            for part in in_frames(found):
                yield (found[part],)

        return Later(told(), alone=False)

    def _flush(self, target: int) -> Later:
        """Flush the file system of a target, from 1 on, or the watched one (0)."""
        state = self._demanded()
        if target:
            self._demand_target(target - 1)

        async def flushed() -> AsyncGenerator[Sequence[Any], None]:
            yield Last((await state.flush(target - 1 if target else None),))

        return Later(flushed(), alone=False)

    def _demand_target(self, target: int) -> None:
        if target >= len(self._shared.now.plans):
            raise Refused("a target that there is not")
