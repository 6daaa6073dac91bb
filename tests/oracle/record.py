"""Records what clsync 0.4 gives its handlers: `make oracle`.

    python -m tests.oracle.record [--jobs N] [--only MODE[/SCENARIO] ...]

Most of the time of the program is spent in pauses, so many runs go side by side.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from fnmatch import fnmatchcase

from tests.oracle.captures import capture_path, installed_version, made
from tests.oracle.modes import Mode
from tests.oracle.normal import text
from tests.oracle.play import OLD, scratch
from tests.oracle.scenarios import Scenario, pairs


def main() -> int:
    """Record, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.oracle.record", description=__doc__)
    parser.add_argument("--jobs", type=int, default=24, help="runs side by side (%(default)s)")
    parser.add_argument("--only", nargs="*", default=["*"], help="patterns of MODE/SCENARIO, blanks written as '-'")
    asked = parser.parse_args()
    version = installed_version()
    if version is None:
        print(f"error: {OLD.path} is not installed", file=sys.stderr)
        return 1
    wanted = [pair for pair in pairs() if any(_matches(*pair, pattern) for pattern in asked.only)]
    started, done = time.monotonic(), Counter[str]()
    print(f"recording {len(wanted)} runs of clsync {version}, {asked.jobs} side by side")
    with scratch() as top, ThreadPoolExecutor(asked.jobs) as pool:
        running = {pool.submit(made, OLD, mode, scenario, top): (mode, scenario) for mode, scenario in wanted}
        for number, future in enumerate(as_completed(running), 1):
            mode, scenario = running[future]
            error = future.exception()
            word = _kept(text(future.result()), mode, scenario, version) if error is None else "FAILED"
            done[word] += 1
            print(f"[{number}/{len(wanted)}] {mode.name}/{scenario.file_name}: {word}{f': {error}' if error else ''}")
    stale = _remove_stale(version) if asked.only == ["*"] and not done["FAILED"] else 0
    counts = ", ".join(f"{count} {word}" for word, count in sorted(done.items()))
    print(f"{counts}, {stale} removed, in {time.monotonic() - started:.0f} s")
    return 1 if done["FAILED"] else 0


def _matches(mode: Mode, scenario: Scenario, pattern: str) -> bool:
    return fnmatchcase(f"{mode.name}/{scenario.file_name}", pattern if "/" in pattern else f"{pattern}/*")


def _kept(recorded: str, mode: Mode, scenario: Scenario, version: str) -> str:
    """Write a capture; return what that came to."""
    path = capture_path(mode, scenario, version)
    before = path.read_text() if path.exists() else None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(recorded)
    return "new" if before is None else "unchanged" if before == recorded else "CHANGED"


def _remove_stale(version: str) -> int:
    """Remove captures of scenarios that there are no longer; return how many."""
    known = {capture_path(mode, scenario, version) for mode, scenario in pairs()}
    stale = [path for mode, _ in pairs() for path in capture_path(mode, _, version).parent.glob("*.json")]
    gone = {path for path in stale if path not in known}
    for path in gone:
        path.unlink()
    return len(gone)


if __name__ == "__main__":
    sys.exit(main())
