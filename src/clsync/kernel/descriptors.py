"""Descriptors that another process sends (unix(7), SCM_RIGHTS)."""

from __future__ import annotations

import array
import socket


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
