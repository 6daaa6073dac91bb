"""The command line, read as getopt_long(3) reads it: options and operands mixed, long names abbreviated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from clsync.errors import OperatorError
from clsync.options.table import ARGUMENTS_KEY, BY_NAME, BY_SHORT, ELSEWHERE, LATER, Option, Takes
from clsync.options.values import nearest, shown

_HELP = "clsync --help lists the options"


class Given(NamedTuple):
    """An option as somebody wrote it: `text` is None where it came without a value."""

    option: Option
    text: bytes | None
    where: str
    """How it is named in messages: `--mode`, `-M`, `/etc/clsync.conf, line 3: mode`."""


class CommandLine(NamedTuple):
    """What a command line says."""

    options: list[Given]
    operands: list[bytes] | None
    """Handler arguments; None where there are none."""
    argument_line: bytes | None
    """Value of the long option `--`."""
    recursive_line: bytes | None
    """Value of the long option `---`."""


def read_command_line(arguments: Sequence[bytes]) -> CommandLine:
    """Read the arguments after the program's name. Raises OperatorError."""
    given: list[Given] = []
    operands: list[bytes] = []
    lines: dict[bytes, bytes] = {}
    rest = iter(arguments)
    for argument in rest:
        if argument == b"--":
            operands += rest
        elif argument.startswith(b"----"):
            word, equals, line = argument.partition(b"=")
            if word not in (b"----", b"-----"):
                raise OperatorError(f"unknown option {shown(word)}", _HELP)
            lines[word] = line if equals else _value(rest, shown(word))
        elif argument.startswith(b"--"):
            given.append(_long(argument[2:], rest))
        elif argument.startswith(b"-") and len(argument) > 1:
            given += _shorts(argument[1:], rest)
        else:
            operands.append(argument)
    return CommandLine(given, operands or None, lines.get(b"----"), lines.get(b"-----"))


def _long(text: bytes, rest: Iterator[bytes]) -> Given:
    word, equals, value = text.partition(b"=")
    option = _named(shown(word))
    where = f"--{option.name}"
    if option.takes is Takes.NOTHING and equals:
        raise OperatorError(f"{where} takes no value, but got '{shown(value)}'", f"write {where} alone")
    if option.takes is Takes.VALUE and not equals:
        value, equals = _value(rest, where, option), b"="
    return Given(option, value if equals else None, where)


def _shorts(letters: bytes, rest: Iterator[bytes]) -> Iterator[Given]:
    """Read a cluster: `-vd3`, `-W/src`, `-W /src`."""
    while letters:
        letter, letters = letters[:1].decode("latin-1"), letters[1:]
        option = BY_SHORT.get(letter)
        where = f"-{letter}"
        if option is None:
            later = next((name for name, short in LATER.items() if short == letter), None)
            if later is not None:
                raise not_yet(f"{where} (--{later})")
            raise OperatorError(f"unknown option -{shown(letter.encode('latin-1'))}", _HELP)
        if option.takes is Takes.NOTHING:
            yield Given(option, None, where)
            continue
        value: bytes | None = letters or None
        if value is None and option.takes is Takes.VALUE:
            value = _value(rest, where, option)
        yield Given(option, value, where)
        return


def _value(rest: Iterator[bytes], where: str, option: Option | None = None) -> bytes:
    value = next(rest, None)
    if value is None:
        metavar = option.metavar if option is not None else "LINE"
        raise OperatorError(f"{where} needs a value", f"write {where} {metavar}")
    return value


def _named(word: str) -> Option:
    """Find a long option by its name or an unambiguous beginning of it."""
    if word in BY_NAME:
        return BY_NAME[word]
    if word in LATER:
        raise not_yet(f"--{word}")
    if word in ELSEWHERE:
        raise means_nothing(f"--{word}", word)
    known = [*BY_NAME, *LATER, *ELSEWHERE]
    begun = [name for name in known if word and name.startswith(word)]
    if len(begun) == 1:
        return _named(begun[0])
    if begun:
        raise OperatorError(f"--{word} is ambiguous", f"it may be {', '.join('--' + name for name in begun)}")
    guess = nearest(word, BY_NAME)
    raise OperatorError(f"unknown option --{word}", f"did you mean --{guess}? {_HELP}" if guess else _HELP)


def not_yet(where: str) -> OperatorError:
    """Return the error for an option of clsync 0.4 that this version lacks."""
    return OperatorError(
        f"{where} is not available in this version of clsync", "leave it out, or stay with clsync 0.4"
    )


def means_nothing(where: str, name: str) -> OperatorError:
    """Return the error for an option of clsync 0.4 that no Linux system can have."""
    return OperatorError(f"{where} {ELSEWHERE[name]}", "leave it out")


__all__ = ["ARGUMENTS_KEY", "CommandLine", "Given", "means_nothing", "not_yet", "read_command_line"]
