"""The monitor of a whole tree: for each mount the best that can be had there, and mounts that come and go."""

from __future__ import annotations

import errno
import os
import select
import stat
import time
from collections.abc import Callable, Container, Iterable, Iterator
from itertools import chain
from typing import Protocol

from clsync.core.changes import DOUBT, UNMOUNTED
from clsync.core.classify import LinkedFile
from clsync.core.moves import Move
from clsync.core.paths import is_below, join, parent, shown
from clsync.core.rules import Rules
from clsync.errors import Exit, OperatorError
from clsync.kernel.mounts import Mount, MountWatch, mounts_at_and_below, read_mounts
from clsync.monitor.base import Changed, Unnamed
from clsync.monitor.fanotify import FanotifyMonitor
from clsync.monitor.inotify import InotifyMonitor, OutOfWatches
from clsync.monitor.poll import PollMonitor

REMOTE_KINDS = frozenset(("nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "afs", "ocfs2", "gfs2", "lustre", "beegfs"))
"""File systems that others change: the kernel here does not hear of it."""
_SHORT_REST = 0.01
"""Seconds between two reads; the queue of inotify holds more than comes in that time."""
_LONG_REST = 0.05
"""The same for fanotify, the queue of which has no limit but memory."""
_BETWEEN_OVERFLOWS = 60.0
"""Seconds in which only the first one is told."""
_REASONS = {
    errno.EPERM: "it needs root (CAP_SYS_ADMIN)",
    errno.EXDEV: "a btrfs subvolume cannot be marked",
    errno.ENODEV: "the file system has no id",
    errno.EOPNOTSUPP: "the file system has no file handles",
    errno.ENOSYS: "the kernel does not have it",
    errno.EINVAL: "the kernel is too old for it",
    errno.ESTALE: "the file system cannot open its handles",
}


class Part(Protocol):
    """A monitor of one mount (see `monitor.base`)."""

    root_gone: bool
    directory_moved: bool
    """A directory may stand elsewhere now, and mounts below it with it; reset by the reader."""

    def arm(self) -> Iterator[None]: ...
    def fileno(self) -> int: ...
    def due(self) -> float | None: ...
    def drain(self) -> bool: ...
    def take(self) -> Iterator[Changed]: ...
    def moves(self) -> Iterator[Move | None]: ...
    def survivors(self) -> Iterator[Unnamed | None]: ...
    def watch_file(self, path: bytes, file: LinkedFile) -> int: ...
    def compared(self, directories: Iterable[bytes], since_ns: int) -> None: ...
    def uncovered(self, path: bytes) -> None: ...
    def set_mounts(self, prefixes: Container[bytes]) -> None: ...
    def close(self) -> None: ...


class TreeMonitor:
    """Watches one tree, mount by mount. Implements `monitor.base.Monitor`."""

    def __init__(
        self,
        root: bytes,
        *,
        kind: str,
        rules: Rules,
        follow_mounts: bool,
        poll_interval: float,
        log: Callable[[str], None],
    ) -> None:
        """`root`: absolute, without symlinks; `kind`: auto, fanotify, inotify or poll; `poll_interval`: seconds."""
        self._root, self._kind, self._rules = root, kind, rules
        self._follow, self._interval, self._log = follow_mounts, poll_interval, log
        self._fanotify: FanotifyMonitor | None = None
        self._parts: dict[bytes, Part] = {}
        self._arming: set[bytes] = set()
        self._chosen: dict[bytes, str] = {}
        self._mounts: dict[bytes, Mount] = {}
        self._doubts: set[bytes] = set()
        self._overflow_told: dict[bytes, float] = {}
        """When that was said of a part last (monotonic seconds)."""
        self._unmounted: set[bytes] = set()
        """Those of the doubts that are where something was mounted."""
        self._gone = self._covered = False
        self._mounts_came = False
        """Mounts came or went since the last take."""
        self._epoll = select.epoll()
        self._mount_watch = self._watch_mounts()
        self._identity: tuple[int, int] | None = None
        self._coming: list[tuple[bytes, Iterator[None]]] = []

    def _watch_mounts(self) -> MountWatch | None:
        try:
            watch = MountWatch()
        except OSError:
            return None
        self._epoll.register(watch.descriptor, select.EPOLLIN)
        return watch

    # -- arming ------------------------------------------------------------------------------------------------

    def arm(self) -> Iterator[None]:
        """Watch everything (see `monitor.base`)."""
        found = os.stat(self._root)
        self._identity = found.st_dev, found.st_ino
        holder, below = self._look_at_mounts()
        self._mounts = {b"": holder} | below
        for prefix, mount in self._mounts.items():
            try:
                yield from self._add(prefix, mount)
            except OperatorError as error:
                if not prefix or self._kind != "auto":
                    raise
                self._log(f"{shown(join(self._root, prefix))} is not watched: {error}")

    def _look_at_mounts(self) -> tuple[Mount, dict[bytes, Mount]]:
        try:
            mounts = read_mounts()
        except OSError:
            return Mount(0, 0, b"", b"/", ""), {}
        holder, below = mounts_at_and_below(self._root, mounts)
        top = self._root.rstrip(b"/")
        return holder, {m.point[len(top) + 1 :]: m for m in below if self._follows(m)}

    def _follows(self, mount: Mount) -> bool:
        if not self._follow:
            try:
                # As rsync -x: another view of the same device is no other file system.
                return os.stat(mount.point).st_dev == os.stat(self._root).st_dev
            except OSError:
                return False
        return True

    def _add(self, prefix: bytes, mount: Mount) -> Iterator[None]:
        """Watch one mount by the first means that can be had."""
        path = join(self._root.rstrip(b"/"), prefix) if prefix else self._root
        try:
            if not stat.S_ISDIR(os.stat(path).st_mode):
                return  # a single file mounted: its directory reports nothing of it
        except OSError:
            return
        why = ""
        if self._kind in ("auto", "fanotify") and mount.kind not in REMOTE_KINDS:
            why = self._add_fanotify(prefix, path)
            if not why:
                return
        if self._kind == "fanotify" and not prefix:
            raise OperatorError(
                f"--monitor=fanotify cannot watch {shown(path)}: {why}",
                "use --monitor=auto, which falls back by itself",
                Exit.MONITOR,
            )
        if self._kind == "poll" or (self._kind == "auto" and mount.kind in REMOTE_KINDS):
            reason = "" if self._kind == "poll" else f" (other hosts change {mount.kind} unseen)"
            yield from self._add_poll(prefix, path, reason)
            return
        yield from self._add_inotify(prefix, path, mount.kind, why)

    def _add_fanotify(self, prefix: bytes, path: bytes) -> str:
        """Mark a file system; return why not, or nothing."""
        try:
            if self._fanotify is None:
                self._fanotify = FanotifyMonitor(self._rules)
                self._epoll.register(self._fanotify.fileno(), select.EPOLLIN)
            self._fanotify.add(prefix, path)
        except OSError as error:
            return _REASONS.get(error.errno or 0, error.strerror or str(error))
        self._chosen[prefix] = "fanotify"
        return ""

    def _add_inotify(self, prefix: bytes, path: bytes, kind: str, why: str) -> Iterator[None]:
        part: InotifyMonitor | None = None
        try:
            part = InotifyMonitor(path, prefix, self._rules, kind)
            self._enter(prefix, part, f"inotify (no fanotify: {why})" if why else "inotify")
            yield from self._armed(prefix, part)
        except (OutOfWatches, OSError) as error:
            if part is not None:
                self._drop_part(prefix)
            if isinstance(error, OutOfWatches):
                trouble, limit = "there are more directories than watches", "max_user_watches"
            elif error.errno == errno.EMFILE:
                trouble, limit = "there are too many inotify instances", "max_user_instances"
            else:
                trouble, limit = str(error), ""
            hint = f"raise it: sysctl fs.inotify.{limit}=N" if limit else "use --monitor=poll"
            if self._kind == "inotify" and not prefix:
                raise OperatorError(
                    f"--monitor=inotify cannot watch {shown(path)}: {trouble}", hint, Exit.MONITOR
                ) from None
            self._log(f"{shown(path)}: {trouble}; {hint}; polling it every {self._interval:g} s instead")
            yield from self._add_poll(prefix, path, f" (inotify: {trouble})")

    def _add_poll(self, prefix: bytes, path: bytes, reason: str) -> Iterator[None]:
        part = PollMonitor(path, prefix, self._rules, self._interval)
        self._enter(prefix, part, f"poll every {self._interval:g} s{reason}")
        yield from self._armed(prefix, part)

    def _armed(self, prefix: bytes, part: Part) -> Iterator[None]:
        self._arming.add(prefix)
        try:
            yield from part.arm()
        finally:
            self._arming.discard(prefix)

    def _enter(self, prefix: bytes, part: Part, chosen: str) -> None:
        part.set_mounts(self._mounts.keys())
        self._parts[prefix] = part
        self._chosen[prefix] = chosen
        self._epoll.register(part.fileno(), select.EPOLLIN)

    def _drop_part(self, prefix: bytes) -> None:
        part = self._parts.pop(prefix, None)
        if part is not None:
            self._epoll.unregister(part.fileno())
            part.close()

    def describe(self) -> str:
        """Return what watches which file system, and why."""
        texts = [self._chosen.get(b"", "nothing")]
        texts += [f"{shown(prefix)}: {chosen}" for prefix, chosen in sorted(self._chosen.items())[:6] if prefix]
        more = len(self._chosen) - 6
        return ", ".join(texts) + (f" and {more} more mounts" if more > 0 else "")

    # -- draining ----------------------------------------------------------------------------------------------

    def fileno(self) -> int:
        """Return a descriptor that is readable when any part has news."""
        return self._epoll.fileno()

    def root_gone(self) -> bool:
        """Tell whether the root was deleted, moved away or unmounted."""
        return self._gone or self._covered

    def due(self) -> float | None:
        """Return when `drain` wants to be called."""
        times = [part.due() for prefix, part in self._parts.items() if prefix not in self._arming]
        if self._fanotify is not None:
            times.append(self._fanotify.due())
        if self._coming:
            times.append(0.0)
        return min((at for at in times if at is not None), default=None)

    def begin_look(self) -> None:
        """Begin to look at everything again, where that is done at intervals."""
        for part in self._parts.values():
            if isinstance(part, PollMonitor):
                part.begin_look()

    def looking(self) -> bool:
        """Tell whether a look that was begun this way goes on."""
        return any(part.looking() for part in self._parts.values() if isinstance(part, PollMonitor))

    def rest(self) -> float:
        """Return for how long events may gather in the kernel (see `monitor.base`)."""
        limited = any(isinstance(part, InotifyMonitor) for part in self._parts.values())
        if limited:
            return _SHORT_REST
        return 0.0 if self._fanotify is not None and self._fanotify.behind else _LONG_REST

    def drain(self) -> bool:
        """Fold what the kernel has (see `monitor.base`)."""
        ready = dict(self._epoll.poll(0))
        if self._mount_watch is not None and self._mount_watch.descriptor in ready:
            self._mount_watch.seen()
            self._mounts_changed()
        filled = False
        if self._fanotify is not None:
            filled |= self._fanotify.drain()
            if self._fanotify.directory_moved:
                self._fanotify.directory_moved = False
                self._check_root()
                self._check_mounts()
        for prefix, part in list(self._parts.items()):
            if self._parts.get(prefix) is part:  # a mount that went took its own along
                filled |= self._drain_part(prefix, part)
        if self._coming:
            self._go_on_coming()
        return filled or bool(self._doubts)

    def _drain_part(self, prefix: bytes, part: Part) -> bool:
        try:
            filled = part.drain()
        except OutOfWatches:
            if prefix in self._arming:
                return False  # arming meets it too, and answers it
            self._fall_back(prefix)
            return True
        if isinstance(part, InotifyMonitor) and part.overflowed:
            part.overflowed = False
            self._tell_overflow(prefix)
        if part.root_gone and not prefix:
            self._check_root(suspect=True)
        if part.directory_moved:
            part.directory_moved = False
            self._check_mounts()
        return filled

    def _tell_overflow(self, prefix: bytes) -> None:
        """Say that events were lost, now and then: there may be hundreds of these."""
        now = time.monotonic()
        if now > self._overflow_told.get(prefix, -_BETWEEN_OVERFLOWS) + _BETWEEN_OVERFLOWS:
            self._overflow_told[prefix] = now
            self._log(
                f"{shown(join(self._root, prefix) if prefix else self._root)}: overflow of the kernel's event queue,"
                " what is there is compared; a larger one helps: sysctl fs.inotify.max_queued_events=N"
            )

    def _fall_back(self, prefix: bytes) -> None:
        """Poll what can be watched no longer."""
        path = join(self._root.rstrip(b"/"), prefix) if prefix else self._root
        self._drop_part(prefix)
        self._log(
            f"{shown(path)}: there are more directories than watches; raise it: sysctl fs.inotify.max_user_watches=N;"
            f" polling every {self._interval:g} s from now on"
        )
        self._doubts.add(prefix)
        self._coming.append((prefix, self._add_poll(prefix, path, " (inotify: out of watches)")))

    def _go_on_coming(self) -> None:
        """Go on arming what was mounted while we watched."""
        for _ in range(16):
            try:
                next(self._coming[0][1])
                continue
            except StopIteration:
                pass
            except (OperatorError, OSError) as error:
                self._log(f"{shown(join(self._root, self._coming[0][0]))} is not watched: {error}")
            # What happened before it was armed went unseen.
            self._doubts.add(self._coming.pop(0)[0])
            if not self._coming:
                return

    def _check_root(self, suspect: bool = False) -> None:
        try:
            found = os.stat(self._root)
            self._gone = (found.st_dev, found.st_ino) != self._identity or (suspect and not found.st_nlink)
        except OSError:
            self._gone = True

    def _check_mounts(self) -> None:
        """A directory was renamed: the mounts below it went along, of which the kernel tells nothing."""
        if len(self._mounts) > 1:
            self._mounts_changed()

    def _mounts_changed(self) -> None:
        """Let go of what was unmounted; watch what was mounted."""
        before = set(self._mounts.values())
        holder, below = self._look_at_mounts()
        if holder.is_another(self._mounts[b""]):
            self._let_go(b"")
            self._covered = True  # nothing of ours watches what stands here now, even if it is the same directory
        for prefix in [p for p in self._mounts if p]:
            if prefix not in below or below[prefix].is_another(self._mounts[prefix]):
                self._let_go(prefix)
                del self._mounts[prefix]
                self._doubts.add(prefix)
                self._unmounted.add(prefix)
                self._uncover(prefix)
        for prefix, mount in below.items():
            if prefix not in self._mounts:
                self._mounts[prefix] = mount
                self._doubts.add(prefix)
                self._coming.append((prefix, self._add(prefix, mount)))
        self._mounts_came |= before != set(self._mounts.values())

    def _uncover(self, prefix: bytes) -> None:
        """What a mount has hidden belongs to the file system around it again."""
        around = parent(prefix)
        while around and around not in self._mounts:
            around = parent(around)
        part = self._parts.get(around)
        if part is not None:
            part.uncovered(prefix[len(around) :].lstrip(b"/"))

    def _let_go(self, prefix: bytes) -> None:
        if self._chosen.pop(prefix, "") == "fanotify" and self._fanotify is not None:
            self._fanotify.remove(prefix)
        self._drop_part(prefix)

    def take(self) -> Iterator[Changed]:
        """End the window (see `monitor.base`)."""
        doubts, self._doubts = self._doubts, set()
        unmounted, self._unmounted = self._unmounted, set()
        takes = [part.take() for prefix, part in self._parts.items()]
        if self._fanotify is not None:
            takes.append(self._fanotify.take())
        return self._chained(doubts - unmounted, unmounted, takes)

    def moves(self) -> Iterator[Move | None]:
        """Yield what was moved (see `monitor.base`); nothing where a mount went along, or came or went."""
        mounts, found = [prefix for prefix in self._mounts if prefix], list[Move]()
        unsure, self._mounts_came = self._mounts_came, False
        takes = [part.moves() for part in self._parts.values()]
        if self._fanotify is not None:
            takes.append(self._fanotify.moves())
        for move in chain.from_iterable(takes):
            if move is not None:
                found.append(move)
            yield None
        if unsure or any(_holds(path, mount) for mount in mounts for move in found for path in (move.old, move.new)):
            return
        yield from found

    def watch_file(self, path: bytes, file: LinkedFile) -> int:
        """Hear of changes to a file with several names (see `monitor.base`)."""
        return max((part.watch_file(path, file) for part in self._parts.values()), default=0)

    def survivors(self) -> Iterator[Unnamed | None]:
        """Yield files that were written through a name that is gone (see `monitor.base`)."""
        if self._fanotify is not None:
            yield from self._fanotify.survivors()
        for part in list(self._parts.values()):
            yield from part.survivors()

    def compared(self, directories: Iterable[bytes], since_ns: int) -> None:
        """Take note of what was handed over whole (see `monitor.base`)."""
        listed = list(directories)
        for part in self._parts.values():
            part.compared(listed, since_ns)

    @staticmethod
    def _chained(doubts: set[bytes], unmounted: set[bytes], takes: list[Iterator[Changed]]) -> Iterator[Changed]:
        if doubts:
            yield list(doubts), DOUBT
        if unmounted:
            yield list(unmounted), DOUBT | UNMOUNTED
        for take in takes:
            yield from take

    def close(self) -> None:
        """Give everything back."""
        for prefix in list(self._parts):
            self._drop_part(prefix)
        if self._fanotify is not None:
            self._fanotify.close()
        if self._mount_watch is not None:
            self._mount_watch.close()
        self._epoll.close()


def _holds(path: bytes | None, mount: bytes) -> bool:
    """Tell whether a mount point is at or below a path."""
    return path is not None and (path == mount or is_below(mount, path))
