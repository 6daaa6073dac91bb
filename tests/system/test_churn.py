"""Seeded churn of the installed program: what stands at the destination when all is quiet.

Every failure names the command that repeats it. `CLSYNC_CHURN_SEEDS=N` runs N fresh seeds a case instead of one.
"""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from tests.support.churn_run import MODES, Result, Settings, run_seed
from tests.support.seeds import fresh_seeds

FIXED = 20_240_229
"""Even, so that source and destination lie on different file systems or not by the seed alone."""
FRESH = int(os.environ.get("CLSYNC_CHURN_SEEDS", "1"))
COMBINATIONS = [(mode, monitor) for mode in MODES for monitor in ("fanotify", "inotify")]
TROUBLES = {
    "rules": Settings(rules=True),
    "handler killed": Settings(kill_handler=True),
    "one file system": Settings(places="same-fs"),
    "attributes": Settings(xattrs=True),
    "batches that overlap": Settings(extra=("-psafe",)),
    "another user, rules": Settings(rules=True, extra=("--uid=nobody",)),
}

pytestmark = [pytest.mark.churn, pytest.mark.root]


def prove(settings: Settings, seeds: list[int]) -> list[Result]:
    """Run seeds one after another, each for a second. Fails with all that is known about a wrong one."""
    print(f"{settings.title()}: seeds {seeds}")
    results = [run_seed(seed, replace(settings, seconds=1.0)) for seed in seeds]
    wrong = [result.details for result in results if result.failed]
    assert not wrong, "\n\n".join(wrong)
    return results


@pytest.mark.parametrize(("mode", "monitor"), COMBINATIONS)
def test_fixed_seed(mode: str, monitor: str) -> None:
    prove(Settings(mode=mode, monitor=monitor), [FIXED])


@pytest.mark.parametrize(("mode", "monitor"), COMBINATIONS)
@pytest.mark.timeout(0)
def test_fresh_seeds(mode: str, monitor: str) -> None:
    prove(Settings(mode=mode, monitor=monitor), fresh_seeds(FRESH))


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize(("mode", "monitor"), COMBINATIONS)
@pytest.mark.timeout(0)
def test_under_trouble(mode: str, monitor: str, trouble: str) -> None:
    prove(replace(TROUBLES[trouble], mode=mode, monitor=monitor), fresh_seeds(FRESH))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.timeout(0)
def test_queue_overflow(mode: str) -> None:
    """The kernel drops events; the program says so, and loses nothing."""
    results = prove(Settings(mode=mode, monitor="inotify", overflow=True), [FIXED, *fresh_seeds(FRESH)])
    assert any(result.overflowed for result in results), "no seed made the queue overflow"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.timeout(0)
def test_polling(mode: str) -> None:
    prove(Settings(mode=mode, monitor="poll", extra=("--poll-interval=0.5",)), fresh_seeds(FRESH))
