"""Rules against a plain reading of them: line by line, each expression asked of the C library itself."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given, note

from clsync.core.paths import ancestors, join
from clsync.core.rules import Rules
from tests.support.expressions import expression
from tests.support.glibc_regex import GlibcRegex, Malformed
from tests.support.proofs import Choices, choices, examples

NAMES = [b"a", b"b", b"ab", b"x.o", b"a.b", b"\xff"]
EXPRESSIONS = [
    b"^a$", b"^a/", b"^a(/|$)", b"", b"b", b"\\.o$", b"^$", b"a/b", b"^(a|b)/x", b"^[^/]+$", b"^a.?b", b".", b"^ab",
    b"(^|/)b$", b"^a/b$", b"^x\\.o$", b"^(a)/\\1", b"^(b)\\1|a",
]  # fmt: skip


DECIDES = {"walk": b"d*w", "monitor": b"d*wm", "directory": b"d*s", "file": b"f*"}
"""Action -> letters of the rules that speak of it."""


class Plain:
    """Rules as they are written down in the documentation, slow and simple."""

    def __init__(self, lines: Iterable[tuple[bool, int, GlibcRegex]]) -> None:
        self._lines = list(lines)

    def first(self, action: str, path: bytes) -> bool:
        for permit, letter, regex in self._lines:
            if letter in DECIDES[action] and regex.matches(path):
                return permit
        return True

    def reaches(self, directory: bytes) -> bool:
        above = [b"", *ancestors(directory), directory] if directory else [b""]
        return all(self.first("walk", up) for up in above)

    def permits(self, path: bytes, is_dir: bool) -> bool:
        above = [b"", *ancestors(path)] if path else []
        return self.first("directory" if is_dir else "file", path) and all(self.first("walk", up) for up in above)


def any_rules(c: Choices) -> tuple[Rules, Plain]:
    text, plain = b"", []
    for _ in range(c.number(7)):
        body = expression(c).replace(b"\n", b"") if c.number(4) == 3 else c.one(EXPRESSIONS)
        try:
            regex = GlibcRegex(body)
        except Malformed:
            continue
        permit, letter = c.number(2) == 1, c.one(b"fd*wms")
        plain.append((permit, letter, regex))
        text += (b"+" if permit else b"-") + bytes((letter,)) + body + b"\n"
    note(text.decode("latin-1"))
    return Rules.parse(text), Plain(plain)


def any_path(c: Choices) -> bytes:
    return b"/".join(c.some(NAMES, 4))


@examples(15)
@given(choices(110))
def test_rules_answer_as_they_read(drawn: Choices) -> None:
    rules, plain = any_rules(drawn)
    for _ in range(6):
        path = any_path(drawn)
        for is_dir in (True, False):
            assert rules.permits(path, is_dir) == plain.permits(path, is_dir), (path, is_dir)
            deciding = rules.deciding(path, is_dir)
            assert (deciding is None or deciding.permit) == plain.permits(path, is_dir), path
            assert rules or plain.permits(path, is_dir), "rules that reject something are not false"
        assert rules.reaches(path) == plain.reaches(path), path
        assert rules.watches(path) == (plain.first("monitor", path) and plain.reaches(path)), path


@examples(15)
@given(choices(110))
def test_recursion_is_free_only_where_nothing_is_rejected(drawn: Choices) -> None:
    rules, plain = any_rules(drawn)
    for _ in range(4):
        path = any_path(drawn)
        if not rules.recursion_is_free(path) or not plain.reaches(path) or not plain.permits(path, True):
            continue
        for below in [join(path, drawn.one(NAMES) + b"/" + any_path(drawn)).rstrip(b"/") for _ in range(4)]:
            assert plain.permits(below, True), (path, below)
            assert plain.permits(below, False), (path, below)
