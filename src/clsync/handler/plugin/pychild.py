"""The process of a handler written in Python: `python -P -m clsync.handler.plugin.pychild SOCKET` (a descriptor).

It ends when it is told to, or when its socket is closed: the end of the daemon is the end of its work.
"""

from __future__ import annotations

import importlib
import os
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from clsync.api import Answer, Batch, Kind, Object
from clsync.handler.plugin.protocol import (
    ANSWER,
    DEBUG,
    ERROR,
    FAILED,
    PACKET,
    RECORD,
    REFUSAL,
    End,
    Refused,
    Request,
    StartPython,
    Sync,
    receive,
)

_HEAD: Final = struct.Struct(RECORD)
_RAISED: Final = 1
"""The exit code of a function that raises."""


class Child:
    """Does what the daemon asks for, until it is told to end."""

    def __init__(self, connection: socket.socket) -> None:
        """`connection`: to the daemon."""
        self._connection = connection
        self._start: StartPython | None = None
        self._function: Callable[[Batch], Answer] = lambda batch: None

    def run(self) -> None:
        """Work. Raises EOFError where the daemon is gone, Refused where there is no such function."""
        while True:
            request, descriptors = receive(self._connection)
            try:
                value = self._answer(request, descriptors)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
                os.chdir("/")  # to keep no file system from being unmounted
            self._say(ANSWER, b"%d" % value)
            if isinstance(request, End):
                return

    def _say(self, kind: bytes, text: bytes) -> None:
        self._connection.send(kind + text[: PACKET - 1], socket.MSG_NOSIGNAL)

    def _answer(self, request: Request, descriptors: list[int]) -> int:
        for root in descriptors[:1]:
            os.fchdir(root)
        if isinstance(request, StartPython):
            self._start, self._function = request, _imported(os.fsdecode(request.module))
            return 0
        return self._called(request, descriptors[1]) if isinstance(request, Sync) else 0

    def _called(self, request: Sync, records: int) -> int:
        assert self._start is not None
        os.environ["CLSYNC_STATUS"], os.environ["CLSYNC_ITERATION"] = request.status, str(request.iteration)
        start = self._start
        objects = list(_objects(records, start.source))
        label = os.fsdecode(start.label)
        batch = Batch(request.iteration, request.status, label, start.source, start.destination, objects)
        try:
            return self._code(self._function(batch))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the operator's, and the batch is not done
            self._say(ERROR, "".join(traceback.format_exception_only(error)).strip().encode("utf-8", "replace"))
            for line in traceback.format_exc().splitlines():
                self._say(DEBUG, b"1" + line.encode("utf-8", "replace"))
            return _RAISED

    def _code(self, answer: object) -> int:
        if isinstance(answer, Mapping):
            for path, why in answer.items():
                if not isinstance(path, bytes):
                    raise TypeError(f"failed paths are bytes, not {type(path).__name__}")
                self._say(FAILED, path + b"\0" + str(why).encode("utf-8", "replace"))
            return 0
        if answer is not None and not isinstance(answer, int):
            raise TypeError(f"the answer is None, a number or a mapping, not {type(answer).__name__}")
        return int(answer or 0)


def _imported(reference: str) -> Callable[[Batch], Answer]:
    """Return the function that `package.module:function` names. Raises Refused."""
    module, _, path = reference.partition(":")
    try:
        found = importlib.import_module(module)
        for name in path.split("."):
            found = getattr(found, name)
    except Exception as error:
        raise Refused("".join(traceback.format_exception_only(error)).strip()) from error
    if not callable(found):
        raise Refused(f"{path} cannot be called")
    return found


def _objects(descriptor: int, source: bytes) -> Iterator[Object]:
    with open(descriptor, "rb", closefd=False) as file:
        file.seek(0)
        memory = file.read()
    at = 0
    while at < len(memory):
        mask, flags, old, new, length = _HEAD.unpack_from(memory, at)
        at += _HEAD.size
        path = memory[at : at + length]
        at += length + 1
        if flags:  # named by its absolute path
            path = path.removeprefix(source).lstrip(b"/")
        yield Object(path, Kind(new), Kind(old), mask, bool(flags))


def main() -> None:
    """Take a descriptor as argument and work."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    connection = socket.socket(fileno=int(sys.argv[1]))
    connection.set_inheritable(False)
    try:
        Child(connection).run()
    except Refused as why:
        connection.send(REFUSAL + str(why).encode("utf-8", "replace"), socket.MSG_NOSIGNAL)
    except (EOFError, ConnectionError):
        pass


if __name__ == "__main__":
    main()
