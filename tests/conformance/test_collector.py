"""A window that somebody looks at before it is handed over."""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from clsync.core.changes import NAME
from clsync.core.dirty import DirtySet
from clsync.core.moves import Move
from clsync.core.rules import Rules
from clsync.core.windows import Window
from clsync.daemon import collector as module
from clsync.daemon.collector import Collector
from clsync.daemon.log import Log
from clsync.kernel import slices
from clsync.monitor import TreeMonitor, composite, fanotify

KINDS = [
    pytest.param("fanotify", marks=[pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]),
    "inotify",
]


def run(top: Path, story: Callable[[Collector], Awaitable[None]], kind: str = "inotify") -> None:
    """Watch a directory, and do something with its collector."""

    def monitor(rules: Rules) -> TreeMonitor:
        return TreeMonitor(
            bytes(top),
            kind=kind,
            rules=rules,
            follow_mounts=False,
            poll_interval=1.0,
            log=lambda text: None,
        )

    async def told() -> None:
        made = Collector(monitor, Window(), Log(level=0), wake=lambda: None, root_gone=lambda: None)
        await made.arm(Rules(), lambda: False)
        try:
            await story(made)
        finally:
            made.close()

    asyncio.run(told())


async def taken(collector: Collector) -> list[set[bytes]]:
    """Take the window; return the files in the batches that this makes."""
    batches = []
    while collector.drain() or collector.half_taken:
        dirty = await part(collector)
        batches.append({path for path in dirty.ready if path})
    return batches


async def part(collector: Collector) -> DirtySet:
    """Take as much of the window as goes into one batch."""
    dirty = DirtySet()
    await collector.take(
        0.0, lambda moves, since: None, dirty.add_all, lambda: len(dirty.ready) >= module.PART, nothing
    )
    return dirty


async def nothing(since: float) -> None:
    """Find no survivors."""


def write(top: Path, *names: str) -> set[bytes]:
    for name in names:
        (top / name).write_text("text")
    return {name.encode() for name in names}


def test_what_was_looked_at_is_handed_over_with_what_came_later(tmp_path: Path) -> None:
    async def story(collector: Collector) -> None:
        for name in ("a", "b"):
            written = write(tmp_path, name)
            collector.drain()
            seen = await collector.look()
            assert written <= seen.keys()
            assert seen[name.encode()] & NAME
        assert collector.drain()
        assert collector.due() is not None
        write(tmp_path, "c")
        assert await taken(collector) == [{b"a", b"b", b"c"}]
        assert not collector.drain()
        assert await collector.look() == {}

    run(tmp_path, story)


async def moved(collector: Collector) -> tuple[list[tuple[bytes | None, bytes | None]], set[bytes]]:
    """Take the window; return what was moved in it, and what was known to be dirty when that was told."""
    dirty, told, known = DirtySet(), list[tuple[bytes | None, bytes | None]](), set[bytes]()

    def note(moves: Sequence[Move], since: float) -> None:
        told.extend((move.old, move.new) for move in moves)
        known.update(dirty.paths())

    await collector.take(0.0, note, dirty.add_all, lambda: False, nothing)
    return told, known


def test_what_was_moved_in_a_window_that_was_looked_at_is_told(tmp_path: Path) -> None:
    """With what was seen before it: the destination may not have that."""
    (tmp_path / "a").mkdir()

    async def story(collector: Collector) -> None:
        write(tmp_path, "before")
        collector.drain()
        await collector.look()
        (tmp_path / "a").rename(tmp_path / "b")
        await collector.catch_up()
        assert b"b" in await collector.look()
        write(tmp_path, "after")
        await collector.catch_up()
        told, known = await moved(collector)
        assert told == [(b"a", b"b")]
        assert b"before" in known
        assert not {b"a", b"b", b"after"} & known
        assert await moved(collector) == ([], set())

    run(tmp_path, story)


def test_what_was_moved_in_several_windows_is_not_told(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()

    async def story(collector: Collector) -> None:
        for old, new in ("ab", "bc", "cd"):
            (tmp_path / old).rename(tmp_path / new)
            await collector.catch_up()
            assert new.encode() in await collector.look()
        assert (await moved(collector))[0] == []
        (tmp_path / "d").rename(tmp_path / "e")
        await collector.catch_up()
        assert (await moved(collector))[0] == [(b"d", b"e")]

    run(tmp_path, story)


@pytest.mark.parametrize("directory", [False, True])
def test_what_was_moved_is_not_told_if_something_else_came_there_after_a_look(
    tmp_path: Path, directory: bool
) -> None:
    """It may have the same inode."""
    (tmp_path / "a").mkdir() if directory else write(tmp_path, "a")

    async def story(collector: Collector) -> None:
        (tmp_path / "a").rename(tmp_path / "b")
        await collector.catch_up()
        assert b"b" in await collector.look()
        (tmp_path / "b").rmdir() if directory else (tmp_path / "b").unlink()
        (tmp_path / "b").mkdir() if directory else write(tmp_path, "b")
        await collector.catch_up()
        assert (await moved(collector))[0] == []
        (tmp_path / "b").rename(tmp_path / "c")
        await collector.catch_up()
        assert (await moved(collector))[0] == [(b"b", b"c")]

    run(tmp_path, story)


def test_of_a_large_window_no_more_is_looked_at_than_goes_into_one_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often, and also while it is handed over."""
    monkeypatch.setattr(module, "PART", 10)

    async def story(collector: Collector) -> None:
        written = write(tmp_path, *map(str, range(50)))
        collector.drain()
        for _ in range(3):
            assert len(await collector.look()) == 10
        written |= write(tmp_path, *map(str, range(50, 100)))
        collector.drain()
        dirty = await part(collector)
        assert collector.half_taken
        for _ in range(3):
            assert len(await collector.look()) == 10
        batches = [dirty.ready.keys(), *await taken(collector)]
        assert all(len(batch) <= 10 for batch in batches)
        assert set().union(*batches) - {b""} == written

    run(tmp_path, story)


def test_a_look_while_the_tree_is_watched_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them waits for the other: there is nothing to be seen in a monitor that is closed."""
    monkeypatch.setattr(slices, "_TURN", 0.0)
    for number in range(200):
        (tmp_path / f"d{number}").mkdir()

    async def story(collector: Collector) -> None:
        for number in range(200):
            write(tmp_path, f"d{number}/file")
        collector.drain()
        looking = asyncio.create_task(collector.look())
        await asyncio.sleep(0)
        arming = asyncio.create_task(collector.arm(Rules(), lambda: False))
        assert len([path for path in await looking if path.endswith(b"/file")]) == 200
        await arming
        # Whoever watches anew compares everything.
        assert await collector.look() == {}
        write(tmp_path, "new")
        assert await taken(collector) == [{b"new"}]

    run(tmp_path, story)


def test_a_rest_ends_when_its_window_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What changes then is not to wait for the end of a rest that was for others."""
    monkeypatch.setattr(composite, "_SHORT_REST", 3600.0)

    async def story(collector: Collector) -> None:
        collector.window.collect = 3600.0
        write(tmp_path, "first")
        assert collector.drain()
        assert b"first" in (await part(collector)).ready
        assert collector.due() is None
        write(tmp_path, "second")
        async with asyncio.timeout(60):
            while collector.due() is None:
                await asyncio.sleep(0.01)

    run(tmp_path, story)


def test_a_short_queue_is_read_soon(tmp_path: Path) -> None:
    monitor = TreeMonitor(
        bytes(tmp_path), kind="inotify", rules=Rules(), follow_mounts=False, poll_interval=1.0, log=lambda text: None
    )
    assert monitor.rest() == composite._LONG_REST  # nothing is watched by inotify yet
    for _ in monitor.arm():
        pass
    assert monitor.rest() == composite._SHORT_REST
    monitor.close()


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_while_a_window_is_ended_opens_the_next(tmp_path: Path, kind: str) -> None:
    """To be sure of what was moved the queue is read to its end: nobody else is told of what was in it."""
    (tmp_path / "a").mkdir()

    async def story(collector: Collector) -> None:
        (tmp_path / "a").rename(tmp_path / "b")
        await collector.catch_up()
        write(tmp_path, "later")
        assert b"later" not in (await part(collector)).ready
        assert collector.due() is not None or readable(collector)
        await collector.catch_up()
        assert b"later" in (await part(collector)).ready

    run(tmp_path, story, kind)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_what_is_lost_while_a_window_is_taken_opens_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More files than are kept in mind have names outside: everything is compared, and that is not to wait for an event."""
    monkeypatch.setattr(fanotify, "_STRAYS_LIMIT", 2)
    top = tmp_path / "top"
    (top / "d").mkdir(parents=True)
    for number in range(4):
        write(tmp_path, f"outside{number}")
        os.link(tmp_path / f"outside{number}", top / f"d/inside{number}")

    async def story(collector: Collector) -> None:
        for number in range(4):
            write(tmp_path, f"outside{number}")
        await collector.catch_up()
        await part(collector)
        assert collector.due() is not None
        assert b"" in (await part(collector)).ready

    run(top, story, "fanotify")


def test_who_is_cut_off_after_the_end_has_nothing_to_read(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()

    async def story(collector: Collector) -> None:
        (tmp_path / "a").rename(tmp_path / "b")
        await collector.catch_up()
        collector.close()
        assert not collector.drain()

    run(tmp_path, story)


def readable(collector: Collector) -> bool:
    """Tell whether the kernel has something that nobody has read."""
    assert collector.monitor is not None
    return bool(select.select([collector.monitor], [], [], 0)[0])
