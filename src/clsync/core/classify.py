"""From changed paths to the entries of a batch: events are hints, `lstat` (given from outside) is the truth."""

from __future__ import annotations

import stat
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from clsync.core import batch as flag
from clsync.core.changes import ATTRIB, CONTENT, DOUBT, NAME, OF_DIRECTORY
from clsync.core.paths import ancestors, parent
from clsync.core.signature import Signatures, Signed


class Stat(Protocol):
    """The fields of `os.stat_result` that decide."""

    @property
    def st_mode(self) -> int: ...

    @property
    def st_nlink(self) -> int: ...

    @property
    def st_size(self) -> int: ...

    @property
    def st_dev(self) -> int: ...

    @property
    def st_ino(self) -> int: ...

    @property
    def st_mtime_ns(self) -> int: ...

    @property
    def st_ctime_ns(self) -> int: ...

    @property
    def st_uid(self) -> int: ...

    @property
    def st_gid(self) -> int: ...

    @property
    def st_rdev(self) -> int: ...


Lstat = Callable[[bytes], Stat | None]
"""Answers None where nothing stands; raises OSError only for what is neither present nor absent (EIO, EACCES)."""

Plain = tuple[int, int, int]
"""Size, mtime and ctime (ns) of a regular file with one name; what nearly all changes are."""
NOT_PLAIN: Plain = (-1, 0, 0)
"""Anything else, or nothing, or not known."""

_REGULAR = stat.S_IFREG >> 12
CHANGE_SHIFT = 8
"""The change bits of an entry are kept above its flags, for handlers that report them."""


def plain(found: Stat) -> Plain:
    """Return what counts of a regular file with one name."""
    if found.st_nlink != 1 or found.st_mode >> 12 != _REGULAR:
        return NOT_PLAIN
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


class Freshness(NamedTuple):
    """Between these wall-clock times (ns) an mtime proves that the file was written after it was last sent.

    rsync and copy skip a file whose size and mtime agree. A version already sent cannot carry an mtime later
    than the moment the last run ended, plus one tick of the file system clock; unless somebody has set it (utimensat(2)),
    now or then: what the kernel has set agrees with the ctime.
    """

    after_ns: int
    until_ns: int


class LinkedFile(NamedTuple):
    """Anything but a directory, with several names."""

    dev: int
    ino: int
    nlink: int
    """0: not known."""


class Classifier:
    """Collects the entries of one batch. `add` may be called in slices; `finish` ends it."""

    def __init__(
        self,
        lstat: Lstat,
        freshness: Freshness,
        permits: Callable[[bytes, bool], bool] | None = None,
        big: int = 0,
        ripe: frozenset[bytes] | set[bytes] = frozenset(),
        device: int | None = None,
        mount_points: bool = True,
        reaches: Callable[[bytes], bool] | None = None,
        signatures: Signatures | None = None,
    ) -> None:
        """`permits` and `reaches`: the rules, if there are any.

        `device`: what lies on another one is left out (None: on any); directories in which one begins are entered for
        themselves alone, if at all (`mount_points`).

        `signatures`: what was handed over with these fields, and has them still, is left out.
        """
        self._device, self._mount_points, self._signatures = device, mount_points, signatures
        self.signed: dict[bytes, Signed] = {}
        """Path -> what stands there, as far as that counts (`core.signature`)."""
        self.entries: dict[bytes, int] = {}
        self.linked: dict[LinkedFile, dict[bytes, int]] = {}
        """Files with several names -> those names that were seen -> bits that no change of their own says."""
        self.through_rejected: dict[LinkedFile, int] = {}
        """Files that were changed through names which rules reject -> change bits."""
        self.postponed: dict[bytes, int] = {}
        self.unreadable: dict[bytes, str] = {}
        self.attribute_bytes = 0
        """Size of all regular files that are listed for their attributes only."""
        self._lstat, self._permits, self._reaches = lstat, permits, reaches
        self._big, self._ripe = big, ripe
        self._fresh_after, self._fresh_until = freshness
        self.directories: set[bytes] = set()
        """Those that are known to be real, and lie below real ones alone."""

    def add(self, changes: Iterable[tuple[bytes, int]]) -> None:
        """Classify changed paths by what stands there now."""
        for path, bits in changes:
            try:
                path, bits = self._reduce(path, bits)
                self._enter(path, bits, self._lstat(path))
            except OSError as error:
                self.unreadable[path] = error.strerror or str(error)

    @property
    def takes_plain(self) -> bool:
        """Whether size and times are all that has to be known of regular files with one name."""
        return self._device is None and self._signatures is None

    def add_plain(self, changes: Sequence[tuple[bytes, int]], found: Iterable[Plain]) -> list[tuple[bytes, int]]:
        """Classify regular files with one name by a short way (see `takes_plain`); return all other changes.

        `found`: what stands at each path, below real directories alone.
        """
        entries, permits, others = self.entries, self._permits, list[tuple[bytes, int]]()
        alike, plain, forced = -1, 0, 0
        after, until, big = self._fresh_after, self._fresh_until, self._big or sys.maxsize
        for change, (size, mtime, ctime) in zip(changes, found, strict=True):
            path, bits = change
            if not 0 <= size <= big or path in entries or (permits is not None and not permits(path, False)):
                others.append(change)
                continue
            if bits != alike:
                alike = bits
                plain = flag.REGULAR | bits << CHANGE_SHIFT
                forced = plain | flag.FORCE if bits & (CONTENT | NAME) else 0
            if not forced:
                self.attribute_bytes += size
                entries[path] = plain
            else:
                entries[path] = plain if after < mtime <= until and mtime == ctime else forced
        return others

    def stands(self, path: bytes) -> Stat | None:
        """Return what stands at a path below real directories only; None where nothing does, or where none can look."""
        try:
            return self._lstat(path) if self._reduce(path, 0)[0] == path else None
        except OSError:
            return None

    def _reduce(self, path: bytes, bits: int) -> tuple[bytes, int]:
        """Replace a path below something that is no directory by that something."""
        if parent(path) in self.directories:
            return path, bits
        for up in ancestors(path):
            if up in self.directories:
                continue
            found = self._lstat(up)
            if found is None or not stat.S_ISDIR(found.st_mode):
                return up, NAME | OF_DIRECTORY
            if self._elsewhere(found):
                return up, ATTRIB
            self.directories.add(up)
        return path, bits

    def _elsewhere(self, found: Stat | None) -> bool:
        """Tell whether something lies on a file system that does not count."""
        return self._device is not None and found is not None and found.st_dev != self._device

    def _enter(self, path: bytes, bits: int, found: Stat | None) -> None:
        mode = found.st_mode if found is not None else 0
        is_dir = stat.S_ISDIR(mode)
        elsewhere = self._elsewhere(found)
        if elsewhere and not (is_dir and self._mount_points):
            return
        # It may have been another kind of thing a moment ago: all that was reported counts, as what it is now.
        old = self.entries.get(path)
        bits |= 0 if old is None else old >> CHANGE_SHIFT
        if self._permits is not None and not self._permitted(path, is_dir, found is None):
            if bits & NAME and path:
                # A rejected name that comes or goes gives the directory that holds it another mtime.
                up = parent(path)
                self._enter(up, ATTRIB, self._lstat(up))
            if found is not None and found.st_nlink > 1 and not is_dir:
                # Written through a name that does not count: its other names may.
                file = self.note_linked(path, found, 0)
                self.through_rejected[file] = self.through_rejected.get(file, 0) | bits & (CONTENT | ATTRIB)
            comes_or_goes = bits & (NAME | DOUBT) if is_dir else found is None and bits & NAME
            if not (comes_or_goes and self._reaches is not None and self._reaches(path)):
                return
            # Not synced itself, a directory that is new here may hold what is, and one that is gone may have held it.
        if self._signatures is not None and self._signed_already(self._signatures, path, bits, found):
            return
        if found is None:
            flags = flag.MISSING if path else flag.DIRECTORY
        elif is_dir:
            flags = flag.DIRECTORY
            if bits & (NAME | DOUBT) and not elsewhere:
                flags |= flag.RECURSIVE | (flag.FORCE if bits & NAME else 0)
        elif stat.S_ISREG(mode):
            flags = self._regular(path, bits, found)
            if not flags:
                return
        else:
            flags = flag.FORCE if bits & NAME else 0
        if found is not None and found.st_nlink > 1 and not is_dir:
            self.note_linked(path, found, 0)
        self.entries[path] = flags | bits << CHANGE_SHIFT

    def _signed_already(self, signatures: Signatures, path: bytes, bits: int, found: Stat | None) -> bool:
        """Note the signature of a path; tell whether it was handed over with it, as the thing that it is."""
        if found is None:
            self.signed.pop(path, None)
            return False
        signed = self.signed[path] = signatures.of(found)
        return not bits & (NAME | DOUBT) and signatures.unchanged(path, signed)

    def note_linked(self, path: bytes, found: Stat, bits: int) -> LinkedFile:
        """Note a name of a file with several; `bits`: what may have changed beside what was reported of this name."""
        file = LinkedFile(found.st_dev, found.st_ino, found.st_nlink)
        names = self.linked.setdefault(file, {})
        names[path] = names.get(path, 0) | bits
        return file

    def _regular(self, path: bytes, bits: int, found: Stat) -> int:
        flags = flag.REGULAR
        if bits & (CONTENT | NAME):
            if self._big and found.st_size > self._big and path not in self._ripe:
                self.postponed[path] = self.postponed.get(path, 0) | bits
                return 0
            fresh = self._fresh_after < found.st_mtime_ns <= self._fresh_until
            if not fresh or found.st_mtime_ns != found.st_ctime_ns:
                flags |= flag.FORCE
        else:
            self.attribute_bytes += found.st_size
        return flags

    def _permitted(self, path: bytes, is_dir: bool, missing: bool) -> bool:
        permits = self._permits
        assert permits is not None
        # What is gone may have been either: the handler looks at what stands at the destination.
        return permits(path, is_dir) or (missing and permits(path, True))

    def add_links(self, names: Iterable[bytes]) -> None:
        """Enter all known names of one linked file: they travel together or lose their common inode."""
        known = list(names)
        flags = flag.LINKED
        for name in known:
            flags |= self.entries.get(name, 0) & (flag.FORCE | flag.REGULAR)
        for name in known:
            self.entries[name] = self.entries.get(name, ATTRIB << CHANGE_SHIFT) | flags

    def finish(self) -> dict[bytes, int]:
        """Return the entries, sorted, without those that a recursive one covers."""
        entries = self.entries
        deep = self.recursive()
        if not deep:
            paths = sorted(entries)
            return dict(zip(paths, map(entries.__getitem__, paths), strict=True))
        covers = Cover(set(deep), entries)
        return {p: entries[p] for p in sorted(entries) if not covers.covered(p, entries[p])}

    def recursive(self) -> list[bytes]:
        """Return the entries that stand for everything below them."""
        if not any(flags & flag.RECURSIVE for flags in set(self.entries.values())):
            return []
        return [path for path, flags in self.entries.items() if flags & flag.RECURSIVE]


class Cover:
    """Tells which entries a recursive entry above makes superfluous."""

    def __init__(self, deep: set[bytes], entries: dict[bytes, int]) -> None:
        self._deep, self._entries = deep, entries
        self._above: dict[bytes, int] = {}

    def covered(self, path: bytes, flags: int) -> bool:
        """Tell whether a recursive ancestor does all that this entry asks for."""
        above = self._strength(parent(path)) if path else 0
        if not above:
            return False
        return bool(above & flag.FORCE) or not flags & (flag.FORCE | flag.LINKED)

    def _strength(self, directory: bytes) -> int:
        """Return the flags of the recursive entries at or above `directory`, 0 if there are none."""
        known = self._above.get(directory)
        if known is None:
            known = self._entries[directory] if directory in self._deep else 0
            if directory:
                known |= self._strength(parent(directory))
            self._above[directory] = known
        return known
