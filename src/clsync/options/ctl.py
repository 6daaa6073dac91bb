"""`clsync ctl`: its commands and options, and the command line made of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from clsync.errors import OperatorError
from clsync.options.values import Invalid, nearest, seconds, shown

WORD: Final = b"ctl"
"""First argument of the command line that asks for this."""
WAIT: Final = b"wait"
"""The same for the command of this name alone; all others are options of the daemon."""
USAGE: Final = "Usage: clsync ctl [OPTION]... COMMAND [ARGUMENT]..."
TIMEOUT: Final = 10.0
"""Seconds."""


class Command(NamedTuple):
    """What can be asked for."""

    name: str
    operands: tuple[str, ...]
    help: str
    details: str = ""
    """More for the manual page."""


class CtlOption(NamedTuple):
    """An option of `clsync ctl`."""

    name: str
    short: str
    metavar: str
    """Empty: it has no value."""
    help: str
    completes: str = ""
    commands: tuple[str, ...] = ()
    """Those that take it; none: all."""


COMMANDS: Final = (
    Command(
        "status",
        (),
        "what the daemon does",
        "Phase, monitors, what is pending, what fails and why. Of a daemon of clsync 0.4, version, block and label.",
    ),
    Command("info", (), "its configuration block and label"),
    Command("version", (), "its version"),
    Command("dump", ("DIR",), "have its queues written to a new directory", "The directory must not exist."),
    Command(
        "set",
        ("KEY", "VALUE"),
        "change one of its options",
        "KEY is the long name without dashes. In force from the next batch on. What --custom-signals cannot change"
        " cannot be set either. `clsync wait` returns when it is in force. Refused for a daemon of clsync 0.4, which would"
        " set an empty value.",
    ),
    Command(
        "wait",
        (),
        "wait until everything that has changed by now has arrived",
        "In that version or a later one, at all destinations or at those of --target. `clsync wait` is the same. Exit"
        " code 3, with a list, if something failed; 11 if it takes longer than --timeout; without it there is no limit.",
    ),
    Command(
        "pause",
        (),
        "hand over nothing more",
        "To all destinations, or to those of --target. What is on its way arrives; changes are collected. QUIT ends the"
        " run then without syncing, with exit code 3 if anything may have changed.",
    ),
    Command("resume", (), "go on after a pause"),
    Command("accept", (), "delete what --max-delete has held back", "At all destinations, or at those of --target."),
    Command("stop", (), "end it, as SIGTERM does", "The command returns when the daemon has ended."),
    Command("die", (), "the same", "The name of clsync 0.4."),
)

_OF_TARGETS: Final = ("wait", "pause", "resume", "accept")

OPTIONS: Final = (
    CtlOption("socket", "s", "PATH", "control socket of the daemon", "file"),
    CtlOption("config-file", "H", "FILE", "configuration file of the daemon, which names the socket", "file"),
    CtlOption("config-block", "K", "NAME", "its block"),
    CtlOption("json", "j", "", "answer in JSON"),
    CtlOption("timeout", "", "SECONDS", f"longest wait for an answer [{TIMEOUT:g}]"),
    CtlOption(
        "target",
        "",
        "DEST",
        "a destination, as it was named to the daemon; may be repeated",
        "dir",
        ("wait", "pause", "resume", "accept"),
    ),
    CtlOption("until-synced", "", "", "wait until nothing at all is left to be synced", "", ("wait",)),
    CtlOption("help", "h", "", "show this text"),
)

_BY_NAME: Final = {option.name: option for option in OPTIONS}
_BY_SHORT: Final = {option.short: option for option in OPTIONS if option.short}
_COMMANDS: Final = {command.name: command for command in COMMANDS}
_HELP: Final = "clsync ctl --help lists what there is"


@dataclass
class CtlLine:
    """What a command line asks for."""

    command: str = ""
    operands: list[bytes] = field(default_factory=list)
    values: dict[str, bytes] = field(default_factory=dict)
    """Options with values, by their names."""
    json: bool = False
    help: bool = False
    until_synced: bool = False
    targets: list[bytes] = field(default_factory=list)
    timeout: float = TIMEOUT
    given: set[str] = field(default_factory=set)
    """Names of the options that were given."""

    def daemon_line(self) -> list[bytes]:
        """Return the options from which the daemon has its configuration."""
        names = [name for name in ("config-file", "config-block") if name in self.values]
        return [b"--%s=%s" % (name.encode(), self.values[name]) for name in names]


def read_ctl_line(arguments: Sequence[bytes]) -> CtlLine:
    """Read the arguments after `ctl`; options may stand anywhere. Raises OperatorError."""
    line = CtlLine()
    words: list[bytes] = []
    rest = iter(arguments)
    for argument in rest:
        value_is_next = len(words) == 2 and words[0] == b"set"  # it may begin with a dash
        if argument == b"--" and not value_is_next:
            words += rest
        elif argument.startswith(b"-") and len(argument) > 1 and not value_is_next:
            _note(line, argument, rest)
        else:
            words.append(argument)
    if not line.help:
        _check(line, words)
    return line


def _check(line: CtlLine, words: list[bytes]) -> None:
    if not words:
        raise OperatorError("clsync ctl: no command", f"one of: {', '.join(_COMMANDS)}")
    name, line.operands = shown(words[0]), words[1:]
    command = _COMMANDS.get(name)
    if command is None:
        guess = nearest(name, _COMMANDS)
        hint = f"did you mean {guess}? " if guess else ""
        raise OperatorError(f"clsync ctl: unknown command '{name}'", f"{hint}one of: {', '.join(_COMMANDS)}")
    if len(line.operands) != len(command.operands):
        usage = " ".join(("clsync ctl", name, *command.operands))
        raise OperatorError(
            f"clsync ctl {name} takes {len(command.operands)} arguments, but got {len(line.operands)}",
            f"write: {usage}",
        )
    line.command = name
    for option in OPTIONS:
        if option.commands and option.name in line.given and name not in option.commands:
            raise OperatorError(
                f"clsync ctl --{option.name} has no meaning for {name}", f"it is for: {', '.join(option.commands)}"
            )


def _note(line: CtlLine, argument: bytes, rest: Iterator[bytes]) -> None:
    if argument.startswith(b"--"):
        word, equals, text = argument[2:].partition(b"=")
        option, value = _named(shown(word)), text if equals else None
    else:
        option, value = _lettered(argument), argument[2:] or None
    where = f"clsync ctl --{option.name}"
    line.given.add(option.name)
    if not option.metavar:
        if value is not None:
            raise OperatorError(f"{where} takes no value, but got '{shown(value)}'", f"write --{option.name} alone")
        setattr(line, option.name.replace("-", "_"), True)
        return
    value = next(rest, None) if value is None else value
    if not value or b"\0" in value:
        raise OperatorError(f"{where} needs a value", f"write --{option.name} {option.metavar}")
    if option.name == "timeout":
        line.timeout = _seconds(value, where)
    elif option.name == "target":
        line.targets.append(value)
    else:
        line.values[option.name] = value


def _lettered(argument: bytes) -> CtlOption:
    option = _BY_SHORT.get(chr(argument[1]))
    if option is None:
        raise OperatorError(f"clsync ctl: unknown option {shown(argument[:2])}", _HELP)
    return option


def _seconds(text: bytes, where: str) -> float:
    try:
        found = seconds()(text, None)
    except Invalid as error:
        raise OperatorError(f"{where}: {error.reason}", error.hint) from None
    assert isinstance(found, float)
    if not 0 < found < math.inf:
        raise OperatorError(f"{where}: {found:g} s are too few", "write 1 or more")
    return found


def _named(word: str) -> CtlOption:
    begun = [name for name in _BY_NAME if name == word or (word and name.startswith(word))]
    if word in _BY_NAME or len(begun) == 1:
        return _BY_NAME[word if word in _BY_NAME else begun[0]]
    if begun:
        raise OperatorError(f"clsync ctl: --{word} is ambiguous", f"it may be {', '.join('--' + n for n in begun)}")
    guess = nearest(word, _BY_NAME)
    hint = f"did you mean --{guess}? {_HELP}" if guess else _HELP
    raise OperatorError(f"clsync ctl: unknown option --{word}", hint)


def spelled(option: CtlOption) -> str:
    """Return how an option is written: `-s, --socket=PATH`."""
    short = f"-{option.short}, " if option.short else "    "
    return f"{short}--{option.name}" + (f"={option.metavar}" if option.metavar else "")


def ctl_help() -> str:
    """Return the text of `clsync ctl --help`."""
    commands = [(" ".join((c.name, *c.operands)), c.help) for c in COMMANDS]
    options = [(spelled(option), option.help) for option in OPTIONS]
    return "\n".join((USAGE, "", "Commands:", *_columns(commands), "", "Options:", *_columns(options), ""))


def _columns(rows: list[tuple[str, str]]) -> Iterator[str]:
    return (f"  {left:27} {text}" for left, text in rows)
