"""One directory at work, at the source and at the destination: makes single names in it equal."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from clsync.core.paths import join, shown
from clsync.handler.copy.attributes import below
from clsync.handler.copy.content import same_content
from clsync.handler.copy.roots import Roots
from clsync.handler.copy.trouble import Refused, Unwell, Vanished, destination_trouble, source_trouble
from clsync.handler.copy.units import Inode, Linked
from clsync.handler.removal import listing

NAME_LIMIT: Final = 255
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_TEMPORARY: Final = b".clsync-"
_LITTER: Final = re.compile(rb"\..*\.clsync-[0-9a-f]{6}", re.DOTALL)
_PRIVATE: Final = 0o600
"""Until owner and mode are final, nobody else reads what is written."""


def temporary(name: bytes) -> bytes:
    """Return a name for a file that will become `name`: recognisable, and not too long."""
    ending = _TEMPORARY + secrets.token_hex(3).encode()
    cut = min(len(name), NAME_LIMIT - 1 - len(ending))
    if cut < len(name):
        # Some file systems take whole UTF-8 characters only.
        cut = next((at for at in range(cut, max(cut - 4, 0), -1) if name[at] & 0xC0 != 0x80), cut)
    return b"." + name[:cut] + ending


def _plain(name: bytes) -> bytes:
    """Return the name that a temporary file would have got in the end."""
    return name[1:].rpartition(_TEMPORARY)[0]


def clean(place: Place) -> None:
    """Remove the temporary files that work which was killed has left in a directory. Raises OSError."""
    for name, is_dir, _ in listing(place.destination):
        if not is_dir and _LITTER.fullmatch(name) and place.look(name) is None and place.permits(_plain(name)):
            place.remove_kind(name, False, True)


def shares(have: os.stat_result, want: os.stat_result) -> bool:
    """Tell whether the inode at the destination has names that the source's has not."""
    return have.st_nlink > want.st_nlink


class Place:
    """A pair of directories."""

    __slots__ = ("_default_acl", "_gid", "_roots", "_uid", "destination", "fresh", "path", "source")

    def __init__(self, roots: Roots, path: bytes, source: int, destination: int, fresh: bool = False) -> None:
        """`source` and `destination` are open; `fresh`: nobody but us has ever made anything in it."""
        self._roots = roots
        self.path, self.source, self.destination, self.fresh = path, source, destination, fresh
        # The owner that new files get here; known once one has been made.
        self._uid = self._gid = -1
        self._default_acl = False

    def close(self) -> None:
        """Close both descriptors."""
        os.close(self.source)
        os.close(self.destination)

    def finish(self) -> None:
        """Give the directory itself the attributes of the source: the last thing to be done in it."""
        if self._roots.context.rejects(self.path, True):
            return
        want = os.fstat(self.source)
        self._roots.attributes.settle(self.destination, os.fstat(self.destination), want, self.source)

    def look(self, name: bytes) -> os.stat_result | None:
        """Return what stands at the source. Raises Refused."""
        try:
            return os.stat(name, dir_fd=self.source, follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise source_trouble(error) from error

    def standing(self, name: bytes) -> os.stat_result | None:
        """Return what stands at the destination. Raises OSError."""
        try:
            return os.stat(name, dir_fd=self.destination, follow_symlinks=False)
        except FileNotFoundError:
            return None

    # -- one name ----------------------------------------------------------------------------------------------

    def make(self, name: bytes, want: os.stat_result, have: os.stat_result | None, force: bool) -> None:
        """Make anything but a directory equal. Raises Vanished, Refused, Unwell or OSError (destination)."""
        if not self.holds(want):
            if have is not None:
                self.remove(name, have)
        elif have is None or shares(have, want) or not self.same(name, want, have, force):
            self.renew(name, want, have)
        else:
            self.adjust(name, want, have)

    def holds(self, want: os.stat_result) -> bool:
        """Tell whether the destination can hold such a thing."""
        can, mode = self._roots.context.settings.capabilities, want.st_mode
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            return True
        if stat.S_ISLNK(mode):
            return can.symlinks
        return can.devices if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else can.specials

    def same(self, name: bytes, want: os.stat_result, have: os.stat_result, force: bool) -> bool:
        """Tell whether content (or link target, or device number) agrees as far as can be told without reading."""
        if stat.S_IFMT(have.st_mode) != stat.S_IFMT(want.st_mode):
            return False
        if stat.S_ISREG(want.st_mode):
            if have.st_size != want.st_size:
                return False
            return self._same_content(name) if force else self._as_old(have, want)
        if stat.S_ISLNK(want.st_mode):
            return os.readlink(name, dir_fd=self.destination) == self._target(name)
        return have.st_rdev == want.st_rdev

    def _same_content(self, name: bytes) -> bool:
        """Tell whether two files were read and found to hold the same."""
        if not self._roots.context.settings.compares:
            return False
        source = self._open(name)
        try:
            copy = os.open(name, _READ, dir_fd=self.destination)
            try:
                return same_content(source, copy, self._roots.context.pause)
            finally:
                os.close(copy)
        except OSError:
            return False  # what cannot be read is written
        finally:
            os.close(source)

    def _as_old(self, have: os.stat_result, want: os.stat_result) -> bool:
        """Tell whether mtimes prove that a file is not newer than its copy."""
        if have.st_mtime_ns == want.st_mtime_ns:
            return True
        # Kept in coarse steps, two mtimes may look like one: then the source has to be older than the copy.
        return self._roots.attributes.same_time(have, want) and want.st_ctime_ns < have.st_ctime_ns

    def adjust(self, name: bytes, want: os.stat_result, have: os.stat_result) -> None:
        """Set the attributes that differ."""
        self._roots.attributes.adjust(self.destination, name, have, want, below(self.source, name))

    def permits(self, name: bytes) -> bool:
        """Tell whether rules let a file of this name be synced."""
        return not self._roots.context.rejects(join(self.path, name), False)

    def renew(self, name: bytes, want: os.stat_result, have: os.stat_result | None, only_same: bool = False) -> None:
        """Make a new inode at `name`, whatever is there; it appears when it is complete.

        `only_same`: Vanished is raised where a file has taken the place of the one that is wanted.
        """
        mode = want.st_mode
        if stat.S_ISREG(mode):
            source = self._open(name)
            try:
                seen = os.fstat(source)
                if not stat.S_ISREG(seen.st_mode) or (only_same and seen.st_ino != want.st_ino):
                    raise Vanished
                self._replace(name, have, lambda as_name: self._write(as_name, source, seen))
            finally:
                os.close(source)
        elif stat.S_ISLNK(mode):
            target = self._target(name)
            self._replace(name, have, lambda as_name: self._symlink(as_name, name, target, want), whole=True)
        else:
            self._replace(name, have, lambda as_name: self._node(as_name, name, want), whole=True)

    def copy_fresh(self, name: bytes, force: bool) -> None:
        """Copy a regular file to where nothing can be yet; who is killed meanwhile leaves no part of it there."""
        context = self._roots.context
        source = self._open(name)
        try:
            seen = os.fstat(source)
            if not stat.S_ISREG(seen.st_mode):
                raise Vanished
            if seen.st_nlink > 1 and context.settings.capabilities.hard_links:
                path = join(self.path, name)
                context.linked.append(Linked(Inode(seen.st_dev, seen.st_ino), path, force))
            else:
                self._replace(name, None, lambda as_name: self._write(as_name, source, seen))
        finally:
            os.close(source)

    def link(self, name: bytes, have: os.stat_result | None, place: int, known: bytes) -> None:
        """Make `name` another name of the file `known` in the directory `place` of the destination."""

        def linked(as_name: bytes) -> None:
            os.link(known, as_name, src_dir_fd=place, dst_dir_fd=self.destination, follow_symlinks=False)

        self._replace(name, have, linked, whole=True)

    def directory(self, name: bytes, have: os.stat_result | None) -> bool:
        """Make sure that a directory stands at `name`; tell whether it is new, and so empty."""
        if have is not None:
            if stat.S_ISDIR(have.st_mode):
                return False
            if self._roots.context.rejects(join(self.path, name), False):
                raise Refused("what stands there at the destination is protected by the rules")
            # Another process of ours may have been faster, with the removal or with the directory.
            with suppress(FileNotFoundError, IsADirectoryError):
                os.unlink(name, dir_fd=self.destination)
        try:
            os.mkdir(name, 0o700, dir_fd=self.destination)
        except FileExistsError:
            return False  # another process of ours was there first
        return True

    def remove(self, name: bytes, have: os.stat_result, free: bool = False) -> None:
        """Remove what stands at the destination, but what rules protect. Raises Unwell or OSError."""
        self.remove_kind(name, stat.S_ISDIR(have.st_mode), free)

    def remove_kind(self, name: bytes, is_dir: bool, free: bool) -> bool:
        """Do as `remove`; tell whether all of it is gone. `free`: rules need not be asked."""
        return self._roots.removal.remove(join(self.path, name), self.destination, is_dir, free)

    def count(self, name: bytes, is_dir: bool, free: bool) -> int:
        """Return how many entries `remove_kind` would remove. Raises Unwell or OSError."""
        return self._roots.removal.count(join(self.path, name), is_dir, free)

    # -- how ---------------------------------------------------------------------------------------------------

    def _replace(
        self, name: bytes, have: os.stat_result | None, create: Callable[[bytes], None], *, whole: bool = False
    ) -> None:
        """Create something under a temporary name and put it in the place of whatever is there.

        `whole`: it is made by one call, so that nobody can see a part of it where nothing was before.
        """
        if whole and self.fresh and have is None:
            create(name)
            return
        other = temporary(name)
        try:
            create(other)
            if have is not None and stat.S_ISDIR(have.st_mode) and not self.remove_kind(name, True, False):
                raise Refused("the directory that stands there at the destination cannot go, or rules protect it")
            os.rename(other, name, src_dir_fd=self.destination, dst_dir_fd=self.destination)
        except BaseException:
            self._withdraw(other)
            raise

    def _write(self, name: bytes, source: int, seen: os.stat_result) -> None:
        """Create a file with the content and the attributes of an open one."""
        attributes, mode = self._roots.attributes, seen.st_mode
        plain = seen.st_uid == self._uid and seen.st_gid == self._gid and not (mode & 0o7000 or self._default_acl)
        file = os.open(name, _CREATE, mode & 0o777 if plain else _PRIVATE, dir_fd=self.destination)
        try:
            try:
                self._roots.context.copied += seen.st_size
                if seen.st_size:
                    seen = self._roots.copier.copy(source, file, seen, self._roots.device)
                have = os.fstat(file)
                # Another process may have given the directory another group, which new files inherit.
                if plain and have.st_gid == seen.st_gid:
                    os.utime(file, ns=(seen.st_atime_ns, seen.st_mtime_ns))
                else:
                    self._learn(have)
                    attributes.settle(file, have, seen, source, written=True)
            finally:
                os.close(file)
        except BaseException:
            self._withdraw(name)
            raise

    def _withdraw(self, name: bytes) -> None:
        """Remove what has not become complete. Raises Unwell where it has to be left: the next run looks for it then."""
        try:
            os.unlink(name, dir_fd=self.destination)
        except FileNotFoundError:
            pass
        except OSError as error:
            path = join(self.path, name)
            text = f"the destination does not let go of {shown(path)}, which was begun: {error.strerror}"
            trouble = destination_trouble(error, path)
            raise trouble if isinstance(trouble, Unwell) else Unwell(text) from error

    def _learn(self, made: os.stat_result) -> None:
        """Take from a file just made which owner the next ones will have: they need not be looked at."""
        settings = self._roots.context.settings
        if self._uid >= 0 or self._roots.attributes.extended or not settings.exact_modes:
            return
        self._uid, self._gid = made.st_uid, made.st_gid
        if settings.capabilities.acls:
            try:
                os.getxattr(self.destination, "system.posix_acl_default")
            except OSError as error:
                self._default_acl = error.errno not in (errno.ENODATA, errno.EOPNOTSUPP)
            else:
                self._default_acl = True

    def _symlink(self, as_name: bytes, name: bytes, target: bytes, want: os.stat_result) -> None:
        os.symlink(target, as_name, dir_fd=self.destination)
        self._dress(as_name, name, want)

    def _node(self, as_name: bytes, name: bytes, want: os.stat_result) -> None:
        kind = stat.S_IFMT(want.st_mode)
        device = want.st_rdev if stat.S_ISCHR(kind) or stat.S_ISBLK(kind) else 0
        os.mknod(as_name, kind | _PRIVATE, device, dir_fd=self.destination)
        self._dress(as_name, name, want)

    def _dress(self, as_name: bytes, name: bytes, want: os.stat_result) -> None:
        have = os.stat(as_name, dir_fd=self.destination, follow_symlinks=False)
        self._roots.attributes.adjust(self.destination, as_name, have, want, below(self.source, name))

    def _open(self, name: bytes) -> int:
        try:
            return os.open(name, _READ | self._roots.no_atime, dir_fd=self.source)
        except OSError as error:
            if error.errno != errno.EPERM:
                if error.errno == errno.ENXIO:  # it has become a socket or a device
                    raise Vanished from error
                raise self._roots.denied(self.path, self.source, error) from error
        try:
            return os.open(name, _READ, dir_fd=self.source)  # O_NOATIME is for owners
        except OSError as error:
            raise self._roots.denied(self.path, self.source, error) from error

    def _target(self, name: bytes) -> bytes:
        try:
            return os.readlink(name, dir_fd=self.source)
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise Vanished from error
            raise source_trouble(error) from error
