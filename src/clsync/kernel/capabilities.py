"""What a local destination can hold, found out by trying it in a private directory."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import stat
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Final

from clsync.kernel import roles
from clsync.kernel.files import clone

PROBE_PREFIX: Final = b".clsync-probe-"
ACL_NAMES: Final = ("system.posix_acl_access", "system.posix_acl_default")
_ODD_NS: Final = 1_600_000_001_123_456_789
"""An odd second and odd nanoseconds: any rounding shows."""
_GRAINS: Final = (1, 100, 1000, 10**6, 10**7, 10**9, 2 * 10**9)
_FAR: Final = 2**40
"""Seconds that no table of dates needs; file systems with less room clamp them."""
# user::rw-, user:1:r--, group::r--, mask::r--, other::---, linux/posix_acl_xattr.h
_NONE: Final = 0xFFFFFFFF
_ACL: Final = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry)
    for entry in ((0x01, 6, _NONE), (0x02, 4, 1), (0x04, 4, _NONE), (0x10, 4, _NONE), (0x20, 0, _NONE))
)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a directory can hold for this process. What it cannot is neither copied nor compared."""

    owner: bool = True
    """Owners can be set."""
    modes: bool = True
    time_grain_ns: int = 1
    """Modification times are kept in steps of this many nanoseconds."""
    earliest_ns: int = -_FAR * 10**9
    latest_ns: int = _FAR * 10**9
    """Modification times outside are clamped."""
    symlinks: bool = True
    symlink_times: bool = True
    hard_links: bool = True
    devices: bool = True
    specials: bool = True
    """Fifos and sockets."""
    xattrs: bool = True
    acls: bool = True
    case_sensitive: bool = True
    reflink: bool = False

    def lacks(self) -> list[str]:
        """Name what the destination cannot hold, for people."""
        held = {
            "owners": self.owner,
            "modes": self.modes,
            "symlinks": self.symlinks,
            "times of symlinks": self.symlink_times,
            "hard links": self.hard_links,
            "devices": self.devices,
            "fifos and sockets": self.specials,
            "extended attributes": self.xattrs,
            "ACLs": self.acls,
            "names that differ in case only": self.case_sensitive,
        }
        return [what for what, can in held.items() if not can]


def probe_destination(path: bytes) -> Capabilities:
    """Try what the directory `path` can hold; everything happens in a directory of its own, which is removed.

    The directory keeps its times. Raises OSError where nothing can be written.
    """
    before = os.stat(path)
    where = os.path.join(path, PROBE_PREFIX + secrets.token_hex(8).encode())
    os.mkdir(where, 0o700)
    try:
        directory = os.open(where, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return _probe(directory)
        finally:
            os.close(directory)
    finally:
        shutil.rmtree(where, ignore_errors=True)
        with suppress(OSError):
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def probe_for_programs(path: bytes) -> Capabilities:
    """Try what the directory `path` can hold for who runs handlers. Raises as `probe_destination`."""
    argv = [sys.executable, "-I", "-m", "clsync.kernel.capabilities", os.fsdecode(path)]
    with roles.as_programs():
        if not roles.programs_are_others():
            return probe_destination(path)
        try:
            done = subprocess.run(argv, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return probe_destination(path)  # Python is out of reach: for root this may show less than there is
    number, _, text = done.stdout.partition(b"\n")
    if int(number):
        raise OSError(int(number), os.strerror(int(number)), path)
    return Capabilities(**json.loads(text))


def main() -> None:
    """Print an errno, 0 if all went well, and what the directory can hold that is named by the argument."""
    try:
        found = probe_destination(os.fsencode(sys.argv[1]))
    except OSError as error:
        print(error.errno or errno.EIO)
    else:
        print(0, json.dumps(asdict(found)), sep="\n")


def _probe(directory: int) -> Capabilities:
    file = os.open(b"Probe", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory)
    try:
        os.write(file, b"clsync")
        earliest, latest = _time_of(file, -_FAR * 10**9), _time_of(file, _FAR * 10**9)
        return Capabilities(
            owner=_can(lambda: _owner(file)),
            modes=_can(lambda: _modes(file)),
            time_grain_ns=_grain(_time_of(file, _ODD_NS)),
            earliest_ns=earliest,
            latest_ns=latest,
            symlinks=_can(lambda: os.symlink(b"nowhere", b"symlink", dir_fd=directory)),
            symlink_times=_can(lambda: _symlink_times(directory)),
            hard_links=_can(lambda: _hard_link(directory)),
            devices=_can(lambda: os.mknod(b"device", stat.S_IFCHR | 0o600, os.makedev(1, 3), dir_fd=directory)),
            specials=_can(lambda: _specials(directory)),
            xattrs=_can(lambda: os.setxattr(file, "user.clsync", b"1")),
            acls=_can(lambda: os.setxattr(file, ACL_NAMES[0], _ACL)),
            case_sensitive=not _can(lambda: os.stat(b"pROBE", dir_fd=directory)),
            reflink=_can(lambda: _reflink(directory, file)),
        )
    finally:
        os.close(file)


def _can(attempt: Callable[[], object]) -> bool:
    try:
        return attempt() is not False
    except (OSError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
            raise
        return False


def _owner(file: int) -> bool:
    """Tell whether a file can be given away, and taken back."""
    mine = os.fstat(file)
    os.fchown(file, mine.st_uid + 1, mine.st_gid + 1)
    given = os.fstat(file)
    os.fchown(file, mine.st_uid, mine.st_gid)
    return (given.st_uid, given.st_gid) == (mine.st_uid + 1, mine.st_gid + 1)


def _modes(file: int) -> bool:
    for mode in (0o421, 0o600):
        os.fchmod(file, mode)
        if stat.S_IMODE(os.fstat(file).st_mode) != mode:
            return False
    return True


def _time_of(file: int, wanted_ns: int) -> int:
    """Set an mtime and return what became of it."""
    with suppress(OSError, OverflowError):
        os.utime(file, ns=(wanted_ns, wanted_ns))
        return os.fstat(file).st_mtime_ns
    return wanted_ns


def _grain(kept_ns: int) -> int:
    off = abs(_ODD_NS - kept_ns)
    return next((grain for grain in _GRAINS if off < grain), off + 1)


def _symlink_times(directory: int) -> bool:
    second = 10**9
    os.utime(b"symlink", ns=(second * 1000, second * 1000), dir_fd=directory, follow_symlinks=False)
    found = os.stat(b"symlink", dir_fd=directory, follow_symlinks=False)
    return found.st_mtime_ns == second * 1000


def _hard_link(directory: int) -> bool:
    os.link(b"Probe", b"link", src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
    return os.stat(b"link", dir_fd=directory).st_nlink == 2


def _specials(directory: int) -> None:
    os.mknod(b"fifo", stat.S_IFIFO | 0o600, dir_fd=directory)
    os.mknod(b"socket", stat.S_IFSOCK | 0o600, dir_fd=directory)


def _reflink(directory: int, file: int) -> None:
    other = os.open(b"clone", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory)
    try:
        clone(file, other)
    finally:
        os.close(other)


if __name__ == "__main__":
    main()
