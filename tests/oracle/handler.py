"""The handler that records, and what it has recorded."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_SCRIPT = Path(__file__).with_name("recorder.sh")


class Run(NamedTuple):
    """One run of the handler."""

    status: str
    iteration: str
    directory: bytes
    arguments: list[bytes]
    lists: dict[bytes, bytes]
    """Argument that names a list file -> what was in that file."""
    code: int
    """The exit code it gave."""

    def speaks_of(self, name: bytes) -> bool:
        """Tell whether an object of the top directory is named."""
        return any(name in word for word in [*self.arguments, *self.lists.values()])


class RecordingProgram:
    """A program that writes down how it is called."""

    def __init__(self, place: Path, code: int = 0) -> None:
        """Put it into the directory `place`; `code`: what it exits with."""
        self.path, self._record = place / "recorder", place / "record"
        shutil.copy(_SCRIPT, self.path)
        if code:
            (place / "code").write_text(f"{code}\n")

    def runs(self) -> list[Run]:
        """Return all runs that have ended."""
        text = self._record.read_bytes() if self._record.exists() else b""
        return list(_parsed(text.split(b"\0")[:-1]))


def _parsed(words: list[bytes]) -> Iterator[Run]:
    rest = iter(words)
    try:
        for count in rest:
            status, iteration, directory = [next(rest) for _ in range(3)]
            arguments = [next(rest) for _ in range(int(count))]
            lists: dict[bytes, bytes] = {}
            while (word := next(rest)) != b"exit":
                lists[word] = next(rest)
            yield Run(status.decode(), iteration.decode(), directory, arguments, lists, int(next(rest)))
    except StopIteration:
        return  # it is writing the last one
