"""What a scan and its scanner processes say to each other: a length, a letter, and paths with NULs between them."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from clsync.kernel.sandbox import Sandbox

COMPARE: Final = b"compare"
RECORD: Final = b"record"


class Order(NamedTuple):
    """What a scanner finds at its standard input: who starts it says what it does, not who drives it."""

    mode: bytes
    one_file_system: int
    """See `state.walker.Scope`."""
    state: bytes
    """The file (`Store.path`)."""
    rules: bytes
    """The text."""
    sandbox: Sandbox | None
    """What it can do besides listing the directories of the tree, and using the state."""
    since: float = 0.0
    """What is stamped later (wall clock, seconds) may not have arrived as it is seen; 0: nobody reads meanwhile, or a
    monitor tells what has changed."""


WORK: Final = b"W"
"""Directories to be scanned with all that is below them."""
SHARE: Final = b"G"
"""To a scanner: give some of your work away. From it: these."""
FOUND: Final = b"D"
"""From a scanner: differences, `bits path` each."""
LINKED: Final = b"L"
"""From a scanner: files with several names, `device inode links path` each."""
IDLE: Final = b"I"
"""From a scanner: nothing is left to do, and `directories entries` were seen so far."""
FAILED: Final = b"E"
"""From a scanner: the state is damaged, or cannot be read or written; a text."""
_HEAD: Final = struct.Struct("<Ic")
LIMIT: Final = 1 << 28
"""Bytes of a message."""


class Malformed(Exception):
    """What came is no message: the other end is not what it should be."""


def message(letter: bytes, parts: Iterable[bytes] = ()) -> bytes:
    """Return a message."""
    payload = b"\0".join(parts)
    return _HEAD.pack(len(payload), letter) + payload


class Inbox:
    """Puts messages together from what arrives."""

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> Iterator[tuple[bytes, list[bytes]]]:
        """Take what arrived; yield the messages (letter, parts) that are complete. Raises Malformed."""
        self._data += data
        at = 0
        while len(self._data) - at >= _HEAD.size:
            length, letter = _HEAD.unpack_from(self._data, at)
            end = at + _HEAD.size + length
            if length > LIMIT:
                raise Malformed(f"a message of {length} bytes")
            if len(self._data) < end:
                break
            yield letter, self._data[at + _HEAD.size : end].split(b"\0")
            at = end
        self._data = self._data[at:]
