"""POSIX extended expressions and subjects at random: all of the grammar, and its malformed neighbourhood."""

from __future__ import annotations

from tests.support.proofs import Choices

LETTERS = [b"a", b"b", b"d", b"_", b"-", b"/", b"\n", b"]", b"}", b" ", b"\x80", b"\xe9"]
PLACES = [b"^", b"$", rb"\<", rb"\>", rb"\b", rb"\B", rb"\`", rb"\'"]
ESCAPES = [rb"\%c" % c for c in b"wWsSdn.*+?()[]{}|^$\\/a0Z"]
CHARACTERS = [b"a", b".", *LETTERS, b"a", b"b", b".", *ESCAPES]
IN_BRACKETS = b"a b - z a-z \\ ^ [ \xe9 \xff \n . : d [:alpha:] [:digit:] [:space:] [:punct:] [.-.] [.].]".split(b" ")
IN_BRACKETS += b"[.a.]-c [=a=] [=]=] \x80-\xff %--".split(b" ")
NUMBERS = [b"1", b"2", b"0", b"3", b"", rb"\0"]
QUANTIFIERS = [b"*", b"+", b"?", b"**", b"?+", b"{2}", b"{1,}", b"{,2}", b"{0,3}"]
IN_SUBJECTS = [*LETTERS, b"\\", b"a", b"."]

ODD_CHARACTERS = [b"*", b")", b"\\", b"+", b"{", b"("]
ODD_IN_BRACKETS = [b"[:", b"[:foo:]", b"[.ab.]", b"[=ab=]", b"z-a"]
ODD_QUANTIFIERS = [b"{", b"{1", b"{1,", b"{40000}", b"{x}", b"{1,2,3}", rb"{1\}", b"{3,1}"]


def subject(c: Choices, most: int = 7) -> bytes:
    """Return something to match."""
    return b"".join(c.some(IN_SUBJECTS, most))


def expression(c: Choices) -> bytes:
    """Return an expression; one in four may be malformed."""
    return _Grammar(c, odd=c.number(4) == 3).alternatives(3, anchors=True)


class _Grammar:
    def __init__(self, c: Choices, odd: bool) -> None:
        self._c, self._odd = c, odd

    def alternatives(self, depth: int, anchors: bool) -> bytes:
        return b"|".join(self._sequence(depth, anchors) for _ in range(self._c.one([1, 1, 1, 2, 3])))

    def _sequence(self, depth: int, anchors: bool) -> bytes:
        return b"".join(self._piece(depth, anchors) for _ in range(self._c.one([1, 2, 3, 2, 3, 0])))

    def _piece(self, depth: int, anchors: bool) -> bytes:
        kind = self._c.number(8)
        if kind == 4 and anchors:
            return self._c.one(PLACES)
        if kind == 5 and depth:
            return b"(" + self.alternatives(depth - 1, anchors) + b")"
        if kind == 6 and depth:
            # No anchors in what is repeated: glibc forgets them from the second round on.
            return b"(" + self.alternatives(depth - 1, anchors=False) + b")" + self._quantifier()
        atom = self._bracket() if kind == 1 else self._pick(CHARACTERS, ODD_CHARACTERS)
        return atom + (self._quantifier() if kind == 2 else b"")

    def _bracket(self) -> bytes:
        c = self._c
        parts = [self._pick(IN_BRACKETS, ODD_IN_BRACKETS) for _ in range(1 + c.number(3))]
        end = c.one([b"]"] * 9 + [b""]) if self._odd else b"]"
        return c.one([b"[", b"[^", b"[]", b"[-", b"[^]"]) + b"".join(parts) + end

    def _quantifier(self) -> bytes:
        c = self._c
        if c.number(3) == 2:
            return b"{" + c.one(NUMBERS) + c.one([b",", rb"\,"]) + c.one(NUMBERS) + b"}"
        return self._pick(QUANTIFIERS, ODD_QUANTIFIERS)

    def _pick(self, options: list[bytes], odd: list[bytes]) -> bytes:
        return self._c.one(odd if self._odd and self._c.number(8) == 7 else options)
