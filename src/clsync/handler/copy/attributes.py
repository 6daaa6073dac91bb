"""Owner, mode, times, ACLs and extended attributes: set where they differ, in the order that keeps all of them."""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from clsync.core.verification import Aspect
from clsync.handler.copy.settings import Settings
from clsync.handler.copy.trouble import Refused, source_trouble
from clsync.kernel.capabilities import ACL_NAMES

_MODE: Final = 0o7777
_TOO_LARGE: Final = frozenset((errno.ENOSPC, errno.EDQUOT, errno.E2BIG, errno.ERANGE))
"""A file system has far less room for attributes than for files."""
_UNSUPPORTED: Final = frozenset((errno.EOPNOTSUPP, errno.EPERM, errno.EACCES, errno.EINVAL))
"""What a destination says of an attribute that it does not hold; tried once per run and file, never in a loop."""
_NOT_OURS: Final = ("security.selinux", "security.evm", "security.ima")
"""Made by the security modules of each machine for itself."""


def below(directory: int, name: bytes) -> bytes:
    """Return a path for `name` in the directory behind a descriptor."""
    return b"/proc/self/fd/%d/%s" % (directory, name)


class Attributes:
    """Sets what a destination can hold, and compares nothing else."""

    def __init__(self, settings: Settings) -> None:
        """`settings`: those of the batch."""
        self.extended = (settings.acls and settings.capabilities.acls) or (
            settings.xattrs and settings.capabilities.xattrs
        )
        """ACLs or extended attributes are synced."""
        can = settings.capabilities
        self._can, self._groups = can, settings.groups
        self._acls, self._xattrs = settings.acls and can.acls, settings.xattrs and can.xattrs
        self._privileged = os.geteuid() == 0

    def same_time(self, have: os.stat_result, want: os.stat_result) -> bool:
        """Tell whether mtimes agree, as exactly as the destination keeps them."""
        mine, its = want.st_mtime_ns, have.st_mtime_ns
        if mine == its:
            return True
        can = self._can
        mine = min(max(mine, can.earliest_ns), can.latest_ns)
        return abs(mine - its) < can.time_grain_ns

    def differing(self, have: os.stat_result, want: os.stat_result) -> Aspect:
        """Tell in which attributes two things of one kind differ, extended ones left out."""
        is_link, aspects = stat.S_ISLNK(want.st_mode), Aspect(0)
        if have.st_mode != want.st_mode and self._can.modes and not is_link:
            aspects |= Aspect.MODE
        if have.st_mtime_ns != want.st_mtime_ns and (self._can.symlink_times or not is_link):
            aspects |= Aspect(0) if self.same_time(have, want) else Aspect.MTIME
        if have.st_uid != want.st_uid and self._can.owner:
            aspects |= Aspect.OWNER
        if have.st_gid != want.st_gid and (self._can.owner or want.st_gid in self._groups):
            aspects |= Aspect.GROUP
        return aspects

    def extended_differ(self, source: int | bytes, destination: int | bytes) -> bool:
        """Tell whether extended attributes differ; what is given by path is not followed. Raises OSError, Refused."""
        return self._read(source) != self._read(destination)

    def settle(
        self, file: int, have: os.stat_result, want: os.stat_result, source: int, written: bool = False
    ) -> None:
        """Give an open file or directory the attributes of `want`; `source`: where the extended ones are.

        `written`: set the time in any case. Raises OSError.
        """
        mode, changed = have.st_mode, False
        if not self._owned(have, want):
            os.fchown(file, want.st_uid if self._can.owner else -1, want.st_gid)
            changed = True
        if self.extended:
            changed |= self._extend(source, file, follow=True)
        if changed:
            # Both may have changed the mode; chown takes away set-user-ID.
            mode = os.fstat(file).st_mode
        if (mode ^ want.st_mode) & _MODE and self._can.modes:
            os.fchmod(file, want.st_mode & _MODE)
        if written or not self.same_time(have, want):
            os.utime(file, ns=(want.st_atime_ns, want.st_mtime_ns))

    def adjust(self, place: int, name: bytes, have: os.stat_result, want: os.stat_result, source: bytes) -> None:
        """Do as `settle` for what stands at `name` in the directory `place`; a symlink is not followed."""
        is_link = stat.S_ISLNK(want.st_mode)
        if self._settled(have, want) and not self.extended:
            return
        if is_link:
            self._adjust_symlink(place, name, have, want, source)
            return
        # A path descriptor asks for no permission on the file, and what it leads to is checked before it is used.
        file = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place)
        try:
            now = os.fstat(file)
            if stat.S_IFMT(now.st_mode) == stat.S_IFMT(want.st_mode):
                self._adjust_path(b"/proc/self/fd/%d" % file, now, want, source)
        finally:
            os.close(file)

    def _settled(self, have: os.stat_result, want: os.stat_result) -> bool:
        can = self._can
        if stat.S_ISLNK(want.st_mode):
            times = not can.symlink_times or self.same_time(have, want)
            return times and self._owned(have, want)
        modes = not can.modes or not (have.st_mode ^ want.st_mode) & _MODE
        return modes and self.same_time(have, want) and self._owned(have, want)

    def _owned(self, have: os.stat_result, want: os.stat_result) -> bool:
        if self._can.owner:
            return have.st_uid == want.st_uid and have.st_gid == want.st_gid
        return have.st_gid == want.st_gid or want.st_gid not in self._groups

    def _adjust_path(self, path: bytes, have: os.stat_result, want: os.stat_result, source: bytes) -> None:
        mode, changed = have.st_mode, False
        if not self._owned(have, want):
            os.chown(path, want.st_uid if self._can.owner else -1, want.st_gid)
            changed = True
        if self.extended:
            changed |= self._extend(source, path, follow=True)
        if changed:
            mode = os.stat(path).st_mode
        if (mode ^ want.st_mode) & _MODE and self._can.modes:
            os.chmod(path, want.st_mode & _MODE)
        if not self.same_time(have, want):
            os.utime(path, ns=(want.st_atime_ns, want.st_mtime_ns))

    def _adjust_symlink(
        self, place: int, name: bytes, have: os.stat_result, want: os.stat_result, source: bytes
    ) -> None:
        if not self._owned(have, want):
            uid = want.st_uid if self._can.owner else -1
            os.chown(name, uid, want.st_gid, dir_fd=place, follow_symlinks=False)
        if self._xattrs:
            self._extend(source, below(place, name), follow=False)
        if self._can.symlink_times and not self.same_time(have, want):
            times = (want.st_atime_ns, want.st_mtime_ns)
            os.utime(name, ns=times, dir_fd=place, follow_symlinks=False)

    # -- extended attributes -----------------------------------------------------------------------------------

    def _extend(self, source: int | bytes, destination: int | bytes, follow: bool) -> bool:
        """Make ACLs and extended attributes equal; tell whether anything was done.

        `follow` is for the destination; a source given by path is never followed.
        """
        wanted = self._read(source)
        changed = False
        try:
            held = self._names(destination, follow)
            for key in held - wanted.keys():
                changed |= self._try_remove(destination, key, follow)
            for key, value in wanted.items():
                if key not in held or os.getxattr(destination, key, follow_symlinks=follow) != value:
                    changed |= self._try_set(destination, key, value, follow)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
        return changed

    def _read(self, source: int | bytes) -> dict[str, bytes]:
        follow = isinstance(source, int)
        try:
            names = self._names(source, follow)
            return {key: os.getxattr(source, key, follow_symlinks=follow) for key in names}
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                return {}
            if error.errno == errno.ENODATA:  # it was removed between the two calls
                return self._read(source)
            raise source_trouble(error) from error

    def _names(self, where: int | bytes, follow: bool) -> set[str]:
        return {key for key in os.listxattr(where, follow_symlinks=follow) if self._ours(key)}

    def _ours(self, key: str) -> bool:
        if key in ACL_NAMES:
            return self._acls
        if not self._xattrs or key.startswith("system.") or key in _NOT_OURS:
            return False
        return self._privileged or key.startswith("user.")

    def _try_set(self, where: int | bytes, key: str, value: bytes, follow: bool) -> bool:
        try:
            os.setxattr(where, key, value, follow_symlinks=follow)
        except OSError as error:
            if error.errno in _TOO_LARGE:
                raise Refused(f"the destination has no room for its extended attribute {key}") from error
            if error.errno not in _UNSUPPORTED:
                raise
            return False
        return True

    def _try_remove(self, where: int | bytes, key: str, follow: bool) -> bool:
        try:
            os.removexattr(where, key, follow_symlinks=follow)
        except OSError as error:
            if error.errno not in _UNSUPPORTED and error.errno != errno.ENODATA:
                raise
            return False
        return True
