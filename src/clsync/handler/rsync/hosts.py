"""What the other end of an ssh connection is asked of itself, by a script for its shell: its boot, and to flush."""

from __future__ import annotations

import re

from clsync.handler.base import HostNews
from clsync.handler.rsync.renaming import word

_GREETING = b"clsync host"
_FLUSHED = b"flushed"
_BOOT = re.compile(rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_ASK = rb"""
cat /proc/sys/kernel/random/boot_id || exit 1
"""
# Those of before 2015 (coreutils 8.24) flush everything or nothing.
_FLUSH = rb"""
LC_ALL=C; export LC_ALL
flush() {
  cd -- "${1%.}" || { sync; return; }
  said=$(sync -f . 2>&1) && return
  case $said in *option*) sync ;; *) return 1 ;; esac
}
"""


def script(flushed: bytes | None) -> bytes:
    """Return a script (POSIX sh) that says which boot the host is in; `flushed`: a directory to be flushed then."""
    text = b"echo '" + _GREETING + b"'" + _ASK
    if flushed is None:
        return text
    # The dot keeps what ends with a newline as it is.
    path = flushed if flushed.startswith(b"/") else b"./" + flushed
    where = b"\"$(printf '%b.' " + word(path) + b')"'
    return text + _FLUSH + b"flush " + where + b" >/dev/null 2>&1 && echo " + _FLUSHED + b"\n"


def news(said: bytes) -> HostNews:
    """Read what a script has said; a host that ran none, or does not know boots as Linux does, has told nothing."""
    greeting, *lines = said[:200].split(b"\n")
    if greeting != _GREETING or not lines or not _BOOT.fullmatch(lines[0]):
        return HostNews(None)
    return HostNews(lines[0], lines[1:2] == [_FLUSHED])
