"""When to collect and when to hand over. Told the time, never asks for it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Window:
    """The collection window: opened by the first event, due `collect` seconds later.

    Two batches start at least `gap` seconds apart. All times are monotonic seconds. Later events do not push
    the window back: a path that never rests is handed over all the same.
    """

    collect: float = 0.0
    gap: float = 0.0
    opened_at: float | None = None
    last_start: float | None = None

    def open(self, now: float) -> None:
        """Note an event; only the first one of a window counts."""
        if self.opened_at is None:
            self.opened_at = now

    def close(self, now: float) -> None:
        """Note that the window's content is handed over at `now`."""
        self.opened_at = None
        self.last_start = now

    def earliest(self) -> float:
        """Return the first time at which another batch may start."""
        return self.last_start + self.gap if self.last_start is not None else 0.0

    def due(self) -> float | None:
        """Return the time at which the window's content is to be handed over; None while it is empty."""
        if self.opened_at is None:
            return None
        return max(self.opened_at + self.collect, self.earliest())


@dataclass(frozen=True, slots=True)
class Backoff:
    """Jittered exponential back-off: `first` seconds, doubled at every failure, never above `cap`."""

    first: float = 1.0
    cap: float = 300.0

    def delay(self, failures: int, chance: float) -> float:
        """Return the seconds to wait after `failures` failures; `chance` in [0, 1) takes away up to a third."""
        return min(self.cap, self.first * 2.0 ** min(failures - 1, 30)) * (1 - chance / 3)
