"""What every sync handler offers."""

from __future__ import annotations

from typing import Protocol

from clsync.core.batch import Batch, Outcome


class Handler(Protocol):
    """Makes the destination equal to the source for the entries of a batch.

    A handler never raises for what a source, a destination or a child process does: that is an `Outcome`.
    """

    async def sync(self, batch: Batch) -> Outcome:
        """Make every entry of `batch` equal at the destination and say which ones are."""
        ...

    def stop(self) -> None:
        """End the run at work now, children included; `sync` then answers UNWELL."""
        ...

    async def aclose(self) -> None:
        """Give everything back (processes, connections, descriptors)."""
        ...


class PathRules(Protocol):
    """What handlers ask of the rules."""

    def permits(self, path: bytes, is_dir: bool) -> bool:
        """Tell whether a path may be synced, and its ancestors walked."""
        ...

    def recursion_is_free(self, path: bytes) -> bool:
        """Tell whether nothing at or below a path can be rejected."""
        ...
