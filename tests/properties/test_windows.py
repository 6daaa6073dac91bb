"""Windows are told the time: delays are honoured, and nothing waits for ever."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from clsync.core.windows import Backoff, Window

seconds = st.integers(0, 1000)
steps = st.lists(st.tuples(st.sampled_from(["event", "tick"]), st.integers(0, 50)), max_size=60)


@given(seconds, seconds, steps)
def test_delays_are_honoured_and_every_event_is_handed_over(
    collect: int, gap: int, happenings: list[tuple[str, int]]
) -> None:
    window = Window(collect, gap)
    now = 1000
    first: int | None = None
    started: list[int] = []
    for what, later in happenings:
        now += later
        if what == "event":
            window.open(now)
            first = now if first is None else first
        due = window.due()
        assert (due is None) == (first is None)
        if due is None or first is None:
            continue
        assert due >= first + collect
        assert due <= max(first + collect, started[-1] + gap if started else 0), "it waits for nothing"
        if due <= now:
            assert not started or now - started[-1] >= gap
            window.close(now)
            started.append(now)
            first = None
            assert window.due() is None


@given(seconds, st.integers(1, 50))
def test_later_events_do_not_push_the_window_back(collect: int, events: int) -> None:
    window = Window(collect, 0.0)
    window.open(10.0)
    due = window.due()
    for number in range(events):
        window.open(10.0 + number)
    assert window.due() == due == 10.0 + collect


def test_the_gap_counts_from_start_to_start() -> None:
    window = Window(1.0, 30.0)
    assert window.earliest() == 0.0
    window.open(100.0)
    assert window.due() == 101.0
    window.close(101.5)
    assert window.earliest() == 131.5
    window.open(102.0)
    assert window.due() == 131.5
    window.close(140.0)
    window.open(200.0)
    assert window.due() == 201.0


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_pauses_grow_have_jitter_and_an_end(failures: int, chance: float) -> None:
    backoff = Backoff(first=1.0, cap=300.0)
    longest = min(300.0, 2.0 ** min(failures - 1, 30))
    delay = backoff.delay(failures, chance)
    assert longest * 2 / 3 <= delay <= longest
    assert backoff.delay(failures, 0.0) == longest
    assert backoff.delay(failures + 1, chance) >= delay
