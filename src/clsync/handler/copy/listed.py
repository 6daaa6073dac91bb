"""Single names of one directory: deletions, files, directories; the top of recursive ones."""

from __future__ import annotations

import os
import stat

from clsync.core import batch as flag
from clsync.core.paths import join
from clsync.handler.copy.place import Place
from clsync.handler.copy.places import Places
from clsync.handler.copy.trouble import Refused, Vanished
from clsync.handler.copy.units import Listed, Tree
from clsync.kernel.files import GONE


def make(places: Places, unit: Listed) -> None:
    """Make some names of a directory equal, then the directory itself. Raises as `Places.open`."""
    gone = all(flags & flag.MISSING for _, flags in unit.names) and bool(unit.names)
    if gone and not _stands(places, unit.directory):
        return
    try:
        place = places.open(unit.directory)
    except Vanished:
        _remove_missing(places, unit)
        return
    try:
        _names(places, place, unit)
        places.finish(place)
    finally:
        place.close()


def _stands(places: Places, directory: bytes) -> bool:
    """Tell whether a directory stands at the destination."""
    try:
        os.close(places.roots.open_destination(directory))
    except OSError as error:
        if error.errno in GONE:
            return False
        raise
    return True


def _names(places: Places, place: Place, unit: Listed) -> None:
    context = places.context
    for name, flags in unit.names:
        context.pause()
        path = join(unit.directory, name)
        try:
            _name(places, place, name, path, flags)
            context.files += 1
        except Vanished:
            pass  # its event is on the way
        except (Refused, OSError) as error:
            context.blame(path, error)


def _name(places: Places, place: Place, name: bytes, path: bytes, flags: int) -> None:
    context = places.context
    want, have = place.look(name), place.standing(name)
    if want is None or flags & flag.MISSING:
        # What has vanished since it was listed, or appeared, has an event on the way.
        if want is None and have is not None and flags & flag.MISSING:
            place.remove(name, have)
    elif not stat.S_ISDIR(want.st_mode):
        if not context.rejects(path, False):
            place.make(name, want, have, bool(flags & flag.FORCE))
    elif not context.rejects(path, True):
        _directory(places, place, name, path, flags, want, have)
    elif flags & flag.RECURSIVE and context.reaches(path):
        context.go_through(path, have, bool(flags & flag.FORCE))


def _directory(
    places: Places,
    place: Place,
    name: bytes,
    path: bytes,
    flags: int,
    want: os.stat_result,
    have: os.stat_result | None,
) -> None:
    settings = places.context.settings
    mounted = settings.one_file_system and want.st_dev != places.context.device
    if mounted and settings.one_file_system > 1:
        return
    fresh = place.directory(name, have)
    if flags & flag.RECURSIVE and not mounted:
        free = settings.rules is None or settings.rules.recursion_is_free(path)
        places.context.pending.append(Tree(path, bool(flags & flag.FORCE), fresh, free))
        return
    have = place.standing(name)
    if have is not None and stat.S_ISDIR(have.st_mode):
        place.adjust(name, want, have)


def _remove_missing(places: Places, unit: Listed) -> None:
    """Remove names whose directory is gone at the source, or is something else there now."""
    if not _stands(places, unit.directory):
        return
    destination = places.roots.open_destination(unit.directory)
    place = Place(places.roots, unit.directory, -1, destination)
    try:
        for name, flags in unit.names:
            have = place.standing(name) if flags & flag.MISSING else None
            if have is not None:
                place.remove(name, have)
    finally:
        os.close(destination)
