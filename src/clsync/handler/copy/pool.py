"""Worker processes that share the directories of a large batch between them."""

from __future__ import annotations

import math
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from clsync.handler.copy.control import Control
from clsync.handler.copy.messages import (
    Begin,
    Broken,
    End,
    Ended,
    Given,
    Inbox,
    Message,
    Report,
    Share,
    Work,
    packed,
    send_packed,
)
from clsync.handler.copy.settings import Context
from clsync.handler.copy.trouble import Stopped, Unwell
from clsync.handler.copy.units import Unit
from clsync.kernel import roles
from clsync.kernel.orphans import mark
from clsync.kernel.process import exit_text, signal_group

_MOST: Final = 4
_ROOM: Final = threading.Semaphore(8)
"""For workers that are kept: each takes about 12 MB."""
_AT_ONCE: Final = 256
"""Units handed to a worker at once."""
_START: Final = 30.0
_END: Final = 3.0
"""Seconds that starting and ending may take."""
_TICK: Final = 1.0
PATIENCE: Final = 0.1
"""Seconds after which others help with work that goes on."""


class Unavailable(Exception):
    """No worker can be had here: the work has to be done in this process."""


def _packed(context: Context) -> bytes:
    """Return what workers are told of a batch, once for all of them. Raises Unavailable."""
    try:
        return packed(Begin(replace(context.settings, exact_modes=True), context.device))
    except Exception as error:
        raise Unavailable(f"the rules cannot be handed over: {error}") from error


@dataclass(slots=True)
class _Worker:
    process: subprocess.Popen[bytes]
    connection: socket.socket
    inbox: Inbox
    idle: bool = False
    asked: bool = False
    unheard: bool = False
    """It was kept, or is to help, and has not answered since: the batch does not depend on it yet."""
    lost: bool = False
    """It has ended, or cannot work, and nothing was lost with it."""


class Pool:
    """Runs units until all of them, and what they lead to, are done. For one thread.

    One worker can be kept from batch to batch: it holds nothing open between them.
    """

    def __init__(self, control: Control) -> None:
        """Nothing is started yet."""
        self._control = control
        self._pending: deque[Unit] = deque()
        self._workers: dict[int, _Worker] = {}
        self._poll = select.poll()
        self._poll.register(control.descriptor, select.POLLIN)
        self._work = b""
        self._context: Context
        self._begin: bytes
        self._tick: Callable[[], None] | None = None
        self._grows_at = math.inf
        self._keeps = False

    def begin(self, context: Context, work: bytes, *, many: bool, tick: Callable[[], None] | None = None) -> None:
        """Have workers for a batch: one, and others once it takes long, or `many`. Raises Unavailable or Stopped.

        `context` collects their results; `work`: what they do (`kernel.orphans`); `tick` is called now and then.
        """
        if work != self._work:
            self.close()
        self._work, self._context, self._tick = work, context, tick
        self._grows_at = math.inf
        try:
            self._begin = _packed(context)
            self._have(self._most(context) if many else 1)
        except BaseException:
            self.close()
            raise
        if not many:
            self._grows_at = time.monotonic() + PATIENCE

    def run(self, units: Iterable[Unit]) -> None:
        """Do units. Raises Unwell or Stopped: the workers have ended then."""
        self._pending.extend(units)
        try:
            while True:
                self._hand_out()
                if not self._pending and all(worker.idle for worker in self._workers.values()):
                    return
                self._grow()
                self._listen()
        except BaseException:
            self.close()
            raise

    def end(self, *, keep: bool) -> None:
        """The batch is over: all workers end, or all but one, which has nothing open when this returns."""
        self._grows_at = math.inf
        if keep and self._workers and not self._keeps:
            self._keeps = _ROOM.acquire(blocking=False)
        if not (keep and self._workers and self._keeps):
            self.close()
            return
        self._dismiss([*self._workers][1:])
        until = time.monotonic() + _END
        try:
            for worker in self._workers.values():
                worker.idle = False
                self._send(worker, End())
                while not worker.idle:
                    if time.monotonic() > until:
                        raise Unwell("a copy worker does not let go")
                    self._listen()
        except (Unwell, Stopped):
            self.close()

    def close(self) -> None:
        """End the workers: they stop at the next file, and are killed if not."""
        self._dismiss([*self._workers])
        self._pending.clear()
        if self._keeps:
            self._keeps = False
            _ROOM.release()

    def _dismiss(self, connections: list[int]) -> None:
        workers = [self._workers.pop(connection) for connection in connections]
        for worker in workers:
            self._poll.unregister(worker.connection)
            worker.connection.close()
        until = time.monotonic() + _END
        for worker in workers:
            try:
                worker.process.wait(max(until - time.monotonic(), 0.01))
            except subprocess.TimeoutExpired:
                signal_group(worker.process.pid, signal.SIGKILL)
                with suppress(subprocess.TimeoutExpired):  # in the kernel it may stay for longer
                    worker.process.wait(_END)

    # -- starting ----------------------------------------------------------------------------------------------

    def _have(self, count: int) -> None:
        """Have so many workers at this batch. Raises Unavailable or Stopped."""
        for worker in self._workers.values():
            worker.unheard = True
            self._brief(worker)
        until = time.monotonic() + _START
        try:
            while len(self._workers) < count or not all(worker.idle for worker in self._workers.values()):
                if time.monotonic() > until:
                    raise Unavailable("the workers do not answer")
                try:
                    while len(self._workers) < count:
                        self._spawn()
                except OSError:
                    if not self._workers:
                        raise
                    count = len(self._workers)
                self._listen()
        except OSError as error:
            raise Unavailable(f"workers cannot be started: {error.strerror}") from error
        except Unwell as error:
            raise Unavailable(str(error)) from error

    def _most(self, context: Context) -> int:
        # A large file is copied by one of them: shared out, a rate would be more than is used.
        return 1 if context.settings.rate else min(_MOST, len(os.sched_getaffinity(0)))

    def _grow(self) -> None:
        """Start the other workers if the work takes long. Raises Stopped."""
        if time.monotonic() > self._grows_at:
            self._grows_at = math.inf
            with suppress(OSError):  # those that are there go on
                while len(self._workers) < self._most(self._context):
                    self._spawn(unheard=True)

    def _spawn(self, unheard: bool = False) -> None:
        """Start a worker, and tell it of the batch. Raises OSError or Stopped."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                with roles.as_programs():
                    process = subprocess.Popen(
                        [sys.executable, "-I", "-m", "clsync.handler.copy.worker", str(theirs.fileno())],
                        cwd="/",
                        stdin=subprocess.DEVNULL,
                        pass_fds=(theirs.fileno(),),
                        process_group=0,
                        env=os.environb | mark(self._work),
                    )
            except OSError:
                ours.close()
                raise
        worker = self._workers[ours.fileno()] = _Worker(process, ours, Inbox(ours, of_worker=True), unheard=unheard)
        self._poll.register(ours, select.POLLIN)
        self._brief(worker)

    def _brief(self, worker: _Worker) -> None:
        """Tell a worker of the batch; it answers when it is ready. Raises Stopped."""
        worker.idle = worker.asked = False
        self._send_packed(worker, self._begin, (self._context.source, self._context.destination))

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
        """Say something to a worker. Raises Stopped where it does not read until the work is to end."""
        self._send_packed(worker, packed(message))

    def _send_packed(self, worker: _Worker, data: bytes, descriptors: Sequence[int] = ()) -> None:
        try:
            send_packed(worker.connection, data, descriptors, self._control.pause)
        except OSError:
            pass  # its end is read from the socket, with what it has said before

    def _listen(self) -> None:
        """Take what workers say. Raises Unwell or Stopped."""
        soon = min(max(self._grows_at - time.monotonic(), 0), _TICK)
        ready = self._poll.poll(soon * 1000 + 1)
        self._control.pause()
        for descriptor, _ in ready:
            worker = self._workers.get(descriptor)
            if worker is not None:
                self._take(worker)
        self._dismiss([at for at, worker in self._workers.items() if worker.lost])
        if self._tick is not None:
            self._tick()

    def _take(self, worker: _Worker) -> None:
        try:
            while (message := worker.inbox.take()) is not None:
                self._heed(worker, message)
                self._control.pause()  # there may be no end of what it says
        except pickle.UnpicklingError as error:
            raise Unwell(f"a copy worker does not speak as one: {error}") from None
        except EOFError:
            if worker.unheard:
                worker.lost = True
                return
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
            worker.idle, worker.unheard = message.idle, False
        elif isinstance(message, Given):
            worker.asked = False
            self._pending.extend(message.units)
        elif isinstance(message, Ended):
            worker.idle, worker.unheard = True, False
        elif worker.unheard:
            worker.lost = True
        elif isinstance(message, Broken):
            if self._control.reason:
                raise Stopped
            text = message.text if message.unwell else f"a copy worker has failed: {message.text}"
            raise Unwell(text, full=message.full)
