"""Hours at which batches may be handed over."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clsync.options.hours import DAYS, parse

MINUTE, HOUR, DAY = 60, 3600, 86_400


@pytest.mark.parametrize(
    ("text", "at", "seconds"),
    [
        ("", (0, 0, 0), 0),
        ("22:00-06:00", (0, 22, 0), 0),
        ("22:00-06:00", (0, 5, 59), 0),
        ("22:00-06:00", (6, 23, 0), 0),
        ("22:00-06:00", (0, 6, 0), 16 * HOUR),
        ("12:00-13:00", (2, 11, 58), 2 * MINUTE),
        ("Mon 12:00-13:00", (0, 13, 0), 7 * DAY - HOUR),
        ("Sun 23:00-01:00", (0, 0, 30), 0),
        ("Sun 23:00-01:00", (6, 22, 0), HOUR),
        ("Fri-Mon 00:00-24:00", (3, 12, 0), 12 * HOUR),
        ("Fri-Mon 00:00-24:00", (5, 12, 0), 0),
        ("Sat 10:00-11:00, Tue 10:00-11:00", (0, 10, 0), DAY),
        ("08:00-08:00", (3, 3, 0), 0),
    ],
)
def test_when_it_is_open(text: str, at: tuple[int, int, int], seconds: int) -> None:
    assert parse(text).opens_in(*at) == seconds


@pytest.mark.parametrize(
    "text", ["22-6", "25:00-06:00", "24:30-06:00", "Foo 10:00-11:00", "Mon-Foo 10:00-11:00", "x"]
)
def test_what_is_no_span(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no span|the days are|no such time"):
        parse(text)


times = st.tuples(st.integers(0, 23), st.integers(0, 59))


@given(st.sampled_from(DAYS), times, times, st.integers(0, 6), times, st.integers(0, 59))
def test_it_opens_when_it_says(
    day: str, begin: tuple[int, int], end: tuple[int, int], weekday: int, now: tuple[int, int], second: int
) -> None:
    hours = parse(f"{day} {begin[0]:02}:{begin[1]:02}-{end[0]:02}:{end[1]:02}")
    wait = hours.opens_in(weekday, *now, second)
    assert 0 <= wait < 7 * DAY
    later = (weekday * DAY + now[0] * HOUR + now[1] * MINUTE + second + int(wait)) % (7 * DAY)
    assert hours.opens_in(later // DAY, later % DAY // HOUR, later % HOUR // MINUTE, later % MINUTE) == 0
    if wait:
        before = (later - 1) % (7 * DAY)
        assert hours.opens_in(before // DAY, before % DAY // HOUR, before % HOUR // MINUTE, before % MINUTE) == 1
