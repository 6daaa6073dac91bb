"""Does units of work, one after the other."""

from __future__ import annotations

from clsync.core.paths import join
from clsync.handler.copy import links, listed, trees
from clsync.handler.copy.places import Places
from clsync.handler.copy.settings import Context
from clsync.handler.copy.trouble import Refused, Vanished
from clsync.handler.copy.units import Listed, Tree, Unit


class Engine:
    """Makes names equal, and notes in its context what failed and what is left to do."""

    def __init__(self, context: Context) -> None:
        """`context`: the batch."""
        self.context, self._places = context, Places(context)

    def work(self) -> None:
        """Do all pending units. Raises Unwell or Stopped."""
        pending = self.context.pending
        while pending:
            self.do(pending.pop())

    def do(self, unit: Unit) -> None:
        """Do one unit; failures of paths are noted. Raises Unwell or Stopped."""
        self.context.pause()
        try:
            if isinstance(unit, Tree):
                trees.make(self._places, unit)
            elif isinstance(unit, Listed):
                listed.make(self._places, unit)
            else:
                links.make(self._places, unit)
        except Vanished:
            pass
        except (Refused, OSError) as error:
            for path in _paths(unit):
                self.context.blame(path, error)


def _paths(unit: Unit) -> list[bytes]:
    """Return the paths that fail with a unit."""
    if isinstance(unit, Tree):
        return [unit.path]
    if isinstance(unit, Listed):
        return [join(unit.directory, name) for name, _ in unit.names] or [unit.directory]
    return [path for _, _, paths in unit.groups for path in paths]
