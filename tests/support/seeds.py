"""What is drawn by chance, once for a whole run of the tests: each of its processes is to collect the same ones.

`CLSYNC_TEST_SEED` draws the same again.
"""

from __future__ import annotations

import os
import random

_VARIABLE = "CLSYNC_TEST_SEED"


def seed_of_run() -> int:
    """Return the seed of this run; drawn by the first process that asks for it."""
    return int(os.environ.setdefault(_VARIABLE, str(random.SystemRandom().randrange(10_000, 1_000_000_000))))


_draw = random.Random(seed_of_run())


def fresh_seeds(count: int) -> list[int]:
    """Return seeds that no run before has had."""
    return [_draw.randrange(10_000, 1_000_000_000) for _ in range(count)]
