"""A process that compares two trees: `python -I -m clsync.handler.compare.child`, in the watched directory.

Standard input: what is to be compared (`Wish`), pickled, and one byte for each time that it may go on. Standard output:
`D ASPECTS ENTRIES PATH NUL` for each difference, `P ENTRIES NUL` when it has looked at so many more and waits for that
byte, `F TEXT NUL` for what ends it. It ends when its standard input does.
"""

from __future__ import annotations

import os
import pickle
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from clsync.core.verification import Difference
from clsync.handler.compare.tree import Comparing, Trees
from clsync.handler.copy.settings import Settings
from clsync.handler.copy.trouble import Refused
from clsync.kernel.landlock import READ, Allowed
from clsync.kernel.sandbox import stay_within

_TICK: Final = 0.2
"""Seconds between two looks whether to go on."""
_ASIDE: Final = 10
"""Nice value: everything else comes first."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be compared."""

    destination: bytes
    settings: Settings
    paths: list[bytes] | None
    content: bool
    rate: int


class _Orphaned(Exception):
    """Nobody wants to know any more."""


class _Pace:
    """Rests where that is due, and asks whether to go on."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._began = self._told_at = time.monotonic()
        self._count = self._told = 0

    def spend(self, entries: int) -> None:
        """Note that entries were looked at. Raises _Orphaned."""
        self._count += entries
        while True:
            now = time.monotonic()
            if now - self._told_at >= _TICK:
                self.ask()
                now = time.monotonic()
            due = self._began + self._count / self._rate if self._rate else 0.0
            if due <= now:
                return
            time.sleep(min(due - now, _TICK))

    def ask(self) -> None:
        """Say how much was looked at, and wait until it goes on: that time does not count. Raises _Orphaned."""
        began = time.monotonic()
        _write(b"P %d\0" % (self._count - self._told))
        self._told = self._count
        if not os.read(0, 1):
            raise _Orphaned
        self._told_at = time.monotonic()
        self._began += self._told_at - began


def _write(record: bytes) -> None:
    sys.stdout.buffer.write(record)
    if record.startswith(b"P"):
        sys.stdout.buffer.flush()


def _tell(one: Difference) -> None:
    _write(b"D %d %d %s\0" % (one.aspects, one.entries, one.path))


def main() -> None:
    """Do it."""
    os.nice(_ASIDE)
    with open(0, "rb", buffering=0, closefd=False) as told:  # not a byte more than the wish is read here
        wish: Wish = pickle.load(told)
    with suppress(_Orphaned, BrokenPipeError):
        try:
            _compare(wish)
        except (OSError, Refused) as error:
            if isinstance(error, BrokenPipeError):
                raise
            _write(b"F %s\0" % str(error).encode("utf-8", "backslashreplace"))
        sys.stdout.buffer.flush()
        return
    os._exit(1)  # nobody reads what is left in the buffer


def _compare(wish: Wish) -> None:
    """Do what is wished. Raises OSError, Refused, _Orphaned."""
    source = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    destination = os.open(wish.destination, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    if wish.settings.sandbox is not None:
        stay_within(
            wish.settings.sandbox, [Allowed(b"/proc/self/fd/%d" % tree, READ) for tree in (source, destination)]
        )
    pace = _Pace(wish.rate)
    comparing = Comparing(Trees(source, destination, wish.settings, wish.content), _tell, pace.spend)
    if wish.paths is None:
        comparing.everything()
    else:
        comparing.some(wish.paths)
    pace.ask()


if __name__ == "__main__":
    main()
