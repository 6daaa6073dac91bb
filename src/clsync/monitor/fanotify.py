"""fanotify: one mark per file system, whatever the size of the tree; names are found when the window closes."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
import struct
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator
from itertools import chain, islice

from clsync.core.changes import ATTRIB, CONTENT, DOUBT, MOVED, NAME, OF_DIRECTORY
from clsync.core.classify import LinkedFile
from clsync.core.moves import Move, Trace, moves_of
from clsync.core.paths import is_below, join, parent
from clsync.core.rules import Rules
from clsync.kernel import fanotify as kernel
from clsync.kernel.mounts import private_view
from clsync.monitor.base import MOVES_LIMIT, Changed, Unnamed
from clsync.monitor.runs import LEAST, in_order, merge, run_length

_READ = 1 << 20
_DRAIN_SECONDS = 0.01
_SLOW = kernel.RENAME | kernel.Q_OVERFLOW | kernel.MOVED_FROM | kernel.MOVED_TO | kernel.DELETE
_HEADER = struct.Struct("=I4xQ8xB1xH").unpack_from
"""Length and mask of an event, type and length of its first information record."""
_RECORD = struct.Struct("=B1xH").unpack_from
_SAMPLE = 200
_REMOVED_LIMIT = 20_000
_PRUNED = 1000
_STRAYS_LIMIT = 20_000
_AT_A_TURN = 128
"""Names that are looked at between two rests."""
_TRIES = 20
"""How often the queue is read to find it empty, before nothing is told of what was moved: others write, too."""
_FOLDED = 1 << 40
"""Mask bit of our own: nothing is known below this directory."""
_SELF = b".\0"
"""The name in a record that speaks of the directory itself."""
_CONTENT = kernel.MODIFY | kernel.CLOSE_WRITE
_REWRITTEN = bytes((kernel.MODIFY, kernel.CLOSE_WRITE, _CONTENT))
_LEAST = 24
"""Bytes of an event without any record."""
_FIXED = (0, 1, 2, 3, 24, 26, 27)
"""Where the length of an event, and type and length of its first record stand (fanotify(7))."""
_WRITTEN = _CONTENT | kernel.ATTRIB
_RENAMED = kernel.RENAME | kernel.MOVED_FROM | kernel.MOVED_TO
_NAME = kernel.CREATE | kernel.DELETE | _RENAMED

_Outside = defaultdict[tuple[bytes, int], list[bytes]]
"""Directory record and change bits -> keys of files that were changed there."""


class _MountView:
    """The way from directory handles to paths below one mount."""

    def __init__(self, prefix: bytes, path: bytes) -> None:
        """`path`: the watched directory, or a mount point below it, absolute and without symlinks.

        `prefix`: the same, relative to the watched root. Raises OSError.
        """
        self.prefix, self.path = prefix, path
        self._private = self._top = -1
        found = os.stat(path)
        self._identity = found.st_dev, found.st_ino
        self.fsid = struct.pack("=Q", os.statvfs(path).f_fsid)
        try:
            self._private = private_view(path)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EPERM, errno.EINVAL):
                raise
        # What cannot be resolved here cannot be watched: better known now.
        self.begin()
        try:
            kernel.path_of_handle(self._top, kernel.handle_of(path))
        except OSError:
            self.close()
            raise
        self.end()

    def begin(self) -> None:
        """Be ready for `find`. Raises OSError."""
        if self._top < 0:
            self._top = self._private if self._private >= 0 else os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)

    def end(self) -> None:
        """Let go of what would keep the mount busy."""
        if self._top >= 0 and self._private < 0:
            os.close(self._top)
        self._top = -1

    def find(self, handle: bytes) -> bytes | None:
        """Return the path of a directory, relative to the watched root; None: gone, or not below this mount."""
        try:
            path, found = kernel.path_of_handle(self._top, handle)
        except OSError as error:
            if error.errno in (errno.ESTALE, errno.ENOENT, errno.EBADF, errno.EACCES, errno.EINVAL, errno.EFAULT):
                return None
            raise
        if found is not None and (found.st_dev, found.st_ino) == self._identity:
            return self.prefix
        if path == b"/" or (found is not None and not found.st_nlink):
            return None
        if self._private < 0 and path == self.path:
            return self.prefix
        if self._private < 0:
            if not path.startswith(self.path.rstrip(b"/") + b"/"):
                return None
            path = path[len(self.path.rstrip(b"/")) :]
        return join(self.prefix, path[1:])

    def look(self, handle: bytes) -> LinkedFile | None:
        """Return what a file handle stands for; None: a directory, or gone."""
        try:
            found = kernel.stat_of_handle(self._top, handle)
        except OSError:
            return None
        if not found.st_nlink or stat.S_ISDIR(found.st_mode):
            return None
        return LinkedFile(found.st_dev, found.st_ino, found.st_nlink)

    def inode(self, handle: bytes) -> os.stat_result | None:
        """Return the stat of what a handle stands for; None: gone."""
        try:
            found = kernel.stat_of_handle(self._top, handle)
        except OSError:
            return None
        return found if found.st_nlink else None

    def opened(self, handle: bytes) -> int:
        """Open a directory of this file system, below the mount or not. Raises OSError (ESTALE: gone)."""
        return kernel.open_handle(self._top, handle)

    def own_path(self) -> bytes:
        """Return a path that leads to this file system, also when it is unmounted. Raises OSError: there is none."""
        if self._private >= 0:
            return b"/proc/self/fd/%d" % self._private
        if struct.pack("=Q", os.statvfs(self.path).f_fsid) != self.fsid:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), self.path)
        return self.path

    def close(self) -> None:
        """Give the descriptors back."""
        self.end()
        if self._private >= 0:
            os.close(self._private)
            self._private = -1


class _Moves:
    """What left its name in one window."""

    def __init__(self) -> None:
        self.traces: dict[Hashable, Trace] = {}
        """Handle record of what has left -> where it stood."""
        self.places: dict[bytes, bytes] = {}
        """Handle record of a file -> key of the name that it was given last."""
        self.directories = 0
        """How often directories were renamed."""
        self.sure = True

    def note(self, target: bytes, old: bytes, mask: int, noted: int, since: float) -> bool:
        """Note that something left the name `old`, of which `noted` was told before; tell whether there was room."""
        if target not in self.traces:
            if len(self.traces) >= MOVES_LIMIT:
                if mask & _RENAMED:
                    self.sure = False
                return False
            fresh = bool((noted | mask) & kernel.CREATE)
            self.traces[target] = Trace(*_split(old), bool(mask & kernel.ONDIR), fresh, since)
        return True


class FanotifyMonitor:
    """Watches any number of mounts below one root through one group."""

    def __init__(self, rules: Rules, limit: int = 400_000) -> None:
        """`limit`: distinct changed names above which siblings fold into their directory.

        Raises OSError where there is no fanotify.
        """
        self._group = kernel.open_group()
        self._rules = rules if rules else None
        self._limit = limit
        self._sift_at = limit // 2
        self._sifting: Iterator[None] | None = None
        self._views: dict[bytes, _MountView] = {}
        self._window: dict[bytes, int] = {}
        self._rewritten: set[bytes] = set()
        """More keys of the window: files that were rewritten, and nothing else."""
        self._lost = False
        self._removed: dict[bytes, bytes] = {}
        """Name that was removed or renamed over -> handle record of the file that had it, empty: not known."""
        self._written: dict[bytes, bytes] = {}
        """Handle record of a file that was written through such a name, maybe -> that name; empty: not known."""
        self._strays: dict[LinkedFile, int] = {}
        """Files with several names that were changed in directories outside the root -> change bits."""
        self._moves = _Moves()
        self._moves_taken = _Moves()
        """Those of the window that was ended last."""
        self._emptied = 0.0
        """When (monotonic seconds) the queue was seen empty last."""
        self._renamed_over = False
        self._prune_at = _PRUNED
        self._names: dict[bytes, tuple[bytes, ...]] = {}
        """Directory record -> paths, for the take or sift at work; cut when a directory is renamed."""
        self.behind = False
        """The queue was not read to its end: no queue is to grow for ever."""
        self.directory_moved = False
        """A directory was renamed or removed somewhere: the root may be another one now."""

    @property
    def empty(self) -> bool:
        """Tell whether no mount is watched."""
        return not self._views

    def add(self, prefix: bytes, path: bytes) -> None:
        """Watch one more mount. Raises OSError where its file system cannot be watched this way."""
        kernel.mark_file_system(self._group, path)
        try:
            self._views[prefix] = _MountView(prefix, path)
        except OSError:
            kernel.unmark_file_system(self._group, path)
            raise
        self._names.clear()

    def remove(self, prefix: bytes) -> None:
        """Let go of a mount; its file system stays marked only while another mount of it is watched."""
        view = self._views.pop(prefix)
        self._names.clear()
        try:
            if not any(v.fsid == view.fsid for v in self._views.values()):
                kernel.unmark_file_system(self._group, view.own_path())
        except OSError:
            pass  # unmounted: the mark went with the file system
        finally:
            view.close()

    def fileno(self) -> int:
        """Return the group's descriptor."""
        return self._group

    def due(self) -> float | None:
        """Return when `drain` wants to be called: now, while names are sifted."""
        return 0.0 if self._sifting is not None else None

    def drain(self) -> bool:
        """Fold what the kernel has (see `monitor.base`)."""
        until = time.monotonic() + _DRAIN_SECONDS
        self.behind = True
        while True:
            now = time.monotonic()
            try:
                data = os.read(self._group, _READ)
            except BlockingIOError:
                self._emptied, self.behind = now, False
                break
            self._fold(data)
            if self._size() > self._sift_at and self._sifting is None:
                if self._sift_at < self._limit and self._mostly_ours():
                    self._sift_at = self._limit  # too little would go to be worth the work
                else:
                    self._sifting = self._sift()
            if time.monotonic() > until:
                break
        if self._sifting is not None:
            self._step_sifting(until)
        return bool(self._window or self._rewritten or self._strays) or self._lost

    def _size(self) -> int:
        return len(self._window) + len(self._rewritten)

    def _fold(self, data: bytes) -> None:
        """Fold a buffer of events; what is none, which no kernel was seen to write, counts as one that was lost."""
        try:
            self._fold_events(data)
        except (struct.error, IndexError):
            self._lost = True

    def _fold_events(self, data: bytes) -> None:
        window, get, header, removed = self._window, self._window.get, _HEADER, self._removed
        offset, end = 0, len(data)
        alone = 0
        while offset < end:
            length, mask, kind, size = header(data, offset)
            if length < _LEAST:
                raise struct.error
            if not mask & ~_CONTENT and kind == 2 and not alone:
                count = self._fold_run(data, offset, length, size)
                if count:
                    offset += count * length
                    continue
                alone = LEAST
            if alone:
                alone -= 1
            if mask & _SLOW or kind != 2:
                self._fold_rare(data, offset, length, mask)
            else:
                key = data[offset + 28 : offset + 24 + size]
                if mask & ~_CONTENT or key in window:
                    window[key] = get(key, 0) | mask
                else:
                    self._rewritten.add(key)
                if removed and key in removed and mask & _WRITTEN:
                    self._note_written(data[offset : offset + length], key)
            offset += length

    def _fold_run(self, data: bytes, offset: int, length: int, size: int) -> int:
        """Fold events from `offset` on that all speak of rewritten files; return how many."""
        columns = [(at, data[offset + at : offset + at + 1]) for at in _FIXED]
        columns += [(8, _REWRITTEN), *((at, b"\0") for at in range(9, 16))]
        count = run_length(data, offset, length, columns)
        if not count:
            return 0
        keys: Iterable[bytes] = chain.from_iterable(
            _keys(length, size).iter_unpack(data[offset : offset + count * length])
        )
        if self._removed:
            keys = set(keys)
            if not self._removed.keys().isdisjoint(keys):
                return 0
        self._rewritten.update(keys)
        return count

    def _fold_rare(self, data: bytes, offset: int, length: int, mask: int) -> None:
        if mask & kernel.Q_OVERFLOW:
            self._lost = True
            return
        if mask & kernel.ONDIR:
            self._names.clear()
            self.directory_moved = True
        records = dict(_records(data[offset : offset + length]))
        target = records.pop(kernel.INFO_FID, b"")
        self._note_move(records, target, mask)
        # Outside the root, only a file that was written counts: by its new name, too.
        moved = self._noted(records.get(kernel.INFO_OLD_DFID_NAME, b"")) & _WRITTEN
        for kind, key in records.items():
            before = self._noted(key)
            self._window[key] = before | mask | (moved if kind == kernel.INFO_NEW_DFID_NAME else 0)
            if mask & kernel.ONDIR:
                continue
            if kind == kernel.INFO_NEW_DFID_NAME or mask & kernel.MOVED_TO:
                self._renamed_over |= bool(before & _WRITTEN)
                self._remove(key, b"")
            elif mask & kernel.DELETE:
                self._remove(key, target)
                if (before | mask) & _WRITTEN:
                    self._written[target] = key
        if not records and self._renamed_over and len(self._written) < _REMOVED_LIMIT:
            # No name: the number of links has changed, maybe that of the file renamed over.
            self._written[target] = b""

    def _note_move(self, records: dict[int, bytes], target: bytes, mask: int) -> None:
        """Note what leaves its name, and where it goes."""
        moves = self._moves
        if mask & _RENAMED:
            moves.directories += bool(mask & kernel.ONDIR)
            old = records.get(kernel.INFO_OLD_DFID_NAME)
            if not target or old is None:
                moves.sure = False  # a kernel that does not tell what was renamed
            elif moves.note(target, old, mask, self._noted(old), self._emptied) and not mask & kernel.ONDIR:
                moves.places[target] = records.get(kernel.INFO_NEW_DFID_NAME, b"")
        elif mask & kernel.ONDIR and mask & kernel.DELETE and target and moves.traces:
            old = records.get(kernel.INFO_DFID_NAME)
            if old is not None:
                moves.note(target, old, mask, self._noted(old), self._emptied)

    def _noted(self, key: bytes) -> int:
        """Return what the window holds of a name."""
        return self._window.get(key, 0) | (_CONTENT if key in self._rewritten else 0)

    def _remove(self, key: bytes, target: bytes) -> None:
        """Remember that a name stands for its file no longer: who holds it open may still write."""
        if len(self._removed) >= _REMOVED_LIMIT:
            del self._removed[next(iter(self._removed))]
        self._removed[key] = target

    def _note_written(self, event: bytes, key: bytes) -> None:
        target = dict(_records(event)).get(kernel.INFO_FID)
        if target is not None and len(self._written) < _REMOVED_LIMIT:
            self._written[target] = key

    def survivors(self) -> Iterator[Unnamed | None]:
        """Yield files that were written through a name that is gone or outside (see `monitor.base`)."""
        strays, self._strays = self._strays, {}
        yield from (Unnamed(file, None, bits) for file, bits in strays.items())
        written, self._written = self._written, {}
        self._renamed_over = False
        self._begin()
        try:
            for target, key in written.items():
                file = self._look(target)
                if file is None:
                    yield None
                    continue
                if not key:
                    yield Unnamed(file, None, CONTENT)
                    continue
                record, name = _split(key)
                paths: list[bytes | None] = [join(directory, name) for directory in self._directories(record)]
                for path in paths or [None]:
                    yield Unnamed(file, path, CONTENT)
            yield from self._prune()
        finally:
            self._end()

    def _prune(self) -> Iterator[None]:
        """Forget names whose files are gone; now and then, as each has to be looked at."""
        if len(self._removed) >= self._prune_at:
            for key, target in list(self._removed.items()):
                if target and self._look(target) is None and self._removed.get(key) == target:
                    del self._removed[key]
                yield
            self._prune_at = max(_PRUNED, 2 * len(self._removed))

    def _look(self, target: bytes) -> LinkedFile | None:
        for view in self._views.values():
            if view.fsid == target[:8]:
                view.begin()
                file = view.look(target[8:])
                if file is not None:
                    return file
        return None

    def take(self) -> Iterator[Changed]:
        """End the window (see `monitor.base`)."""
        window, self._window = self._window, {}
        rewritten, self._rewritten = self._rewritten, set()
        lost, self._lost = self._lost, False
        self._moves_taken, self._moves = self._moves, _Moves()
        self._moves_taken.sure &= not lost
        self._sifting = None
        self._sift_at = self._limit // 2
        return self._named(window, rewritten, lost)

    def moves(self) -> Iterator[Move | None]:
        """Yield what was moved in the window that was ended last (see `monitor.base`)."""
        taken, self._moves_taken = self._moves_taken, _Moves()
        if not (taken.traces and taken.sure):
            return
        places: dict[Hashable, bytes | None] = {}
        inodes: dict[Hashable, int] = {}
        try:
            for number, (target, trace) in enumerate(taken.traces.items()):
                assert isinstance(target, bytes)
                assert isinstance(trace.holder, bytes)
                if trace.holder not in places:
                    places[trace.holder] = self._only_path(trace.holder)
                found = None if self._is_neighbour(taken, target, trace) else self._stat(target)
                if found is None:
                    places[target] = None
                elif trace.is_dir:
                    places[target], inodes[target] = self._only_path(target), found.st_ino
                else:
                    places[target], inodes[target] = self._place_of_file(taken.places[target], found), found.st_ino
                if not number % _AT_A_TURN:
                    yield None
            # Paths are those of now: what has moved since the window was ended would be missing here.
            for _ in range(_TRIES):
                if self._emptied_now():
                    break
                yield None
            else:
                return
            if self._moved_since():
                return
        except OSError:
            return
        finally:
            self._end()
        yield from moves_of(taken.traces, places.get, lambda key: inodes.get(key, 0))

    def _is_neighbour(self, taken: _Moves, file: bytes, trace: Trace) -> bool:
        """Tell whether a file was renamed outside the root, from and to directories that stayed where they are.

        rsync does that for each file that it writes, maybe on this file system.
        """
        new = taken.places.get(file)
        if trace.is_dir or not new:
            return False
        ends = trace.holder, _record(new)
        return not any(end in taken.traces or (isinstance(end, bytes) and self._directories(end)) for end in ends)

    def _moved_since(self) -> bool:
        """Tell whether directories were moved to, from or below the root since the window was ended."""
        since = self._moves
        if not since.directories:
            return False
        if not since.sure or len(since.traces) > _AT_A_TURN:
            return True
        moved = [(target, trace.holder) for target, trace in since.traces.items() if trace.is_dir]
        return any(self._directories(record) for pair in moved for record in pair if isinstance(record, bytes))

    def _only_path(self, record: bytes) -> bytes | None:
        """Return the path of a directory; None where it has none below the root, or several."""
        paths = self._directories(record)
        return paths[0] if len(paths) == 1 else None

    def _place_of_file(self, key: bytes, file: os.stat_result) -> bytes | None:
        """Return the path of a regular file with one name, if it still has the name that it was given last."""
        if not key or file.st_nlink != 1 or not stat.S_ISREG(file.st_mode):
            return None
        record, name = _split(key)
        for view in self._views_of(record):
            try:
                directory = view.opened(record[8:])
            except OSError:
                continue
            try:
                there = os.lstat(name, dir_fd=directory)
            except OSError:
                return None
            finally:
                os.close(directory)
            above = self._only_path(record)
            same = (there.st_dev, there.st_ino) == (file.st_dev, file.st_ino)
            return join(above, name) if same and above is not None else None
        return None

    def _stat(self, target: bytes) -> os.stat_result | None:
        for view in self._views_of(target):
            found = view.inode(target[8:])
            if found is not None:
                return found
        return None

    def _emptied_now(self) -> bool:
        """Fold what the kernel has; tell whether that was all."""
        until = time.monotonic() + _DRAIN_SECONDS
        while (now := time.monotonic()) < until:
            try:
                data = os.read(self._group, _READ)
            except BlockingIOError:
                self._emptied = now
                return True
            self._fold(data)
        return False

    def _named(self, window: dict[bytes, int], rewritten: set[bytes], lost: bool) -> Iterator[Changed]:
        if lost:
            yield [view.prefix for view in self._views.values()], DOUBT
        outside: _Outside = defaultdict(list)

        def directories(record: bytes, keys: list[bytes]) -> tuple[bytes, ...]:
            found = self._directories(record)
            if not found:
                outside[record, CONTENT] += keys
            return found

        self._begin()
        try:
            while window:
                key, mask = window.popitem()
                record = key[: _record_end(key)]
                found = self._directories(record)
                if found:
                    yield from self._paths(found, key[len(record) :].rstrip(b"\0"), mask)
                elif mask & _WRITTEN:
                    outside[record, _bits(mask)].append(key)
                if not len(window) % _AT_A_TURN:
                    yield [], 0
            for paths in in_order(rewritten, _record_end, directories):
                yield self._that_count(paths), CONTENT
            for (record, bits), keys in outside.items():
                for _ in self._look_outside(record, keys, bits):
                    yield [], 0
        finally:
            self._end()

    def _paths(self, directories: Iterable[bytes], name: bytes, mask: int) -> Iterator[Changed]:
        """Yield the paths of a name."""
        for directory in directories:
            # An event on a directory itself has a dot for its name.
            path = join(directory, name) if name != b"." else directory
            if self._rules is None or self._rules.watches(directory) or (mask & _WRITTEN and self._linked(path)):
                yield [path], _bits(mask)

    def _that_count(self, paths: list[bytes]) -> list[bytes]:
        """Leave out written files that do not count by the rules, nor do other names of theirs."""
        if self._rules is None:
            return paths
        watched = {directory for directory in {parent(path) for path in paths} if self._rules.watches(directory)}
        return [path for path in paths if parent(path) in watched or self._linked(path)]

    def _linked(self, path: bytes) -> bool:
        """Tell whether a file has several names: one may not count, and others may."""
        top = next((v for v in self._views.values() if not v.prefix or is_below(path, v.prefix)), None)
        if top is None:
            return False  # the top of a mount, or a mount that has gone
        try:
            found = os.lstat(top.path + b"/" + path[len(top.prefix) :])
        except OSError:
            return False
        return found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode)

    # -- from records to directories ---------------------------------------------------------------------------

    def _begin(self) -> None:
        self._names.clear()
        for view in self._views.values():
            view.begin()

    def _end(self) -> None:
        self._names.clear()
        if self._sifting is None:
            for view in self._views.values():
                view.end()

    def _directories(self, record: bytes) -> tuple[bytes, ...]:
        """Return the paths of a directory below the root: one for each mount that shows it."""
        known = self._names.get(record)
        if known is not None:
            return known
        found = []
        for view in self._views_of(record):
            path = view.find(record[8:])
            if path is not None:
                found.append(path)
        self._names[record] = paths = tuple(found)
        return paths

    def _views_of(self, record: bytes) -> Iterator[_MountView]:
        """Yield the mounts that may show a directory, ready to be asked."""
        # Some file systems report another id than statfs shows: then every mount is asked.
        for view in [v for v in self._views.values() if v.fsid == record[:8]] or self._views.values():
            view.begin()
            yield view

    def _look_outside(self, record: bytes, keys: list[bytes], bits: int) -> Iterator[None]:
        """Note those of some files in a directory outside the root that may have names below it, too."""
        directory = -1
        for view in self._views_of(record):
            try:
                directory = view.opened(record[8:])
                break
            except OSError:
                continue  # gone, or of another file system
        if directory < 0:
            return
        try:
            for number, key in enumerate(keys, 1):
                with contextlib.suppress(OSError, ValueError):  # ValueError: a NUL, which no kernel was seen to write
                    found = os.lstat(key[len(record) :].rstrip(b"\0"), dir_fd=directory)
                    if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
                        self._note_stray(LinkedFile(found.st_dev, found.st_ino, found.st_nlink), bits)
                if not number % _AT_A_TURN:
                    yield
            yield
        finally:
            os.close(directory)

    def _note_stray(self, file: LinkedFile, bits: int) -> None:
        if len(self._strays) >= _STRAYS_LIMIT:
            self._lost = True
        else:
            self._strays[file] = self._strays.get(file, 0) | bits

    # -- bounded memory ----------------------------------------------------------------------------------------

    def _step_sifting(self, until: float) -> None:
        for _ in self._sifting or ():
            if time.monotonic() > until:
                return
        self._sifting = None
        self._end()

    def _mostly_ours(self) -> bool:
        """Tell whether most of some names lie below the root."""
        self._begin()
        sample = list(islice(chain(self._rewritten, self._window), _SAMPLE))
        ours = sum(1 for key in sample if self._directories(_record(key)))
        self._end()
        return 2 * ours > len(sample)

    def _sift(self) -> Iterator[None]:
        """Drop the names outside the root; fold siblings where too many are left."""
        self._begin()
        names = self._names
        for number, key in enumerate([*self._window, *self._rewritten]):
            record = _record(key)
            if not (names.get(record) or self._directories(record)):
                mask = self._noted(key)
                self._window.pop(key, None)
                self._rewritten.discard(key)
                if mask & _WRITTEN:
                    yield from self._look_outside(record, [key], _bits(mask))
            if not number % 64:
                yield
        if self._size() > self._limit:
            self._fold_siblings()
        self._sift_at = max(self._limit // 2, min(2 * self._size(), self._limit))

    def _fold_siblings(self) -> None:
        self._moves.sure = False
        merge(self._window, self._rewritten, _CONTENT)
        self._rewritten.clear()
        if len(self._window) <= self._limit:
            return  # some stood in both
        siblings = Counter(_record(key) for key in self._window)
        many = 8
        folded: dict[bytes, int] = {}
        for key, mask in self._window.items():
            record = _record(key)
            if siblings[record] >= many:
                folded[record + _SELF] = folded.get(record + _SELF, 0) | _FOLDED
            else:
                folded[key] = folded.get(key, 0) | mask
        self._window = folded
        if len(folded) > self._limit // 2:
            self._window, self._lost = {}, True

    def close(self) -> None:
        """Give the group and all views back."""
        for view in self._views.values():
            view.close()
        self._views.clear()
        os.close(self._group)


def _records(event: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (type, content) of the information records of an event."""
    at = 24
    while at + 4 < len(event):
        kind, size = _RECORD(event, at)
        if not size:
            return
        yield kind, event[at + 4 : at + size]
        at += size


@functools.lru_cache(maxsize=256)
def _keys(length: int, size: int) -> struct.Struct:
    """Return what takes the keys out of events of one length, whose first record has `size` bytes."""
    return struct.Struct(f"28x{size - 4}s{length - 24 - size}x")


def _record_end(key: bytes) -> int:
    """Return where the name begins in a key, after the file system id and the handle of the directory."""
    return 16 + int.from_bytes(key[8:10], sys.byteorder)


def _record(key: bytes) -> bytes:
    """Return the file system id and handle at the beginning of a key."""
    return key[: _record_end(key)]


def _split(key: bytes) -> tuple[bytes, bytes]:
    """Split a key into (file system id and handle, name)."""
    end = _record_end(key)
    return key[:end], key[end : key.find(b"\0", end)]


@functools.cache
def _bits(mask: int) -> int:
    bits = 0
    if mask & _CONTENT:
        bits |= CONTENT
    if mask & kernel.ATTRIB:
        bits |= ATTRIB
    if mask & _NAME:
        bits |= NAME | (OF_DIRECTORY if mask & kernel.ONDIR else 0) | (MOVED if mask & _RENAMED else 0)
    if mask & _FOLDED:
        bits |= DOUBT
    return bits or ATTRIB
