"""The state of a running mirror, written into files for somebody in search of a fault."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

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


def write_dump(directory: bytes, states: Sequence[State]) -> None:
    """Write a directory that does not exist yet, in the layout of clsync 0.4. Raises OSError.

    With several targets it has such a directory for each, named by number.
    """
    made = places.make_directory(directory, 0o750)
    try:
        for _ in fill_dump(made, states):
            pass
    finally:
        os.close(made)


def fill_dump(directory: int, states: Sequence[State]) -> Generator[None, None, None]:
    """Write into an empty directory, an open one, step by step (see `write_dump`). Raises OSError.

    By its descriptor: it may be moved meanwhile, and another one put in its place.
    """
    for number, state in enumerate(states, 1):
        here = b""
        if len(states) > 1:
            here = b"%d/" % number
            os.mkdir(here, 0o750, dir_fd=directory)
        yield from _fill(directory, here, state)


def _fill(directory: int, here: bytes, state: State) -> Generator[None, None, None]:
    for name in (b"queue", b"threads"):
        os.mkdir(here + name, 0o750, dir_fd=directory)
    together = {} if state.overlapping else {p: f for flight in state.flights for p, f in flight.entries.items()}
    named = [f"target == {printable(state.target)}"] if state.target else []
    lines = [f"status == {state.status}", *named, *_objects(together, 1)]
    lines += [f"failing\t{shown(path)}\t{printable(why)}" for path, why in sorted(state.failing.items())]
    _write(directory, here + b"instance", lines)
    for number in range(_QUEUES):
        waiting = {path: _as_flags(bits) for path, bits in state.queues[number].items()}
        yield
        _write(directory, here + b"queue/%d" % number, _objects(waiting, 1))
        yield
    for flight in state.flights if state.overlapping else ():
        _write(directory, here + b"threads/%d" % flight.number, _flight(flight))
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


def _write(directory: int, name: bytes, lines: Iterable[str]) -> None:
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=directory)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines)
