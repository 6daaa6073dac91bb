"""Runs a scenario with one of the two programs, and keeps what its handler was given step by step.

What a program sees does not depend on how quick it is: it is stopped (SIGSTOP) while a step is done, with all it has
to read once it goes on. A step has ended when the program has handed over a file that was changed as the last thing of
it: events are handed over in their order.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from tests.oracle.handler import Recorder, Run
from tests.oracle.modes import Mode
from tests.oracle.scenarios import Place, Scenario
from tests.support.daemon import Daemon, installed

MARK = re.compile(rb"~mark[0-9]+[ab]")
_PATIENCE = 90.0
"""Seconds that a step may take on a machine with much else to do."""
_NUDGE = 0.5
_ALONE = Lock()
"""A process that is being started has what other threads have open for writing open as well, for a moment: that it is
closed would be told late, and a program could not be executed. So nothing is written meanwhile."""


class Program(NamedTuple):
    """One of the two programs."""

    name: str
    path: str
    options: tuple[str, ...]


OLD = Program("clsync 0.4", "/usr/bin/clsync", ("-t1", "-w1"))
NEW = Program("clsync", installed(), ("--compat=0.4", "-t0.05", "-w0"))


class Played(NamedTuple):
    """What a program made of a scenario."""

    place: Place
    steps: dict[str, list[Run]]
    """Name of the step -> runs of the handler, in their order; the last is what came after the steps."""
    code: int | None
    """The exit code of a run that was to end by itself."""
    output: str


@contextmanager
def scratch() -> Iterator[Path]:
    """Give a directory for many runs that clsync 0.4 can enter, which runs as nobody when root has started it."""
    with tempfile.TemporaryDirectory(prefix="clsync-oracle-") as name:
        os.chmod(name, 0o711)
        yield Path(os.path.realpath(name))


@contextmanager
def _emptied(top: Path) -> Iterator[Path]:
    top.mkdir()
    try:
        yield top
    finally:
        shutil.rmtree(top, ignore_errors=True)


def play(program: Program, mode: Mode, scenario: Scenario, top: Path) -> Played:
    """Run a scenario in the directory `top`, which is made and removed. Raises AssertionError."""
    with _emptied(top) as here:
        with _ALONE:
            place = Place(here)
            recorder = Recorder(here, scenario.code, module=mode.module)
            scenario.plant(place)
            _make_marks(place, scenario)
            daemon = Daemon(
                *program.options,
                *_options(place, mode, scenario, recorder),
                program=(program.path,),
                env={"HOME": str(here), "TMPDIR": str(place.temporary)},
                cwd=here,
            ).start()
        try:
            return _Play(place, scenario, recorder, daemon).all()
        finally:
            daemon.kill()


def _make_marks(place: Place, scenario: Scenario) -> None:
    for number in range(len(scenario.steps) + 1 if scenario.steps else 0):
        for which in "ab":
            (place.source / f"~mark{number}{which}").touch(0o600)


def _options(place: Place, mode: Mode, scenario: Scenario, recorder: Recorder) -> list[str]:
    options = [f"-W{place.source}", f"-D{place.destination}", f"-M{mode.mode}", f"-S{recorder.path}", "-llab"]
    options += [*mode.options, *scenario.options]
    if scenario.rules is not None:
        rules = place.top / "rules"
        rules.write_text(scenario.rules)
        options.append(f"-R{rules}")
    if scenario.lists_dir:
        options.append(f"-L{_lists_dir(place.top / 'lists')}")
    if scenario.arguments is not None:
        options += ["--", *scenario.arguments]
    return options


def _lists_dir(path: Path) -> Path:
    """Make a directory for list files that clsync 0.4 can use, which runs as nobody when root has started it."""
    path.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(path, pwd.getpwnam("nobody").pw_uid, -1)
    return path


class _Play:
    """A scenario at work."""

    def __init__(self, place: Place, scenario: Scenario, recorder: Recorder, daemon: Daemon) -> None:
        self._place, self._scenario, self._recorder, self._daemon = place, scenario, recorder, daemon
        self._steps: dict[str, list[Run]] = {}
        self._told = 0

    def all(self) -> Played:
        """Do all steps."""
        code = None
        if self._scenario.steps:
            self._nudge_until_it_follows()
            for number, step in enumerate(self._scenario.steps, 1):
                with _standing_still(self._daemon.pid), _ALONE:
                    step.do(self._place)
                    self._mark(number, "a")
                self._wait_for_mark(number, "a")
                self._wait_for(step.until.encode(), f"{step.until} in step {step.name}")
                self._end_step(number, step.name)
            self._daemon.stop(code=None, timeout=_PATIENCE)
            self._keep("end")
        else:
            code = self._daemon.wait(code=None, timeout=_PATIENCE)
            self._keep("start")
        return Played(self._place, self._steps, code, self._daemon.output)

    def _nudge_until_it_follows(self) -> None:
        """Wait for the end of the initial sync: from then on what is changed is handed over."""
        last = 0.0

        def follows() -> bool:
            nonlocal last
            if time.monotonic() - last > _NUDGE:
                last = time.monotonic()
                self._mark(0, "a")
            return self._seen(0, "a")

        self._daemon.wait_until(follows, _PATIENCE, "the end of the initial sync")
        self._end_step(0, "start")

    def _end_step(self, number: int, name: str) -> None:
        if self._scenario.splits:
            # The batch goes on: the next one begins when all parts of it have been handed over.
            self._mark(number, "b")
            self._wait_for_mark(number, "b")
        self._keep(name)

    def _keep(self, name: str) -> None:
        runs = self._recorder.runs()
        self._steps[name], self._told = runs[self._told :], len(runs)

    def _mark(self, number: int, which: str) -> None:
        path = self._place.source / f"~mark{number}{which}"
        path.chmod(path.stat().st_mode ^ 0o100)

    def _wait_for_mark(self, number: int, which: str) -> None:
        what = f"the end of step {number} of: {self._scenario.name}"
        self._daemon.wait_until(lambda: self._seen(number, which), _PATIENCE, what)

    def _wait_for(self, name: bytes, what: str) -> None:
        def handed_over() -> bool:
            return not name or any(run.speaks_of(name) for run in self._recorder.runs()[self._told :])

        self._daemon.wait_until(handed_over, _PATIENCE, what)

    def _seen(self, number: int, which: str) -> bool:
        mark = b"~mark%d%s" % (number, which.encode())
        return any(run.speaks_of(mark) for run in self._recorder.runs()[self._told :] if run.status != "initsync")


@contextmanager
def _standing_still(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        deadline = time.monotonic() + _PATIENCE
        while _state(pid) != b"T":
            assert time.monotonic() < deadline, f"process {pid} does not stop"
            time.sleep(0.002)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _state(pid: int) -> bytes:
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
