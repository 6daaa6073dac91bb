"""Lists for rsync, and what it says: names of every kind. The real rsync is asked what it reads back."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from clsync.core import lists
from clsync.core.batch import DIRECTORY, MISSING, RECURSIVE, REGULAR
from clsync.core.paths import ancestors, leads_out
from clsync.handler.rsync.blame import blame, first_line, reason
from clsync.handler.rsync.dryrun import Reading
from tests.fuzz.target import Feed, target


def _given(*names: bytes) -> bytes:
    """Return the input that makes a target use these names, all of them."""
    return bytes((len(names) - 1,)) + b"".join(bytes((len(name),)) + name for name in names) + b"\1" * 9


_ODD = (
    _given(b"-n", b"#a;b", b"a\\b", b"a]b", b"[x]*?", b"a\nb", b"\xff\xfe", b"..."),
    _given(b" a b", b"\x1b[31m", b"%TYPE%", b"+ x", b"- *", b"!", b"x"),
    # Line ends as rsync reads them, and a rule after them.
    _given(b"a\r!", b"x\r- *", b"y\r+ b", b"b"),
    _given(b"a\n!", b"x\n- *", b"y\n+ b", b"b"),
)
_SOURCE = b"source/"


def _names(feed: Feed, most: int = 12) -> list[bytes]:
    return sorted({feed.name() for _ in range(1 + feed.number() % most)})


def _ran(place: Path, *arguments: str | bytes, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["rsync", *arguments], cwd=place, input=given, capture_output=True, check=False)


def _copied(place: Path) -> set[bytes]:
    return set(os.listdir(bytes(place / "destination")))


@target(*_ODD, *(odd[:-9] + b"\0\1" * 5 for odd in _ODD), bytes(range(1, 200)), cost=120)
def lists_read_by_rsync(data: bytes) -> None:
    """Of names of every kind, just those come over that a list names, and those stay away that it excludes."""
    feed = Feed(data)
    names = _names(feed)
    wanted = {name: REGULAR for name in names if feed.number() % 2}
    with tempfile.TemporaryDirectory(prefix="clsync-fuzz-", dir="/dev/shm") as top:
        place = Path(top)
        (place / "source").mkdir()
        for name in names:
            Path(os.fsdecode(os.path.join(os.fsencode(top), _SOURCE, name))).touch()
        (place / "destination").mkdir()
        done = _ran(
            place, "-rlt", "--files-from=-", "--from0", "source/", "destination/",
            given=b"".join(lists.files_from(wanted, b".absent")),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert _copied(place) == set(wanted)
        _demand_filtered(place, names, wanted)


def _demand_filtered(place: Path, names: list[bytes], wanted: dict[bytes, int]) -> None:
    """Demand the same of the lists of clsync 0.4: there `?` stands for a line break, which other names may meet."""
    (place / "include").write_bytes(b"".join(text for _, text in lists.include_lists(wanted, 0)))
    (place / "exclude").write_bytes(lists.exclude_list(wanted))
    common = ("-rlt", "--delete-excluded", "--delete")
    _ran(place, *common, "--include-from=include", "--exclude=*", "source/", "destination/")
    alike = {name for name in names if any(_meets(one, name) for one in wanted)}
    assert set(wanted) <= _copied(place) <= alike, (_copied(place), wanted)
    _ran(place, *common, "--exclude-from=exclude", "source/", "destination/")
    assert set(names) - alike <= _copied(place) <= set(names) - set(wanted)


def _meets(listed: bytes, name: bytes) -> bool:
    return len(listed) == len(name) and all(a in (b, 10, 13) for a, b in zip(listed, name, strict=True))


@target(*_ODD)
def lists_for_rsync(data: bytes) -> None:
    """However lists are cut, each line is of one entry or leads to one; nothing in a name ends a line."""
    feed = Feed(data)
    flags = (REGULAR, DIRECTORY, DIRECTORY | RECURSIVE, MISSING)
    entries = {feed.path(): flags[feed.number() % 4] for _ in range(1 + feed.number() % 9)}
    records = b"".join(lists.files_from(entries, b".absent")).split(b"\0")
    assert records.pop() == b""
    assert len(records) == len(entries)
    assert all(record.startswith(b"./") and b"/../" not in record for record in records)
    limit = feed.number() % 5
    for part, text in lists.include_lists(entries, limit):
        lines = text.split(b"\n")
        assert lines.pop() == b""
        assert all(line.startswith(b"/") for line in lines)
        most = sum(2 + len(list(ancestors(path))) for path in part)
        assert len(lines) <= most
    lines = lists.exclude_list(entries).split(b"\n")
    assert len(lines) == len(entries) + 1


_MESSAGES = (
    b'rsync: [sender] send_files failed to open "/s/a": Permission denied (13)\n',
    b'file has vanished: "/s/b/c"\nrsync warning: some files vanished (code 24) at main.c(1)\n',
    b"cannot delete non-empty directory: b\n",
    b'rsync: [receiver] mkstemp "/d/.a.Ab12Cd" failed: No space left on device (28)\n',
    b'rsync: [generator] rename "/d/x" -> "a": x (1)\nfilename overflows max-path len by 3: b/x\n',
    b"filename overflows max-path len by 3: .a.Ab12Cd\n",
    b'\\#012 "\\#0"\x1b[31m delete_file: unlink(a) failed: x\n',
)


@target(*_MESSAGES, b"".join(_MESSAGES))
def messages_of_rsync(data: bytes) -> None:
    """Whatever is said, what it blames is an entry of the batch, or leads to one, or lies below; reasons can be shown."""
    entries = {b"a": REGULAR, b"b": DIRECTORY | RECURSIVE, b"c/d": MISSING, b"\xff\n": REGULAR}
    found = blame(data, entries, [b"/s", b"/d"], cut=False)
    above = {b"", *(up for path in entries for up in ancestors(path))}
    for path, why in found.failed.items():
        assert path in entries or path in above or path.startswith(b"b/"), path
        assert why.isprintable()
    assert found.vanished <= {b"b"}
    assert reason(data[:500]).isprintable()
    assert first_line(data).isprintable()


@target(b"*deleting   a/b/\n*deleting   c\\#012\n>f+++++ x\n", b"\\#999\\#12")
def itemised_deletions(data: bytes) -> None:
    """Deletions that rsync announces are paths; those of a real one are those that it prints, unescaped."""
    for path, is_dir in lists.deletions(data):
        assert isinstance(is_dir, bool)
        assert b"\n" not in path or b"\\#" in data
    for line in data.split(b"\n"):
        one = Reading().read(line)
        assert one is None or not leads_out(one.path)
    escaped = b"".join(b"\\#%03o" % byte for byte in data)
    assert lists.unescape(escaped) == data
