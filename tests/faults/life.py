"""One case with one seed, from the first directory to the verdict."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import tempfile
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from tests.faults.faults import FAULTS
from tests.faults.remembered import forgotten
from tests.faults.stage import Stage, stage
from tests.support.churn import Writer
from tests.support.daemon import Daemon
from tests.support.trees import Difference, compare, report

PHASES = ("before", "stopped", "live")
"""The fault is there before the first start; while the program is stopped, and when it starts again; while it runs."""
BOUND = 60.0
"""The longest time (s) from the end of fault and changes until the trees are equal; twice the fault's duration is added:
pauses between tries grow."""
FAR = 75.0
"""Added (s) where the target is another host: an rsync that stands still is ended after a minute."""
ROUNDS = 3


@dataclass(frozen=True)
class Case:
    """What happens, when, and on which way."""

    fault: str
    phase: str
    transport: str

    def __str__(self) -> str:
        return f"{self.fault} / {self.phase} / {self.transport}"


@dataclass
class Result:
    """What came out of it."""

    case: Case
    seed: int
    faults: int = 0
    """How often something was done that can go wrong."""
    reads: int = 0
    """How many contents were read and found whole."""
    refusals: int = 0
    """How often the program said that it cannot start."""
    losses: list[str] = field(default_factory=list)
    """Paths that differ, and files that were not whole."""
    problems: list[str] = field(default_factory=list)
    """Everything else that must not be."""
    recovery: float = 0.0
    """From the end of fault and changes until the trees were equal (s)."""
    seconds: float = 0.0
    details: str = ""

    @property
    def failed(self) -> bool:
        """Whether anything was wrong."""
        return bool(self.losses or self.problems)


class Life:
    """A source that changes, a program, a fault, and somebody who watches the destination."""

    def __init__(self, case: Case, seed: int, place: Stage, rounds: int) -> None:
        """Take all of it; nothing is done yet. `rounds`: how often a live fault arises."""
        self.case, self.stage, self._rounds = case, place, rounds
        self.result = Result(case, seed)
        self.random = random.Random(f"life {case} {seed}")
        self.fault = FAULTS[case.fault](place, lambda: self.daemon, self.random)
        self.daemons: list[Daemon] = []
        self.author: subprocess.Popen[bytes] | None = None
        self._journals = 0
        self._began = 0.0
        self._outage = 0.0

    @property
    def daemon(self) -> Daemon:
        """The program that was started last."""
        return self.daemons[-1]

    def live(self) -> None:
        """Do it. Raises AssertionError where something else than a loss is wrong."""
        place = self.stage
        self.fault.prepare()
        place.connect()
        place.fill()
        self.watcher = place.helper("watcher", str(place.kept))
        {"before": self._before, "stopped": self._stopped, "live": self._live}[self.case.phase]()
        self._judge()

    # The three phases

    def _before(self) -> None:
        self._arise()
        if self.fault.starts_with_it:
            self._start()
        else:
            self._heal()
        for _ in range(self._rounds if self.fault.needs_program else 1):
            self._churn(arise=self.fault.needs_program)

    def _stopped(self) -> None:
        self._start()
        self._settle()
        self._end()
        self._arise()
        self._play()
        if self.random.random() < 0.5 or not self.fault.starts_with_it:
            self._heal()
        else:
            self._start()
        self._churn(arise=self.fault.needs_program)

    def _live(self) -> None:
        self._start()
        self._settle()
        for _ in range(self._rounds):
            self._churn(arise=True)
            assert self.fault.restarts or not self.result.refusals, f"the program has ended\n{self.daemon.tail}"

    # What they consist of

    def _start(self) -> None:
        place = self.stage
        arguments = [*place.arguments, "-d3"]
        daemon = Daemon(*arguments, program=self.fault.program, env=place.environment, cwd="/")
        self.daemons.append(daemon.start())

    def _end(self) -> None:
        """End the program, now and then by SIGKILL."""
        if self.fault.restarts or self.random.random() < 0.3:
            process = self.daemon.process
            assert process is not None
            process.kill()
            process.wait()
            self.fault.count += 1
        else:
            self.daemon.stop(timeout=40)

    def _arise(self) -> None:
        self._began = time.monotonic()
        if self.daemons or not self.fault.needs_program:
            self.fault.inject()

    def _heal(self) -> None:
        """End the fault, and start the program if it has ended."""
        self.fault.heal()
        if self._began:
            self._outage = max(self._outage, time.monotonic() - self._began)
        self._began = 0.0
        if not self.daemons:
            self._start()
        elif not self.daemon.running:
            self.result.refusals += self._refused()
            self._start()

    def _refused(self) -> bool:
        """Tell whether the program has ended by itself. Raises AssertionError if it has not said why."""
        assert self.daemon.process is not None
        code = self.daemon.process.returncode
        if code in (0, -signal.SIGKILL, 3):
            return False
        assert code > 0, f"ended with {code}\n{self.daemon.tail}"
        assert "Traceback" not in self.daemon.output, self.daemon.output
        assert "clsync: " in self.daemon.output or "Error: " in self.daemon.output, self.daemon.output
        return True

    def _play(self) -> None:
        """Let the source change without a program."""
        writer = self._writer()
        while writer.running():
            self.fault.strike()
            time.sleep(0.01)
        assert not writer.failed, writer.trouble()

    def _churn(self, *, arise: bool) -> None:
        """Let the source change, the fault arise at a random instant (unless it is there), and heal at another one."""
        self._write(True)
        writer = self._writer()
        now = time.monotonic()
        begin = now + (self.random.random() * 0.8 if arise else 0)
        end = begin + self.random.uniform(0.1, 2.5)
        arisen, healed = not arise, not self._began and not arise
        while writer.running() or not healed:
            now = time.monotonic()
            if not arisen and now >= begin:
                self._arise()
                arisen = True
            elif arisen and not healed:
                self.fault.strike()
                if now >= end:
                    self._heal()
                    healed = True
            time.sleep(0.005)
        assert not writer.failed, writer.trouble()
        self._write(False)

    def _writer(self) -> Writer:
        self._journals += 1
        seen = self.fault.sees_all and self.case.phase == "live"
        return self.stage.writer(self._journals, 1.5, 120, seen=seen)

    def _write(self, on: bool) -> None:
        """Start the author of whole files, or end it."""
        if on:
            words = (
                str(self.stage.source),
                f"{self.case} {self.result.seed} {self._journals}",
                str(self.stage.clock),
            )
            self.author = self.stage.helper("author", *words)
        elif self.author is not None:
            self.author.communicate()
            assert not self.author.returncode, "the author failed"
            self.author = None

    # The verdict

    def _settle(self) -> float:
        """Wait until the trees are equal, and return how long it took (s). Raises AssertionError."""
        wanted = self.stage.wanted()
        began = time.monotonic()
        bound = BOUND + 2 * self._outage + (FAR if self.stage.host is not None else 0)
        while differences := self.stage.differences(wanted):
            took = time.monotonic() - began
            if took > bound or not self.daemon.running:
                self._lose(differences)
                doing = "\n".join(map(said, self.daemon.descendants()))
                raise AssertionError(
                    f"not equal after {took:.0f} s\n{doing}" if self.daemon.running else "the program has ended"
                )
            time.sleep(min(0.02 + took / 20, 0.3))
        return time.monotonic() - began

    def _judge(self) -> None:
        result, wanted = self.result, self.stage.wanted()
        result.recovery = self._settle()
        self.daemon.stop(signal.SIGQUIT, timeout=60)  # what is on its way arrives
        self._lose(self.stage.differences(wanted))
        result.losses += forgotten(self.stage.state, self.stage.source)
        touched = compare(wanted, self.stage.wanted())
        assert not touched, f"the source was changed by the program: {report(touched)}"
        told, _ = self.watcher.communicate()
        *wrong, reads = told.decode().splitlines()
        result.reads = int(reads)
        result.losses += wrong
        for daemon in self.daemons:
            assert "Traceback" not in daemon.output, daemon.output

    def _lose(self, differences: list[Difference]) -> None:
        self.result.losses += [str(difference) for difference in differences]

    def conclude(self) -> None:
        """End everything; keep what tells how a failure came about."""
        for daemon in self.daemons:
            daemon.kill()
        self.result.faults = self.fault.count
        if self.result.failed:
            kept = Path(tempfile.mkdtemp(prefix=f"clsync-faults-failed-{self.result.seed}-"))
            for number, daemon in enumerate(self.daemons):
                (kept / f"output-{number}").write_text(daemon.output)
            for journal in self.stage.top.glob("journal-*"):
                shutil.copy(journal, kept)
            self.result.details = self._details(kept)
            (kept / "details").write_text("\n".join([self.result.details, *self.result.losses]))

    def _details(self, kept: Path) -> str:
        losses = self.result.losses
        more = [f"... and {len(losses) - 20} more"] if len(losses) > 20 else []
        return "\n".join(
            [
                f"FAILED: {self.case}, seed {self.result.seed}",
                *self.result.problems,
                *losses[:20],
                *more,
                f"output:\n{self.daemon.tail}" if self.daemons else "never started",
                f"outputs and journals: {kept}",
                f"again: python -m tests.faults --scenario '{self.case.fault}' --phase {self.case.phase}"
                f" --transport {self.case.transport} --seeds {self.result.seed}",
            ]
        )


def said(pid: int) -> str:
    """Return what a process is, and what it waits for."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        return f"{pid} {words} waits in {Path(f'/proc/{pid}/wchan').read_text()}"
    except OSError:
        return f"{pid} is gone"


def run_here(case: Case, seed: int, rounds: int = ROUNDS) -> Result:
    """Run a case in this process."""
    began = time.monotonic()
    with stage(case.transport, seed) as place:
        life = Life(case, seed, place, rounds)
        try:
            life.live()
        except AssertionError as error:
            life.result.problems.append(str(error))
        except Exception:  # noqa: BLE001  one case must not end the others
            life.result.problems.append("the harness failed: " + traceback.format_exc())
        finally:
            with suppress(Exception):
                life.fault.heal()  # what hangs cannot be removed
            life.conclude()
    life.result.seconds = time.monotonic() - began
    return life.result


def pool(jobs: int = 1) -> ProcessPoolExecutor:
    """Return processes in which cases can be run, a new one for each."""
    return ProcessPoolExecutor(jobs, get_context("spawn"), max_tasks_per_child=1)
