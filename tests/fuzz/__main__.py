"""Fuzz for a given time: `python -m tests.fuzz [--seconds N] [--seed N] [--engine ENGINE] [TARGET...]`."""

from __future__ import annotations

import argparse
import random
import resource
import subprocess
import sys
import time
import traceback
from importlib.util import find_spec

from tests.fuzz.corpus import LONGEST, TARGETS, mutated
from tests.fuzz.target import Target

MEMORY = 4 << 30
"""Bytes of address space for one process: what takes more is a defect."""
_CORPUS = 2000


def main() -> int:
    """Fuzz all targets, one after the other; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--seconds", type=float, default=60, help="time for all targets together")
    parser.add_argument("--seed", type=int, default=None, help="of the mutations; printed where it is not given")
    parser.add_argument("--engine", choices=("auto", "mutation", "atheris"), default="auto")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="one of: " + ", ".join(sorted(TARGETS)))
    line = parser.parse_args()
    names = line.targets or sorted(TARGETS)
    if unknown := set(names) - set(TARGETS):
        parser.error(f"there is no target {', '.join(sorted(unknown))}")
    seed = line.seed if line.seed is not None else random.SystemRandom().randrange(1 << 32)
    guided = line.engine == "atheris" or (line.engine == "auto" and find_spec("atheris") is not None)
    print(f"engine: {'atheris' if guided else 'mutation'}, seed: {seed}", flush=True)
    share = line.seconds / len(names)
    failed = [name for name in names if not (_guided if guided else _mutation)(TARGETS[name], share, seed)]
    print(f"failed: {', '.join(failed)}" if failed else f"{len(names)} targets, nothing found", flush=True)
    return bool(failed)


def _mutation(target: Target, seconds: float, seed: int) -> bool:
    """Try inputs that are made of the seeds; tell whether all went well."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    chance, until, tried = random.Random(f"{target.name} {seed}"), time.monotonic() + seconds, 0
    corpus = list(target.seeds)
    inputs = iter(target.seeds)
    while time.monotonic() < until:
        data = next(inputs, None)
        if data is None:
            data = mutated(chance, corpus)
            if len(corpus) < _CORPUS and not chance.randrange(20):
                corpus.append(data)
        tried += 1
        try:
            target.run(data)
        except Exception:  # noqa: BLE001 - whatever it is, it is what was looked for
            traceback.print_exc()
            print(f"{target.name}: {data!r}", flush=True)
            return False
    print(f"{target.name}: {tried} inputs", flush=True)
    return True


_GUIDED = """
import sys, atheris
with atheris.instrument_imports(include=["clsync"], enable_loader_override=False):
    from tests.fuzz.corpus import TARGETS
target = TARGETS[sys.argv.pop(1)]
atheris.Setup(sys.argv, target.run)
atheris.Fuzz()
"""


def _guided(target: Target, seconds: float, seed: int) -> bool:
    """Let atheris look for inputs that reach more of the code; tell whether all went well."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory(prefix="clsync-fuzz-") as place:
        for number, data in enumerate(target.seeds):
            Path(place, str(number)).write_bytes(data)
        options = [
            f"-max_total_time={max(round(seconds), 1)}", f"-max_len={LONGEST}", f"-seed={seed & 0x7FFFFFFF or 1}",
            f"-artifact_prefix={place}/found-", "-rss_limit_mb=4096", "-timeout=30", "-print_final_stats=1",
        ]  # fmt: skip
        argv = [sys.executable, "-c", _GUIDED, target.name, *options, place]
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        counted = [line.split()[-1] for line in done.stdout.splitlines() if "number_of_executed_units" in line]
        if done.returncode:
            print(done.stdout[-6000:])
            for found in Path(place).glob("found-*"):
                print(f"{target.name}: {found.read_bytes()!r}")
        else:
            print(f"{target.name}: {counted[-1] if counted else '?'} inputs", flush=True)
        return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
