"""One batch on its way through rsync: split into runs, and what fails found out."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress

from clsync.core import batch as flag
from clsync.core import lists
from clsync.core.batch import Batch, Outcome, Verdict
from clsync.core.changes import NAME
from clsync.core.classify import CHANGE_SHIFT
from clsync.core.paths import parent
from clsync.handler.base import PathRules, may_go
from clsync.handler.rsync import permitted
from clsync.handler.rsync.blame import blame, first_line
from clsync.handler.rsync.program import Program, unwell
from clsync.handler.runner import KEPT_OUTPUT, Result
from clsync.kernel.files import opened
from clsync.kernel.mounts import mounts_at_and_below, read_mounts
from clsync.kernel.process import exit_text
from clsync.kernel.walk import lstat_below, walk

Entries = dict[bytes, int]

RESENT_BYTES = 8 << 20
"""Attribute-only files up to this size in sum are sent whole when that saves a second run."""
SMALLEST_PART = 8
"""A part of a batch with no more entries than this is not split further to find what fails."""
MOST_STALLS = 3
"""Runs of one batch that may stand still before the target is given a rest."""
_NO_SPECIAL = flag.MISSING | flag.DIRECTORY | flag.REGULAR
_CODE_FILE_IO = 11
_CODE_PARTIAL = 23
_CODE_VANISHED = 24
_CODES_CUT = frozenset((10, 12, 19, 20, 30, 35, 255))
"""The run was cut off: protocol stream, signal, timeout, connection."""


class DryRunFailed(Exception):
    """What would be deleted at the target could not be found out."""

    def __init__(self, result: Result) -> None:
        super().__init__(result)
        self.result = result


class BatchRun:
    """One batch on its way."""

    def __init__(self, program: Program, batch: Batch, rules: PathRules | None) -> None:
        self._program, self._batch, self._rules = program, batch, rules
        self._recipe = program.recipe if rules is None else program.recipe.bounded()
        self._failed: dict[bytes, str] = {}
        self._again: set[bytes] = set()
        self._prefixes = [os.readlink(b"/proc/self/fd/%d" % batch.root), *program.target.prefixes()]
        self._filter: bytes | None = None
        self._by_name: bytes | None = None
        """Filter file for the run at work, if it lists directories only to delete in them by name."""
        self._spared = _mount_points(batch.root) if self._recipe.one_file_system > 1 else []
        self._stalls = 0

    async def outcome(self) -> Outcome:
        """Send everything; see `core.batch.Outcome`."""
        try:
            self._protect([])
            return await self._outcome()
        except DryRunFailed as error:
            return unwell(error.result, self._program.target)
        finally:
            for name in (self._filter, self._by_name):
                if name is not None:
                    os.unlink(name)

    def _protect(self, paths: list[bytes]) -> None:
        """Let no run delete these paths at the destination, and none that has to be left alone anyway."""
        if self._filter is not None:
            os.unlink(self._filter)
        spared = [*self._spared, *paths]
        self._filter = permitted.filter_file(spared) if spared else None

    async def _outcome(self) -> Outcome:
        if self._program.littered:
            await self._clean()
        self._part_links(self._batch.entries)
        async for entries in self._parts(self._sendable()):
            for part, force in self._runs(entries):
                wrong = await self._send(part, force)
                if wrong is not None:
                    return wrong
        if self._failed or self._again:
            again = frozenset(self._again - self._failed.keys())
            message = "some paths could not be synced"
            return Outcome(Verdict.PARTIAL, self._failed, again, message, _CODE_PARTIAL if self._failed else 0)
        return Outcome(Verdict.DONE)

    def _sendable(self) -> Entries:
        """Return the entries without those whose names rsync cannot carry."""
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
        target = self._program.target
        local = None if target.remote or not target.text else target.text
        unknown = {} if rules is None else permitted.unknown(entries, rules, local)
        if rules is None or not unknown:
            yield entries
            return
        doomed = await self._doomed(unknown)
        self._protect(doomed.protected)
        recursive = {p: f for p, f in unknown.items() if f & flag.RECURSIVE}
        plain = {
            p: f for p, f in entries.items() if p not in recursive and (not f & flag.MISSING or may_go(p, rules))
        }
        yield dict(sorted((plain | dict.fromkeys(doomed.missing, flag.MISSING)).items()))
        linked = {p: f for p, f in plain.items() if f & flag.LINKED}
        spread = permitted.Spread(
            self._batch.root, rules, self._recipe.one_file_system, linked, self._note_too_long, self._note_unreadable
        )
        async for part in spread.below(recursive):
            yield part
        if linked:
            yield dict(sorted(linked.items()))

    def _runs(self, entries: Entries) -> Iterator[tuple[Entries, bool]]:
        """Split entries into runs: (entries, content is sent even where size and mtime agree).

        The names of a hard-linked file are in every run, as rsync links only what it sees together.
        """
        if self._rules is not None and not self._recipe.missing_args:
            content = {p: f for p, f in entries.items() if f & flag.MISSING or not p}
            if content and len(content) < len(entries):
                yield content, False
                entries = {p: f for p, f in entries.items() if p not in content}
        forced = any(f & flag.FORCE for f in entries.values())
        calm = {p: f for p, f in entries.items() if not f & flag.FORCE}
        light = self._batch.attribute_bytes <= RESENT_BYTES
        if forced and light and not any(f & flag.RECURSIVE for f in calm.values()):
            yield entries, True
            return
        if any(not f & flag.LINKED for f in calm.values()) or not forced:
            yield {p: f for p, f in entries.items() if not f & flag.FORCE or f & flag.LINKED}, False
        if forced:
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
            result = await self._program.run(*self._command(part, force))
            if result.code < 0 or result.code in _CODES_CUT or result.stopped or result.stood_still:
                self._program.littered.update(parent(p) for p, f in part.items() if not f & flag.RECURSIVE)
            if self._program.done(result):
                if result.code == _CODE_VANISHED:
                    self._note_vanished(part, result)
                continue
            if result.stood_still and self._stalls < MOST_STALLS:
                self._stalls += 1
                pending.append(part)
                continue
            if (
                result.stopped
                or result.timed_out
                or result.stood_still
                or result.code not in (_CODE_PARTIAL, _CODE_FILE_IO)
            ):
                return unwell(result, self._program.target)
            again = await self._blamed(part, result)
            if again is None:
                return unwell(result, self._program.target)
            pending += again
        return None

    def _part_links(self, entries: Mapping[bytes, int]) -> None:
        """Remove devices, fifos, sockets and symlinks that are new here and hang on other names there.

        rsync gives them new attributes where they stand, and so to the other names. Files it replaces.
        """
        target = self._program.target
        new = [p for p, f in entries.items() if not f & _NO_SPECIAL and f >> CHANGE_SHIFT & NAME]
        if not new or target.remote or not target.text:
            return
        with suppress(OSError), opened(target.text) as root:
            for path in new:
                with suppress(OSError), opened(parent(path), root) as directory:
                    name = path.rpartition(b"/")[2]
                    found = os.lstat(name, dir_fd=directory)
                    if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode) and not stat.S_ISREG(found.st_mode):
                        os.unlink(name, dir_fd=directory)

    async def _clean(self) -> None:
        """Delete what a run that was cut off left behind."""
        look = lstat_below(self._batch.root)
        littered = {p for p in self._program.littered if permitted.is_directory(look(p))}
        flat = self._program.recipe.flat()
        records = [b"./" + (p + b"/" if p else b"") + b"\0" for p in sorted(littered)]
        with permitted.listing() as output:
            result = await self._program.run(flat.deletions(), self._batch, records, output.fileno())
            if not self._program.done(result) and result.code != _CODE_PARTIAL:
                return  # the next batch tries it again
            doomed = permitted.doomed(output, self._batch.root, self._rules)
        if await self._delete(doomed) is None:
            self._program.littered.clear()

    def _note_vanished(self, part: Entries, result: Result) -> None:
        """Note what hangs together and may be torn, because some of it vanished before it was sent.

        rsync leaves out or half makes the other names of a file whose first name vanished.
        """
        found = blame(result.messages, part, self._prefixes, len(result.messages) >= KEPT_OUTPUT)
        self._again |= found.vanished
        if found.vanished or not found.complete:
            self._again.update(p for p, f in part.items() if f & flag.LINKED)

    def _command(self, entries: Entries, force: bool) -> tuple[list[bytes], Batch, Iterator[bytes] | None]:
        if set(entries) == {b""} and entries[b""] & flag.RECURSIVE and not force and self._filter is None:
            return self._recipe.whole_tree(), self._batch, None
        guard = [b"--filter=merge " + self._filter] if self._filter is not None else []
        if self._rules is not None and not self._recipe.missing_args:
            if self._by_name is not None:
                os.unlink(self._by_name)
                self._by_name = None
            if all(f & flag.MISSING or not p for p, f in entries.items()):
                self._by_name = permitted.deletion_file(entries)
                guard.append(b"--filter=merge " + self._by_name)
        # Without recursion rsync is done sooner, and what has become a directory meanwhile has an event of its own.
        deep = any(f & flag.RECURSIVE for f in entries.values())
        recipe = self._recipe if deep else self._recipe.bounded()
        return [*recipe.listed(force=force), *guard], self._batch, self._records(entries)

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
        found = blame(result.messages, part, self._prefixes, len(result.messages) >= KEPT_OUTPUT)
        if result.code == _CODE_FILE_IO:
            # rsync stopped at the first of these, the others were not sent. A full disk fails them all.
            if not found.complete or b"No space left" in result.messages or b"quota" in result.messages:
                return None
            self._failed.update(found.failed)
            rest = {p: f for p, f in part.items() if p not in found.failed}
            return [rest] if len(rest) < len(part) else None
        if found.complete:
            self._failed.update(found.failed)
            self._again |= found.vanished
            # rsync links names to one that was sent: where something failed, they may hang on nothing.
            self._again.update(p for p, f in part.items() if f & flag.LINKED)
            # After a read error rsync deletes nothing below recursive entries, and says so on standard output.
            await self._delete_in({p: f for p, f in part.items() if f & flag.RECURSIVE})
            return []
        if len(part) <= SMALLEST_PART or any(f & flag.LINKED for f in part.values()):
            why = first_line(result.messages) or exit_text(result.code)
            self._failed.update(dict.fromkeys(part, why))
            return []
        items = list(part.items())
        half = len(items) // 2
        return [dict(items[:half]), dict(items[half:])]

    async def _delete_in(self, entries: Entries) -> None:
        """Delete what recursive entries would have deleted, had no other path failed."""
        if not entries:
            return
        wrong = await self._delete(await self._doomed(entries))
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
                os.unlink(own)
        return None if self._program.done(result) else first_line(result.messages)

    async def _doomed(self, entries: Entries) -> permitted.Doomed:
        """Find what a list would delete at the target, and which of it may go."""
        recipe = self._program.recipe
        records = self._records(entries)
        with permitted.listing() as output:
            result = await self._program.run(recipe.deletions(), self._batch, records, output.fileno())
            known = blame(result.messages, entries, self._prefixes, len(result.messages) >= KEPT_OUTPUT).complete
            if not self._program.done(result) and not (result.code == _CODE_PARTIAL and known):
                raise DryRunFailed(result)
            return permitted.doomed(output, self._batch.root, self._rules)


def _mount_points(root: int) -> list[bytes]:
    """Return the directories below an open one on which something is mounted, relative to it. Raises OSError."""
    path = os.readlink(b"/proc/self/fd/%d" % root)
    _, below = mounts_at_and_below(path, read_mounts())
    return [mount.point[len(path.rstrip(b"/")) + 1 :] for mount in below]
