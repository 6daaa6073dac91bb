"""What can go wrong while copying, and who has to know."""

from __future__ import annotations

import errno
import os
from typing import Final

from clsync.core.paths import shown
from clsync.kernel.files import GONE

_HINTS: Final = {
    errno.ENOSPC: "no space (or no inodes) left at the destination; make room there",
    errno.EDQUOT: "the quota at the destination is used up; raise it or make room there",
    errno.EROFS: "the destination is read-only; mount it writable, or see the kernel log for why it became so",
    errno.EIO: "the destination has input/output errors; see the kernel log",
    errno.ESTALE: "the destination was taken away by its server; mount it again",
    errno.ENOTCONN: "the file system server of the destination has ended; mount it again",
    errno.ESHUTDOWN: "the file system of the destination is shut down; check and mount it again",
    getattr(errno, "EUCLEAN", 117): "the file system of the destination is damaged; check it",
    errno.ENOMEM: "the kernel has no memory left",
}


class Vanished(Exception):
    """The path is not at the source any more (or is something else): its own event comes."""


class Refused(Exception):
    """One path cannot be made equal; the text says why."""


class Unwell(Exception):
    """The destination as a whole cannot be used; the text says why and what to do."""

    def __init__(self, text: str, *, full: bool = False) -> None:
        """`full`: because there is no room."""
        super().__init__(text)
        self.full = full


class Stopped(Exception):
    """The work is to end now."""


def source_trouble(error: OSError) -> Exception:
    """Return what an error of the source means."""
    if error.errno in GONE:
        return Vanished()
    return Refused(f"cannot read it: {error.strerror}")


def destination_trouble(error: OSError, path: bytes) -> Unwell | Refused:
    """Return what an error of the destination means; `path` is what was at work."""
    hint = _HINTS.get(error.errno or 0)
    if hint is not None:
        text = f"{hint} (at {shown(path)}: {error.strerror})"
        return Unwell(text, full=error.errno in (errno.ENOSPC, errno.EDQUOT))
    return Refused(f"at the destination: {error.strerror or os.strerror(error.errno or 0)}")
