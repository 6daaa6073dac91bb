r"""Expressions mean what glibc's regcomp and regexec take them to mean.

Left out of the random comparison, and pinned down one by one instead, is where glibc contradicts POSIX: anchors in a
repeated group (forgotten from the second round on), `^` behind and `$` before a newline that the same match consumed,
and back references to a group that matched nothing (an endless recursion at worst).
"""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clsync.core.posix_regex import PatternError, translate
from tests.support.glibc_regex import GlibcRegex, Malformed

LETTERS = [b"a", b"b", b"d", b"_", b"-", b"/", b"\n", b"]", b"}", b" ", b"\x80", b"\xe9"]
PLACES = [b"^", b"$", rb"\<", rb"\>", rb"\b", rb"\B", rb"\`", rb"\'"]
ESCAPES = [rb"\%c" % c for c in b"wWsSdn.*+?()[]{}|^$\\/a0Z"]
IN_BRACKETS = b"a b - [ \\ ^ z \xe9 \xff \n . : d [: [:alpha:] [:digit:] [:space:] [:punct:] [:foo:]".split(b" ")
IN_BRACKETS += b"a-z [.-.] [.].] [.a.]-c [.ab.] [=a=] [=]=] [=ab=] \x80-\xff %--".split(b" ")
CLASSES = b"alnum alpha blank cntrl digit graph lower print punct space upper xdigit".split()


def joined(parts: st.SearchStrategy[bytes], most: int = 3) -> st.SearchStrategy[bytes]:
    return st.lists(parts, max_size=most).map(b"".join)


brackets = st.builds(
    lambda hat, first, rest, end: b"[" + hat + first + rest + end,
    st.sampled_from([b"", b"^"]),
    st.sampled_from([b"", b"]", b"-"]),
    joined(st.sampled_from(IN_BRACKETS)),
    st.sampled_from([b"]"] * 9 + [b""]),
)
numbers = st.sampled_from([b"", b"0", b"1", b"2", b"3", rb"\0"])
intervals = st.one_of(
    numbers.map(lambda n: b"{" + n + b"}"),
    st.builds(lambda n, comma, m: b"{" + n + comma + m + b"}", numbers, st.sampled_from([b",", rb"\,"]), numbers),
    st.sampled_from([b"{", b"{1", b"{1,", b"{40000}", b"{x}", b"{1,2,3}", rb"{1\}"]),
)
quantifiers = st.one_of(st.sampled_from([b"*", b"+", b"?", b"**", b"?+"]), intervals)
characters = st.one_of(st.sampled_from([*LETTERS, *LETTERS, *ESCAPES, b".", b")", b"\\", b"*"]), brackets)


def alternatives(pieces: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.lists(joined(pieces), min_size=1, max_size=3).map(b"|".join)


def grouped(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return alternatives(inner).map(lambda text: b"(" + text + b")")


def repeated(atoms: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.builds(lambda atom, times: atom + times, atoms, quantifiers)


loops = st.recursive(
    st.one_of(characters, repeated(characters)), lambda s: st.one_of(grouped(s), repeated(grouped(s)))
)
pieces = st.recursive(st.one_of(loops, st.sampled_from(PLACES)), grouped)
expressions = alternatives(pieces)
subjects = joined(st.sampled_from([*LETTERS, b"\\", b"a", b"."]), most=7)


def compiled(expression: bytes) -> re.Pattern[bytes]:
    return re.compile(translate(expression).pattern, re.DOTALL)


def matches(expression: bytes, subject: bytes) -> bool:
    return compiled(expression).search(subject) is not None


def has_inner_anchor(expression: bytes) -> bool:
    inner = expression.removeprefix(b"^").removesuffix(b"$")
    return b"^" in inner or b"$" in inner


@settings(max_examples=700, deadline=None, print_blob=True, database=None, suppress_health_check=list(HealthCheck))
@given(expressions, st.lists(subjects, min_size=8, max_size=8))
def test_matches_exactly_what_the_c_library_matches(expression: bytes, candidates: list[bytes]) -> None:
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
        for subject in candidates:
            assert (ours(subject) is not None) == theirs.matches(subject), subject
    finally:
        theirs.close()


@settings(max_examples=150, deadline=None, print_blob=True, database=None)
@given(expressions, subjects)
def test_what_is_said_of_all_subjects_holds_for_each(expression: bytes, subject: bytes) -> None:
    try:
        translation = translate(expression)
    except PatternError:
        return
    found = re.search(translation.pattern, subject, re.DOTALL) is not None
    assert found or not translation.always
    if found and translation.heads is not None:
        assert any(subject == h.text if h.whole else subject.startswith(h.text) for h in translation.heads)


@settings(max_examples=150, deadline=None, print_blob=True, database=None)
@given(
    st.builds(
        lambda group, between, number, end: b"(" + group + b")" + between + rb"\%d" % number + end,
        st.sampled_from([b"a", b"b.", b"[ab]", b"a|ba", b"a+", b"(a|b)a", b"\\w/"]),
        st.sampled_from([b"", b"/", b".*", b"(b+)", b"[^a]", b"|(a)", b"{2}", b"+"]),
        st.integers(1, 3),
        st.sampled_from([b"", b"$", b"b", b"|d"]),
    ),
    joined(st.sampled_from([b"a", b"b", b"/", b"d"]), most=9),
)
def test_back_references_to_something_agree_too(expression: bytes, subject: bytes) -> None:
    try:
        theirs = GlibcRegex(expression)
    except Malformed:
        with pytest.raises(PatternError):
            translate(expression)
        return
    assert matches(expression, subject) == theirs.matches(subject)
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
        (rb"(\<a)+b", b"aab", True),
        (rb"(\<a){2}", b"aa", False),
        (rb"(){2}b\1", b"b", True),
    ],
)
def test_anchors_hold_where_the_c_library_forgets_them(expression: bytes, subject: bytes, expected: bool) -> None:
    assert matches(expression, subject) == expected


@pytest.mark.parametrize("expression", [b"(a*)*b", b"(a|a*)*b", b"((a*)+(b?)*)*d", b"(a?){0,}b", b"(a{0,3}b*)*d"])
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
