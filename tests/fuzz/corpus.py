"""All targets, and inputs made of others."""

from __future__ import annotations

import random
from collections.abc import Sequence

from tests.fuzz import control, kernel_buffers, lists, messages, settings, states
from tests.fuzz.target import TARGETS

__all__ = ["TARGETS", "mutated"]
_MODULES = (control, kernel_buffers, lists, messages, settings, states)
_TELLING = (
    b"\0",
    b"\xff",
    b"\n",
    b"%",
    b"/",
    b"..",
    b"\x1b[31m",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0\0\0\0",
)
LONGEST = 4096


def mutated(chance: random.Random, corpus: Sequence[bytes]) -> bytes:
    """Return an input made of one or two others, changed in a few places."""
    data = bytearray(chance.choice(corpus))
    for _ in range(1 << chance.randrange(5)):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(7):
            case 0:
                data[at : at + 1] = bytes((chance.randrange(256),))
            case 1:
                data[at : at + chance.randrange(9)] = b""
            case 2:
                data[at:at] = chance.choice(_TELLING)
            case 3:
                data[at:at] = chance.randbytes(chance.randrange(9))
            case 4:
                other = chance.choice(corpus)
                begin = chance.randrange(len(other) + 1)
                data[at:at] = other[begin : begin + chance.randrange(64)]
            case 5:
                begin = chance.randrange(len(data) + 1)
                data[at:at] = data[begin : begin + chance.randrange(64)] * (1 + chance.randrange(3))
            case _:
                if data:
                    data[at % len(data)] ^= 1 << chance.randrange(8)
    return bytes(data[:LONGEST])
