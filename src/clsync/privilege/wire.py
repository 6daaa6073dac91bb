"""What broker and worker say to each other: frames, and the values in them. Pure: bytes in, values out, no I/O.

Nothing is believed: whatever does not fit the signature of its operation, to the last byte, is refused.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Any, Final, NamedTuple

FRAME_LIMIT: Final = 8 << 20
"""Bytes of one frame. What is longer goes in several."""
PATHS_AT_ONCE: Final = 8192
"""Paths of one frame at most; fewer, where they are long."""
BYTES_AT_ONCE: Final = 1 << 20
STEPS_LIMIT: Final = 100_000
"""Changes of names at a destination that are asked for in one go; more than that are not worth while."""
_HEADER: Final = struct.Struct("<IBBI")
_U64, _I64, _DOUBLE, _U32 = struct.Struct("<Q"), struct.Struct("<q"), struct.Struct("<d"), struct.Struct("<I")
_NONE: Final = 0xFFFFFFFF


class Kind(IntEnum):
    """What a frame is."""

    REQUEST = 0
    MORE = 1
    """A part of an answer; others follow."""
    END = 2
    """An answer, or its last part."""
    OS_ERROR = 3
    OPERATOR_ERROR = 4


ERRORS: Final = {Kind.OS_ERROR: "iso", Kind.OPERATOR_ERROR: "iss"}
"""Signatures: error number, text, path; exit code, message, hint."""


class Op(IntEnum):
    """Everything that can be asked of the broker; nothing else is."""

    OPEN_ROOT = 1
    CLOSE_ROOT = 2
    IDENTITY = 3
    LOOK = 4
    LIST = 5
    SHOWN_TWICE = 6
    SCAN = 7
    SCAN_END = 8
    LIST_NEXT = 9
    RULES = 10
    STATUS = 11
    STANDBY = 12
    DUMP = 13
    LOOK_PLAIN = 14
    HEAR = 15
    STATE_SCAN = 16
    TARGET_EMPTY = 17
    TARGET_ONLY_THERE = 18
    FLUSH = 19
    LOOK_RECORDS = 52
    MONITOR_OPEN = 20
    MONITOR_ARM = 21
    MONITOR_DRAIN = 22
    MONITOR_DESCRIBE = 23
    MONITOR_TAKE = 24
    MONITOR_NEXT = 25
    MONITOR_SURVIVORS = 26
    MONITOR_NEXT_SURVIVORS = 27
    MONITOR_WATCH_FILE = 28
    MONITOR_COMPARED = 29
    MONITOR_CLOSE = 30
    MONITOR_LOOK = 31
    MONITOR_MOVES = 32
    MONITOR_NEXT_MOVES = 33
    HANDLER_OPEN = 40
    HANDLER_BATCH = 41
    HANDLER_ENTRIES = 42
    HANDLER_LINKED = 43
    HANDLER_SYNC = 44
    HANDLER_STOP = 45
    HANDLER_CLOSE = 46
    HANDLER_STEPS = 47
    HANDLER_RENAME = 48
    HANDLER_HOST = 49
    HOOK_RUN = 50
    HOOK_STOP = 51
    PREPARE = 60
    ADOPT = 61
    COMPARE_OPEN = 64
    COMPARE = 65
    COMPARE_PATHS = 66
    COMPARE_NEXT = 67
    COMPARE_END = 68
    COMPARE_CLOSE = 69
    READY = 70
    ENDED = 71
    FAILED = 72
    ASK_TO_DELETE = 73
    DUMP_DIRECTORY = 74
    DUMP_FILE = 75
    DUMP_END = 76
    TARGET_ABSENT = 77
    TARGET_COUNT = 78


class Signature(NamedTuple):
    """The types of what is asked, of each part of the answer, and of its end."""

    request: str
    end: str = ""
    more: str = ""


SIGNATURES: Final = {
    Op.OPEN_ROOT: Signature("y", "u"),
    Op.CLOSE_ROOT: Signature("u"),
    Op.IDENTITY: Signature("u", "uuyuu"),
    Op.LOOK: Signature("uP", "y"),
    Op.LOOK_PLAIN: Signature("uP", "y"),
    Op.LOOK_RECORDS: Signature("uP", "y"),
    Op.LIST: Signature("uP", "u"),
    Op.LIST_NEXT: Signature("u", "b", "uuPy"),
    Op.SHOWN_TWICE: Signature("u", "U"),
    Op.SCAN: Signature("uT", "u"),
    Op.SCAN_END: Signature("ub", "i"),
    Op.RULES: Signature("", "y"),
    Op.STATUS: Signature("s"),
    Op.STANDBY: Signature("", "b"),
    Op.DUMP: Signature("o", "u"),
    Op.DUMP_DIRECTORY: Signature("uy"),
    Op.DUMP_FILE: Signature("uy"),
    Op.DUMP_END: Signature("u"),
    Op.HEAR: Signature(""),
    Op.STATE_SCAN: Signature("ubyd", "u"),
    Op.TARGET_EMPTY: Signature("u", "b"),
    Op.TARGET_ONLY_THERE: Signature("uP", "", "P"),
    Op.TARGET_ABSENT: Signature("uP", "", "P"),
    Op.TARGET_COUNT: Signature("uPu", "u"),
    Op.FLUSH: Signature("u", "b"),
    Op.MONITOR_OPEN: Signature("y", "u"),
    Op.MONITOR_ARM: Signature("u", "b"),
    Op.MONITOR_LOOK: Signature("u"),
    Op.MONITOR_DRAIN: Signature("u", "bbbdd"),
    Op.MONITOR_DESCRIBE: Signature("u", "s"),
    Op.MONITOR_TAKE: Signature("u"),
    Op.MONITOR_NEXT: Signature("u", "b", "uP"),
    Op.MONITOR_MOVES: Signature("u"),
    Op.MONITOR_NEXT_MOVES: Signature("u", "b", "PPU"),
    Op.MONITOR_SURVIVORS: Signature("u"),
    Op.MONITOR_NEXT_SURVIVORS: Signature("u", "b", "UPb"),
    Op.MONITOR_WATCH_FILE: Signature("uPU", "i"),
    Op.MONITOR_COMPARED: Signature("uPi"),
    Op.MONITOR_CLOSE: Signature("u"),
    Op.HANDLER_OPEN: Signature("uuu", "biobb"),
    Op.HANDLER_BATCH: Signature("uuubsuiy"),
    Op.HANDLER_ENTRIES: Signature("uPI"),
    Op.HANDLER_LINKED: Signature("uP"),
    Op.HANDLER_SYNC: Signature("u", "ssiu", "sPT"),
    Op.HANDLER_STEPS: Signature("uIPP"),
    Op.HANDLER_RENAME: Signature("uy", "uUP"),
    Op.HANDLER_HOST: Signature("ub", "ob"),
    Op.HANDLER_STOP: Signature("u"),
    Op.HANDLER_CLOSE: Signature("u"),
    Op.HOOK_RUN: Signature("ussu"),
    Op.HOOK_STOP: Signature(""),
    Op.PREPARE: Signature("TT", "uydyTL", "bsssyLooo"),
    Op.ADOPT: Signature("u"),
    Op.COMPARE_OPEN: Signature("uuu"),
    Op.COMPARE: Signature("uuybbu"),
    Op.COMPARE_PATHS: Signature("uP"),
    Op.COMPARE_NEXT: Signature("u", "bus", "PIU"),
    Op.COMPARE_END: Signature("u"),
    Op.COMPARE_CLOSE: Signature("u"),
    Op.READY: Signature(""),
    Op.ENDED: Signature("i"),
    Op.FAILED: Signature("iss"),
    Op.ASK_TO_DELETE: Signature("uuu", "bb"),
}
"""`u` unsigned, `i` signed integer, `b` truth, `d` number, `y` bytes, `o` bytes or None, `s` text, `P` paths relative to
the watched directory, `I` and `U` integers of 32 and 64 bits, `L` several bytes or None, `T` texts."""


class Refused(Exception):
    """What was said does not fit: the other side is not what it should be."""


class Frame(NamedTuple):
    """One message."""

    op: int
    kind: int
    number: int
    """Of the request that it is, or answers."""
    body: bytes


def framed(op: Op, kind: Kind, number: int, body: bytes) -> bytes:
    """Return a frame ready to be sent. Raises Refused where it is too long."""
    if len(body) > FRAME_LIMIT:
        raise Refused(f"a frame of {len(body)} bytes")
    return _HEADER.pack(len(body), op, kind, number) + body


class Frames:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> None:
        """Take what has come."""
        self._data += data

    def next(self) -> Frame | None:
        """Return the next frame if all of it has come. Raises Refused where it is too long."""
        if len(self._data) < _HEADER.size:
            return None
        length, op, kind, number = _HEADER.unpack_from(self._data)
        if length > FRAME_LIMIT:
            raise Refused(f"a frame of {length} bytes")
        end = _HEADER.size + length
        if len(self._data) < end:
            return None
        body = bytes(memoryview(self._data)[_HEADER.size : end])
        del self._data[:end]
        return Frame(op, kind, number, body)


def pack(signature: str, *values: Any) -> bytes:
    """Return the values as bytes; `signature`: see `SIGNATURES`."""
    return b"".join(_PACK[kind](value) for kind, value in zip(signature, values, strict=True))


def unpack(signature: str, body: bytes) -> list[Any]:
    """Return the values in `body`. Raises Refused where it is anything but these."""
    values, at = [], 0
    try:
        for kind in signature:
            value, at = _UNPACK[kind](body, at)
            values.append(value)
    except (struct.error, UnicodeError, IndexError) as error:
        raise Refused(f"a message that is none: {error}") from None
    if at != len(body):
        raise Refused("a message that is longer than it should be")
    return values


def in_frames(paths: Sequence[bytes], texts: Sequence[str] = ()) -> Iterator[slice]:
    """Cut paths into parts that go into one frame each; `texts`: one for each path, if there are any."""
    for first in range(0, len(paths), PATHS_AT_ONCE):
        yield from _halved(paths, texts, first, min(first + PATHS_AT_ONCE, len(paths)))


def _halved(paths: Sequence[bytes], texts: Sequence[str], first: int, end: int) -> Iterator[slice]:
    part = slice(first, end)
    if len(b"".join(paths[part])) + 4 * len("".join(texts[part])) <= BYTES_AT_ONCE or end - first == 1:
        yield part
        return
    middle = (first + end) // 2
    yield from _halved(paths, texts, first, middle)
    yield from _halved(paths, texts, middle, end)


def _pack_bytes(value: bytes) -> bytes:
    return _U32.pack(len(value)) + value


def _pack_text(value: str) -> bytes:
    return _pack_bytes(value.encode("utf-8", "surrogateescape"))


def _pack_optional(value: bytes | None) -> bytes:
    return _U32.pack(_NONE) if value is None else _pack_bytes(value)


def _pack_paths(value: Sequence[bytes]) -> bytes:
    return _U32.pack(len(value)) + _pack_bytes(b"\0".join(value))


def _unpack_bytes(body: bytes, at: int) -> tuple[bytes, int]:
    (length,) = _U32.unpack_from(body, at)
    end = at + 4 + length
    if end > len(body):
        raise Refused("a message that is cut off")
    return body[at + 4 : end], end


def _unpack_text(body: bytes, at: int) -> tuple[str, int]:
    value, at = _unpack_bytes(body, at)
    return value.decode("utf-8", "surrogateescape"), at


def _unpack_optional(body: bytes, at: int) -> tuple[bytes | None, int]:
    (length,) = _U32.unpack_from(body, at)
    return (None, at + 4) if length == _NONE else _unpack_bytes(body, at)


def _unpack_truth(body: bytes, at: int) -> tuple[bool, int]:
    if body[at] > 1:
        raise Refused("a truth that is neither")
    return body[at] == 1, at + 1


def _unpack_paths(body: bytes, at: int) -> tuple[list[bytes], int]:
    (count,) = _U32.unpack_from(body, at)
    if count > PATHS_AT_ONCE:
        raise Refused(f"{count} paths at once")
    joined, at = _unpack_bytes(body, at + 4)
    if not count and not joined:
        return [], at
    paths = joined.split(b"\0")
    if len(paths) != count or _leads_out(joined):
        raise Refused("a path that leads out of the watched directory, or is none")
    return paths, at


def _leads_out(joined: bytes) -> bool:
    """Tell whether one of some paths, with NUL between them, is absolute, or has an empty, `.` or `..` component."""
    framed_in = b"\0%b\0" % joined
    components = framed_in.replace(b"\0", b"/")
    if b"//" not in components and b"/." not in components:
        return False  # nearly always, and quickly found
    if b"\0/" in framed_in or b"//" in framed_in or b"/\0" in framed_in:
        return True
    return b"/./" in components or b"/../" in components


def _several(value: Sequence[Any], pack_one: Any) -> bytes:
    return _U32.pack(len(value)) + b"".join(map(pack_one, value))


def _unpack_several(unpack_one: Any) -> Any:
    def unpacked(body: bytes, at: int) -> tuple[list[Any], int]:
        (count,) = _U32.unpack_from(body, at)
        at, values = at + 4, []
        for _ in range(count):
            value, at = unpack_one(body, at)
            values.append(value)
        return values, at

    return unpacked


def _unpack_array(letter: str, size: int) -> Any:
    def unpacked(body: bytes, at: int) -> tuple[list[int], int]:
        (count,) = _U32.unpack_from(body, at)
        if count * size > len(body):
            raise Refused("a message that is cut off")
        return list(struct.unpack_from(f"<{count}{letter}", body, at + 4)), at + 4 + count * size

    return unpacked


_PACK: Final[dict[str, Any]] = {
    "u": _U64.pack,
    "i": _I64.pack,
    "d": _DOUBLE.pack,
    "b": lambda value: b"\1" if value else b"\0",
    "y": _pack_bytes,
    "o": _pack_optional,
    "s": _pack_text,
    "P": _pack_paths,
    "I": lambda value: struct.pack(f"<I{len(value)}I", len(value), *value),
    "U": lambda value: struct.pack(f"<I{len(value)}Q", len(value), *value),
    "L": lambda value: _several(value, _pack_optional),
    "T": lambda value: _several(value, _pack_text),
}
_UNPACK: Final[dict[str, Any]] = {
    "u": lambda body, at: (_U64.unpack_from(body, at)[0], at + 8),
    "i": lambda body, at: (_I64.unpack_from(body, at)[0], at + 8),
    "d": lambda body, at: (_DOUBLE.unpack_from(body, at)[0], at + 8),
    "b": _unpack_truth,
    "y": _unpack_bytes,
    "o": _unpack_optional,
    "s": _unpack_text,
    "P": _unpack_paths,
    "I": _unpack_array("I", 4),
    "U": _unpack_array("Q", 8),
    "L": _unpack_several(_unpack_optional),
    "T": _unpack_several(_unpack_text),
}
