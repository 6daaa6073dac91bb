"""Runs the installed program under seeded churn and compares the trees when all is quiet.

    python -m tests.support.churn_run --seeds 1..200 --mode rsyncdirect --monitor fanotify --jobs 2

One seed: a random tree, a destination in some state, the program started, writers at work from the first moment
(so during the initial sync, too) until well after it, then quiet. The destination must become equal, stay so and
still be so after SIGTERM; neither the source nor anything outside it may have been touched.
"""

from __future__ import annotations

import argparse
import os
import random
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.support import rulesets
from tests.support.churn import Plan, Writer, build, link, write_through_a_mapping
from tests.support.daemon import Daemon, installed
from tests.support.flood import flood, held
from tests.support.peers import PEERS
from tests.support.playground import Playground
from tests.support.rulesets import Ruleset
from tests.support.seeds import fresh_seeds
from tests.support.trees import Difference, Snapshot, compare, report, shown, snapshot

MODES = ("rsyncdirect", "copy")
MONITORS = ("fanotify", "inotify", "poll")
MEMORY, DISK = "/dev/shm", "/var/tmp"
PLACES: dict[str, tuple[tuple[str, str], ...]] = {
    "any": ((MEMORY, MEMORY), (DISK, DISK), (MEMORY, DISK), (DISK, MEMORY))
}
PLACES["same-fs"] = PLACES["any"][:2]
PLACES["tmpfs"] = PLACES["any"][:1]
DELAYS = ((0.1, 0.1), (0, 0), (0.05, 0), (0.3, 0.1))
"""Collect and sync delay (s)."""


@dataclass(frozen=True)
class Settings:
    """What is run, and how."""

    mode: str = "rsyncdirect"
    monitor: str = "inotify"
    peer: str = ""
    """Another program instead of ours."""
    program: str = field(default_factory=installed)
    seconds: float = 1.5
    """Duration of the churn (s)."""
    operations: int = 400
    """At most as many, all writers together."""
    rules: bool = False
    targets: int = 1
    """Destinations; all but the first one are empty at the start."""
    places: str = "any"
    overflow: bool = False
    kill_handler: bool = False
    crash: bool = False
    """Kill the program itself now and then, and start it again: it has a state."""
    xattrs: bool = False
    patience: float = 0
    """A difference is final after this time (s) without any progress; 0: 10, 30 when handlers are killed."""
    keep: bool = False
    extra: tuple[str, ...] = ()
    """Further arguments of the program."""

    def title(self) -> str:
        """Name the combination."""
        return f"peer {self.peer}" if self.peer else f"{self.mode} x {self.monitor}"

    def reproduction(self, seed: int) -> str:
        """Return the command line that repeats one seed."""
        words = ["python", "-m", "tests.support.churn_run", "--seed", str(seed)]
        words += ["--peer", self.peer] if self.peer else ["--mode", self.mode, "--monitor", self.monitor]
        default = Settings()
        for name in ("seconds", "patience"):
            if getattr(self, name) != getattr(default, name):
                words += [f"--{name}", f"{getattr(self, name):g}"]
        words += ["--ops", str(self.operations)] if self.operations != default.operations else []
        words += ["--targets", str(self.targets)] if self.targets > 1 else []
        words += [f"--{self.places}"] if self.places != "any" else []
        for name in ("rules", "overflow", "kill_handler", "crash", "xattrs"):
            words += [f"--{name.replace('_', '-')}"] if getattr(self, name) else []
        if self.program != default.program and not self.peer:
            words += ["--clsync", self.program]
        return shlex.join([*words, *(["--", *self.extra] if self.extra else [])])


@dataclass
class Result:
    """What came out of one seed."""

    seed: int
    differences: list[Difference] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    entries: int = 0
    operations: int = 0
    kills: int = 0
    overflowed: bool = False
    warm: bool = False
    """The last start knew what the destinations hold."""
    settled: float = 0.0
    """Time (s) from the last operation until the trees were equal."""
    seconds: float = 0.0
    details: str = ""

    @property
    def paths(self) -> int:
        """The number of paths in which the trees differ."""
        return len({difference.path for difference in self.differences})

    @property
    def failed(self) -> bool:
        """Whether anything at all was wrong."""
        return bool(self.differences or self.problems)


class World:
    """The directories of one seed, and what must be true of them."""

    def __init__(self, seed: int, settings: Settings) -> None:
        """Make the directories, the source tree, the destination's first state and the rules."""
        self.random = random.Random(f"world {seed}")
        places = PLACES[settings.places]
        self.places = places[seed % len(places)]
        self.tops = [_directory(place, seed) for place in self.places]
        self.scratch = _directory("/tmp", seed)
        self.scratch.chmod(0o711)  # who keeps the state may be nobody
        area = self.tops[0]
        self.source, self.outside, self.destination = area / "source", area / "outside", self.tops[1] / "destination"
        self.neighbour = area / "neighbour"
        self.more = [self.tops[n % 2] / f"destination-{n}" for n in range(2, settings.targets + 1)]
        for path in (self.source, self.outside, self.destination, self.neighbour, *self.more):
            path.mkdir()
        self.rules: Ruleset | None = rulesets.make(self.random) if settings.rules else None
        self.xattrs = settings.xattrs
        self._fill(seed)
        self.seeded = self._rejected_part(self.snapshot(self.destination, everything=True))

    def _fill(self, seed: int) -> None:
        secret = self.outside / "secret"
        secret.mkdir()
        (secret / "a").write_text("nothing of this may leave\n")
        suffixes = self.rules.suffixes if self.rules else None
        ground = Playground(bytes(self.source), bytes(self.outside), f"build {seed}", suffixes)
        build(ground, self.random.choice((0, 0, 100, 700)))
        if self.random.random() < 0.5:
            _copy(self.source, self.destination)
            _spoil(bytes(self.destination), self.random)
        if self.rules is not None:
            self._sow(self.rules)

    def _sow(self, rules: Ruleset) -> None:
        """Put rejected files where only the destination has them; what was copied is taken away first."""
        top = bytes(self.destination)
        for path in sorted(self.snapshot(self.destination, everything=True), reverse=True):
            full = top + b"/" + path
            if path and rules.rejects(path):
                if os.path.isdir(full) and not os.path.islink(full):
                    os.rmdir(full)
                else:
                    os.unlink(full)
        ground = Playground(top, bytes(self.outside), self.random.getrandbits(32), rules.suffixes)
        directories = [b"", b"alpha", b"only here", b"private", b"c", b"d"]
        for index in range(300):
            directory = self.random.choice(directories)
            name = ground.name() if index % 2 else self.random.choice((b"a", b"b", b"c", b"n5", b"other"))
            path = directory + b"/" + name if directory else name
            above = os.path.dirname(top + b"/" + path)
            in_the_way = os.path.lexists(above) and (os.path.islink(above) or not os.path.isdir(above))
            if rules.rejects(path) and not in_the_way and not os.path.lexists(top + b"/" + path):
                os.makedirs(above, exist_ok=True)
                ground.write(top + b"/" + path, ground.data(20))

    def snapshot(self, top: Path, *, everything: bool = False) -> Snapshot:
        """Read a tree, what rules reject left out unless `everything` is wanted."""
        rejects = self.rules.rejects if self.rules is not None and not everything else None
        return snapshot(bytes(top), rejects, xattrs=self.xattrs)

    def differences(self, wanted: Snapshot) -> list[Difference]:
        """Compare the destinations with what they ought to be."""
        more = [
            difference._replace(aspect=f"{place.name}, {difference.aspect}")
            for place in self.more
            for difference in compare(wanted, self.snapshot(place))
        ]
        return [*self._differences(wanted), *more]

    def _differences(self, wanted: Snapshot) -> list[Difference]:
        if self.rules is None:
            return compare(wanted, self.snapshot(self.destination))
        found = compare(self._without_blocked_links(wanted), self.snapshot(self.destination))
        present = self._rejected_part(self.snapshot(self.destination, everything=True))
        touched = compare(self.seeded, present)
        return [d for d in found if not self._must_stay(d.path, wanted)] + [
            d._replace(aspect=f"rejected, {d.aspect}") for d in touched
        ]

    def _without_blocked_links(self, wanted: Snapshot) -> Snapshot:
        """Leave out the names of a file that cannot be made, because a directory has to stay there."""
        able: Snapshot = {}
        for path, entry in wanted.items():
            links = tuple(name for name in entry.links if not self._must_stay(name, wanted))
            able[path] = entry if links == entry.links else entry._replace(links=links if len(links) > 1 else ())
        return able

    def _rejected_part(self, tree: Snapshot) -> Snapshot:
        if self.rules is None:
            return {}
        return {path: entry._replace(links=()) for path, entry in tree.items() if self.rules.rejects(path)}

    def _must_stay(self, path: bytes, wanted: Snapshot) -> bool:
        """Tell whether a directory is gone at the source and yet has to stay, for what rules protect in it."""
        entry = wanted.get(path)
        protects = any(seeded.startswith(path + b"/") for seeded in self.seeded)
        return protects and (entry is None or entry.kind != "directory")

    def remove(self) -> None:
        """Remove everything."""
        for top in (*self.tops, self.scratch):
            shutil.rmtree(top, ignore_errors=True)


def _directory(place: str, seed: int) -> Path:
    return Path(os.path.realpath(tempfile.mkdtemp(prefix=f"clsync-churn-{seed}-", dir=place)))


def _copy(source: Path, destination: Path) -> None:
    run = ["rsync", "-aHX", "--numeric-ids", f"{source}/", f"{destination}/"]
    subprocess.run(run, check=True, capture_output=True)


def _spoil(top: bytes, generator: random.Random) -> None:
    """Make an older state of a copy: things missing, left over, of another type, with other content."""
    for path in sorted(snapshot(top, content=False)):
        full, draw = top + b"/" + path, generator.random()
        if not path or draw > 0.2 or not os.path.lexists(full):
            continue
        is_dir = os.path.isdir(full) and not os.path.islink(full)
        shutil.rmtree(full) if is_dir else os.unlink(full)
        if draw < 0.05:
            os.mkdir(full)
        elif draw < 0.1:
            os.symlink(b"old", full)
        elif draw < 0.15:
            Path(os.fsdecode(full)).write_bytes(b"an older and different content" * 30_000)
    os.mkdir(top + b"/left over")
    os.symlink(b"gone", top + b"/left over/too")


class Run:
    """One seed from the first directory to the verdict."""

    def __init__(self, seed: int, settings: Settings) -> None:
        """Take the seed; nothing is done yet."""
        self.settings = settings
        self.result = Result(seed)
        self.random = random.Random(f"run {seed}")
        self.world = World(seed, settings)
        self.writers: list[Writer] = []
        self.journal: list[str] = []
        self._next_trouble = 0.0
        self._floods = 0
        self._said_before = 0

    def run(self) -> Result:
        """Do it. Raises nothing for what the program does."""
        began = time.monotonic()
        daemon = self._daemon()
        try:
            daemon.start()
            if self.settings.crash:
                # What changed before the very first start is not known to anybody who starts after a crash.
                daemon.wait_until(self._has_begun, 60, "the first state")
            self._start_writers()
            self._churn(daemon)
            self._judge(daemon)
        except AssertionError as error:
            self.result.problems.append(str(error))
        except Exception:  # noqa: BLE001  one seed must not end the others
            self.result.problems.append("the harness failed: " + traceback.format_exc())
        finally:
            for writer in self.writers:
                writer.kill()
            daemon.kill()
            self._conclude(daemon)
        self.result.seconds = time.monotonic() - began
        return self.result

    def _daemon(self) -> Daemon:
        world, settings = self.world, self.settings
        if settings.peer:
            return Daemon(program=PEERS[settings.peer](world.source, world.destination, world.scratch))
        collect, sync = self.random.choice(DELAYS)
        targets = [f"-D{place}" for place in (world.destination, *world.more)]
        arguments = [f"-W{world.source}", *targets, f"-M{settings.mode}"]
        arguments += [f"--monitor={settings.monitor}", f"-t{collect:g}", f"-w{sync:g}"]
        arguments += [f"--status-file={world.scratch}/status", *(["--xattrs"] if settings.xattrs else [])]
        arguments.append(f"--state-dir={world.scratch}/state" if settings.crash else "--state-dir=none")
        if world.rules is not None:
            rules = world.scratch / "rules"
            rules.write_bytes(world.rules.text)
            arguments.append(f"-R{rules}")
        return Daemon(*arguments, *settings.extra, program=[settings.program])

    def _start_writers(self) -> None:
        """One to three processes with one or two threads each; one seed in three is a single writer."""
        world, settings = self.world, self.settings
        typed = world.rules is not None and bool(world.rules.suffixes.plain)  # a race could break the types
        shape = (1,) if typed else self.random.choice(((1,), (1, 1), (2, 1), (1, 1, 1), (2,), (1,)))
        blind = settings.monitor == "poll" and world.places[0] == MEMORY
        without = {write_through_a_mapping} if blind else set()  # tmpfs: no new mtime or ctime
        if world.rules is not None and settings.monitor != "fanotify":
            without.add(link)  # what is written in a directory that rules reject is not watched
        base = Plan(
            seed="",
            seconds=settings.seconds,
            operations=settings.operations // sum(shape),
            without=frozenset(without),
            suffixes=world.rules.suffixes if world.rules else rulesets.Suffixes(),
        )
        for number, threads in enumerate(shape):
            plans = [replace(base, seed=f"play {self.result.seed} {number} {index}") for index in range(threads)]
            journal = world.scratch / f"journal-{number}"
            self.writers.append(Writer(bytes(world.source), bytes(world.outside), plans, journal))
        if self.random.random() < 0.3:
            aside = world.neighbour / "aside"
            aside.mkdir()
            plan = Plan(f"neighbour {self.result.seed}", settings.seconds, settings.operations)
            journal = world.scratch / "journal-neighbour"
            self.writers.append(Writer(bytes(world.neighbour), bytes(aside), [plan], journal))

    def _churn(self, daemon: Daemon) -> None:
        while [writer for writer in self.writers if writer.running()]:
            if self.settings.kill_handler and self.result.kills < 6:
                self._kill_a_handler(daemon)
            if self.settings.overflow:
                self._let_it_overflow(daemon)
            if self.settings.crash:
                self._crash(daemon)
            time.sleep(0.002)
        if self.settings.overflow and not self._floods:
            # The writers were through before a busy machine had started it.
            daemon.wait_until(lambda: self._watches(daemon), 60, "a watch")
            self._next_trouble = 0.0
            self._let_it_overflow(daemon)
        for writer in self.writers:
            assert not writer.failed, f"a writer failed:\n{writer.trouble()}"

    def _kill_a_handler(self, daemon: Daemon) -> None:
        """Kill a process the program has started, at a random moment of its life."""
        if time.monotonic() < self._next_trouble or not (children := daemon.descendants()):
            return
        time.sleep(self.random.random() * 0.02)
        try:
            os.kill(self.random.choice(children), signal.SIGKILL)
        except ProcessLookupError:
            return
        self.result.kills += 1
        self._next_trouble = time.monotonic() + self.random.random() * 0.4

    def _crash(self, daemon: Daemon) -> None:
        """Kill the program at a random moment, with all it has started or without, and start it again."""
        if time.monotonic() < self._next_trouble:
            return
        assert daemon.running, f"the program has ended\n{daemon.tail}"
        os.kill(daemon.pid, signal.SIGKILL)
        if self.random.random() < 0.5:
            daemon.kill()
        assert daemon.process is not None
        daemon.process.wait()
        # A handler of before may still be at work. One that waits for ever, at a file that became a fifo, say, is for the
        # next start to end.
        deadline = time.monotonic() + 5
        while daemon.family() and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(self.random.choice((0, 0, 0.1)))
        self._start_again(daemon)
        self.result.kills += 1
        self._next_trouble = time.monotonic() + self.random.random() * self.random.choice((0.5, 3))

    def _has_begun(self) -> bool:
        """Tell whether a state says since when there is one."""
        return any(any(mark.read_bytes()) for mark in self.world.scratch.glob("state/*/state.mark"))

    def _start_again(self, daemon: Daemon) -> None:
        self._said_before = len(daemon.output)
        (self.world.scratch / "status").unlink(missing_ok=True)
        daemon.start()

    def _wait_for_initial(self, daemon: Daemon) -> str:
        """Wait until the last start has synced everything; return what it has said."""
        status = self.world.scratch / "status"
        followed = ("running", "synchandler error")
        daemon.wait_until(lambda: status.exists() and status.read_text() in followed, 60, "an initial sync")
        return daemon.output[self._said_before :]

    def _watches(self, daemon: Daemon) -> bool:
        """Tell whether the program watches; of another one that is not known."""
        return bool(self.settings.peer) or "Info: watching " in daemon.output

    def _let_it_overflow(self, daemon: Daemon) -> None:
        """Hold the whole program, and tell it more than it can be told, while the writers go on."""
        if time.monotonic() < self._next_trouble or not self._watches(daemon):
            return  # nobody is told anything yet
        self._floods += 1
        with held(daemon.family()):
            flood(self.world.source)
            time.sleep(0.05 + self.random.random() * 0.2)
        self._next_trouble = time.monotonic() + 0.1 + self.random.random() * 0.3

    def _judge(self, daemon: Daemon) -> None:
        world, result = self.world, self.result
        wanted = world.snapshot(world.source)
        around = snapshot(bytes(world.outside))
        result.entries = len(wanted)
        if self.settings.crash:
            self._wait_for_initial(daemon)
        self._settle(daemon, wanted)
        if not result.differences:
            time.sleep(0.1)  # what is still on its way may spoil it
            self._settle(daemon, wanted)
        if self.settings.peer:
            return
        daemon.stop(signal.SIGQUIT, timeout=40, code=0 if world.rules is None else None)
        if self.settings.crash:
            self._demand_warm_start(daemon, wanted)
        if not result.differences:
            result.differences = world.differences(wanted)
        self._demand_untouched("source", compare(wanted, world.snapshot(world.source)))
        self._demand_untouched("outside", compare(around, snapshot(bytes(world.outside))))

    def _demand_warm_start(self, daemon: Daemon, wanted: Snapshot) -> None:
        """Start once more: it is known what the destinations hold."""
        self._start_again(daemon)
        self.result.warm = "warm start: " in self._wait_for_initial(daemon)
        self._settle(daemon, wanted)
        daemon.stop(signal.SIGQUIT, timeout=40, code=0 if self.world.rules is None else None)

    def _settle(self, daemon: Daemon, wanted: Snapshot) -> None:
        """Compare until equal, or until nothing has changed for a while."""
        patience = self.settings.patience or (30 if self.settings.kill_handler else 15)
        began = moved = time.monotonic()
        last: list[Difference] = []
        while True:
            alive = daemon.running
            try:
                self.result.differences = self.world.differences(wanted)
            except OSError as error:
                self.result.differences = [Difference(b"", "unreadable", None, str(error))]
            now = time.monotonic()
            if not self.result.differences:
                self.result.settled += now - began
                return
            if not alive:
                assert daemon.process is not None
                self.result.problems.append(f"the program ended with {daemon.process.returncode}")
                return
            if self.result.differences != last:
                last, moved = self.result.differences, now
            if now - moved > patience:
                return
            time.sleep(min(0.02 + (now - began) / 20, 0.3))

    def _demand_untouched(self, what: str, differences: list[Difference]) -> None:
        if differences:
            self.result.problems.append(f"the {what} was changed by the program: {report(differences)}")

    def _conclude(self, daemon: Daemon) -> None:
        output = daemon.output
        self.result.overflowed = "overflow" in output.lower()
        for path in sorted(self.world.scratch.glob("journal-[0-9]*")):
            self.journal += path.read_text().splitlines()
        self.journal.sort()
        self.result.operations = len(self.journal)
        if self.result.failed:
            self.result.details = self._details(daemon)
        if self.settings.keep:
            (self.world.scratch / "output").write_text(output)
            print(f"seed {self.result.seed} kept: {self.world.scratch} {self.world.tops}", flush=True)
        else:
            self.world.remove()

    def _details(self, daemon: Daemon) -> str:
        """Say what is different, what had been done to it, and what the program said."""
        parts = [f"seed {self.result.seed}: FAILED ({self.settings.title()})", *self.result.problems]
        parts.append("command: " + shlex.join(os.fsdecode(word) for word in daemon.command))
        if self.world.rules is not None:
            parts.append("rules: " + self.world.rules.text.decode().replace("\n\n", "\n"))
        if self.result.differences:
            parts.append(report(self.result.differences, 40))
        for path in dict.fromkeys(difference.path for difference in self.result.differences[:8]):
            steps = [step for step in self.journal if shown(os.path.basename(path)) in step]
            parts.append(f"steps with {shown(path)}:\n" + "\n".join(steps[-25:]))
        parts.append("output:\n" + daemon.tail)
        parts.append(f"journal and inodes: {self._evidence(daemon)}")
        parts.append("again: " + self.settings.reproduction(self.result.seed))
        return "\n".join(parts)

    def _evidence(self, daemon: Daemon) -> Path:
        """Keep what tells how a failure came about; the trees themselves are removed."""
        kept = Path(tempfile.mkdtemp(prefix=f"clsync-churn-failed-{self.result.seed}-"))
        (kept / "journal").write_text("\n".join(self.journal))
        (kept / "output").write_text(daemon.output)
        for top in (self.world.source, self.world.outside, self.world.destination, *self.world.more):
            listing = subprocess.run(
                ["find", top, "-printf", "%i %n %y %s %T+ %C+ %P\\n"], capture_output=True, check=False
            )
            (kept / top.name).write_bytes(listing.stdout)
        return kept


def run_seed(seed: int, settings: Settings) -> Result:
    """Run one seed in this process."""
    return Run(seed, settings).run()


def run_seeds(seeds: Iterable[int], settings: Settings, jobs: int = 1) -> Iterator[Result]:
    """Run many, `jobs` at a time in processes of their own, and yield results as they come."""
    with ProcessPoolExecutor(jobs) as pool:
        for future in as_completed([pool.submit(run_seed, seed, settings) for seed in seeds]):
            yield future.result()


def summary(settings: Settings, results: list[Result]) -> str:
    """Return the one line that says how it went."""
    failed = [result for result in results if result.failed]
    counts = f"{len(results)} seeds, {len(failed)} failed, {sum(result.paths for result in results)} paths different"
    settled = sorted(result.settled for result in results if not result.differences) or [0.0]
    parts = [counts, f"median settle time {statistics.median(settled):.2f} s (worst {settled[-1]:.2f} s)"]
    parts.append(f"{sum(result.operations for result in results)} steps")
    if settings.peer:
        worst = [result.paths for result in results] or [0]
        parts.append(f"{min(worst)}-{max(worst)} paths a seed")
    if settings.kill_handler:
        parts.append(f"{sum(result.kills for result in results)} handlers killed")
    if settings.crash:
        parts.append(
            f"killed {sum(result.kills for result in results)} times, {sum(r.warm for r in results)} warm at last"
        )
    if settings.overflow:
        parts.append(f"overflow reported in {sum(result.overflowed for result in results)} seeds")
    return f"{settings.title()}: " + ", ".join(parts)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="churn_run", description=(__doc__ or "").split("\n\n")[0])
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--seed", type=int, help="one seed")
    which.add_argument("--seeds", metavar="A..B", help="the seeds from A to B")
    which.add_argument("--fresh", type=int, metavar="N", help="N seeds nobody has seen (default: one)")
    parser.add_argument("--mode", choices=MODES, default="rsyncdirect")
    parser.add_argument("--monitor", choices=MONITORS, default="inotify")
    parser.add_argument("--peer", choices=sorted(PEERS), default="", help="run another program instead")
    parser.add_argument("--clsync", default=installed(), metavar="PATH", help="the program (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=1.5, help="duration of the churn (default: %(default)s)")
    parser.add_argument("--ops", type=int, default=400, help="operations at most (default: %(default)s)")
    parser.add_argument("--rules", action="store_true", help="with a random rules file")
    parser.add_argument("--targets", type=int, default=1, help="destinations (default: %(default)s)")
    parser.add_argument("--xattrs", action="store_true", help="compare extended attributes, too")
    parser.add_argument("--overflow", action="store_true", help="make the kernel's inotify queue overflow")
    parser.add_argument("--kill-handler", action="store_true", help="kill what the program starts, now and then")
    parser.add_argument(
        "--crash", action="store_true", help="kill the program itself, and start it again with its state"
    )
    places = parser.add_mutually_exclusive_group()
    places.add_argument("--same-fs", action="store_true", help="source and destination on one file system")
    places.add_argument("--tmpfs", action="store_true", help="both in memory")
    parser.add_argument("--patience", type=float, default=0, help="seconds without progress that end the waiting")
    parser.add_argument("--jobs", type=int, default=1, help="seeds at a time (default: %(default)s)")
    parser.add_argument("--keep", action="store_true", help="leave trees, journals and output behind")
    parser.add_argument("--verbose", action="store_true", help="a line for every seed")
    parser.add_argument("extra", nargs="*", metavar="-- ARGUMENT", help="further arguments of the program")
    return parser


def _seeds(options: argparse.Namespace) -> list[int]:
    if options.seed is not None:
        return [options.seed]
    if options.seeds:
        first, _, last = options.seeds.partition("..")
        return list(range(int(first), int(last or first) + 1))
    return fresh_seeds(options.fresh or 1)


def main() -> int:
    """Run what the command line asks for; 1 if anything was wrong."""
    options = _parser().parse_args()
    settings = Settings(
        mode=options.mode,
        monitor=options.monitor,
        peer=options.peer,
        program=options.clsync,
        seconds=options.seconds,
        operations=options.ops,
        rules=options.rules,
        targets=options.targets,
        places="same-fs" if options.same_fs else "tmpfs" if options.tmpfs else "any",
        overflow=options.overflow,
        kill_handler=options.kill_handler,
        crash=options.crash,
        xattrs=options.xattrs,
        patience=options.patience,
        keep=options.keep,
        extra=tuple(options.extra),
    )
    seeds = _seeds(options)
    if options.fresh or len(seeds) == 1:
        print("seeds:", *seeds, flush=True)
    results = []
    for result in run_seeds(seeds, settings, options.jobs):
        results.append(result)
        if options.verbose:
            print(
                f"seed {result.seed}: {result.paths} paths different of {result.entries}, {result.operations} steps,"
                f" settled in {result.settled:.2f} s, {result.seconds:.1f} s in all",
                flush=True,
            )
        if result.failed:
            print(result.details, "", sep="\n", flush=True)
    print(summary(settings, results))
    return 1 if any(result.failed for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
