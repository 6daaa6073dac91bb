"""What survives a loss of power: flushing a file system, and telling one boot from another."""

from __future__ import annotations

import ctypes
import os
import sys

from clsync.kernel.libc import checked, function

_syncfs = function("syncfs", ctypes.c_int)


def flush_file_system(descriptor: int) -> None:
    """Wait until all that was written to the file system of an open file is durable, syncfs(2). Blocks.

    Raises OSError (EIO, ENOSPC: something was not written, Linux 5.8).
    """
    checked(_syncfs(descriptor))


def flusher(path: bytes) -> list[bytes]:
    """Return a command that flushes the file system of a directory; its exit code is 0 if that was done.

    It loads nothing that it does not need: it is run again and again.
    """
    code = (
        b"import ctypes, os, sys;"
        b"sys.exit(ctypes.CDLL(None).syncfs(os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY)) != 0)"
    )
    return [os.fsencode(sys.executable), b"-I", b"-S", b"-c", code, path]


def flush_directory(path: bytes) -> None:
    """Wait until the names in a directory are durable. Raises OSError."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def boot_id() -> bytes:
    """Return 16 bytes that are new with each boot of this kernel (random(4)). Raises OSError."""
    with open("/proc/sys/kernel/random/boot_id", "rb", buffering=0) as file:
        return bytes.fromhex(file.read().decode().strip().replace("-", ""))
