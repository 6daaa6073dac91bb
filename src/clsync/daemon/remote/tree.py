"""The tree as the broker sees it."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Final

from clsync.core.classify import Plain, Stat
from clsync.core.listing import Records
from clsync.core.paths import ancestors, join
from clsync.core.stamps import YOUNG_NS
from clsync.daemon.remote.calls import Calls
from clsync.kernel.ops import Identity, Looks, Scan, ScanPipes
from clsync.privilege.looks import Seen, unpacked, unpacked_plain, unpacked_records
from clsync.privilege.port import Caller
from clsync.privilege.wire import Op, in_frames

_LISTED_AT_ONCE: Final = 32
_REMEMBERED: Final = 65_536


class RemoteOps:
    """Looks at the tree through the broker (see `KernelOps`)."""

    def __init__(self, caller: Caller, calls: Calls) -> None:
        """`caller` and `calls`: the ways to it."""
        self._caller, self._calls = caller, calls

    def open(self, path: bytes) -> int:
        """Have a directory opened. Raises OSError."""
        (number,) = self._caller.call(Op.OPEN_ROOT, path)
        return int(number)

    def close(self, directory: int) -> None:
        """Give it back."""
        self._caller.call(Op.CLOSE_ROOT, directory)

    def identity(self, directory: int) -> Identity:
        """Return what an open directory is known by. Raises OSError."""
        return Identity(*self._caller.call(Op.IDENTITY, directory)[:3])

    def is_linked(self, directory: int) -> bool:
        """Tell whether an open directory has a name still."""
        return bool(self._caller.call(Op.IDENTITY, directory)[4])

    def device(self, directory: int) -> int:
        """Return its device number."""
        return int(self._caller.call(Op.IDENTITY, directory)[3])

    def looks(self, directory: int) -> Looks:
        """Return lstat for paths relative to it."""
        return _RemoteLooks(self._caller, directory)

    def walk(
        self, directory: int, top: bytes, enter: Callable[[bytes], bool], one_file_system: bool
    ) -> Iterator[tuple[bytes, Stat]]:
        """Yield everything below."""
        device = None
        if one_file_system:
            found = self.looks(directory).lstat(top)
            device = found.st_dev if found is not None else None
        pending = [top]
        while pending:
            tops = [pending.pop() for _ in range(min(len(pending), _LISTED_AT_ONCE))]
            for number, name, seen in self._listed(directory, tops):
                path = join(tops[number], name)
                yield path, seen
                if stat.S_ISDIR(seen.st_mode) and (device is None or seen.st_dev == device) and enter(path):
                    pending.append(path)

    def entries(self, directory: int, path: bytes) -> dict[bytes, Seen]:
        """Return what stands in one directory, as far as it stands there still. Raises OSError."""
        found: dict[bytes, Seen] = {}
        (listing,) = self._caller.call(Op.LIST, directory, [path])
        done = False
        while not done:
            parts, (done,) = self._caller.collect(Op.LIST_NEXT, listing)
            for _, trouble, names, records in parts:
                _raise_for(trouble, path)
                for name, seen in zip(names, unpacked(records, len(names)), strict=True):
                    if seen.errno != errno.ENOENT:
                        _raise_for(seen.errno, join(path, name))
                        found[name] = seen
        return found

    def _listed(self, directory: int, tops: list[bytes]) -> Iterator[tuple[int, bytes, Seen]]:
        """Yield what stands in directories: the number of the directory, the name, its lstat."""
        (listing,) = self._caller.call(Op.LIST, directory, tops)
        done = False
        while not done:
            parts, (done,) = self._caller.collect(Op.LIST_NEXT, listing)
            for number, _, names, records in parts:
                for name, seen in zip(names, unpacked(records, len(names)), strict=True):
                    if not seen.errno:
                        yield number, name, seen

    def devices_shown_twice(self, directory: int) -> set[int]:
        """Return the devices that are shown twice."""
        return set(self._caller.call(Op.SHOWN_TWICE, directory)[0])

    def scan(self, directory: int, options: Sequence[str]) -> Scan:
        """Have a search started. Raises OSError."""
        (number,) = self._caller.call(Op.SCAN, directory, list(options))
        return _RemoteScan(self._calls, number, *self._caller.descriptors)


def _raise_for(number: int, path: bytes) -> None:
    """Raise the OSError of an error number, if it is one."""
    if number:
        raise OSError(number, os.strerror(number), path)


class _RemoteLooks(Looks):
    """lstat of the broker, for many paths at once where they are known before."""

    at_once = 4096

    def __init__(self, caller: Caller, directory: int) -> None:
        super().__init__(self._lstat, self._plain)
        self._caller, self._directory = caller, directory
        self._records: Records | None = None
        self._seen: dict[bytes, Seen] = {}
        """What will be asked for."""
        self._above: dict[bytes, Seen] = {}
        """Directories that were looked at: for one batch once is enough."""

    def expect(self, paths: Collection[bytes]) -> None:
        """Look at paths, and at the directories above them."""
        above: set[bytes] = set()
        for directory in {path.rpartition(b"/")[0] for path in paths}:
            if directory and directory not in self._above:
                above.add(directory)
                above.update(up for up in ancestors(directory) if up not in self._above)
        if len(self._above) > _REMEMBERED:
            self._above.clear()
        self._seen = self._look(list(paths))
        self._above |= self._look(sorted(above))

    def _look(self, paths: list[bytes]) -> dict[bytes, Seen]:
        found: dict[bytes, Seen] = {}
        for part in in_frames(paths):
            these = paths[part]
            (records,) = self._caller.call(Op.LOOK, self._directory, these)
            found.update(zip(these, unpacked(records, len(these)), strict=True))
        return found

    def _found(self, path: bytes) -> Seen:
        seen = self._seen.get(path) or self._above.get(path)
        return seen if seen is not None else self._look([path])[path]

    def _plain(self, paths: Sequence[bytes], real: set[bytes]) -> Iterator[Plain]:
        for part in in_frames(paths):
            these = paths[part]
            if self._records is None:
                (records,) = self._caller.call(Op.LOOK_PLAIN, self._directory, these)
                yield from unpacked_plain(records, len(these))
            else:
                young_ns = time.time_ns() - YOUNG_NS
                (records,) = self._caller.call(Op.LOOK_RECORDS, self._directory, these)
                yield from unpacked_records(records, these, young_ns, self._records)

    def note(self, records: Records) -> None:
        """Be told where to note what `plain` sees."""
        self._records = records

    def _lstat(self, path: bytes) -> Seen | None:
        seen = self._found(path)
        if seen.errno == errno.ENOENT:
            return None
        _raise_for(seen.errno, path)
        return seen


class _RemoteScan(ScanPipes):
    """A search that the broker has started (see `Scan`)."""

    def __init__(self, calls: Calls, number: int, inlet: int, outlet: int) -> None:
        self._calls, self._number, self.inlet, self.outlet = calls, number, inlet, outlet

    async def end(self, kill: bool) -> int:
        """Wait for its end."""
        self.close()
        (code,) = await self._calls.call(Op.SCAN_END, self._number, kill)
        return int(code)
