"""Runs every fault in every phase on every way, with many seeds, and tells what was lost.

python -m tests.faults --seeds 1..20 --scenario 'disk full'
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from concurrent.futures import as_completed

from tests.faults.faults import FAULTS, lacking
from tests.faults.life import PHASES, Case, Result, pool, run_here
from tests.faults.stage import TRANSPORTS
from tests.faults.table import table
from tests.support.remotes import missing


def cases(scenarios: list[str], phases: list[str], transports: list[str]) -> Iterator[Case]:
    """Yield what is to be run."""
    for name in scenarios:
        for transport in FAULTS[name].transports:
            for phase in phases:
                if transport in transports:
                    yield Case(name, phase, transport)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="faults", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "--seeds", default="1..1", metavar="A..B", help="the seeds from A to B (default: %(default)s)"
    )
    parser.add_argument("--scenario", default="", metavar="NAME[,NAME...]", help=f"of: {', '.join(FAULTS)}")
    parser.add_argument("--phase", choices=PHASES, help="when the fault arises (default: all)")
    parser.add_argument("--transport", choices=TRANSPORTS, help="the way to the destination (default: all)")
    parser.add_argument("--jobs", type=int, default=1, help="cases at a time (default: %(default)s)")
    return parser


def _known(parser: argparse.ArgumentParser, text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()] or list(FAULTS)
    for name in names:
        if name not in FAULTS:
            parser.error(f"no scenario {name!r}: choose from {', '.join(FAULTS)}")
    for name in names:
        for need in lacking(name):
            print(f"{name}: left out, there is no {need} here", file=sys.stderr)
    return [name for name in names if not list(lacking(name))]


def _run(wanted: list[Case], seeds: list[int], jobs: int) -> Iterator[Result]:
    with pool(jobs) as processes:
        futures = [processes.submit(run_here, case, seed) for seed in seeds for case in wanted]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            processes.shutdown(cancel_futures=True)


def main() -> int:
    """Run what the command line asks for; 1 if anything was wrong."""
    parser = _parser()
    options = parser.parse_args()
    first, _, last = options.seeds.partition("..")
    seeds = list(range(int(first), int(last or first) + 1))
    transports = [options.transport] if options.transport else [t for t in TRANSPORTS if "s" in t or not missing()]
    wanted = list(
        cases(_known(parser, options.scenario), [options.phase] if options.phase else list(PHASES), transports)
    )
    results = []
    for result in _run(wanted, seeds, options.jobs):
        results.append(result)
        if sys.stderr.isatty():
            done = f"{len(results)} of {len(wanted) * len(seeds)}"
            print(f"\r\033[K{done}: {result.case}, seed {result.seed}", end="", file=sys.stderr, flush=True)
        if result.failed:
            print(f"\n{result.details}\n", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    print(table(results, f"{seeds[0]}..{seeds[-1]}"))
    return 1 if any(result.failed for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
