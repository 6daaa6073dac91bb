"""What every row has: programs, metrics, targets, a preparation, and one measurement of one program."""

from __future__ import annotations

import contextlib
import statistics
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.programs import Program
from benchmarks.scratch import Scratch

Sample = dict[str, float | list[float]]
"""Metric -> value, or values that are pooled over the rounds."""


class Bench(NamedTuple):
    """The settings of a run."""

    scratch: Scratch
    scale: float
    rounds: int
    seed: int

    def scaled(self, number: int, least: int) -> int:
        """Return `number` times the scale."""
        return max(least, round(number * self.scale))


class Metric(NamedTuple):
    """One figure of a row."""

    name: str
    title: str
    unit: str
    digits: int = 2


class Target(NamedTuple):
    """What a program has to reach: `metric <= limit`, or `<= limit` times that of the program `than`."""

    program: str
    metric: str
    limit: float
    than: str = ""


class Row(ABC):
    """One row of the table."""

    name: str
    title: str
    programs: tuple[Program, ...]
    metrics: tuple[Metric, ...]
    targets: tuple[Target, ...]

    @contextlib.contextmanager
    def prepared(self, bench: Bench) -> Iterator[None]:
        """Make what all programs need, once."""
        del bench
        yield

    @abstractmethod
    def measure(self, bench: Bench, program: Program, room: Path, number: int) -> Sample:
        """Measure one program in round `number`; `room` is an empty directory for its files.

        Raises BenchmarkError when the program fails.
        """

    def verify(self, bench: Bench, program: Program, room: Path) -> Sample:
        """Check once, untimed, what speed must not cost; the figures join those of the rounds."""
        del bench, program, room
        return {}

    def conclude(self, samples: Sequence[Sample]) -> dict[str, float]:
        """Return the median of each metric."""
        return {metric: statistics.median(values) for metric, values in columns(samples).items()}


def columns(samples: Sequence[Sample]) -> Mapping[str, list[float]]:
    """Return all values of each metric; those of lists are pooled."""
    found: dict[str, list[float]] = {}
    for sample in samples:
        for metric, value in sample.items():
            found.setdefault(metric, []).extend(value if isinstance(value, list) else [value])
    return found
