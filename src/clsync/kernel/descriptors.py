"""Descriptors of files without a name, and those that another process sends (unix(7), SCM_RIGHTS)."""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from clsync.kernel.features import refuse_if_forced


def received(connection: socket.socket, size: int, most: int, flags: int = 0) -> tuple[bytes, list[int]]:
    """Receive up to `size` bytes, and up to `most` descriptors with them, which no program that is started inherits.

    `flags` as in recvmsg(2): those that `socket.recv_fds` is given, it forgets. Raises OSError.
    """
    descriptors = array.array("i")
    data, ancillary, _, _ = connection.recvmsg(
        size, socket.CMSG_LEN(most * descriptors.itemsize), flags | socket.MSG_CMSG_CLOEXEC
    )
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    return data, descriptors.tolist()


def anonymous_file() -> int:
    """Return a descriptor of a file without a name, in memory where the kernel can (memfd_create, Linux 3.17)."""
    try:
        refuse_if_forced("memfd")
        return os.memfd_create("clsync", os.MFD_CLOEXEC)
    except OSError:
        import tempfile

        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())


@contextmanager
def handed_over(order: bytes) -> Iterator[int]:
    """Give the descriptor of a file without a name, from which a process can read what it is to do. Raises OSError."""
    with open(anonymous_file(), "w+b") as file:
        file.write(order)
        file.seek(0)
        yield file.fileno()
