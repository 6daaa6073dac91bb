"""How a mirror and its targets stand, seen from outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from clsync.daemon.scrub import Passed

if TYPE_CHECKING:
    from clsync.daemon.memory import Kept


class TargetHealth(NamedTuple):
    """A target seen from outside."""

    name: str
    iteration: int
    last_sync: float | None
    """When the last batch was confirmed (wall-clock seconds)."""
    pending: int
    """Paths that are not known to be equal, with those in flight."""
    in_flight: int
    trouble: str | None
    """Why nothing at all can be synced now."""
    paused: bool
    """Nothing is handed over, because somebody wants it so."""
    held_back: int
    """Entries that are to be deleted when somebody accepts it."""
    failing: Mapping[bytes, str]
    """Path -> why it failed last."""
    next_tries: Mapping[bytes, float]
    """Path -> when it is tried again (wall-clock seconds); the root stands for the target."""
    scrubbed: Passed | None = None
    """What the last pass of the scrub has brought."""


class Health(NamedTuple):
    """A mirror seen from outside."""

    phase: str
    monitor: str
    """How changes are noticed; empty before the tree is watched."""
    collecting: bool
    """Changes have come that no batch was made of yet; with fanotify they may be elsewhere on the file system."""
    targets: Sequence[TargetHealth]
    kept: Kept | None = None
    """What is kept of what the targets hold."""
