"""Compares two trees of this machine, entry by entry, below open roots; no symlink is followed."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from clsync.core.paths import ancestors, join, parent
from clsync.core.verification import Aspect, Difference
from clsync.handler.base import PathRules
from clsync.handler.copy.attributes import Attributes, below
from clsync.handler.copy.content import same_content
from clsync.handler.copy.settings import Settings
from clsync.handler.copy.trouble import Refused, Vanished
from clsync.handler.removal import Removal
from clsync.kernel.files import DIRECTORY_FLAGS, GONE, open_beneath

_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MOST_LINKED: Final = 1_000_000
"""Files with several names, at either side, that are remembered: of more it is not told what hangs together."""
_MOST_LISTED: Final = 100_000
"""Entries of a directory that is there alone which are held against rules one by one."""
_STEP: Final = 64 << 10
"""Bytes of content that count as an entry."""
_BYTES: Final = 1 << 20
"""Bytes that are compared at once."""
_Inode = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Trees:
    """Two directories, open, and how they are to be compared."""

    source: int
    destination: int
    settings: Settings
    content: bool


class Comparing:
    """Tells what differs."""

    def __init__(self, trees: Trees, tell: Callable[[Difference], None], pause: Callable[[int], None]) -> None:
        """`tell` is told each difference, `pause` how many entries were looked at since it was called last."""
        self._trees, self._tell, self._pause = trees, tell, pause
        settings = trees.settings
        self.rules: PathRules | None = settings.rules
        self._attributes = Attributes(settings)
        self._can, self._level = settings.capabilities, settings.one_file_system
        self._simple = not (trees.content or self._attributes.extended or settings.rules or self._level > 1)
        self._device = os.fstat(trees.source).st_dev
        self._removal = Removal(self, lambda path: open_beneath(trees.destination, path, DIRECTORY_FLAGS))
        self._copies: dict[_Inode, tuple[_Inode, bytes]] = {}
        """File of the source with several names -> what the first of these is at the destination."""
        self._originals: dict[_Inode, tuple[_Inode, bytes]] = {}
        """The reverse."""

    def pause(self) -> None:
        """Count one entry, while entries are counted that are there alone."""
        self._pause(1)

    def blame(self, path: bytes, error: OSError | Refused) -> None:
        """Note that something cannot be looked at."""
        self._tell(Difference(path, Aspect.UNREADABLE))

    # -- everything --------------------------------------------------------------------------------------------

    def everything(self) -> None:
        """Compare all of it."""
        pending = [b""]
        while pending:
            path = pending.pop()
            try:
                with self._opened(self._trees.source, path) as source:
                    if source is not None:
                        pending += self._directory(path, source)
            except Vanished:
                continue  # something else stands there by now
            except (OSError, Refused) as error:
                self.blame(path, error)

    @contextmanager
    def _opened(self, root: int, path: bytes) -> Iterator[int | None]:
        """Open a directory, None where there is none. Raises OSError."""
        try:
            descriptor = open_beneath(root, path, DIRECTORY_FLAGS)
        except OSError as error:
            if error.errno not in GONE:
                raise
            yield None
            return
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _directory(self, path: bytes, source: int) -> list[bytes]:
        """Compare a directory and what stands in it; return the directories that are to be entered. Raises OSError."""
        with self._opened(self._trees.destination, path) as destination:
            want = os.fstat(source)
            if destination is not None and self._permits(path, True):
                self._compare_directory(path, source, want, destination)
            elsewhere = self._level and want.st_dev != self._device
            if elsewhere or (self.rules is not None and not self.rules.reaches(path)):
                return []
            return self._names(path, source, destination)

    def _compare_directory(self, path: bytes, source: int, want: os.stat_result, destination: int) -> None:
        aspects = self._attributes.differing(os.fstat(destination), want)
        if self._attributes.extended and self._attributes.extended_differ(source, destination):
            aspects |= Aspect.XATTRS
        if aspects:
            self._tell(Difference(path, aspects))

    def _names(self, path: bytes, source: int, destination: int | None) -> list[bytes]:
        here = _listed(source)
        there = set(_listed(destination)) if destination is not None else set[bytes]()
        self._pause(1)
        enter = []
        unlike = self._unlike(here, there, source, destination) if self._simple and destination is not None else here
        for name in unlike:
            try:
                if self._name(join(path, name), name, source, destination if name in there else None):
                    enter.append(join(path, name))
            except Vanished:
                continue  # something else stands there by now
            except (OSError, Refused) as error:
                self.blame(join(path, name), error)
        self._pause(len(here))
        if destination is not None:
            for name in there.difference(here):
                self._alone(join(path, name), name, source, destination)
        return enter

    def _unlike(self, here: list[bytes], there: set[bytes], source: int, destination: int) -> Iterator[bytes]:
        """Leave out what nearly everything is: regular files with one name, of equal attributes."""
        look = os.lstat  # millions of turns: this loop is what a comparison costs
        for name in here:
            if name in there:
                try:
                    want, have = look(name, dir_fd=source), look(name, dir_fd=destination)
                except OSError:
                    yield name
                    continue
                if (
                    want.st_mtime_ns == have.st_mtime_ns
                    and want.st_size == have.st_size
                    and want.st_mode == have.st_mode
                    and want.st_nlink == 1 == have.st_nlink
                    and want.st_mode & 0o170000 == 0o100000
                    and want.st_uid == have.st_uid
                    and want.st_gid == have.st_gid
                ):
                    continue
            yield name

    def _name(self, path: bytes, name: bytes, source: int, destination: int | None) -> bool:
        """Compare one name, `destination` None where it is not there; tell whether it is to be entered. Raises OSError."""
        want = _stat(name, source)
        if want is None:
            return False
        is_dir = stat.S_ISDIR(want.st_mode)
        if self._level > 1 and want.st_dev != self._device:
            return False
        permitted = self._permits(path, is_dir)
        if not permitted and not is_dir:
            return False
        have = _stat(name, destination) if destination is not None else None
        if is_dir and not permitted:
            # Not synced itself: it is there if something in it is.
            return self.rules is not None and self.rules.reaches(path)
        if not self._holds(want):
            return False
        if have is None or destination is None:
            self._tell(Difference(path, Aspect.MISSING))
        elif stat.S_IFMT(have.st_mode) != stat.S_IFMT(want.st_mode):
            self._tell(Difference(path, Aspect.KIND))
        elif is_dir:
            return True
        else:
            self._thing(path, name, (source, want), (destination, have))
        return False

    def _permits(self, path: bytes, is_dir: bool) -> bool:
        return self.rules is None or self.rules.permits(path, is_dir)

    def _holds(self, want: os.stat_result) -> bool:
        """Tell whether the destination can hold such a thing."""
        can, kind = self._can, stat.S_IFMT(want.st_mode)
        if kind == stat.S_IFLNK:
            return can.symlinks
        if kind in (stat.S_IFCHR, stat.S_IFBLK):
            return can.devices
        return can.specials or kind in (stat.S_IFREG, stat.S_IFDIR)

    # -- anything but a directory ------------------------------------------------------------------------------

    def _thing(
        self, path: bytes, name: bytes, here: tuple[int, os.stat_result], there: tuple[int, os.stat_result]
    ) -> None:
        """Compare what stands under one name at both sides and is of one kind. Raises OSError."""
        (source, want), (destination, have) = here, there
        aspects = self._attributes.differing(have, want)
        if stat.S_ISREG(want.st_mode):
            if have.st_size != want.st_size:
                aspects |= Aspect.SIZE
            elif self._trees.content and not self._same_content(name, source, destination, want.st_size):
                aspects |= Aspect.CONTENT
            if self._trees.content:
                self._pause(want.st_size % _BYTES // _STEP)
        elif stat.S_ISLNK(want.st_mode):
            if os.readlink(name, dir_fd=source) != os.readlink(name, dir_fd=destination):
                aspects |= Aspect.CONTENT
        elif have.st_rdev != want.st_rdev:
            aspects |= Aspect.KIND
        if self._attributes.extended and self._attributes.extended_differ(
            below(source, name), below(destination, name)
        ):
            aspects |= Aspect.XATTRS
        if (want.st_nlink > 1 or have.st_nlink > 1) and self._can.hard_links:
            aspects |= self._links(path, want, have)
        if aspects:
            self._tell(Difference(path, aspects))

    def _same_content(self, name: bytes, source: int, destination: int, size: int) -> bool:
        """Tell whether two files hold the same. Raises OSError."""
        step = _BYTES // _STEP if size >= _BYTES else 0
        with _file(name, source) as one, _file(name, destination) as other:
            return same_content(one, other, lambda: self._pause(step))

    def _links(self, path: bytes, want: os.stat_result, have: os.stat_result) -> Aspect:
        """Note which inodes a name has at both sides; tell if that does not go with what was noted before."""
        here, there = (want.st_dev, want.st_ino), (have.st_dev, have.st_ino)
        torn = want.st_nlink > 1 and self._differs(self._copies, here, there, path)
        glued = have.st_nlink > 1 and self._differs(self._originals, there, here, path)
        return Aspect.LINKS if torn or glued else Aspect(0)

    def _differs(self, known: dict[_Inode, tuple[_Inode, bytes]], one: _Inode, other: _Inode, path: bytes) -> bool:
        first = known.get(one)
        if first is None:
            if len(known) < _MOST_LINKED:
                known[one] = other, path
            return False
        if first[0] == other:
            return False
        self._tell(Difference(first[1], Aspect.LINKS))
        return True

    # -- there alone -------------------------------------------------------------------------------------------

    def _alone(self, path: bytes, name: bytes, source: int, destination: int) -> None:
        """Tell of something that only the destination has, as far as rules let it go."""
        try:
            have = _stat(name, destination)
            if have is None or _stat(name, source) is not None:
                return
            is_dir = stat.S_ISDIR(have.st_mode)
            free = self.rules is None or self.rules.recursion_is_free(path)
            if not is_dir or free:
                if free or self._permits(path, is_dir):
                    count = self._removal.count(path, is_dir, free)
                    self._tell(Difference(path, Aspect.EXTRA, max(count, 1)))
            else:
                self._alone_by_rules(path)
        except OSError as error:
            self.blame(path, error)

    def _alone_by_rules(self, top: bytes) -> None:
        """Tell of what may go at and below a directory that is there alone. Raises OSError."""
        assert self.rules is not None
        rules, kept, may_go = self.rules, set[bytes](), list[bytes]()
        pending = [(top, True)]
        while pending and len(may_go) + len(kept) < _MOST_LISTED:
            path, is_dir = pending.pop()
            self._pause(1)
            if rules.permits(path, is_dir):
                may_go.append(path)
            else:
                kept.update((path, *ancestors(path)))
            if is_dir and rules.reaches(path):
                with self._opened(self._trees.destination, path) as directory:
                    for name in _listed(directory) if directory is not None else ():
                        found = _stat(name, directory)
                        if found is not None:
                            pending.append((join(path, name), stat.S_ISDIR(found.st_mode)))
            elif is_dir:
                kept.update((path, *ancestors(path)))
        goes = {path for path in may_go if path not in kept}
        tops = dict.fromkeys((path for path in goes if parent(path) not in goes), 0)
        for path in goes:
            while path not in tops:
                path = parent(path)
            tops[path] += 1
        for path, count in tops.items():
            self._tell(Difference(path, Aspect.EXTRA, count))

    # -- some paths --------------------------------------------------------------------------------------------

    def some(self, paths: Iterable[bytes]) -> None:
        """Compare just these, and nothing below them."""
        for path in sorted(paths):
            try:
                self._one(path)
            except Vanished:
                continue  # something else stands there by now
            except (OSError, Refused) as error:
                self.blame(path, error)
            self._pause(1)

    def _one(self, path: bytes) -> None:
        """Compare one path. Raises OSError."""
        with self._opened(self._trees.source, parent(path)) as source:
            with self._opened(self._trees.destination, parent(path)) as destination:
                name = path.rpartition(b"/")[2] or b"."
                here = _stat(name, source) if source is not None else None
                if here is None:
                    if destination is not None and _stat(name, destination) is not None:
                        self._gone(path, name, source, destination)
                elif source is not None and self._name(path, name, source, destination):
                    with self._opened(self._trees.source, path) as one:
                        with self._opened(self._trees.destination, path) as other:
                            if one is not None and other is not None and self._permits(path, True):
                                self._compare_directory(path, one, os.fstat(one), other)

    def _gone(self, path: bytes, name: bytes, source: int | None, destination: int) -> None:
        if source is not None:
            self._alone(path, name, source, destination)
        else:
            self._tell(Difference(path, Aspect.EXTRA))  # below something that stands there alone, and stays


def _listed(directory: int) -> list[bytes]:
    return list(map(os.fsencode, os.listdir(directory)))


def _stat(name: bytes, directory: int | None) -> os.stat_result | None:
    """Return what stands under a name, None where nothing does. Raises OSError."""
    with suppress(FileNotFoundError, NotADirectoryError):
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    return None


@contextmanager
def _file(name: bytes, directory: int) -> Iterator[int]:
    """Open a file to be read, without giving it another atime where that can be had. Raises OSError."""
    try:
        descriptor = os.open(name, _READ | os.O_NOATIME, dir_fd=directory)
    except PermissionError:
        descriptor = os.open(name, _READ, dir_fd=directory)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
