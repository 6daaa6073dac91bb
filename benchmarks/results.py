"""Figures of a run: kept as JSON, row by row, so that rows measured at different times stand in one table."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.rows.base import Bench, Row, Sample, Target

FILE = "results.json"
Result = dict[str, Any]
"""One row as it stands in the file: see `result_of`."""


def result_of(
    row: Row, bench: Bench, samples: Mapping[str, list[Sample]], errors: Mapping[str, str], load: float
) -> Result:
    """Return a row's figures, its targets judged, and all that is needed to read them later."""
    figures = {name: row.conclude(of_one) for name, of_one in samples.items() if of_one}
    versions = {program.name: program.version() for program in row.programs if program.name in samples}
    return {
        "row": row.name,
        "title": row.title,
        "measured": time.strftime("%Y-%m-%d %H:%M"),
        "scale": bench.scale,
        "rounds": bench.rounds,
        "seed": bench.seed,
        "load": round(load, 2),
        "machine": _machine(),
        "versions": versions,
        "metrics": [metric._asdict() for metric in row.metrics],
        "figures": figures,
        "targets": [_judged(target, figures) for target in row.targets],
        "errors": dict(errors),
        "samples": {name: list(of_one) for name, of_one in samples.items()},
    }


def _judged(target: Target, figures: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Return a target with what was reached; `met` is None where it was not measured."""
    value = figures.get(target.program, {}).get(target.metric)
    base = figures.get(target.than, {}).get(target.metric) if target.than else 1.0
    reached = value / base if value is not None and base else None
    met = None if reached is None else reached <= target.limit
    return {**target._asdict(), "reached": reached, "met": met}


def _machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return f"{os.cpu_count()} CPUs, {memory:.0f} GiB, Linux {platform.release()}, Python {platform.python_version()}"


def load(directory: Path) -> dict[str, Result]:
    """Return what earlier runs have left, by row; nothing where the file is missing or broken."""
    try:
        found = json.loads((directory / FILE).read_text())
    except (OSError, ValueError):
        return {}
    return {result["row"]: result for result in found}


def save(directory: Path, results: Mapping[str, Result], order: list[str]) -> list[Result]:
    """Write all rows in the order of the table; return them."""
    directory.mkdir(parents=True, exist_ok=True)
    kept = [results[name] for name in order if name in results]
    (directory / FILE).write_text(json.dumps(kept, indent=1) + "\n")
    return kept
