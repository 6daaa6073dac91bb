"""What is written for another program is read there as it was meant: names, patterns, words, lists."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from clsync.core import lists
from clsync.core.batch import DIRECTORY, MISSING, RECURSIVE, REGULAR
from clsync.core.changes import OF_DIRECTORY
from clsync.core.classify import CHANGE_SHIFT
from clsync.core.paths import ancestors, is_below, join, parent
from clsync.handler.rsync.recipe import shell_words
from clsync.options.values import argument_line
from tests.support.proofs import examples

names = st.binary(min_size=1, max_size=12).map(lambda b: b.replace(b"/", b"_").replace(b"\0", b"0"))
odd = st.text("ab\\#01*?[]\n\r'\" \t-;.:", min_size=1, max_size=10).map(str.encode)
paths = st.lists(names | odd, min_size=1, max_size=4).map(b"/".join)
GONE = OF_DIRECTORY << CHANGE_SHIFT
"""Of an entry that is missing: it was a directory."""
entries = st.dictionaries(
    paths, st.sampled_from([REGULAR, MISSING, MISSING | GONE, DIRECTORY, DIRECTORY | RECURSIVE]), max_size=6
).map(lambda found: dict(sorted(found.items())))


def escaped(name: bytes) -> bytes:
    """Write a name as rsync prints it (log.c): control bytes, and a backslash that could be taken for an escape."""
    out = b""
    for at, byte in enumerate(name):
        following = name[at + 1 : at + 5]
        looks_escaped = byte == 0x5C and re.match(rb"#[0-9]{3}", following)
        out += b"\\#%03o" % byte if byte < 32 or byte > 126 or looks_escaped else bytes((byte,))
    return out


def wildmatch(pattern: bytes) -> re.Pattern[bytes]:
    """Translate an anchored rsync pattern (rsync(1), PATTERN MATCHING RULES)."""
    if not re.search(rb"[*?[]", pattern):
        return re.compile(re.escape(pattern), re.DOTALL)
    out, at = b"", 0
    while at < len(pattern):
        if pattern.startswith(b"/***", at):
            out, at = out + b"(?:/.*)?", at + 4
        elif pattern[at : at + 1] == b"\\":
            out, at = out + re.escape(pattern[at + 1 : at + 2]), at + 2
        elif pattern[at : at + 1] == b"?":
            out, at = out + b"[^/]", at + 1
        else:
            assert pattern[at : at + 1] not in (b"*", b"["), "a wildcard was left as it is"
            out, at = out + re.escape(pattern[at : at + 1]), at + 1
    return re.compile(out, re.DOTALL)


@examples(5)
@given(odd | names)
def test_names_come_back_from_rsyncs_escapes(name: bytes) -> None:
    assert lists.unescape(escaped(name)) == name


@examples(3)
@given(st.lists(st.tuples(paths, st.booleans()), max_size=5))
def test_deletions_are_read_as_rsync_prints_them(gone: list[tuple[bytes, bool]]) -> None:
    text = b"".join(b"*deleting   " + escaped(p) + (b"/" if d else b"") + b"\n.f..t...... other\n" for p, d in gone)
    assert list(lists.deletions(text)) == gone


@examples(5)
@given(paths, paths)
def test_a_pattern_matches_its_path_and_no_other(path: bytes, other: bytes) -> None:
    pattern = wildmatch(lists.pattern(path))
    assert pattern.fullmatch(b"/" + path)
    if pattern.fullmatch(b"/" + other):
        assert len(other) == len(path)
        assert all(a == b or a in b"\n\r" for a, b in zip(path, other, strict=True)), (
            "what ends a line may be anything"
        )
    below = wildmatch(lists.pattern(path, b"/***"))
    assert below.fullmatch(b"/" + path)
    assert below.fullmatch(b"/" + path + b"/x/y")
    assert not below.fullmatch(b"/" + path + b"x")


@examples(3)
@given(entries)
def test_lists_name_every_entry_once_and_nothing_twice(found: dict[bytes, int]) -> None:
    records = b"".join(lists.files_from(found, b".absent")).split(b"\0")[:-1]
    assert all(record.startswith(b"./") for record in records)
    plain = {p for p, flags in found.items() if not flags & DIRECTORY or flags & RECURSIVE}
    bare = found.keys() - plain
    assert records == [b"./" + (p if p in plain else join(p, b".absent")) for p in found]
    assert {parent(r[2:]) for r in records if r.endswith(b"/.absent")} >= bare


@examples(3)
@given(entries)
def test_flat_lists_reach_every_entry(found: dict[bytes, int]) -> None:
    tree = {p: [join(p, b"x"), join(p, b"x/y")] for p, flags in found.items() if flags & RECURSIVE}
    records = b"".join(lists.files_from_flat(found, lambda p: tree[p])).split(b"\0")[:-1]
    assert len(records) == len(set(records))
    for path, flags in found.items():
        if flags & MISSING:
            assert b"./" + (parent(path) + b"/" if parent(path) else b"") in records
        elif flags & RECURSIVE:
            assert {b"./" + p + b"/" for p in (path, *tree[path])} <= set(records)
        else:
            assert b"./" + path in records


@examples(3)
@given(entries, st.integers(0, 5))
def test_include_lists_reach_every_entry_through_all_its_parents(found: dict[bytes, int], limit: int) -> None:
    parts = list(lists.include_lists(found, limit))
    assert [p for part, _ in parts for p in part] == list(found)
    for part, text in parts:
        patterns = [wildmatch(line) for line in text.split(b"\n")[:-1]]
        wanted = [*part, *(up for path in part for up in ancestors(path))]
        assert all(any(p.fullmatch(b"/" + path) for p in patterns) for path in wanted)
        assert not limit or all(text for _, text in parts)
        for path, flags in part.items():
            inside = any(p.fullmatch(b"/" + path + b"/inside") for p in patterns)
            covered = any(part[up] & (RECURSIVE | GONE) for up in part if up == path or is_below(path, up))
            assert inside >= bool(flags & (RECURSIVE | GONE))
            assert covered or not inside or any(b"\n" in p for p in part)


def rsync_splits(text: bytes) -> list[bytes]:
    """Split the value of `-e` as rsync does (main.c, do_cmd)."""
    words: list[bytes] = []
    word, quote, at, begun = b"", b"", 0, False
    while at < len(text):
        byte = text[at : at + 1]
        if byte == quote and quote:
            if text[at + 1 : at + 2] == quote:
                word, at = word + quote, at + 1
            else:
                quote = b""
        elif not quote and byte in (b"'", b'"'):
            quote, begun = byte, True
        elif not quote and byte == b" ":
            words, word, begun = words + [word] * begun, b"", False
        else:
            word, begun = word + byte, True
        at += 1
    return words + [word] * begun


@examples(3)
@given(st.lists(st.text("ab '-=/%", min_size=1, max_size=8).map(str.encode), min_size=1, max_size=5))
def test_words_for_a_remote_shell_come_back(words: list[bytes]) -> None:
    assert rsync_splits(shell_words(words)) == words


@examples(3)
@given(st.lists(st.text("ab \t'\"\\%", min_size=1, max_size=8).map(str.encode), max_size=5), st.booleans())
def test_quoted_words_of_an_argument_line_come_back(words: list[bytes], double: bool) -> None:
    def quoted(word: bytes) -> bytes:
        parts = word.split(b"'")
        return b'"\'"'.join(b"'" + part + b"'" for part in parts)

    assert argument_line(b" \t".join(map(quoted, words)), None) == tuple(words)


@given(paths, paths)
def test_paths_agree_with_each_other(path: bytes, other: bytes) -> None:
    ups = list(ancestors(path))
    assert ups == sorted(ups, key=len)
    assert all(is_below(path, up) and not is_below(up, path) for up in ups)
    assert parent(path) == (ups[-1] if ups else b"")
    assert is_below(other, path) == (path in list(ancestors(other)))
    assert is_below(join(path, other), path)
    assert is_below(path, b"")
    assert not is_below(path, path)
