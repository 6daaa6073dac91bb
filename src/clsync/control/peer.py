"""Who is at the other end of a connection to the control socket, and what he may ask for."""

from __future__ import annotations

import socket
import struct
from array import array
from collections.abc import Mapping
from typing import Final, NamedTuple

from clsync.control.listener import Listening
from clsync.control.protocol import Id

_SO_PEERGROUPS: Final = 59
_MOST_GROUPS: Final = 1024
"""Bytes."""
CHANGES: Final[Mapping[int, bytes]] = {
    Id.DUMP: b"sync_dump",
    Id.SET: b"set",
    Id.DIE: b"die",
    Id.PAUSE: b"pause",
    Id.RESUME: b"resume",
}
"""What changes something: not everybody who may connect may ask for it. Value: what answers call it."""


class Peer(NamedTuple):
    """Who is at the other end."""

    pid: int
    uid: int
    groups: frozenset[int]

    def may_change(self, listening: Listening) -> bool:
        """Tell whether he may ask for changes: root, the owner of the socket, its group where that may write."""
        return self.uid in (0, listening.owner) or listening.group in self.groups

    def __str__(self) -> str:
        return f"uid {self.uid} (pid {self.pid})"


def peer_of(connection: socket.socket) -> Peer:
    """Return who is at the other end (unix(7), SO_PEERCRED; socket(7), SO_PEERGROUPS). Raises OSError."""
    pid, uid, gid = struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    try:
        more = array("I", connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MOST_GROUPS))
    except OSError:  # there are more, or an old kernel (Linux 4.13)
        more = array("I")
    return Peer(pid, uid, frozenset((gid, *more)))
