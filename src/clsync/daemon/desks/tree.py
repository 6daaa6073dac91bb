"""Directories, what stands in them, and searches below them."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from clsync.core.paths import shown
from clsync.daemon.answers import Answers, Last, Later, WithDescriptors
from clsync.daemon.desks.shared import TURN, Shared, known
from clsync.daemon.looking import listed, looked_at
from clsync.kernel.mounts import devices_shown_twice
from clsync.kernel.ops import Scan
from clsync.privilege.looks import packed, packed_plain, packed_records
from clsync.privilege.wire import Op, Refused

if TYPE_CHECKING:
    from clsync.state.scan import Running


_MOST_DIRECTORIES: Final = 64
"""For one target: each batch on its way holds one."""
_MOST_SCANS: Final = 4
_LONGEST_TIME: Final = 20
"""Digits of a time in nanoseconds."""


class _Listing(NamedTuple):
    """Directories that the worker is told what stands in."""

    root: int
    """Number of what they are below."""
    parts: Generator[Sequence[Any], None, None]


class Tree:
    """Looks at the tree."""

    def __init__(self, shared: Shared) -> None:
        """Nothing is open yet."""
        self._shared = shared
        self._listings: dict[int, _Listing] = {}
        self._scans: dict[int, Scan | Running] = {}
        self._ending: set[int] = set()
        """Scans that are waited for."""
        self.scanners: set[int] = set()
        """Those of the scans that look at the tree for the state."""
        self.quick: Answers = {
            Op.OPEN_ROOT: self._open_root,
            Op.CLOSE_ROOT: self._close_root,
            Op.IDENTITY: self._identity,
            Op.LOOK: self._look,
            Op.LOOK_PLAIN: self._look_plain,
            Op.LOOK_RECORDS: self._look_records,
            Op.LIST: self._list,
            Op.LIST_NEXT: self._list_next,
            Op.SHOWN_TWICE: self._shown_twice,
            Op.SCAN: self._scan,
        }
        self.slow: Answers = {Op.SCAN_END: self._scan_end}

    async def close(self) -> None:
        """End what is at work, and give everything back."""
        for scan in self._scans.values():
            await scan.end(kill=True)
        for descriptor in self._shared.directories.values():
            os.close(descriptor)

    def note_scanner(self, scanner: Running) -> int:
        """Remember a scanner of the state, which is ended as the others are; return its number."""
        number = self._shared.number()
        self._scans[number] = scanner
        self.scanners.add(number)
        return number

    def _open_root(self, path: bytes) -> Sequence[Any]:
        plans = self._shared.now.plans
        if path != self._shared.made.root and not any(path in made.directories for made in plans):
            raise Refused(f"to open {shown(path)}")
        self._shared.demand_room(self._shared.directories, _MOST_DIRECTORIES)
        number = self._shared.number()
        self._shared.directories[number] = self._shared.access.ops.open(path)
        if path == self._shared.made.root:
            self._shared.sources.add(number)
        return (number,)

    def _close_root(self, number: int) -> Sequence[Any]:
        self._shared.close(number)
        for left in [key for key, listing in self._listings.items() if listing.root == number]:
            self._listings.pop(left).parts.close()
        return ()

    def _identity(self, number: int) -> Sequence[Any]:
        directory = known(self._shared.directories, number)
        found = os.fstat(directory)
        return (*self._shared.access.ops.identity(directory), found.st_dev, found.st_nlink)

    def _look(self, number: int, paths: list[bytes]) -> Sequence[Any]:
        return (b"".join(map(packed, self._looked_at(number, paths))),)

    def _look_plain(self, number: int, paths: list[bytes]) -> Sequence[Any]:
        return (packed_plain(self._looked_at(number, paths)),)

    def _look_records(self, number: int, paths: list[bytes]) -> Sequence[Any]:
        return (packed_records(self._looked_at(number, paths)),)

    def _looked_at(self, number: int, paths: list[bytes]) -> Iterator[os.stat_result | OSError | None]:
        return looked_at(known(self._shared.directories, number), paths, self._shared.real(number))

    def _list(self, number: int, paths: list[bytes]) -> Sequence[Any]:
        directory = known(self._shared.directories, number)
        self._shared.demand_room(self._listings, _MOST_DIRECTORIES)
        listing = self._shared.number()
        self._listings[listing] = _Listing(number, listed(directory, paths))
        return (listing,)

    def _list_next(self, number: int) -> Later:
        listing = known(self._listings, number)

        async def parts(names: Iterator[Sequence[Any]]) -> AsyncGenerator[Sequence[Any], None]:
            until = time.monotonic() + TURN
            for part in names:
                yield part
                if time.monotonic() > until:
                    yield Last((False,))
            del self._listings[number]
            yield Last((True,))

        return Later(parts(listing.parts))

    def _shown_twice(self, number: int) -> Sequence[Any]:
        return (list(devices_shown_twice(known(self._shared.directories, number))),)

    def _scan(self, number: int, options: list[str]) -> WithDescriptors:
        directory = known(self._shared.directories, number)
        if options not in ([], ["--stat"]) and not (
            len(options) == 2
            and options[0] == "--all"
            and options[1].isdecimal()
            and options[1].isascii()
            and len(options[1]) <= _LONGEST_TIME
        ):
            raise Refused("to scan in a way that there is not")
        self._shared.demand_room(self._scans, _MOST_SCANS)
        scan, number = self._shared.access.ops.scan(directory, options), self._shared.number()
        self._scans[number] = scan
        ends = os.dup(scan.inlet), os.dup(scan.outlet)
        scan.close()
        return WithDescriptors((number,), ends)

    def _scan_end(self, number: int, kill: bool) -> Later:
        scan = known(self._scans, number)
        if number in self._ending:
            raise Refused("the end of a scan twice")
        self._ending.add(number)

        async def ended() -> AsyncGenerator[Sequence[Any], None]:
            try:
                code = await scan.end(kill)
            finally:
                self._ending.discard(number)
                self.scanners.discard(number)
                del self._scans[number]
            yield Last((code,))

        return Later(ended(), alone=False)
