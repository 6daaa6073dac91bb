"""Worker processes that share the directories of a large batch between them."""

from __future__ import annotations

import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from clsync.handler.copy.control import Control
from clsync.handler.copy.messages import Broken, First, Given, Inbox, Message, Report, Share, Work, send
from clsync.handler.copy.settings import Context
from clsync.handler.copy.trouble import Stopped, Unwell
from clsync.handler.copy.units import Unit
from clsync.kernel import roles
from clsync.kernel.orphans import mark
from clsync.kernel.process import exit_text, signal_group

_MOST: Final = 4
_AT_ONCE: Final = 256
"""Units handed to a worker at once."""
_START: Final = 30.0
_END: Final = 3.0
"""Seconds that starting and ending may take."""
_TICK_MS: Final = 1000


class Unavailable(Exception):
    """No worker can be had here: the work has to be done in this process."""


@dataclass(slots=True)
class _Worker:
    process: subprocess.Popen[bytes]
    connection: socket.socket
    inbox: Inbox
    idle: bool = False
    asked: bool = False


class Pool:
    """Runs units until all of them, and what they lead to, are done. For one thread."""

    def __init__(
        self, context: Context, control: Control, work: bytes, tick: Callable[[], None] | None = None
    ) -> None:
        """Start the workers for a batch. Raises Unavailable or Stopped.

        `context` collects their results; `work`: what they do (`kernel.orphans`); `tick` is called now and then.
        """
        self._environment = os.environb | mark(work)
        self._context, self._control, self._tick = context, control, tick
        self._pending: deque[Unit] = deque()
        self._workers: dict[int, _Worker] = {}
        self._poll = select.poll()
        self._poll.register(control.descriptor, select.POLLIN)
        try:
            # A large file is copied by one of them: shared out, a rate would be more than is used.
            self._start(1 if context.settings.rate else min(_MOST, len(os.sched_getaffinity(0))))
        except BaseException:
            self.close()
            raise

    def run(self, units: Iterable[Unit]) -> None:
        """Do units. Raises Unwell or Stopped."""
        self._pending.extend(units)
        while True:
            self._hand_out()
            if not self._pending and all(worker.idle for worker in self._workers.values()):
                return
            self._listen(_TICK_MS)

    def close(self) -> None:
        """End the workers: they stop at the next file, and are killed if not."""
        for worker in self._workers.values():
            worker.connection.close()
        until = time.monotonic() + _END
        for worker in self._workers.values():
            try:
                worker.process.wait(max(until - time.monotonic(), 0.01))
            except subprocess.TimeoutExpired:
                signal_group(worker.process.pid, signal.SIGKILL)
        self._workers.clear()

    # -- starting ----------------------------------------------------------------------------------------------

    def _start(self, count: int) -> None:
        context = self._context
        try:
            first = First(replace(context.settings, exact_modes=True), context.device)
            pickle.dumps(first)
        except Exception as error:
            raise Unavailable(f"the rules cannot be handed over: {error}") from error
        try:
            for _ in range(count):
                self._spawn()
            for worker in self._workers.values():
                send(worker.connection, first)
        except OSError as error:
            raise Unavailable(f"workers cannot be started: {error.strerror}") from error
        until = time.monotonic() + _START
        try:
            while not all(worker.idle for worker in self._workers.values()):
                if time.monotonic() > until:
                    raise Unavailable("the workers do not answer")
                self._listen(_TICK_MS)
        except Unwell as error:
            raise Unavailable(str(error)) from error

    def _spawn(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            descriptors = (theirs.fileno(), self._context.source, self._context.destination)
            argv = [sys.executable, "-I", "-m", "clsync.handler.copy.worker", *map(str, descriptors)]
            try:
                with roles.as_programs():
                    process = subprocess.Popen(
                        argv,
                        cwd="/",
                        stdin=subprocess.DEVNULL,
                        pass_fds=descriptors,
                        process_group=0,
                        env=self._environment,
                    )
            except OSError:
                ours.close()
                raise
        self._workers[ours.fileno()] = _Worker(process, ours, Inbox(ours, of_worker=True))
        self._poll.register(ours, select.POLLIN)

    # -- at work -----------------------------------------------------------------------------------------------

    def _hand_out(self) -> None:
        idle = [worker for worker in self._workers.values() if worker.idle]
        for worker in idle:
            if not self._pending:
                break
            count = min(max(len(self._pending) // (2 * len(self._workers)), 1), _AT_ONCE)
            worker.idle = worker.asked = False
            self._send(worker, Work([self._pending.popleft() for _ in range(count)]))
        if any(worker.idle for worker in idle):
            for worker in self._workers.values():
                if not worker.idle and not worker.asked:
                    worker.asked = True
                    self._send(worker, Share())

    def _send(self, worker: _Worker, message: Message) -> None:
        try:
            send(worker.connection, message)
        except OSError:
            pass  # its end is read from the socket, with what it has said before

    def _listen(self, timeout_ms: int) -> None:
        """Take what workers say. Raises Unwell or Stopped."""
        ready = self._poll.poll(timeout_ms)
        self._control.pause()
        for descriptor, _ in ready:
            worker = self._workers.get(descriptor)
            if worker is not None:
                self._take(worker)
        if self._tick is not None:
            self._tick()

    def _take(self, worker: _Worker) -> None:
        try:
            while (message := worker.inbox.take()) is not None:
                self._heed(worker, message)
        except pickle.UnpicklingError as error:
            raise Unwell(f"a copy worker does not speak as one: {error}") from None
        except EOFError:
            # A worker that ends by itself has said why; this one was ended.
            signal_group(worker.process.pid, signal.SIGKILL)
            code = worker.process.wait()
            raise Unwell(f"a copy worker has ended ({exit_text(code)}); what it did is done again") from None

    def _heed(self, worker: _Worker, message: Message) -> None:
        context = self._context
        if isinstance(message, Report):
            context.failed.update(message.failed)
            context.linked.extend(message.linked)
            context.files += message.files
            context.copied += message.copied
            context.spared += message.spared
            worker.idle = message.idle
        elif isinstance(message, Given):
            worker.asked = False
            self._pending.extend(message.units)
        elif isinstance(message, Broken):
            if self._control.reason:
                raise Stopped
            text = message.text if message.unwell else f"a copy worker has failed: {message.text}"
            raise Unwell(text, full=message.full)
