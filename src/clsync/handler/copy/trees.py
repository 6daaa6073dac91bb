"""One directory of a recursive entry: deletions, then directories (each a unit of its own), then the rest."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import NamedTuple

from clsync.core.paths import join
from clsync.handler.copy.place import Place
from clsync.handler.copy.places import Places
from clsync.handler.copy.settings import Context
from clsync.handler.copy.trouble import Refused, Vanished, source_trouble
from clsync.handler.copy.units import Inode, Linked, Tree
from clsync.handler.removal import listing


class Wanted(NamedTuple):
    """What the source has, and rules permit, in one directory."""

    directories: list[bytes]
    mounts: list[bytes]
    left_alone: list[bytes]
    """Directories that are to stay empty."""
    passages: list[bytes]
    """Directories that are rejected themselves, and walked: what they hold may be permitted."""
    files: list[bytes]
    others: list[bytes]


def make(places: Places, unit: Tree) -> None:
    """Make one directory equal; the directories in it become pending. Raises as `Places.open`."""
    place = places.open(unit.path, unit.fresh)
    try:
        directory = _Directory(places, place, unit)
        if places.context.settings.clears:
            directory.clear()
        else:
            directory.make()
            places.finish(place)
    finally:
        place.close()


class _Directory:
    """A directory at work."""

    def __init__(self, places: Places, place: Place, unit: Tree) -> None:
        self._context: Context = places.context
        rules = places.context.settings.rules
        self._free = unit.free or rules is None or rules.recursion_is_free(unit.path)
        self._place, self._unit = place, unit
        self._linking = places.context.settings.capabilities.hard_links
        self._have: dict[bytes, bool] = {}

    def make(self) -> None:
        wanted = self._wanted()
        if not self._place.fresh:
            self._list()
            self._delete(wanted)
        for name in wanted.directories:
            self._attempt(name, self._enter)
        for name in wanted.mounts:
            self._attempt(name, self._mount)
        for name in wanted.passages:
            self._attempt(name, self._pass)
        fresh = self._place.fresh
        for name in wanted.files:
            self._attempt(name, self._fresh if fresh else self._file)
        for name in wanted.others:
            self._attempt(name, self._file)
        self._context.files += len(wanted.files) + len(wanted.others)

    def clear(self) -> None:
        """Delete, or count, and nothing else; the directories that both sides have become pending."""
        wanted = self._wanted()
        self._list()
        self._delete(wanted)
        below = (name for name in (*wanted.directories, *wanted.passages) if self._have.get(name))
        self._context.pending += [Tree(join(self._unit.path, name), False, False, self._free) for name in below]

    def _list(self) -> None:
        self._have = {name: is_dir for name, is_dir, _ in listing(self._place.destination)}

    def _wanted(self) -> Wanted:
        wanted = Wanted([], [], [], [], [], [])
        try:
            found = listing(self._place.source)
        except OSError as error:
            raise source_trouble(error) from error
        if not self._context.settings.capabilities.case_sensitive:
            found = _distinct(found)
        rejects, path = self._context.rejects, self._unit.path
        for name, is_dir, is_file in found:
            if not self._free and rejects(join(path, name), is_dir):
                if is_dir and self._context.reaches(join(path, name)):
                    wanted.passages.append(name)
                continue
            if is_file:
                wanted.files.append(name)
            elif not is_dir:
                wanted.others.append(name)
            elif not self._context.settings.one_file_system:
                wanted.directories.append(name)
            else:
                self._sort(name, wanted)
        return wanted

    def _sort(self, name: bytes, wanted: Wanted) -> None:
        """Put a directory where it belongs when other file systems are not entered."""
        found = self._place.look(name)
        if found is None or found.st_dev == self._context.device:
            wanted.directories.append(name)
        elif self._context.settings.one_file_system == 1:
            wanted.mounts.append(name)
        else:
            wanted.left_alone.append(name)

    def _delete(self, wanted: Wanted) -> None:
        names = {name for kind in wanted for name in kind}
        if not self._context.settings.capabilities.case_sensitive:
            folded = {_folded(name) for name in names}
            names |= {name for name in self._have if _folded(name) in folded}
        for name, is_dir in self._have.items():
            if name in names:
                continue
            self._context.pause()
            try:
                if self._may_go(name, is_dir):
                    self._place.remove_kind(name, is_dir, self._free)
            except OSError as error:
                self._context.blame(join(self._unit.path, name), error)

    def _may_go(self, name: bytes, is_dir: bool) -> bool:
        """Tell whether something is to be deleted; count it, if that matters. Raises Unwell or OSError."""
        context, most = self._context, 0 if self._context.settings.spares else self._context.settings.most
        if most is None:
            return True
        count = self._place.count(name, is_dir, self._free)
        if context.deleted + count > most:
            context.spared += count
            return False
        context.deleted += count
        return True

    def _attempt(self, name: bytes, act: Callable[[bytes], None]) -> None:
        self._context.pause()
        try:
            act(name)
        except Vanished:
            pass  # its event is on the way
        except (Refused, OSError) as error:
            self._context.blame(join(self._unit.path, name), error)

    def _enter(self, name: bytes) -> None:
        fresh = self._place.directory(name, self._in_the_way(name))
        self._context.pending.append(Tree(join(self._unit.path, name), self._unit.force, fresh, self._free))

    def _pass(self, name: bytes) -> None:
        self._context.go_through(join(self._unit.path, name), self._in_the_way(name), self._unit.force)

    def _mount(self, name: bytes) -> None:
        self._place.directory(name, self._in_the_way(name))
        want, have = self._place.look(name), self._place.standing(name)
        if want is not None and have is not None and stat.S_ISDIR(want.st_mode):
            self._place.adjust(name, want, have)

    def _in_the_way(self, name: bytes) -> os.stat_result | None:
        """Return what stands at the destination where a directory is to be."""
        return self._place.standing(name) if name in self._have else None

    def _fresh(self, name: bytes) -> None:
        try:
            self._place.copy_fresh(name, self._unit.force)
        except IsADirectoryError:
            self._have[name] = True  # not by us
            self._file(name)

    def _file(self, name: bytes) -> None:
        want = self._place.look(name)
        if want is None or stat.S_ISDIR(want.st_mode):
            return
        if want.st_nlink > 1 and self._linking and self._place.holds(want):
            path = join(self._unit.path, name)
            self._context.linked.append(Linked(Inode(want.st_dev, want.st_ino), path, self._unit.force))
            return
        self._place.make(name, want, self._in_the_way(name), self._unit.force)


def _folded(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape").casefold()


def _distinct(found: list[tuple[bytes, bool, bool]]) -> list[tuple[bytes, bool, bool]]:
    """Return the first of each set of names that the destination cannot tell apart."""
    first: dict[str, tuple[bytes, bool, bool]] = {}
    for entry in sorted(found):
        first.setdefault(_folded(entry[0]), entry)
    return list(first.values())
