"""The search for names of linked files: what it does when a scan fails, and what it remembers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import cast

import pytest

from clsync.core.changes import CONTENT, DOUBT
from clsync.core.classify import LinkedFile
from clsync.core.links import Inode, LinkIndex
from clsync.daemon import linksearch
from clsync.daemon.linkfinder import Catalogue, LinkFinder, Scanned, any_side_by_side
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


def _search(finder: _Finder, searches: dict[LinkedFile, int], released: list[bytes]) -> LinkSearch:
    return LinkSearch(
        cast(LinkFinder, finder),
        searches,
        released.extend,
        lambda names: None,
        lambda path, file: 0,
        Log(),
    )


async def _ended(search: LinkSearch) -> None:
    while search.busy:
        await asyncio.sleep(0)


def _searched(error: Exception | None, wanted: Iterable[LinkedFile], searches: dict[LinkedFile, int]) -> list[bytes]:
    """Search for files; return the names that were released, in order."""
    released: list[bytes] = []

    async def run() -> None:
        search = _search(_Finder(error), searches, released)
        search.want({file: [b"%d" % file.ino] for file in wanted}, {})
        await _ended(search)

    asyncio.run(run())
    return released


@pytest.mark.parametrize(
    "error", [OSError(24, "no"), ValueError("cut short"), RuntimeError("no thread"), KeyError("a defect")]
)
def test_a_scan_that_fails_lets_what_waits_go_on(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linksearch, "_PAUSE", 0.0)
    released = _searched(error, [LinkedFile(1, 7, 2)], {})
    assert released == [b"7"]  # it is looked at again, and searched for again


def test_searches_in_vain_are_counted_for_a_bounded_number_of_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linksearch, "_COUNTED", 5)
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


def test_files_of_somebody_else_are_searched_for_once_and_not_all_the_time() -> None:
    searched: list[set[LinkedFile]] = []

    class Finder(_Finder):
        async def find(self, wanted: set[LinkedFile]) -> dict[Inode, Scanned]:
            searched.append(wanted)
            await asyncio.sleep(0.01)
            return {}

    theirs, others, ours = LinkedFile(1, 7, 2), LinkedFile(1, 8, 2), LinkedFile(1, 9, 2)

    async def run() -> None:
        search = _search(Finder(None), {}, [])
        search.want_unseen({theirs: 1})
        await _ended(search)
        search.want_unseen({theirs: 1})  # known by now
        assert not search.busy
        search.want_unseen({others: 1})  # not known: after a rest
        await asyncio.sleep(0.02)
        assert searched == [{theirs}]
        assert search.busy
        search.want({ours: [b"waits"]}, {})  # at once
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert searched == [{theirs}, {others, ours}]
        await _ended(search)
        search.note_new_names()  # they may have one here now
        search.want_unseen({others: 1, theirs: 1})
        assert len(searched) == 2
        search.hurry()
        await _ended(search)
        assert searched[2:] == [{others, theirs}]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("young", "paths", "shaken"),
    [
        ([b"d/a"], [b"d/a", b"d/b"], True),
        ([b"d/a"], [b"d/a", b"e/b"], False),
        ([b"other"], [b"d/a", b"d/b"], False),
        ([b"a"], [b"a", b"b"], True),
        ([b"a"], [b"a", b"d/a", b"d/b"], True),
    ],
)
def test_everything_is_compared_again_when_a_linked_file_changed_in_the_initial_sync(
    young: list[bytes], paths: list[bytes], shaken: bool
) -> None:
    """Only where two of its names lie side by side (decision 16)."""
    assert any_side_by_side(young, [Scanned(len(paths), paths), Scanned(2, [b"x/1", b"x/2"])]) is shaken
    revived: dict[bytes, int] = {}

    class Finder(_Finder):
        async def catalogue(self, young_ns: int) -> Catalogue:
            return Catalogue({}, young, shaken)

    async def run() -> None:
        search = LinkSearch(
            cast(LinkFinder, Finder(None)), {}, lambda names: None, revived.update, lambda path, file: 0, Log()
        )
        search.begin_catalogue(0)
        await _ended(search)

    asyncio.run(run())
    assert revived == dict.fromkeys(young, CONTENT) | ({b"": DOUBT} if shaken else {})
