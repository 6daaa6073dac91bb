"""Hours at which batches may be handed over: `22:00-06:00`, `Mon-Fri 12:00-13:00`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DAY: Final = 24 * 60
_WEEK: Final = 7 * _DAY
_SPAN: Final = re.compile(r"(?:([A-Z][a-z]{2})(?:-([A-Z][a-z]{2}))? +)?(\d{1,2}):(\d\d) ?- ?(\d{1,2}):(\d\d)")


class Span(NamedTuple):
    """Minutes of the week from `begin` to before `end`, which may lie in the week that follows."""

    begin: int
    end: int


@dataclass(frozen=True)
class Hours:
    """When it is open; without spans it always is."""

    spans: tuple[Span, ...] = ()
    text: str = ""

    def opens_in(self, weekday: int, hour: int, minute: int, second: float = 0.0) -> float:
        """Return in how many seconds it is open, 0 where it is; `weekday`: 0 for Monday. By the clock on the wall."""
        now = (weekday * _DAY + hour * 60 + minute) * 60 + second
        waits = [self._wait(span, now) for span in self.spans]
        return min(waits, default=0.0)

    @staticmethod
    def _wait(span: Span, now: float) -> float:
        begin, end = span.begin * 60, span.end * 60
        if begin <= now < end or begin <= now + _WEEK * 60 < end:
            return 0.0
        return (begin - now) % (_WEEK * 60)

    def __str__(self) -> str:
        return self.text


def parse(text: str) -> Hours:
    """Read spans with commas between them. Raises ValueError, which says what is wrong."""
    spans: list[Span] = []
    for word in filter(None, (part.strip() for part in text.split(","))):
        found = _SPAN.fullmatch(word)
        if found is None:
            raise ValueError(f"'{word}' is no span of hours")
        spans += _spans(word, found)
    return Hours(tuple(spans), text)


def _spans(word: str, found: re.Match[str]) -> list[Span]:
    first, last = found[1] or DAYS[0], found[2] or found[1] or DAYS[-1]
    begin, end = _minutes(word, found[3], found[4]), _minutes(word, found[5], found[6])
    if first not in DAYS or last not in DAYS:
        raise ValueError(f"'{word}': the days are {' '.join(DAYS)}")
    number, count = DAYS.index(first), (DAYS.index(last) - DAYS.index(first)) % 7 + 1
    length = (end - begin) % _DAY or _DAY
    starts = [(number + n) % 7 * _DAY + begin for n in range(count)]
    return [Span(start, start + length) for start in starts]


def _minutes(word: str, hours: str, minutes: str) -> int:
    if int(hours) > 24 or int(minutes) > 59 or int(hours) * 60 + int(minutes) > _DAY:
        raise ValueError(f"'{word}': there is no such time of day")
    return int(hours) * 60 + int(minutes)
