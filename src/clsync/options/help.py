"""The text of `clsync --help`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from itertools import groupby

from clsync.options.table import OPTIONS, Option, Takes
from clsync.options.values import written

USAGE = "Usage: clsync -W SOURCE [-D DESTINATION] [OPTION]... [-- HANDLER-ARGUMENT...]"
_CTL_USAGE = "       clsync ctl COMMAND                        ask a daemon that runs; see clsync ctl --help"
_DOCTOR_USAGE = (
    "       clsync doctor [OPTION]...                 say what this machine can give, and what would be done"
)
DOCTOR = b"doctor"
"""The first word of a command line that asks for that."""
_VERIFY_USAGE = "       clsync verify [OPTION]...                 tell what differs; see clsync verify --help"
_EXAMPLES = """\
Examples:
  clsync -W /srv/data -D /mnt/mirror             keep a directory equal, live
  clsync -W /srv/data -D host:/srv/data          the same over ssh
  clsync -W /src -D /dst --only-initialsync      make it equal once
  clsync -W /src -M direct -S ./deploy -- %INCLUDE-LIST%
"""


def spelled(option: Option) -> str:
    """Return how an option is written: `-W, --watch-dir=DIR`."""
    value = {
        Takes.VALUE: f"={option.metavar}",
        Takes.OPTIONAL: f"[={option.metavar}]",
        Takes.NOTHING: "",
    }[option.takes]
    short = f"-{option.short}, " if option.short else "    "
    return f"{short}--{option.name}{value}"


def default_text(option: Option) -> str:
    """Return the default for a person; nothing where there is none worth naming."""
    text = written(option.default)
    return text.decode() if text and option.default not in (0, False) else ""


def help_text(columns: int = 80) -> str:
    """Return the help, wrapped to a width."""
    return "\n".join([USAGE, _CTL_USAGE, _DOCTOR_USAGE, _VERIFY_USAGE, "", *_groups(max(columns, 60)), _EXAMPLES])


def _groups(columns: int) -> Iterator[str]:
    indent = 38 if columns >= 78 else 8
    for name, options in groupby(OPTIONS, key=lambda option: option.group):
        yield f"{name}:"
        for option in options:
            left = "  " + spelled(option)
            default = default_text(option)
            text = option.help + (f" [{default}]" if default else "")
            lines = textwrap.wrap(text, columns - indent - 1)
            if len(left) < indent - 1:
                yield left.ljust(indent) + lines.pop(0)
            else:
                yield left
            yield from (" " * indent + line for line in lines)
        yield ""
