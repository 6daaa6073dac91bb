"""Rules: grammar, precedence, actions, ancestors, errors."""

from __future__ import annotations

import pytest

from clsync.core.rules import Rules
from clsync.errors import OperatorError


def rules(text: str) -> Rules:
    return Rules.parse(text.encode(), "rules.conf")


def test_without_rules_everything_is_permitted_and_the_rules_are_false() -> None:
    nothing = rules("# only a comment\n\n")
    assert not nothing
    assert nothing.permits(b"a/b", False)
    assert nothing.watches(b"a")
    assert nothing.recursion_is_free(b"")


def test_the_first_matching_rule_decides() -> None:
    found = rules("+f\\.keep$\n-*secret\n+*\n")
    assert found.permits(b"secret.keep", False)
    assert not found.permits(b"secret.txt", False)
    assert found.permits(b"other", False)
    assert not found.permits(b"secret/x.keep", False), "a rejected directory is not walked"


def test_letters_speak_of_types() -> None:
    found = rules("-f^x$\n-d^y$\n")
    assert not found.permits(b"x", False)
    assert found.permits(b"x", True)
    assert found.permits(b"y", False)
    assert not found.permits(b"y", True)
    assert not found.permits(b"y/below", False)


def test_sync_and_walk_are_decided_one_by_one() -> None:
    found = rules("-s^a$\n-w^b$\n-m^c$\n")
    assert not found.permits(b"a", True)
    assert found.permits(b"a/x", False)
    assert found.permits(b"b", True)
    assert not found.permits(b"b/x", False)
    assert found.permits(b"c/x", False)
    assert not found.watches(b"c")
    assert found.watches(b"c/d")
    assert not found.watches(b"b/d")


def test_permitting_a_file_does_not_permit_the_way_to_it() -> None:
    assert not rules("+f^a/f2$\n-*\n").permits(b"a/f2", False)
    assert rules("+f^a/f2$\n+w^$\n+w^a$\n-*\n").permits(b"a/f2", False)


def test_a_walk_rule_lets_a_directory_be_watched_before_a_rejecting_end() -> None:
    found = rules("+f\\.txt$\n+W^$\n+W^sub$\n-*")
    assert found.watches(b"sub")
    assert found.permits(b"sub/a.txt", False)
    assert not found.permits(b"sub", True)


def test_the_last_line_counts_without_a_newline() -> None:
    assert not rules("+f^x$\n-*").permits(b"y", False)


def test_more_than_255_rules() -> None:
    found = rules("".join(f"-f^n{i}$\n" for i in range(400)))
    assert not found.permits(b"n399", False)
    assert found.permits(b"n400", False)


def test_references_in_neighbouring_rules() -> None:
    found = rules("-f^(a+)-\\1$\n-f^(b)\\1$\n")
    assert not found.permits(b"aa-aa", False)
    assert not found.permits(b"bb", False)
    assert found.permits(b"aa-a", False)


def test_recursion_is_free_only_where_nothing_can_be_rejected() -> None:
    found = rules("-*^var/cache/\n-d^tmp$\n")
    assert found.recursion_is_free(b"home")
    assert found.recursion_is_free(b"tmpfiles")
    assert not found.recursion_is_free(b"var")
    assert not found.recursion_is_free(b"var/cache")
    assert not found.recursion_is_free(b"var/cache/x")
    assert not found.recursion_is_free(b"tmp")
    assert not found.recursion_is_free(b"")
    assert not rules("-f\\.o$\n").recursion_is_free(b"home")
    assert rules("+*\n-f\\.o$\n").recursion_is_free(b"home")


def test_the_deciding_rule_is_named() -> None:
    found = rules("+f\\.c$\n\n-d^build$\n")
    assert str(found.deciding(b"build/x.c", False)) == "line 3: -d^build$"
    assert str(found.deciding(b"x.c", False)) == "line 1: +f\\.c$"
    assert found.deciding(b"x.h", False) is None


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("+f^a$\n x\n", 2, "begins with"),
        ("-q^a$\n", 1, "letter"),
        ("-", 1, "letter"),
        ("\n\n-f(\n", 3, "'('"),
        ("-f[a\n", 1, "'[a'"),
    ],
)
def test_a_malformed_rule_names_file_and_line(text: str, line: int, word: str) -> None:
    with pytest.raises(OperatorError) as caught:
        rules(text)
    assert f"rules.conf, line {line}:" in caught.value.message
    assert word in caught.value.message
    assert caught.value.code == 22
    assert caught.value.hint
