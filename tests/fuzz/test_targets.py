"""Every target with a few inputs; `make fuzz` goes on for as long as it is told to."""

from __future__ import annotations

import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.corpus import TARGETS, mutated

BOMBS = (
    b"\xff" * 4000,
    b"\xff\xff\xff\xff" + bytes(4000),
    bytes(4000),
    b"(" * 2000,
    b"[" * 2000 + b"1" + b"]" * 2000,
    b"{" * 2000,
    b"9" * 4000,
    b"%" * 4000,
    b"\n" * 4000,
    b"\xfe\xff\xff\xff" * 1000,
)
MEMORY = 96 << 20
"""Bytes that nobody may make a parser take by some thousand."""


def budget(cost: int) -> int:
    """Return how many examples a target gets."""
    return max(4, settings().max_examples // cost)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_seeds(name: str) -> None:
    for data in TARGETS[name].seeds:
        TARGETS[name].run(data)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_whatever_comes(name: str) -> None:
    target = TARGETS[name]

    @settings(max_examples=budget(target.cost))
    @given(st.binary(max_size=300) | st.integers(0, 2**32).map(lambda n: mutated(random.Random(n), target.seeds)))
    def tried(data: bytes) -> None:
        target.run(data)

    tried()


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_little_makes_nobody_take_much(name: str) -> None:
    target = TARGETS[name]
    tracemalloc.start()
    try:
        for bomb in BOMBS:
            target.run(bomb)
            assert tracemalloc.get_traced_memory()[1] < MEMORY
    finally:
        tracemalloc.stop()
