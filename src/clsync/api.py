"""What sync handlers written in Python are given (mode python), and what they may answer. This is all that is public.

from clsync.api import Batch, Kind

def sync(batch: Batch) -> None:
    for changed in batch.objects:
        print(changed.path, changed.kind is Kind.MISSING)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What stands at a path, or stood there."""

    UNKNOWN = 0
    MISSING = 1
    FILE = 2
    """Anything but a directory."""
    DIRECTORY = 3


@dataclass(frozen=True, slots=True)
class Object:
    """A path that is to be made equal."""

    path: bytes
    """Relative to the watched directory; empty: that directory itself."""
    kind: Kind
    """What stood there when the batch was made. It may be something else by now: look."""
    before: Kind
    """What stood there when the handler was told of it last, as far as that is known."""
    mask: int
    """What has happened, as bits of inotify(7)."""
    recursive: bool = False
    """It stands for all that is below it (`--have-recursive-sync`)."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Everything that is handed over at once. The function runs in the watched directory."""

    number: int
    status: str
    """The phase: `initsync`, `running`, `lastsync`, `synchandler error`."""
    label: str
    source: bytes
    """The watched directory, absolute."""
    destination: bytes | None
    """What --destination-dir says."""
    objects: Sequence[Object]


Answer = int | Mapping[bytes, str] | None
"""None or 0: all is done. Another number: an exit code, nothing is done (unless --ignore-exitcode has it). A mapping:
these paths have failed, for these reasons, and all others are done; they are paths of objects of the batch, or lie below
recursive ones, else nothing is done. An exception: nothing is done."""
