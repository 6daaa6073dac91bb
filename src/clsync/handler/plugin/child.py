"""The process of a module: `python -I -m clsync.handler.plugin.child SOCKET` (a descriptor).

It ends when it is told to, or when its socket is closed: the end of the daemon is the end of its work.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import struct
import sys
import time
from contextlib import suppress
from typing import Any, Final

from clsync.handler.plugin.layout import ARGUMENTS, Context, Element
from clsync.handler.plugin.protocol import (
    ANSWER,
    RECORD,
    REFUSAL,
    End,
    Refused,
    Request,
    Rsync,
    Start,
    StartPython,
    Sync,
    receive,
)
from clsync.handler.plugin.values import STATES, Values

_HEAD: Final = struct.Struct(RECORD)


class Module:
    """A loaded module and what it is told."""

    def __init__(self, start: Start, connection: int) -> None:
        """Load the module. Raises Refused."""
        self.context = Context()
        _fill(self.context, start.values)
        self._host = _loaded(start.host, ctypes.RTLD_GLOBAL)
        self._host.clsync_host_begin(connection, ctypes.byref(self.context))
        self._library = _loaded(start.module, ctypes.RTLD_LOCAL)
        self._sync = self._function(start.function)
        if self._sync is None:
            raise Refused(f"it has no function {start.function}")

    def init(self) -> int:
        """Let it initialise; return what it answers."""
        return self._called("init", self._function("clsyncapi_init"), ctypes.byref(self.context))

    def sync(self, count: int, memory: bytearray) -> int:
        """Hand over objects, given as records."""
        keep = (ctypes.c_char * len(memory)).from_buffer(memory)
        elements = _elements(count, memory, ctypes.addressof(keep))
        return self._called("sync", self._sync, count, elements)

    def rsync(self, include: bytes, exclude: bytes | None) -> int:
        """Hand over lists."""
        return self._called("rsync", self._sync, ctypes.c_char_p(include), ctypes.c_char_p(exclude))

    def deinit(self) -> int:
        """Let it clean up."""
        return self._called("deinit", self._function("clsyncapi_deinit"))

    def _function(self, name: str) -> Any:
        """Return the address of a function of the module, None where it has none."""
        with suppress(AttributeError):
            return ctypes.cast(self._library[name], ctypes.c_void_p)
        return None

    def _called(self, what: str, function: Any, *arguments: Any) -> int:
        if function is None:
            return 0
        return int(self._host[f"clsync_host_{what}"](function, *arguments))


def _loaded(path: bytes, scope: int) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(os.fsdecode(path), mode=os.RTLD_NOW | scope)
    except OSError as error:
        raise Refused(str(error)) from None


def _fill(context: Context, values: Values) -> None:
    for name, value in values.fields.items():
        setattr(context, name, value)
    context.pid = os.getppid()
    context.pid_str = b"%d" % context.pid
    context.pid_str_len = len(context.pid_str)
    context.state = STATES["starting"]
    context.rulfpathsize = len(context.rulfpath) + 1 if context.rulfpath else 0
    for place, number in values.numbers.items():
        context.flags[place] = number
    for place, text in values.texts.items():
        context.flags_values_raw[place] = text
        context.flags_set[place] = 1
    for queue, delay in zip(context.queues, values.delays, strict=True):
        queue.collectdelay = delay
    for code in values.codes_done:
        context.isignoredexitcode[code] = 1
    for place, arguments in enumerate(values.arguments):
        given = context.synchandler_args[place]
        given.c = min(len(arguments), ARGUMENTS - 1)
        given.v[: given.c] = arguments[: given.c]
        given.isexpanded[: given.c] = [1] * given.c


def _elements(count: int, memory: bytearray, address: int) -> ctypes.Array[Element]:
    """Return the array for records that stand at an address."""
    elements = (Element * count)()
    at = 0
    for number in range(count):
        mask, flags, old, new, length = _HEAD.unpack_from(memory, at)
        at += _HEAD.size
        elements[number] = Element(mask, flags, length, address + at, old, new)
        at += length + 1
    return elements


class Child:
    """Does what the daemon asks for, until it is told to end."""

    def __init__(self, connection: socket.socket) -> None:
        """`connection`: to the daemon."""
        self._connection = connection
        self._module: Module | None = None

    def run(self) -> None:
        """Work. Raises EOFError where the daemon is gone, Refused where the module cannot be loaded."""
        while True:
            request, descriptors = receive(self._connection)
            try:
                value = self._answer(request, descriptors)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
                os.chdir("/")  # to keep no file system from being unmounted
            self._connection.send(ANSWER + b"%d" % value, socket.MSG_NOSIGNAL)
            if isinstance(request, End):
                return

    def _answer(self, request: Request, descriptors: list[int]) -> int:
        for root in descriptors[:1]:
            os.fchdir(root)
        if isinstance(request, Start):
            self._module = Module(request, self._connection.fileno())
            return self._module.init()
        assert self._module is not None and not isinstance(request, StartPython)  # noqa: PT018 - no test
        if isinstance(request, End):
            os.environ["CLSYNC_STATUS"] = "exiting"
            self._module.context.state = STATES["exiting"]
            return self._module.deinit()
        self._note(self._module.context, request)
        if isinstance(request, Sync):
            return self._module.sync(request.objects, _content(descriptors[1]))
        return self._module.rsync(request.include, request.exclude)

    @staticmethod
    def _note(context: Context, request: Sync | Rsync) -> None:
        """Tell the module in which phase it is called."""
        os.environ["CLSYNC_STATUS"] = request.status
        os.environ["CLSYNC_ITERATION"] = str(request.iteration)
        context.state = STATES.get(request.status, STATES["running"])
        context.iteration_num = request.iteration
        context.synctime = int(time.time())


def _content(descriptor: int) -> bytearray:
    memory = bytearray(os.fstat(descriptor).st_size)
    with open(descriptor, "rb", closefd=False) as file:
        file.seek(0)
        file.readinto(memory)
    return memory


def main() -> None:
    """Take a descriptor as argument and work."""
    # Whoever ends our process group means what the module has started; the module then comes to its own end.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    signal.siginterrupt(signal.SIGTERM, False)
    for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # Python has set others, and programs would inherit some
    for name in ("CLSYNC_STATUS", "CLSYNC_ITERATION"):
        os.environ.pop(name, None)
    connection = socket.socket(fileno=int(sys.argv[1]))
    connection.set_inheritable(False)
    try:
        Child(connection).run()
    except Refused as why:
        connection.send(REFUSAL + str(why).encode("utf-8", "surrogateescape"), socket.MSG_NOSIGNAL)
    except (EOFError, ConnectionError):
        pass


if __name__ == "__main__":
    main()
