"""Time stamps of files: whether one may stand for two versions, and what was changed since a moment."""

from __future__ import annotations

from typing import Final

YOUNG_NS: Final = 20_000_000
"""Two ticks of the coarsest clock that file systems stamp with (100 Hz)."""
_SECOND: Final = 10**9
_COARSEST: Final = 2 * _SECOND
"""Of stamps without fractions: those of ext2, ext3, and ext4 with small inodes; vfat has every other second."""


def is_settled(ctime_ns: int, young_ns: int) -> bool:
    """Tell whether what was stamped so had been changed before, and cannot change any more without another stamp.

    `young_ns`: wall clock, `YOUNG_NS` before it was looked at, or before the moment that is asked for. Where stamps have
    fractions hardly any is without.
    """
    return ctime_ns < young_ns and (ctime_ns % _SECOND != 0 or ctime_ns < young_ns - _COARSEST)


def settles_before(young_ns: int) -> int:
    """Return a time before which all is settled: for long loops, in which nearly all is."""
    return young_ns - _COARSEST
