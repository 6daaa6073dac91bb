"""The text protocol of the control socket: bytes in, lines out, and back; no I/O.

A line is `NUMBER ID[ ARGUMENTS][ :TEXT]`; the text is for people. Answers repeat the number of the request. Strings
among the arguments end with the two bytes ETX and slash, so they may hold blanks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Final, NamedTuple


class Id(IntEnum):
    """What a line means. Those from 400 on are ours, all others are those of clsync 0.4."""

    NEGOTIATE = 0
    NEGOTIATED = 1
    ACKNOWLEDGED = 150
    UNKNOWN = 160
    INVALID_ID = 161
    INVALID_ARGUMENTS = 162
    FAILED = 199
    VERSION = 200
    INFO = 201
    DUMP = 202
    LOGIN = 210
    SET = 211
    DIE = 240
    QUIT = 250
    VERSION_IS = 300
    INFO_IS = 301
    DUMPED = 302
    HAS_SET = 311
    BYE = 350
    LEAVING = 351
    STATUS = 400
    WAIT = 401
    PAUSE = 402
    RESUME = 403
    ACCEPT = 404
    VERIFY = 405
    STATUS_IS = 500
    ARRIVED = 501
    PAUSED = 502
    RESUMED = 503
    ACCEPTED = 504
    VERIFYING = 505
    VERIFIED = 506


PROTOCOL: Final = 0
MOST_IDS: Final = 1000
"""Ids are smaller than that."""
LONGEST_REQUEST: Final = 16_384
"""Bytes; a path of 4096 bytes fits well."""
LONGEST_ANSWER: Final = 4 << 20

_END: Final = b"\3/"
_HEAD: Final = re.compile(rb" *([0-9]{1,20}) +([0-9]{1,10})(?: (.*))?", re.DOTALL)
_ARGUMENTS: Final[dict[int, str]] = {
    Id.NEGOTIATE: "n",
    Id.NEGOTIATED: "n",
    Id.ACKNOWLEDGED: "nn",
    Id.UNKNOWN: "nn",
    Id.INVALID_ID: "n",
    Id.INVALID_ARGUMENTS: "nn",
    Id.FAILED: "ssns",
    Id.DUMP: "p",
    Id.SET: "kv",
    Id.WAIT: "s",
    Id.PAUSE: "s",
    Id.RESUME: "s",
    Id.ACCEPT: "s",
    Id.VERIFY: "s",
    Id.VERSION_IS: "nnw",
    Id.INFO_IS: "ssxx",
    Id.STATUS_IS: "s",
    Id.ARRIVED: "s",
    Id.VERIFYING: "s",
    Id.VERIFIED: "s",
}
"""Kinds of arguments: n number, x hexadecimal number, s string, w word, p path, k key, v value."""
_TEXTS: Final[dict[int, bytes]] = {
    Id.NEGOTIATE: b"Protocol version is %d.",
    Id.NEGOTIATED: b"Protocol version is %d.",
    Id.ACKNOWLEDGED: b"Acknowledged command: id == %d; num == %d.",
    Id.UNKNOWN: b"Unknown command.",
    Id.INVALID_ID: b"Invalid command id. Required: 0 <= cmd_id < 1000.",
    Id.INVALID_ARGUMENTS: b"Rejected command: id == %d; num == %d. Invalid arguments: %s.",
    Id.FAILED: b'%s(%s): Error #%d: "%s".',
    Id.VERSION_IS: b"clsync v%d.%d%s",
    Id.INFO_IS: b'config_block == "%s"; label == "%s"; flags == %x; flags_set == %x.',
    Id.DUMPED: b"Ready",
    Id.HAS_SET: b"Set",
    Id.BYE: b"Bye.",
    Id.LEAVING: b"Too many connections: this one has rested longest.",
    Id.STATUS_IS: b"Status.",
    Id.ARRIVED: b"Arrived.",
    Id.PAUSED: b"Paused.",
    Id.RESUMED: b"Going on.",
    Id.ACCEPTED: b"Accepted.",
    Id.VERIFYING: b"Verifying.",
    Id.VERIFIED: b"Verified.",
}

Argument = int | bytes


class ProtocolError(Exception):
    """What came is no line of this protocol: the connection is to be closed."""


class Malformed(ValueError):
    """The arguments are not those of the id."""


class Line(NamedTuple):
    """A line that came, its arguments not looked at yet."""

    number: int
    id: int
    rest: bytes = b""
    """What follows the id and a blank."""

    def arguments(self) -> tuple[Argument, ...]:
        """Return the arguments. Raises Malformed."""
        return self._read()[0]

    def numbers(self) -> list[int]:
        """Return those arguments that are numbers. Raises Malformed."""
        return [argument for argument in self.arguments() if isinstance(argument, int)]

    def strings(self) -> list[bytes]:
        """Return those arguments that are not numbers. Raises Malformed."""
        return [argument for argument in self.arguments() if isinstance(argument, bytes)]

    def text(self) -> bytes:
        """Return the text for people. Raises Malformed."""
        rest = self._read()[1]
        return rest.partition(b":")[2]

    def _read(self) -> tuple[tuple[Argument, ...], bytes]:
        found: list[Argument] = []
        rest = self.rest
        for kind in _ARGUMENTS.get(self.id, ""):
            argument, rest = _READERS[kind](rest.removeprefix(b" ") if found else rest)
            found.append(argument)
        return tuple(found), rest


def request(number: int, id: int, *arguments: Argument) -> bytes:
    """Return a line as clients send it. Raises Malformed where an argument cannot be sent."""
    return b" ".join((b"%d %d" % (number, id), *_written(id, arguments))) + b"\n"


def answer(number: int, id: int, *arguments: Argument, reason: bytes = b"") -> bytes:
    """Return a line as servers send it. Raises Malformed where an argument cannot be sent.

    `reason`: what is wrong, for INVALID_ARGUMENTS.
    """
    words = b" ".join(_written(id, arguments))
    values = (*arguments, reason) if id == Id.INVALID_ARGUMENTS else arguments
    text = _TEXTS[id] % values if b"%" in _TEXTS[id] else _TEXTS[id]
    return b"%d %d %s :%s\n" % (number, id, words, text)


def sendable(text: bytes) -> bytes:
    """Return `text` with escapes for what would end a line or a string."""
    return text.replace(b"\n", rb"\n").replace(b"\0", rb"\0").replace(_END, rb"\x03/")


class Reader:
    """Makes lines of the bytes that come."""

    def __init__(self, longest: int = LONGEST_REQUEST) -> None:
        """`longest`: bytes that a line may have."""
        self._longest = longest
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Take what has come."""
        self._buffer += data

    def lines(self) -> Iterator[Line]:
        """Yield what is complete. Raises ProtocolError at the first line that is none."""
        while (end := self._buffer.find(b"\n")) >= 0:
            raw = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            yield self._line(raw)
        # A zero byte is how the binary kind of this protocol begins; it has no lines to wait for.
        if len(self._buffer) > self._longest or 0 in self._buffer:
            raise ProtocolError("too long, or binary")

    def _line(self, raw: bytes) -> Line:
        found = _HEAD.fullmatch(raw.removesuffix(b"\r"))
        if found is None or len(raw) > self._longest or 0 in raw:
            raise ProtocolError("a line that does not begin with two numbers, is too long, or binary")
        return Line(int(found[1]), int(found[2]), found[3] or b"")


# -- arguments -------------------------------------------------------------------------------------------------


def _written(id: int, arguments: tuple[Argument, ...]) -> list[bytes]:
    kinds = _ARGUMENTS.get(id, "")
    if len(kinds) != len(arguments):
        raise Malformed(f"{id} has {len(kinds)} arguments, not {len(arguments)}")
    return [_written_as(kind, argument) for kind, argument in zip(kinds, arguments, strict=True)]


def _written_as(kind: str, argument: Argument) -> bytes:
    if isinstance(argument, int):
        return (b"%x" if kind == "x" else b"%d") % argument
    if any(what in argument for what in (b"\n", b"\0", _END)):
        raise Malformed("a line break, a zero byte, or ETX and slash cannot be sent")
    # A path without blanks goes as clsync 0.4 reads it: up to the first blank.
    plain = kind == "w" or (kind == "p" and argument and not re.search(rb"\s", argument))
    return argument if plain else argument + _END


def _number(rest: bytes, base: int = 10) -> tuple[int, bytes]:
    word, _, _ = rest.partition(b" ")
    try:
        if not word.isalnum():  # int() would take signs and underscores
            raise ValueError
        return int(word, base), rest[len(word) :]
    except ValueError:
        raise Malformed("a number is missing") from None


def _hexadecimal(rest: bytes) -> tuple[int, bytes]:
    return _number(rest, 16)


def _string(rest: bytes) -> tuple[bytes, bytes]:
    text, end, rest = rest.partition(_END)
    if not end:
        raise Malformed("a string that does not end with ETX and slash")
    return text, rest


def _word(rest: bytes) -> tuple[bytes, bytes]:
    word, _, _ = rest.partition(b" ")
    if not word:
        raise Malformed("a word is missing")
    return word, rest[len(word) :]


def _path(rest: bytes) -> tuple[bytes, bytes]:
    if _END in rest:
        return _string(rest)
    word, after = _word(rest)
    if after and not after.startswith(b" :"):
        raise Malformed("a path with blanks has to end with ETX and slash")
    return word, after


def _key(rest: bytes) -> tuple[bytes, bytes]:
    word, _, _ = rest.partition(b" ")
    return _string(rest) if _END in word or rest.count(_END) > 1 else _word(rest)


def _value(rest: bytes) -> tuple[bytes, bytes]:
    return _string(rest) if _END in rest else (rest, b"")


_READERS: Final[dict[str, Callable[[bytes], tuple[Argument, bytes]]]] = {
    "n": _number,
    "x": _hexadecimal,
    "s": _string,
    "w": _word,
    "p": _path,
    "k": _key,
    "v": _value,
}
