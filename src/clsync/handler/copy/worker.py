"""A child process that copies: `python -I -m clsync.handler.copy.worker SOCKET` (a descriptor).

It ends when its socket is closed: the end of the parent is the end of its work. Between batches it holds no directory
open, so that what they lie on can be unmounted.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
import time
import traceback
from typing import Final

from clsync.handler.copy.engine import Engine
from clsync.handler.copy.messages import (
    Begin,
    Broken,
    End,
    Ended,
    Given,
    Inbox,
    Report,
    Shut,
    Work,
    send,
)
from clsync.handler.copy.settings import Context
from clsync.handler.copy.trouble import Stopped, Unwell, destination_trouble
from clsync.kernel.files import DIRECTORY_FLAGS
from clsync.kernel.landlock import READ, WRITE, Allowed
from clsync.kernel.sandbox import Sandbox, stay_within

_REPORT_EVERY: Final = 0.5
_REPORT_AT: Final = 10_000
"""Paths remembered before they are reported."""


_Root = tuple[int, int]
"""st_dev and st_ino of a root."""


class Worker:
    """Does units, gives some away when asked."""

    def __init__(self, connection: socket.socket) -> None:
        """`connection`: to the parent."""
        self._connection, self._inbox = connection, Inbox(connection)
        self._attention = self._asked = False
        self._reported_at = 0.0
        self._context: Context | None = None
        self._confined: tuple[_Root, ...] = ()

    def run(self) -> None:
        """Work until the parent closes the connection. Raises EOFError, Unwell, Stopped or OSError."""
        self._call_me()
        while True:
            message = self._inbox.take(wait=True)
            if isinstance(message, Begin):
                self._batch(message)

    def _batch(self, begin: Begin) -> None:
        """Work until the batch is over. Raises EOFError, Unwell, Stopped or OSError."""
        roots = self._inbox.descriptors
        try:
            source, destination = roots
            if not self._enter(begin.settings.sandbox, source, destination):
                send(self._connection, Shut())
                return
            self._work(Context(source, destination, begin.device, begin.settings, self.pause))
        finally:
            while roots:
                os.close(roots.pop())
        send(self._connection, Ended())

    def _enter(self, sandbox: Sandbox | None, source: int, destination: int) -> bool:
        """Confine this process to both roots; tell whether it is confined to them. Raises Unwell or OSError."""
        if sandbox is None:
            return True
        roots = _root(source), _root(destination)
        if self._confined:
            # Another destination that lies in the source could be opened, but not written.
            return self._confined == roots and all(map(_may_open, (source, destination)))
        places = Allowed(b"/proc/self/fd/%d" % source, READ), Allowed(b"/proc/self/fd/%d" % destination, WRITE)
        try:
            stay_within(sandbox, places)
        except OSError as error:  # it looks at them
            trouble = destination_trouble(error, b"")
            raise trouble if isinstance(trouble, Unwell) else error from None
        self._confined = roots
        return True

    def _work(self, context: Context) -> None:
        """Do what is sent until the batch is over. Raises EOFError, Unwell or Stopped."""
        engine = Engine(context)
        self._context = context
        self._report(context, idle=True)
        while not isinstance(message := self._inbox.take(wait=True), End):
            self._asked = False
            if not isinstance(message, Work):
                continue  # a wish that came when nothing was left
            context.pending.extend(reversed(message.units))
            while context.pending:
                if self._asked:
                    self._give(context)
                engine.do(context.pending.pop())
                if time.monotonic() > self._reported_at + _REPORT_EVERY or len(context.linked) > _REPORT_AT:
                    self._report(context, idle=False)
            self._report(context, idle=True)

    def pause(self) -> None:
        """Look whether the parent wants something, if it has said so. Raises Stopped."""
        if self._attention:
            self._attention = False
            try:
                while self._inbox.take() is not None:
                    self._asked = True  # nothing else is sent to a worker at work
            except EOFError:
                raise Stopped from None
            if self._asked and self._context is not None:
                self._give(self._context)

    def _call_me(self) -> None:
        """Have a signal sent when something arrives: asking the socket for every file would cost more."""
        signal.signal(signal.SIGIO, self._arrived)
        signal.siginterrupt(signal.SIGIO, False)
        fcntl.fcntl(self._connection, fcntl.F_SETOWN, os.getpid())
        flags = fcntl.fcntl(self._connection, fcntl.F_GETFL)
        fcntl.fcntl(self._connection, fcntl.F_SETFL, flags | os.O_ASYNC)
        self._attention = True

    def _arrived(self, number: int, frame: object) -> None:
        self._attention = True

    def _give(self, context: Context) -> None:
        """Give away the older half of what is to be done: those are the larger subtrees."""
        half = len(context.pending) // 2
        if half:
            self._asked = False
            send(self._connection, Given(context.pending[:half]))
            del context.pending[:half]

    def _report(self, context: Context, idle: bool) -> None:
        report = Report(context.failed, context.linked, context.files, context.copied, context.spared, idle)
        send(self._connection, report)
        context.failed.clear()
        context.linked.clear()
        context.files = context.copied = context.spared = 0
        self._reported_at = time.monotonic()


def _root(descriptor: int) -> _Root:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


def _may_open(root: int) -> bool:
    """Tell whether the kernel lets us: what stands there now may be another directory than the one of the sandbox."""
    try:
        os.close(os.open(".", DIRECTORY_FLAGS, dir_fd=root))
    except PermissionError:
        return False
    except OSError:
        return True  # whatever is wrong with it is found, and said, where it is worked with
    return True


def main() -> None:
    """Take a descriptor as argument and work."""
    os.umask(0)  # modes are exactly those of the source
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # stopping is the parent's decision
    parent = socket.socket(fileno=int(sys.argv[1]))
    try:
        try:
            Worker(parent).run()
        except Unwell as trouble:
            send(parent, Broken(str(trouble), unwell=True, full=trouble.full))
        except (EOFError, Stopped):
            pass
        except OSError as error:
            send(parent, Broken(error.strerror or str(error), unwell=False))
        except Exception:  # noqa: BLE001 - whatever it is, the parent has to know
            send(parent, Broken(traceback.format_exc(), unwell=False))
    except (BrokenPipeError, ConnectionError):
        pass


if __name__ == "__main__":
    main()
