"""The state while a daemon uses it: what is begun is ended."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from clsync.core import batch as flag
from clsync.core.batch import Batch
from clsync.core.changes import DOUBT
from clsync.core.classify import CHANGE_SHIFT
from clsync.core.rules import Rules
from clsync.core.windows import Window
from clsync.daemon import memory as module
from clsync.daemon.collector import Collector
from clsync.daemon.log import Log
from clsync.daemon.memory import Memory
from clsync.daemon.root import Directory
from clsync.daemon.source import Source
from clsync.daemon.stateaccess import DirectStateAccess
from clsync.daemon.target import Target
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
