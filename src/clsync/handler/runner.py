"""Runs one child program at a time for a handler: input, messages, time limit, a clean end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from clsync.kernel import orphans
from clsync.kernel.descriptors import anonymous_file
from clsync.kernel.features import refuse_if_forced
from clsync.kernel.priority import USUAL, Priority, set_priority
from clsync.kernel.process import activity, group_alive, signal_group, signal_last, spawn
from clsync.kernel.sandbox import Sandbox

KEPT_OUTPUT = 64 * 1024
"""Bytes of a child's messages that are kept: the beginning and the end, half each."""
GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL."""
_CLEARING = 1.0
"""Seconds that the last processes of a program have to clear up, where the first one takes them along when it ends."""
_LATE = 0.5
"""Seconds for which the reason of a failure is waited for after the program has ended."""


def surroundings(status: str, iteration: int) -> dict[bytes, bytes]:
    """Return the environment of an operator's own program: ours, the phase and the number of the batch."""
    return os.environb | {b"CLSYNC_STATUS": status.encode(), b"CLSYNC_ITERATION": b"%d" % iteration}


class Result(NamedTuple):
    """How a program ended."""

    code: int
    """Exit status; negative: killed by that signal; 127 or 126: it could not be run."""
    messages: bytes
    """Standard error, cut to `KEPT_OUTPUT`."""
    timed_out: bool = False
    stopped: bool = False
    stood_still: bool = False
    """It and what it started waited for each other, and were ended."""
    said_it: bool = False
    """It said what it was to be ended for."""
    cut: bool = False
    """Some of the messages may be missing."""


class Runner:
    """Runs programs for one handler, one after the other."""

    def __init__(
        self, timeout: float = 0.0, patience: float = 0.0, priority: Priority = USUAL, *, far: bool = False
    ) -> None:
        """`priority`: of the programs. `timeout`: seconds after which a program is ended, 0 for none.

        `patience`: seconds after which a program is ended in which neither it nor a descendant did anything,
        0 for none. Only for programs that wait for nobody but each other; `far`: and for another host. That may be
        busy, so the patience doubles each time, until a program ends by itself; what was started to come there does
        not count.
        """
        self._timeout, self._patience, self._priority = timeout, patience, priority
        self._far, self._first_patience = far, patience
        self._child: subprocess.Popen[bytes] | None = None
        self._stopped = False
        self._takes_along = False
        """With the program, all that it has started is killed."""
        self._timed_out = self._stood_still = False

    async def run(
        self,
        argv: Sequence[bytes],
        *,
        cwd: int,
        env: Mapping[bytes, bytes],
        records: Iterable[bytes] | None = None,
        output: int | None = None,
        keep_messages: bool = True,
        sandbox: Sandbox | None = None,
        until: bytes = b"",
    ) -> Result:
        """Run a program in the directory `cwd`; `records` go to its standard input, its standard output to `output`.

        `until`: what it says on standard error when nothing is to be had from it any more: it is ended then.
        `sandbox`: what it can do; None: all that who runs it can do. Raises OSError where the program cannot be run at all.
        """
        self._stopped = self._timed_out = self._stood_still = False
        source = await _spooled(records) if records is not None else os.open(os.devnull, os.O_RDONLY)
        if self._stopped:  # while the records were written
            os.close(source)
            return Result(0, b"", stopped=True)
        messages = _Messages(until, self._end) if keep_messages else None
        self._takes_along = sandbox is not None and "processes" in sandbox.layers
        try:
            child = spawn(
                argv,
                cwd=cwd,
                stdin=source,
                stdout=output,
                stderr=messages.inlet if messages else None,
                env=env,
                sandbox=sandbox,
            )
        except BaseException:
            if messages:
                messages.close()
            raise
        finally:
            os.close(source)
        self._child = child
        try:
            if self._priority:
                set_priority(child.pid, self._priority)
            with messages or _Nothing():
                await self._wait(child)
                if messages and child.returncode > 0:
                    await messages.late()
            ended_early = self._stopped or self._timed_out or self._stood_still or (messages and messages.said_it)
            if ended_early or child.returncode < 0:
                await group_ended(child.pid)
        finally:
            self._child = None
        if self._far:
            self._patience = self._patience * 2 if self._stood_still else self._first_patience
        text = messages.text() if messages else b""
        said_it = messages is not None and messages.said_it
        cut = len(text) >= KEPT_OUTPUT
        return Result(child.returncode, text, self._timed_out, self._stopped, self._stood_still, said_it, cut)

    def stop(self) -> None:
        """End the program at work, and what it started: SIGTERM, then SIGKILL."""
        self._stopped = True
        self._end()

    def _end(self) -> None:
        child = self._child
        if child is None or child.returncode is not None:
            return
        loop = asyncio.get_running_loop()
        if self._takes_along:
            # Who receives removes its temporary file; the others end when it has.
            signal_last(child.pid, signal.SIGTERM)
            loop.call_later(_CLEARING, self._signal, child, signal.SIGTERM)
        else:
            signal_group(child.pid, signal.SIGTERM)
        loop.call_later(GRACE, self._signal, child, signal.SIGKILL)

    def _signal(self, child: subprocess.Popen[bytes], number: signal.Signals) -> None:
        if child is self._child and child.returncode is None:
            signal_group(child.pid, number)

    def _expire(self) -> None:
        self._timed_out = True
        self._end()

    async def _wait(self, child: subprocess.Popen[bytes]) -> None:
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._timeout, self._expire) if self._timeout else None
        watcher = loop.create_task(self._watch(child)) if self._patience else None
        try:
            await ended(child)
        except asyncio.CancelledError:
            signal_group(child.pid, signal.SIGKILL)
            child.wait()
            raise
        finally:
            if timer is not None:
                timer.cancel()
            if watcher is not None:
                watcher.cancel()

    async def _watch(self, child: subprocess.Popen[bytes]) -> None:
        """End a program that stands still."""
        last, since = None, 0.0
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._patience / 4)
            now = activity(child.pid, alone=self._far)
            if now is None or now != last:
                last, since = now, loop.time()
            elif loop.time() - since >= self._patience:
                self._stood_still = True
                self._end()
                return


async def group_ended(group: int) -> None:
    """End and wait for what a killed program leaves behind: it may still change the destination."""
    loop = asyncio.get_running_loop()
    signal_group(group, signal.SIGTERM)
    deadline = loop.time() + GRACE
    while group_alive(group):
        if loop.time() > deadline:
            signal_group(group, signal.SIGKILL)
        await asyncio.sleep(0.02)


async def orphans_ended(work: bytes, program: bytes = b"") -> str:
    """End what a clsync that was killed has left at the same work; return what is wrong where that does not end.

    It would write what is old over what is new. `program`: the operator's.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    told: set[int] = set()
    """Groups among them are looked for: who leads one, and tells it from others, may end before the rest."""
    while left := {*orphans.orphans(work, program), *(one for one in told if one < 0 and group_alive(-one))}:
        late = loop.time() - began
        if late > 2 * GRACE:
            one = abs(min(left, key=abs))
            return f"what another clsync that was killed has left at work does not end (process {one})"
        for one in left if late > GRACE else left - told:
            with suppress(PermissionError):
                orphans.end(one, signal.SIGKILL if late > GRACE else signal.SIGTERM)
        told |= left
        await asyncio.sleep(0.02)
    return ""


async def ended(child: subprocess.Popen[bytes]) -> int:
    """Wait for a child to end, without a thread where the kernel has pidfds (Linux 5.3)."""
    loop = asyncio.get_running_loop()
    try:
        refuse_if_forced("pidfd")
        descriptor = os.pidfd_open(child.pid)
    except OSError:
        return await asyncio.to_thread(child.wait)
    done = asyncio.Event()
    loop.add_reader(descriptor, done.set)
    try:
        await done.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    return child.wait()


class _Nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


class _Messages:
    """A pipe for standard error, read while the child runs.

    Its end is not waited for: a kept ssh connection inherits it and holds it open for minutes.
    """

    def __init__(self, until: bytes, end: Callable[[], None]) -> None:
        """`end` is called when `until` is said, if that is anything."""
        self._until, self._end, self.said_it = until, end, False
        self._outlet, self.inlet = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        # Only our end must not block: a child that writes a lot would otherwise see EAGAIN.
        os.set_blocking(self.inlet, True)
        self._head = b""
        self._tail = self._recent = b""
        self._came = asyncio.Event()
        """Something was said, or nothing will be any more."""

    def __enter__(self) -> None:
        os.close(self.inlet)
        self.inlet = -1
        asyncio.get_running_loop().add_reader(self._outlet, self._read)

    def __exit__(self, *_: object) -> None:
        self._read()
        self.close()

    async def late(self) -> None:
        """Wait a little if nothing was said: what another host says may come when the program has given up already."""
        self._read()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._came.wait(), _LATE)

    def close(self) -> None:
        """Give the pipe back."""
        if self._outlet >= 0:
            asyncio.get_running_loop().remove_reader(self._outlet)
            os.close(self._outlet)
            self._outlet = -1
        if self.inlet >= 0:
            os.close(self.inlet)
            self.inlet = -1

    def text(self) -> bytes:
        """Return what is kept."""
        return self._head + self._tail

    def _read(self) -> None:
        half = KEPT_OUTPUT // 2
        for _ in range(64):
            try:
                data = os.read(self._outlet, 65536)
            except BlockingIOError:
                return
            self._came.set()
            if not data:
                asyncio.get_running_loop().remove_reader(self._outlet)
                return
            self._listen(data)
            if len(self._head) < half:
                room = half - len(self._head)
                self._head, data = self._head + data[:room], data[room:]
            self._tail = (self._tail + data)[-half:]

    def _listen(self, data: bytes) -> None:
        if self._until and not self.said_it:
            self._recent = self._recent[-len(self._until) :] + data
            if self._until in self._recent:
                self.said_it = True
                self._end()


async def _spooled(records: Iterable[bytes]) -> int:
    """Return a descriptor from which the records can be read, made in slices that do not block the loop."""
    descriptor = anonymous_file()
    try:
        for chunk in _chunks(records):
            view = memoryview(chunk)
            while view:
                view = view[os.write(descriptor, view) :]
            await asyncio.sleep(0)
        os.lseek(descriptor, 0, os.SEEK_SET)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _chunks(records: Iterable[bytes]) -> Iterator[bytes]:
    part: list[bytes] = []
    for record in records:
        part.append(record)
        if len(part) >= 4096:
            yield b"".join(part)
            part.clear()
    if part:
        yield b"".join(part)
