"""One rsync program with its arguments: runs that go to one target."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from clsync.core.batch import Batch, Outcome, Verdict
from clsync.core.lists import escape
from clsync.core.moves import Step
from clsync.core.paths import shown
from clsync.handler.base import HostNews, Renamed
from clsync.handler.rsync import hosts, renaming
from clsync.handler.rsync.blame import ABSENT, first_line
from clsync.handler.rsync.connection import Connection, chooses_shell
from clsync.handler.rsync.recipe import ARGUMENTS_MACRO, MERGE, Recipe
from clsync.handler.rsync.target import Target
from clsync.handler.runner import Result, Runner
from clsync.kernel.descriptors import anonymous_file
from clsync.kernel.orphans import mark, work_of
from clsync.kernel.priority import USUAL, Priority
from clsync.kernel.process import HERE, exit_text
from clsync.kernel.sandbox import Sandbox

CODES_DONE = frozenset((0, 24))
"""24: files vanished before they were sent; their own events are on the way."""
PATIENCE = 1.0
"""Seconds after which a local rsync is ended whose processes wait for each other.

Seen with 3.5.0: -H while files of the source vanish, and a file that became a fifo before it was opened.
"""
FAR_PATIENCE = 60.0
"""Seconds after which a remote one is ended that did nothing, the first time: its other end may be busy.

Seen with 3.5.0: -H while the other end cannot write. rsync's own --timeout does not end it.
"""
_CODE_FILES = 3
_CODE_SSH = 255
_WORKING: Final = b"./"
"""The directory that a program is started in: rsync asks for its path, and goes there by that a moment later."""
_NAMED_HERE: Final = re.compile(rb'^([^"\n]*")/proc/self/fd/\d+(?=[/"])', re.MULTILINE)
"""Only where a message names a path first: whoever names files can let the rest of it look like anything."""
_NOT_HERE: Final = re.compile(
    rb'^rsync: (?:\[\w+\] )?change_dir "/proc/self/fd/\d+/?(?:\./?)?" failed: No such', re.MULTILINE
)
_BY_PATH: Final = re.compile(
    rb"-[^-efBTM@]*F|(?:-[^-efBTM@]*f|--filter=)?"
    rb"(?:(?:[.:]|(?:dir-)?merge),?[-+/!CpsrxneW]*|(?:[-+HSPR],?|[a-z]+,)[!Csrpx]*/[/!Csrpx]*)[ _]"
)
"""Filter rules that go by the path of what is sent, or may: with the modifier `/`, or in files."""
_ANSWER_PATIENCE = 20.0
_FLUSH_PATIENCE = 300.0
"""Seconds that a host may take to say which boot it is in, and to flush a file system."""
_HINTS = {
    1: "look at the arguments and at the rsync daemon's configuration",
    3: "see that source and destination exist",
    4: "see 'refuse options' in the rsync daemon's configuration",
    5: "see the rsync daemon's log",
    10: "see that the rsync daemon runs and can be reached",
    11: "see the free space and the rights at the destination",
    12: "see that rsync runs at the other end and the connection is clean",
    30: "see the network",
    127: "install rsync at the other end",
    255: "see that ssh reaches the host without a password: ssh -o BatchMode=yes HOST true",
}


class Program:
    """Runs rsync; knows what it was given, and what its runs have left behind."""

    def __init__(
        self,
        arguments: Sequence[bytes],
        *,
        target: Target,
        recipe: Recipe,
        name: bytes,
        timeout: float,
        codes_done: Iterable[int],
        environment: Mapping[bytes, bytes],
        show_progress: bool,
        priority: Priority = USUAL,
        sandbox: Sandbox | None = None,
        walks: Sandbox | None = None,
    ) -> None:
        """`arguments`, `timeout`, `codes_done`, `priority`, `sandbox`, `walks`: see `RsyncHandler`; `name`: what is run."""
        self.target, self.recipe, self.name = target, recipe, name
        self.absent_name = ABSENT + secrets.token_hex(6).encode()
        self.stopping = False
        self.unsure = False
        """The target has failed in the last run, so that more may have failed than was said."""
        self.littered: set[bytes] = set()
        """Directories in which a run that was cut off may have left temporary files."""
        self._codes_done = frozenset(codes_done) | CODES_DONE
        self._arguments, self._show_progress = list(arguments), show_progress
        self._environment = dict(environment) | {b"LC_ALL": b"C"}
        self._runner = Runner(timeout, FAR_PATIENCE if target.remote else PATIENCE, priority, far=target.remote)
        self._priority = priority
        self._askers: set[Runner] = set()
        """What asks the host of the target, beside the runs."""
        keep = target.ssh and not chooses_shell(self._arguments, self._environment)
        self.sandbox, self.walks = sandbox, walks
        """What a run can do at most, but for the way to a remote target."""
        self._connection = Connection(target, sandbox) if keep else None
        self._can_rename = renaming.reachable(target.directory)
        self._here = _WORKING if any(map(_BY_PATH.match, self._arguments)) else HERE
        self._can_ask = self._connection is not None

    async def rename(self, steps: Sequence[Step]) -> Renamed:
        """Rename at the other end of the kept connection, as far as its shell can do it."""
        if self._connection is None or len(steps) > renaming.MOST_STEPS or not self._can_rename:
            return Renamed(0)
        aside = b".clsync-" + secrets.token_hex(6).encode()
        text = renaming.script(self.target.directory, steps, aside)
        try:
            told = await self._told(self._connection, self._runner, text)
        except OSError:
            told = None  # no ssh
        if told is None:
            return Renamed(0)  # the batch will say why
        result, answer = told
        if not renaming.understood(answer):
            # No shell there, or no host.
            self._can_rename = _is_away(result)
            return Renamed(0, left=(aside,))
        return renaming.renamed(answer, steps, aside)

    async def ask_host(self, *, flush: bool) -> HostNews:
        """Ask the other end of the kept connection which boot it is in; `flush`: have the target flushed."""
        if self._connection is None or not self._can_ask:
            return HostNews(None)
        asker = Runner(_FLUSH_PATIENCE if flush else _ANSWER_PATIENCE, priority=self._priority)
        self._askers.add(asker)
        try:
            told = await self._told(self._connection, asker, hosts.script(self.target.directory if flush else None))
        except OSError:
            told = None
        finally:
            self._askers.discard(asker)
        if told is None:
            return HostNews(b"")
        result, answer = told
        news = hosts.news(answer)
        if news.boot is None:
            # What runs there is fixed (a forced command), or it is no shell, or no Linux.
            self._can_ask = _is_away(result)
            return HostNews(b"") if self._can_ask else news
        return news

    async def _told(self, connection: Connection, runner: Runner, text: bytes) -> tuple[Result, bytes] | None:
        """Let the shell at the other end run a script; return what it has said, None: there is no connection.

        Raises OSError.
        """
        here, said = connection.place(), anonymous_file()
        try:
            if await self._connected(connection, runner, here) is not None:
                return None
            command = [*connection.command(), b"exec sh"]
            sandbox = connection.sandbox()
            result = await runner.run(
                command, cwd=here, env=self._environment, records=[text], output=said, sandbox=sandbox
            )
            return result, os.pread(said, os.fstat(said).st_size, 0)
        finally:
            os.close(here)
            os.close(said)

    def stop(self) -> None:
        """End the run at work."""
        self.stopping = True
        self._runner.stop()
        self._stop_asking()

    def _stop_asking(self) -> None:
        for asker in self._askers:
            asker.stop()

    async def aclose(self) -> None:
        """Close the kept connection."""
        self._stop_asking()
        if self._connection is not None:
            await self._connection.close(self._runner, self._environment)

    async def run(
        self,
        arguments: Sequence[bytes],
        batch: Batch,
        records: Iterable[bytes] | None,
        output: int | None = None,
        until: bytes = b"",
    ) -> Result:
        """Run the program with `arguments` for `%RSYNC-ARGS%`; `records` on its standard input.

        `until`: see `Runner.run`.
        Raises OSError where the program cannot be run.
        """
        if self.stopping:
            return Result(0, b"", stopped=True)
        shell = []
        if self._connection is not None:
            trouble = await self._connected(self._connection, self._runner, batch.root)
            if trouble is not None:
                return trouble
            shell = self._connection.options()
        visible = self._show_progress and batch.initial and output is None
        if visible:
            shell = [*shell, b"--info=progress2"]
        argv = [self.name]
        for argument in self._arguments:
            argv += (
                [*arguments, *shell]
                if argument == ARGUMENTS_MACRO
                else [self._here if argument == HERE else argument]
            )
        env = (
            self._environment
            | mark(work_of(batch.root, self.target.text))
            | {
                b"CLSYNC_STATUS": batch.status.encode(),
                b"CLSYNC_ITERATION": b"%d" % batch.number,
            }
        )
        nowhere = os.open(os.devnull, os.O_WRONLY) if output is None and not visible else None
        try:
            out = output if nowhere is None else nowhere
            sandbox = self._sandboxed(arguments)
            result = await self._runner.run(
                argv, cwd=batch.root, env=env, records=records, output=out, sandbox=sandbox, until=until
            )
        finally:
            if nowhere is not None:
                os.close(nowhere)
        return self._led_there(result, batch.root)

    def _led_there(self, result: Result, root: int) -> Result:
        """Return what a run that was given `HERE` has said, with the path of that directory."""
        if self._here == HERE and _NOT_HERE.search(result.messages):
            # The program of the operator has closed what it was given (sudo does): its working directory has to do.
            self._here = _WORKING
            result = result._replace(code=_CODE_FILES)
        path = escape(os.readlink(b"/proc/self/fd/%d" % root))
        return result._replace(messages=_NAMED_HERE.sub(lambda found: found[1] + path, result.messages))

    def _sandboxed(self, arguments: Sequence[bytes]) -> Sandbox | None:
        """Return what a run with these arguments can do."""
        sandbox = self._connection.sandbox() if self._connection is not None else self.sandbox
        if sandbox is None:
            return None
        return sandbox.with_files(a.removeprefix(MERGE) for a in arguments if a.startswith(MERGE))

    async def _connected(self, connection: Connection, runner: Runner, here: int) -> Result | None:
        """Connect, if that is to be done; return how it went wrong, or that we are to stop."""
        trouble = await connection.open(runner, self._environment, here, lambda: self.stopping)
        return trouble or (Result(0, b"", stopped=True) if self.stopping else None)

    def done(self, result: Result) -> bool:
        """Tell whether a run went well."""
        cut = result.stopped or result.timed_out or result.stood_still or result.said_it
        return result.code in self._codes_done and not cut


def _is_away(result: Result) -> bool:
    """Tell whether a command for another host has not come there, or was ended: 255 is what ssh says of that."""
    return result.code == _CODE_SSH or result.stopped or result.timed_out


def unwell(result: Result, target: Target) -> Outcome:
    """Return the outcome of a run that a target made impossible."""
    if result.stopped:
        return Outcome(Verdict.UNWELL, message="stopped", code=result.code)
    where = f"{shown(target.text)}: " if target.text else ""
    if result.timed_out:
        return Outcome(Verdict.UNWELL, message=f"{where}the run took longer than --timeout-sync", code=result.code)
    if result.stood_still:
        return Outcome(Verdict.UNWELL, message=f"{where}rsync stood still and was ended", code=result.code)
    said = first_line(result.messages)
    hint = _HINTS.get(result.code, "")
    message = f"{where}{said + ' ' if said else ''}({exit_text(result.code)}){'; ' + hint if hint else ''}"
    return Outcome(Verdict.UNWELL, message=message, code=result.code)
