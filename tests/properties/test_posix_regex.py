r"""Expressions mean what glibc's regcomp and regexec take them to mean.

Left out of the random comparison, and pinned down one by one instead, is where glibc contradicts POSIX: anchors in a
repeated group (forgotten from the second round on), `^` behind and `$` before a newline that the same match consumed,
and back references to a group that matched nothing (an endless recursion at worst).
"""

from __future__ import annotations

import pickle
import re
import time

import pytest
from hypothesis import given, note

from clsync.core.posix_regex import PatternError, _automaton, _calm, _Parser, translate
from clsync.core.rules import Rules
from tests.support.expressions import expression as any_expression
from tests.support.expressions import subject
from tests.support.glibc_regex import GlibcRegex, Malformed
from tests.support.proofs import Choices, choices, examples

CLASSES = b"alnum alpha blank cntrl digit graph lower print punct space upper xdigit".split()


def compiled(expression: bytes) -> re.Pattern[bytes]:
    return re.compile(translate(expression).pattern, re.DOTALL)


def matches(expression: bytes, subject: bytes) -> bool:
    return compiled(expression).search(subject) is not None


def has_inner_anchor(expression: bytes) -> bool:
    inner = expression.removeprefix(b"^").removesuffix(b"$")
    return b"^" in inner or b"$" in inner


@examples(40)
@given(choices(150))
def test_matches_exactly_what_the_c_library_matches(drawn: Choices) -> None:
    candidates = [subject(drawn) for _ in range(8)]
    expression = any_expression(drawn)
    note(f"{expression!r} {candidates}")
    if has_inner_anchor(expression):
        expression, candidates = expression.replace(b"\n", b"\v"), [s.replace(b"\n", b"\v") for s in candidates]
    try:
        theirs = GlibcRegex(expression)
    except Malformed:
        with pytest.raises(PatternError):
            translate(expression)
        return
    try:
        ours = compiled(expression).search
        for candidate in candidates:
            assert (ours(candidate) is not None) == theirs.matches(candidate), candidate
    finally:
        theirs.close()


@examples(20)
@given(choices(100))
def test_what_is_said_of_all_subjects_holds_for_each(drawn: Choices) -> None:
    candidates = [b"", *(subject(drawn) for _ in range(8))]
    anchor, rest = drawn.one([b"", b"^"]), any_expression(drawn)
    note(f"{anchor + rest!r} {candidates}")
    try:
        translation = translate(anchor + rest)
    except PatternError:
        return
    for candidate in candidates:
        found = re.search(translation.pattern, candidate, re.DOTALL) is not None
        assert found or not translation.always
        if found and translation.heads is not None:
            assert any(candidate == h.text if h.whole else candidate.startswith(h.text) for h in translation.heads)


@examples(10)
@given(choices(150))
def test_the_automaton_says_what_re_says(drawn: Choices) -> None:
    """Of every expression that it can be made for, also where nobody would ask it; and again, by what it remembers."""
    candidates = [b"", *(subject(drawn, 12) for _ in range(8))]
    expression = any_expression(drawn)
    note(f"{expression!r} {candidates}")
    try:
        pattern = compiled(expression)
    except PatternError:
        return
    parser = _Parser(expression)
    tree = parser.parse()
    if parser.referenced:
        assert translate(expression).automaton is None
        return
    automaton = _automaton(_calm(tree))
    assert automaton is not None
    for candidate in candidates * 2:
        assert automaton.search(candidate) == (pattern.search(candidate) is not None), candidate


SLOW = (
    rb"^([a-z]+/?)*$", rb"(a|aa)+$", rb"^((a+)+)+$", rb"^(a{1,3}){1,30}$", b"(.*)(.*)(.*)(.*)x$", rb".*a.*b",
    rb"^(([^/]+/)*[^/]*)*\.o$", rb"((a{1,9}){1,9}){1,9}b", rb"^a*a*a*a*b$", rb".*\.o$", rb"a.*a.*a.*b", rb"(\<a|a)*b",
)  # fmt: skip


@pytest.mark.parametrize("expression", SLOW)
def test_no_name_takes_long(expression: bytes) -> None:
    """Names are chosen by others, and `re` alone would take hours for these."""
    rules = Rules.parse(b"-*" + expression)
    began = time.thread_time()
    for name in (
        b"a" * 4000 + b"!",
        b"a" * 45 + b"!",
        b"a" * 300 + b"!",
        b"ab" * 2000,
        b"." * 4000,
        b"a/" * 2000 + b"!",
    ):
        rules.sync(name, False)
        pickle.loads(pickle.dumps(rules)).sync(name, True)
    assert time.thread_time() - began < 20


@pytest.mark.parametrize(
    ("expression", "limit"),
    [
        (rb"\.o$", None), (rb"^.*\.o$", None), (rb"^(a|b)/", None), (rb"^([^/]+/)*x$", None), (rb".*\.o$", 316),
        (rb"^a.*b.*$", 316), (rb"a.*b.*c", 46), (rb"(a|bc)*", 0), (rb"([a-z]+/?)*", 0),
    ],
)  # fmt: skip
def test_ordinary_expressions_are_for_re(expression: bytes, limit: int | None) -> None:
    """It is faster, as long as it does not try too many ways."""
    translated = translate(expression)
    assert (translated.automaton is None) is (limit is None)
    assert translated.tried_up_to == (limit or 0)


@pytest.mark.parametrize("path", [b"a", b"a" * 50, b"a" * 500, b"x.o" + b"a" * 400, b"a" * 400 + b".o", b"", b"b.o"])
def test_rules_together_say_what_each_says(path: bytes) -> None:
    """Neighbours are one expression for short paths, and asked one by one for long ones."""
    lines = (rb"-*.*\.o$", rb"-*a.*b.*c", rb"-*^x", rb"-*(a|bc)*d", rb"-*\.p$")
    each = all(Rules.parse(line).sync(path, False) for line in lines)
    assert Rules.parse(b"\n".join(lines)).sync(path, False) is each


@examples(20)
@given(choices(40))
def test_back_references_to_something_agree_too(drawn: Choices) -> None:
    group = drawn.one([b"a", b"b.", b"[ab]", b"a|ba", b"a+", b"(a|b)a", b"\\w/"])
    between = drawn.one([b"", b"/", b".*", b"(b+)", b"[^a]", b"|(a)", b"{2}", b"+"])
    end = drawn.one([b"", b"$", b"b", b"|d"])
    expression = b"(" + group + b")" + between + rb"\%d" % (1 + drawn.number(3)) + end
    candidates = [b"".join(drawn.some([b"a", b"b", b"/", b"d"], 9)) for _ in range(4)]
    note(f"{expression!r} {candidates}")
    try:
        theirs = GlibcRegex(expression)
    except Malformed:
        with pytest.raises(PatternError):
            translate(expression)
        return
    repeated = between in (b"{2}", b"+")  # the C library does not try all ways to repeat a group
    for candidate in candidates:
        ours = matches(expression, candidate)
        assert ours or not theirs.matches(candidate), candidate
        assert not ours or repeated or theirs.matches(candidate), candidate
    theirs.close()


@pytest.mark.parametrize("name", CLASSES)
def test_classes_hold_the_bytes_they_hold_in_the_c_locale(name: bytes) -> None:
    expression = b"^[[:" + name + b":]]$"
    theirs = GlibcRegex(expression)
    for byte in range(1, 256):
        assert matches(expression, bytes((byte,))) == theirs.matches(bytes((byte,))), byte
    theirs.close()


@pytest.mark.parametrize("expression", [rb"^\w$", rb"^\W$", rb"^\s$", rb"^\S$", b"^.$", b"^[^a]$", b"^[+--]$"])
def test_every_byte_is_told_apart(expression: bytes) -> None:
    theirs = GlibcRegex(expression)
    for byte in range(1, 256):
        assert matches(expression, bytes((byte,))) == theirs.matches(bytes((byte,))), byte
    theirs.close()


@pytest.mark.parametrize(
    ("expression", "subject", "expected"),
    [
        (b"a^b", b"a\nb", False),
        (b".^b", b"a\nb", False),
        (b"a$.", b"a\n", False),
        (b"(^a){2}", b"aa", False),
        (rb"(\<a)+b", b"aab", False),
        (rb"(\<a){2}", b"aa", False),
        (rb"(){2}b\1", b"b", True),
    ],
)
def test_anchors_hold_where_the_c_library_forgets_them(expression: bytes, subject: bytes, expected: bool) -> None:
    assert matches(expression, subject) == expected


def test_options_are_told_apart_by_their_meaning() -> None:
    assert matches(b"^(x(aa|bb)|x((aa)(bb)))$", b"xaabb")
    assert matches(b"^(x((aa)(bb))|x(aa|bb))$", b"xaa")


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "expression",
    [b"(a*)*b", b"(a|a*)*b", b"(a|[ab]|(b|.))*d", b"((a*)+(b?)*)*d", b"(a?){0,}b", b"(a{0,3}b*)*d"],
)
def test_loops_in_loops_take_no_longer_than_one(expression: bytes) -> None:
    assert not matches(expression, b"a" * 2000)


@pytest.mark.parametrize(
    ("expression", "reason", "position"),
    [
        (b"x[ab", "the bracket is not closed", 1),
        (b"[[:alpha:", "[: is not closed", 1),
        (b"[[:letters:]]", "there is no such class", 1),
        (b"[[.space.]]", "a collating symbol is one character", 1),
        (b"a[z-b]", "the range ends before it begins", 2),
        (b"[a-c-e]", "- stands between no two characters", 4),
        (b"[a-[:digit:]]", "a class cannot end a range", 1),
        (b"ab(c", "the parenthesis is not closed", 2),
        (b"a|*", "* repeats nothing", 2),
        (b"^+", "+ repeats nothing", 1),
        (b"({1}", "{ repeats nothing", 1),
        (b"a{", "the interval is not closed", 1),
        (b"a{x}", "the braces hold no interval", 1),
        (b"a{3,2}", "the interval ends before it begins (3 is more than 2)", 1),
        (b"a{32768}", "the interval is too large (at most 32767)", 1),
        (b"ab\\", "the backslash at the end escapes nothing", 2),
        (rb"(a\1)", r"\1 refers to a group that is not complete here", 2),
        (b"(" * 5000 + b")" * 5000, "parentheses are nested too deeply", 0),
    ],
)
def test_says_what_is_malformed_and_where(expression: bytes, reason: str, position: int) -> None:
    with pytest.raises(PatternError) as caught:
        translate(expression)
    assert (caught.value.reason, caught.value.position) == (reason, position)
    assert caught.value.hint
