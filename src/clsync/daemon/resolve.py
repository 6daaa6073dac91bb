"""From changed paths to a batch: what stands there now, which names belong together, what a directory hides."""

from __future__ import annotations

import stat
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from clsync.core import batch as flag
from clsync.core.batch import Outcome, Verdict
from clsync.core.changes import ATTRIB, CONTENT, DOUBT, NAME
from clsync.core.classify import CHANGE_SHIFT, Classifier, Freshness, LinkedFile
from clsync.core.links import Inode, LinkIndex, stands_for
from clsync.core.listing import Records
from clsync.core.paths import ancestors, is_below
from clsync.core.signature import Signatures, Signed
from clsync.handler.base import PathRules
from clsync.kernel.ops import DirectOps, KernelOps
from clsync.kernel.slices import in_parts, in_slices

DOUBT_SLACK_NS = 60 * 10**9
"""A file whose ctime is older than a doubt by more than this did not change in it: clocks are set, queues lag."""
_RENAMED_SLACK_NS = 10**8
"""The same where nothing was lost: events name what has changed, and this only makes sure."""
FORCED_LIMIT = 200_000
"""With more changed files than this below a directory in doubt, the whole directory is sent again."""
_HELD_LIMIT = 10_000
_SEARCHES = 2
"""Searches for the names of a file that must fail before it is taken as it is."""


@dataclass(slots=True)
class Resolved:
    """What a handler is given, and what is left for later."""

    entries: dict[bytes, int]
    attribute_bytes: int
    whole: list[bytes] = field(default_factory=list)
    """The recursive ones among the entries."""
    postponed: dict[bytes, int] = field(default_factory=dict)
    """Big files -> change bits."""
    unreadable: dict[bytes, str] = field(default_factory=dict)
    """Paths that could not be looked at -> reason."""
    unlinked: dict[bytes, int] = field(default_factory=dict)
    """Names of hard-linked files whose other names are not known -> change bits."""
    wanted: dict[LinkedFile, list[bytes]] = field(default_factory=dict)
    """Those files, to be searched for -> what waits for that."""
    changed: dict[LinkedFile, int] = field(default_factory=dict)
    """What has changed of these files, by whatever name: that name may be gone when the others are found."""
    linked: dict[LinkedFile, dict[bytes, int]] = field(default_factory=dict)
    """All files with several names that were met -> these names."""
    groups: list[list[bytes]] = field(default_factory=list)
    """Those of the entries that are names of one file, all of them."""
    unsure: dict[bytes, int] = field(default_factory=dict)
    """Names of files whose names are to be searched for once more -> change bits."""
    survivors: dict[bytes, int] = field(default_factory=dict)
    """Other names of files that were written through a name that is gone -> change bits."""
    signed: dict[bytes, Signed] = field(default_factory=dict)
    """Path -> its signature (see `core.signature`)."""
    records: Records | None = None
    """What was seen of the entries before they are handed over, and of others."""

    def signed_of(self, outcome: Outcome) -> dict[bytes, Signed]:
        """Return the signatures of what was handed over by its own name, and confirmed."""
        if outcome.verdict is Verdict.UNWELL:
            return {}
        left = outcome.failed.keys() | outcome.again
        return {path: sign for path, sign in self.signed.items() if path in self.entries and path not in left}


class Resolver:
    """Makes batches out of changed paths."""

    def __init__(
        self,
        links: LinkIndex,
        searches: dict[LinkedFile, int],
        ops: KernelOps | None = None,
        *,
        one_file_system: int = 0,
    ) -> None:
        """`searches`: how often the names of a file were searched for in vain. `ops` looks at the tree.

        `one_file_system`: 1: mount points count without what is below them, 2: they do not count.
        """
        self._ops = ops or DirectOps()
        self.big = 0
        """Bytes above which a changed file is postponed, 0 for never."""
        self.signatures: Signatures | None = None
        """What was handed over already."""
        self.rules: PathRules | None = None
        self.searches = searches
        self._held: set[bytes] = set()
        """New directories that have waited for the names of files in them."""
        self._links, self._one_file_system = links, one_file_system

    async def resolve(
        self,
        changes: Mapping[bytes, int],
        *,
        root: int,
        freshness: Freshness,
        doubts: Mapping[bytes, float],
        ripe: Collection[bytes] = (),
        renamed: Collection[bytes] = (),
        records: Records | None = None,
    ) -> Resolved:
        """Classify `changes` by what stands below the open directory `root` now.

        `doubts`: directory in doubt -> since when (wall-clock seconds). `ripe`: big files that have waited.

        `renamed`: what was renamed at the destination, and new directories made there for that: events tell what else
        has changed. `records` takes what was seen, as far as that is for nothing.
        """
        looks = self._ops.looks(root)
        if records is not None:
            looks.note(records)
        device = self._ops.device(root) if self._one_file_system else None
        mount_points = self._one_file_system < 2
        rules = self.rules
        classifier = Classifier(
            looks.lstat,
            freshness,
            rules.permits if rules is not None else None,
            self.big,
            frozenset(ripe),
            device,
            mount_points,
            rules.reaches if rules is not None else None,
            self.signatures,
        )
        async for part in in_parts(changes.items(), looks.at_once):
            if classifier.takes_plain:
                part = classifier.add_plain(part, looks.plain([path for path, _ in part], classifier.directories))
            looks.expect([path for path, _ in part])
            classifier.add(part)
        survivors = self._survivors(changes, classifier)
        classifier.add(survivors.items())
        for path in classifier.recursive():
            await self._look_below(path, classifier, root, doubts.get(path), renamed)
        resolved = Resolved({}, 0, linked=classifier.linked, survivors=survivors, records=records)
        if classifier.linked:
            self._complete_links(classifier, changes, resolved, self._ops.devices_shown_twice(root))
        resolved.entries = classifier.finish()
        resolved.whole = [path for path in classifier.recursive() if path in resolved.entries]
        resolved.attribute_bytes, resolved.signed = classifier.attribute_bytes, classifier.signed
        resolved.postponed, resolved.unreadable = classifier.postponed, classifier.unreadable
        return resolved

    async def _look_below(
        self, top: bytes, classifier: Classifier, root: int, since: float | None, renamed: Collection[bytes]
    ) -> None:
        """Find in a recursive entry what recursion alone would not make equal.

        Files with names elsewhere, and in a directory in doubt files whose content may have changed while size
        and mtime did not: their ctime tells. That of a directory tells that it may have come with a rename, and
        stand for another tree; it is as old as the mtime where only names in it changed. What was `renamed` at the
        destination has a new ctime for that alone.
        """
        entries, rules = classifier.entries, self.rules
        calm = top in renamed
        slack = _RENAMED_SLACK_NS if calm else DOUBT_SLACK_NS
        changed_after = int(since * 1e9) - slack if since is not None else 0
        doubtful = not entries[top] & flag.FORCE
        forced: dict[bytes, int] = {}
        enter: Callable[[bytes], bool] = rules.reaches if rules is not None else (lambda p: True)
        try:
            async for path, found in in_slices(self._ops.walk(root, top, enter, self._one_file_system > 0)):
                is_dir = stat.S_ISDIR(found.st_mode)
                if rules is not None and not rules.permits(path, is_dir):
                    continue
                if found.st_nlink > 1 and not is_dir:
                    classifier.note_linked(path, found, 0 if doubtful else CONTENT)
                if not doubtful or found.st_ctime_ns < changed_after or path in renamed:
                    continue
                if is_dir and found.st_ctime_ns > found.st_mtime_ns and not calm:
                    forced[path] = flag.DIRECTORY | flag.RECURSIVE | flag.FORCE | NAME << CHANGE_SHIFT
                elif stat.S_ISREG(found.st_mode):
                    forced[path] = flag.REGULAR | flag.FORCE | CONTENT << CHANGE_SHIFT
                if len(forced) > FORCED_LIMIT:
                    entries[top] |= flag.FORCE
                    doubtful, forced = False, {}
        except OSError:
            pass  # the handler meets it too, and names it
        for path, flags in forced.items():
            entries[path] = entries.get(path, 0) | flags

    async def spread(self, top: bytes, resolved: Resolved, root: int) -> None:
        """Let everything below a recursive entry be an entry of its own: so nothing is deleted there. Raises OSError.

        Where that is too much, none of it is handed over.
        """
        entries, rules = resolved.entries, self.rules
        below = {top: flag.DIRECTORY | ATTRIB << CHANGE_SHIFT}
        enter: Callable[[bytes], bool] = rules.reaches if rules is not None else (lambda p: True)
        device = self._ops.device(root) if self._one_file_system > 1 else None
        async for path, found in in_slices(self._ops.walk(root, top, enter, self._one_file_system > 0)):
            counts = device is None or found.st_dev == device
            if counts and (rules is None or rules.permits(path, stat.S_ISDIR(found.st_mode))):
                below[path] = _each(found.st_mode)
            if len(below) > FORCED_LIMIT:
                below.clear()
                break
        # What came there with a rename is an entry of its own, with all that is below it.
        deep = {path for path in resolved.whole if path == top or is_below(path, top)}
        resolved.whole = [path for path in resolved.whole if path not in deep]
        for path in deep:
            del entries[path]
        for path, flags in below.items():
            entries[path] = entries.get(path, 0) | flags
        resolved.entries = dict(sorted(entries.items()))

    def _complete_links(
        self, classifier: Classifier, changes: Mapping[bytes, int], resolved: Resolved, shown_twice: set[int]
    ) -> None:
        """List all names of each hard-linked file, or set the file aside until they are known."""
        for file, seen in list(classifier.linked.items()):
            inode = (file.dev, file.ino)
            twice = file.dev in shown_twice
            names = self._links.complete(inode, seen, file.nlink, classifier.stands, twice)
            if names is None and self.searches.get(file, 0) >= _SEARCHES:
                # The missing names cannot be seen from here (no rights): as if they were outside the root.
                self._links.learn(inode, seen, file.nlink)
                names = frozenset(seen)
            if names is None:
                waiting = resolved.wanted[file] = [*seen, *self._hold(seen, classifier)]
                resolved.changed[file] = ATTRIB
                for path in seen:
                    bits = changes.get(path, 0) | classifier.entries.get(path, 0) >> CHANGE_SHIFT | seen[path]
                    resolved.changed[file] |= bits & CONTENT
                for path in waiting:
                    entry = classifier.entries.pop(path, 0)
                    bits = bits_of(entry) if entry & flag.RECURSIVE else entry >> CHANGE_SHIFT
                    bits |= changes.get(path, 0) | seen.get(path, 0) | resolved.unlinked.get(path, 0)
                    resolved.unlinked[path] = bits or ATTRIB
                continue
            self.searches.pop(file, None)
            if self._links.unsure(inode):
                self._links.doubt(inode)
                bits = ATTRIB
                for path in seen:
                    bits |= seen[path] | changes.get(path, 0) & (CONTENT | NAME)
                resolved.unsure |= dict.fromkeys(names, CONTENT if bits & (CONTENT | NAME) else ATTRIB)
            permitted = [p for p in names if self.rules is None or self.rules.permits(p, False)]
            bits = classifier.through_rejected.get(file, 0)
            if bits:
                classifier.add((name, bits) for name in permitted)
            if len(permitted) > 1:
                classifier.add_links(permitted)
                resolved.groups.append(permitted)

    def _hold(self, names: Iterable[bytes], classifier: Classifier) -> list[bytes]:
        """Return the new directories that hold some of the names: sent now, files in them would be parted.

        Each waits once, for one search.
        """
        tops: set[bytes] = set()
        for path in names:
            for up in ancestors(path):
                flags = classifier.entries.get(up, 0)
                if flags & flag.RECURSIVE and flags & flag.FORCE and up not in self._held:
                    tops.add(up)
        if len(self._held) > _HELD_LIMIT:
            self._held.clear()
        self._held |= tops
        return list(tops)

    def _survivors(self, changes: Mapping[bytes, int], classifier: Classifier) -> dict[bytes, int]:
        """Return the other names of files that were written through a name that is gone since then."""
        found: dict[bytes, int] = {}
        inodes: dict[bytes, set[Inode]] = {}
        for path, bits in changes.items() if self._links else ():
            siblings = self._links.siblings(path)
            if siblings is None or not bits & (CONTENT | ATTRIB) or stands_for(classifier.stands(path), siblings[0]):
                continue
            for name in siblings[1]:
                found[name] = found.get(name, 0) | bits & (CONTENT | ATTRIB)
                inodes.setdefault(name, set()).add(siblings[0])
        # A name that stands for something else by now has survived nothing: two targets would tell each other for ever.
        for name, these in inodes.items():
            here = classifier.stands(name)
            if not any(stands_for(here, inode) for inode in these):
                del found[name]
        return found


def _each(mode: int) -> int:
    """Return the flags of something that may be new."""
    if stat.S_ISDIR(mode):
        return flag.DIRECTORY | ATTRIB << CHANGE_SHIFT
    kind = flag.REGULAR if stat.S_ISREG(mode) else 0
    return kind | flag.FORCE | (NAME | CONTENT) << CHANGE_SHIFT


def bits_of(flags: int) -> int:
    """Return the change bits with which an entry is to be tried again."""
    bits = flags >> CHANGE_SHIFT
    if flags & flag.FORCE:
        bits |= NAME if flags & flag.RECURSIVE else CONTENT
    elif flags & flag.RECURSIVE:
        bits |= DOUBT
    return bits or ATTRIB
