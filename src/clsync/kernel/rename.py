"""renameat2(2): names that change places, and names that are taken only where they are free."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final

from clsync.kernel.features import refuse_if_forced
from clsync.kernel.libc import LIBC, checked, function

_NOREPLACE: Final = 1
_EXCHANGE: Final = 2
_INT, _NAME = ctypes.c_int, ctypes.c_char_p
_renameat2 = (
    function("renameat2", _INT, _NAME, _INT, _NAME, ctypes.c_uint)
    if hasattr(LIBC, "renameat2")  # glibc 2.28
    else None
)


def rename_free(source: int, name: bytes, target: int, as_name: bytes) -> None:
    """Rename `name` in the directory `source` to `as_name` in `target`, if nothing stands there.

    Raises OSError: FileExistsError; EXDEV on another mount. Where the kernel or the file system cannot see to it, it is
    looked first.
    """
    try:
        _rename(source, name, target, as_name, _NOREPLACE)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS):
            raise
        try:
            os.lstat(as_name, dir_fd=target)
        except FileNotFoundError:
            os.rename(name, as_name, src_dir_fd=source, dst_dir_fd=target)
        else:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), as_name) from None


def exchange(one: int, name: bytes, other: int, other_name: bytes) -> None:
    """Let two names in two open directories change places. Raises OSError (EINVAL, ENOSYS: that cannot be had)."""
    _rename(one, name, other, other_name, _EXCHANGE)


def _rename(source: int, name: bytes, target: int, as_name: bytes, flags: int) -> None:
    refuse_if_forced("renameat2")
    if _renameat2 is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), name)
    checked(_renameat2(source, name, target, as_name, flags), name)
