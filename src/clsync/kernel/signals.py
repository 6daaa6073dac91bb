"""Signals that come before anybody can act on them."""

from __future__ import annotations

import os

_early: set[int] = set()


def remember(number: int, frame: object) -> None:
    """Note a signal (see signal.signal)."""
    _early.add(number)


def send_again() -> None:
    """Send those that were noted, now that they can be acted on."""
    while _early:
        os.kill(os.getpid(), _early.pop())
