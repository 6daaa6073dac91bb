"""What the process that copies and its workers tell each other: pickled tuples with their length before them.

Both ends are ours, connected by a socket pair that nobody else can open. But a worker may be another user's: what it says
is made of nothing but the messages here.
"""

from __future__ import annotations

import array
import io
import pickle
import select
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from clsync.handler.copy.settings import Settings
from clsync.handler.copy.units import Inode, Linked, Links, Listed, Tree, Unit
from clsync.kernel.descriptors import received

_LENGTH: Final = struct.Struct("<Q")
_CHUNK: Final = 1 << 18
_DESCRIPTORS: Final = 2
_PATIENCE_MS: Final = 100
_LIMIT: Final = 1 << 30
"""Bytes of a message of a worker."""


class Begin(NamedTuple):
    """To a worker, with the descriptors of both roots: what a batch is like. It answers with a report."""

    settings: Settings
    device: int
    """st_dev of the source root."""


class End(NamedTuple):
    """To a worker: the batch is over; it lets go of both roots, and says so."""


class Work(NamedTuple):
    """To a worker: units to do."""

    units: list[Unit]


class Share(NamedTuple):
    """To a worker: others have nothing to do, give some of yours."""


class Given(NamedTuple):
    """From a worker: units for others."""

    units: list[Unit]


class Report(NamedTuple):
    """From a worker: what was done since the last report."""

    failed: dict[bytes, str]
    linked: list[Linked]
    files: int
    copied: int
    spared: int
    idle: bool
    """It has nothing left to do."""


class Ended(NamedTuple):
    """From a worker: nothing of the batch is open any more."""


class Shut(NamedTuple):
    """From a worker: its sandbox is around other directories."""


class Broken(NamedTuple):
    """From a worker: it cannot go on. `unwell`: because of the destination; `full`: which has no room."""

    text: str
    unwell: bool
    full: bool = False


Said = Given | Report | Ended | Shut | Broken
"""By workers."""
Message = Begin | Work | Share | End | Said


def send(
    to: socket.socket, message: Message, descriptors: Sequence[int] = (), pause: Callable[[], None] = lambda: None
) -> None:
    """Send one message (see `send_packed`)."""
    send_packed(to, packed(message), descriptors, pause)


def packed(message: Message) -> bytes:
    """Return a message as it is sent. Raises whatever pickle does where a part of it cannot be handed over."""
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(data)) + data


def send_packed(to: socket.socket, data: bytes, descriptors: Sequence[int], pause: Callable[[], None]) -> None:
    """Send a packed message, and descriptors with it; waits until it is taken, and calls `pause` meanwhile.

    Raises OSError. Whatever `pause` raises ends it in the middle.
    """
    left = memoryview(data)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    while left:
        try:
            left = left[to.sendmsg([left], rights, socket.MSG_DONTWAIT) :]
            rights = []
        except BlockingIOError:
            room = select.poll()
            room.register(to, select.POLLOUT)
            room.poll(_PATIENCE_MS)
            pause()


_OF_WORKERS: Final = {
    (kind.__module__, kind.__name__): kind
    for kind in (Given, Report, Ended, Shut, Broken, Tree, Listed, Links, Linked, Inode)
}  # fmt: skip


class _Reader(pickle.Unpickler):
    """Makes nothing but what a worker has to say."""

    def find_class(self, module: str, name: str) -> Any:
        """Return a class by its name. Raises UnpicklingError."""
        try:
            return _OF_WORKERS[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is no message") from None


class Inbox:
    """Messages as they arrive."""

    def __init__(self, connection: socket.socket, *, of_worker: bool = False) -> None:
        """`connection`: one end of the pair; `of_worker`: a worker is at the other one."""
        self._connection = connection
        self._of_worker = of_worker
        self.descriptors: list[int] = []
        """Those that came, for who takes them; a worker sends none."""
        self._data = bytearray()

    def take(self, wait: bool = False) -> Any | None:
        """Return the next message; None where there is none yet. Raises EOFError when the other end is gone.

        UnpicklingError: a worker says what no worker says.
        """
        while True:
            message = self._complete()
            if message is not None:
                return message
            try:
                data = self._received(0 if wait else socket.MSG_DONTWAIT)
            except BlockingIOError:
                return None
            except ConnectionError:
                data = b""
            if not data:
                raise EOFError
            self._data += data

    def _received(self, flags: int) -> bytes:
        if self._of_worker:
            return self._connection.recv(_CHUNK, flags)
        data, descriptors = received(self._connection, _CHUNK, _DESCRIPTORS, flags)
        self.descriptors += descriptors
        return data

    def _complete(self) -> Any | None:
        start = _LENGTH.size
        if len(self._data) < start:
            return None
        end = start + _LENGTH.unpack_from(self._data)[0]
        if self._of_worker and end > _LIMIT:
            raise pickle.UnpicklingError(f"a message of {end} bytes")
        if len(self._data) < end:
            return None
        data = bytes(self._data[start:end])
        del self._data[:end]
        return _read(data) if self._of_worker else pickle.loads(data)


def _read(data: bytes) -> Said:
    """Return what a worker says. Raises UnpicklingError, whatever is wrong with it."""
    try:
        message = _Reader(io.BytesIO(data)).load()
    except Exception as error:  # noqa: BLE001 - a pickle that is none raises anything
        raise pickle.UnpicklingError(f"{type(error).__name__}: {error}") from None
    if not isinstance(message, Said):
        raise pickle.UnpicklingError(f"{type(message).__name__} is no message")
    if not _is_sound(message):
        raise pickle.UnpicklingError(f"{type(message).__name__} of something else")
    return message


def _is_sound(message: Said) -> bool:
    """Tell whether the parts of a message are what they should be, as far as this process itself looks at them."""
    match message:
        case Report(dict() as failed, list() as linked, int(), int(), int(), bool()):
            return all(map(_is_linked, linked)) and all(
                isinstance(path, bytes) and isinstance(why, str) for path, why in failed.items()
            )
        case Given(list() as units):
            return all(isinstance(unit, Unit) for unit in units)
        case Broken(str(), bool(), bool()) | Ended() | Shut():
            return True
    return False


def _is_linked(one: object) -> bool:
    match one:
        case Linked(Inode(int(), int()), bytes(), bool()):
            return True
    return False
