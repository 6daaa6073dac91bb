"""What a handler was given, until it is confirmed what of it has arrived."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from clsync.state import index


@dataclass(eq=False)
class Handed:
    """What a handler was given, as it was before."""

    changes: dict[bytes, int]
    """Path -> change bits, as the journal has them."""
    since: float
    seen: dict[bytes, bytes | None] = field(default_factory=dict)
    """Path -> its record (`core.listing`), None where nothing stood."""
    young: dict[bytes, bytes] = field(default_factory=dict)
    """Those of the paths that had changed a moment ago -> the record they have if nothing happens since."""
    trees: dict[bytes, list[tuple[bytes, index.Parts]]] = field(default_factory=dict)
    listed: int = 0
    """Names in them, about."""
    recorded: list[bytes] = field(default_factory=list)
    """Directories that scans record."""
    again: dict[bytes, int] = field(default_factory=dict)
    """What the handler itself has named."""
    repeated: dict[bytes, int] = field(default_factory=dict)
    """What is to be handed over once more, by its own name."""
    distrusted: set[bytes] = field(default_factory=set)
    """Those of the paths that are compared with the target, whatever the index says."""
    landed: float = 0.0
    """Monotonic seconds."""

    @property
    def plain(self) -> bool:
        """Whether paths by their own names are all there is to be confirmed."""
        return not (self.trees or self.again or self.recorded)

    @property
    def counts(self) -> bool:
        """Whether there is anything to be confirmed."""
        return bool(self.seen) or not self.plain

    def keep(self, paths: Iterable[bytes]) -> None:
        """Let some paths not be confirmed by their own names."""
        for path in paths:
            self.seen.pop(path, None)
            self.young.pop(path, None)

    def forget(self) -> None:
        """Let nothing of it be confirmed: it is handed over again."""
        self.seen.clear()
        self.young.clear()
        self.trees.clear()
        self.recorded.clear()
