"""What every sync handler offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from clsync.core.batch import Batch, Outcome
from clsync.core.moves import Step


class PathRules(Protocol):
    """What handlers ask of the rules."""

    def permits(self, path: bytes, is_dir: bool) -> bool:
        """Tell whether a path may be synced, and its ancestors walked."""
        ...

    def reaches(self, directory: bytes) -> bool:
        """Tell whether a directory and its ancestors may be walked: what lies in it may be permitted."""
        ...

    def recursion_is_free(self, path: bytes) -> bool:
        """Tell whether nothing at or below a path can be rejected."""
        ...


class Handler(Protocol):
    """Makes the destination equal to the source for the entries of a batch.

    A handler never raises for what a source, a destination or a child process does: that is an `Outcome`.
    """

    rules: PathRules | None
    """What is synced; may be exchanged between two batches."""

    trusts_times: bool
    """A full sync takes files of equal size and mtime for equal: what changed before it must be named."""

    coarse_ns: int
    """Files whose mtimes differ by less are taken for equal; 0: they are compared to the nanosecond."""

    glues: bytes | None
    """A local destination at which a full sync may leave files hanging together that are different ones."""

    async def open(self) -> None:
        """Be ready for the first batch; called once, before the tree is watched. Raises OperatorError."""
        ...

    async def sync(self, batch: Batch) -> Outcome:
        """Make every entry of `batch` equal at the destination and say which ones are."""
        ...

    def stop(self) -> None:
        """End the run at work now, children included; `sync` then answers UNWELL."""
        ...

    async def aclose(self) -> None:
        """Give everything back (processes, connections, descriptors)."""
        ...


class Renamed(NamedTuple):
    """What became of some steps."""

    steps: int
    """As many were done; none of the others."""
    made: frozenset[int] = frozenset()
    """Steps that have made a directory which was not there."""
    left: tuple[bytes, ...] = ()
    """Where something may have been left behind that is to be removed."""


@runtime_checkable
class Renames(Protocol):
    """What a handler offers besides, if it can rename at its destination."""

    swaps: bool
    """Two names can change places in one step."""

    async def rename(self, steps: Sequence[Step]) -> Renamed:
        """Carry out steps, one after the other, until one cannot be done; that is no failure.

        Anything is done only if what stands at the destination is of the kind expected. No batch is at work meanwhile.
        """
        ...


class HostNews(NamedTuple):
    """What the host of a target has said of itself."""

    boot: bytes | None
    """What tells its boots apart; empty: it does not answer now; None: it never tells."""
    flushed: bool = False
    """All that stands in the target survives a loss of power there."""


@runtime_checkable
class AsksHost(Protocol):
    """What a handler offers besides, if its target is on another host."""

    async def ask_host(self, *, flush: bool) -> HostNews:
        """Ask the host of the target which boot it is in; `flush`: have the target flushed. Batches go on meanwhile."""
        ...


def may_go(path: bytes, rules: PathRules | None) -> bool:
    """Tell whether rules let a path be deleted that is gone, whatever it was."""
    return rules is None or rules.permits(path, True) or rules.permits(path, False)
