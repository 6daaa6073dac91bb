"""`clsync verify`: its own options, beside those of the daemon."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

WORD: Final = b"verify"
"""First argument of the command line that asks for this."""
USAGE: Final = "Usage: clsync verify [--checksum] [--repair] [--json] [OPTION OF THE DAEMON]..."


class VerifyOption(NamedTuple):
    """An option of `clsync verify` alone."""

    name: str
    help: str
    details: str = ""


OPTIONS: Final = (
    VerifyOption("checksum", "compare the content of all files, too", "Otherwise sizes and mtimes speak for it."),
    VerifyOption("repair", "make equal what differs, and look again"),
    VerifyOption("json", "print one JSON object for each difference, and one with the numbers"),
)


class VerifyLine(NamedTuple):
    """What a command line asks for."""

    content: bool
    repair: bool
    json: bool
    help: bool
    daemon_line: list[bytes]
    """The rest: options of the daemon."""


def read_verify_line(arguments: Sequence[bytes]) -> VerifyLine:
    """Read the arguments after `verify`; its own options are not abbreviated, and stand before `--`."""
    words, rest = list(arguments), list[bytes]()
    if b"--" in words:
        rest = words[words.index(b"--") :]
        words = words[: len(words) - len(rest)]
    own = {f"--{option.name}".encode() for option in OPTIONS} | {b"-h", b"--help"}
    found = own.intersection(words)
    return VerifyLine(
        content=b"--checksum" in found,
        repair=b"--repair" in found,
        json=b"--json" in found,
        help=not found.isdisjoint((b"-h", b"--help")),
        daemon_line=[word for word in words if word not in own] + rest,
    )


def verify_help() -> str:
    """Return the text of `clsync verify --help`."""
    lines = [f"  {'--' + option.name:12} {option.help}" for option in OPTIONS]
    return "\n".join(
        (
            USAGE,
            "",
            "Compare destinations with the watched directory; a daemon that keeps them equal, and answers at --socket,",
            "does it itself.",
            "Exit code 0: they agree; 3: something differs still.",
            "",
            *lines,
            "",
            "The options of the daemon: clsync --help",
            "",
        )
    )
