"""The watched tree: what changes in it is made known to every target."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from clsync.core.changes import DOUBT
from clsync.core.classify import Classifier, Freshness, LinkedFile
from clsync.core.links import LinkIndex, stands_for
from clsync.core.moves import Move
from clsync.daemon.collector import PART, Collector
from clsync.daemon.linkfinder import LinkFinder
from clsync.daemon.linksearch import LinkSearch
from clsync.daemon.log import Log
from clsync.daemon.resolve import Resolved
from clsync.daemon.root import Directory
from clsync.daemon.target import Target


class Source:
    """One tree, its window of changes, and what is known of its hard links; for one target or for many."""

    def __init__(self, root: Directory, collector: Collector, log: Log, wake: Callable[[], None]) -> None:
        """`wake` is called when there may be more to hand over."""
        self.root, self.collector, self._wake = root, collector, wake
        self.targets: list[Target] = []
        self.links = LinkIndex()
        self.named: Callable[[Sequence[bytes], int], None] = lambda paths, bits: None
        """Told what is dirty at all targets from now on, with its change bits."""
        self.searches: dict[LinkedFile, int] = {}
        """How often the names of a file were searched for in vain."""
        finder = LinkFinder(self.links, root)
        self.search = LinkSearch(finder, self.searches, self.release, self.revive, collector.watch_file, log)

    @property
    def shared(self) -> bool:
        """Whether there are several targets."""
        return len(self.targets) > 1

    @property
    def is_watched(self) -> bool:
        """Whether changes are named as they come."""
        return self.collector.monitor is not None

    async def take(self, now: float, puller: Target) -> None:
        """Move what the window holds to the dirty set of each target, as much as goes into one batch of `puller`.

        Raises OSError, and then what the window held is lost.
        """
        await self.collector.take(
            now, self._note_moves, self._add, lambda: len(puller.dirty.ready) >= PART, self._look_for_survivors
        )

    async def take_all(self, now: float) -> None:
        """Move all of it (see `take`)."""
        await self.collector.take(now, self._note_moves, self._add, lambda: False, self._look_for_survivors)

    def _note_moves(self, moves: Sequence[Move], since: float) -> None:
        for target in self.targets:
            target.moves.note(moves, since, target.dirty)

    def _add(self, paths: Sequence[bytes], bits: int, since: float) -> None:
        self.named(paths, bits)
        for target in self.targets:
            if paths:
                target.moves.note_change()
            target.dirty.add_all(paths, bits, since)

    def tell_others(self, target: Target, resolved: Resolved) -> None:
        """Let the other targets know what this one found out about names of files: it is found out once."""
        for other in self.targets if self.shared else ():
            if other is not target:
                other.dirty.add(resolved.survivors.items(), self.collector.last_take)
                other.look_again(resolved.unsure)

    def doubt(self, since: float) -> None:
        """Let everything be compared; by content only what has changed `since` then (wall clock)."""
        self.named((b"",), DOUBT)
        for target in self.targets:
            target.dirty.add([(b"", DOUBT)], since)

    def distrust(self) -> None:
        """Let everything be compared with the targets themselves."""
        for target in self.targets:
            target.distrusted.add(b"")

    def release(self, names: Iterable[bytes]) -> None:
        """Let the names of searched files go on."""
        names = list(names)
        for target in self.targets:
            target.dirty.release(names)
        self._wake()

    def revive(self, names: Mapping[bytes, int]) -> None:
        """Note that files were changed, though no event named them."""
        for target in self.targets:
            target.dirty.add(names.items(), self.collector.last_take)
            target.distrusted.update(name for name, bits in names.items() if bits & DOUBT)
        self._wake()

    async def _look_for_survivors(self, since: float) -> None:
        """Find the other names of files that were changed through a name that is gone."""
        unseen: dict[LinkedFile, int] = {}
        with self.root.opened() as root:
            stands = Classifier(self.root.ops.looks(root).lstat, Freshness(0, 0)).stands
            async for survivor in self.collector.survivors():
                if survivor is None:
                    continue
                file, path, bits = survivor
                inode = file.dev, file.ino
                if path is not None and stands_for(stands(path), inode):
                    continue
                known = [name for name in self.links.paths_of(inode) if stands_for(stands(name), inode)]
                if known:
                    for target in self.targets:
                        target.dirty.add(((name, bits) for name in known), since)
                else:
                    unseen[file] = unseen.get(file, 0) | bits
        self.search.want_unseen(unseen)
