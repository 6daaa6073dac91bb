"""What the settings decide, as far as it can be exchanged between two batches."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from clsync.core.rules import Rules
from clsync.core.signature import Signatures
from clsync.daemon.course import Course
from clsync.daemon.hooks import Hook
from clsync.handler.base import Handler
from clsync.handler.compare.base import Comparison
from clsync.options.brake import Brake
from clsync.options.hours import Hours

MOST_IN_FLIGHT = 8
"""Batches, where threading lets them overlap: each may be an rsync at either end."""


@dataclass(frozen=True)
class Outlet:
    """The exchangeable parts of one target."""

    name: str
    """What messages call it; empty where there is only one."""
    make_handler: Callable[[], Awaitable[Handler]]
    """Raises OperatorError."""
    same_handler: object
    """Equal for parts whose handlers do the same."""
    ask: Callable[[int], Awaitable[bool | None]]
    """Asks whoever sits at the terminal whether so many entries may go (see `question.Terminal`)."""
    signatures: Signatures | None = None
    """What of a path has to change; None: anything."""
    key: bytes = b""
    """What tells the target, and how it is made equal, from others."""
    local: bytes | None = None
    """The destination, if it is a directory of this machine."""
    brake: Brake | None = None
    """How much may be deleted that nobody saw going; None: anything."""
    trusted: bool = False
    """That does not count as long as it is not known what the target holds."""
    make_comparison: Callable[[], Awaitable[Comparison]] | None = None
    """Makes what compares the target with the source; None: that cannot be done. Raises OperatorError, ComparisonFailed."""
    scrub_rate: int = 0
    """Entries a second that are compared in the background; 0: none."""
    scrub_content: bool = False
    """Content is compared then, too."""
    overlap: str = "off"
    """Batches in flight: `off` one at a time, `safe` those that do not meet, `full` any."""

    def keeping(self, old: Outlet) -> Outlet:
        """Return these parts with what the old ones remember of the same handler."""
        if self.signatures is None or old.signatures is None or self.signatures.names != old.signatures.names:
            return self
        return replace(self, signatures=old.signatures)

    @property
    def in_flight(self) -> int:
        """How many batches may be in flight."""
        return 1 if self.overlap == "off" else MOST_IN_FLIGHT


@dataclass(frozen=True)
class Parts:
    """The exchangeable parts of a mirror."""

    outlets: tuple[Outlet, ...]
    """One for each target."""
    rules: Rules
    rules_read: float
    """When reading them began (monotonic seconds)."""
    read_rules: Callable[[], Rules]
    """Raises OperatorError."""
    collect: float
    """Seconds from the first change of a window to its end."""
    gap: float
    """Least seconds between the starts of two batches."""
    course: Course
    big: int = 0
    """Size in bytes above which changed files wait; 0: none."""
    big_delay: float = 0.0
    """Seconds that they wait."""
    big_longest: float = 0.0
    """Seconds that they wait at most while they are being written."""
    pre_exit: Hook | None = None
    """Run before the last batch."""
    at_exit: Hook | None = None
    """Run after it."""
    standby: bytes | None = None
    """A file that holds everything up."""
    hours: Hours = field(default=Hours())
    """When batches may be handed over."""
