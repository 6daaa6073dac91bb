"""A small sample of the faults: the long run is `make faults`."""

from __future__ import annotations

import pytest

from tests.faults.faults import lacking
from tests.faults.life import Case, run_here
from tests.support.remotes import missing
from tests.support.seeds import fresh_seeds

SAMPLE = [
    Case("daemon killed", "live", "rsync"),
    Case("daemon killed", "before", "copy"),
    Case("handler killed", "live", "rsync"),
    Case("host restarted", "live", "rsyncd"),
    Case("disk full", "stopped", "copy"),
    Case("source unmounted", "live", "copy"),
    Case("source unmounted", "live", "rsync"),
]

pytestmark = [pytest.mark.churn, pytest.mark.root]


@pytest.mark.parametrize("case", SAMPLE, ids=str)
@pytest.mark.timeout(0)
def test_nothing_is_lost_and_every_file_is_whole(case: Case) -> None:
    lacks = [*lacking(case.fault), *(missing() if case.transport in ("ssh", "rsyncd") else ())]
    if lacks:
        pytest.skip(f"not here: {', '.join(lacks)}")
    (seed,) = fresh_seeds(1)
    result = run_here(case, seed, rounds=1)
    assert not result.failed, result.details
    # A handler may have been gone each time.
    assert result.faults or case.fault == "handler killed", f"nothing went wrong at all: seed {seed}"
    assert result.reads
