"""How much may be deleted at a target because a walk does not find it at the source, and nobody saw it go."""

from __future__ import annotations

from typing import Final, NamedTuple


class Brake(NamedTuple):
    """What `--max-delete` says."""

    entries: int
    """So many entries may always go."""
    share: float
    """And so much of what the target is known to hold, 0 to 1."""

    def most(self, held: int | None) -> int | None:
        """Return how many entries may be deleted, None for any number; `held`: what the target holds, if that is known."""
        if self.entries >= UNLIMITED:
            return None
        if held is None:
            return self.entries if self.entries or not self.share else USUAL.entries
        return max(self.entries, int(held * self.share))

    def __str__(self) -> str:
        """Return it as it could be written."""
        if self.entries >= UNLIMITED:
            return "none"
        percent = f"{self.share * 100:g}%"
        return (
            percent
            if not self.entries and self.share
            else f"{self.entries} or {percent}"
            if self.share
            else str(self.entries)
        )


UNLIMITED: Final = 1 << 62
USUAL: Final = Brake(1000, 0.5)
NO_BRAKE: Final = Brake(UNLIMITED, 0.0)
