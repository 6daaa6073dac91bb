"""A child process that copies: `python -I -m clsync.handler.copy.worker SOCKET SOURCE DESTINATION` (descriptors).

It ends when its socket is closed: the end of the parent is the end of its work.
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
from clsync.handler.copy.messages import Broken, First, Given, Inbox, Report, Work, send
from clsync.handler.copy.settings import Context
from clsync.handler.copy.trouble import Stopped, Unwell, destination_trouble
from clsync.kernel.landlock import READ, WRITE, Allowed
from clsync.kernel.sandbox import stay_within

_REPORT_EVERY: Final = 0.5
_REPORT_AT: Final = 10_000
"""Paths remembered before they are reported."""


class Worker:
    """Does units, gives some away when asked."""

    def __init__(self, connection: socket.socket) -> None:
        """`connection`: to the parent."""
        self._connection, self._inbox = connection, Inbox(connection)
        self._attention = self._asked = False
        self._reported_at = 0.0
        self._context: Context | None = None

    def run(self, source: int, destination: int) -> None:
        """Work until the parent closes the connection. Raises EOFError, Unwell or Stopped."""
        first = self._inbox.take(wait=True)
        assert isinstance(first, First)
        settings, device = first
        if settings.sandbox is not None:
            places = Allowed(b"/proc/self/fd/%d" % source, READ), Allowed(b"/proc/self/fd/%d" % destination, WRITE)
            try:
                stay_within(settings.sandbox, places)
            except OSError as error:  # it looks at them
                trouble = destination_trouble(error, b"")
                raise trouble if isinstance(trouble, Unwell) else error from None
        context = Context(source, destination, device, settings, self.pause)
        engine = Engine(context)
        self._context = context
        self._call_me()
        self._report(context, idle=True)
        while True:
            message = self._inbox.take(wait=True)
            if not isinstance(message, Work):
                continue  # a wish that came when nothing was left
            self._asked = False
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


def main() -> None:
    """Take three descriptors as arguments and work."""
    os.umask(0)  # modes are exactly those of the source
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # stopping is the parent's decision
    connection, source, destination = (int(argument) for argument in sys.argv[1:4])
    parent = socket.socket(fileno=connection)
    try:
        try:
            Worker(parent).run(source, destination)
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
