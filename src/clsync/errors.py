"""Errors that an operator reads: one message, one hint, one documented exit code."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of the clsync command (documented in clsync(1), section EXIT STATUS)."""

    OK = 0
    FAILURE = 1  # an unforeseen error; nothing is lost, the next start syncs again
    INCOMPLETE = 3  # a run that was meant to end left paths unsynced; they are named
    USAGE = 22  # bad option, value, rule or configuration (EINVAL, as in clsync 0.4)
    SOURCE = 2  # watch directory missing, unreadable or gone
    DESTINATION = 4  # destination missing, overlapping or not usable
    HANDLER = 5  # handler not found or not executable
    MONITOR = 6  # the demanded monitor cannot watch this tree
    FILES = 7  # pid file, status file or control socket cannot be used
    UNREACHABLE = 8  # clsync ctl: no daemon answers
    REFUSED = 9  # clsync ctl: the daemon says no
    PRIVILEGE = 10  # an identity or a confinement that was asked for cannot be had
    LATE = 11  # clsync wait: not everything has arrived in time


class OperatorError(Exception):
    """Something the operator can mend: `message` says what, `hint` says what to do next."""

    def __init__(self, message: str, hint: str = "", code: int = Exit.USAGE) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = int(code)
        self.warnings: tuple[str, ...] = ()
        """What was noticed before, and may be the reason."""
