"""Compares a destination of this machine by a process of its own."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Final

from clsync.core.paths import shown
from clsync.core.verification import Aspect, Difference
from clsync.handler.compare.base import RUN_COST, ComparisonFailed, Part, Question
from clsync.handler.compare.child import Wish
from clsync.handler.copy.settings import Settings
from clsync.handler.runner import ended
from clsync.kernel import roles
from clsync.kernel.process import exit_text, signal_group, spawn

_CHUNK: Final = 1 << 16


class LocalComparison:
    """Compares a directory with the source (see `base.Comparison`)."""

    def __init__(self, destination: bytes, settings: Settings, check: Callable[[], str | None]) -> None:
        """`settings`: what the destination can hold, and what is synced; its rules are those of each question.

        `check` answers what is wrong with the destination.
        """
        self._destination, self._settings, self._check = destination, settings, check

    async def differences(self, question: Question) -> AsyncGenerator[Part, None]:
        """Yield what differs."""
        wrong = self._check()
        if wrong:
            raise ComparisonFailed(wrong)
        try:
            child = self._started(question)
        except OSError as error:
            raise ComparisonFailed(f"no process can be started: {error.strerror}") from None
        code: int | None = None
        try:
            async for part in self._parts(child, question):
                yield part
            code = await ended(child)
        finally:
            if code is None:
                signal_group(child.pid, signal.SIGKILL)
                await asyncio.shield(ended(child))
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()
        if code:
            raise ComparisonFailed(
                f"{shown(self._destination)}: the process that compares has ended ({exit_text(code)})"
            )
        if question.rate and question.paths is None:
            await asyncio.sleep(RUN_COST / question.rate)

    def _started(self, question: Question) -> subprocess.Popen[bytes]:
        """Start the process. Raises OSError."""
        argv = [os.fsencode(sys.executable), b"-I", b"-m", b"clsync.handler.compare.child"]
        who = roles.programs_ids()
        settings = replace(
            self._settings, rules=question.rules, groups=self._settings.groups | {*who.groups, who.gid}
        )
        paths = list(question.paths) if question.paths is not None else None
        wish = Wish(self._destination, settings, paths, question.content, question.rate)
        child = spawn(argv, cwd=question.root, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert child.stdin is not None
        self._wish = pickle.dumps(wish)
        return child

    async def _parts(self, child: subprocess.Popen[bytes], question: Question) -> AsyncGenerator[Part, None]:
        """Give the process its wish, and read what it finds."""
        assert child.stdin is not None
        assert child.stdout is not None
        loop = asyncio.get_running_loop()
        inlet, outlet = child.stdin, child.stdout
        await asyncio.to_thread(_write_all, inlet.fileno(), self._wish)
        os.set_blocking(outlet.fileno(), False)
        readable, rest, found = asyncio.Event(), b"", list[Difference]()
        loop.add_reader(outlet.fileno(), readable.set)
        try:
            while True:
                await readable.wait()
                readable.clear()
                try:
                    data = os.read(outlet.fileno(), _CHUNK)
                except BlockingIOError:
                    continue
                if not data:
                    return
                *records, rest = (rest + data).split(b"\0")
                for record in records:
                    if record.startswith(b"D"):
                        _, aspects, entries, path = record.split(b" ", 3)
                        found.append(Difference(path, Aspect(int(aspects)), int(entries)))
                        continue
                    if record.startswith(b"F"):
                        raise ComparisonFailed(f"{shown(self._destination)}: {shown(record[2:])}")
                    yield Part(found, int(record.split(b" ")[1]))
                    found = []
                    await question.hold()
                    with suppress(BrokenPipeError):
                        os.write(inlet.fileno(), b"\n")
        finally:
            loop.remove_reader(outlet.fileno())

    async def aclose(self) -> None:
        """Nothing is kept."""


def _write_all(pipe: int, data: bytes) -> None:
    view = memoryview(data)
    with suppress(BrokenPipeError):  # its exit code tells
        while view:
            view = view[os.write(pipe, view) :]
