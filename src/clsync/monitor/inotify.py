"""inotify: one watch per directory, set before the directory is listed, moved and removed with it.

Files with several names have a watch of their own: directories tell nothing of a name elsewhere, or that is gone.
"""

from __future__ import annotations

import errno
import functools
import os
import stat
import struct
import sys
import time
from collections import Counter
from collections.abc import Container, Hashable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain

from clsync.core.changes import ATTRIB, CARRIED, CONTENT, DOUBT, MOVED, NAME, OF_DIRECTORY
from clsync.core.classify import LinkedFile
from clsync.core.moves import Move, Trace, moves_of
from clsync.core.paths import is_below, join
from clsync.core.rules import Rules
from clsync.errors import Exit, OperatorError
from clsync.kernel import inotify as kernel
from clsync.kernel.files import DIRECTORY_FLAGS, GONE, open_beneath
from clsync.monitor.base import MOVES_LIMIT, Changed, Unnamed
from clsync.monitor.filemoves import FileMoves
from clsync.monitor.runs import LEAST, in_order, merge, run_length
from clsync.monitor.watchtree import WatchTree

_READ = 1 << 18
_DRAIN_SECONDS = 0.01
_EVENT = struct.Struct("=iI4xI").unpack_from
_TREE = (
    kernel.ISDIR
    | kernel.CREATE
    | kernel.DELETE_SELF
    | kernel.MOVE_SELF
    | kernel.UNMOUNT
    | kernel.IGNORED
    | kernel.Q_OVERFLOW
)
"""Events that may change the tree of watches."""
_CONTENT = kernel.MODIFY | kernel.CLOSE_WRITE
_MODIFIED = kernel.MODIFY.to_bytes(4, sys.byteorder)
_REWRITTEN = bytes((kernel.MODIFY, kernel.CLOSE_WRITE))
_LENGTH = (12, 13, 14, 15)
"""Where the length of the name stands in an event (inotify(7))."""
_WRITTEN = _CONTENT | kernel.ATTRIB
_RENAMED = kernel.MOVED_FROM | kernel.MOVED_TO
_NAME = kernel.CREATE | kernel.DELETE | _RENAMED
_CARRIED = 1 << 41
"""Mask bit of our own: what came here by a rename was written before."""
_FOLDED = 1 << 40
"""Mask bit of our own: nothing is known below this directory."""
_LINKED_LIMIT = 100_000
_FILES_LIMIT = 65_536
"""Files with several names that are watched; above it the oldest watch goes."""
_AGAIN = 1.0
"""Seconds after which a walk is made again that an error has ended."""
_BY_DESCRIPTOR = kernel.WATCHED & ~kernel.DONT_FOLLOW
"""For paths in /proc/self/fd, which look like symlinks."""
_READABLE = -1
"""In place of a window: a directory whose rights were changed, and which may be ours to read since then."""
LEAF_COUNTED = frozenset(("ext2", "ext3", "ext4", "xfs", "tmpfs", "overlay"))
"""File systems on which a directory with two links has no subdirectories."""


class OutOfWatches(Exception):
    """The limit fs.inotify.max_user_watches is reached."""


class InotifyMonitor:
    """Watches the directories of one mount below a root."""

    def __init__(self, path: bytes, prefix: bytes, rules: Rules, kind: str = "", limit: int = 400_000) -> None:
        """`path`: the top, absolute; `prefix`: the same relative to the watched root; `kind`: file system type.

        `limit`: distinct changed names above which everything is compared. Raises OSError (EMFILE).
        """
        self._path, self._prefix, self._limit = path.rstrip(b"/") or b"/", prefix, limit
        self._rules = rules if rules else None
        self._count_leaves = kind in LEAF_COUNTED
        self._instance = kernel.open_instance()
        self._tree = WatchTree()
        self._top = 0
        self._device = self._inode = 0
        self._mounts: Container[bytes] = ()
        """Directories, relative to the watched root, on which something is mounted: others look after them."""
        self._again_at: float | None = None
        self._window: dict[bytes, int] = {}
        """Watch descriptor as the kernel writes it, and padded name -> mask."""
        self._rewritten: set[bytes] = set()
        """Whole events, all with one mask: files that were rewritten, and nothing else."""
        self._lost = self._folded = False
        self._unsettled = False
        """Directories were renamed, and not all watches are known to stand where they do."""
        self._kept: dict[bytes, int] = {}
        """As `_window`: what was named meanwhile, perhaps by a former path, and is named again when all is settled."""
        self._gone: dict[int, bytes] = {}
        """Watch of a directory that is gone since the last take -> where it stood."""
        self._linked: dict[bytes, LinkedFile] = {}
        """New names of files that have several."""
        self._files: dict[int, LinkedFile] = {}
        """Watch of a file with several names -> that file."""
        self._heard: dict[LinkedFile, int] = {}
        """Those of which a watch told since the last take -> change bits."""
        self._file_moves = FileMoves()
        self._newest = 0
        """The newest watch when the window was opened."""
        self._calm = False
        """All watches were known to stand where they do when the window was opened."""
        self._moves: list[Move] = []
        """What was moved in the window that was ended last."""
        self._to_walk: list[tuple[int, bytes, int]] = []
        """(watch of the parent, name, window) of directories that appeared."""
        self._takes = 0
        self._moved: set[int] = set()
        self._work: Iterator[None] | None = None
        self.root_gone = False
        self.directory_moved = False
        self.overflowed = False
        """The kernel's queue was full: to be told, and reset."""

    def arm(self) -> Iterator[None]:
        """Watch every directory. Raises OperatorError; OutOfWatches."""
        try:
            self._top = kernel.add_watch(self._instance, self._path)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise OutOfWatches from None
            raise OperatorError(
                f"cannot watch {os.fsdecode(self._path)}: {error.strerror}", "see its rights", Exit.SOURCE
            ) from None
        found = os.stat(self._path)
        self._device, self._inode = found.st_dev, found.st_ino
        self._tree.put(self._top, 0, b"")
        yield from self._walk(self._top)
        self._tree.settle()
        self._tree.left.clear()
        self._newest, self._calm = self._tree.newest, True

    @property
    def watches(self) -> int:
        """Return the number of watches."""
        return self._tree.count

    def fileno(self) -> int:
        """Return the instance's descriptor."""
        return self._instance

    def due(self) -> float | None:
        """Return when `drain` wants to be called: now, while directories are walked."""
        return 0.0 if self._busy() else self._again_at

    def _at_rest(self) -> bool:
        """Tell whether all watches are known to stand where they do."""
        return not (self._unsettled or self._busy()) and self._again_at is None

    def _busy(self) -> bool:
        return self._work is not None or bool(self._to_walk) or bool(self._moved)

    def drain(self) -> bool:
        """Fold what the kernel has (see `monitor.base`). Raises OutOfWatches."""
        until = time.monotonic() + _DRAIN_SECONDS
        emptied = False
        while (now := time.monotonic()) <= until:
            try:
                data = os.read(self._instance, _READ)
            except BlockingIOError:
                emptied = True
                break
            self._fold(data)
        if len(self._window) + len(self._rewritten) > self._limit:
            self._fold_siblings()
        if emptied or self._work is not None:
            self._go_on(until)
        if emptied and self._at_rest():
            self._tree.clock = now  # what is told from now on happened later
        return bool(self._window or self._rewritten) or self._lost

    def _fold(self, data: bytes) -> None:
        """Fold a buffer of events; what is none, which no kernel was seen to write, counts as one that was lost."""
        try:
            self._fold_events(data)
        except (struct.error, ValueError):
            self._lost = True

    def _fold_events(self, data: bytes) -> None:
        window, get, event = self._window, self._window.get, _EVENT
        offset, end = 0, len(data)
        alone = 0
        while offset < end:
            watch, mask, size = event(data, offset)
            start = offset + 16
            if not mask & ~_CONTENT and not alone:
                count = self._fold_run(data, offset, size)
                if count:
                    offset += count * (16 + size)
                    continue
                alone = LEAST
            if alone:
                alone -= 1
            key = data[offset : offset + 4] + data[start : start + size]
            if mask & ~_CONTENT or key in window:
                window[key] = get(key, 0) | mask
            else:
                self._rewritten.add(data[offset : offset + 4] + _MODIFIED + data[offset + 8 : start + size])
            offset = start + size
            if mask & _TREE:
                self._fold_tree(watch, mask, key)
            if mask & _RENAMED:
                self._fold_move(mask, data[offset - 8 - size : offset - 4 - size], key)

    def _fold_run(self, data: bytes, offset: int, size: int) -> int:
        """Fold events from `offset` on that all speak of rewritten files; return how many."""
        columns = [(at, data[offset + at : offset + at + 1]) for at in _LENGTH]
        columns += [(4, _REWRITTEN), (5, b"\0"), (6, b"\0"), (7, b"\0")]
        count = run_length(data, offset, 16 + size, columns)
        if count:
            length = 16 + size
            events = bytearray(data[offset : offset + count * length])
            events[4::length] = bytes((kernel.MODIFY,)) * count
            self._rewritten.update(chain.from_iterable(struct.iter_unpack(f"{length}s", events)))
        return count

    def _fold_tree(self, watch: int, mask: int, key: bytes) -> None:
        if mask & kernel.Q_OVERFLOW:
            del self._window[key]
            self._lost = self.overflowed = True
            self._restart()
        elif mask & kernel.IGNORED:
            self._window.pop(key, None)
            self._files.pop(watch, None)
            self._forget(watch)
            self.root_gone |= watch == self._top
        elif mask & kernel.MOVE_SELF:
            self._unsettled = True
            self._moved.add(watch)
            self.root_gone |= watch == self._top
        elif mask & kernel.CREATE and not mask & kernel.ISDIR:
            self._look_at_new(watch, key)
        elif mask & kernel.ISDIR and mask & (kernel.CREATE | kernel.MOVED_TO):
            moved = bool(mask & kernel.MOVED_TO)
            self.directory_moved |= moved
            self._unsettled |= moved
            self._to_walk.append((watch, key[4:].partition(b"\0")[0], self._takes))
        elif mask & kernel.ISDIR and mask & kernel.ATTRIB and len(key) > 4 and os.geteuid():
            self._to_walk.append((watch, key[4:].partition(b"\0")[0], _READABLE))

    def _fold_move(self, mask: int, cookie: bytes, key: bytes) -> None:
        """Note that a file has left its name, or got another one; what was written to it goes with it."""
        if mask & kernel.MOVED_FROM:
            rewritten = key[:4] + _MODIFIED + bytes(4) + (len(key) - 4).to_bytes(4, sys.byteorder) + key[4:]
            known = self._window.get(key, 0)
            written = _CONTENT if known & (_CONTENT | _CARRIED) or rewritten in self._rewritten else 0
            if not mask & kernel.ISDIR:
                created, removed = bool(known & kernel.CREATE), bool(known & kernel.DELETE)
                self._file_moves.leaves(
                    cookie, key, written, created=created, removed=removed, since=self._tree.clock
                )
        elif not mask & kernel.ISDIR and self._file_moves.comes(cookie, key) & _CONTENT:
            self._window[key] = self._window.get(key, 0) | _CARRIED

    def _look_at_new(self, watch: int, key: bytes) -> None:
        """Remember which file a new name stands for, if it has others: it may be written and removed unseen."""
        directory = self._tree.path(watch)
        if directory is None or len(self._linked) >= _LINKED_LIMIT:
            return
        name = key[4:].partition(b"\0")[0]
        try:
            found = os.lstat(self._full(join(directory, name)))
        except OSError:
            return
        if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
            file = LinkedFile(found.st_dev, found.st_ino, found.st_nlink)
            path = join(self._prefix, join(directory, name))
            self._linked[path] = file
            self.watch_file(path, file)

    def watch_file(self, path: bytes, file: LinkedFile) -> int:
        """Watch a file itself (see `monitor.base`)."""
        if file.dev != self._device or (self._prefix and not is_below(path, self._prefix)):
            return 0
        full = self._path + b"/" + path[len(self._prefix) :].lstrip(b"/")
        try:
            watch = kernel.add_watch(self._instance, full, kernel.FILE_WATCHED)
        except OSError:
            return 0  # gone; or no watches are left: directories need them more
        try:
            found = os.lstat(full)
        except OSError:
            found = None
        if found is not None and (found.st_dev, found.st_ino) == (file.dev, file.ino):
            self._files.pop(watch, None)
            self._files[watch] = file
            if len(self._files) > _FILES_LIMIT:
                self._unwatch_file(next(iter(self._files)))
            return found.st_ctime_ns
        if watch not in self._tree and watch not in self._files:
            kernel.remove_watch(self._instance, watch)
        return 0

    def _unwatch_file(self, watch: int) -> None:
        del self._files[watch]
        kernel.remove_watch(self._instance, watch)

    def survivors(self) -> Iterator[Unnamed]:
        """Yield files that had a new name in the last window, or that were heard of (see `monitor.base`)."""
        linked, self._linked = self._linked, {}
        heard, self._heard = self._heard, {}
        yield from (Unnamed(file, path, CONTENT) for path, file in linked.items())
        yield from (Unnamed(file, None, bits) for file, bits in heard.items())

    def compared(self, directories: Iterable[bytes], since_ns: int) -> None:
        """Do nothing: every name that comes and goes is told."""

    def _fold_siblings(self) -> None:
        """Bounded memory: many names of one directory become a doubt about it."""
        self._folded = True
        merge(self._window, map(_key, self._rewritten), _CONTENT)
        self._rewritten.clear()
        if len(self._window) <= self._limit:
            return  # some stood in both
        siblings = Counter(key[:4] for key in self._window)
        folded: dict[bytes, int] = {}
        for key, mask in self._window.items():
            many = siblings[key[:4]] >= 8
            kept = key[:4] if many else key
            folded[kept] = folded.get(kept, 0) | (_FOLDED if many else mask)
        self._window = folded
        if len(folded) > self._limit // 2:
            self._window, self._lost = {}, True

    # -- the tree of watches -----------------------------------------------------------------------------------

    def set_mounts(self, prefixes: Container[bytes]) -> None:
        """Be told where other file systems, or other views of this one, are mounted."""
        self._mounts = prefixes

    def _restart(self) -> None:
        """After an overflow nothing is known of new directories: walk everything again."""
        self._to_walk.clear()
        self._unsettled = True
        self._work = self._walk_again()

    def _go_on(self, until: float) -> None:
        """Watch what appeared, let go of what left; a little at a time."""
        if self._again_at is not None and time.monotonic() >= self._again_at:
            self._again_at = None
            self._restart()
        try:
            self._go_on_until(until)
        except OSError:
            # Something below cannot be listed now (EIO, ENOMEM, ESTALE): nothing is known until it can.
            self._work, self._lost = None, True
            self._again_at = time.monotonic() + _AGAIN

    def _go_on_until(self, until: float) -> None:
        while time.monotonic() < until:
            if self._work is None:
                if self._to_walk:
                    self._work = self._appeared(*self._to_walk.pop(0))
                elif self._moved:
                    self._work = self._left()
                else:
                    self._settle()
                    return
            for _ in self._work:
                if time.monotonic() > until:
                    return
            self._work = None

    def _settle(self) -> None:
        """All watches stand where we think: name again what was named before they did."""
        if self._unsettled and self._again_at is None:
            self._unsettled = False
            kept, self._kept = self._kept, {}
            for key, mask in kept.items():
                self._window[key] = self._window.get(key, 0) | mask

    def _keep(self, window: dict[bytes, int], rewritten: set[bytes]) -> bool:
        """Keep what is to be named again; return whether there is room for it."""
        kept = self._kept
        if len(kept) + len(window) + len(rewritten) > self._limit:
            return False
        for key, mask in window.items():
            kept[key] = kept.get(key, 0) | mask
        merge(kept, map(_key, rewritten), _CONTENT)
        return True

    def uncovered(self, path: bytes) -> None:
        """Watch a directory of this file system on which another one was mounted until now."""
        above, _, name = path.rpartition(b"/")
        with self._opened(above) as here:
            if here is None:
                return  # gone with what is above it
            parent = kernel.add_watch(self._instance, b"/proc/self/fd/%d" % here, _BY_DESCRIPTOR)
        if parent in self._tree:
            self._to_walk.append((parent, name, self._takes))

    def _appeared(self, parent: int, name: bytes, window: int) -> Iterator[None]:
        above = self._tree.path(parent)
        if above is None:
            return
        path = join(above, name)
        if self._rules is not None and not self._rules.reaches(join(self._prefix, path)):
            return
        known = self._tree.count
        with self._opened(above) as here:
            watch, inode = self._watch(parent, path, here) if here is not None and self._is(here, parent) else (0, 0)
        if not watch or (window == _READABLE and self._tree.count == known):
            return
        if inode:
            yield from self._walk(watch)
        if window != self._takes:
            # It was handed over before all of it was watched: what changed in between went unseen.
            key = watch.to_bytes(4, sys.byteorder)
            self._window[key] = self._window.get(key, 0) | _FOLDED

    @contextmanager
    def _opened(self, path: bytes) -> Iterator[int | None]:
        """Open a directory below the top for the time of a `with` block; None where there is none now.

        No symlink is followed: an ancestor may have been replaced by one. Raises OSError for anything else.
        """
        here = None
        try:
            top = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                found = os.fstat(top)
                if (found.st_dev, found.st_ino) == (self._device, self._inode):
                    here = open_beneath(top, path, DIRECTORY_FLAGS)
                else:
                    self.root_gone = True
            finally:
                os.close(top)
        except OSError as error:
            if error.errno not in (errno.EACCES, *GONE):
                raise
            self._check_top(error)
        try:
            yield here
        finally:
            if here is not None:
                os.close(here)

    def _check_top(self, error: OSError) -> None:
        """Notice where it is the top that is gone: then nothing tells of what is made below it meanwhile."""
        self.root_gone |= error.filename == self._path and error.errno in GONE

    def _is(self, here: int, watch: int) -> bool:
        """Tell whether an open directory is the one that is watched by `watch`.

        Another one may have taken its place: what lies in that is told, and found, when its own move is read.
        """
        found = kernel.add_watch(self._instance, b"/proc/self/fd/%d" % here, _BY_DESCRIPTOR)
        if found != watch and found not in self._tree and found not in self._files:
            kernel.remove_watch(self._instance, found)
        return found == watch

    def _watch(self, parent: int, path: bytes, above: int) -> tuple[int, int]:
        """Watch the directory `path`, whose parent is open; return (watch, its inode).

        The watch is 0 where there is no directory, or another mount; the inode where it holds no directory.
        """
        name = path.rpartition(b"/")[2]
        if join(self._prefix, path) in self._mounts:
            return 0, 0
        try:
            watch = kernel.add_watch(self._instance, b"/proc/self/fd/%d/%s" % (above, name))
            found = os.stat(name, dir_fd=above, follow_symlinks=False)
        except OSError as error:
            if error.errno == errno.ENOSPC and self._files:
                for file in list(self._files):
                    self._unwatch_file(file)
                return self._watch(parent, path, above)
            if error.errno == errno.ENOSPC:
                raise OutOfWatches from None
            if error.errno in (errno.EACCES, *GONE):
                return 0, 0  # gone: its own event follows; not ours to read: then no handler can read it either
            raise
        if watch == self._top:
            return 0, 0  # another view of the top, below itself
        if found.st_dev != self._device:
            kernel.remove_watch(self._instance, watch)
            return 0, 0
        self._tree.put(watch, parent, name)
        return watch, 0 if self._count_leaves and found.st_nlink == 2 else found.st_ino

    def _full(self, path: bytes) -> bytes:
        return self._path + b"/" + path if path else self._path

    def _walk(self, top: int) -> Iterator[None]:
        """Watch all directories below a watched one; set the watch first, list then. Raises OSError."""
        path = self._tree.path(top)
        if path is None:
            return
        with self._opened(path) as here:
            if here is None or not self._is(here, top):
                return
            pending = [(top, path, os.fstat(here).st_ino)]
        rules, prefix = self._rules, self._prefix
        while pending:
            watch, path, inode = pending.pop()
            with self._opened(path) as here:
                same = here is not None and os.fstat(here).st_ino == inode
                for name in self._subdirectories(here) if here is not None and same else ():
                    below = path + b"/" + name if path else name
                    if rules is not None and not rules.reaches(join(prefix, below)):
                        continue
                    assert here is not None
                    child, inside = self._watch(watch, below, here)
                    if inside:
                        pending.append((child, below, inside))
            yield

    @staticmethod
    def _subdirectories(directory: int) -> list[bytes]:
        try:
            with os.scandir(b"/proc/self/fd/%d" % directory) as entries:
                return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError as error:
            if error.errno in (errno.EACCES, *GONE):
                return []
            raise

    def _walk_again(self) -> Iterator[None]:
        """Walk everything, then let go of watches that are no longer where they were."""
        before, window = set(self._tree), self._takes
        yield from self._walk(self._top)
        self._lost |= window != self._takes
        for watch in before:
            if watch != self._top and watch in self._tree and not self._stands(watch):
                kernel.remove_watch(self._instance, watch)
                self._forget(watch)
            yield

    def _stands(self, watch: int) -> bool:
        """Tell whether a watched directory stands where we think it does."""
        path = self._tree.path(watch)
        if path is None:
            return False
        try:
            with self._opened(path) as here:
                return here is not None and self._is(here, watch)
        except OSError:
            return True

    def _left(self) -> Iterator[None]:
        """Let go of directories that were moved out of the tree, and of everything below them."""
        moved, self._moved = self._moved, set()
        out = {w for w in moved if w != self._top and w in self._tree and not self._stands(w)}
        if not out:
            return
        kept = {self._top}
        for number, watch in enumerate(list(self._tree)):
            chain = []
            at = watch
            while at and at in self._tree and at not in kept and at not in out:
                chain.append(at)
                at = self._tree.parent(at)
            (kept if at in kept else out).update(chain)
            if not number % 64:
                yield
        for watch in out:
            self._remember(watch)
        for watch in out:
            kernel.remove_watch(self._instance, watch)
            self._tree.drop(watch)

    def _forget(self, watch: int) -> None:
        self._remember(watch)
        self._tree.drop(watch)

    def _remember(self, watch: int) -> None:
        """Keep the path of a directory that is gone: files in it may have been written through other names too."""
        path = self._tree.path(watch)
        if path is not None and len(self._gone) < _LINKED_LIMIT:
            self._gone[watch] = path

    # -- handing on --------------------------------------------------------------------------------------------

    def take(self) -> Iterator[Changed]:
        """End the window (see `monitor.base`)."""
        window, self._window = self._window, {}
        rewritten, self._rewritten = self._rewritten, set()
        lost, self._lost = self._lost, False
        self._end_moves(window, lost)
        self._takes += 1
        if self._unsettled:
            lost |= not self._keep(window, rewritten)
        gone, self._gone = self._gone, {}
        return self._named(window, rewritten, lost, gone)

    def _end_moves(self, window: dict[bytes, int], lost: bool) -> None:
        """Find what was moved in a window that ends now, if that is sure."""
        left, self._tree.left = self._tree.left, {}
        files, self._file_moves = self._file_moves, FileMoves()
        newest, self._newest = self._newest, self._tree.newest
        sure, self._calm = self._calm and self._at_rest() and not lost and not self._folded, self._at_rest()
        self._folded = False
        self._moves = []
        if not sure or not (left or files) or len(left) > MOVES_LIMIT:
            return
        traces: dict[Hashable, Trace] = {
            watch: Trace(parent, name, True, watch > newest, since) for watch, (parent, name, since) in left.items()
        }
        found = files.found(window, kernel.CREATE | kernel.DELETE)
        if found is None:
            return
        for number, move in enumerate(found):
            traces[-number - 1] = Trace(_watch_of(move.old), _name_of(move.old), False, move.fresh, move.since)
        stats = {number: self._file_at(move.new) for number, move in enumerate(found)}

        def now(key: Hashable) -> bytes | None:
            assert isinstance(key, int)
            if key < 0:
                return self._path_of(found[-key - 1].new) if stats[-key - 1] else None
            path = self._tree.path(key)
            return join(self._prefix, path) if path is not None else None

        self._moves = moves_of(traces, now, lambda key: stats[-key - 1] if isinstance(key, int) and key < 0 else 0)

    def _path_of(self, key: bytes) -> bytes | None:
        directory = self._tree.path(_watch_of(key))
        return join(self._prefix, join(directory, _name_of(key))) if directory is not None else None

    def _file_at(self, key: bytes) -> int:
        """Return the inode of a regular file with one name; 0: there is none."""
        directory = self._tree.path(_watch_of(key))
        if directory is None:
            return 0
        try:
            found = os.lstat(self._full(join(directory, _name_of(key))))
        except OSError:
            return 0
        return found.st_ino if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 else 0

    def moves(self) -> Iterator[Move | None]:
        """Yield what was moved in the window that was ended last (see `monitor.base`)."""
        moves, self._moves = self._moves, []
        return iter(moves)

    def _named(
        self, window: dict[bytes, int], rewritten: set[bytes], lost: bool, gone: dict[int, bytes]
    ) -> Iterator[Changed]:
        if lost:
            yield [self._prefix], DOUBT
        known: dict[bytes, bytes | None] = {}
        version = self._tree.version
        while window:
            key, mask = window.popitem()
            if version != self._tree.version:
                known.clear()
                version = self._tree.version
            watch = key[:4]
            if watch not in known:
                known[watch] = self._directory(int.from_bytes(watch, sys.byteorder))
            directory = known[watch]
            if directory is None:
                directory = self._former_directory(int.from_bytes(watch, sys.byteorder), mask, gone)
            if directory is None:
                continue
            name = key[4:].rstrip(b"\0")
            if name:
                yield [join(directory, name)], _bits(mask)
            elif mask & _FOLDED:
                yield [directory], DOUBT
            elif mask & kernel.ATTRIB:
                yield [directory], ATTRIB

        def directories(watch: bytes, events: list[bytes]) -> Iterable[bytes]:
            del events
            number = int.from_bytes(watch, sys.byteorder)
            directory = self._directory(number)
            if directory is None:
                directory = self._former_directory(number, _CONTENT, gone)
            return () if directory is None else (directory,)

        for paths in in_order(rewritten, lambda event: 4, directories, begin=16):
            yield paths, CONTENT

    def _former_directory(self, watch: int, mask: int, gone: dict[int, bytes]) -> bytes | None:
        """Return where the directory stood in which files were written; note the file if the watch is that of one."""
        file = self._files.get(watch)
        if file is not None:
            self._heard[file] = self._heard.get(file, 0) | _bits(mask)
            return None
        left = gone.get(watch, self._gone.get(watch))
        return join(self._prefix, left) if mask & _WRITTEN and left is not None else None

    def _directory(self, watch: int) -> bytes | None:
        """Return where a watched directory stands, relative to the root; None if its events do not count."""
        path = self._tree.path(watch)
        if path is None:
            return None
        directory = join(self._prefix, path)
        return directory if self._rules is None or self._rules.watches(directory) else None

    def close(self) -> None:
        """Give the instance and all watches back."""
        os.close(self._instance)


def _watch_of(key: bytes) -> int:
    return int.from_bytes(key[:4], sys.byteorder)


def _name_of(key: bytes) -> bytes:
    return key[4:].rstrip(b"\0")


def _key(event: bytes) -> bytes:
    """Return the key in the window for an event that is kept whole."""
    return event[:4] + event[16:]


@functools.cache
def _bits(mask: int) -> int:
    bits = 0
    if mask & _CONTENT:
        bits |= CONTENT
    if mask & kernel.ATTRIB:
        bits |= ATTRIB
    if mask & _NAME:
        bits |= NAME | (OF_DIRECTORY if mask & kernel.ISDIR else 0) | (MOVED if mask & _RENAMED else 0)
        bits |= CARRIED if mask & _CARRIED else 0
    return bits or ATTRIB
