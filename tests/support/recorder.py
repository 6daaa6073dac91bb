"""A handler of the operator's own that notes how it is called."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import NamedTuple

from tests.support.daemon import Daemon


class Call(NamedTuple):
    """One run of the handler."""

    iteration: int
    status: str
    arguments: list[bytes]


class Recorder:
    """A program that writes down its arguments, and then does what a line of shell says."""

    def __init__(self, top: Path, then: str = "") -> None:
        """Make the program in the directory `top`. `then`: shell, told the arguments and what clsync sets."""
        self.program, self._log = top / "recorder", top / "recorder.log"
        noted = '"$#" "$CLSYNC_ITERATION" "$CLSYNC_STATUS" "$@"'
        self.program.write_text(f"#!/bin/sh\nprintf '%s\\0' {noted} >>{quote(str(self._log))}\n{then}\n")
        self.program.chmod(0o755)

    @property
    def option(self) -> str:
        """The option that makes this program the handler."""
        return f"-S{self.program}"

    @property
    def calls(self) -> list[Call]:
        """All runs so far; one whose arguments are not all written yet is none: a shell writes many in parts."""
        words = self._log.read_bytes().split(b"\0")[:-1] if self._log.exists() else []
        found = []
        while len(words) >= 3:
            end = 3 + int(words[0])
            if len(words) < end:
                break
            found.append(Call(int(words[1]), words[2].decode(), words[3:end]))
            words = words[end:]
        return found

    def wait_for_calls(self, daemon: Daemon, number: int) -> list[Call]:
        """Wait until there were so many runs; return all so far."""
        daemon.wait_until(lambda: len(self.calls) >= number, what=f"run {number} of the handler")
        return self.calls
