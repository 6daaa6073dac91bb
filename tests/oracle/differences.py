"""The differences that are meant: `differences.toml`."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

_FILE = Path(__file__).with_name("differences.toml")


class Where(NamedTuple):
    """Where a fact was seen."""

    mode: str
    scenario: str
    step: str


class Difference:
    """Facts that only one of the two programs gives, where, and why."""

    def __init__(self, table: dict[str, object]) -> None:
        """`table`: as read from the file. Raises ValueError where it is not complete."""
        why, places = (
            table.pop("why"),
            {key: _words(table.pop(key, ["*"])) for key in ("modes", "scenarios", "steps")},
        )
        self.why = str(why)
        self._places = places
        facts = [("- ", pattern) for pattern in _words(table.pop("old", []))]
        facts += [("+ ", pattern) for pattern in _words(table.pop("new", []))]
        self._facts = {
            sign + pattern: re.compile(re.escape(sign) + f"(?:{pattern})", re.DOTALL) for sign, pattern in facts
        }
        if table or not facts or not self.why:
            raise ValueError(f"differences.toml: {self.why!r}: unknown keys {[*table]}, or nothing said")
        self._unseen = {f"fact {fact}" for fact in self._facts}
        self._unseen |= {f"{key} {name}" for key, names in places.items() for name in names}

    def explains(self, where: Where, fact: str) -> bool:
        """Tell whether a fact is meant to differ, and remember what was needed for that."""
        facts = [f"fact {name}" for name, pattern in self._facts.items() if pattern.fullmatch(fact)]
        places = [self._matching(key, name) for key, name in zip(self._places, where, strict=True)]
        if not facts or not all(places):
            return False
        self._unseen.difference_update(facts, *places)
        return True

    def _matching(self, key: str, name: str) -> list[str]:
        return [f"{key} {pattern}" for pattern in self._places[key] if fnmatchcase(name, pattern)]

    def stale(self) -> Iterator[str]:
        """Yield what did not occur."""
        yield from (f"{self.why[:60]!r}: {what}" for what in sorted(self._unseen))


def _words(value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise ValueError(f"differences.toml: not a list of words: {value!r}")
    return value


class Differences:
    """All that is in the file."""

    def __init__(self, path: Path = _FILE) -> None:
        """Read the file. Raises ValueError."""
        self._all = [Difference(dict(table)) for table in tomllib.loads(path.read_text())["difference"]]

    def unexplained(self, where: Where, fact: str) -> bool:
        """Tell whether a fact differs and is not meant to."""
        explained = [difference.explains(where, fact) for difference in self._all]  # all of them remember it
        return not any(explained)

    def stale(self) -> list[str]:
        """Return what is in the file and did not occur."""
        return [line for difference in self._all for line in difference.stale()]
