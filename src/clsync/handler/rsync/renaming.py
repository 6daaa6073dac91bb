"""Renaming at the other end of an ssh connection, by a script for its shell.

No name is ever read by the shell: all that is not a plain letter, digit, dot, dash or underscore is written in octal,
and becomes bytes in a variable (printf(1), `%b`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from clsync.core.moves import Kind, Step
from clsync.core.paths import parent
from clsync.handler.base import Renamed

MOST_STEPS = 500
"""More than that take longer than to send what was renamed."""
_GREETING = b"clsync renames"
_ODD = re.compile(rb"[^A-Za-z0-9._/-]")
_PATH = re.compile(rb"[A-Za-z0-9._/+=@,-]*")
"""Directories of the target that every rsync and every shell takes for the same."""

_FUNCTIONS = rb"""
LC_ALL=C; export LC_ALL; umask 077; set -f
decode() { v=$(printf '%b.' "$1"); v=${v%.}; }
gone() { [ ! -e "$1" ] && [ ! -h "$1" ]; }
enter() {
  cd -P -- "$root" || return 1
  IFS=/; set -- $1; unset IFS
  for part do
    decode "$part"
    [ ! -h "./$v" ] && cd -P -- "./$v" || return 1
  done
  [ "$(stat -c %d .)" = "$device" ]
}
stands() {
  [ ! -h "$2" ] && [ "-$1" != - ] && test "-$1" "$2" && [ "$(stat -c %d -- "$2")" = "$device" ]
}
free() { mv -n -T -- "$1" "$2" && gone "$1"; }
move() {
  enter "$4" || return 1
  to=$(pwd -P; printf .); to=${to%?.}
  decode "$5"; to=$to/$v
  enter "$2" || return 1
  decode "$3"; from=./$v
  stands "$1" "$from" || return 1
  if gone "$to"; then free "$from" "$to"
  elif [ "$1" = f ] && { [ -h "$to" ] || [ ! -d "$to" ]; }; then mv -f -T -- "$from" "$to" && gone "$from"
  else free "$to" "$root/$aside" && free "$from" "$to" && free "$root/$aside" "$from"
  fi
}
make() {
  enter "$1" || return 1
  decode "$2"
  if mkdir -- "./$v" 2>/dev/null; then printf 'made '; else stands d "./$v"; fi
}
cd -P -- "$root" || exit 1
root=$(pwd -P; printf .); root=${root%?.}
device=$(stat -c %d .) && [ -n "$device" ] || exit 1
"""


def reachable(directory: bytes) -> bool:
    """Tell whether a shell at the other end finds the directory of a target as rsync does."""
    return _PATH.fullmatch(directory) is not None


def script(directory: bytes, steps: Sequence[Step], aside: bytes) -> bytes:
    """Return a script (POSIX sh, with the `mv` and `stat` of GNU or busybox) that carries out steps.

    It says one line for each that is done, and ends with the first that cannot be done. `aside`: a name in the root of
    the destination for what stands in the way for a moment.
    """
    lines = [
        b"printf '%s\\n' '" + _GREETING + b"'",
        b"root='" + (directory or b".") + b"'; aside=" + aside,
        _FUNCTIONS,
    ]
    for number, step in enumerate(steps):
        above, name = _split(step.target)
        if step.kind is Kind.MAKE:
            call: Iterable[bytes] = (b"make", above, name)
        else:
            call = (b"move", b"d" if step.is_dir else b"f", *_split(step.source), above, name)
        lines.append(b" ".join(call) + b" && echo %d || exit 1" % number)
    return b"\n".join([*lines, b""])


def understood(said: bytes) -> bool:
    """Tell whether the other end has run a script at all."""
    return said.startswith(_GREETING)


def renamed(said: bytes, steps: Sequence[Step], aside: bytes) -> Renamed:
    """Read what a script has said."""
    lines = said.split(b"\n")[1:-1]
    made = frozenset(number for number, line in enumerate(lines) if line.startswith(b"made "))
    return Renamed(len(lines), made, () if len(lines) == len(steps) else (aside,))


def _split(path: bytes) -> tuple[bytes, bytes]:
    above = parent(path)
    return word(above), word(path[len(above) + 1 if above else 0 :])


def word(path: bytes) -> bytes:
    """Return a path as one word for the shell that `printf %b` turns back into it."""
    return b"'" + _ODD.sub(lambda found: b"\\0%03o" % found[0][0], path) + b"'"
