"""What handlers are given with `--compat=0.4` is what clsync 0.4 gave them, but for what `differences.toml` says."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path

import pytest

from tests.oracle.captures import VERSION, capture_path, installed_version, made, stored
from tests.oracle.differences import Differences, Where
from tests.oracle.handler import why_no_module
from tests.oracle.normal import Capture, differing, text
from tests.oracle.play import NEW, OLD, scratch
from tests.oracle.scenarios import pairs
from tests.support.seeds import seed_of_run

SAMPLE = 12
"""Runs of clsync 0.4 that are made anew: it spends them in pauses."""
_JOBS = 6

PAIRS = pairs()
_IDS = [f"{mode.name}-{scenario.file_name}" for mode, scenario in PAIRS]
pytestmark = pytest.mark.xdist_group("oracle")
"""What is started for all of them is started once."""


class Runs:
    """Runs of both programs that have been started side by side."""

    def __init__(self, top: Path, ours: Iterable[int], old: Iterable[int]) -> None:
        """`ours`, `old`: numbers of pairs."""
        self._pools = [ThreadPoolExecutor(_JOBS), ThreadPoolExecutor(SAMPLE)]
        new_runs, old_runs = self._pools
        self._ours = {number: new_runs.submit(made, NEW, *PAIRS[number], top) for number in ours}
        self._old = {number: old_runs.submit(made, OLD, *PAIRS[number], top) for number in old}

    def ours(self, number: int) -> Capture:
        """Return what ours gave its handler. Raises AssertionError where the run went wrong."""
        return self._ours[number].result()

    def sample(self) -> Iterator[tuple[int, Capture]]:
        """Yield what clsync 0.4 gave its handler."""
        yield from ((number, future.result()) for number, future in self._old.items())

    def close(self) -> None:
        """Start no more, and wait for those that are at work."""
        for pool in self._pools:
            pool.shutdown(cancel_futures=True)


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest) -> Iterator[Runs]:
    """Start what the selected tests need: what takes long is at work while the others are looked at."""
    chosen = [
        item for item in request.session.items if isinstance(item, pytest.Function) and item.module is request.module
    ]
    names = {item.originalname for item in chosen}
    everything = range(len(PAIRS))
    known = [number for number in everything if not PAIRS[number][0].module or not why_no_module()]
    numbers = (item.callspec.params["number"] for item in chosen if hasattr(item, "callspec"))
    ours = [number for number in numbers if isinstance(number, int)]
    sampled = test_captures_are_what_clsync_0_4_gives.__name__ in names and not _why_no_sample()
    with scratch() as top:
        started = Runs(
            top,
            everything if test_all_accepted_differences_occur.__name__ in names else ours,
            random.Random(seed_of_run()).sample(known, SAMPLE) if sampled else (),
        )
        try:
            yield started
        finally:
            started.close()


@cache
def _why_no_sample() -> str:
    """Tell why clsync 0.4 cannot be run, after having tried to install it; nothing if it can."""
    if installed_version() is None:
        need = Path(__file__).parents[2] / "tools/need"
        subprocess.run([need, "--optional", "clsync"], stdin=subprocess.DEVNULL, check=False)
    version = installed_version()
    if version is None:
        return "clsync 0.4 is not installed, and could not be"
    return "" if version == VERSION else f"clsync {version} is installed, and the captures are of {VERSION}"


def unexplained(number: int, capture: Capture, differences: Differences) -> list[str]:
    """Return the differences of one run that nobody has accepted."""
    mode, scenario = PAIRS[number]
    found = differing(stored(mode, scenario), capture)
    here = partial(Where, mode.name, scenario.name)
    return [f"{step}: {fact}" for step, fact in found if differences.unexplained(here(step), fact)]


@pytest.mark.parametrize("number", range(len(PAIRS)), ids=_IDS)
def test_handlers_are_given_what_clsync_0_4_gave_them(number: int, runs: Runs) -> None:
    assert unexplained(number, runs.ours(number), Differences()) == []


def test_all_accepted_differences_occur(runs: Runs) -> None:
    """What is in the file has a reason to be there."""
    differences = Differences()
    for number in range(len(PAIRS)):
        unexplained(number, runs.ours(number), differences)
    assert differences.stale() == []


def test_captures_are_those_of_the_scenarios() -> None:
    """Each has one, and there are no others: `make oracle` records."""
    known = {capture_path(mode, scenario) for mode, scenario in PAIRS}
    (place,) = {path.parent.parent for path in known}
    assert set(place.rglob("*.json")) == known


def test_captures_are_what_clsync_0_4_gives(runs: Runs) -> None:
    """A sample of them: `CLSYNC_TEST_SEED` draws the same again."""
    if why_not := _why_no_sample():
        pytest.skip(why_not)
    for number, capture in runs.sample():
        assert text(capture) == capture_path(*PAIRS[number]).read_text(), f"{_IDS[number]}"
