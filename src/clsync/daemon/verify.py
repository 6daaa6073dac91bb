"""Proves that source and target agree, and mends what does not, while everything goes on.

What differs at one moment proves nothing: it may be on its way. So a path counts only if it differs still when all has
arrived that was dirty when it was found, and nothing is known to have happened to it while it was looked at again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from clsync.core.changes import CONTENT, NAME
from clsync.core.paths import shown
from clsync.core.verification import Aspect, Difference, Moving, bits_to_mend
from clsync.daemon.arrival import Arrival
from clsync.daemon.delivery import Delivery
from clsync.daemon.root import Directory
from clsync.daemon.source import Source
from clsync.errors import OperatorError
from clsync.handler.base import PathRules
from clsync.handler.compare.base import Comparison, ComparisonFailed, Question

if TYPE_CHECKING:
    from clsync.daemon.memory import Memory
    from clsync.state.scan import Scanned

_LOOKS: Final = 3
"""Looks at a path that changes all the time before it is left alone."""
_MOMENT: Final = 0.5
"""Seconds between two looks at what differs where nobody tells what is on its way."""
_MOST: Final = 100_000
"""Differences that are held at a time; of more it is only told that they are there."""


class Wish(NamedTuple):
    """How somebody wants a target to be verified."""

    content: bool = False
    """Files of equal size and mtime are compared as well."""
    repair: bool = False
    rate: int = 0
    """Entries a second, 0 for any."""


@dataclass
class Report:
    """What came of it, at one target."""

    name: str
    """What messages call the target."""
    entries: int = 0
    """How many were looked at."""
    differences: dict[bytes, Difference] = field(default_factory=dict)
    more: int = 0
    """Differences beyond those that are held."""
    mended: set[bytes] = field(default_factory=set)
    """Those of the paths that agree by now."""
    reasons: Mapping[bytes, str] = field(default_factory=dict)
    """Why some of the others do not."""
    moving: int = 0
    """Paths of which nothing can be said, because they change all the time."""
    trouble: str = ""
    """Why the target could not be compared."""

    @property
    def left(self) -> int:
        """How many paths differ still."""
        return len(self.differences) - len(self.mended) + self.more


Watching = Callable[[], Awaitable[Moving]]
"""Tells what may have been anything since it was begun."""
Seen = Callable[[], Awaitable[Mapping[bytes, int]]]
"""Tells what has changed, and is not dirty yet: path -> change bits (`core.changes`)."""


class Around(Protocol):
    """What happens around a comparison."""

    @property
    def name(self) -> str:
        """What messages call the target."""
        ...

    @property
    def rules(self) -> PathRules | None:
        """What is synced, now."""
        ...

    async def hold(self) -> None:
        """Return when it may go on."""
        ...

    async def settle(self) -> None:
        """Return when all that was dirty has arrived, or failed."""
        ...

    def watched(self) -> AbstractAsyncContextManager[Watching]:
        """Notice what happens, for the time of an `async with` block."""
        ...

    def mend(self, changes: Mapping[bytes, int], extra: Mapping[bytes, int]) -> None:
        """Let paths be made equal: change bits, and how many entries those are that are there alone."""
        ...

    def reasons(self) -> Mapping[bytes, str]:
        """Return why paths could not be made equal; the empty path stands for all of them."""
        ...


class Verification:
    """Compares one target."""

    def __init__(self, root: Directory, comparison: Comparison, around: Around, wish: Wish) -> None:
        """`root`: the watched directory."""
        self._root, self._comparison, self._around, self._wish = root, comparison, around, wish
        self.report = Report(around.name)
        self._moving: set[bytes] = set()
        """Paths that were left alone because they change all the time."""

    async def run(self, tell: Callable[[Report], None] = lambda report: None) -> Report:
        """Compare everything, and mend it if that is wished; `tell` is told now and then how far it has come.

        Raises ComparisonFailed; OSError where the watched directory is away.
        """
        report = self.report
        report.differences = await self._proven(await self._compare(None, tell))
        report.moving = len(self._moving)
        if self._wish.repair and report.differences:
            await self._mend(report)
        return report

    async def _compare(
        self, paths: Collection[bytes] | None, tell: Callable[[Report], None] = lambda report: None
    ) -> dict[bytes, Difference]:
        """Compare everything, or some paths."""
        found: dict[bytes, Difference] = {}
        wish, around, whole = self._wish, self._around, paths is None
        trouble = self._root.trouble()
        if trouble is not None:
            raise ComparisonFailed(f"{shown(self._root.path)}: {trouble}")
        with self._root.opened() as root:
            rate, hold = (wish.rate, around.hold) if whole else (0, _at_once)
            question = Question(root, around.rules, paths, wish.content, rate, hold)
            async with aclosing(self._comparison.differences(question)) as parts:
                async for part in parts:
                    for one in part.differences:
                        known = found.get(one.path)
                        if known is not None:
                            found[one.path] = one._replace(aspects=one.aspects | known.aspects)
                        elif len(found) < _MOST:
                            found[one.path] = one
                        else:
                            self.report.more += 1
                    if whole:
                        self.report.entries += part.entries
                        tell(self.report)
        return found

    async def _proven(self, found: Mapping[bytes, Difference]) -> dict[bytes, Difference]:
        """Return those of some differences that are there still, and not because something is on its way."""
        proven: dict[bytes, Difference] = {}
        paths: Collection[bytes] = found.keys()
        for _ in range(_LOOKS):
            if not paths:
                break
            await self._around.settle()
            async with self._around.watched() as watching:
                again = await self._compare(paths)
                moving = (await watching()).among(again)
            proven |= {path: one for path, one in again.items() if path not in moving}
            paths = moving
        self._moving = set(paths)
        return proven

    async def _mend(self, report: Report) -> None:
        """Let what differs be made equal, and look whether it is."""
        found = report.differences
        self._around.mend(*_to_mend(found))
        left = await self._proven(found)
        report.mended = found.keys() - left.keys() - self._moving
        report.reasons = self._around.reasons()


def _to_mend(found: Mapping[bytes, Difference]) -> tuple[dict[bytes, int], dict[bytes, int]]:
    """Return the change bits of differing paths, and how many entries those are that are there alone."""
    bits = {path: bits_to_mend(one.aspects) for path, one in found.items()}
    extra = {path: one.entries for path, one in found.items() if one.aspects & Aspect.EXTRA}
    return {path: one for path, one in bits.items() if one}, extra


async def _at_once() -> None:
    """Go on."""


class LiveTarget:
    """A target that a mirror keeps equal (see `Around`)."""

    def __init__(
        self,
        delivery: Delivery,
        arrival: Arrival,
        rules: Callable[[], PathRules | None],
        seen: Seen,
        hold: Callable[[], Awaitable[None]],
    ) -> None:
        """`rules`: those in force; `seen` tells what has changed lately. `hold` returns when a comparison may go on."""
        self._delivery, self._arrival = delivery, arrival
        self._rules, self._seen, self._hold = rules, seen, hold

    @property
    def name(self) -> str:
        """What messages call the target."""
        return self._delivery.target.name

    @property
    def rules(self) -> PathRules | None:
        """What is synced, now."""
        return self._rules()

    async def hold(self) -> None:
        """Return when it may go on."""
        await self._hold()

    async def settle(self) -> None:
        """Return when all that was dirty has arrived, or failed."""
        await self._arrival.of({self.name}, until_synced=False)

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[Watching]:
        """Notice what changes, and what is handed over."""
        delivery = self._delivery
        handed: dict[bytes, int] = {}
        for flight in delivery.in_air.values():
            handed |= flight.entries
        delivery.watchers.append(handed)

        async def moving() -> Moving:
            changed = dict(await self._seen())
            dirty = delivery.target.dirty
            for path in dirty.paths() - dirty.reasons.keys():
                changed[path] = changed.get(path, 0) | dirty.bits_of(path)
            for path in delivery.other_names([*changed, *handed]):
                changed[path] = changed.get(path, 0) | CONTENT
            return Moving(changed.items(), handed.items())

        try:
            yield moving
        finally:
            delivery.watchers = [watcher for watcher in delivery.watchers if watcher is not handed]

    def mend(self, changes: Mapping[bytes, int], extra: Mapping[bytes, int]) -> None:
        """Let paths be handed over."""
        self._delivery.mend(changes, extra)

    def reasons(self) -> Mapping[bytes, str]:
        """Return why paths could not be made equal."""
        held = self._delivery.withheld
        return {**self._delivery.target.failing(), **({b"": held.text} if held.count else {})}


class StillTarget:
    """A target that nobody keeps equal, as far as is known (see `Around`)."""

    def __init__(self, name: str, rules: PathRules | None) -> None:
        """`name`: what messages call it."""
        self._name, self._rules = name, rules

    @property
    def name(self) -> str:
        """What messages call the target."""
        return self._name

    @property
    def rules(self) -> PathRules | None:
        """What is synced."""
        return self._rules

    async def hold(self) -> None:
        """Go on."""

    async def settle(self) -> None:
        """Wait a moment: somebody may be about to make them equal."""
        await asyncio.sleep(_MOMENT)

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[Watching]:
        """Notice nothing."""

        async def moving() -> Moving:
            return Moving((), ())

        yield moving

    def mend(self, changes: Mapping[bytes, int], extra: Mapping[bytes, int]) -> None:
        """Nobody is there who could."""
        raise AssertionError("nothing is mended without a mirror")

    def reasons(self) -> Mapping[bytes, str]:
        """Return nothing."""
        return {}


class Verifier:
    """Verifies the targets of a mirror."""

    def __init__(
        self,
        source: Source,
        arrival: Arrival,
        rules: Callable[[], PathRules | None],
        seen: Seen,
        memory: Memory | None,
    ) -> None:
        """`rules`: those in force; `seen` tells what has changed lately. `memory`: what the targets hold."""
        self._source, self._arrival, self._rules, self._seen = source, arrival, rules, seen
        self._memory = memory

    async def verify(
        self,
        delivery: Delivery,
        wish: Wish,
        tell: Callable[[Report], None] = lambda report: None,
        hold: Callable[[], Awaitable[None]] = _at_once,
    ) -> Report:
        """Compare one target with the source. Raises OperatorError where that cannot be done at all."""
        make = delivery.outlet.make_comparison
        if make is None:
            raise OperatorError(
                f"{delivery.target.called} cannot be compared: the handler alone knows what is right there",
                "only modes rsyncdirect (without list files) and copy can be verified",
            )
        around = LiveTarget(delivery, self._arrival, self._rules, self._seen, hold)
        report = Report(around.name)
        try:
            comparison = await make()
            try:
                verification = Verification(self._source.root, comparison, around, wish)
                report = verification.report
                await verification.run(tell)
            finally:
                await comparison.aclose()
        except ComparisonFailed as error:
            report.trouble = str(error)
        except OSError as error:
            report.trouble = f"the source cannot be looked at: {error.strerror or error}"
        return report

    def mend(self, delivery: Delivery, found: Mapping[bytes, Difference]) -> None:
        """Let what differs at a target be made equal."""
        delivery.mend(*_to_mend(found))

    async def index(self, deliveries: Collection[Delivery], repair: bool) -> Report | None:
        """Compare the source with what is noted of it on disk; None where nothing is."""
        if self._memory is None:
            return None
        from clsync.daemon.indexed import Unknown  # late: it needs a database

        report = Report("index")
        try:
            first = await self._unknown(report, deliveries)
            if first and repair:
                unseen = {path: 1 for path, bits in first.items() if bits & NAME}
                for delivery in deliveries:
                    delivery.mend(first, unseen)
                await self._settled()
            again = await self._unknown(report, deliveries) if first else {}
        except Unknown:
            return None
        except OSError as error:
            report.trouble = f"the source cannot be looked at: {error.strerror or error}"
            return report
        report.differences = {
            path: Difference(path, Aspect(0)) for path in (first if repair else first.keys() & again)
        }
        report.mended = report.differences.keys() - again.keys()
        return report

    async def _unknown(self, report: Report, deliveries: Collection[Delivery]) -> dict[bytes, int]:
        """Return what differs from the index when nothing is on its way, but for what is held back. Raises Unknown."""
        assert self._memory is not None
        await self._settled()
        found: dict[bytes, int] = {}
        looked = 0

        def over(seen: Scanned) -> None:
            nonlocal looked
            looked = seen.entries

        async with aclosing(self._memory.indexed.differences((b"",), over)) as parts:
            async for part in parts:
                found |= dict(part[: _MOST - len(found)])
        unlike = await self._memory.indexed.unlike(found)
        report.entries = looked
        seen = await self._seen()
        dirty = {path for target in self._source.targets for path in target.dirty.paths()}
        # What has arrived since then, and was not confirmed, is not in the index, and known not to be.
        rows = [row for target in self._memory.targets for row in await target.rows()]
        late = ((row.path, row.bits) for row in rows if row.path)
        moving = Moving([*seen.items(), *((path, NAME) for path in dirty), *late], ())
        held = {path for delivery in deliveries for path in delivery.withheld.named}
        return {p: bits for p, bits in found.items() if p in unlike and p not in moving and p not in held}

    async def _settled(self) -> None:
        assert self._memory is not None
        await self._arrival.of((), until_synced=False)
        await self._memory.settled()
