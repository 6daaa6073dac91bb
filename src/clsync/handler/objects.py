"""The objects of a batch as programs and modules of the operator's own are given them, one by one or in lists."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass

from clsync.core import batch as flag
from clsync.core import lists
from clsync.core.batch import Batch
from clsync.core.changes import ATTRIB, CONTENT, MOVED, NAME, OF_DIRECTORY
from clsync.core.classify import CHANGE_SHIFT
from clsync.core.paths import is_below
from clsync.handler.base import PathRules
from clsync.kernel.mounts import mount_points_below
from clsync.kernel.slices import in_slices
from clsync.kernel.walk import lstat_below, walk

CREATED, DELETED, IS_DIRECTORY = 0x100, 0x200, 0x40000000
"""Bits of inotify(7): IN_CREATE, IN_DELETE, IN_ISDIR."""
MOVED_FROM, MOVED_TO, DELETED_SELF, MOVED_SELF = 0x40, 0x80, 0x400, 0x800
"""The same of renames, and of what directories that are watched tell of themselves."""

_NAME_MASKS = {
    (False, False, False): CREATED,
    (False, False, True): CREATED,
    (False, True, False): MOVED_TO,
    (False, True, True): CREATED | MOVED_SELF,  # it is found by a walk, and tells itself that it was moved
    (True, False, False): DELETED,
    (True, False, True): DELETED | DELETED_SELF,
    (True, True, False): MOVED_FROM,
    (True, True, True): MOVED_FROM,
}
"""(gone, renamed, a directory) -> what clsync 0.4 says then."""


def event_mask(flags: int) -> int:
    """Return the inotify mask (inotify(7)) that an entry's change bits amount to."""
    bits, missing = flags >> CHANGE_SHIFT, flags & flag.MISSING
    directory = bits & OF_DIRECTORY if missing else flags & flag.DIRECTORY
    mask = IS_DIRECTORY if directory else 0
    if bits & ATTRIB:
        mask |= 0x4
    if bits & CONTENT:
        mask |= 0x2 | 0x8
    if bits & NAME or not bits & (ATTRIB | CONTENT):
        mask |= _NAME_MASKS[bool(missing), bool(bits & MOVED), bool(directory)]
    return mask


def _rejected_and_gone(path: bytes, flags: int, rules: PathRules | None) -> bool:
    """Tell whether something is gone of which rules let nobody be told."""
    if rules is None or not flags & flag.MISSING:
        return False
    return not rules.permits(path, bool(flags >> CHANGE_SHIFT & OF_DIRECTORY))


@dataclass(frozen=True, slots=True)
class Objects:
    """What a batch is about, by the rules that hold for it."""

    batch: Batch
    rules: PathRules | None
    one_file_system: bool = False
    recursive: bool = False
    """Directories are taken with all that is below, where nothing of that is left out."""

    def whole(self) -> list[bytes]:
        """Return the entries that are taken with all that is below."""
        if not self.recursive or self.one_file_system:
            return []
        deep = [path for path, flags in self.batch.entries.items() if flags & flag.RECURSIVE]
        return [path for path in deep if self.rules is None or self.rules.recursion_is_free(path)]

    async def listed(self) -> AsyncIterator[tuple[bytes, int]]:
        """Yield (path, flags) of all others: recursive entries are expanded to what rules permit."""
        rules, whole = self.rules, set(self.whole())
        for entry, flags in self.batch.entries.items():
            if entry in whole:
                continue
            if _rejected_and_gone(entry, flags, rules):
                continue
            if rules is None or not flags & flag.RECURSIVE or rules.permits(entry, True):
                yield entry, flags & ~flag.RECURSIVE
            if not flags & flag.RECURSIVE:
                continue
            enter = rules.reaches if rules is not None else (lambda p: True)
            # What is an entry itself is told as that.
            async for path, found in in_slices(walk(self.batch.root, entry, enter, self.one_file_system)):
                is_dir = stat.S_ISDIR(found.st_mode)
                if path not in self.batch.entries and (rules is None or rules.permits(path, is_dir)):
                    yield path, (flag.DIRECTORY if is_dir else 0) | NAME << CHANGE_SHIFT

    async def rsync_lists(
        self, limit: int, prefer_include: bool
    ) -> AsyncIterator[tuple[dict[bytes, int], bytes, bytes]]:
        """Yield (entries, include list, exclude list) of each part, parts being about `limit` lines long (0: one part).

        `prefer_include`: what is permitted is included by name, nothing is excluded.
        """
        rules = self.rules
        entries = {p: f for p, f in self.batch.entries.items() if not _rejected_and_gone(p, f, rules)}
        excluded = b""
        if prefer_include:
            entries = {path: flags async for path, flags in self.listed()}
        else:
            rejected = [path async for path in self._rejected(rules)] if rules is not None else []
            excluded = lists.exclude_list(rejected, self._elsewhere())
        for part, text in lists.include_lists(entries, limit):
            yield part, text, excluded

    async def _rejected(self, rules: PathRules) -> AsyncIterator[bytes]:
        """Yield the topmost paths below recursive entries that rules reject."""
        for entry, flags in self.batch.entries.items():
            if not flags & flag.RECURSIVE:
                continue
            below = walk(self.batch.root, entry, rules.reaches, self.one_file_system)
            async for path, found in in_slices(below):
                if not rules.permits(path, stat.S_ISDIR(found.st_mode)):
                    yield path

    def _elsewhere(self) -> list[bytes]:
        """Return the permitted directories below recursive entries that are other file systems. Raises OSError."""
        if not self.one_file_system:
            return []
        root, rules = self.batch.root, self.rules
        device, look = os.fstat(root).st_dev, lstat_below(root)
        deep = [entry for entry, flags in self.batch.entries.items() if flags & flag.RECURSIVE]
        points = (
            point
            for point in mount_points_below(root)
            if any(is_below(point, entry) for entry in deep) and (rules is None or rules.permits(point, True))
        )
        return [point for point in points if (found := look(point)) is not None and found.st_dev != device]
