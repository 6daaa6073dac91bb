"""Makes the directories in which names are made equal."""

from __future__ import annotations

import os
import stat

from clsync.core.paths import join
from clsync.handler.copy.place import Place, clean
from clsync.handler.copy.roots import Roots
from clsync.handler.copy.settings import Context
from clsync.handler.copy.trouble import Refused, Vanished
from clsync.kernel.files import GONE


class Places:
    """Opens places below both roots, and finishes them."""

    def __init__(self, context: Context) -> None:
        """`context`: the batch."""
        self.context, self.roots = context, Roots(context)

    def open(self, path: bytes, fresh: bool = False) -> Place:
        """Open a directory at both sides; what is missing of it at the destination is made.

        Raises Vanished, Refused or OSError (destination).
        """
        source = self.roots.open_source(path)
        try:
            if self.context.settings.one_file_system and os.fstat(source).st_dev != self.context.device:
                raise Vanished  # nothing below a mount point is ours
            try:
                place = Place(self.roots, path, source, self.roots.open_destination(path), fresh)
            except OSError as error:
                if error.errno not in GONE or not path:
                    raise
                self._make_parents(path)
                place = Place(self.roots, path, source, self.roots.open_destination(path))
        except BaseException:
            os.close(source)
            raise
        if self.context.settings.littered and not fresh:
            try:
                clean(place)
            except BaseException:
                place.close()
                raise
        return place

    def finish(self, place: Place) -> None:
        """Do the last thing in a directory: its own attributes. Raises Unwell."""
        try:
            place.finish()
        except Vanished:
            pass
        except (Refused, OSError) as error:
            self.context.blame(place.path, error)

    def _make_parents(self, path: bytes) -> None:
        """Make a directory and what leads to it, from the top down, each with its attributes."""
        above = b""
        for name in path.split(b"/"):
            place = Place(self.roots, above, self.roots.open_source(above), self.roots.open_destination(above))
            try:
                want = place.look(name)
                if want is None or not stat.S_ISDIR(want.st_mode):
                    raise Vanished
                if place.directory(name, place.standing(name)):
                    made = place.standing(name)
                    if made is not None and not self.context.rejects(join(above, name), True):
                        place.adjust(name, want, made)
                place.finish()
            finally:
                place.close()
            above = join(above, name)
