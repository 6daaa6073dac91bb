"""docs/options.md, made from the option table."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Final

from clsync.options.help import spelled
from clsync.options.table import ELSEWHERE, LATER, OPTIONS, RETIRED, RETIRED_VALUES, Option, Takes
from clsync.options.values import written

_INTRODUCTION = """\
# Options

Made by `make docs` from `src/clsync/options/table.py`; changes here are lost.

Every option is also a key of the configuration file, by its long name without dashes (see `clsync(1)`, section
CONFIGURATION). An optional value has to be attached: `-d3`, `--debug=3`. A flag without a value adds one, and 0
turns it off. Times are in seconds, decimals are allowed.

The column "0.4" shows the default of clsync 0.4 where it was another one; `--compat=0.4` brings all of them back: see
[from-clsync-0.4.md](from-clsync-0.4.md).
"""


NO_DEFAULT: Final = "-"


def reference() -> str:
    """Return the text of docs/options.md."""
    return "\n".join([_INTRODUCTION, *_groups(), *retired_lines(), *later_lines()]) + "\n"


def _groups() -> Iterator[str]:
    for name, options in groupby(OPTIONS, key=lambda option: option.group):
        yield f"## {name}\n"
        yield "| Option | Default | 0.4 | Meaning |"
        yield "|---|---|---|---|"
        yield from map(_row, options)
        yield ""


def _row(option: Option) -> str:
    meaning = _sentence(option.help) + (f" {option.details}" if option.details else "")
    return row(f"`{spelled(option).strip()}`", default_cell(option), old_default_cell(option), meaning)


def row(*cells: str) -> str:
    """Return a row of a table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def default_cell(option: Option) -> str:
    """Return the default of an option, `NO_DEFAULT` where it is off or there is none."""
    text = written(option.default)
    off = option.takes is not Takes.VALUE and option.default == 0
    return f"`{text.decode()}`" if text and not off else NO_DEFAULT


def old_default_cell(option: Option) -> str:
    """Return the default of clsync 0.4 where it is another one."""
    text = written(option.old_default)
    return f"`{text.decode()}`" if text else ""


def retired_lines() -> Iterator[str]:
    """Yield the section on options that have no effect."""
    yield "## Options of clsync 0.4 that have no effect\n"
    yield "They are accepted with a warning, as old configurations have to start.\n"
    for option in RETIRED:
        yield f"- `--{option.name}`: {option.retired}."
    for (name, value), (_, instead) in RETIRED_VALUES.items():
        yield f"- `--{name}={value}`: {instead}."
    yield ""


def later_lines() -> Iterator[str]:
    """Yield the section on options that are not available."""
    yield "## Options of clsync 0.4 that are not available\n"
    yield "They end the start with an error that names them.\n"
    yield from (f"`--{name}` {why}.\n" for name, why in ELSEWHERE.items())
    names = {name if name.startswith("-") else f"--{name}": short for name, short in LATER.items()}
    yield ", ".join(f"`{name}`" + (f" (`-{short}`)" if short else "") for name, short in names.items())
