"""What changes at the source while a batch is handed over: nothing of it may be lost.

rsync is held between its list and the files it sends (`tests.support.gate`). What it cannot have sent as it was is
named in `Outcome.again`, or has an event of its own.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clsync.core.batch import Verdict
from clsync.core.changes import ATTRIB, CONTENT, NAME
from tests.support.bench import Bench, local_handler
from tests.support.gate import Gate

OLD, NEW = 1_000_000_000, 2_000_000_000
FIRST = b"0"
"""Sorted before all others: sent first."""


@pytest.fixture(params=["rsync", "rsync-flat"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """A bench for rsync, with a file that is sent first."""
    made = Bench(tmp_path, lambda b: local_handler(request.param, b))
    made.write(FIRST)
    yield made
    asyncio.run(made.handler.aclose())


def link(old: Path, *names: str) -> None:
    """Make other names of a file, in its directory."""
    for name in names:
        os.link(old, old.with_name(name))


def replace(path: Path) -> None:
    """Put another file in the place of one."""
    other = path.with_name(".new")
    other.write_text("XXXXXXXX")
    other.rename(path)


def become_unreadable(path: Path) -> None:
    """Put something in the place of a file that cannot be opened, not even by root."""
    path.unlink()
    path.symlink_to(path.name)


@pytest.mark.parametrize("lose", [Path.unlink, become_unreadable, replace])
def test_names_that_were_linked_too_late_for_the_batch(bench: Bench, lose: Callable[[Path], object]) -> None:
    """A file gets another name before rsync lists it, which is lost before rsync sends it, maybe for both."""
    late = {"before": "a", "after": "z"}
    for directory, name in late.items():
        bench.write(f"{directory}/file", "new-new!", NEW)
        link(bench.write(f"{directory}/p", "old-old!", OLD), "q")
        bench.write(f"{directory}/{name}")
        bench.write_there(f"{directory}/{name}", "it was there before")
        link(bench.write_there(f"{directory}/file", "old-old!", OLD), "p", "q")
    names = [f"{directory}/{name}" for directory, name in late.items()]
    changed = dict.fromkeys((name.encode() for name in names), NAME)
    entries, _ = bench.entries(changed | dict.fromkeys((FIRST, b"before/file", b"after/file"), NAME))
    for name in names:
        (bench.source / name).unlink()
        link((bench.source / name).with_name("file"), Path(name).name)

    def lose_them() -> None:
        for name in names:
            lose(bench.source / name)

    with Gate(bench.source / os.fsdecode(FIRST), lose_them) as gate:
        outcome = bench.hand_over(entries, meanwhile=gate)
    directories = dict.fromkeys((b"before", b"after", b""), ATTRIB)
    bench.done(dict.fromkeys(outcome.again, CONTENT) | changed | directories)
    assert outcome.verdict is Verdict.PARTIAL, outcome
    assert outcome.again >= {b"before/file", b"after/file"}


def test_a_name_of_a_linked_file_is_replaced_before_it_is_sent(bench: Bench) -> None:
    """Whichever rsync sends for all: the others get what they have at the source."""
    names = ("a", "b", "file")
    changes = {FIRST: CONTENT}
    for name in names:
        link(bench.write(f"{name} is replaced/a", "old-old!", OLD), "b", "file")
    bench.prepare()
    for name in names:
        bench.write(f"{name} is replaced/a", "new-new!")
        changes |= {f"{name} is replaced/{n}".encode(): CONTENT if n == "a" else ATTRIB for n in names}
    entries, _ = bench.entries(changes)
    replaced = {f"{name} is replaced/{name}".encode() for name in names}

    def replace_them() -> None:
        for path in replaced:
            replace(bench.source / os.fsdecode(path))

    with Gate(bench.source / os.fsdecode(FIRST), replace_them) as gate:
        outcome = bench.hand_over(entries, meanwhile=gate)
    directories = {f"{name} is replaced".encode(): ATTRIB for name in names} | {b"": ATTRIB}
    bench.done(dict.fromkeys(outcome.again, CONTENT) | dict.fromkeys(replaced, NAME) | directories)
    assert outcome.verdict is Verdict.PARTIAL, outcome
    assert outcome.again >= changes.keys() - replaced - {FIRST}
