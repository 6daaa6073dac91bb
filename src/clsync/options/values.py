"""Values of options: from the text an operator wrote to a typed value, and back to text for `%name%`.

A parser takes the text (None where an option with an optional value came without one) and the value the option
has so far, and returns the new value or raises `Invalid`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from clsync.options.brake import NO_BRAKE, Brake
from clsync.options.hours import Hours
from clsync.options.hours import parse as parse_hours

Parser = Callable[[bytes | None, Any], object]

IO_CLASSES: Final = ("idle", "best-effort", "realtime")
INT_MAX: Final = 2**31 - 1
_OFF_T_MAX: Final = 2**63 - 1
_SIGNALS: Final = frozenset(range(1, 65)) - {9, 19, 32, 33}
"""signal(7); KILL and STOP cannot be caught, two belong to the C library."""
_BLANKS: Final = b" \t\n\v\f\r"


class Invalid(ValueError):
    """A value that cannot be used: `reason` says why, `hint` says what to write instead."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


def shown(text: bytes) -> str:
    """Return `text` for a person: undecodable bytes and control characters escaped, never parsed back."""
    decoded = text.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in decoded)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the entry of `known` that `word` was most likely meant to be."""
    from difflib import get_close_matches  # costs 2 ms, and only a mistake needs it

    return next(iter(get_close_matches(word, list(known), 1, 0.6)), None)


def strtol(text: bytes) -> int:
    """Read an integer as C's strtol does in base 0: `10`, `0x10`, `010` (= 8), empty = 0; blanks around are cut."""
    stripped = text.strip(_BLANKS)
    if not stripped:
        return 0
    body = stripped[1:] if stripped[:1] in (b"+", b"-") else stripped
    if body[:2] in (b"0x", b"0X"):
        base, digits = 16, body[2:]
    elif body[:1] == b"0" and body != b"0":
        base, digits = 8, body[1:]
    else:
        base, digits = 10, body
    try:
        if not digits.isalnum():  # int() would take underscores, blanks and a second sign
            raise ValueError
        number = int(digits, base)
    except ValueError:
        octal = "; a number that begins with 0 is octal" if base == 8 and digits.isdigit() else ""
        raise Invalid(f"'{shown(text)}' is not a number{octal}", "write a whole number, without a unit") from None
    return -number if stripped[:1] == b"-" else number


def _within(number: float, minimum: float, maximum: float) -> None:
    if number < minimum:
        raise Invalid(f"{number} is too small", f"the least is {minimum}")
    if number > maximum:
        raise Invalid(f"{number} is too large", f"the most is {maximum}")


def integer(minimum: int = 0, maximum: int = INT_MAX) -> Parser:
    """Return the parser of an integer within bounds."""

    def parse(text: bytes | None, current: object) -> int:
        number = strtol(text or b"")
        _within(number, minimum, maximum)
        return number

    return parse


def size(text: bytes | None, current: object) -> int:
    """Parse a number of bytes."""
    number = strtol(text or b"")
    _within(number, 0, _OFF_T_MAX)
    return number


def amount(text: bytes | None, current: object) -> int:
    """Parse a number of bytes, with a unit if it has one: `512k`, `5m`, `1g`."""
    number, unit = _with_unit((text or b"").strip(_BLANKS))
    _within(number * (unit or 1), 0, _OFF_T_MAX)
    return number * (unit or 1)


def _with_unit(word: bytes) -> tuple[int, int]:
    """Return a number and the bytes of its unit, 0 where it has none. Raises Invalid."""
    unit = {b"k": 1 << 10, b"m": 1 << 20, b"g": 1 << 30}.get(word[-1:].lower(), 0)
    digits = word[:-1] if unit else word
    try:
        if unit and not digits:
            raise Invalid(f"'{shown(word)}' is not a number")
        return strtol(digits), unit
    except Invalid as error:
        octal = error.reason.partition(";")[1:]
        what = f"'{shown(word)}' is not a number{''.join(octal)}"
        raise Invalid(what, "write a whole number, or one with a unit: 512k, 5m, 1g") from None


def seconds(minimum: float = 0) -> Parser:
    """Return the parser of a time span in seconds, decimals allowed."""

    def parse(text: bytes | None, current: object) -> float:
        stripped = (text or b"").strip(_BLANKS)
        whole, point, fraction = stripped.partition(b".")
        try:
            decimal = point and (whole.removeprefix(b"+") + fraction).isdigit()
            number = float(stripped) if decimal else float(strtol(stripped))
        except (Invalid, OverflowError):
            raise Invalid(
                f"'{shown(stripped)}' is not a number of seconds", "write seconds without a unit: 30 or 0.5"
            ) from None
        _within(number, minimum, INT_MAX)
        return number

    return parse


def flag(text: bytes | None, current: int) -> int:
    """Parse a counting flag: no value adds one, a value is the number itself (0 = off)."""
    return current + 1 if text is None else _int32(text)


def verbosity(text: bytes | None, current: int) -> int:
    """Parse a verbosity of 0 to 3; what lies beyond is the nearest of them."""
    return min(max(flag(text, current), 0), 3)


def _int32(text: bytes) -> int:
    number = strtol(text)
    _within(number, -INT_MAX - 1, INT_MAX)
    return number


def string(text: bytes | None, current: object) -> bytes | None:
    """Parse a path or a name; empty turns the option off."""
    if not text:
        return None
    if b"\0" in text:
        raise Invalid("holds a NUL byte")
    return text


def text(text: bytes | None, current: object) -> bytes:
    """Parse a text that may be empty."""
    return string(text, current) or b""


def choice(*names: str, empty: str | None = None) -> Parser:
    """Return the parser of one name out of `names`: the first token of a comma-separated value; numbers are no names.

    An empty value means `empty` (None: an error).
    """

    def parse(text: bytes | None, current: object) -> str:
        name = shown((text or b"").split(b",", 1)[0])
        if not name and empty is not None:
            return empty
        if name not in names:
            guess = nearest(name, names)
            meant = f"did you mean {guess}? " if guess else ""
            raise Invalid(f"'{name}' is not known here", f"{meant}possible: {', '.join(names)}")
        return name

    return parse


def compat(text: bytes | None, current: object) -> bool:
    """Parse the version whose defaults are wanted: `0.4`, or `off`."""
    return choice("0.4", "off", empty="off")(text, current) == "0.4"


class FileMode(int):
    """Permission bits, written in octal digits."""

    def __str__(self) -> str:
        return f"{self:04o}"


def file_mode(text: bytes | None, current: object) -> FileMode:
    """Parse permission bits: octal digits."""
    digits = (text or b"").strip(_BLANKS)
    if not digits or len(digits) > 4 or digits.strip(b"01234567") or int(digits, 8) > 0o777:
        raise Invalid(f"'{shown(digits)}' is not a mode", "write up to three octal digits: 660")
    return FileMode(int(digits, 8))


def exit_codes(text: bytes | None, current: frozenset[int]) -> frozenset[int]:
    """Parse `n[,n...]` and add the codes to `current`; a 0 (or an empty value) clears what was collected before it."""
    for word in (text or b"0").split(b","):
        if not word:
            continue
        if not word.isdigit() or len(word) > 3 or int(word) > 255:
            raise Invalid(f"'{shown(word)}' is not an exit code", "write codes from 1 to 255 with commas: 23,24")
        current = current | {int(word)} if int(word) else frozenset()
    return current


def names(*known: str, every: frozenset[str] | None = None) -> Parser:
    """Return the parser of a list of names with commas, added to those so far; empty clears, `*` stands for `every`."""

    def parse(text: bytes | None, current: frozenset[str]) -> frozenset[str]:
        if not text:
            return frozenset()
        for word in text.split(b","):
            if word == b"*" and every is not None:
                current |= every
            elif word:
                current |= {str(choice(*known)(word, None))}
        return current

    return parse


def layers(*known: str) -> Parser:
    """Return the parser of `auto`, `on`, `off`, or names out of `known` with commas."""

    def parse(text: bytes | None, current: object) -> frozenset[str]:
        words = frozenset(shown(word.strip(_BLANKS)) for word in (text or b"auto").split(b","))
        if len(words) == 1 and words <= {"auto", "on", "off"}:
            return words
        return frozenset(str(choice(*known)(word.encode(), None)) for word in words)

    return parse


def account(text: bytes | None, current: object) -> bytes:
    """Parse the name or number of a user or a group; whether there is one is seen where it is used."""
    stripped = (text or b"").strip(_BLANKS)
    if not stripped:
        raise Invalid("no name and no number", "write a name or a number; 0 is root")
    if stripped.isdigit() and int(stripped) >= 2**32 - 1:
        raise Invalid(f"{shown(stripped)} is too large", f"the most is {2**32 - 2}")
    if b"\0" in stripped:
        raise Invalid("holds a NUL byte")
    return stripped


def capabilities(*known: str) -> Parser:
    """Return the parser of a list of capabilities with commas; `CAP_` may be left out. Empty: none of them."""

    def parse(text: bytes | None, current: object) -> frozenset[str]:
        words = {word.strip() for word in (text or b"").upper().split(b",")} - {b""}
        full = {shown(word if word.startswith(b"CAP_") else b"CAP_" + word) for word in words}
        for name in sorted(full.difference(known)):
            guess = nearest(name, known)
            meant = f"did you mean {guess}? " if guess else ""
            raise Invalid(f"'{name}' is no capability", f"{meant}names are those of capabilities(7)")
        return frozenset(full)

    return parse


def numbered(*names: str, unnumbered: str) -> Parser:
    """Return the parser of one name out of `names`, or of its number, from 0; `unnumbered` is a name as well."""

    def parse(text: bytes | None, current: object) -> str:
        if text is not None and text.isdigit() and int(text) < len(names):
            return names[int(text)]
        return str(choice(*names, unnumbered)(text, current))

    return parse


def paths(text: bytes | None, current: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Parse a list of absolute paths with commas; empty: none."""
    found = tuple(filter(None, (text or b"").split(b",")))
    for path in found:
        if not path.startswith(b"/") or b"\0" in path:
            raise Invalid(f"'{shown(path)}' is not an absolute path", "write paths from / on, with commas")
    return found


def group_name(text: bytes | None, current: object) -> bytes:
    """Parse the name of a group of processes: a relative path."""
    name = (text or b"").strip(b"/")
    if not name or b"\0" in name or not {b"", b".", b".."}.isdisjoint(name.split(b"/")):
        raise Invalid(f"'{shown(text or b'')}' is no name of a group", "write a relative path without dots")
    return name


def hours(text: bytes | None, current: object) -> Hours:
    """Parse spans of hours; empty means always."""
    try:
        return parse_hours(shown((text or b"").strip(_BLANKS)))
    except ValueError as error:
        raise Invalid(
            str(error), "write spans as 22:00-06:00 or Mon-Fri 12:00-13:00, with commas between them"
        ) from None


def more_files(text: bytes | None, current: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Parse paths with commas, added to those so far; an empty one clears the list."""
    for path in (text or b"").split(b","):
        current = (*current, path) if path else ()
    return current


def rate(text: bytes) -> int:
    """Parse a rate: KiB a second, as rsync(1) has it, or with a unit (`512k`, `5m`, `1g`); return bytes a second."""
    number, unit = _with_unit(text)
    _within(number, 1, _OFF_T_MAX >> 30)
    return number * (unit or 1 << 10)


def entries(text: bytes) -> int:
    """Parse a number of entries a second; 0: none."""
    number = strtol(text)
    _within(number, 0, _OFF_T_MAX >> 30)
    return number


def brake(text: bytes) -> Brake:
    """Parse how much may be deleted: a number of entries, a percentage, or `none`."""
    if text == b"none":
        return NO_BRAKE
    percent = text.endswith(b"%")
    number = strtol(text.removesuffix(b"%"))
    _within(number, 0, 100 if percent else _OFF_T_MAX >> 2)
    return Brake(0, number / 100) if percent else Brake(number, 0.0)


def niceness(text: bytes) -> int:
    """Parse a nice value."""
    number = strtol(text)
    _within(number, -20, 19)
    return number


def io_class(text: bytes) -> str:
    """Parse the name of an I/O class."""
    return str(choice(*IO_CLASSES)(text, None))


def signal_blocks(text: bytes | None, current: Mapping[int, bytes]) -> Mapping[int, bytes]:
    """Parse `N:block[,N:block...]` and add it to `current`; a 0 (or an empty value) clears what was before it."""
    found = dict(current)
    for word in (text or b"0").split(b","):
        if word.strip() == b"0":
            found.clear()
            continue
        number, colon, block = word.partition(b":")
        if not colon or not block or not number.strip().isdigit():
            raise Invalid(f"'{shown(word)}' is no signal with a block", "write number:block, as in 40:backup")
        if int(number) not in _SIGNALS:
            raise Invalid(
                f"{int(number)} is no signal that can be caught", "take one from 1 to 64, not 9, 19, 32, 33"
            )
        found[int(number)] = block
    return found


def argument_line(text: bytes | None, current: object) -> tuple[bytes, ...]:
    r"""Split a line at blanks and tabs; `'...'` and `"..."` group, may be glued to plain text; empty arguments vanish.

    A backslash is ordinary, except that `\"` inside `"..."` is a quotation mark.
    """
    words: list[bytes] = []
    word = bytearray()
    quote = 0
    line = iter(text or b"")
    for byte in line:
        if quote:
            if byte == quote:
                quote = 0
            elif byte == 0x5C and quote == 0x22:
                following = next(line, None)
                word += b"\\" if following != 0x22 else b""
                word += bytes(() if following is None else (following,))
            else:
                word.append(byte)
        elif byte in b"'\"":
            quote = byte
        elif byte in b" \t":
            words.append(bytes(word))
            word.clear()
        else:
            word.append(byte)
    if quote:
        raise Invalid(
            f"the quotation mark {chr(quote)} is not closed", f"add {chr(quote)} at the end of the argument"
        )
    words.append(bytes(word))
    return tuple(filter(None, words))


def nothing(text: bytes | None, current: object) -> None:
    """Parse the value of an option that has none."""


def written(value: object) -> bytes | None:
    """Return the text of a value, as `%name%` puts it into other values; None where nothing is set."""
    match value:
        case None | bytes():
            return value
        case bool():
            return b"0.4" if value else b"off"
        case frozenset():
            return b",".join(str(part).encode() for part in sorted(value)) or None
        case dict():
            return b",".join(b"%d:%s" % pair for pair in sorted(value.items())) or None
        case tuple():
            return b",".join(value) or None
        case float():
            return repr(value).removesuffix(".0").encode()
        case _:
            return str(value).encode()
