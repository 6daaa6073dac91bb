"""What all desks know: settings, rules, and directories that the worker was given."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sized
from typing import Any, Final

from clsync.core.rules import Rules
from clsync.daemon.access import DirectAccess
from clsync.daemon.plan import Plan
from clsync.daemon.prepare import Prepared
from clsync.privilege.wire import Refused

TURN: Final = 0.01
"""Seconds of work for one question, where it can be cut in parts."""
GENERATIONS: Final = 4
"""Plans that are remembered: the one in force, and what may take its place."""
_FRESH: Final = 2.0
"""Seconds for which a directory that was seen to be real is taken to be: as long as a large batch is looked at."""
_MOST_REAL: Final = 65_536
WORDS: Final = frozenset(
    (
        "starting",
        "initsync",
        "running",
        "rehashing",
        "hold on",
        "synchandler error",
        "lastsync",
        "preexit",
        "terminating",
        "exiting",
    )
)
"""What may be in the status file."""


class Shared:
    """What all desks know."""

    def __init__(self, first: Prepared, access: DirectAccess) -> None:
        """`first`: what was made before the worker was."""
        self.access = access
        self.generations = {0: first}
        self.current = self.newest = 0
        self.rules: dict[bytes, Rules] = {}
        """Digest -> those that the worker may choose."""
        self.note_rules(first.plans[0].rules)
        self.directories: dict[int, int] = {}
        """Number that the worker knows -> descriptor."""
        self.sources: set[int] = set()
        """Those of the watched directory: nothing else is handed over."""
        self._real: dict[int, tuple[float, set[bytes]]] = {}
        self._last_number = 0

    @property
    def now(self) -> Prepared:
        """What is in force."""
        return self.generations[self.current]

    @property
    def made(self) -> Plan:
        """What concerns the source is the same in all plans."""
        return self.generations[self.current].plans[0]

    def number(self) -> int:
        self._last_number += 1
        return self._last_number

    def demand_room(self, among: Sized, most: int) -> None:
        """See that there is room for one more; `most`: for one target. Raises Refused."""
        if len(among) >= most * len(self.generations[self.current].plans):
            raise Refused("more than there can be")

    def real(self, number: int) -> set[bytes]:
        """Return the directories below one that were seen lately to be real, all the way; more can be added.

        Whoever swaps a symlink in later has as long as the handler's start takes, at least, with or without this.
        """
        now = time.monotonic()
        self._real = {key: seen for key, seen in self._real.items() if now - seen[0] <= _FRESH}
        found = self._real[number][1] if number in self._real else set[bytes]()
        if number in self.directories and (number not in self._real or len(found) > _MOST_REAL):
            found = set()
            self._real[number] = now, found
        return found

    def demand_source(self, number: int, what: str) -> None:
        """See that a directory is the watched one; `what` somebody wants of it. Raises Refused."""
        if number not in self.sources:
            raise Refused(f"to {what} what is not watched")

    def close(self, number: int) -> None:
        """Give a directory back. Raises Refused."""
        os.close(known(self.directories, number))
        del self.directories[number]
        self._real.pop(number, None)
        self.sources.discard(number)

    def note_rules(self, rules: Rules) -> bytes:
        digest = digest_of(rules)
        self.rules.pop(digest, None)
        self.rules[digest] = rules
        while len(self.rules) > GENERATIONS:
            del self.rules[next(iter(self.rules))]
        return digest


def digest_of(rules: Rules) -> bytes:
    """Return what rules are known by: the worker can only choose among those that the broker has read.

    Those that let everything through are as good as none.
    """
    return hashlib.sha256(rules.source_text if rules else b"").digest()


def known(among: dict[Any, Any], number: Any) -> Any:
    """Return what the worker was given. Raises Refused."""
    try:
        return among[number]
    except KeyError:
        raise Refused("something that it was never given") from None
