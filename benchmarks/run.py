"""Measure clsync beside clsync 0.4, lsyncd and rsync, round by round in one run, and write the table."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import kernel, plot, results, table
from benchmarks.errors import BenchmarkError
from benchmarks.programs import Program
from benchmarks.rows import ROWS
from benchmarks.rows.base import Bench, Row, Sample
from benchmarks.scratch import scratch

_HERE = Path(__file__).parent


def main(argv: Sequence[str] | None = None) -> int:
    """Run the rows asked for; return 1 when a target is missed or something failed."""
    options = _parser().parse_args(argv)
    rows = _chosen(options.rows)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    kernel.adopt_orphans()
    with scratch(options.memory_dir, options.disk_dir) as places:
        bench = Bench(places, options.scale, options.rounds, options.seed)
        known = results.load(options.out)
        for row in rows:
            _say(f"{row.name}: {row.title}, scale {bench.scale:g}, {bench.rounds} rounds, seed {bench.seed}")
            known[row.name] = _measured(row, bench, options.programs)
            kept = results.save(options.out, known, [known_row.name for known_row in ROWS])
            (options.out / "table.md").write_text(table.table(kept))
            print(table.section(known[row.name]), flush=True)
    if not plot.plot(kept, options.out / "plot.png"):
        _say(plot.MISSING)
    return 0 if all(_passed(known[row.name]) for row in rows) else 1


def _passed(result: results.Result) -> bool:
    return not result["errors"] and all(target["met"] is not False for target in result["targets"])


def _measured(row: Row, bench: Bench, only: str) -> results.Result:
    """Measure one row: every round all programs, each round beginning with another one."""
    programs = [program for program in row.programs if only in program.name]
    samples: dict[str, list[Sample]] = {program.name: [] for program in programs}
    errors: dict[str, str] = {}
    load = os.getloadavg()[0]
    try:
        with row.prepared(bench):
            for number in range(bench.rounds):
                first = number % max(1, len(programs))
                for program in programs[first:] + programs[:first]:
                    _measure(row, bench, program, number, samples, errors)
            for program in programs:
                _measure(row, bench, program, None, samples, errors)
    except BenchmarkError as error:
        errors[row.name] = str(error)
        _say(f"  {row.name}: {error}")
    return results.result_of(row, bench, samples, errors, load)


def _measure(
    row: Row,
    bench: Bench,
    program: Program,
    number: int | None,
    samples: dict[str, list[Sample]],
    errors: dict[str, str],
) -> None:
    """Measure one program in round `number`, or verify it (None); one that has failed is left out from then on."""
    if program.name in errors:
        return
    begin = time.monotonic()
    try:
        with bench.scratch.room("room") as room:
            sample = row.verify(bench, program, room) if number is None else row.measure(bench, program, room, number)
    except BenchmarkError as error:
        errors[program.name] = str(error)
        _say(f"  {program.name}: {error}")
        return
    if sample:
        samples[program.name].append(sample)
        figures = ", ".join(f"{name} {value:.4g}" for name, value in sample.items() if not isinstance(value, list))
        what = "check" if number is None else f"round {number + 1}"
        _say(f"  {what} {program.name}: {figures} ({time.monotonic() - begin:.0f} s)")


def _chosen(names: str) -> list[Row]:
    wanted = names.split(",") if names else [row.name for row in ROWS]
    by_name = {row.name: row for row in ROWS}
    unknown = [name for name in wanted if name not in by_name]
    if unknown:
        sys.exit(f"no row {', '.join(unknown)}: choose from {', '.join(by_name)}")
    return [by_name[name] for name in wanted]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, metavar="F", help="size of all trees and lists [1]")
    parser.add_argument("--rows", default="", metavar="NAME,...", help=", ".join(row.name for row in ROWS) + " [all]")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="medians are taken over N rounds [3]")
    parser.add_argument("--programs", default="", metavar="TEXT", help="only programs with TEXT in their name")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="for which files are chosen [1]")
    parser.add_argument("--out", type=Path, default=_HERE / "results", metavar="DIR", help="for the table and plot")
    parser.add_argument("--memory-dir", type=Path, default=Path("/dev/shm"), metavar="DIR", help="a tmpfs [/dev/shm]")
    parser.add_argument("--disk-dir", type=Path, default=Path("/var/tmp"), metavar="DIR", help="a disk [/var/tmp]")
    return parser


if __name__ == "__main__":
    sys.exit(main())
