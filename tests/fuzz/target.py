"""What a fuzzing target is, and values out of the bytes that it is given."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

T = TypeVar("T")
Act = Callable[[bytes], None]
SLOW = 2.0
"""Seconds of processor time that no input may take."""


class Target(NamedTuple):
    """A parser under test."""

    name: str
    act: Act
    """Is given any bytes; raises whatever the parser is not documented to raise, and AssertionError."""
    seeds: Sequence[bytes]
    """Inputs to begin with."""
    cost: int
    """About how much one input takes, in units of a millisecond: it gets fewer examples."""

    def run(self, data: bytes) -> None:
        """Try one input. Raises what is wrong with it."""
        began = time.thread_time()
        self.act(data)
        took = time.thread_time() - began
        assert took < SLOW, f"{took:.1f} s of processor time"


TARGETS: dict[str, Target] = {}


def target(*seeds: bytes, cost: int = 1) -> Callable[[Act], Act]:
    """Register a function as a target, under its own name."""

    def register(act: Act) -> Act:
        name = act.__name__.replace("_", "-")
        TARGETS[name] = Target(name, act, (b"", *seeds), cost)
        return act

    return register


class Feed:
    """Values out of bytes; the first of all where they have ended."""

    def __init__(self, data: bytes) -> None:
        """`data`: what a fuzzer made."""
        self._data, self._at = data, 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def number(self, size: int = 1) -> int:
        """Return a number of so many bytes."""
        return int.from_bytes(self.take(size), "little")

    def one(self, options: Sequence[T]) -> T:
        """Return one of the options."""
        return options[self.number() % len(options)]

    def take(self, size: int) -> bytes:
        """Return so many bytes, fewer at the end."""
        found = self._data[self._at : self._at + size]
        self._at += size
        return found

    def some(self, most: int = 255) -> bytes:
        """Return bytes, as many as the first of them says, up to `most`."""
        return self.take(self.number() % (most + 1))

    def rest(self) -> bytes:
        """Return all that is left."""
        return self.take(len(self._data))

    def name(self) -> bytes:
        """Return a name as the kernel takes it."""
        found = self.some(40).translate(bytes(0x5F if byte in (0, 0x2F) else byte for byte in range(256)))
        return found if found not in (b"", b".", b"..") else b"a"

    def path(self) -> bytes:
        """Return a relative path."""
        return b"/".join(self.name() for _ in range(1 + self.number() % 3))

    def pieces(self, stream: bytes) -> list[bytes]:
        """Cut a stream."""
        found = []
        while stream and self:
            size = 1 + self.number()
            found.append(stream[:size])
            stream = stream[size:]
        return [*found, stream] if stream else found
