"""What the daemon and the process of a module say to each other: one packet a message, over a Unix socket."""

from __future__ import annotations

import pickle
import socket
from collections.abc import Sequence
from typing import Final, NamedTuple

from clsync.handler.plugin.values import Values
from clsync.kernel.descriptors import received

PACKET: Final = 1 << 18
"""Most bytes of a message."""

RECORD: Final = "=IIiiI"
"""Before the path of each object in a list of them: mask, flags, old and new type, length of the path. Then a NUL."""


class Refused(Exception):
    """The module cannot be loaded; the text says why."""


class Start(NamedTuple):
    """Load a module and let it initialise; comes with a descriptor of the watched directory."""

    host: bytes
    module: bytes
    function: str
    """What the module must have."""
    values: Values


class StartPython(NamedTuple):
    """Import a function written in Python; comes with a descriptor of the watched directory."""

    module: bytes
    """`package.module:function`."""
    function: str
    """What a person calls it."""
    label: bytes
    source: bytes
    destination: bytes | None


class Sync(NamedTuple):
    """Hand over objects; comes with descriptors of the watched directory and of a file of records."""

    status: str
    iteration: int
    objects: int


class Rsync(NamedTuple):
    """Hand over lists; comes with a descriptor of the watched directory."""

    status: str
    iteration: int
    include: bytes
    exclude: bytes | None = None


class End(NamedTuple):
    """Let the module clean up, and end."""


Request = Start | StartPython | Sync | Rsync | End

# What comes back begins with a letter, as the C library writes some of it.
ANSWER: Final = b"="
"""A number: what the module has returned."""
REFUSAL: Final = b"!"
"""A text: the module cannot be loaded."""
FAILED: Final = b"F"
"""A path and a reason, with a NUL between them: comes before the answer 0."""
CRITICAL, ERROR, WARNING, INFO, DEBUG = b"C", b"E", b"W", b"I", b"D"
"""A text for the log; the level of debug messages, a digit, stands before it."""


def send(connection: socket.socket, request: Request, descriptors: Sequence[int] = ()) -> None:
    """Send a request. Raises OSError."""
    socket.send_fds(connection, [pickle.dumps(request)], descriptors, socket.MSG_NOSIGNAL)


def receive(connection: socket.socket) -> tuple[Request, list[int]]:
    """Return the next request and the descriptors that come with it. Raises EOFError where there is none any more."""
    data, descriptors = received(connection, PACKET, 2)
    if not data:
        raise EOFError
    request: Request = pickle.loads(data)
    return request, descriptors
