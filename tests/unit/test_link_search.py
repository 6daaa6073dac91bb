"""The search for names of linked files: what it does when a scan fails, and what it remembers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import cast

import pytest

from clsync.core.classify import LinkedFile
from clsync.core.links import Inode, LinkIndex
from clsync.daemon import linksearch
from clsync.daemon.linkfinder import LinkFinder, Scanned
from clsync.daemon.linksearch import LinkSearch
from clsync.daemon.log import Log


class _Finder:
    """Fails once, then finds nothing."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    async def find(self, wanted: set[LinkedFile]) -> dict[Inode, Scanned]:
        error, self.error = self.error, None
        if error is not None:
            raise error
        return {}


def _searched(error: Exception | None, wanted: Iterable[LinkedFile], searches: dict[LinkedFile, int]) -> list[bytes]:
    """Search for files; return the names that were released, in order."""
    released: list[bytes] = []

    async def run() -> None:
        search = LinkSearch(
            cast(LinkFinder, _Finder(error)),
            searches,
            released.extend,
            lambda names: None,
            lambda path, file: 0,
            Log(),
        )
        search.want({file: [b"%d" % file.ino] for file in wanted}, {})
        while search.busy:
            await asyncio.sleep(0)

    asyncio.run(run())
    return released


@pytest.mark.parametrize("error", [OSError(24, "no"), ValueError("cut short"), RuntimeError("no thread")])
def test_a_scan_that_fails_lets_what_waits_go_on(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linksearch, "_PAUSE", 0.0)
    released = _searched(error, [LinkedFile(1, 7, 2)], {})
    assert released == [b"7"]  # it is looked at again, and searched for again


def test_searches_in_vain_are_counted_for_a_bounded_number_of_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linksearch, "_AT_ONCE", 5)
    searches: dict[LinkedFile, int] = {}
    _searched(None, [LinkedFile(1, number, 2) for number in range(20)], searches)
    assert sorted(file.ino for file in searches) == [15, 16, 17, 18, 19]


def test_doubts_about_files_that_are_gone_are_dropped_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clsync.core.links._DOUBTED", 3)
    index = LinkIndex()
    for number in range(10):
        index.learn((1, number), [b"a%d" % number], 2)
        index.doubt((1, number))
    index.learn((1, 0), [b"a0"], 2)
    index.learn((1, 9), [b"a9"], 2)
    assert index.unsure((1, 0))  # as if it were seen for the first time
    assert not index.unsure((1, 9))
