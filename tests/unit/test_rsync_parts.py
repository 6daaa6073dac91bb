"""Parts of the rsync handler that can be looked at alone: destinations, runs, messages by the thousand."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clsync.core.batch import REGULAR, Batch
from clsync.handler.rsync import RsyncHandler
from clsync.handler.rsync.blame import blame
from clsync.handler.rsync.program import Program
from clsync.handler.rsync.recipe import ARGUMENTS_MACRO, Recipe
from clsync.handler.rsync.target import Target
from clsync.handler.runner import Result, Runner

# -- destinations ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "host", "prefixes"),
    [
        (b"host:path", "ssh", b"host", [b"path", b"/"]),
        (b"user@host:/a/b", "ssh", b"user@host", [b"/a/b", b"/"]),
        (b"user@host:/a:b", "ssh", b"user@host", [b"/a:b", b"/"]),
        (b"[::1]:/p", "ssh", b"::1", [b"/p", b"/"]),
        (b"user@[::1]:/p", "ssh", b"user@::1", [b"/p", b"/"]),
        (b"[::1]::mod/x", "daemon", None, [b"/x", b"/"]),
        (b"host::mod/x", "daemon", None, [b"/x", b"/"]),
        (b"rsync://[::1]:873/m/x", "daemon", None, [b"/x", b"/"]),
        (b"rsync://host:873/module/a/b", "daemon", None, [b"/a/b", b"/"]),
        (b"rsync://host/module", "daemon", None, [b"/", b"/"]),
        (b"/a:b", "local", b"", [b"/a:b", b"/a:b"]),
        (b"./a:b", "local", b"", [os.path.realpath(b"a:b"), b"./a:b"]),
    ],
)
def test_what_a_destination_means(text: bytes, kind: str, host: bytes | None, prefixes: list[bytes]) -> None:
    """A colon before the first slash makes it remote; that of an IPv6 address does not count."""
    target = Target(text)
    found = {"remote": target.remote, "daemon": target.daemon, "ssh": target.ssh}
    assert found == {"remote": kind != "local", "daemon": kind == "daemon", "ssh": kind == "ssh"}
    assert host is None or target.host == host
    assert target.prefixes() == prefixes


def test_the_argument_of_a_destination_ends_in_one_slash() -> None:
    assert [Target(t).argument for t in (b"/a", b"/a/", b"host:", b"host:a")] == [
        b"/a/",
        b"/a/",
        b"host:",
        b"host:a/",
    ]


@pytest.mark.parametrize(("window", "coarse"), [(-1, 0), (0, 10**9), (1, 2 * 10**9)])
def test_how_far_times_may_differ_unnoticed(window: int, coarse: int) -> None:
    """Whole seconds are compared unless nanoseconds are asked for."""
    handler = RsyncHandler([ARGUMENTS_MACRO], target=Target(b"/d"), recipe=Recipe(modify_window=window))
    assert handler.coarse_ns == coarse


# -- runs ------------------------------------------------------------------------------------------------------


def test_a_run_that_is_stopped_while_its_list_is_written_is_not_begun(tmp_path: Path) -> None:
    runner, made = Runner(), tmp_path / "made"

    def records() -> Iterator[bytes]:
        yield b"first\0"
        runner.stop()
        yield b"last\0"

    async def run() -> Result:
        return await runner.run([b"touch", bytes(made)], cwd=here, env=os.environb, records=records())

    here = os.open(tmp_path, os.O_RDONLY)
    assert asyncio.run(run()).stopped
    assert not made.exists()
    os.close(here)


def test_a_program_that_is_stopped_begins_no_other_run(tmp_path: Path) -> None:
    """A batch takes several runs: the next one may be asked for after the stop."""
    made = tmp_path / "made"
    program = Program(
        [ARGUMENTS_MACRO],
        target=Target(bytes(tmp_path)),
        recipe=Recipe(),
        name=b"touch",
        timeout=0.0,
        codes_done=(),
        environment=os.environb,
        show_progress=False,
    )
    root = os.open(tmp_path, os.O_RDONLY)
    program.stop()
    result = asyncio.run(program.run([bytes(made)], Batch(1, {}, root), None))
    assert result.stopped
    assert not program.done(result)
    assert not made.exists()
    os.close(root)


# -- messages --------------------------------------------------------------------------------------------------


def test_many_messages_about_many_entries_are_soon_understood() -> None:
    """The event loop waits meanwhile."""
    entries = {b"d%03d/f%05d" % (number % 300, number): REGULAR for number in range(20_000)}
    line = b'rsync: [sender] send_files failed to open "/src/e%03d/f%05d": Permission denied (13)\n'
    messages = b"".join(line % (number % 300, number) for number in range(1000))
    began = time.process_time()
    found = blame(messages, entries, [b"/src"], False)
    assert time.process_time() - began < 0.5
    assert not found.complete
