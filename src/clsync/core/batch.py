"""A batch: the paths handed to a sync handler at once; and the outcome it answers with."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

MISSING: Final = 1
"""Nothing stands here (any more): to be deleted at the destination."""
DIRECTORY: Final = 2
"""A real directory. Neither MISSING nor DIRECTORY: a file, symlink, device, fifo or socket."""
RECURSIVE: Final = 4
"""A directory to be made equal with everything below it, deletions included."""
FORCE: Final = 8
"""Content may differ although size and mtime agree: never skip it. With RECURSIVE: all files below."""
LINKED: Final = 16
"""Anything with several hard links: all its names below the root are in this batch."""
REGULAR: Final = 32
"""A regular file."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Paths to make equal at the destination.

    `entries` maps path -> flags, sorted by path; no entry lies below a RECURSIVE one (except FORCE or
    LINKED files) nor below an entry that is not a directory. `root` is an open directory descriptor of the
    watched root, checked to be the right one, valid until the handler answers.
    """

    number: int
    entries: Mapping[bytes, int]
    root: int
    initial: bool = False
    status: str = "running"
    linked: Collection[bytes] = ()
    """Names of files with several that are among or below the entries, as far as they were met."""
    attribute_bytes: int = 0
    """Size of all regular files that are listed for their attributes only."""
    most_deletions: int | None = None
    """If recursive entries would delete more than so many, they delete nothing; None: however many."""


class Verdict(Enum):
    """How a handler run ended."""

    DONE = "done"
    """Every entry is confirmed."""
    PARTIAL = "partial"
    """The entries in `Outcome.failed` and `Outcome.again` are not confirmed, the others are."""
    UNWELL = "unwell"
    """The target itself cannot be used now (connection, space, refusal): nothing is confirmed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a batch. Only what is confirmed here leaves the dirty set."""

    verdict: Verdict
    failed: Mapping[bytes, str] = field(default_factory=dict)
    """Path -> reason, for PARTIAL."""
    hopeless: frozenset[bytes] = frozenset()
    """Those of the failed paths that no other try can mend, because of their names: no reason for a daemon to give up."""
    again: frozenset[bytes] = frozenset()
    """Paths that may have been missed because they changed while they were handed over: to be sent again at once."""
    message: str = ""
    code: int = 0
    """Exit code of the handler program, 0 where there is none."""
    spared: int = 0
    """What was not deleted, because it is more than `Batch.most_deletions`. All else is as `verdict` says.

    Where the target is unwell, it has no room for the rest as long as that stands there.
    """
