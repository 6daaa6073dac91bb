"""Rules, configuration, command line, values."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from clsync.core.paths import printable
from clsync.core.rules import Rules
from clsync.errors import OperatorError
from clsync.options import HelpRequested, VersionRequested, load
from clsync.options.configfile import parse_config
from clsync.options.ctl import read_ctl_line
from clsync.options.expansion import expand
from clsync.options.settings import value_of
from clsync.options.table import BY_NAME, OPTIONS, Takes
from clsync.options.values import Invalid, argument_line
from tests.fuzz.target import Feed, target

_PATHS = (b"", b"a", b"a/b", b"x.o", b"secret\n", b"\xff", b"a" * 3000, b"ab" * 99, b"a/b/c/d")


def _demand_clear(error: OperatorError, where: str = "") -> None:
    """Fail unless a message is one that can be shown, with an exit code; `where`: how it begins."""
    assert error.message
    assert error.message.startswith(where), error.message
    assert 0 < error.code < 256
    for text in (error.message, error.hint, *error.warnings):
        assert printable(text) == text, ascii(text)


def _tried(act: Callable[[], object]) -> bool:
    """Do something that may be refused in a clear way; tell whether it was done."""
    try:
        act()
    except OperatorError as error:
        _demand_clear(error)
        return False
    except (HelpRequested, VersionRequested):
        return False
    return True


@target(
    b"-f\\.o$\n+d^a$\n-*secret\n#x\n\n+W^$\n",
    b"-*([a-z]+)\\1\n+*[[:alpha:]]{2,3}$\n",
    b"-f(a*)*b\n-f(a|a)*c\n-f(((a{1,9}){1,9}){1,9})$\n",
    b"-f^([a-z]+/?)*!$\n-fa.*a.*a.*b\n",
    b"-*[]\n",
    b"+*" + b"(" * 300 + b")" * 300,
)
def rules(data: bytes) -> None:
    """Rules are refused, naming the line, or answer for any path, and the same way each time."""
    try:
        made = Rules.parse(data[:2000], "rules")
    except OperatorError as error:
        _demand_clear(error, "rules, line ")
        return
    again = Rules.parse(made.source_text, "rules")
    for path in _PATHS:
        for is_dir in (False, True):
            assert made.permits(path, is_dir) == again.permits(path, is_dir)
        made.reaches(path)
        if made.recursion_is_free(path):
            assert made.permits(path + b"/x" if path else b"x", False)


@target(
    b"[default]\nwatch-dir = /\nmode = copy\ndestination-dir = /tmp\n",
    b'[default]\nconfig-block-inherits = b\n[b]\nlabel = %label%\n-- = a \'b c\' "d\\""\n',
    b"[x]\ncustom-signals = 40:x\nwatch-dir=%destination-dir%\ndestination-dir=%watch-dir%\n",
    b"key = value\n",
)
def configuration(data: bytes) -> None:
    """A file is refused, naming file and line, or is what it says; so are the settings that come of it."""
    try:
        found = parse_config(data, "conf")
    except OperatorError as error:
        _demand_clear(error, "conf, line ")
        return
    for block in [b"default", *list(found.blocks)[:3]]:
        arguments = [b"-W/", b"-Hconf", b"-K" + block]
        _tried(lambda arguments=arguments: load(arguments, {}, lambda name: data, 1))  # type: ignore[misc]


@target(
    b"-W/\0-D/tmp\0-t1\0--mode=copy",
    b"--\0a\0b",
    b"-vd3\0-k5x",
    b"--mo=copy\0----=a b\0-W",
    b"ctl\0-s\0/x\0set\0a\0b",
)
def command_line(data: bytes) -> None:
    """Arguments are refused in a clear way, or are settings; what `%name%` stands for can be written."""
    arguments = [word[:500] for word in data.split(b"\0")[:30]]
    _tried(lambda: read_ctl_line(arguments))
    _tried(lambda: value_of("socket", arguments, {}, lambda name: None))
    try:
        made = load(arguments, {b"CLSYNC_COMPAT": arguments[0]} if b"." in arguments[0] else {}, lambda name: None, 1)
    except OperatorError as error:
        _demand_clear(error)
        return
    except (HelpRequested, VersionRequested):
        return
    for option in OPTIONS:
        made.text(option.name.encode())


@target(*(bytes((number,)) + b"5" for number in range(100)), b"\x10 0x7fffffff", b"\x20-1.5e3", b"\x05a,b:c,*")
def option_values(data: bytes) -> None:
    """A value of any option is refused in a clear way, or comes back as it is when its text is parsed again."""
    feed = Feed(data)
    valued = [option for option in OPTIONS if option.takes is not Takes.NOTHING and not option.retired]
    option = valued[feed.number() % len(valued)]
    text = feed.rest()[:300].replace(b"%", b"")
    arguments = [b"-W/", b"-D/tmp", b"-s/x", b"--" + option.name.encode() + b"=" + text]
    if not _tried(lambda: load(arguments, {}, lambda name: b"[default]\n[b]\n" if name != b"/NULL/" else None, 1)):
        return
    made = load(arguments, {}, lambda name: b"[default]\n[b]\n", 1)
    written = made.text(option.name.encode())
    assert written is None or isinstance(written, bytes)
    assert option.name in BY_NAME


@target(b"a 'b c' \"d\" e\\", b"%a%%b%%%", b'"\\""')
def argument_lines(data: bytes) -> None:
    """A line is words, or refused; macros are replaced by what they stand for, once."""
    with suppress(Invalid):
        assert all(argument_line(data, None))
    assert expand(data, lambda name: None).count(b"%") <= data.count(b"%")
    assert b"evil" not in expand(data.replace(b"evil", b""), lambda name: b"%evil%").replace(b"%evil%", b"")
