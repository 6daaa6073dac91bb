"""Buffers of fanotify and inotify, as the kernel writes them and as it never would; mountinfo."""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from clsync.core.rules import Rules
from clsync.kernel import fanotify, mounts
from clsync.monitor.fanotify import FanotifyMonitor
from clsync.monitor.inotify import InotifyMonitor
from tests.fuzz.target import Feed, target

_DIRECTORIES = ("", "one", "one/two", "three")
_HEAD = struct.Struct("=IBBHQii")
_PLACE = tempfile.TemporaryDirectory(prefix="clsync-fuzz-")


@cache
def _tree() -> bytes:
    """Make some directories that events can speak of; return the top."""
    for name in _DIRECTORIES:
        Path(_PLACE.name, name).mkdir(exist_ok=True)
    return os.fsencode(os.path.realpath(_PLACE.name))


@cache
def _handles() -> list[tuple[bytes, bytes]]:
    """Return (path, file system id and handle) of the directories, and of one outside of them."""
    found = []
    for name in (*_DIRECTORIES, ".."):
        path = os.path.join(_tree(), name.encode())
        record = struct.pack("=Q", os.statvfs(path).f_fsid) + fanotify.handle_of(path)
        found.append((name.encode(), record))
    return found


@cache
def _fanotify() -> FanotifyMonitor:
    monitor = FanotifyMonitor(Rules())
    monitor.add(b"", _tree())
    with suppress(FileNotFoundError):  # what really happens there would wait without end
        fanotify.unmark_file_system(monitor.fileno(), _tree())
    return monitor


@cache
def _inotify() -> InotifyMonitor:
    monitor = InotifyMonitor(_tree(), b"", Rules())
    for _ in monitor.arm():
        pass
    return monitor


def _taken(monitor: FanotifyMonitor | InotifyMonitor) -> set[bytes]:
    return {path for paths, _ in monitor.take() for path in paths}


def _record(kind: int, content: bytes) -> bytes:
    padded = content + bytes(-len(content) % 4)
    return struct.pack("=BBH", kind, 0, 4 + len(padded)) + padded


def _fanotify_events(feed: Feed) -> Iterator[tuple[bytes, set[bytes]]]:
    """Yield (event, paths that it speaks of) as fanotify(7) says."""
    while feed:
        masks = (2, 8, 4, 0x100, 0x200, fanotify.RENAME, 0xA, 2 | 1 << 30, 0x200 | 1 << 30)
        mask = feed.one(masks)
        kinds = (fanotify.INFO_OLD_DFID_NAME, fanotify.INFO_NEW_DFID_NAME) if mask == fanotify.RENAME else (2,)
        records, paths = b"", set()
        for kind in kinds:
            where, record = feed.one(_handles())
            itself = mask & (4 | 1 << 30) and not feed.number() % 4  # who writes to a directory itself?
            name = b"." if itself else feed.name()
            records += _record(kind, record + name + b"\0")
            if where != b"..":
                paths.add(os.path.join(where, name) if name != b"." else where)
        if feed.number() % 2:
            records += _record(fanotify.INFO_FID, feed.one(_handles())[1])
        for _ in range(1 + feed.number() % 40):  # many alike are folded in another way
            yield _HEAD.pack(24 + len(records), 3, 0, 24, mask, -1, 1) + records, paths


if os.geteuid() == 0:

    @target(bytes(range(200)), b"\x02\x05abc" * 40)
    def fanotify_events(data: bytes) -> None:
        """What the kernel says comes out as the paths it means, in whatever pieces."""
        feed, monitor, expected = Feed(data), _fanotify(), set[bytes]()
        buffer = b""
        for event, paths in _fanotify_events(feed):
            buffer += event
            expected |= paths
            if len(buffer) > 4096:
                monitor._fold(buffer)
                buffer = b""
        monitor._fold(buffer)
        for _ in monitor.survivors():
            pass
        assert _taken(monitor) == expected

    @target(
        _HEAD.pack(24, 3, 0, 24, 2, -1, 1),
        bytes(48),
        b"\xff" * 64,
        _HEAD.pack(32, 3, 0, 24, 2, -1, 1) + b"\x02\0\x08\0",
    )
    def fanotify_noise(data: bytes) -> None:
        """What is no event is taken as one that was lost: everything is looked at."""
        monitor = _fanotify()
        monitor._fold(data)
        for _ in monitor.survivors():
            pass
        _taken(monitor)


@target(bytes(range(200)), b"\x01\x02name" * 40)
def inotify_events(data: bytes) -> None:
    """What the kernel says of watches that stand comes out as the paths it means."""
    feed, monitor, expected, buffer = Feed(data), _inotify(), set[bytes](), b""
    watches = {path: watch for watch in range(1, 10) if (path := monitor._directory(watch)) is not None}
    while feed:
        path, watch = feed.one(sorted(watches.items()))
        mask, name = feed.one((2, 8, 4, 0x200, 0x40)), feed.name()
        padded = name + bytes(16 - len(name) % 16)
        for _ in range(1 + feed.number() % 40):
            buffer += struct.pack("=iIII", watch, mask, 0, len(padded)) + padded
        expected.add(os.path.join(path, name))
    monitor._fold(buffer)
    assert _taken(monitor) == expected


@target(
    bytes(16),
    struct.pack("=iIII", 1, 2, 0, 0xFFFFFFF0),
    struct.pack("=iIII", 99, 0x8000, 0, 0),
    b"\xff" * 40,
    struct.pack("=iIII", 1, 0x100, 0, 4) + b"a\0b\0",
    b"\x01\x00\x00\x00\x00\x01\xff\xff\xff\xff\x12\x1d\x9b}a\x9c\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00a\x00b\x00",
    struct.pack("=iIII", 1, 0x40000100, 0, 4) + b"a\0b\0",
)
def inotify_noise(data: bytes) -> None:
    """What is no event is taken as one that was lost."""
    monitor = InotifyMonitor(_tree(), b"", Rules())
    try:
        for _ in monitor.arm():
            pass
        monitor._fold(data)
        monitor.drain()
        _taken(monitor)
        list(monitor.survivors())
    finally:
        monitor.close()


@target(b"\\040\\134/x", b"a b\tc\\d\ne")
def mountinfo(data: bytes) -> None:
    """Mount points come out as they are, whatever they are called (proc_pid_mountinfo(5))."""
    point = b"/" + data.replace(b"\0", b"")
    escaped = b"".join(b"\\%03o" % byte if byte in b" \t\n\\" else bytes((byte,)) for byte in point)
    found = mounts._parsed(b"36 35 98:0 /mnt1 %b rw,noatime master:1 - ext3 /dev/root rw\n" % escaped)
    assert found == mounts.Mount(36, 35, b"98:0", point, "ext3", b"/mnt1")
