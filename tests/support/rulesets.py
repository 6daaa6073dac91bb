"""Small rules files made at random, each with its meaning in a few lines of Python."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field

from clsync.core.paths import ancestors


@dataclass(frozen=True)
class Suffixes:
    """Endings of names that rules speak of; a name with a typed ending never stands for the other type."""

    any: tuple[bytes, ...] = ()
    plain: tuple[bytes, ...] = ()
    directory: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Ruleset:
    """A rules file and the paths it rejects."""

    text: bytes
    verdicts: tuple[tuple[bool, re.Pattern[bytes]], ...]
    """First match decides; types play no part, because of `suffixes`."""
    suffixes: Suffixes = field(default_factory=Suffixes)

    def rejects(self, path: bytes) -> bool:
        """Tell whether a path or one of its ancestors is rejected."""
        return self._rejected(path) or any(self._rejected(above) for above in ancestors(path))

    def _rejected(self, path: bytes) -> bool:
        return next((not permit for permit, regex in self.verdicts if regex.search(path)), False)


def _ruleset(lines: list[str], suffixes: Suffixes | None = None) -> Ruleset:
    text = "# made at random\n" + "".join(f"{line}\n\n" for line in lines)
    verdicts = [(line[0] == "+", re.compile(line[2:].replace("$", r"\Z").encode(), re.DOTALL)) for line in lines]
    return Ruleset(text.encode(), tuple(verdicts), suffixes or Suffixes())


def make(generator: random.Random) -> Ruleset:
    """Return one of a few kinds of rules files."""
    skip = Suffixes(any=(b".skip", b"vip.skip"))
    top = "|".join(generator.sample(["a", "b", "c", "d", "alpha", "beta", "file1", "n[0-9]+"], 4))
    kinds = (
        (["-*\\.skip(/|$)"], skip),
        (["+*vip\\.skip$", "-*\\.skip(/|$)"], skip),
        (["-f\\.fskip$", "-d\\.dskip$"], Suffixes(plain=(b".fskip",), directory=(b".dskip",))),
        (["+d^$", f"+*^({top})(/|$)", "-*"], None),
        ([f"-*^({top})(/|$)", "-*\\.skip(/|$)"], skip),
        ([f"-*^[^/]+/({top})(/|$)"], None),
    )
    return _ruleset(*generator.choice(kinds))
