"""The protocol of the control socket: what is written is read again, and nothing that comes can hurt."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from clsync.control.protocol import (
    Id,
    Line,
    Malformed,
    ProtocolError,
    Reader,
    answer,
    request,
    sendable,
)
from clsync.control.server import version

END = b"\3/"
NUMBERS = st.integers(0, 2**64 - 1)
STRINGS = st.binary(max_size=60).filter(lambda text: not any(what in text for what in (b"\n", b"\0", END)))
PATHS = STRINGS.map(lambda text: b"/" + text)
WORDS = st.from_regex(rb"[!-~]{1,20}", fullmatch=True)
KEYS = st.from_regex(rb"[a-z][a-z-]{0,20}", fullmatch=True)


def read(*chunks: bytes) -> list[Line]:
    """Return the lines in what comes in these pieces."""
    reader, found = Reader(), list[Line]()
    for chunk in chunks:
        reader.feed(chunk)
        found += reader.lines()
    return found


def read_one(data: bytes) -> Line:
    """Return the only line."""
    (line,) = read(data)
    return line


# -- what the original says ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (answer(0, Id.NEGOTIATE, 0), b"0 0 0 :Protocol version is 0.\n"),
        (answer(0, Id.ACKNOWLEDGED, 1, 0), b"0 150 1 0 :Acknowledged command: id == 1; num == 0.\n"),
        (answer(5, Id.VERSION_IS, 0, 5, b"-release"), b"5 300 0 5 -release :clsync v0.5-release\n"),
        (
            answer(6, Id.INFO_IS, b"default", b"lab1", 0xE183DF90, 0),
            b"6 301 default\3/ lab1\3/ e183df90 0"
            b' :config_block == "default"; label == "lab1"; flags == e183df90; flags_set == 0.\n',
        ),
        (answer(7, Id.UNKNOWN, 300, 7), b"7 160 300 7 :Unknown command.\n"),
        (answer(8, Id.INVALID_ID, 8), b"8 161 8 :Invalid command id. Required: 0 <= cmd_id < 1000.\n"),
        (answer(1, Id.DUMPED), b"1 302  :Ready\n"),
        (
            answer(2, Id.FAILED, b"sync_dump", b"/d", 17, b"File exists"),
            b'2 199 sync_dump\3/ /d\3/ 17 File exists\3/ :sync_dump(/d): Error #17: "File exists".\n',
        ),
        (answer(1, Id.HAS_SET), b"1 311  :Set\n"),
        (answer(1, Id.BYE), b"1 350  :Bye.\n"),
        (
            answer(1, Id.INVALID_ARGUMENTS, 0, 1, reason=b"Incorrect protocol id"),
            b"1 162 0 1 :Rejected command: id == 0; num == 1. Invalid arguments: Incorrect protocol id.\n",
        ),
        (request(0, Id.NEGOTIATED, 0), b"0 1 0\n"),
        (request(5, Id.VERSION), b"5 200\n"),
        (request(1, Id.DUMP, b"/tmp/d"), b"1 202 /tmp/d\n"),
        (request(1, Id.DUMP, b"/tmp/a b"), b"1 202 /tmp/a b\3/\n"),
        (request(1, Id.SET, b"label", b"zz"), b"1 211 label\3/ zz\3/\n"),
    ],
    ids=lambda value: value[:12].decode() if isinstance(value, bytes) else "",
)
def test_lines_are_those_of_the_original(written: bytes, expected: bytes) -> None:
    assert written == expected


@pytest.mark.parametrize(
    ("line", "arguments"),
    [
        (b"1 202 /d\n", (b"/d",)),
        (b"1 202 /d :text of the library\n", (b"/d",)),
        (b"1 202 /a b\3/\n", (b"/a b",)),
        (b"1 211 label zz\n", (b"label", b"zz")),
        (b"1 211 label a b \n", (b"label", b"a b ")),
        (b"1 211 label a :b\n", (b"label", b"a :b")),
        (b"1 211 label\3/ zz\3/\n", (b"label", b"zz")),
        (b"1 211 label\3/ \3/ :text\n", (b"label", b"")),
        (b"1 211 label zz\3/\n", (b"label", b"zz")),
        (b"1 211 label\n", (b"label", b"")),
        (b"0 1 0 :Protocol version is 0.\n", (0,)),
        (b"0 1 0 1\n", (0,)),
        (b"1 200  :\n", ()),
        (b"1 200 whatever\n", ()),
        (b"1 250\r\n", ()),
    ],
)
def test_requests_as_people_and_libraries_write_them(line: bytes, arguments: tuple[int | bytes, ...]) -> None:
    assert read_one(line).arguments() == arguments


@pytest.mark.parametrize(
    "line",
    [b"1 202\n", b"1 202 \n", b"1 202 /a b\n", b"1 211\n", b"0 1\n", b"0 1 x\n", b"0 1 -1\n", b"0 1 1_0\n"],
)
def test_malformed_arguments(line: bytes) -> None:
    with pytest.raises(Malformed):
        read_one(line).arguments()


@pytest.mark.parametrize(
    "data",
    [
        b"garbage\n",
        b"\n",
        b"5\n",
        b"5 x\n",
        b"-1 200\n",
        b"5 200x\n",
        b"1 211 label a\0b\n",
        b"\0\0",
        b"\1\0\0\0",
        b"1 " + b"2" * 20_000,
        b"1 211 label " + b"x" * 20_000 + b"\n",
    ],
)
def test_what_closes_the_connection(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        read(data)


def test_what_came_before_garbage_is_answered() -> None:
    reader = Reader()
    reader.feed(b"1 200\ngarbage\n2 200\n")
    lines = reader.lines()
    assert next(lines) == Line(1, 200)
    with pytest.raises(ProtocolError):
        next(lines)


@pytest.mark.parametrize("text", [b"a\nb", b"a\0b", b"a\3/b"])
def test_what_would_break_a_line_is_refused(text: bytes) -> None:
    with pytest.raises(Malformed):
        request(1, Id.SET, b"label", text)
    answered = answer(1, Id.INFO_IS, b"", sendable(text), 0, 0)
    assert read_one(answered).strings() == [b"", sendable(text)]


@pytest.mark.parametrize(
    ("text", "parts"),
    [("1.0.0.dev0", (1, 0, b".0.dev0")), ("2.13.4", (2, 13, b".4")), ("0.5-release", (0, 5, b"-release"))],
)
def test_versions(text: str, parts: tuple[int, int, bytes]) -> None:
    assert version(text) == parts
    line = read_one(answer(1, Id.VERSION_IS, *parts))
    assert line.arguments() == parts
    assert line.text().decode() == f"clsync v{text}"


# -- properties ------------------------------------------------------------------------------------------------


@given(NUMBERS, PATHS)
def test_dump_comes_as_it_was_sent(number: int, path: bytes) -> None:
    assert read_one(request(number, Id.DUMP, path)).arguments() == (path,)


@given(NUMBERS, KEYS, STRINGS)
@example(1, b"k", b" : \3")
def test_set_comes_as_it_was_sent(number: int, key: bytes, value: bytes) -> None:
    line = read_one(request(number, Id.SET, key, value))
    assert (line.number, line.id, line.arguments()) == (number, Id.SET, (key, value))


@given(NUMBERS, STRINGS, STRINGS, st.integers(0, 2**64 - 1))
def test_info_comes_as_it_was_sent(number: int, block: bytes, label: bytes, flags: int) -> None:
    line = read_one(answer(number, Id.INFO_IS, block, label, flags, 0))
    assert line.arguments() == (block, label, flags, 0)
    assert line.strings() == [block, label]
    assert line.numbers() == [flags, 0]


@given(NUMBERS, STRINGS, STRINGS, st.integers(0, 200), STRINGS)
def test_failures_come_as_they_were_sent(
    number: int, function: bytes, argument: bytes, code: int, why: bytes
) -> None:
    line = read_one(answer(number, Id.FAILED, function, argument, code, why))
    assert line.arguments() == (function, argument, code, why)
    assert line.text() == b'%s(%s): Error #%d: "%s".' % (function, argument, code, why)


@given(NUMBERS, st.integers(0, 99), st.integers(0, 99), WORDS)
def test_versions_come_as_they_were_sent(number: int, major: int, minor: int, revision: bytes) -> None:
    assert read_one(answer(number, Id.VERSION_IS, major, minor, revision)).arguments() == (major, minor, revision)


@given(st.lists(st.tuples(NUMBERS, KEYS, STRINGS), max_size=8), st.data())
def test_pieces_make_no_difference(sent: list[tuple[int, bytes, bytes]], data: st.DataObject) -> None:
    stream = b"".join(request(number, Id.SET, key, value) for number, key, value in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    chunks = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert [(line.number, *line.arguments()) for line in read(*chunks)] == sent


@given(st.lists(st.binary(max_size=80) | st.from_regex(rb"[0-9 ]{1,9}(0|1|20[0-2]|211)[ -~]{0,9}\n"), max_size=6))
def test_whatever_comes_is_a_line_or_an_error(chunks: list[bytes]) -> None:
    try:
        for line in read(*chunks):
            line.arguments()
    except (ProtocolError, Malformed):
        pass
