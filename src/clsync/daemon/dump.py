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
from clsync.core.paths import shown

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
    os.mkdir(directory, 0o750)
    for _ in fill_dump(directory, states):
        pass


def fill_dump(directory: bytes, states: Sequence[State]) -> Generator[None, None, None]:
    """Write into an empty directory, step by step (see `write_dump`). Raises OSError."""
    for number, state in enumerate(states, 1):
        here = directory
        if len(states) > 1:
            here += b"/%d" % number
            os.mkdir(here, 0o750)
        yield from _fill(here, state)


def _fill(directory: bytes, state: State) -> Generator[None, None, None]:
    for name in (b"queue", b"threads"):
        os.mkdir(directory + b"/" + name, 0o750)
    together = {} if state.overlapping else {p: f for flight in state.flights for p, f in flight.entries.items()}
    named = [f"target == {state.target}"] if state.target else []
    lines = [f"status == {state.status}", *named, *_objects(together, 1)]
    lines += [f"failing\t{shown(path)}\t{why}" for path, why in sorted(state.failing.items())]
    _write(directory + b"/instance", lines)
    for number in range(_QUEUES):
        waiting = {path: _as_flags(bits) for path, bits in state.queues[number].items()}
        yield
        _write(directory + b"/queue/%d" % number, _objects(waiting, 1))
        yield
    for flight in state.flights if state.overlapping else ():
        _write(directory + b"/threads/%d" % flight.number, _flight(flight))
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


def _write(path: bytes, lines: Iterable[str]) -> None:
    with open(path, "x", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines)
