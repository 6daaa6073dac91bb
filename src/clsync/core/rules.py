"""Rules: which paths are walked, monitored and synced. The same answer in every stage.

A rules file has one rule a line: a sign (`+` permit, `-` reject, `#` comment), a letter, and a POSIX extended
regular expression, without blanks between them. The expression is searched for in the path relative to the watched
directory (empty for that directory itself). Letters: `f` anything but a directory, `d` a directory, `*` both, for all
three actions; `w` (or `W`) walking, `m` monitoring, `s` syncing a directory. For each action the first rule that
speaks of it and matches decides; where none does, it is permitted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from clsync.core.paths import ancestors, parent, shown
from clsync.core.posix_regex import Head, PatternError, translate
from clsync.errors import Exit, OperatorError

_LETTERS: Final = b"fd*wms"
_MEMORY: Final = 10_000
"""Directories whose answer is remembered."""

_WALK: Final = b"d*w"
_MONITOR: Final = b"d*wm"
_SYNC_DIRECTORY: Final = b"d*s"
_SYNC_FILE: Final = b"f*"


class Rule(NamedTuple):
    """One rule, and where it stands."""

    line: int
    permit: bool
    letter: int
    pattern: bytes
    always: bool
    """It matches every path."""
    heads: tuple[Head, ...] | None
    """How paths begin that it can match; None: not known."""
    has_references: bool
    text: bytes

    def __str__(self) -> str:
        """Return the rule as it was written, with its line."""
        return f"line {self.line}: {shown(self.text)}"


class Rules:
    """The rules of one file. False when nothing can be rejected."""

    def __init__(self, rules: Iterable[Rule] = (), source_text: bytes = b"") -> None:
        """`source_text`: what they were read from."""
        self.source_text = source_text
        self._rules = tuple(rules)
        self.walk = _Decision(self._rules, _WALK).permits
        """Answers whether a directory may be walked, its ancestors not asked."""
        self.monitor = _Decision(self._rules, _MONITOR).permits
        """Answers whether a directory may be watched, its ancestors not asked."""
        self._sync_directory = _Decision(self._rules, _SYNC_DIRECTORY).permits
        self._sync_file = _Decision(self._rules, _SYNC_FILE).permits
        self._rejecting = tuple(_rejecting(self._rules))
        self._walked: dict[bytes, bool] = {}

    @classmethod
    def parse(cls, text: bytes, source: str = "rules") -> Rules:
        """Read a rules file. Raises OperatorError that names `source` and the line."""
        lines = text.split(b"\n")
        parsed = (_parsed(line, number, source) for number, line in enumerate(lines, 1))
        return cls((rule for rule in parsed if rule is not None), text)

    def __bool__(self) -> bool:
        """Tell whether anything can be rejected."""
        return bool(self._rejecting)

    def sync(self, path: bytes, is_dir: bool) -> bool:
        """Tell whether a path itself may be synced, its ancestors not asked."""
        return self._sync_directory(path) if is_dir else self._sync_file(path)

    def permits(self, path: bytes, is_dir: bool) -> bool:
        """Tell whether a path may be synced, and all its ancestors walked."""
        sync = self._sync_directory if is_dir else self._sync_file
        return sync(path) and (not path or self.reaches(parent(path)))

    def reaches(self, directory: bytes) -> bool:
        """Tell whether a directory and all its ancestors may be walked."""
        known = self._walked.get(directory)
        if known is None:
            known = self.walk(directory) and (not directory or self.reaches(parent(directory)))
            if len(self._walked) >= _MEMORY:
                self._walked.clear()
            self._walked[directory] = known
        return known

    def watches(self, directory: bytes) -> bool:
        """Tell whether changes of the names in a directory count."""
        return self.monitor(directory) and self.reaches(directory)

    def recursion_is_free(self, path: bytes) -> bool:
        """Tell whether nothing at or below a path can be rejected."""
        return not any(_may_match(rule.heads, path) for rule in self._rejecting)

    def deciding(self, path: bytes, is_dir: bool) -> Rule | None:
        """Return the rule that decides whether a path is synced; None where no rule speaks of it."""
        for up in [b"", *ancestors(path)] if path else []:
            rule = self._first(_WALK, up)
            if rule is not None and not rule.permit:
                return rule
        return self._first(_SYNC_DIRECTORY if is_dir else _SYNC_FILE, path)

    def barring(self) -> Rule | None:
        """Return the rule that keeps the watched directory itself from being walked: nothing in it is ever synced."""
        return None if self.walk(b"") else self._first(_WALK, b"")

    def _first(self, letters: bytes, path: bytes) -> Rule | None:
        speaking = (rule for rule in self._rules if rule.letter in letters)
        return next((r for r in speaking if r.always or re.search(r.pattern, path, re.DOTALL)), None)


class _Decision:
    """The rules that speak of one action, neighbours of one sign made one expression."""

    def __init__(self, rules: tuple[Rule, ...], letters: bytes) -> None:
        self._default = True
        searches: list[tuple[Callable[[bytes], object], bool]] = []
        for permit, patterns in _runs([rule for rule in rules if rule.letter in letters]):
            if not patterns:
                self._default = permit
                break
            searches.append((re.compile(b"|".join(patterns), re.DOTALL).search, permit))
        while searches and searches[-1][1] == self._default:
            searches.pop()
        self._searches = tuple(searches)
        self.permits: Callable[[bytes], bool] = self._decide
        if not searches:
            self.permits = self._constant
        elif len(searches) == 1:
            self._only = searches[0][0]
            self.permits = self._not_matching if self._default else self._matching

    def _decide(self, path: bytes) -> bool:
        for search, permit in self._searches:
            if search(path):
                return permit
        return self._default

    def _constant(self, path: bytes) -> bool:
        return self._default

    def _matching(self, path: bytes) -> bool:
        return self._only(path) is not None

    def _not_matching(self, path: bytes) -> bool:
        return self._only(path) is None


def _runs(rules: list[Rule]) -> Iterable[tuple[bool, list[bytes]]]:
    """Yield (sign, patterns) of neighbours with one sign; no patterns: everything matches, nothing follows."""
    at = 0
    while at < len(rules):
        first = rules[at]
        if first.always:
            yield first.permit, []
            return
        patterns = [b"(?:" + first.pattern + b")"]
        at += 1
        # Groups with references have names, and two of a name cannot stand in one expression.
        while at < len(rules) and not (first.has_references or rules[at].has_references or rules[at].always):
            if rules[at].permit != first.permit:
                break
            patterns.append(b"(?:" + rules[at].pattern + b")")
            at += 1
        yield first.permit, patterns


def _rejecting(rules: tuple[Rule, ...]) -> Iterable[Rule]:
    for rule in rules:
        if rule.permit:
            if rule.always and rule.letter == ord("*"):
                return
        else:
            yield rule


def _may_match(heads: tuple[Head, ...] | None, path: bytes) -> bool:
    """Tell whether an expression may match `path` or something below it."""
    if heads is None or not path:
        return True
    below = path + b"/"
    return any(
        text == path
        or text.startswith(below)
        or (not whole and path.startswith(text))
        or (not whole and text == below)
        for text, whole in heads
    )


def _parsed(line: bytes, number: int, source: str) -> Rule | None:
    if not line or line.startswith(b"#"):
        return None
    where = f"{source}, line {number}"
    if line[:1] not in b"+-":
        raise OperatorError(
            f"{where}: a rule begins with + (permit), - (reject) or # (comment), not with '{shown(line[:1])}'",
            "write for example -f\\.tmp$ with nothing before the sign",
            Exit.USAGE,
        )
    letter = line[1:2].lower()
    if not letter or letter not in _LETTERS:
        raise OperatorError(
            f"{where}: '{shown(line[:2])}' has no known letter after the sign",
            "f: files, d: directories, *: both, w: walk, m: monitor, s: sync",
            Exit.USAGE,
        )
    expression = line[2:]
    if b"\0" in expression:
        raise OperatorError(f"{where}: a NUL byte", "no path has one", Exit.USAGE)
    try:
        translated = translate(expression)
    except PatternError as error:
        raise OperatorError(f"{where}: '{shown(expression)}': {error}", error.hint, Exit.USAGE) from None
    return Rule(
        number,
        line[:1] == b"+",
        letter[0],
        translated.pattern,
        translated.always,
        translated.heads,
        translated.has_references,
        line,
    )
