"""Files with several names: they share one inode at the destination, and share it with nothing else."""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from typing import Final, NamedTuple

from clsync.core.paths import parent
from clsync.handler.copy.place import Place, shares
from clsync.handler.copy.places import Places
from clsync.handler.copy.settings import Context
from clsync.handler.copy.trouble import Refused, Vanished
from clsync.handler.copy.units import Inode, Links

_OPEN: Final = 64
"""Directories kept open."""
_UNLINKABLE: Final = (errno.EMLINK, errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP)


class _Name(NamedTuple):
    path: bytes
    name: bytes
    want: os.stat_result
    have: os.stat_result | None


def make(places: Places, unit: Links) -> None:
    """Make groups of names equal. Raises Unwell or Stopped."""
    kept = _Kept(places)
    try:
        for inode, force, paths in unit.groups:
            places.context.pause()
            _Group(places.context, kept, inode, force).make(paths)
        kept.finish()
    finally:
        kept.close()


class _Kept:
    """Directories at work, a few at a time; each is finished before it is closed."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._open: dict[bytes, Place] = {}

    def at(self, path: bytes) -> Place:
        """Return the directory of a path; valid until the next call. Raises as `Places.open`."""
        directory = parent(path)
        place = self._open.get(directory)
        if place is None:
            if len(self._open) >= _OPEN:
                self._end(next(iter(self._open)))
            place = self._open[directory] = self._places.open(directory)
        return place

    def finish(self) -> None:
        while self._open:
            self._end(next(iter(self._open)))

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()

    def _end(self, directory: bytes) -> None:
        place = self._open.pop(directory)
        try:
            self._places.finish(place)
        finally:
            place.close()


class _Group:
    """The names of one file."""

    def __init__(self, context: Context, places: _Kept, inode: Inode, force: bool) -> None:
        self._context, self._places = context, places
        self._inode, self._force = inode, force

    def make(self, paths: list[bytes]) -> None:
        names = [name for name in map(self._look, paths) if name is not None]
        first = self._any_first(names)
        if first is None:
            return
        self._context.files += len(names)
        place = self._places.at(first.path)
        kept = place.standing(first.name)
        # The place may be closed while others are opened.
        directory = os.dup(place.destination)
        try:
            for other in names:
                if kept is not None and not _is(other.have, kept):
                    self._attempt(other, first, kept, directory)
        finally:
            os.close(directory)

    def _look(self, path: bytes) -> _Name | None:
        """Return a name if it is still one of the file."""
        name = path[len(parent(path)) + 1 if b"/" in path else 0 :]
        try:
            place = self._places.at(path)
            want = place.look(name)
            if want is None or (want.st_dev, want.st_ino) != self._inode or stat.S_ISDIR(want.st_mode):
                return None  # an event is on the way
            if self._context.rejects(path, False):
                return None
            return _Name(path, name, want, place.standing(name))
        except Vanished:
            return None
        except (Refused, OSError) as error:
            self._context.blame(path, error)
            return None

    def _any_first(self, names: list[_Name]) -> _Name | None:
        """Return the first name that can be made; those that cannot are blamed and taken out of `names`."""
        while names:
            kept = self._keepable(names)
            chosen = kept or names[0]
            try:
                return self._first(chosen, keep=kept is not None)
            except Vanished:
                names.remove(chosen)
            except (Refused, OSError) as error:
                self._context.blame(chosen.path, error)
                names.remove(chosen)
        return None

    def _first(self, name: _Name, keep: bool) -> _Name:
        """Make the inode at a name's destination the file as it is now, and return the name."""
        place = self._places.at(name.path)
        if keep and name.have is not None:
            place.adjust(name.name, name.want, name.have)
            return name
        place.renew(name.name, name.want, name.have, only_same=True)
        return name._replace(have=None)

    def _keepable(self, names: list[_Name]) -> _Name | None:
        """Return the name whose inode can stay: equal, and shared with no other file's names."""
        counts = Counter((n.have.st_dev, n.have.st_ino) for n in names if n.have is not None)
        best: _Name | None = None
        for name in names:
            have = name.have
            if have is None or (best is not None and counts[_key(have)] <= counts[_key(best.have)]):
                continue
            # Where not all names are known, the others at the destination may be those.
            complete = name.want.st_nlink <= len(names)
            ours = have.st_nlink == counts[_key(have)] or not (complete or shares(have, name.want))
            if ours and self._places.at(name.path).same(name.name, name.want, have, self._force):
                best = name
        return best

    def _attempt(self, other: _Name, first: _Name, kept: os.stat_result, directory: int) -> None:
        if other.path == first.path:
            return
        try:
            place = self._places.at(other.path)
            try:
                place.link(other.name, other.have, directory, first.name)
            except OSError as error:
                if error.errno not in _UNLINKABLE:
                    raise
                place.make(other.name, other.want, other.have, self._force)
        except Vanished:
            pass
        except (Refused, OSError) as error:
            self._context.blame(other.path, error)


def _key(have: os.stat_result | None) -> tuple[int, int]:
    return (have.st_dev, have.st_ino) if have is not None else (0, 0)


def _is(have: os.stat_result | None, kept: os.stat_result) -> bool:
    return have is not None and _key(have) == _key(kept)
