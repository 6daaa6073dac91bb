"""Questions that take time, and their answers."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from clsync.privilege.port import Port, raise_error
from clsync.privilege.wire import SIGNATURES, Frame, Kind, Op, Refused, framed, pack, unpack


class Calls:
    """Asks for what takes time: answers come when they are there."""

    def __init__(self, sock: Any, gone: Callable[[], NoReturn]) -> None:
        """`gone` is called where nobody answers any more."""
        self._socket, self._gone = sock, gone
        self._port: Port | None = None
        self._numbers = itertools.count(1)
        self._waiting: dict[int, tuple[Op, asyncio.Future[list[Any]], list[list[Any]]]] = {}

    def tell(self, op: Op, *values: Any) -> None:
        """Say something that is not answered."""
        self._send(op, 0, values)

    async def drained(self) -> None:
        """Wait until what was said is taken."""
        if self._port is not None:
            await self._port.drained()

    async def call(self, op: Op, *values: Any, parts: list[list[Any]] | None = None) -> list[Any]:
        """Ask; return the values of the end of the answer. Raises OSError and OperatorError, as the broker did."""
        number = next(self._numbers)
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = op, future, [] if parts is None else parts
        self._send(op, number, values)
        return await future

    def _send(self, op: Op, number: int, values: Sequence[Any]) -> None:
        if self._port is None:
            self._port = Port(self._socket, self._received, lambda trouble: self._gone())
        self._port.send(framed(op, Kind.REQUEST, number, pack(SIGNATURES[op].request, *values)))

    def _received(self, frame: Frame) -> None:
        op, future, parts = self._waiting.get(frame.number, (None, None, None))
        if op != frame.op or future is None or parts is None:
            raise Refused("an answer to something else, or to nothing")
        if frame.kind == Kind.MORE:
            parts.append(unpack(SIGNATURES[op].more, frame.body))
            return
        del self._waiting[frame.number]
        if future.done():
            return  # nobody waits any more
        if frame.kind == Kind.END:
            future.set_result(unpack(SIGNATURES[op].end, frame.body))
            return
        try:
            raise_error(frame)
        except Refused:
            raise
        except Exception as error:  # noqa: BLE001 - it is handed on to who asked
            future.set_exception(error)
