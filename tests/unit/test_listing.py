"""What a listing takes for settled: by a clock of its own a file system stamps later changes alike."""

from __future__ import annotations

import os

import pytest

from clsync.core.listing import Records, observe, record_of, unpacked
from clsync.core.stamps import YOUNG_NS, is_settled

SECOND = 10**9
AT = 1_700_000_000 * SECOND


@pytest.mark.parametrize(
    ("ctime_ns", "looked_at_ns", "settled"),
    [
        (AT + 1, AT + YOUNG_NS + 1, False),
        (AT + 1, AT + YOUNG_NS + 2, True),
        (AT, AT + 900_000_000, False),  # whole seconds: another change in this one looks the same
        (AT, AT + 2 * SECOND + YOUNG_NS, False),  # vfat: every other second
        (AT, AT + 2 * SECOND + YOUNG_NS + 1, True),
        (AT + SECOND, AT, False),  # of a clock that is ahead
    ],
)
def test_what_may_change_without_another_stamp_is_young(ctime_ns: int, looked_at_ns: int, settled: bool) -> None:
    young_ns = looked_at_ns - YOUNG_NS
    found = os.stat_result([0o100644, 7, 1, 1, 0, 0, 3, 0, 0, 0], {"st_mtime_ns": ctime_ns, "st_ctime_ns": ctime_ns})
    assert is_settled(ctime_ns, young_ns) is settled
    assert (unpacked(record_of(found, young_ns)).ctime_ns == ctime_ns) is settled
    (observed,) = observe([b"name"], lambda name: found, young_ns).records
    assert observed == record_of(found, young_ns)
    records = Records()
    records.note(b"name", found, young_ns)
    assert (b"name" in records.settled, b"name" in records.young) == (settled, not settled)
