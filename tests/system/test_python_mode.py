"""Mode python: a function written in Python is given each batch."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from clsync.errors import Exit
from tests.support.daemon import Daemon
from tests.support.waiting import wait_until
from tests.system.world import SYNCED, World

HANDLER = '''
import os, shutil, signal, sys, time
from clsync.api import Batch, Kind

TOP = os.path.dirname(__file__)

def note(batch):
    with open(TOP + "/noted", "a") as file:
        for one in batch.objects:
            words = (batch.number, batch.status, batch.label, one.kind.name, one.before.name, one.mask, one.recursive)
            print(*words, repr(one.path), file=file)

def copy(batch: Batch) -> None:
    """Make the destination equal, as a handler of a dozen lines does it."""
    note(batch)
    assert os.getcwdb() == batch.source
    assert os.environ["CLSYNC_STATUS"] == batch.status and os.environ["CLSYNC_ITERATION"] == str(batch.number)
    for one in batch.objects:
        there = os.path.join(batch.destination, one.path)
        if one.kind is Kind.MISSING:
            shutil.rmtree(there) if os.path.isdir(there) else os.path.lexists(there) and os.unlink(there)
        elif one.kind is Kind.DIRECTORY:
            os.makedirs(there, exist_ok=True)
        else:
            shutil.copy2(one.path, there, follow_symlinks=False)
    # Nobody is told that directories change with what is in them.
    touched = {one.path for one in batch.objects} | {os.path.dirname(one.path) for one in batch.objects}
    for path in sorted(touched, reverse=True):
        if os.path.isdir(path or b".") and not os.path.islink(path):
            shutil.copystat(path or b".", os.path.join(batch.destination, path))

def once(what):
    """Tell whether this is the first call with something to do."""
    try:
        os.rename(TOP + "/trouble", TOP + "/gone")
    except FileNotFoundError:
        return False
    return True

def raises(batch):
    note(batch)
    if once(batch):
        raise ValueError("out of order\\n")

def crashes(batch):
    note(batch)
    if once(batch):
        os.kill(os.getpid(), signal.SIGSEGV)

def refuses(batch):
    note(batch)
    return 7 if once(batch) else 0

def hangs(batch):
    note(batch)
    if once(batch):
        time.sleep(1000)

def misses_one(batch):
    note(batch)
    return {b"d/bad": "it is bad"} if once(batch) else None

def names_others(batch):
    note(batch)
    others = {b"elsewhere": "no", os.path.join(batch.source, b"new"): "no"}
    return others if once(batch) else None

def answers_nonsense(batch):
    note(batch)
    return "done" if once(batch) else None

class Nested:
    @staticmethod
    def call(batch):
        note(batch)

number = 3
'''


@pytest.fixture
def made(world: World) -> World:
    """A world with the module in it."""
    world.file("own.py", HANDLER)
    (world.top / "broken.py").write_text("import nothing_of_that_name\n")
    world.environment["PYTHONPATH"] = os.fspath(world.top)
    world.write("d/old", "text")
    return world


def run(world: World, function: str, *more: str) -> Daemon:
    """Return a daemon that calls a function."""
    return world.daemon("-Mpython", f"-Sown:{function}", "-llab1", *more)


def noted(world: World) -> list[str]:
    """Return what was noted so far."""
    path = world.top / "noted"
    return path.read_text().splitlines() if path.exists() else []


def test_a_batch_is_made_equal(made: World) -> None:
    with run(made, "copy") as daemon:
        made.wait_for_equal(daemon)
        assert "1 initsync lab1 FILE MISSING 256 False b'd/old'" in noted(made)
        (made.source / "d").rename(made.source / "e")
        made.write("new\n%label%", "text")
        (made.source / "link").symlink_to("nowhere")
        made.wait_for_equal(daemon)
        (made.source / "e/old").unlink()
        made.wait_for_equal(daemon)
        daemon.wait_until(lambda: any("MISSING FILE" in line and "b'e/old'" in line for line in noted(made)))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("raises", "own:raises: the function answers 1"),
        ("crashes", "own:crashes has ended in the function: killed by SIGSEGV"),
        ("refuses", "own:refuses: the function answers 7"),
        ("hangs", "own:hangs: the function took longer than --timeout-sync"),
        ("answers_nonsense", "own:answers_nonsense: the function answers 1"),
        ("names_others", "own:names_others: the function names elsewhere as failed, which is not in the batch"),
    ],
)
def test_what_fails_is_handed_over_again(made: World, function: str, message: str) -> None:
    with run(made, function, "-k1") as daemon:
        daemon.wait_for_log(SYNCED)
        (made.top / "trouble").touch()
        with daemon.held():  # it is handed over once before it fails
            made.write("new", "text")
        daemon.wait_for_log(message)
        daemon.wait_until(lambda: sum(line.endswith("b'new'") for line in noted(made)) == 2, what="another try")
        made.write("last", "text")
        daemon.wait_until(lambda: noted(made)[-1].endswith("b'last'"), what="the next batch")
        assert function != "raises" or "Error: own:raises: ValueError: out of order" in daemon.output


def test_only_what_has_failed_is_handed_over_again(made: World) -> None:
    with run(made, "misses_one") as daemon:
        daemon.wait_for_log(SYNCED)
        (made.top / "trouble").touch()
        with daemon.held():  # both are in the first batch
            for name in ("good", "bad"):
                made.write(f"d/{name}", "text")
        daemon.wait_until(lambda: sum(line.endswith("b'd/bad'") for line in noted(made)) >= 2, what="another try")
        assert sum(line.endswith("b'd/good'") for line in noted(made)) <= 2
        assert "d/bad: it is bad" in daemon.output or (made.top / "gone").exists()


def test_whole_directories(made: World) -> None:
    with run(made, "Nested.call", "--have-recursive-sync") as daemon:
        daemon.wait_for_log(SYNCED)
        assert [line.split(" ", 3)[3].rsplit(" ", 2)[1:] for line in noted(made)] == [["True", "b''"]]
        made.write("n/d/file", "text")
        daemon.wait_until(lambda: any(line.endswith("True b'n'") for line in noted(made)), what="the directory")


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("own", "--sync-handler own names no function"),
        ("own:", "--sync-handler own: names no function"),
        ("own:a b", "--sync-handler own:a b names no function"),
        ("absent:f", "cannot be loaded: ModuleNotFoundError: No module named 'absent'"),
        ("broken:f", "cannot be loaded: ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("own:absent", "cannot be loaded: AttributeError: module 'own' has no attribute 'absent'"),
        ("own:number", "cannot be loaded: number cannot be called"),
    ],
)
def test_what_cannot_be_imported(made: World, reference: str, message: str) -> None:
    done = made.run(*made.trees, "-Mpython", f"-S{reference}")
    assert message in done.complaint(Exit.HANDLER)[0]


def test_nothing_is_left_behind(made: World) -> None:
    """TERM in the middle of a call ends it."""
    with run(made, "hangs") as daemon:
        daemon.wait_for_log(SYNCED)
        (made.top / "trouble").touch()
        made.write("new", "text")
        daemon.wait_until((made.top / "gone").exists, what="the call")
        children = list(daemon.descendants())
        assert children
        daemon.stop(signal.SIGTERM, code=Exit.INCOMPLETE)
        # Who has lost its parent is reaped by another process.
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), "the end of all")
