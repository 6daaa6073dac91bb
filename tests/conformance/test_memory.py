"""The state while a daemon uses it: what is begun is ended."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from clsync.core import batch as flag
from clsync.core.batch import Batch, Outcome, Verdict
from clsync.core.changes import DOUBT, NAME
from clsync.core.classify import CHANGE_SHIFT
from clsync.core.rules import Rules
from clsync.core.windows import Window
from clsync.daemon import hosts
from clsync.daemon import memory as module
from clsync.daemon.collector import Collector
from clsync.daemon.holding import TargetMemory
from clsync.daemon.log import Log
from clsync.daemon.memory import Memory
from clsync.daemon.root import Directory
from clsync.daemon.source import Source
from clsync.daemon.stateaccess import DirectStateAccess
from clsync.daemon.target import Target
from clsync.handler.base import HostNews
from clsync.kernel.durable import boot_id
from clsync.monitor import TreeMonitor
from clsync.state.opening import FILE
from clsync.state.room import Place
from clsync.state.store import Confirmed

EVERYTHING = {b"": flag.DIRECTORY | flag.RECURSIVE | DOUBT << CHANGE_SHIFT}


def memory(top: Path, targets: int) -> Memory:
    """Return the memory of a source with some targets, not opened."""

    def monitor(rules: Rules) -> TreeMonitor:
        raise AssertionError("nothing is watched")

    log = Log(level=0)
    collector = Collector(monitor, Window(), log, wake=lambda: None, root_gone=lambda: None)
    directory = Directory(bytes(top / "source"))
    source = Source(directory, collector, log, wake=lambda: None)
    source.targets += [Target(log, str(number)) for number in range(targets)]
    access = DirectStateAccess(directory.path, bytes(top / "state") + b"/" + FILE)
    made = Memory(directory, Place(bytes(top / "state"), asked=True, boot=boot_id()), access, 0, log)
    made.attach(source, lambda: None, watched=True, wake=lambda: None)
    return made


def test_a_clean_end_flushes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was confirmed survives a loss of power then."""
    monkeypatch.setattr(module, "_LAST_FLUSH", 100.0)
    for name in ("source", "target"):
        (tmp_path / name).mkdir()

    async def story() -> None:
        made = memory(tmp_path, 1)
        await made.use(Rules(), [(b"one", bytes(tmp_path / "target"))])
        assert made.kept is not None
        made.kept.confirm(b"one", Confirmed({b"file": None}))
        assert unflushed(tmp_path) > 0
        await made.close(well=True)
        assert unflushed(tmp_path) == 0

    asyncio.run(story())


def unflushed(top: Path) -> int:
    with closing(sqlite3.connect(top / "state/state.db")) as rows:
        return int(rows.execute("SELECT count(*) FROM journal WHERE flush > 0").fetchone()[0])


def test_scans_that_begin_while_the_state_is_closed_are_ended(tmp_path: Path) -> None:
    """Whenever that is: they are begun in several steps, for several targets."""
    (tmp_path / "source").mkdir()

    async def story(pause: float) -> None:
        made = memory(tmp_path, 2)
        await made.use(Rules(), [(b"one", None), (b"two", None)])
        root = made.root.open()
        begun = [
            asyncio.create_task(target.before(Batch(1, EVERYTHING, root, initial=True), {}, 0.0, None))
            for target in made.targets
        ]
        await asyncio.sleep(pause)
        await made.close()
        await asyncio.gather(*begun)
        made.root.close(root)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    for pause in range(12):
        asyncio.run(story(pause / 1000))


BOOT, OTHER = b"its first boot", b"its second boot"
DONE = Outcome(Verdict.DONE)


class Far:
    """What can be asked of a host, and what it says."""

    def __init__(self) -> None:
        self.news = HostNews(BOOT, flushed=True)

    async def ask_host(self, *, flush: bool) -> HostNews:
        return self.news._replace(flushed=flush and self.news.flushed)


async def far_target(top: Path) -> tuple[Memory, TargetMemory, Far]:
    """Return a state with one target, on a host that has said in which boot it is."""
    (top / "source").mkdir()
    made, far = memory(top, 1), Far()
    await made.use(Rules(), [(b"one", None)])
    (target,) = made.targets
    target.handler = lambda: far  # type: ignore[assignment, return-value]
    await target.landed(DONE)
    return made, target, far


@pytest.mark.parametrize(
    ("news", "old", "flushed"),
    [
        (HostNews(BOOT, flushed=True), False, True),
        (HostNews(BOOT), False, False),
        (HostNews(BOOT), True, True),
        (HostNews(None), False, False),
        (HostNews(None), True, True),
        (HostNews(b""), True, False),
    ],
)
def test_what_counts_as_flushed_at_a_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, news: HostNews, old: bool, flushed: bool
) -> None:
    """What it has flushed, and what is old where it may have; nothing while it is out of reach."""
    monkeypatch.setattr(hosts, "_WRITTEN", 0.0 if old else 1e6)

    async def story() -> None:
        made, target, far = await far_target(tmp_path)
        assert made.kept is not None
        made.kept.confirm(b"one", Confirmed({b"file": None}))
        far.news = news
        await made._flush()
        assert (made.kept.awaiting_flush() == 0) is flushed
        assert b"file" not in target.target.dirty.paths()
        await made.close()

    asyncio.run(story())


def test_a_host_that_has_booted_is_given_again_what_is_confirmed_and_what_is_about_to_be(tmp_path: Path) -> None:
    async def story() -> None:
        made, target, far = await far_target(tmp_path)
        assert made.kept is not None
        made.kept.confirm(b"one", Confirmed({b"confirmed": None}))
        root = made.root.open()
        handed = await target.before(Batch(1, {b"landed": flag.MISSING}, root), {b"landed": NAME}, 0.0, None)
        assert handed is not None
        target.after(handed, DONE)
        far.news = HostNews(OTHER, flushed=True)
        await made._flush()
        assert target.target.dirty.paths() >= {b"confirmed", b"landed"}
        assert not handed.counts
        assert made.kept.boot_of(b"one") == OTHER
        made.root.close(root)
        await made.close()

    asyncio.run(story())


@pytest.mark.parametrize(("code", "lost"), [(10, True), (11, False)])
def test_a_host_that_says_nothing_may_have_booted_while_it_was_out_of_reach(
    tmp_path: Path, code: int, lost: bool
) -> None:
    async def story() -> None:
        made, target, far = await far_target(tmp_path)
        assert made.kept is not None
        far.news = HostNews(None)
        made.kept.confirm(b"one", Confirmed({b"file": None}))
        await made._flush()
        await target.landed(Outcome(Verdict.UNWELL, message="rsync said something", code=code))
        assert (b"file" in target.target.dirty.paths()) is lost
        await made.close()

    asyncio.run(story())
