"""One batch on its way through rsync: split into runs, and what fails found out."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing, suppress
from dataclasses import replace
from itertools import chain

from clsync.core import batch as flag
from clsync.core import lists
from clsync.core.batch import Batch, Outcome, Verdict
from clsync.core.changes import ATTRIB, NAME
from clsync.core.classify import CHANGE_SHIFT
from clsync.core.paths import ancestors, join, parent
from clsync.core.stamps import YOUNG_NS, is_settled
from clsync.handler.base import PathRules, may_go
from clsync.handler.rsync import permitted
from clsync.handler.rsync.blame import IN_THE_WAY, Blame, blame, first_line, half_read, spared, unsure
from clsync.handler.rsync.clearing import clear
from clsync.handler.rsync.program import Program, unwell
from clsync.handler.rsync.recipe import MERGE
from clsync.handler.rsync.spread import Spread, SpreadFailed
from clsync.handler.runner import Result
from clsync.kernel import roles
from clsync.kernel.files import opened, opened_straight
from clsync.kernel.mounts import mount_points_below
from clsync.kernel.process import exit_text
from clsync.kernel.slices import in_slices
from clsync.kernel.walk import list_directory, lstat_below, lstat_straight, walk

Entries = dict[bytes, int]

CHECKED_WHOLE = 4096
"""In batches of up to so many entries it is looked at all of them whether they changed during the run."""
RESENT_BYTES = 8 << 20
"""Attribute-only files up to this size in sum are sent whole when that saves a second run."""
SMALLEST_PART = 8
"""A part of a batch with no more entries than this is not split further to find what fails."""
MOST_STALLS = 3
"""Runs of one batch that may stand still or get confused before the target is given a rest."""
_NO_SPECIAL = flag.MISSING | flag.DIRECTORY | flag.REGULAR
_WITHOUT = {
    stat.S_IFLNK: b"--no-links",
    stat.S_IFIFO: b"--no-specials",
    stat.S_IFSOCK: b"--no-specials",
    stat.S_IFCHR: b"--no-devices",
    stat.S_IFBLK: b"--no-devices",
}
"""Type of a file -> option without which rsync makes it."""
_AT_THE_SOURCE = "[sender] "
"""How messages begin of what could not be read there: who lists it notes that (see `blame.reason`)."""
_CODE_PROTOCOL = 2
"""rsync's two ends disagree on the list; a tree that changes under the walk can bring that about."""
_CODE_FILE_IO = 11
_CODE_PARTIAL = 23
_CODE_VANISHED = 24
_CODE_SPARED = 25
_CODES_WHOLE = frozenset((_CODE_PARTIAL, _CODE_VANISHED, _CODE_SPARED))
"""The run came to its end; any other failure may leave temporary files behind."""


class DryRunFailed(Exception):
    """What would be deleted at the target could not be found out."""

    def __init__(self, result: Result) -> None:
        super().__init__(result)
        self.result = result


class BatchRun:
    """One batch on its way."""

    def __init__(
        self,
        program: Program,
        batch: Batch,
        rules: PathRules | None,
        *,
        most: int | None = None,
        clears: bool = False,
    ) -> None:
        """`most`: what recursive entries delete beyond it is counted, and stays; `clears`: it goes before all else."""
        self.spared = 0
        self.full = False
        """The target has no room."""
        self.uncounted = False
        """What stays there was not counted."""
        self._most, self._spares, self._clears = most, most == 0, clears
        self._program, self._batch, self._rules = program, batch, rules
        self._recipe = program.recipe if rules is None else program.recipe.bounded()
        self._recipe = replace(self._recipe, most=most)
        self._failed: dict[bytes, str] = {}
        self._again: set[bytes] = set()
        self._lost: set[bytes] = set()
        """Names of linked files that vanished before they were sent."""
        self._prefixes = [os.readlink(b"/proc/self/fd/%d" % batch.root), *program.target.prefixes()]
        self._filter: bytes | None = None
        self._by_name: bytes | None = None
        """Filter file for the run at work, if it lists directories only to delete in them by name."""
        self._giving_way: set[bytes] = set()
        """Entries by which directories with content may go at a remote destination."""
        self._spared = mount_points_below(batch.root) if self._recipe.one_file_system > 1 else []
        self._stalls = 0
        self._unsure = False
        """The target has failed in this run or in the one before, and may have done so where nothing was said."""
        self._look = lstat_below(batch.root)
        target = program.target
        self._local = None if target.remote or not target.text else target.text
        self._began_ns = time.time_ns() - YOUNG_NS

    async def outcome(self) -> Outcome:
        """Send everything; see `core.batch.Outcome`."""
        try:
            self._protect([])
            return await self._outcome()
        except DryRunFailed as error:
            return unwell(error.result, self._program.target)
        except SpreadFailed as error:
            return Outcome(
                Verdict.UNWELL, message="stopped" if self._program.stopping else f"{error}; it is tried again"
            )
        finally:
            for name in (self._filter, self._by_name):
                if name is not None:
                    permitted.remove_file(name)

    async def doomed(self) -> int | None:
        """Return how many entries recursive entries would delete; None where that cannot be told."""
        try:
            return (await self._doomed(self._recursive())).entries
        except DryRunFailed:
            return None

    def _recursive(self) -> Entries:
        return {path: flags for path, flags in self._batch.entries.items() if flags & flag.RECURSIVE}

    def _protect(self, paths: list[bytes]) -> None:
        """Let no run delete these paths at the destination, and none that has to be left alone anyway."""
        if self._filter is not None:
            permitted.remove_file(self._filter)
        spared = [*self._spared, *paths]
        self._filter = permitted.filter_file(spared) if spared else None

    async def _outcome(self) -> Outcome:
        if self._program.littered:
            await self._clean()
        if self._clears and self._rules is None:  # with rules this comes first in any case
            await self._delete(self._allowed(await self._doomed(self._recursive())))
        await self._part_links(self._batch.entries)
        before = self._prints()
        entries = self._sendable()
        wrong = await self._send_all(entries)
        shaken = {path for path in self._note_torn(before) if entries.get(path, flag.LINKED) & flag.LINKED}
        if (shaken or self._unsure) and wrong is None:
            calm = self._calm(entries, shaken)
            before = {path: was for path, was in before.items() if path in calm}
            self._unsure = self._program.unsure = False
            wrong = await self._send_all(calm)
            if self._note_torn(before) or self._unsure:
                self._again |= calm.keys() & entries.keys()
        if wrong is not None:
            return wrong
        if self._failed or self._again:
            again = frozenset(self._again - self._failed.keys())
            message = "some paths could not be synced"
            hopeless = frozenset(path for path, why in self._failed.items() if why == lists.TOO_LONG)
            code = _CODE_PARTIAL if self._failed else 0
            return Outcome(Verdict.PARTIAL, self._failed, hopeless, again, message, code)
        return Outcome(Verdict.DONE)

    async def _send_all(self, entries: Entries) -> Outcome | None:
        """Send entries in as many runs as it takes; an Outcome if the target cannot be used."""
        async for part in self._parts(entries):
            for run, force in self._runs(self._unmistakable(self._unobstructed(part))):
                wrong = await self._send(run, force)
                if wrong is not None:
                    return wrong
        return None

    def _unmistakable(self, entries: Entries) -> Entries:
        """Return entries without FORCE where size or mtime alone shows at a local destination that content is to be sent.

        To compare content, rsync reads all that is listed: also what is not there yet.
        """
        if self._local is None or self._recipe.modify_window >= 0 or not lists.flags_of(entries) & flag.FORCE:
            return entries
        told = dict(entries)
        with suppress(OSError), opened(self._local) as root:
            told |= {path: entries[path] & ~flag.FORCE for path in self._seen_to_differ(root, _compared(entries))}
        return told

    def _seen_to_differ(self, root: int, paths: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the paths at which size or mtime show another version in a destination, or nothing stands there at all."""
        missing = b""
        for path in paths:
            above = path.rpartition(b"/")[0]  # of neighbours mostly
            if missing and above == missing:
                yield path
                continue
            try:
                there = os.lstat(path, dir_fd=root)
            except (FileNotFoundError, NotADirectoryError):
                if above and not os.access(above, os.F_OK, dir_fd=root, follow_symlinks=False):
                    missing = above
                yield path
                continue
            except OSError:
                continue  # nobody can tell
            with suppress(OSError):
                here = self._look(path)
                if here is not None and _shape(here) != _shape(there):
                    yield path

    def _calm(self, entries: Entries, shaken: Iterable[bytes]) -> Entries:
        """Return what is compared once more, with the directories above.

        Where the target fails now and then (EIO), rsync (3.5.0) may leave a directory with another mtime and say nothing:
        it sets that once more when all else is done, and does not look whether it could.

        `shaken`: names of one file were sent while its attributes changed.

        rsync (protocol 30 and later) sends of a second name only which file it belongs to. The attributes that the
        sender saw by then are what it takes for sent when it leaves out of the next entry what is the same; the
        receiver has those of the first name. So the next one, whatever it is, may be given a wrong mode, owner or time,
        and a directory above an entry as well. Changed files themselves are handed over once more anyway.
        """
        rules = self._rules
        kept = {
            path: flags & ~flag.FORCE
            for path, flags in entries.items()
            if not flags & flag.MISSING and path not in self._failed
        }
        above = {b"", *(up for path in kept for up in ancestors(path))}
        for up in above - kept.keys():
            if rules is None or rules.permits(up, True):
                kept[up] = flag.DIRECTORY | ATTRIB << CHANGE_SHIFT
        for path in shaken:
            kept.pop(path, None)
        return dict(sorted(kept.items()))

    def _prints(self) -> dict[bytes, os.stat_result]:
        """Return what stands where files are sent; of large batches only where hard links may be at work."""
        entries = self._batch.entries
        mask = -1 if len(entries) <= CHECKED_WHOLE else flag.LINKED | NAME << CHANGE_SHIFT
        checked = {f for f in set(entries.values()) if not f & (flag.MISSING | flag.DIRECTORY) and f & mask}
        paths = [path for path, flags in entries.items() if flags in checked] if checked else []
        found = {}
        for path in dict.fromkeys([*paths, *self._batch.linked]):
            with suppress(OSError):
                seen = self._look(path)
                if seen is not None:
                    found[path] = seen
        return found

    def _note_torn(self, before: Mapping[bytes, os.stat_result]) -> set[bytes]:
        """Note the files that got or lost names during the run; return names of linked files that changed.

        rsync sends one name of a file and links the others to it. Where that one goes or becomes another file, the
        others are wrong, and no event names them; but the ctime of the file has changed.
        """
        shaken = set()
        for path, was in before.items():
            with suppress(OSError):
                now = self._look(path)
                if now is None or now.st_ino != was.st_ino or now.st_ctime_ns == was.st_ctime_ns:
                    continue
                linked = was.st_nlink > 1 or now.st_nlink > 1
                rewritten = (now.st_mtime_ns, now.st_size) != (was.st_mtime_ns, was.st_size)
                if linked or not rewritten:
                    self._again.add(path)
                if linked:
                    shaken.add(path)
        lost = {before[path].st_ino for path in self._lost if path in before}
        self._again |= {path for path, was in before.items() if was.st_ino in lost}
        return shaken

    def _sendable(self) -> Entries:
        """Return the entries without those whose names rsync cannot carry."""
        if not lists.too_long(lists.longest(self._batch.entries)):
            return dict(self._batch.entries)
        entries = {}
        for path, flags in self._batch.entries.items():
            if not lists.too_long(path):
                entries[path] = flags
            elif not flags & flag.MISSING:
                self._note_too_long(path)
        return entries

    def _note_unreadable(self, directory: bytes, error: OSError) -> None:
        self._failed[directory] = f"cannot be read: {error.strerror}"

    def _note_too_long(self, path: bytes) -> None:
        self._failed[lists.too_long_part(path)] = lists.TOO_LONG

    async def _parts(self, entries: Entries) -> AsyncIterator[Entries]:
        """Yield what is sent: the entries as they are, or bounded parts of them where rules forbid recursion."""
        rules = self._rules
        if rules is None:
            yield entries
            return
        far = permitted.far(entries, self._local)
        # Rules leave rsync no recursion, and no deletion that they have not looked at.
        unknown = {
            p: entries[p]
            for p in sorted(far)
            if entries[p] & flag.RECURSIVE or not (self._local is not None or rules.recursion_is_free(p))
        }
        doomed = self._allowed(await self._doomed(unknown)) if unknown else permitted.Doomed([], [], set())
        recursive = {p: f for p, f in unknown.items() if f & flag.RECURSIVE}
        plain = {
            p: f for p, f in entries.items() if p not in recursive and (not f & flag.MISSING or may_go(p, rules))
        }
        replaced = {p for p in doomed.replaced if rules.permits(p, False)}
        first = plain | dict.fromkeys(doomed.missing, flag.MISSING) | dict.fromkeys(replaced - plain.keys(), 0)
        going = far - recursive.keys() | replaced | set(doomed.missing)
        for part in await self._without_force(first, going, rules, doomed.protected):
            if part:
                yield dict(sorted(part.items()))
        linked = {p: f for p, f in plain.items() if f & flag.LINKED}
        spread = Spread(
            self._batch.root,
            rules,
            self._recipe.one_file_system > 0,
            linked,
            self._note_too_long,
            self._note_unreadable,
            self._program.walks,
            lambda: self._program.stopping,
        )
        async with aclosing(spread.below(recursive)) as parts:
            async for part in parts:
                yield part
        if linked:
            yield dict(sorted(linked.items()))

    async def _without_force(
        self, entries: Entries, going: set[bytes], rules: PathRules, protected: list[bytes]
    ) -> list[Entries]:
        """Return what is sent; delete `going`, by which directories go at the destination, here if it is local.

        An entry, or a directory above one, may become something else before rsync looks at it: its directory would then
        go at the destination with all that rules protect in it, of which nobody had told rsync. So that is never allowed
        to a run, unless something has to be deleted at a remote destination.
        """
        if self._local is None:
            self._protect(protected)
            self._giving_way = going = going & entries.keys()
            others = {p: f for p, f in entries.items() if p not in going or f & flag.LINKED}
            return [{p: entries[p] for p in going}, others]
        look = lstat_straight(self._batch.root)
        cleared = [p for p in sorted(going) if not _may_be_directory(look, p)]
        await self._clear(cleared, rules)
        # The directories that hold what went have other times now.
        look = lstat_straight(self._batch.root)
        above = {parent(p) for p in cleared}
        above = {up for up in above if _may_be_directory(look, up) and (not up or rules.permits(up, True))}
        sent = {p: f for p, f in entries.items() if not f & flag.MISSING}
        return [dict.fromkeys(above, flag.DIRECTORY | ATTRIB << CHANGE_SHIFT) | sent]

    async def _clear(self, paths: list[bytes], rules: PathRules) -> None:
        """Remove paths at a local destination, in a thread: a large tree takes its time."""
        if not paths or self._local is None:
            return
        try:
            with opened_straight(self._local) as root:
                failed = await asyncio.to_thread(
                    clear, paths, root, rules, self._spared, lambda: self._program.stopping, self._program.sandbox
                )
        except OSError as error:
            self._failed.update(dict.fromkeys(paths, error.strerror or str(error)))
            return
        for path, why in failed.items():
            owner = next((p for p in (path, *reversed([*ancestors(path)])) if p in self._batch.entries), path)
            self._failed[owner] = why

    def _runs(self, entries: Entries) -> Iterator[tuple[Entries, bool]]:
        """Split entries into runs: (entries, content is sent even where size and mtime agree).

        The names of a hard-linked file are in every run, as rsync links only what it sees together.
        """
        if not self._recipe.missing_args:
            # Deletions list whole directories: what is in them is not to be sent for that.
            content = {p: f for p, f in entries.items() if f & flag.MISSING or not (p or f & flag.RECURSIVE)}
            if content and len(content) < len(entries):
                yield content, False
                entries = {p: f for p, f in entries.items() if p not in content}
        if not lists.flags_of(entries) & flag.FORCE:
            yield entries, False
            return
        calm = {p: f for p, f in entries.items() if not f & flag.FORCE}
        light = self._batch.attribute_bytes <= RESENT_BYTES
        if light and not lists.flags_of(calm) & flag.RECURSIVE:
            yield entries, True
            return
        if self._rules is None and not any(f & flag.RECURSIVE and f & flag.FORCE for f in entries.values()):
            if calm:
                yield calm, False
            yield {p: f for p, f in entries.items() if f & flag.FORCE}, True
            return
        # Some names of a file may be forced, and others not.
        if any(not f & flag.LINKED for f in calm.values()):
            yield {p: f for p, f in entries.items() if not f & flag.FORCE or f & flag.LINKED}, False
        yield {p: f for p, f in entries.items() if f & (flag.FORCE | flag.LINKED)}, True

    async def _send(self, entries: Entries, force: bool) -> Outcome | None:
        """Send entries; what fails goes to `_failed`; an Outcome if the target cannot be used."""
        pending = [entries]
        while pending:
            part = pending.pop()
            if not part:
                continue
            if self._program.stopping:
                return Outcome(Verdict.UNWELL, message="stopped")
            until = IN_THE_WAY if self._recipe.most == 0 else b""
            result = await self._program.run(*self._command(part, force), until=until)
            self._note_unsure(result)
            if result.said_it and not result.stopped:
                # rsync may never end where it lacks one of several names (3.5.0); without --delete --force is enough.
                self._recipe = replace(self._recipe, most=None, deletes=False)
                self.uncounted = True
                self._note_litter(part)
                pending.append(part)
                continue
            cut = result.code not in _CODES_WHOLE and not self._program.done(result)
            if cut or result.stopped or result.stood_still or unsure(result.messages):
                self._note_litter(part)
            if self._most is not None:
                self.spared = max(self.spared, spared(result.messages))
            if self._program.done(result) or (self._most is not None and result.code == _CODE_SPARED):
                if result.code == _CODE_VANISHED:
                    await self._note_lost(self._blame(result, part), part)
                continue
            confused = result.code == _CODE_PROTOCOL and not result.timed_out and not result.stopped
            # A remote one has taken a minute or more to be noticed: that is told.
            stalled = result.stood_still and not self._program.target.remote
            if (stalled or confused) and self._stalls < MOST_STALLS:
                self._stalls += 1
                pending.append(part)
                continue
            if (
                result.stopped
                or result.timed_out
                or result.stood_still
                or result.code not in (_CODE_PARTIAL, _CODE_FILE_IO)
            ):
                return self._unwell(result)
            again = await self._blamed(part, result)
            if again is None:
                return self._unwell(result)
            pending += again
        return None

    def _note_unsure(self, result: Result) -> None:
        """Note whether more may have failed than was said. That it is over is believed once all went well twice."""
        # Where nothing has failed by what it answers, somebody else's words (a banner, the operator's code) may look so.
        now = unsure(result.messages) and not self._program.done(result)
        self._unsure = self._unsure or now or self._program.unsure
        self._program.unsure = now

    def _note_litter(self, entries: Entries) -> None:
        """Note where a run may have left temporary files: it was cut off, or could not remove them."""
        self._program.littered.update(parent(p) for p, f in entries.items() if not f & flag.RECURSIVE)

    def _unwell(self, result: Result) -> Outcome:
        self.full = _is_full(result)
        return unwell(result, self._program.target)

    async def _part_links(self, entries: Mapping[bytes, int]) -> None:
        """Remove what rsync would leave as it is at a local destination, though it has to be made anew.

        Devices, fifos, sockets and symlinks that hang on other names there: rsync gives them new attributes where
        they stand, and so to the other names (files it replaces). And whatever stands where the source has something
        that the destination cannot hold: rsync leaves the name alone.
        """
        if self._local is None or all(f & _NO_SPECIAL and not f & flag.RECURSIVE for f in set(entries.values())):
            return
        lacks = any(option in self._recipe.lacking for option in _WITHOUT.values())
        with suppress(OSError), opened_straight(self._local) as root:
            for path, flags in entries.items():
                if not flags & _NO_SPECIAL and flags >> CHANGE_SHIFT & NAME:
                    self._make_way(root, path, anew=True)
                if flags & flag.RECURSIVE:
                    there = _specials(root, path, self._spared)
                    here = _specials(self._batch.root, path, self._spared) if lacks else ()
                    async for special in in_slices(chain(there, here)):
                        if self._rules is None or self._rules.permits(special, False):
                            self._make_way(root, special, anew=bool(flags & flag.FORCE))

    def _make_way(self, root: int, path: bytes, anew: bool) -> None:
        """Remove something at the destination that is no directory, if rsync would leave it as it is.

        `anew`: it may be another one than before; otherwise links that the source has as well may stay.
        """
        with suppress(OSError), opened(parent(path), root) as directory:
            name = path.rpartition(b"/")[2]
            found = os.lstat(name, dir_fd=directory)
            here = self._look(path)
            unholdable = here is not None and _WITHOUT.get(stat.S_IFMT(here.st_mode)) in self._recipe.lacking
            links = 1 if here is None or anew else here.st_nlink
            special = found.st_nlink > links and not stat.S_ISREG(found.st_mode)
            if not stat.S_ISDIR(found.st_mode) and (special or unholdable):
                with roles.as_programs():
                    os.unlink(name, dir_fd=directory)

    def _unobstructed(self, entries: Entries) -> Entries:
        """Leave out what would need a file that rules protect to give way to a directory."""
        rules, local = self._rules, self._local
        if rules is None or local is None:
            return entries
        known: dict[bytes, bool] = {}

        def obstructed(directory: bytes) -> bool:
            if directory not in known:
                try:
                    stands = not stat.S_ISDIR(os.lstat(local + b"/" + directory).st_mode)
                except OSError:
                    stands = False
                known[directory] = stands and not rules.permits(directory, False)
            return known[directory]

        kept = {}
        for path, flags in entries.items():
            ways = [*ancestors(path), path] if flags & flag.DIRECTORY and path else ancestors(path)
            obstacle = next(filter(obstructed, ways), None)
            if obstacle is None:
                kept[path] = flags
            else:
                self._failed[obstacle] = "what stands there at the destination is protected by the rules"
        return kept

    async def _clean(self) -> None:
        """Delete what a run that was cut off left behind."""
        look = lstat_straight(self._batch.root)
        littered = {p for p in self._program.littered if permitted.is_directory(look(p))}
        flat = self._program.recipe.flat()
        records = [b"./" + (p + b"/" if p else b"") + b"\0" for p in sorted(littered)]
        with permitted.listing() as output:
            result = await self._program.run(flat.deletions(), self._batch, records, output.fileno())
            if not self._program.done(result) and result.code != _CODE_PARTIAL:
                return  # the next batch tries it again
            doomed = permitted.doomed(output, self._batch.root, self._rules, litter=True)
        if await self._delete(doomed) is None and not unsure(result.messages):
            self._program.littered.clear()

    def _has_changed(self, path: bytes) -> bool:
        """Tell whether something has changed since the run began."""
        try:
            now = self._look(path)
        except OSError:
            return False
        return now is None or (not is_settled(now.st_ctime_ns, self._began_ns) and not stat.S_ISDIR(now.st_mode))

    def _blame(self, result: Result, part: Entries) -> Blame:
        # A directory listed by its content meets entries that are sent in another run.
        entries = {**self._batch.entries, **part}
        return blame(result.messages, entries, self._prefixes, result.cut)

    async def _note_lost(self, found: Blame, part: Entries) -> None:
        """Note what hangs together with something that vanished: rsync leaves out or half makes the other names."""
        self._lost |= found.vanished
        if not found.complete:
            self._again.update(p for p, f in part.items() if f & flag.LINKED)
        for top in [p for p, f in part.items() if f & flag.RECURSIVE and (p in found.vanished or not found.complete)]:
            below = walk(self._batch.root, top, one_file_system=self._recipe.one_file_system > 0)
            async for path, seen in in_slices(below):
                if not is_settled(seen.st_ctime_ns, self._began_ns) and not stat.S_ISDIR(seen.st_mode):
                    self._again.add(path)

    def _command(self, entries: Entries, force: bool) -> tuple[list[bytes], Batch, Iterator[bytes] | None]:
        if (
            len(entries) == 1
            and b"" in entries
            and entries[b""] & flag.RECURSIVE
            and not force
            and self._filter is None
        ):
            return self._recipe.whole_tree(), self._batch, None
        guard = [MERGE + self._filter] if self._filter is not None else []
        if self._rules is not None and not self._recipe.missing_args:
            if self._by_name is not None:
                permitted.remove_file(self._by_name)
                self._by_name = None
            if all(f & flag.MISSING or not p for p, f in entries.items()):
                self._by_name = permitted.deletion_file(entries)
                guard.append(MERGE + self._by_name)
        # Without recursion rsync is done sooner, and what has become a directory meanwhile has an event of its own.
        deep = lists.flags_of(entries) & flag.RECURSIVE
        recipe = self._recipe if deep else self._recipe.bounded()
        if self._rules is not None:
            goes = lists.flags_of(entries) & flag.MISSING or not self._giving_way.isdisjoint(entries)
            recipe = replace(recipe, makes_way=bool(goes))
        if force and recipe.compares and self._any_glued(entries):
            recipe = replace(recipe, compares=False)
        return [*recipe.listed(force=force), *guard], self._batch, self._records(entries)

    def _any_glued(self, entries: Entries) -> bool:
        """Tell whether a file that may be another one than before hangs on more names at a local destination than here.

        Where content is compared, and is the same, rsync would leave it so.
        """
        if self._local is None:
            return False
        with suppress(OSError), opened(self._local) as root:
            look = lstat_below(root)
            for path, flags in entries.items():
                if flags & flag.FORCE and not flags & flag.DIRECTORY and flags >> CHANGE_SHIFT & NAME:
                    with suppress(OSError):
                        here, there = self._look(path), look(path)
                        if here is not None and there is not None and there.st_nlink > max(here.st_nlink, 1):
                            return True
        return False

    def _records(self, entries: Mapping[bytes, int]) -> Iterator[bytes]:
        if self._recipe.missing_args:
            return lists.files_from(entries, self._program.absent_name)
        return lists.files_from_flat(entries, self._directories_below)

    def _directories_below(self, path: bytes) -> Iterator[bytes]:
        for below, found in walk(self._batch.root, path, one_file_system=self._recipe.one_file_system > 0):
            if not stat.S_ISDIR(found.st_mode):
                continue
            if lists.too_long(below):
                self._note_too_long(below)
            else:
                yield below

    async def _blamed(self, part: Entries, result: Result) -> list[Entries] | None:
        """Note what failed in a run; return the parts that are to be sent again, None if the target is at fault."""
        found = self._blame(result, part)
        full = _is_full(result)
        if self._local is not None and b"Read-only file system" in result.messages and _is_read_only(self._local):
            return None  # it fails them all
        if full and (b" mkstemp " in result.messages or b"mkdir " in result.messages):
            return None  # no room for names: it fails them all
        if result.code == _CODE_FILE_IO:
            # rsync stopped at the first of these, the others were not sent. A full disk fails them all.
            if not found.complete or full:
                return None
            self._failed.update(found.failed)
            rest = {p: f for p, f in part.items() if p not in found.failed}
            return [rest] if len(rest) < len(part) else None
        if found.complete:
            for path, why in found.failed.items():
                if half_read(why) and self._has_changed(path):
                    self._again.add(path)
                else:
                    self._failed[path] = why
            await self._note_lost(found, part)
            # rsync links names to one that was sent: where something failed, they may hang on nothing.
            linked = {p: f for p, f in part.items() if f & flag.LINKED}
            self._again.update(linked)
            self._again.update(self._batch.linked)
            # After a read error rsync deletes nothing in directories, and says so on standard output.
            skipped = flag.RECURSIVE if self._recipe.missing_args else flag.RECURSIVE | flag.MISSING
            await self._delete_in({p: f for p, f in part.items() if f & skipped})
            # It makes the last name of a file first: where that one fails, none is made.
            others = {p: f for p, f in linked.items() if p not in found.failed}
            return [others] if len(others) < len(linked) else []
        if len(part) <= SMALLEST_PART or any(f & flag.LINKED for f in part.values()):
            why = first_line(result.messages) or exit_text(result.code)
            self._failed.update(dict.fromkeys(part, why))
            return []
        # What is below directories is linked only where one run sees both.
        self._again.update(self._batch.linked)
        items = list(part.items())
        half = len(items) // 2
        return [dict(items[:half]), dict(items[half:])]

    async def _delete_in(self, entries: Entries) -> None:
        """Delete what recursive entries would have deleted, had no other path failed."""
        if not entries:
            return
        if self._spares:
            self.uncounted = True  # a run that leaves out deletions does not count them either
            return
        doomed = self._allowed(await self._doomed(entries))
        if self._rules is not None and self._local is not None:
            await self._clear(sorted(doomed.missing), self._rules)
            return
        wrong = await self._delete(doomed)
        if wrong is not None:
            self._failed.update(dict.fromkeys(entries, wrong))

    async def _delete(self, doomed: permitted.Doomed) -> str | None:
        """Delete what was found at the target, and nothing that rules protect; return what went wrong."""
        if not doomed.missing:
            return None
        missing = dict.fromkeys(sorted(doomed.missing), flag.MISSING)
        own = permitted.filter_file([*self._spared, *doomed.protected]) if doomed.protected else None
        before = self._filter
        self._filter = own or before
        try:
            result = await self._program.run(*self._command(missing, False))
        finally:
            self._filter = before
            if own is not None:
                permitted.remove_file(own)
        return None if self._program.done(result) else first_line(result.messages)

    def _allowed(self, doomed: permitted.Doomed) -> permitted.Doomed:
        """Return what may go of what is to be deleted: nothing where it is too much, which is noted."""
        if self._most is None or doomed.entries <= self._most:
            return doomed
        self.spared = doomed.entries
        return doomed._replace(missing=[])

    async def _doomed(self, entries: Entries) -> permitted.Doomed:
        """Find what a list would delete at the target, and which of it may go."""
        recipe = self._program.recipe
        records = self._records(entries)
        with permitted.listing() as output:
            result = await self._program.run(recipe.deletions(), self._batch, records, output.fileno())
            self._note_unsure(result)
            found = blame(result.messages, entries, self._prefixes, result.cut)
            if not self._program.done(result):
                if result.code != _CODE_PARTIAL or not found.complete:
                    raise DryRunFailed(result)
                self._note_unlisted(found, result)
            return permitted.doomed(output, self._batch.root, self._rules)

    def _note_unlisted(self, found: Blame, result: Result) -> None:
        """Note where it is not known what the target has: without a failure this would turn without a pause."""
        if unsure(result.messages):
            there = {p: why for p, why in found.failed.items() if not why.startswith(_AT_THE_SOURCE)}
            self._failed.update((p, why) for p, why in there.items() if self._rules is None or may_go(p, self._rules))


def _is_full(result: Result) -> bool:
    """Tell whether there was no room for something."""
    return b"No space left" in result.messages or b"quota" in result.messages


def _is_read_only(path: bytes) -> bool:
    """Tell whether a local target is on a file system that nobody can write to now."""
    try:
        return bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def _compared(entries: Entries) -> list[bytes]:
    """Return the files whose content is to be compared, each by its own name."""
    mask = flag.FORCE | flag.RECURSIVE | flag.LINKED
    return [path for path, flags in entries.items() if flags & mask == flag.FORCE]


def _shape(found: os.stat_result) -> tuple[int, int, int]:
    """Return what rsync goes by when it skips what looks the same."""
    return stat.S_IFMT(found.st_mode), found.st_size, found.st_mtime_ns


def _may_be_directory(look: Callable[[bytes], os.stat_result | None], path: bytes) -> bool:
    """Tell whether a directory was found, or nobody can look."""
    try:
        return permitted.is_directory(look(path))
    except OSError:
        return True


def _specials(root: int, top: bytes, spared: list[bytes]) -> Iterator[bytes]:
    """Yield what is neither a directory nor a regular file below a directory, `spared` directories left out."""
    pending = [top]
    while pending:
        directory = pending.pop()
        try:
            entries = list_directory(root, directory)
        except OSError:
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                pending.append(join(directory, entry.name))
            elif not entry.is_file(follow_symlinks=False):
                yield join(directory, entry.name)
        pending = [path for path in pending if path not in spared] if spared else pending
