"""The state of a running mirror, written into files for somebody in search of a fault."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final, Protocol

from clsync.core import batch as flag
from clsync.core.changes import DOUBT
from clsync.core.classify import CHANGE_SHIFT
from clsync.core.paths import printable, shown
from clsync.kernel import places

_QUEUES: Final = 4


@dataclass(frozen=True)
class FlightState:
    """A batch on its way."""

    number: int
    started: float
    """Wall-clock seconds."""
    entries: Mapping[bytes, int]


@dataclass(frozen=True)
class State:
    """What is dumped."""

    status: str
    flights: list[FlightState]
    queues: tuple[Mapping[bytes, int], Mapping[bytes, int], Mapping[bytes, int], Mapping[bytes, int]]
    """Change bits of what waits: changes; big files; names in search of others; what meets a batch on its way."""
    failing: Mapping[bytes, str]
    target: str
    """Its name; empty where there is only one."""
    overlapping: bool
    """Batches may be in flight beside others."""


class Place(Protocol):
    """Where a dump is written."""

    def directory(self, name: bytes) -> None:
        """Make a directory there. Raises OSError."""
        ...

    def file(self, name: bytes) -> int:
        """Return a descriptor of a new file there. Raises OSError."""
        ...

    def close(self) -> None:
        """Give it back."""
        ...


class DumpDirectory:
    """A new directory for a dump, by its descriptor: it may be moved, and another one put in its place."""

    def __init__(self, descriptor: int) -> None:
        """It is ours from now on."""
        self._descriptor = descriptor

    def directory(self, name: bytes) -> None:
        """Make a directory there. Raises OSError."""
        os.mkdir(name, 0o750, dir_fd=self._descriptor)

    def file(self, name: bytes) -> int:
        """Return a descriptor of a new file there. Raises OSError."""
        return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=self._descriptor)

    def close(self) -> None:
        """Give it back."""
        os.close(self._descriptor)


def begin_dump(directory: bytes) -> DumpDirectory:
    """Make the directory of a dump. Raises OSError; FileExistsError where something stands there."""
    return DumpDirectory(places.make_directory(directory, 0o750))


def write_dump(directory: bytes, states: Sequence[State]) -> None:
    """Write a directory that does not exist yet, in the layout of clsync 0.4. Raises OSError.

    With several targets it has such a directory for each, named by number.
    """
    with closing(begin_dump(directory)) as place:
        for _ in fill_dump(place, states):
            pass


def fill_dump(place: Place, states: Sequence[State]) -> Generator[None, None, None]:
    """Write into an empty directory, step by step (see `write_dump`). Raises OSError."""
    for number, state in enumerate(states, 1):
        here = b""
        if len(states) > 1:
            place.directory(b"%d" % number)
            here = b"%d/" % number
        yield from _fill(place, here, state)


def _fill(place: Place, here: bytes, state: State) -> Generator[None, None, None]:
    for name in (b"queue", b"threads"):
        place.directory(here + name)
    together = {} if state.overlapping else {p: f for flight in state.flights for p, f in flight.entries.items()}
    named = [f"target == {printable(state.target)}"] if state.target else []
    lines = [f"status == {state.status}", *named, *_objects(together, 1)]
    lines += [f"failing\t{shown(path)}\t{printable(why)}" for path, why in sorted(state.failing.items())]
    _write(place, here + b"instance", lines)
    for number in range(_QUEUES):
        waiting = {path: _as_flags(bits) for path, bits in state.queues[number].items()}
        yield
        _write(place, here + b"queue/%d" % number, _objects(waiting, 1))
        yield
    for flight in state.flights if state.overlapping else ():
        _write(place, here + b"threads/%d" % flight.number, _flight(flight))
        yield


def _flight(flight: FlightState) -> list[str]:
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(flight.started))
    head = ["thread:", f"\titeration == {flight.number}", f"\tstarttime == {started}"]
    return [*head, *_objects(flight.entries, 1)]


def _as_flags(bits: int) -> int:
    return (flag.RECURSIVE if bits & DOUBT else 0) | bits << CHANGE_SHIFT


def _objects(entries: Mapping[bytes, int], depth: int) -> Iterable[str]:
    """Yield a line for each object: `+1` for itself alone, `+*` with all below it."""
    for path, flags in sorted(entries.items()):
        yield f"+{'*' if flags & flag.RECURSIVE else depth}\t{shown(path)}"


def _write(place: Place, name: bytes, lines: Iterable[str]) -> None:
    with open(place.file(name), "w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines)
