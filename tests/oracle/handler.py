"""The handler that records, and what it has recorded."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.modules import compiled, debian_flags

_SCRIPT, _MODULE = (Path(__file__).with_name(f"recorder.{kind}") for kind in ("sh", "c"))


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


class Recorder:
    """A program, or a module, that writes down how it is called."""

    def __init__(self, place: Path, code: int = 0, *, module: bool = False) -> None:
        """Put it into the directory `place`; `code`: what it exits with, or answers. Skips without a compiler."""
        self.path, self._record = place / "recorder", place / "record"
        self.path.write_bytes(_module() if module else _SCRIPT.read_bytes())
        self.path.chmod(0o755)
        self._record.touch()
        self._record.chmod(0o666)  # clsync 0.4 has its modules write as nobody when root has started it
        if code:
            (place / "code").write_text(f"{code}\n")

    def runs(self) -> list[Run]:
        """Return all runs that have ended."""
        return list(_parsed(self._record.read_bytes().split(b"\0")[:-1]))


@cache
def why_no_module() -> str:
    """Tell why there can be no module here; nothing if there can."""
    try:
        _module()
    except pytest.skip.Exception as why:
        return str(why)
    return ""


@cache
def _module() -> bytes:
    """Return the module as it is for Debian's clsync 0.4: both programs load the same. Skips without a compiler."""
    with tempfile.TemporaryDirectory(prefix="clsync-oracle-") as name:
        top = Path(name)
        return compiled(top, _MODULE, ["-Wall", "-Werror", *debian_flags(top)]).read_bytes()


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
