r"""POSIX extended regular expressions, as glibc's `regcomp(REG_EXTENDED | REG_NOSUB)` reads them in the C locale.

An expression is parsed by glibc's grammar and written again for Python's `re` (bytes, `re.DOTALL`). The two
dialects differ in more than spelling: `\d` is the letter d, `$` never stands before a final newline, `[a\]` is a set
of two, `^*` is malformed, `{,3}` counts from 0, and `\<`, `\>`, `` \` ``, `\'` and `[[:digit:]]` are unknown to `re`.

Only whether a subject matches is asked, so it does not matter that POSIX takes the longest match and `re` the first:
both find one if there is one. Back references are the exception. There, the meaning is that of `re`: a group stands
for what it matched last, and any way to make the whole match counts; glibc misses some of those ways.

Sources: regex(7), POSIX.1-2017 section 9.4, glibc manual section "POSIX Regexp Compilation", and the behaviour of
glibc 2.36, with which the tests compare.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from clsync.core.automaton import WORD, Automaton, Condition, Nodes, TooLarge

REPEAT_MAX: Final = 32767
"""RE_DUP_MAX of glibc's regex.h: the largest number in an interval."""


class PatternError(ValueError):
    """An expression is malformed: `reason` says how, at byte `position` of the expression; `hint` how to mend it."""

    def __init__(self, reason: str, position: int, hint: str) -> None:
        super().__init__(f"{reason} (byte {position + 1})")
        self.reason, self.position, self.hint = reason, position, hint


class Head(NamedTuple):
    """How subjects begin that an anchored expression can match: with `text`, or being `text` if `whole`."""

    text: bytes
    whole: bool


class Translation(NamedTuple):
    """An expression in the dialect of `re`."""

    pattern: bytes
    """For `re.compile(pattern, re.DOTALL)` and `search`."""
    always: bool
    """It is certain that every subject matches."""
    heads: tuple[Head, ...] | None
    """Every subject that matches begins in one of these ways; None: nothing is known."""
    has_references: bool
    """There are back references, so the pattern has named groups and cannot be made a part of another."""
    automaton: Automaton | None
    """What is to be asked instead of `re`, which could take for ever with some subjects longer than `tried_up_to`."""
    tried_up_to: int
    """Bytes of a subject."""


def translate(expression: bytes) -> Translation:
    """Translate an expression without NUL bytes. Raises PatternError if `regcomp` would refuse it."""
    try:
        parser = _Parser(expression)
        tree = parser.parse()
        if not parser.referenced:
            tree = _calm(tree)
        pattern = _Writer(parser.referenced).write(tree)
        re.compile(pattern, re.DOTALL)
        heads = _heads(tree)
        tried_up_to = _tried_up_to(tree, heads is not None)
        automaton = None if parser.referenced or tried_up_to is None else _automaton(tree)
    except RecursionError:
        raise PatternError("parentheses are nested too deeply", 0, "write it with fewer of them") from None
    return Translation(pattern, _nullable(tree), heads, bool(parser.referenced), automaton, tried_up_to or 0)


# -- the tree --------------------------------------------------------------------------------------------------


class _Set(NamedTuple):
    bytes: frozenset[int]


class _Place(NamedTuple):
    """A condition on the place between two bytes, in the dialect of `re`."""

    condition: bytes


class _Sequence(NamedTuple):
    parts: tuple[_Node, ...]


class _Choice(NamedTuple):
    options: tuple[_Node, ...]


class _Repeat(NamedTuple):
    body: _Node
    least: int
    most: int | None


class _Group(NamedTuple):
    body: _Node
    number: int


class _Reference(NamedTuple):
    number: int


_Node = _Set | _Place | _Sequence | _Choice | _Repeat | _Group | _Reference

_EMPTY: Final = _Sequence(())
_START: Final = _Place(rb"\A")
_END: Final = _Place(rb"\Z")
_ALL: Final = frozenset(range(256))
_SPACE: Final = frozenset(b"\t\n\v\f\r ")

_PLACES: Final = {
    b"`"[0]: _START,
    b"'"[0]: _END,
    b"b"[0]: _Place(rb"\b"),
    b"B"[0]: _Place(rb"(?!\b)"),  # unlike \B of `re`, it holds in an empty subject
    b"<"[0]: _Place(rb"\b(?=\w)"),
    b">"[0]: _Place(rb"\b(?<=\w)"),
}
_SETS: Final = {b"w"[0]: WORD, b"W"[0]: _ALL - WORD, b"s"[0]: _SPACE, b"S"[0]: _ALL - _SPACE}

_PRINTABLE: Final = frozenset(range(32, 127))
_ALNUM: Final = WORD - {95}
_CLASSES: Final = {
    b"alnum": _ALNUM,
    b"alpha": _ALNUM - frozenset(b"0123456789"),
    b"blank": frozenset(b"\t "),
    b"cntrl": frozenset((*range(32), 127)),
    b"digit": frozenset(b"0123456789"),
    b"graph": _PRINTABLE - {32},
    b"lower": frozenset(range(97, 123)),
    b"print": _PRINTABLE,
    b"punct": _PRINTABLE - _ALNUM - {32},
    b"space": _SPACE,
    b"upper": frozenset(range(65, 91)),
    b"xdigit": frozenset(b"0123456789ABCDEFabcdef"),
}

# -- reading ---------------------------------------------------------------------------------------------------

_END_OF_TEXT, _CHAR, _SPECIAL, _ESCAPED = range(4)


class _Token(NamedTuple):
    kind: int
    byte: int
    start: int

    def special(self, *signs: bytes) -> bool:
        return self.kind == _SPECIAL and bytes((self.byte,)) in signs


class _Parser:
    """Recursive descent over glibc's grammar; `_token` is the one token of look-ahead."""

    def __init__(self, text: bytes) -> None:
        self.referenced: set[int] = set()
        self._text, self._at = text, 0
        self._groups = self._open = 0
        self._closed: frozenset[int] = frozenset()
        self._advance()

    def parse(self) -> _Node:
        return self._alternatives()

    def _advance(self) -> None:
        start, text = self._at, self._text
        if start >= len(text):
            self._token = _Token(_END_OF_TEXT, 0, start)
            return
        byte = text[start]
        self._at += 1
        if byte != b"\\"[0]:
            kind = _SPECIAL if byte in b"^$.[()|*+?{}" else _CHAR
        elif self._at == len(text):
            raise PatternError("the backslash at the end escapes nothing", start, r"write \\ for a backslash")
        else:
            byte = text[self._at]
            self._at += 1
            known = byte in _PLACES or byte in _SETS or byte in b"123456789"
            kind = _ESCAPED if known else _CHAR
        self._token = _Token(kind, byte, start)

    def _at_branch_end(self) -> bool:
        token = self._token
        return token.kind == _END_OF_TEXT or token.special(b"|") or (self._open > 0 and token.special(b")"))

    def _alternatives(self) -> _Node:
        # A group may be referred to only where it has been closed on the way; not from the next alternative.
        before = after = self._closed
        options = [self._branch()]
        after |= self._closed
        while self._token.special(b"|"):
            self._advance()
            self._closed = before
            options.append(self._branch())
            after |= self._closed
        self._closed = after
        return options[0] if len(options) == 1 else _Choice(tuple(options))

    def _branch(self) -> _Node:
        parts = []
        while not self._at_branch_end():
            parts.append(self._repeated())
        return parts[0] if len(parts) == 1 else _Sequence(tuple(parts))

    def _repeated(self) -> _Node:
        node = self._atom()
        # An anchor cannot be repeated: what follows it is the beginning of an expression again.
        while not isinstance(node, _Place) and self._token.special(b"*", b"+", b"?", b"{"):
            least, most = self._quantifier()
            node = _EMPTY if most == 0 else _Repeat(node, least, most)
        return node

    def _quantifier(self) -> tuple[int, int | None]:
        token = self._token
        self._advance()
        if token.special(b"*"):
            return 0, None
        if token.special(b"+"):
            return 1, None
        if token.special(b"?"):
            return 0, 1
        return self._interval(token.start)

    def _interval(self, start: int) -> tuple[int, int | None]:
        least = self._number(start)
        most = least
        if self._token.byte == b","[0]:
            self._advance()
            most = self._number(start)
            least = least or 0
        hint = r"write {n}, {n,}, {,m} or {n,m}, or \{ for a brace"
        if least is None or not self._token.special(b"}"):
            raise PatternError("the braces hold no interval", start, hint)
        if most is not None and least > most:
            raise PatternError(f"the interval ends before it begins ({least} is more than {most})", start, hint)
        if max(least, most or 0) > REPEAT_MAX:
            raise PatternError(f"the interval is too large (at most {REPEAT_MAX})", start, hint)
        self._advance()
        return least, most

    def _number(self, start: int) -> int | None:
        number = None
        while self._token.kind == _CHAR and self._token.byte in b"0123456789":
            number = min((number or 0) * 10 + self._token.byte - 48, REPEAT_MAX + 1)
            self._advance()
        if self._token.kind == _END_OF_TEXT:
            raise PatternError("the interval is not closed", start, r"close it with }, or write \{ for a brace")
        return number

    def _atom(self) -> _Node:
        token = self._token
        if token.special(b"["):
            node: _Node = _Set(self._bracket(token.start))
            self._advance()
            return node
        if token.special(b"("):
            return self._group(token.start)
        if token.special(b"*", b"+", b"?", b"{"):
            sign = chr(token.byte)
            raise PatternError(f"{sign} repeats nothing", token.start, f"write \\{sign} for the character itself")
        if token.kind == _ESCAPED and token.byte in b"123456789":
            return self._reference(token)
        self._advance()
        if token.special(b"^"):
            return _START
        if token.special(b"$"):
            return _END
        if token.special(b"."):
            return _Set(_ALL)
        if token.kind == _ESCAPED:
            return _PLACES.get(token.byte) or _Set(_SETS[token.byte])
        return _Set(frozenset((token.byte,)))  # also ) without ( and } without {

    def _group(self, start: int) -> _Node:
        self._groups += 1
        number = self._groups
        self._open += 1
        self._advance()
        body = self._alternatives()
        if not self._token.special(b")"):
            raise PatternError("the parenthesis is not closed", start, r"close it with ), or write \( for itself")
        self._open -= 1
        self._advance()
        self._closed |= {number}
        return _Group(body, number)

    def _reference(self, token: _Token) -> _Node:
        number = token.byte - 48
        if number not in self._closed:
            raise PatternError(
                f"\\{number} refers to a group that is not complete here",
                token.start,
                "count the opening parentheses before it",
            )
        self.referenced.add(number)
        self._advance()
        return _Reference(number)

    # -- bracket expressions: a grammar of their own, in which a backslash is a character ----------------------

    def _bracket(self, start: int) -> frozenset[int]:
        """Read what follows `[`, and the `]`."""
        self._bracket_start = start
        inverted = self._peek() == b"^"[0]
        if inverted:
            self._at += 1
        members: set[int] = set()
        first = True
        while first or self._peek() != b"]"[0]:
            members |= self._range(first)
            first = False
        self._at += 1
        return _ALL - members if inverted else frozenset(members)

    def _peek(self, ahead: int = 0) -> int:
        if self._at + ahead >= len(self._text):
            raise PatternError("the bracket is not closed", self._bracket_start, r"close it with ], or write \[")
        return self._text[self._at + ahead]

    def _range(self, first: bool) -> frozenset[int]:
        start = self._at
        hint = "put - first or last for the character itself, as in [a-]"
        if self._peek() == b"-"[0] and not first and self._peek(1) != b"]"[0]:
            raise PatternError("- stands between no two characters", start, hint)
        low = self._element()
        if isinstance(low, frozenset):
            return low
        if self._peek() != b"-"[0] or self._peek(1) == b"]"[0]:
            return frozenset((low,))
        self._at += 1
        high = self._element()
        if isinstance(high, frozenset):
            raise PatternError("a class cannot end a range", start, hint)
        if low > high:
            raise PatternError("the range ends before it begins", start, "swap its ends")
        return frozenset(range(low, high + 1))

    def _element(self) -> int | frozenset[int]:
        """Read one character (a collating symbol is one too), or a class."""
        start, byte = self._at, self._peek()
        self._at += 1
        if byte != b"["[0] or self._peek() not in b".=:":
            return byte
        kind = self._text[self._at : self._at + 1]
        end = self._text.find(kind + b"]", self._at + 1)
        if end < 0:
            raise PatternError(
                f"[{kind.decode()} is not closed", start, f"close it with {kind.decode()}], or put [ last"
            )
        name = self._text[self._at + 1 : end]
        self._at = end + 2
        if kind == b":":
            if name not in _CLASSES:
                raise PatternError("there is no such class", start, "one of: " + b" ".join(_CLASSES).decode())
            return _CLASSES[name]
        if len(name) != 1:
            raise PatternError("a collating symbol is one character", start, "write the character itself")
        return frozenset(name) if kind == b"=" else name[0]


# -- what can be known without a subject -----------------------------------------------------------------------


def _nullable(node: _Node) -> bool:
    """Tell whether it is certain that the empty string matches at every place."""
    match node:
        case _Sequence(parts):
            return all(map(_nullable, parts))
        case _Choice(options):
            return any(map(_nullable, options))
        case _Repeat(body, least, _):
            return least == 0 or _nullable(body)
        case _Group(body, _):
            return _nullable(body)
    return False


_HEADS_MAX = 64


def _heads(node: _Node) -> tuple[Head, ...] | None:
    options = _options(node)
    found: list[Head] = []
    for option in options:
        parts = _parts(option)
        if not parts or parts[0] != _START:
            return None
        whole = parts[-1] == _END
        body = parts[1:-1] if whole else parts[1:]
        found += (Head(text, whole and known) for text, known in _texts(_Sequence(body)))
    return tuple(found)


def _options(node: _Node) -> tuple[_Node, ...]:
    while isinstance(node, _Group):
        node = node.body
    return node.options if isinstance(node, _Choice) else (node,)


def _parts(node: _Node) -> tuple[_Node, ...]:
    return node.parts if isinstance(node, _Sequence) else (node,)


def _texts(node: _Node) -> list[tuple[bytes, bool]]:
    """Return the beginnings of what `node` matches, and whether each is the whole of it."""
    match node:
        case _Set(members) if len(members) <= 4:
            return [(bytes((byte,)), True) for byte in members]
        case _Group(body, _):
            return _texts(body)
        case _Choice(options):
            found = [text for option in options for text in _texts(option)]
            return found if len(found) <= _HEADS_MAX else [(b"", False)]
        case _Sequence(parts):
            texts = [(b"", True)]
            for part in parts:
                longer = _texts(part)
                if not any(known for _, known in texts) or len(texts) * len(longer) > _HEADS_MAX:
                    return [(text, False) for text, _ in texts]
                done = [text for text in texts if not text[1]]
                texts = done + [(a + b, known) for a, full in texts if full for b, known in longer]
            return texts
    return [(b"", False)]


def _calm(node: _Node) -> _Node:
    """Rewrite loops so that no body of a loop matches the empty string (the star normal form).

    `re` needs time exponential in the length of a subject for `(a*)*b`, and none worth naming for `a*b`.
    """
    match node:
        case _Sequence(parts):
            return _Sequence(tuple(map(_calm, parts)))
        case _Choice(options):
            return _one_of(map(_calm, options))
        case _Group(body, _):
            return _calm(body)
        case _Repeat(body, least, most):
            body = _calm(body)
            if most is None and _nullable(body):
                least = 0
            if most is None and least <= 1:
                return _Repeat(_loop_body(body), least, None)
            if isinstance(body, _Repeat) and (body.least, body.most) == (0, None):
                return body
            return _Repeat(body, least, most)
    return node


def _loop_body(node: _Node) -> _Node:
    match node:
        case _Choice(options):
            return _one_of(map(_loop_body, options))
        case _Sequence(parts) if parts and _nullable(node):
            return _one_of(map(_loop_body, parts))
        case _Repeat(body, 0 | 1, _):
            return _loop_body(body)
    return node


def _one_of(options: Iterable[_Node]) -> _Node:
    """Return a choice with one set for all single bytes, and nothing twice: `(a|[ab])*` is slow, `[ab]*` is not."""
    flat = [inner for option in options for inner in (option.options if isinstance(option, _Choice) else (option,))]
    sets = [option.bytes for option in flat if isinstance(option, _Set)]
    others = {_Writer(set()).write(option): option for option in flat if not isinstance(option, _Set)}
    made = (*([_Set(frozenset().union(*sets))] if sets else []), *others.values())
    return made[0] if len(made) == 1 else _Choice(made)


# -- where one way after the other would be tried ---------------------------------------------------------------


def _tried_up_to(tree: _Node, anchored: bool) -> int | None:
    """Return up to how many bytes of a subject trying all ways to match is fast; None: always.

    Where there is a choice in a repetition, the ways double with every byte; where repetitions without end follow each
    other, each is a factor as large as the subject, and where a search may begin anywhere, that is another one.
    """
    if _repeats_choices(tree):
        return 0
    factors = _endless(tree) + (not anchored)
    return None if factors < 2 else int(_FEW_WAYS ** (1 / factors))


_FEW_WAYS: Final = 100_000
"""Less than a millisecond."""
_FEW: Final = 8
"""Repetitions that count as none."""


def _endless(node: _Node) -> int:
    match node:
        case _Sequence(parts):
            return sum(map(_endless, parts))
        case _Choice(options):
            return max(map(_endless, options))
        case _Group(body, _):
            return _endless(body)
        case _Repeat(body, least, most):
            return int(most is None or most - least > _FEW or _endless(body) > 0)
    return 0


def _repeats_choices(node: _Node) -> bool:
    match node:
        case _Sequence(parts) | _Choice(parts):
            return any(map(_repeats_choices, parts))
        case _Group(body, _):
            return _repeats_choices(body)
        case _Repeat(body, _, most):
            return (most != 1 and _chooses(body)) or _repeats_choices(body)
    return False


def _chooses(node: _Node) -> bool:
    match node:
        case _Choice(_):
            return True
        case _Sequence(parts):
            following = (*parts[1:], None)
            return any(
                _chooses(part) and not _ends_at(part, then) for part, then in zip(parts, following, strict=False)
            )
        case _Group(body, _):
            return _chooses(body)
        case _Repeat(body, least, most):
            return least != most or _chooses(body)
    return False


def _ends_at(part: _Node, following: _Node | None) -> bool:
    """Tell whether it is the next byte that ends a repetition, and nothing else, as in `[^/]+/`."""
    if not (isinstance(part, _Repeat) and isinstance(part.body, _Set) and isinstance(following, _Set)):
        return False
    return not part.body.bytes & following.bytes


_CONDITIONS: Final[dict[_Place, Condition]] = {
    _START: Condition.START,
    _END: Condition.END,
    _PLACES[b"b"[0]]: Condition.EDGE,
    _PLACES[b"B"[0]]: Condition.NO_EDGE,
    _PLACES[b"<"[0]]: Condition.WORD_BEGINS,
    _PLACES[b">"[0]]: Condition.WORD_ENDS,
}


def _automaton(tree: _Node) -> Automaton | None:
    nodes = Nodes()
    try:
        return Automaton(nodes, _added(nodes, tree, nodes.match))
    except TooLarge:
        return None


def _added(nodes: Nodes, node: _Node, after: int) -> int:
    """Add a tree, and what comes after it; return the first node."""
    match node:
        case _Set(members):
            return nodes.one_of(members, after)
        case _Place(_):
            return nodes.place(_CONDITIONS[node], after)
        case _Sequence(parts):
            for part in reversed(parts):
                after = _added(nodes, part, after)
        case _Choice(options):
            return nodes.fork([_added(nodes, option, after) for option in options])
        case _Group(body, _):
            return _added(nodes, body, after)
        case _Repeat(body, least, most):
            return _added_often(nodes, body, least, most, after)
    return after


def _added_often(nodes: Nodes, body: _Node, least: int, most: int | None, after: int) -> int:
    first = after
    if most is None:
        first = nodes.fork((after,))
        nodes.forks[first].append(_added(nodes, body, first))
    else:
        for _ in range(most - least):
            first = nodes.fork((after, _added(nodes, body, first)))
    for _ in range(least):
        first = _added(nodes, body, first)
    return first


# -- writing ---------------------------------------------------------------------------------------------------


class _Writer:
    def __init__(self, referenced: set[int]) -> None:
        self._referenced = referenced
        self._written: set[int] = set()

    def write(self, node: _Node) -> bytes:
        match node:
            case _Set(members):
                return _written_set(members)
            case _Place(condition):
                return condition
            case _Sequence(parts):
                return b"".join(map(self.write, parts))
            case _Choice(options):
                return b"(?:" + b"|".join(map(self.write, options)) + b")"
            case _Repeat(body, least, most):
                text = self.write(body)
                atom = text if isinstance(body, (_Set, _Choice)) else b"(?:" + text + b")"
                return atom + _written_interval(least, most)
            case _Group(body, number):
                if number not in self._referenced:
                    return b"(?:" + self.write(body) + b")"
                self._written.add(number)
                return b"(?P<g%d>%s)" % (number, self.write(body))
            case _Reference(number):
                # A group that was repeated no times is never set, so nothing equals it.
                return b"(?P=g%d)" % number if number in self._written else b"(?!)"


def _written_interval(least: int, most: int | None) -> bytes:
    short = {(0, None): b"*", (1, None): b"+", (0, 1): b"?"}.get((least, most))
    if short is not None:
        return short
    return b"{%d,}" % least if most is None else b"{%d,%d}" % (least, most)


def _written_set(members: frozenset[int]) -> bytes:
    if len(members) == 1:
        return re.escape(bytes(members))
    if members == _ALL:
        return b"."
    if not members:
        return b"(?!)"
    inverted = len(members) > 128
    shown = sorted(_ALL - members if inverted else members)
    return (b"[^" if inverted else b"[") + b"".join(b"\\x%02x" % byte for byte in shown) + b"]"
