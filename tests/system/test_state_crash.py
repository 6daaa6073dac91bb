"""A mirror that is killed between any two steps knows afterwards all that is different."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.small_mirror import covers, open_store, to_be_synced
from tests.support.trees import compare_trees

LIVES = 16


@pytest.mark.parametrize("seed", range(3))
def test_what_a_killed_mirror_left_different_is_handed_over_by_the_next_start(seed: int, tmp_path: Path) -> None:
    state, source, target = (os.fsencode(tmp_path / name) for name in ("state", "source", "target"))
    os.mkdir(source)
    os.mkdir(target)
    draw = random.Random(seed)
    differed = precise = 0
    for life in range(LIVES):
        steps = draw.randrange(1, 400)
        what = f"seed {seed}, life {life}, {steps} steps"
        words = [*map(os.fsdecode, (state, source, target)), str(draw.randrange(1 << 30)), str(steps)]
        ended = subprocess.run(
            [sys.executable, "-m", "tests.support.small_mirror", *words], capture_output=True, text=True, timeout=60
        )
        assert ended.returncode == -signal.SIGKILL, f"{what}\n{ended.stderr}"
        root = os.open(source, os.O_RDONLY)
        store = open_store(state)
        try:
            assert not store.found, what
            changes = to_be_synced(store, root)
        finally:
            store.close()
            os.close(root)
        differing = {difference.path for difference in compare_trees(source, target)}
        missed = {path for path in differing if not covers(changes, path)}
        assert not missed, f"{what}: {missed} not in {changes}"
        differed += bool(differing)
        precise += not covers(changes, b"\0nothing")
    # It was neither always in order, nor was everything always in doubt.
    assert differed > LIVES // 3
    assert precise > LIVES // 3
