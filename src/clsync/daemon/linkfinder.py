"""Finds the other names of hard-linked files: one scan at a time, in a process of its own."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from clsync.core.classify import LinkedFile
from clsync.core.links import LinkIndex
from clsync.core.paths import parent
from clsync.daemon.root import Directory
from clsync.kernel.linkscan import YOUNG, Inode
from clsync.kernel.process import exit_text
from clsync.kernel.slices import in_parts
from clsync.kernel.walk import straight

_CHUNK = 1 << 20


class Scanned(NamedTuple):
    """What a scan found of one inode."""

    links: int
    paths: list[bytes]


class Catalogue(NamedTuple):
    """What a scan found of all files."""

    linked: dict[LinkedFile, bytes]
    """Files with several names -> one of these."""
    young: list[bytes]
    """Files that were changed lately."""
    shaken: bool
    """One of them has two names in one directory: what is sent at the same time is not to be trusted."""


class LinkFinder:
    """Scans for inodes and teaches a `LinkIndex` what was found."""

    def __init__(self, index: LinkIndex, root: Directory) -> None:
        """`root`: the watched directory."""
        self._index, self._root = index, root

    async def find(self, wanted: set[LinkedFile]) -> dict[Inode, Scanned]:
        """Find all names of some files below the root. Raises OSError where the tree cannot be scanned."""
        found = await self._scan(wanted, by_stat=False)
        missing = {f for f in wanted if (f.dev, f.ino) not in found}
        if missing:
            # Some file systems (overlays) show other inode numbers in listings than in lstat.
            found |= await self._scan(missing, by_stat=True)
        for dev, ino, links in wanted:
            scanned = found.get((dev, ino), Scanned(links, []))
            if scanned.links:
                self._index.learn((dev, ino), scanned.paths, scanned.links)
        return found

    async def catalogue(self, young_ns: int) -> Catalogue:
        """Learn the names of all files that have several, and which changed since `young_ns`. Raises OSError."""
        found = await self._child(self._root.path, ("--all", str(young_ns)), b"")
        young = found.pop(YOUNG, Scanned(0, [])).paths
        for inode, scanned in found.items():
            # Where some names lie outside, the first event on one of them asks for a search.
            self._index.learn(inode, scanned.paths, len(scanned.paths))
        linked = {LinkedFile(*inode, s.links): s.paths[0] for inode, s in found.items()}
        return Catalogue(linked, young, any_side_by_side(young, found.values()))

    async def groups_at(self, destination: bytes) -> list[list[bytes]]:
        """Return the names that share a file in the directory `destination` though they stand for several here.

        Raises OSError.
        """
        found = await self._child(destination, ("--all", str(sys.maxsize)), b"")
        with self._root.opened() as root:
            looks = self._root.ops.looks(root)
            look = straight(looks.lstat)
            wrong = []
            async for part in in_parts(scanned.paths for scanned in found.values()):
                looks.expect([path for paths in part for path in paths])
                for paths in part:
                    seen = {p: s for p in paths if (s := look(p)) is not None and not stat.S_ISDIR(s.st_mode)}
                    if len({(s.st_dev, s.st_ino) for s in seen.values()}) > 1:
                        wrong.append(list(seen))
            return wrong

    async def _scan(self, wanted: set[LinkedFile], by_stat: bool) -> dict[Inode, Scanned]:
        wishes = b"".join(b"%d %d %d\n" % file for file in wanted)
        return await self._child(self._root.path, ("--stat",) if by_stat else (), wishes)

    async def _child(self, top: bytes, options: Sequence[str], wishes: bytes) -> dict[Inode, Scanned]:
        """Scan a tree in a process of its own. Raises OSError."""
        ops = self._root.ops
        directory = ops.open(top)
        try:
            scan = ops.scan(directory, options)
        finally:
            ops.close(directory)
        whole = False
        try:
            await _write(scan.inlet, wishes)
            scan.end_input()
            found = await _read(scan.outlet)
            whole = True
        finally:
            code = await scan.end(kill=not whole)
        if code:
            raise ChildProcessError(f"the scan has ended ({exit_text(code)})")
        return found


def any_side_by_side(young: Collection[bytes], files: Iterable[Scanned]) -> bool:
    """Tell whether one of some files has two names in the same directory, and stands among the young."""
    changed = set(young)
    return any(
        len({parent(path) for path in file.paths}) < len(file.paths) and not changed.isdisjoint(file.paths)
        for file in files
    )


async def _write(pipe: int, data: bytes) -> None:
    """Write all of it to a pipe. Raises OSError."""
    os.set_blocking(pipe, False)
    loop = asyncio.get_running_loop()
    writable = asyncio.Event()
    view = memoryview(data)
    loop.add_writer(pipe, writable.set)
    try:
        while view:
            await writable.wait()
            writable.clear()
            try:
                view = view[os.write(pipe, view) :]
            except BlockingIOError:
                continue
    finally:
        loop.remove_writer(pipe)


async def _read(pipe: int) -> dict[Inode, Scanned]:
    """Read records `device inode links path NUL` until the end."""
    os.set_blocking(pipe, False)
    found: dict[Inode, Scanned] = {}
    rest = b""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(pipe, readable.set)
    try:
        while True:
            await readable.wait()
            readable.clear()
            try:
                data = os.read(pipe, _CHUNK)
            except BlockingIOError:
                continue
            if not data:
                return found
            *records, rest = (rest + data).split(b"\0")
            for record in records:
                device, inode, links, path = record.split(b" ", 3)
                found.setdefault((int(device), int(inode)), Scanned(int(links), [])).paths.append(path)
    finally:
        loop.remove_reader(pipe)
