"""One batch on its way through rsync: split into runs, and what fails found out."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import TYPE_CHECKING

from clsync.core import batch as flag
from clsync.core import lists
from clsync.core.batch import Batch, Outcome, Verdict
from clsync.core.paths import shown
from clsync.handler.rsync import permitted
from clsync.handler.rsync.blame import blame, first_line
from clsync.handler.rsync.target import Target
from clsync.handler.runner import KEPT_OUTPUT, Result
from clsync.kernel.process import exit_text
from clsync.kernel.walk import walk

if TYPE_CHECKING:
    from clsync.handler.rsync.handler import RsyncHandler

Entries = dict[bytes, int]

RESENT_BYTES = 8 << 20
"""Attribute-only files up to this size in sum are sent whole when that saves a second run."""
SMALLEST_PART = 8
"""A part of a batch with no more entries than this is not split further to find what fails."""
_CODE_FILE_IO = 11
_CODE_PARTIAL = 23
_HINTS = {
    1: "look at the arguments and at the rsync daemon's configuration",
    3: "see that the destination exists",
    4: "see 'refuse options' in the rsync daemon's configuration",
    5: "see the rsync daemon's log",
    10: "see that the rsync daemon runs and can be reached",
    11: "see the free space and the rights at the destination",
    12: "see that rsync runs at the other end and the connection is clean",
    30: "see the network",
    127: "install rsync at the other end",
    255: "see that ssh reaches the host without a password: ssh -o BatchMode=yes HOST true",
}


class BatchRun:
    """One batch on its way."""

    def __init__(self, handler: RsyncHandler, batch: Batch) -> None:
        self._handler, self._batch = handler, batch
        self._rules = None if batch.initial and handler.full_initial else handler.rules
        self._recipe = handler.recipe if self._rules is None else handler.recipe.bounded()
        self._failed: dict[bytes, str] = {}
        self._prefixes = [os.readlink(b"/proc/self/fd/%d" % batch.root), *handler.target.prefixes()]
        self._filter: bytes | None = None

    async def outcome(self) -> Outcome:
        """Send everything; see `core.batch.Outcome`."""
        try:
            return await self._outcome()
        finally:
            if self._filter is not None:
                os.unlink(self._filter)

    async def _outcome(self) -> Outcome:
        async for entries in self._parts(self._sendable()):
            for part, force in self._runs(entries):
                wrong = await self._send(part, force)
                if wrong is not None:
                    return wrong
        if self._failed:
            return Outcome(Verdict.PARTIAL, self._failed, "some paths could not be synced", _CODE_PARTIAL)
        return Outcome(Verdict.DONE)

    def _sendable(self) -> Entries:
        """Return the entries without those whose names rsync cannot carry."""
        entries = {}
        for path, flags in self._batch.entries.items():
            if lists.too_long(path):
                self._failed[path] = "the path is too long for rsync (4095 bytes); mode copy can sync it"
            else:
                entries[path] = flags
        return entries

    async def _parts(self, entries: Entries) -> AsyncIterator[Entries]:
        """Yield what is sent: the entries as they are, or bounded parts of them where rules forbid recursion."""
        rules = self._rules
        unknown = {} if rules is None else permitted.unknown(entries, rules)
        if rules is None or not unknown:
            yield entries
            return
        doomed = await self._doomed(unknown)
        if doomed.protected:
            self._filter = permitted.filter_file(doomed.protected)
        recursive = {p: f for p, f in unknown.items() if f & flag.RECURSIVE}
        plain = {p: f for p, f in entries.items() if p not in recursive}
        yield dict(sorted((plain | dict.fromkeys(doomed.missing, flag.MISSING)).items()))
        linked = {p: f for p, f in plain.items() if f & flag.LINKED}
        async for part in permitted.below(recursive, self._batch.root, rules, self._recipe.one_file_system, linked):
            yield part
        if linked:
            yield dict(sorted(linked.items()))

    def _runs(self, entries: Entries) -> Iterator[tuple[Entries, bool]]:
        """Split entries into runs: (entries, content is sent even where size and mtime agree).

        The names of a hard-linked file are in every run, as rsync links only what it sees together.
        """
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
            if self._handler.stopping:
                return Outcome(Verdict.UNWELL, message="stopped")
            result = await self._handler.rsync(*self._command(part, force))
            if self._handler.done(result):
                continue
            if result.stopped or result.timed_out or result.code not in (_CODE_PARTIAL, _CODE_FILE_IO):
                return unwell(result, self._handler.target)
            again = await self._blamed(part, result)
            if again is None:
                return unwell(result, self._handler.target)
            pending += again
        return None

    def _command(self, entries: Entries, force: bool) -> tuple[list[bytes], Batch, Iterator[bytes] | None]:
        if set(entries) == {b""} and entries[b""] & flag.RECURSIVE and not force and self._filter is None:
            return self._recipe.whole_tree(), self._batch, None
        guard = [b"--filter=merge " + self._filter] if self._filter is not None else []
        return [*self._recipe.listed(force=force), *guard], self._batch, self._records(entries)

    def _records(self, entries: Mapping[bytes, int]) -> Iterator[bytes]:
        if self._recipe.missing_args:
            return lists.files_from(entries, self._handler.absent_name)
        return lists.files_from_flat(entries, self._directories_below)

    def _directories_below(self, path: bytes) -> Iterator[bytes]:
        for below, found in walk(self._batch.root, path, one_file_system=self._recipe.one_file_system > 0):
            if stat.S_ISDIR(found.st_mode):
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
            if found.deletion_skipped:
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
        doomed = await self._doomed(entries)
        if doomed.missing:
            missing = dict.fromkeys(doomed.missing, flag.MISSING)
            result = await self._handler.rsync(*self._command(missing, False))
            if not self._handler.done(result):
                self._failed.update(dict.fromkeys(entries, first_line(result.messages)))

    async def _doomed(self, entries: Entries) -> permitted.Doomed:
        """Find what a list would delete at the target, and which of it may go."""
        recipe = self._handler.recipe
        records = self._records(entries)
        with permitted.listing() as output:
            await self._handler.rsync(recipe.deletions(), self._batch, records, output.fileno())
            return permitted.doomed(output, self._batch.root, self._rules)


def unwell(result: Result, target: Target) -> Outcome:
    """Return the outcome of a run that a target made impossible."""
    if result.stopped:
        return Outcome(Verdict.UNWELL, message="stopped", code=result.code)
    where = f"{shown(target.text)}: " if target.text else ""
    if result.timed_out:
        return Outcome(Verdict.UNWELL, message=f"{where}the run took longer than --timeout-sync", code=result.code)
    said = first_line(result.messages)
    hint = _HINTS.get(result.code, "")
    message = f"{where}{said + ' ' if said else ''}({exit_text(result.code)}){'; ' + hint if hint else ''}"
    return Outcome(Verdict.UNWELL, message=message, code=result.code)
