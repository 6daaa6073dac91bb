"""Mounts: which there are, when they change, and a private view of one that does not keep it busy."""

from __future__ import annotations

import ctypes
import os
import select
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from typing import Final, NamedTuple

from clsync.core.paths import ancestors, is_below
from clsync.kernel.features import refuse_if_forced
from clsync.kernel.libc import LIBC, checked

MOUNTINFO = b"/proc/self/mountinfo"
_SYS_OPEN_TREE = 428
_OPEN_TREE_CLONE = 1
_AT_FDCWD = -100


class Mount(NamedTuple):
    """One line of mountinfo (proc(5))."""

    number: int
    parent: int
    """The number of the mount on which it is mounted; that one may not be listed."""
    device: bytes
    point: bytes
    """Where it is mounted, absolute."""
    kind: str
    """File system type."""
    root: bytes = b"/"
    """The directory of the file system that is seen there."""

    def is_another(self, other: Mount) -> bool:
        """Tell whether another thing is mounted than `other` was; that of one device may still be another disk.

        The number of a mount that is gone is given to the next one.
        """
        return (self.number, self.device, self.root) != (other.number, other.device, other.root)


class MountWatch:
    """A descriptor that is readable when mounts have come or gone (proc_pid_mountinfo(5), Linux 2.6.15).

    A thread of its own waits: whoever asks mountinfo for news takes them, so that an epoll instance inside another
    one, which is asked twice, sees none.
    """

    def __init__(self) -> None:
        """Begin to watch. Raises OSError."""
        self._mountinfo = os.open(MOUNTINFO, os.O_RDONLY | os.O_CLOEXEC)
        self.descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._outlet, self._inlet = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._wait, name="mounts", daemon=True)
        self._thread.start()

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._mountinfo, select.POLLPRI | select.POLLERR)
        poll.register(self._outlet, select.POLLIN)
        while not any(descriptor == self._outlet for descriptor, _ in poll.poll()):
            os.eventfd_write(self.descriptor, 1)

    def seen(self) -> None:
        """Make the descriptor quiet until the next change."""
        try:
            os.eventfd_read(self.descriptor)
        except BlockingIOError:
            pass

    def close(self) -> None:
        """End the thread and give all descriptors back."""
        os.close(self._inlet)
        self._thread.join()
        for descriptor in (self._mountinfo, self.descriptor, self._outlet):
            os.close(descriptor)


def read_mounts() -> list[Mount]:
    """Return all mounts that can be reached from the root of this process, in no order. Raises OSError."""
    with open(MOUNTINFO, "rb", buffering=1 << 20) as file:
        return [_parsed(line) for line in file]


def _parsed(line: bytes) -> Mount:
    before, _, after = line.partition(b" - ")
    number, parent, device, root, point = before.split(b" ")[:5]
    kind = after.split(b" ", 1)[0].decode("ascii", "replace")
    return Mount(int(number), int(parent), device, _unescaped(point), kind, _unescaped(root))


def _unescaped(text: bytes) -> bytes:
    """Undo the octal escapes of mountinfo (blank, tab, newline, backslash)."""
    if b"\\" not in text:
        return text
    head, *rest = text.split(b"\\")
    return head + b"".join(bytes((int(part[:3], 8),)) + part[3:] for part in rest)


def mounts_at_and_below(root: bytes, mounts: Sequence[Mount]) -> tuple[Mount, list[Mount]]:
    """Return the mount that holds the directory `root`, and those that can be seen below it.

    `root` is absolute, without symlinks. It is looked up as the kernel does, from mount to mount: in which order they are
    listed says nothing. Where the mount that holds it is not listed, as after chroot(2) to a directory on which nothing is
    mounted, one with no device, no kind and the point `/` is returned in its place.
    """
    listed = {mount.number: mount for mount in mounts}
    upon: dict[int, dict[bytes, Mount]] = {}
    for mount in listed.values():
        if mount.point != b"/":  # whoever has a root does not see what is mounted over it later
            upon.setdefault(mount.parent, {})[mount.point] = mount
    holder, top = _entered(root, _root_of(listed), upon), root.rstrip(b"/")
    return holder, list(_seen_below(top, holder, upon))


def _root_of(listed: Mapping[int, Mount]) -> Mount:
    """Return the mount on which lookups begin.

    Its parent is out of sight, and so is one of others if it is not listed itself: then they share that one.
    """
    tops = [mount for mount in listed.values() if mount.parent == mount.number or mount.parent not in listed]
    shared = Counter(mount.parent for mount in tops)
    for mount in tops:
        if mount.point == b"/" and shared[mount.parent] == 1:
            return mount
    # The most: mounts that come and go while they are listed may leave others without a parent.
    number = max(shared, key=shared.__getitem__, default=0)
    return Mount(number, number, b"", b"/", "")


def _entered(path: bytes, mount: Mount, upon: Mapping[int, Mapping[bytes, Mount]]) -> Mount:
    """Return where a lookup of `path` ends that begins on `mount`; `upon`: number -> point -> what is mounted there."""
    for point in (*ancestors(path), path):
        while met := upon.get(mount.number, {}).get(point):
            mount = met
    return mount


def _seen_below(top: bytes, mount: Mount, upon: Mapping[int, Mapping[bytes, Mount]]) -> Iterator[Mount]:
    """Yield what can be seen below a directory of a mount; for `upon` see above. `top` has no slash at its end."""
    points = {point for point in upon.get(mount.number, ()) if is_below(point, top)}
    for point in sorted(points):
        if points.isdisjoint(ancestors(point)):
            seen = _entered(point, mount, upon)
            yield seen
            yield from _seen_below(point, seen, upon)


class Place(NamedTuple):
    """A directory by where it lies, whatever the mount by which it is seen."""

    device: bytes
    """Of its file system: MAJOR:MINOR."""
    path: bytes
    """On that file system, without a slash at its end."""

    def holds(self, other: Place) -> bool:
        """Tell whether another one is this one, or lies in it."""
        return self.device == other.device and (self.path == other.path or is_below(other.path, self.path))

    def meets(self, other: Place) -> bool:
        """Tell whether one of the two holds the other."""
        return self.holds(other) or other.holds(self)


_OF_THE_KERNEL: Final = frozenset(
    "binfmt_misc bpf cgroup cgroup2 configfs debugfs devpts efivarfs fusectl mqueue nsfs proc pstore securityfs selinuxfs"
    " sysfs tracefs".split()
)
"""File systems without files of anybody's: the same one is mounted wherever a system, or part of one, is kept."""


def places_of(top: bytes, mounts: Sequence[Mount]) -> list[tuple[bytes, Place]]:
    """Return a directory (absolute, without symlinks) and all below it on which something is mounted, with their places.

    What only shows the kernel is left out.
    """
    holder, below = mounts_at_and_below(top, mounts)
    found = (mount for mount in below if mount.kind not in _OF_THE_KERNEL)
    return [(top, _place_on(holder, top)), *((mount.point, _place_on(mount, mount.point)) for mount in found)]


def seen_within(top: bytes, path: bytes, mounts: Sequence[Mount]) -> Iterator[bytes]:
    """Yield the paths at and below the directory `top` by which `path` is seen (both absolute, without symlinks)."""
    (_, place), *_ = places_of(path, mounts)
    for point, here in places_of(top, mounts):
        if here.device and here.holds(place):
            seen = point.rstrip(b"/") + place.path[len(here.path) :] or b"/"
            with suppress(OSError):  # something else may be mounted over it
                if os.path.samefile(seen, path):
                    yield seen


def _place_on(mount: Mount, path: bytes) -> Place:
    inside = path[len(mount.point.rstrip(b"/")) :]
    return Place(mount.device, mount.root.rstrip(b"/") + inside.rstrip(b"/"))


_OUR_CLOCK: Final = frozenset(("ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "bcachefs", "tmpfs", "ramfs"))
"""File systems that give a ctime by the clock of this kernel with every change, also to what is renamed."""


def has_our_clock(path: bytes) -> bool:
    """Tell whether all that is seen at and below a directory is stamped by the clock of this kernel, as far as is known."""
    try:
        holder, below = mounts_at_and_below(os.path.realpath(path), read_mounts())
    except OSError:
        return False
    return all(mount.kind in _OUR_CLOCK for mount in (holder, *below))


def mount_points_below(root: int) -> list[bytes]:
    """Return the directories below an open one on which something is mounted, relative to it. Raises OSError."""
    path = os.readlink(b"/proc/self/fd/%d" % root)
    _, below = mounts_at_and_below(path, read_mounts())
    return [mount.point[len(path.rstrip(b"/")) + 1 :] for mount in below]


def devices_shown_twice(root: int) -> set[int]:
    """Return the devices (st_dev) of which more than one mount stands at and below an open directory.

    On btrfs that includes those of the subvolumes that are mounted; what lies deeper has others.
    """
    own = b"/proc/self/fd/%d" % root
    try:
        holder, below = mounts_at_and_below(os.readlink(own), read_mounts())
        device = _device_number(holder) if holder.device else os.stat(own).st_dev
    except OSError:
        return set()
    places = {device: [own]}
    for mount in below:
        places.setdefault(_device_number(mount), []).append(mount.point)
    twice = {device: points for device, points in places.items() if len(points) > 1}
    return twice.keys() | {found for point in chain.from_iterable(twice.values()) for found in _device_at(point)}


def _device_number(mount: Mount) -> int:
    return os.makedev(*map(int, mount.device.split(b":")))


def _device_at(path: bytes) -> Iterator[int]:
    """Yield the device that stat(2) tells, which may be another one than mountinfo has; nothing where it tells none."""
    try:
        yield os.stat(path).st_dev
    except OSError:
        pass


def private_view(path: bytes) -> int:
    """Return a directory descriptor on a private clone of the mount at `path`, rooted there (Linux 5.2).

    It does not keep the mount busy (EBUSY), as a plain descriptor would; it keeps the file system itself alive
    until it is closed. Paths of /proc/self/fd are relative to it. Raises OSError (EPERM without CAP_SYS_ADMIN).
    """
    refuse_if_forced("open_tree")
    tree = checked(
        LIBC.syscall(_SYS_OPEN_TREE, _AT_FDCWD, ctypes.c_char_p(path), _OPEN_TREE_CLONE | os.O_CLOEXEC), path
    )
    try:
        return os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=tree)
    finally:
        os.close(tree)
