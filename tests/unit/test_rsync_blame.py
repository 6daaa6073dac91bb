"""Messages that rsync really prints (3.1.3 to 3.5.0), and the entries they are about."""

from __future__ import annotations

import pytest

from clsync.core.batch import DIRECTORY, LINKED, RECURSIVE, REGULAR
from clsync.handler.rsync.blame import blame, first_line, half_read, reason, unsure

ENTRIES = {
    b"busy": REGULAR,
    b"d/bad": REGULAR,
    b"d/x.y": REGULAR,
    b"linked": REGULAR | LINKED,
    b"new\nline": REGULAR,
    b'quo"te': REGULAR,
    b"\xff": REGULAR,
    b"tree": DIRECTORY | RECURSIVE,
}
PREFIXES = [b"/src", b"/dst", b"/"]
END = b"rsync error: some files/attrs were not transferred (see previous errors) (code 23) at main.c(1394) [sender=3.5.0]"


def blamed(*lines: bytes, cut: bool = False) -> tuple[set[bytes], bool]:
    found = blame(b"\n".join([*lines, END, b""]), ENTRIES, PREFIXES, cut)
    return set(found.failed), found.complete


@pytest.mark.parametrize(
    ("line", "path"),
    [
        (b'rsync: [sender] send_files failed to open "/src/d/bad": Permission denied (13)', b"d/bad"),
        (b'rsync: send_files failed to open "/src/d/bad": Permission denied (13)', b"d/bad"),
        (b'rsync: [sender] read errors mapping "/src/d/bad": Input/output error (5)', b"d/bad"),
        (b'rsync: [receiver] mkstemp "/dst/d/.bad.Xy12Zz" failed: Permission denied (13)', b"d/bad"),
        (b'rsync: [receiver] mkstemp "/dst/d/.x.y.Xy12Zz" failed: No space left on device (28)', b"d/x.y"),
        (b'rsync: [receiver] write failed on "/dst/busy": No space left on device (28)', b"busy"),
        (b'rsync: [receiver] rename "/dst/.busy.ixTERl" -> "busy": Device or resource busy (16)', b"busy"),
        (b'rsync: [receiver] rename "/dst/d/.bad.ixTERl" -> "d/bad": Device or resource busy (16)', b"d/bad"),
        (b'rsync: [receiver] rename "/.busy.7AWGub" (in data) -> "busy": Device or resource busy (16)', b"busy"),
        (b'rsync: [generator] symlink "/dst/d/bad" -> "target" failed: Permission denied (13)', b"d/bad"),
        (b'rsync: [generator] link "/dst/linked" => busy failed: Too many links (31)', b"linked"),
        (b"rsync: [generator] delete_file: rmdir(busy) failed: Device or resource busy (16)", b"busy"),
        (b"rsync: [generator] delete_file: unlink(d/bad) failed: Operation not permitted (1)", b"d/bad"),
        (b"could not make way for new regular file: busy", b"busy"),
        (b"cannot delete non-empty directory: tree", b"tree"),
        (b'rsync: [generator] chown "/dst/d" failed: Operation not permitted (1)', b"d"),
        (
            b'rsync: [sender] send_files failed to open "/src/tree/deep/file": Permission denied (13)',
            b"tree/deep/file",
        ),
        (b'rsync: [sender] opendir "/src/tree/closed" failed: Permission denied (13)', b"tree/closed"),
        (b'rsync: [sender] send_files failed to open "/src/new\\#012line": Permission denied (13)', b"new\nline"),
        (b'rsync: [sender] send_files failed to open "/src/quo"te": Permission denied (13)', b'quo"te'),
        (b'rsync: [sender] send_files failed to open "/src/\\#377": Permission denied (13)', b"\xff"),
        (b'rsync: [sender] send_files failed to open "/src/\xff": Permission denied (13)', b"\xff"),
    ],
)
def test_a_message_names_its_entry(line: bytes, path: bytes) -> None:
    assert blamed(line) == ({path}, True)


@pytest.mark.parametrize(
    "line",
    [
        b'rsync: [sender] send_files failed to open "/src/elsewhere": Permission denied (13)',
        b"rsync: connection unexpectedly closed (33 bytes received so far) [sender]",
        b"IO error encountered -- skipping file deletion",
        b"ssh: something in between",
    ],
)
def test_what_is_not_understood_makes_the_answer_incomplete(line: bytes) -> None:
    understood = b'rsync: [sender] send_files failed to open "/src/d/bad": Permission denied (13)'
    assert blamed(understood, line) == ({b"d/bad"}, False)


def test_lost_messages_make_the_answer_incomplete() -> None:
    line = b'rsync: [sender] send_files failed to open "/src/d/bad": Permission denied (13)'
    assert blamed(line, cut=True) == ({b"d/bad"}, False)
    assert blamed() == (set(), False), "it failed, and nobody says why"


def test_the_first_reason_counts() -> None:
    lines = b"rsync: [generator] delete_file: rmdir(busy) failed: Device or resource busy (16)\n"
    found = blame(lines + b"could not make way for new regular file: busy\n", ENTRIES, PREFIXES, False)
    assert found.failed == {b"busy": "[generator] delete_file: rmdir(busy) failed: Device or resource busy (16)"}


def test_what_vanished_is_no_failure_but_tears_what_hangs_together() -> None:
    text = b'file has vanished: "/src/%s"\n'
    found = blame(b"".join(text % p for p in (b"busy", b"linked", b"tree/a")), ENTRIES, PREFIXES, False)
    assert (found.failed, found.vanished, found.complete) == ({}, {b"linked", b"tree"}, True)


@pytest.mark.parametrize(
    ("line", "half"),
    [
        (b'rsync: [sender] read errors mapping "/src/busy": No data available (61)', True),
        (b'rsync: read errors mapping "/src/busy": No data available (61)', True),
        (b"ERROR: busy failed verification -- update discarded.", True),
        (b'rsync: [sender] read errors mapping "/src/busy": Input/output error (5)', False),
        (b'rsync: [sender] send_files failed to open "/src/busy": No data available (61)', False),
    ],
)
def test_what_was_written_to_while_it_was_read(line: bytes, half: bool) -> None:
    found = blame(line + b"\n" + END, ENTRIES, PREFIXES, False)
    assert (set(found.failed), found.complete) == ({b"busy"}, True)
    assert half_read(found.failed[b"busy"]) is half


def test_the_most_telling_line_is_shown() -> None:
    assert first_line(END + b"\n\nrsync: [sender] no route\n" + END) == "[sender] no route"
    assert first_line(END) == END.decode()
    assert first_line(b"\n") == ""
    assert reason(b"rsync: \xff\x07") == "\\xff\\x07"


def test_long_messages_lose_their_middle() -> None:
    """A handler may say anything; the error of one that names a long path comes at its end."""
    told = reason(b'rsync: mkstemp "' + b"x" * 66_000 + b'" failed: No space left on device (28)')
    assert len(told) < 1000
    assert told.startswith('mkstemp "xxx')
    assert told.endswith('" failed: No space left on device (28)')


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'rsync: [receiver] mkstemp "/d/.f.AbCdEf" failed: Input/output error (5)', True),
        (b'rsync: rename "/d/.f.AbCdEf" -> "f": Stale file handle (116)', True),
        (b'rsync: [sender] read errors mapping "/s/f": Input/output error (5)', False),
        (b'rsync: [receiver] mkstemp "/d/.f.AbCdEf" failed: Permission denied (13)', False),
        (b"rsync error: some files/attrs were not transferred (code 23) at main.c(1338) [sender=3.2.7]", False),
    ],
)
def test_after_some_failures_nobody_knows_what_was_done(line: bytes, expected: bool) -> None:
    assert unsure(b"something else\n" + line + b"\n") is expected
