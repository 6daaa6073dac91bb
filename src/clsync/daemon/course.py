"""How a run begins and ends."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

TRIES_OF_ENDING_RUNS = 3


class Leaving(Enum):
    """Why the loop is to end."""

    NOW = "now"
    """INT, TERM: a handler at work is stopped."""
    FLUSH = "flush"
    """QUIT, ALRM: what is pending is handed over first."""
    DONE = "done"
    """The run was meant to end here, or has failed as often as it may."""


@dataclass(frozen=True, slots=True)
class Course:
    """How long a run lasts and what it starts with."""

    skip_initial: bool = False
    only_initial: bool = False
    exit_on_no_events: bool = False
    max_iterations: int = 0
    """Batches after which the run ends, 0: never. The initial sync is the first one."""
    retries: int | None = None
    """Tries after which a failing handler ends the run, 0 for never; None: not said."""
    ignore_failures: bool = False
    sync_on_quit: bool = False
    """QUIT and ALRM: what the pre-exit hook has changed is handed over, too."""

    def last(self) -> Course:
        """Return the course of a run that is to end as soon as nothing is left."""
        return replace(self, only_initial=False, exit_on_no_events=True, max_iterations=0, ignore_failures=False)

    @property
    def meant_to_end(self) -> bool:
        """Tell whether the run ends by itself."""
        return self.only_initial or self.exit_on_no_events or self.max_iterations > 0

    @property
    def tries(self) -> int:
        """Return how often a failing path is tried; 0: for ever."""
        if self.ignore_failures and not self.meant_to_end:
            return 0
        if self.retries is not None:
            return self.retries
        return TRIES_OF_ENDING_RUNS if self.meant_to_end else 0
