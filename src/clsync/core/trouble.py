"""What kind of trouble keeps a whole target from being used, and how long to leave it alone then."""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

from clsync.core.windows import Backoff


class Trouble(Enum):
    """Kinds of trouble. Each is told once, and has a back-off of its own."""

    CONNECTION = "connection"
    """Nobody answers, or the connection broke: it may be back any moment."""
    SPACE = "space"
    """No room, or the quota is used up: somebody has to tidy up."""
    REFUSAL = "refusal"
    """Read-only, or no right to write there: somebody has to change that."""
    ABSENCE = "absence"
    """The destination is not there, or another directory stands in its place: it is to be mounted."""
    OTHER = "other"


BACKOFFS: Final = {
    Trouble.CONNECTION: Backoff(1.0, 30.0),
    Trouble.SPACE: Backoff(2.0, 60.0),
    Trouble.REFUSAL: Backoff(2.0, 120.0),
    Trouble.ABSENCE: Backoff(1.0, 15.0),
    Trouble.OTHER: Backoff(1.0, 300.0),
}

_CONNECTION_CODES: Final = frozenset((10, 12, 30, 35, 255))
"""Exit codes of rsync(1), and that of ssh(1)."""
_WORDS: Final = (
    (Trouble.SPACE, r"No space left|[Dd]isk quota exceeded|write failed.*\(28\)"),
    (Trouble.ABSENCE, r"another directory stands|it was deleted|create or mount it|No such file or directory"),
    (
        Trouble.REFUSAL,
        r"Read-only file system|read only|[Pp]ermission denied|Operation not permitted|@ERROR|auth(?:entication)? failed"
        r"|Host key verification failed",
    ),
    (Trouble.CONNECTION, r"[Cc]onnection|[Nn]o route to host|unreachable|[Tt]imed out|timeout|Could not resolve"),
)
_PATTERNS: Final = tuple((kind, re.compile(words)) for kind, words in _WORDS)


def kind_of(message: str, code: int) -> Trouble:
    """Return the kind of trouble that a message and the exit code of a handler tell of."""
    for kind, pattern in _PATTERNS:
        if pattern.search(message):
            return kind
    return Trouble.CONNECTION if code in _CONNECTION_CODES else Trouble.OTHER
