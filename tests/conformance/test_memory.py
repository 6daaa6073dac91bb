"""The state while a daemon uses it: what is begun is ended."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest

from clsync.core import batch as flag
from clsync.core.batch import Batch, Outcome, Verdict
from clsync.core.changes import ATTRIB, CONTENT, DOUBT, NAME, OF_DIRECTORY
from clsync.core.classify import CHANGE_SHIFT
from clsync.core.rules import Rules
from clsync.core.stamps import YOUNG_NS, is_settled
from clsync.core.windows import Window
from clsync.daemon import hosts, noting, recordings
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
from clsync.state.scan import Running
from clsync.state.store import Confirmed
from clsync.state.walker import Scope
from tests.system.world import mounted

EVERYTHING = {b"": flag.DIRECTORY | flag.RECURSIVE | DOUBT << CHANGE_SHIFT}


def memory(top: Path, targets: int, one_clock: bool = True) -> Memory:
    """Return the memory of a source with some targets, not opened."""

    def monitor(rules: Rules) -> TreeMonitor:
        raise AssertionError("nothing is watched")

    log = Log(level=0)
    collector = Collector(monitor, Window(), log, wake=lambda: None, root_gone=lambda: None)
    directory = Directory(bytes(top / "source"))
    source = Source(directory, collector, log, wake=lambda: None)
    source.targets += [Target(log, str(number)) for number in range(targets)]
    access = DirectStateAccess(directory.path, bytes(top / "state") + b"/" + FILE)
    place = Place(bytes(top / "state"), asked=True, boot=boot_id(), one_clock=one_clock)
    made = Memory(directory, place, access, 0, log)
    made.attach(source, lambda: None, watched=True, wake=lambda: None)
    for target in made.targets:
        target.handler = object  # type: ignore[assignment]  # a host that cannot be asked
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


def unwatched_run(made: Memory, between: Callable[[], None]) -> Coroutine[None, None, None]:
    """Do what a run without a monitor does; `between` comes after the transfer, and before the tree is recorded."""
    start = made.access.start

    def late(mode: bytes, root: int, scope: Scope, since: float) -> Running:
        between()
        return start(mode, root, scope, since)

    async def run() -> None:
        await made.use(Rules(), [(b"one", None)])
        made.access.start = late  # type: ignore[method-assign]
        root = made.root.open()
        batch = Batch(1, EVERYTHING, root, initial=True)
        handed = await made.targets[0].before(batch, {b"": DOUBT}, time.time(), None)
        assert handed is not None
        made.after(made.targets[0], handed, Outcome(Verdict.DONE))
        await made.close(well=True)
        made.root.close(root)

    return run()


@pytest.fixture(params=["nanoseconds", pytest.param("seconds", marks=pytest.mark.root)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A directory on a file system that stamps with these."""
    if request.param == "nanoseconds":
        yield tmp_path
        return
    if os.geteuid() or shutil.which("mkfs.ext4") is None:
        pytest.skip("needs root and mkfs.ext4")
    with open(image := tmp_path / "image", "wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-I", "128", image], check=True, capture_output=True)
    with mounted("ext4", tmp_path / "disk", "loop", str(image)) as disk:
        yield disk


def begin_of_second() -> None:
    """Wait until a second has begun, and much of it is to come."""
    begun = int(time.time())
    while int(time.time()) == begun or not 0.1 < time.time() % 1 < 0.5:
        time.sleep(0.005)


def test_what_changes_between_the_transfer_and_the_scan_is_known_to_the_next_start(place: Path) -> None:
    """Nothing was watched: what the index has is not what has arrived."""
    for name in ("a", "b", "c", "d"):
        (place / "source" / name).mkdir(parents=True)
        (place / "source" / name / "file").write_text(name)
    (place / "moved").mkdir()
    (place / "moved/old").write_text("old")
    newest = (place / "moved/old").stat().st_ctime_ns
    while not is_settled(newest, time.time_ns() - YOUNG_NS):
        time.sleep(0.01)
    begin_of_second()

    def change() -> None:
        file = place / "source/a/file"
        before = file.stat()
        file.write_text("?")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        if (place / "moved").exists():  # once
            (place / "moved").rename(place / "source/b/moved")
            (place / "source/c/file").unlink()

    async def story() -> None:
        await unwatched_run(memory(place, 1), change)
        begin_of_second()
        made = memory(place, 1)
        await made.use(Rules(), [(b"one", None)])
        found = {row.path: row.bits for row in await made.targets[0].rows()}
        async for part in made.indexed.differences((b"",)):
            for path, bits in part:
                found[path] = found.get(path, 0) | bits
        await made.close()
        assert found[b"a/file"] & CONTENT
        assert found[b"b"] & DOUBT
        assert found[b"c"] & DOUBT
        assert not {b"", b"d", b"d/file", b"b/file"} & {path for path, bits in found.items() if bits & ~ATTRIB}

    asyncio.run(story())


class Killed:
    """A scanner that was killed before it said anything."""

    def __init__(self) -> None:
        self.connection, theirs = socket.socketpair()
        theirs.close()

    async def end(self, kill: bool) -> int:
        return -9


@pytest.mark.parametrize("why", ["killed", "killed for good", "another directory"])
def test_what_cannot_be_recorded_is_not_taken_for_known(
    tmp_path: Path, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scanner is killed, or the source is not there: an empty directory in its place is none."""
    monkeypatch.setattr(recordings, "_RECORD_PAUSES", (0.01, 0.01, 0.0))
    for name in ("source", "target"):
        (tmp_path / name).mkdir()
    (tmp_path / "source/file").write_text("text")
    age()

    async def story() -> None:
        made = memory(tmp_path, 1)
        await made.use(Rules(), [(b"one", bytes(tmp_path / "target"))])
        watched, collector = bytes(tmp_path / "source"), made._source.collector
        collector._open_monitor = lambda rules: TreeMonitor(
            watched, kind="inotify", rules=rules, follow_mounts=False, poll_interval=1.0, log=lambda text: None
        )
        await collector.arm(Rules(), lambda: False)
        start, begun = made.access.start, list[bytes]()

        def killed(mode: bytes, root: int, scope: Scope, since: float) -> Running:
            begun.append(mode)
            return Killed() if why == "killed for good" or len(begun) == 1 else start(mode, root, scope, since)

        made.access.start = killed  # type: ignore[method-assign]
        root = made.root.open()
        if why == "another directory":
            (tmp_path / "source").rename(tmp_path / "away")
            (tmp_path / "source").mkdir()
        handed = await made.targets[0].before(
            Batch(1, EVERYTHING, root, initial=True), {b"": DOUBT}, time.time(), None
        )
        assert handed is not None
        await made.recordings.recorded()
        if why == "another directory":
            (tmp_path / "source").rmdir()
            (tmp_path / "away").rename(tmp_path / "source")
        made.after(made.targets[0], handed, Outcome(Verdict.DONE))
        await made.settled()
        assert made.kept is not None
        assert made.complete == (why == "killed")
        assert await made.targets[0].is_warm() == (why == "killed")
        assert {*made.kept.noted([b"file"])} == ({b"file"} if why == "killed" else set())
        await made.close()
        collector.close()
        made.root.close(root)

    asyncio.run(story())


@pytest.mark.parametrize("verdict", [*Verdict])
def test_who_was_to_be_compared_still_is_unless_that_was_done(tmp_path: Path, verdict: Verdict) -> None:
    (tmp_path / "source/d").mkdir(parents=True)
    (tmp_path / "target").mkdir()

    async def story() -> None:
        made = memory(tmp_path, 1)
        await made.use(Rules(), [(b"one", bytes(tmp_path / "target"))])
        target, root = made.targets[0], made.root.open()
        target.target.distrusted |= {b"", b"d"}
        entries = {b"": flag.DIRECTORY | ATTRIB << CHANGE_SHIFT, b"d": flag.DIRECTORY | flag.RECURSIVE}
        handed = await target.before(Batch(2, entries, root), {b"": ATTRIB, b"d": DOUBT}, time.time(), None)
        assert handed is not None
        target.target.distrusted.add(b"later")
        failed = {b"d": "it cannot be read"} if verdict is Verdict.PARTIAL else {}
        made.after(target, handed, Outcome(verdict, failed))
        assert target.target.distrusted == {b"", b"later"} | (set() if verdict is Verdict.DONE else {b"d"})
        await made.close()
        made.root.close(root)

    asyncio.run(story())


def test_without_a_clock_to_go_by_all_is_recorded_before_anything_is_handed_over(tmp_path: Path) -> None:
    """To all targets alike: the one that has not begun to record waits as well."""
    (tmp_path / "source").mkdir()

    async def story() -> None:
        made = memory(tmp_path, 2, one_clock=False)
        await made.use(Rules(), [(b"one", None), (b"two", None)])
        root = made.root.open()
        at_work = list[bool]()

        async def begin(target: TargetMemory) -> None:
            batch = Batch(1, EVERYTHING, root, initial=True)
            assert await target.before(batch, {b"": DOUBT}, time.time(), None) is not None
            at_work.append(made.recordings.at_work)

        await asyncio.gather(*map(begin, made.targets))
        assert at_work == [False, False]
        await made.close()
        made.root.close(root)

    asyncio.run(story())


@pytest.mark.parametrize("ahead", [0.0, 1.0])
def test_a_clock_that_was_set_back_hides_nothing(tmp_path: Path, ahead: float) -> None:
    """Where nothing is watched, what has changed is known by its time: then the next start compares everything."""
    (tmp_path / "source").mkdir()
    age()

    async def story() -> None:
        made = memory(tmp_path, 1)
        made.clock += ahead
        await unwatched_run(made, lambda: None)
        made = memory(tmp_path, 1)
        await made.use(Rules(), [(b"one", None)])
        assert await made.targets[0].is_warm() == (ahead == 0.0)
        await made.close()

    asyncio.run(story())


def test_batches_that_are_confirmed_together_say_what_the_last_one_has_brought(tmp_path: Path) -> None:
    for name in ("source", "target"):
        (tmp_path / name).mkdir()
    files = [tmp_path / "source/one", tmp_path / "source/two", tmp_path / "source/three"]
    for file in files:
        file.write_text("before")
    age()
    asyncio.run(unwatched_run(memory(tmp_path, 1), lambda: None))

    async def story() -> None:
        made = memory(tmp_path, 1)
        await made.use(Rules(), [(b"one", None)])
        root = made.root.open()
        for number, changed in enumerate((files[:2], files[1:])):
            for file in changed:
                file.write_text(f"batch {number}")
            age()
            entries = {os.fsencode(file.name): flag.REGULAR | CONTENT << CHANGE_SHIFT for file in changed}
            bits = dict.fromkeys(entries, CONTENT)
            handed = await made.targets[0].before(Batch(number, entries, root), bits, time.time(), None)
            assert handed is not None
            failed = Outcome(Verdict.PARTIAL, failed={b"three": "no room"} if number else {})
            made.after(made.targets[0], handed, failed)
        await made.close()
        made.root.close(root)
        made = memory(tmp_path, 1)
        await made.use(Rules(), [(b"one", None)])
        assert [row.path for row in await made.targets[0].rows()] == [b"", b"three"]
        assert [part async for part in made.indexed.differences((b"",))] == [[(b"three", ATTRIB)]]
        await made.close()

    asyncio.run(story())


@pytest.mark.parametrize("unseen", [True, False])
@pytest.mark.parametrize("targets", [1, 2])
def test_what_was_never_confirmed_is_in_the_index_once_everything_was_compared(
    tmp_path: Path, targets: int, unseen: bool
) -> None:
    """Or still is to be handed over: with everything its row of the journal would go. `unseen`: so is what changed."""
    for name in ("source", "target"):
        (tmp_path / name).mkdir()
    (tmp_path / "source/old").write_text("old")
    age()

    async def story() -> None:
        made = memory(tmp_path, targets)
        await made.use(Rules(), [(b"one", None), (b"two", None)][:targets])
        root = made.root.open()

        async def hand_over(target: TargetMemory, batch: Batch, taken: dict[bytes, int], outcome: Verdict) -> None:
            handed = await target.before(batch, taken, time.time(), None)
            assert handed is not None
            made.after(target, handed, Outcome(outcome))
            await made.settled()

        for target in made.targets:
            await hand_over(target, Batch(1, EVERYTHING, root, initial=True), {b"": DOUBT}, Verdict.DONE)
        assert made.complete
        (tmp_path / "source/new").write_text("new")
        age()
        entries = {b"new": flag.REGULAR | NAME << CHANGE_SHIFT}
        await hand_over(made.targets[0], Batch(2, entries, root), {b"new": NAME}, Verdict.UNWELL)
        if unseen:
            (tmp_path / "source/unseen").write_text("unseen")
            age()
            made._source.doubt(time.time())
        for target in made.targets:
            await hand_over(target, Batch(3, EVERYTHING, root), {b"": DOUBT}, Verdict.DONE)
        assert made.kept is not None
        names = {os.fsencode(name) for name in os.listdir(tmp_path / "source")}
        indexed = {*made.kept.noted(names)}
        for target in made.targets:
            assert not names - indexed - {row.path for row in await target.rows()}
        assert made.complete
        assert not unseen or indexed == names
        await made.close()
        made.root.close(root)

    asyncio.run(story())


def test_what_was_never_confirmed_is_in_the_index_once_its_directory_was_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or still is to be handed over: another target has let the directory be recorded before there was such a name."""
    monkeypatch.setattr(noting, "_LISTED", 0)
    for name in ("source/d", "target"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "source/d/old").write_text("old")
    age()
    tree = {b"d": flag.DIRECTORY | flag.RECURSIVE | (NAME | OF_DIRECTORY) << CHANGE_SHIFT}

    async def story() -> None:
        made = memory(tmp_path, 2)
        await made.use(Rules(), [(b"one", None), (b"two", None)])
        root = made.root.open()
        one, two = made.targets

        async def hand_over(target: TargetMemory, batch: Batch, taken: dict[bytes, int]) -> None:
            handed = await target.before(batch, taken, time.time(), None)
            assert handed is not None
            made.after(target, handed, Outcome(Verdict.DONE))
            await made.settled()

        for target in made.targets:
            await hand_over(target, Batch(1, EVERYTHING, root, initial=True), {b"": DOUBT})
        await hand_over(one, Batch(2, tree, root), {b"d": NAME | OF_DIRECTORY})
        (tmp_path / "source/d/new").write_text("new")
        age()
        # It arrives, and that does not count: the directory above is still to be handed over, as a whole.
        two.target.dirty.add([(b"d", NAME | OF_DIRECTORY)], time.time())
        entries = {b"d/new": flag.REGULAR | NAME << CHANGE_SHIFT}
        await hand_over(two, Batch(3, entries, root), {b"d/new": NAME})
        assert b"d/new" in {row.path for row in await two.rows()}
        await hand_over(two, Batch(4, tree, root), two.target.dirty.take())
        assert made.kept is not None
        assert b"d/new" in {*made.kept.noted([b"d/new"]), *(row.path for row in await two.rows())}
        await made.close()
        made.root.close(root)

    asyncio.run(story())


def test_nothing_is_recorded_anew_while_it_is_confirmed(tmp_path: Path) -> None:
    """What changes then would be in the index, and no target would be known to lack it."""
    for name in ("source", "target"):
        (tmp_path / name).mkdir()
    file = tmp_path / "source/file"
    file.write_text("old")
    age()

    async def story() -> None:
        made = memory(tmp_path, 2)
        await made.use(Rules(), [(b"one", None), (b"two", None)])
        root = made.root.open()
        one, two = made.targets
        handed = await one.before(Batch(1, EVERYTHING, root, initial=True), {b"": DOUBT}, time.time(), None)
        assert handed is not None
        await made.recordings.recorded()
        collector = made._source.collector
        look, begun = collector.look, list[asyncio.Task[object]]()

        async def look_and_let_another_begin() -> Mapping[bytes, int]:
            seen = await look()
            if not begun:
                file.write_text("another version")
                age()
                work = two.before(Batch(2, EVERYTHING, root), {b"": DOUBT}, time.time(), None)
                begun.append(asyncio.create_task(work))
                await asyncio.wait(begun, timeout=0.5)  # it may have to wait for us
                await made.recordings.recorded()
            return seen

        collector.look = look_and_let_another_begin  # type: ignore[method-assign]
        made.after(one, handed, Outcome(Verdict.DONE))
        await made.settled()
        await begun[0]
        assert await made.indexed.unlike([b"file"]) or {b"", b"file"} & {row.path for row in await one.rows()}
        await made.close()
        made.root.close(root)

    asyncio.run(story())


def age() -> None:
    """Wait until nothing is young."""
    until = time.time_ns() + YOUNG_NS
    while time.time_ns() <= until:
        time.sleep(0.005)


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
