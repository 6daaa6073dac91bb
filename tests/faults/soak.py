"""One program for hours: changes without an end, one fault after the other, and its memory every ten seconds.

    python -m tests.faults.soak --hours 1

Now and then everything rests: then the trees have to be equal, and what is remembered has to be true.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import time
from collections.abc import Sequence

from tests.faults.faults import FAULTS, lacking
from tests.faults.life import said
from tests.faults.memory import growth, read
from tests.faults.remembered import forgotten
from tests.faults.stage import Stage, stage
from tests.support.churn import Writer
from tests.support.daemon import Daemon
from tests.support.trees import report

KINDS = (
    "disk full",
    "I/O errors",
    "handler killed",
    "handler stops",
    "edited by others",
    "source unmounted",
    "queue overflows",
)
"""What can be had at once, in this order between source and destination."""
EVERY = 10.0
"""Seconds between two looks at the memory."""
ROUNDS = 4
"""Faults between two rests."""
BOUND = 420.0
"""The longest time (s) until the trees are equal: the longest pause between two tries is 300."""
REMEMBERED = 10.0
"""The longest time (s) until what has arrived is written down as it is."""


class Soak:
    """The program at work."""

    def __init__(self, place: Stage, seed: int, kinds: Sequence[str]) -> None:
        self.stage, self.random = place, random.Random(f"soak {seed}")
        self.memory = place.top / "memory"
        self.injected: dict[str, int] = dict.fromkeys(kinds, 0)
        self.rests: list[float] = []
        """How long it took until the trees were equal, at each rest (s)."""
        self.faults = {name: FAULTS[name](place, lambda: self.daemon, self.random) for name in kinds}
        for fault in self.faults.values():
            fault.prepare()
        place.connect()
        place.fill()
        self.watcher = place.helper("watcher", str(place.kept))
        self.daemon = Daemon(*place.arguments, env=place.environment, cwd="/")
        self._writers = 0
        self._began = 0.0

    def run(self, seconds: float) -> None:
        """Do it for so long (s). Raises AssertionError for a loss."""
        self._began = time.monotonic()
        self.daemon.start()
        self.daemon.wait_for_log("Info: initial sync done ", 120)
        self.stage.helper("memory", str(self.daemon.pid), str(self.memory), f"{EVERY}")
        while time.monotonic() < self._began + seconds:
            self._change()
            self._rest()

    def _change(self) -> None:
        """Let the source change while one fault after the other arises and heals."""
        author = self.stage.helper("author", str(self.stage.source), f"{self._writers}", str(self.stage.clock))
        for _ in range(ROUNDS):
            writer = self._writer()
            name = self.random.choice(list(self.faults))
            fault = self.faults[name]
            time.sleep(self.random.uniform(1, 4))
            fault.inject()
            end = time.monotonic() + self.random.uniform(0.5, 5)
            while time.monotonic() < end:
                fault.strike()
                time.sleep(0.05)
            fault.heal()
            self.injected[name] += 1
            while writer.running():
                time.sleep(0.1)
            assert not writer.failed, writer.trouble()
        author.communicate()
        self.stage.children.remove(author)

    def _writer(self) -> Writer:
        self._writers += 1
        for old in self.stage.top.glob("journal-*"):
            if old.name != f"journal-{self._writers - 1}":
                old.unlink()
        return self.stage.writer(self._writers, 8, 80, seen=False)

    def _rest(self) -> None:
        wanted, began = self.stage.wanted(), time.monotonic()
        while differences := self.stage.differences(wanted):
            doing = "\n".join(map(said, self.daemon.descendants()))
            assert time.monotonic() < began + BOUND, f"{report(differences)}\n{doing}\n{self.daemon.tail}"
            assert self.daemon.running, f"the program has ended\n{self.daemon.tail}"
            time.sleep(0.2)
        self._ask_state()
        self.rests.append(time.monotonic() - began)
        print(
            f"{time.monotonic() - self._began:.0f} s: equal after {self.rests[-1]:.1f} s", file=sys.stderr, flush=True
        )

    def _ask_state(self) -> None:
        """See that what is remembered is true, as soon as it is written down."""
        until = time.monotonic() + REMEMBERED
        while wrong := forgotten(self.stage.state, self.stage.source):
            assert time.monotonic() < until, "\n".join([*wrong, self.daemon.tail])
            time.sleep(0.2)

    def end(self) -> list[str]:
        """End it; return where a file was not whole."""
        for fault in self.faults.values():
            fault.heal()
        self.daemon.stop(signal.SIGQUIT, timeout=120)
        told, _ = self.watcher.communicate()
        *wrong, reads = told.decode().splitlines()
        self.reads = int(reads)
        return wrong


def main() -> int:
    """Run it; 1 if anything was lost."""
    parser = argparse.ArgumentParser(prog="soak", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--hours", type=float, default=1.0, help="how long (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of all chance (default: %(default)s)")
    options = parser.parse_args()
    kinds = [name for name in KINDS if not list(lacking(name))]
    with stage("rsync", options.seed) as place:
        soak = Soak(place, options.seed, kinds)
        losses = []
        try:
            soak.run(options.hours * 3600)
            losses = soak.end()
        except AssertionError as error:
            losses.append(str(error))
        finally:
            for fault in soak.faults.values():
                fault.heal()
            samples = read(soak.memory)
            soak.daemon.kill()
    print(f"{samples[-1].at / 3600:.2f} hours, {len(samples)} looks at the memory, seed {options.seed}")
    print(growth(samples))
    print(f"faults: {', '.join(f'{name} {count}' for name, count in soak.injected.items())}")
    print(f"equal at {len(soak.rests)} rests, after {max(soak.rests, default=0):.1f} s at most; {len(losses)} losses")
    print(*losses, sep="\n", end="")
    return 1 if losses else 0


if __name__ == "__main__":
    sys.exit(main())
