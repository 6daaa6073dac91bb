"""The state of one source on disk: opened, written in transactions, given up where it cannot be written.

What always holds, at any instant and after any crash: a path that no row of a target's journal covers stands at that
target as the index says. Therefore

- a path gets its row before a handler may touch it (`hand_over`), and loses it when the handler has confirmed it
  (`confirm`) and the target has been flushed since (`flushed`);
- the index is changed together with that, and every other target gets a row;
- while a tree is recorded, its top has a row (`begin_record`, `end_record`).
"""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from types import MappingProxyType
from typing import Final, NamedTuple, TypeVar

from clsync.core.changes import ATTRIB, CONTENT, DOUBT, NAME, OF_DIRECTORY
from clsync.core.listing import DamagedListing, Signature, is_directory
from clsync.core.paths import is_below, join, parent
from clsync.kernel.durable import flush_directory
from clsync.state import index, opening
from clsync.state.journal import Journal
from clsync.state.mark import FILE as MARK
from clsync.state.mark import Mark, Marked
from clsync.state.meta import Meta, checksum
from clsync.state.walker import NOT_SYNCED

T = TypeVar("T")
_LOG_CHANGES: Final = 2000
_LOG_BYTES: Final = 16 << 20
"""Rows, or bytes in the journal, that were written since the log was shortened."""
_LOOKED_AT: Final = 4096
"""Directories at once."""
_TROUBLE: Final = (sqlite3.Error, OSError, DamagedListing)
_TREE: Final = NAME | OF_DIRECTORY
_ABSENT: Final = NAME
"""Change bits with which a tree, and something absent, is dirty again after it was confirmed."""


class Dirty(NamedTuple):
    """A path that a target may not hold as the index says."""

    path: bytes
    bits: int
    """What may be different there (`core.changes`)."""
    since: float
    """No change is older (wall clock, seconds)."""


class Confirmed(NamedTuple):
    """What a target holds now. All of it was looked at before the handler began to read it."""

    seen: Mapping[bytes, bytes | None]
    """Path -> its record (`core.listing`); None: nothing stood there. Not those that have changed again."""
    trees: Mapping[bytes, Collection[tuple[bytes, index.Parts]]] = MappingProxyType({})
    """Directory that was handed over with everything below -> all listings at and below it (`state.scan`)."""
    again: Mapping[bytes, int] = MappingProxyType({})
    """What has changed again, at or below something confirmed, by all that the monitor has said after the handler
    had ended: path -> change bits."""


class Store:
    """The state of one source. For any thread; calls wait for each other, and some of them for the disk."""

    def __init__(
        self, directory: bytes, mark: Mark, rows: sqlite3.Connection, meta: Meta, journal: Journal, found: str
    ) -> None:
        """Use `Store.open`."""
        self.directory = directory
        self.found = found
        """Why what was found could not be used, for a message; empty where it could, or nothing was found."""
        self.lost = ""
        """Why the state is no longer kept; empty while it is."""
        self.on_lost: Callable[[str], None] = lambda why: None
        """Called once, in the thread of the call that has failed."""
        self.limit = 200_000
        """Paths in the journal of a target, about; above it, names fold into their directory."""
        self._mark, self._rows, self._meta, self._journal = mark, rows, meta, journal
        self._durable = self._changes = 0
        self._full = False
        rows.execute("PRAGMA wal_autocheckpoint = 0")  # see `shorten_log`
        self._targets: dict[bytes, int] = {}
        self._turn = threading.RLock()
        self._disowned = self._closed = False
        self._file = os.stat(self.path)

    # -- opening and closing -----------------------------------------------------------------------------------

    @classmethod
    def open(cls, directory: bytes, identity: bytes, targets: Collection[bytes], boot: bytes) -> Store:
        """Open the state in a directory, made where there is none.

        `identity`: the root and all settings that make another tree of it; `targets`: a key for each of them;
        `boot`: see `kernel.durable.boot_id`. A state that cannot be used is set aside. Targets that are new have to
        be synced as a whole (`dirty` says so, and since when). Raises OperatorError where another process has it,
        OSError or sqlite3.Error where none can be had here.
        """
        mark = opening.lock(directory)
        try:
            rows, meta, journal, found = opening.open_or_make(directory, mark, identity, boot)
            store = cls(directory, mark, rows, meta, journal, found)
            try:
                store._begin(targets, boot)
            except BaseException:
                rows.close()
                raise
        except BaseException:
            mark.close()
            raise
        return store

    def _begin(self, targets: Collection[bytes], boot: bytes) -> None:
        self._commit(lambda: self._adopt(targets, boot), durable=True)
        flush_directory(self.directory)
        self._mark.flush()

    def _adopt(self, targets: Collection[bytes], boot: bytes) -> None:
        self._targets = {key: number for number, key in self._rows.execute("SELECT id, key FROM target")}
        for key in self._targets.keys() - set(targets):
            self._drop_target(self._targets.pop(key))
        for key in sorted(set(targets) - self._targets.keys()):
            self._add_target(key)
        if self._meta.boot != boot:
            for number in self._targets.values():
                self._doubt(number, places=True)
            self._meta.boot = boot

    def _add_target(self, key: bytes) -> None:
        insert = "INSERT INTO target (key, boot, checksum) VALUES (?, ?, ?)"
        added = self._rows.execute(insert, (key, b"", checksum(key, b"")))
        assert added.lastrowid is not None
        self._targets[key] = added.lastrowid
        self._note(added.lastrowid, {b"": DOUBT}, time.time())

    def _drop_target(self, number: int) -> None:
        self._journal.drop(number)
        self._rows.execute("DELETE FROM target WHERE id = ?", (number,))

    @property
    def path(self) -> bytes:
        """The file, for scans."""
        return os.path.join(self.directory, opening.FILE)

    def close(self) -> None:
        """End the use of the state."""
        with self._turn:
            if not self._closed and not self.lost:
                self._write(lambda: self._journal.tidy(self._meta.flush), None)
            if not self.lost:
                self._rows.close()
            self._closed = True
            self._mark.close()

    # -- the journal -------------------------------------------------------------------------------------------

    def dirty(self, target: bytes) -> list[Dirty]:
        """Return what a target may not hold as the index says, sorted; a directory in doubt stands for all below.

        What a handler was about to do changed the times of the directories above: they are among it.
        """
        return self._try(lambda: self._dirty(self._targets[target]), [Dirty(b"", DOUBT, 0.0)])

    def _dirty(self, number: int) -> list[Dirty]:
        found = {path: Dirty(path, *how) for path, how in self._journal.of(number).items()}
        for path, _, since in list(found.values()):
            found.setdefault(parent(path), Dirty(parent(path), ATTRIB, since))
        return sorted(found.values())

    def hand_over(
        self, target: bytes, changes: Mapping[bytes, int], since: float, *, deep: Collection[bytes] = ()
    ) -> None:
        """Note that a handler is about to touch some paths (the entries of its batch).

        When this returns it survives a crash of this program; a loss of power survives that something may have happened
        to the directories that hold them. `since`: no change among them is older (wall clock, seconds). `deep`: those
        that stand for all that is below them.
        """
        with self._turn:
            cold = self._journal.cold(self._targets[target], changes, since)
            work = partial(self._hand_over, self._targets[target], changes, since, cold)
            self._write(work, None, durable=bool(cold or deep))

    def _hand_over(self, number: int, changes: Mapping[bytes, int], since: float, cold: Collection[bytes]) -> None:
        if cold:
            self._journal.heat(number, cold, since, self._meta.flush)
        self._note(number, changes, since)

    def is_prompt(self, target: bytes, paths: Collection[bytes], since: float) -> bool:
        """Tell whether `hand_over` waits for nobody, and for no disk."""
        if not self._turn.acquire(blocking=False):
            return False
        try:
            return self._closed or bool(self.lost) or not self._journal.cold(self._targets[target], paths, since)
        finally:
            self._turn.release()

    def confirm(self, target: bytes, confirmed: Confirmed) -> None:
        """Note what a target holds; a crash may undo this."""
        self.confirm_all([(target, confirmed)])

    def confirm_all(self, works: Sequence[tuple[bytes, Confirmed]]) -> None:
        """Note what targets hold, the oldest first, in one transaction; a crash may undo this."""
        self._write(lambda: self._confirm_all(works), None)
        self.shorten_log()

    def _confirm_all(self, works: Iterable[tuple[bytes, Confirmed]]) -> None:
        for target, confirmed in works:
            self._confirm(self._targets[target], confirmed)

    def _confirm(self, number: int, confirmed: Confirmed) -> None:
        seen, again = confirmed.seen, confirmed.again
        if again:
            # What the monitor has named again may have reached the target, and never been in the index.
            seen = {path: record for path, record in seen.items() if path not in again}
        others = [other for other in self._targets.values() if other != number]
        if others:
            # Another target was faster: this one does not hold what the index says.
            late = index.superseded(self._rows, seen)
            seen = {path: record for path, record in seen.items() if path not in late}
        changed = index.confirm(self._rows, seen, tell=bool(others))
        for top, listings in confirmed.trees.items():
            if others:
                changed |= index.differences(self._rows, top, listings)
            index.graft(self._rows, top, listings)
        if others:
            # That another size or mtime shows by itself is true of this version, and not of all that are to come.
            changed = {path: bits | CONTENT for path, bits in changed.items()}
        for other in others:
            self._note(other, changed, time.time())
        self._settle(number, seen, confirmed.trees)
        self._note(number, again, time.time())

    def _settle(self, number: int, seen: Mapping[bytes, bytes | None], trees: Collection[bytes]) -> None:
        """Let paths and trees be clean, until something is lost before a flush."""
        below = [*trees, *(path for path, record in seen.items() if record is None)]
        flush = self._meta.flush
        others = {path: _bits_of(seen[path]) for path in self._journal.settle(number, seen, below, flush)}
        self._journal.add_lost(number, others | dict.fromkeys(trees, _TREE), time.time(), flush)

    def _note(self, number: int, changes: Mapping[bytes, int], since: float) -> None:
        self._journal.add(number, changes, since, self._meta.flush)
        self._journal.fold(number, self.limit, self._meta.flush)

    def shorten_log(self) -> None:
        """Let the log of SQLite begin anew if it is long: that waits for the disk. See that the state is in its place."""
        with self._turn:
            if not (self._closed or self.lost) and not self._is_in_place():
                self._disowned = True  # what stands there now is none of ours
                self._lose("it was removed, or another one was put in its place")
            changes = self._rows.total_changes if not (self._closed or self.lost) else 0
            if changes - self._changes > _LOG_CHANGES or self._journal.written > _LOG_BYTES:
                self._changes, self._journal.written = changes, 0
                self._try(lambda: self._rows.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone(), None)

    def _is_in_place(self) -> bool:
        try:
            own = os.path.samestat(os.lstat(self.path), self._file)
            return own and self._mark.is_at(os.path.join(self.directory, MARK))
        except FileNotFoundError:
            return False
        except OSError:
            return True  # nobody can tell

    def journalled(self) -> int:
        """Return how many paths the journals have, of all targets."""
        return len(self._journal)

    # -- flushing ----------------------------------------------------------------------------------------------

    def awaiting_flush(self, target: bytes | None = None) -> int:
        """Return how many paths wait for a flush, of a target; None: of all."""
        return self._journal.unflushed(None if target is None else self._targets[target])

    def begin_flush(self) -> int:
        """Return a number for a flush that begins now: what is confirmed from now on is none of its business."""
        with self._turn:
            self._meta.flush += 1
            return self._meta.flush - 1

    def flushed(self, target: bytes, flush: int) -> None:
        """Note that a target was flushed (syncfs(2), rsync --fsync) after `begin_flush` had returned this number."""
        self._write(lambda: self._journal.flushed(self._targets[target], flush), None)

    def boot_of(self, target: bytes) -> bytes:
        """Return in which boot the host of a target was when somebody noted that; empty: nobody has."""
        return self._try(lambda: self._boot_of(self._targets[target]), b"")

    def _boot_of(self, number: int) -> bytes:
        return bytes(self._rows.execute("SELECT boot FROM target WHERE id = ?", (number,)).fetchone()[0])

    def note_boot(self, target: bytes, boot: bytes) -> list[Dirty]:
        """Note which boot the host of a target is in, whatever tells two of them apart.

        Return what it may have lost since that was noted last, because it was not flushed; that is dirty from now on.
        """
        return self._write(lambda: self._note_boot(target, boot), [], durable=True)

    def _note_boot(self, key: bytes, boot: bytes) -> list[Dirty]:
        number = self._targets[key]
        if self._boot_of(number) == boot:
            return []
        change = "UPDATE target SET boot = ?, checksum = ? WHERE id = ?"
        self._rows.execute(change, (boot, checksum(key, boot), number))
        return self._doubt(number, places=False)

    def doubt(self, target: bytes) -> list[Dirty]:
        """Let all that waits for a flush of a target be dirty; return it."""
        return self._write(lambda: self._doubt(self._targets[target], places=False), [], durable=True)

    def _doubt(self, number: int, *, places: bool) -> list[Dirty]:
        lost = self._journal.doubt(number, self._meta.flush, places=places)
        return [dirty for dirty in self._dirty(number) if dirty.path in lost]

    # -- whole trees -------------------------------------------------------------------------------------------

    def begin_record(self, top: bytes, since: float) -> None:
        """Note that a scan is to record what is at and below `top`, beside a sync of it; durable.

        What the index had there is forgotten, and all targets are in doubt there until `end_record` or `confirm` says
        else of them. `since`: no change there is older (wall clock, seconds).
        """
        self._write(lambda: self._begin_record(top, since), None, durable=True)

    def _begin_record(self, top: bytes, since: float) -> None:
        for number in self._targets.values():
            self._note(number, {top: DOUBT | (_TREE if top else 0)}, since)
        index.forget(self._rows, top)

    def end_record(self, target: bytes, top: bytes, again: Mapping[bytes, int], since: float) -> None:
        """Note that a target is equal at and below `top`, and that this was recorded; durable.

        `again`: all that the monitor has named there since the scan or the handler began, whichever was first, and
        that was not confirmed since, by what it has said after both had ended. `since`: no change among it is older.
        """
        self._write(lambda: self._end_record(self._targets[target], top, again, since), None, durable=True)

    def _end_record(self, number: int, top: bytes, again: Mapping[bytes, int], since: float) -> None:
        index.enter(self._rows, top)
        self._settle(number, {}, [top])
        self._note(number, {p: b for p, b in again.items() if p == top or is_below(p, top)}, since)

    # -- transactions ------------------------------------------------------------------------------------------

    def _write(self, work: Callable[[], T], otherwise: T, durable: bool = False) -> T:
        return self._try(lambda: self._commit(work, durable), otherwise)

    def _try(self, work: Callable[[], T], otherwise: T) -> T:
        """Do something with the state; where it is lost, or is by this, the answer is another one."""
        with self._turn:
            if self._closed:
                return otherwise
            if not self.lost:
                try:
                    return work()
                except _TROUBLE as error:
                    self._lose(f"it is damaged at {error}" if isinstance(error, DamagedListing) else str(error))
            self._disown()
            return otherwise

    def _commit(self, work: Callable[[], T], durable: bool) -> T:
        """Do something in one transaction that counts."""
        if durable != self._full:
            self._rows.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._full = durable
        self._rows.execute("BEGIN IMMEDIATE")
        try:
            answer = work()
            self._meta.sequence += 1
            self._meta.rows = self._journal.count
            self._meta.write(self._rows)
            self._rows.execute("COMMIT")
        except BaseException:
            if self._rows.in_transaction:
                self._rows.execute("ROLLBACK")
            raise
        if durable:
            self._durable = self._meta.sequence
        self._mark.write(Marked(self._meta.boot, self._meta.sequence, self._durable))
        return answer

    def objects(self, tops: Collection[bytes]) -> int:
        """Return how many entries the index has below some directories, none of which lies below another."""
        return self._try(lambda: index.objects(self._rows, tops), 0)

    def noted(self, paths: Collection[bytes]) -> dict[bytes, Signature]:
        """Return what the index says of some paths, nothing of those it does not know."""
        return self._try(lambda: index.noted(self._rows, paths), {})

    def gone(self, tops: Collection[bytes], look: Callable[[Sequence[bytes]], Iterable[int | None]]) -> list[bytes]:
        """Return what the index has below some directories and is not there any more, without what lies below that.

        `look` tells the mode of what stands at paths, None: nothing does.
        """
        return self._try(lambda: self._gone(tops, look), [])

    def _gone(self, tops: Collection[bytes], look: Callable[[Sequence[bytes]], Iterable[int | None]]) -> list[bytes]:
        found, pending = list[bytes](), list(tops)
        while pending:
            directory = pending.pop()
            known = index.listing(self._rows, directory)
            paths = [join(directory, name) for name in known]
            for path, record, mode in zip(paths, known.values(), look(paths), strict=True):
                if mode is None:
                    found.append(path)
                elif stat.S_ISDIR(mode) and is_directory(record):
                    pending.append(path)
        return found

    def altered(self, look: Callable[[Sequence[bytes]], Iterable[bytes | None]]) -> list[bytes]:
        """Return the directories whose records are not what `look` returns of paths: other names, or attributes.

        Of those that are only walked nothing is known.
        """
        return self._try(lambda: self._altered(look), [b""])

    def _altered(self, look: Callable[[Sequence[bytes]], Iterable[bytes | None]]) -> list[bytes]:
        found = list[bytes]()
        known = ((path, own) for path, own in index.directories(self._rows) if own != NOT_SYNCED)
        while part := list(islice(known, _LOOKED_AT)):
            seen = look([path for path, _ in part])
            found += [path for (path, own), now in zip(part, seen, strict=True) if own != now]
        return found

    def give_up(self, why: str) -> None:
        """Keep the state no longer, because a scan has found it damaged or could not write it."""
        with self._turn:
            if self._closed:
                return
            if not self.lost:
                self._lose(why)
            self._disown()

    def _lose(self, why: str) -> None:
        self.lost = why or "unknown error"
        try:
            self._rows.close()
        except sqlite3.Error:
            pass
        self.on_lost(self.lost)

    def _disown(self) -> None:
        """See to it that nobody trusts what is left; tried again at each call until it has worked."""
        if self._disowned:
            return
        try:
            self._mark.clear()
            self._disowned = True
        except OSError:
            pass
        try:
            opening.remove(self.path)  # a full disk has use for its room
            self._disowned = True
        except OSError:
            pass


def _bits_of(record: bytes | None) -> int:
    """Return the change bits with which something confirmed is dirty again."""
    if record is None:
        return _ABSENT
    return ATTRIB if is_directory(record) else ATTRIB | CONTENT
