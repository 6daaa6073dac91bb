"""The broker: keeps the rights, looks at the tree, runs what it was configured to run, and believes nobody.

Everything it does for the worker is one of `privilege.wire.Op`. Whatever else it is asked for ends both.
"""

from __future__ import annotations

import asyncio
import errno
import os
import traceback
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any, Final

from clsync.daemon.access import DirectAccess
from clsync.daemon.answers import Answers, Last, Later, WithDescriptors
from clsync.daemon.desks.comparisons import Comparing
from clsync.daemon.desks.dumps import Dumps
from clsync.daemon.desks.handlers import MOST_HANDLERS, Handlers
from clsync.daemon.desks.monitors import Monitors
from clsync.daemon.desks.shared import GENERATIONS, WORDS, Shared, known
from clsync.daemon.desks.state import State
from clsync.daemon.desks.tree import Tree
from clsync.daemon.hooks import Hook
from clsync.daemon.log import Log
from clsync.daemon.permission import demand_free
from clsync.daemon.plan import Plan
from clsync.daemon.prepare import DirectPreparation, Prepared, recording
from clsync.daemon.witness import Witness
from clsync.errors import OperatorError
from clsync.handler.base import Handler
from clsync.options import Assignment, Block, Change
from clsync.privilege.port import Port, error_frame
from clsync.privilege.wire import SIGNATURES, Frame, Kind, Op, Refused, framed, pack, unpack

if TYPE_CHECKING:
    from clsync.daemon.stateaccess import DirectStateAccess

_MOST_TASKS: Final = 2 * MOST_HANDLERS
ENDING: Final = 15.0
"""Seconds in which a worker that was told to end does, if nothing of the operator's keeps it."""
_LOOK: Final = 0.5


@dataclass
class Ended:
    """How the worker ended."""

    code: int | None = None
    """Its exit code; None: it did not say."""
    error: OperatorError | None = None
    """What hindered it."""
    trouble: str = ""
    """What it did that it should not have done."""
    late: bool = False
    """It was told to end, and has not."""


class Broker:
    """Serves one worker."""

    def __init__(
        self,
        first: Prepared,
        access: DirectAccess,
        preparation: DirectPreparation,
        log: Log,
        ready: Callable[[], None],
        state: DirectStateAccess | None = None,
        witness: Witness | None = None,
    ) -> None:
        """`first`: what was made before the worker was. `state`: if he keeps one.

        `witness`: what it hears may be set, and dumped to; without one that is less.
        """
        self._preparation, self._log, self._ready = preparation, log, ready
        self._witness = witness
        self._shared = Shared(first, access)
        self._tree = Tree(self._shared)
        self._monitors = Monitors(self._shared)
        self._handlers = Handlers(self._shared)
        self._state = State(self._shared, self._tree, state)
        self._comparing = Comparing(self._shared)
        self._dumps = Dumps(self._shared, witness)
        desks = (self._tree, self._monitors, self._handlers, self._state, self._comparing, self._dumps)
        self._quick: Answers = reduce(or_, (desk.quick for desk in desks), self._own_quick())
        """What is answered at once, one question after the other."""
        self._slow: Answers = reduce(or_, (desk.slow for desk in desks), self._own_slow())
        """What is answered when it is done; where nothing is to be answered, it is only told."""
        self._asking: set[int] = set()
        """Targets for which somebody is being asked, or was."""
        self._hook: Hook | None = None
        """The one that runs."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._over: asyncio.Event = asyncio.Event()
        self._leaves = False
        self._stands_still: Callable[[], bool] = lambda: True
        self.ended = Ended()
        self._ports: list[Port] = []

    def _own_quick(self) -> Answers:
        return {
            Op.STATUS: self._status,
            Op.STANDBY: self._standby,
            Op.HEAR: self._hear,
            Op.ADOPT: self._adopt,
            Op.READY: self._is_ready,
            Op.ENDED: self._has_ended,
            Op.FAILED: self._has_failed,
        }

    def _own_slow(self) -> Answers:
        return {
            Op.HOOK_RUN: self._hook_run,
            Op.HOOK_STOP: self._hook_stop,
            Op.ASK_TO_DELETE: self._ask_to_delete,
            Op.PREPARE: self._prepare,
        }

    # -- the course of it --------------------------------------------------------------------------------------

    async def serve(self, looks: Any, runs: Any, dismiss: Callable[[], None] = lambda: None) -> Ended:
        """Serve until the worker is gone; then end and give back everything. `looks`, `runs`: sockets.

        `dismiss` is called first then: a worker that goes on may hold what everything else waits for.
        """
        quick = Port(looks, lambda frame: self._take(quick, frame, self._quick), self._end, in_turn=True, takes=True)
        slow = Port(runs, lambda frame: self._take(slow, frame, self._slow), self._end, in_turn=True)
        self._ports = [quick, slow]
        try:
            await self._over.wait()
        finally:
            dismiss()
            await self._close()
        return self.ended

    def expect_end(self, stands_still: Callable[[], bool] = lambda: True) -> None:
        """Be told that the worker was asked to end: it is ended if it does not. More than once is as good as once.

        `stands_still` tells whether it does nothing: one that is to hand over what is left may take its time for that.
        """
        if not self._leaves or stands_still():
            self._stands_still = stands_still
        if not self._leaves:
            self._leaves = True
            self._begin(self._wait_for_end())

    async def _wait_for_end(self) -> None:
        left = ENDING
        while not self._over.is_set() and left > 0:
            await asyncio.sleep(_LOOK)
            left = ENDING if self._is_waited_for() else left - _LOOK
        if not self._over.is_set():
            self.ended.late = True
            self._end("")

    def _is_waited_for(self) -> bool:
        """Tell whether a worker that is about to end has something to do, or to wait for: what was told to end."""
        return self._hook is not None or self._handlers.is_waited_for() or not self._stands_still()

    def _end(self, trouble: str) -> None:
        self.ended.trouble = self.ended.trouble or trouble
        self._over.set()
        for port in self._ports:
            port.close()

    async def _close(self) -> None:
        if self._witness is not None:
            self._witness.close()
        for at_work in (self._handlers, self._comparing, self._state):
            at_work.stop()
        self._hook_stop()
        self._shared.access.close()
        if self._tasks:
            await asyncio.wait(self._tasks)
        dismissed = [h for p in self._shared.generations.values() for h in p.handlers if h is not None]
        everything: list[Handler | Comparing] = [self._comparing, *self._handlers.left(), *dismissed]
        for left in everything:
            try:
                await left.aclose()
            except (OperatorError, OSError) as error:
                self._log.error(str(error))
        self._monitors.close()
        self._dumps.close()
        await self._tree.close()

    # -- questions and answers ---------------------------------------------------------------------------------

    def _take(self, port: Port, frame: Frame, known: Answers) -> None:
        """Answer a frame; a defect of ours ends both sides, too: nobody waits for what never comes. Raises Refused."""
        try:
            self._answer(port, frame, known)
        except Refused:
            raise
        except Exception as error:  # noqa: BLE001 - see above
            traceback.print_exc()
            self._end(f"{type(error).__name__}: {error}")

    def _answer(self, port: Port, frame: Frame, known: Answers) -> None:
        try:
            op = Op(frame.op)
        except ValueError:
            raise Refused(f"operation {frame.op}") from None
        work = known.get(op)
        if work is None or frame.kind != Kind.REQUEST:
            raise Refused(f"operation {op.name} by the wrong way")
        values = unpack(SIGNATURES[op].request, frame.body)
        try:
            answer = work(*values)
        except (OSError, OperatorError) as error:
            port.send(error_frame(op, frame.number, error))
            return
        if isinstance(answer, Later):
            self._shared.demand_room(self._tasks, _MOST_TASKS)
            if answer.alone:
                port.paused = True
            self._begin(self._answer_later(port, op, frame.number, answer))
        elif answer is not None:
            self._send(port, op, frame.number, answer)

    def _send(self, port: Port, op: Op, number: int, answer: Sequence[Any]) -> None:
        descriptors = answer.descriptors if isinstance(answer, WithDescriptors) else ()
        port.send(framed(op, Kind.END, number, pack(SIGNATURES[op].end, *answer)), descriptors)

    async def _answer_later(self, port: Port, op: Op, number: int, later: Later) -> None:
        try:
            async for values in later.parts:
                if isinstance(values, Last):
                    self._send(port, op, number, values)
                    break
                port.send(framed(op, Kind.MORE, number, pack(SIGNATURES[op].more, *values)))
                await port.drained()
            else:
                self._send(port, op, number, ())
        except (OSError, OperatorError) as error:
            port.send(error_frame(op, number, error))
        finally:
            await later.parts.aclose()
            if later.alone:
                port.resume()

    def _begin(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._end(f"{type(error).__name__}: {error}")

    @property
    def _has_said(self) -> Callable[[Assignment], bool] | None:
        """What tells whether root wants a change; None: where splitting was asked for, nobody says what is run."""
        by_default = self._shared.now.settings.split_by_default
        return self._witness.has_said if by_default and self._witness is not None else None

    # -- files of ours -----------------------------------------------------------------------------------------

    def _status(self, word: str) -> Sequence[Any]:
        if word not in WORDS:
            raise Refused("a status that there is not")
        self._shared.access.write_status(word)
        return ()

    def _standby(self) -> Sequence[Any]:
        path = self._shared.now.parts.standby
        return (path is not None and self._shared.access.stands(path),)

    def _hear(self) -> WithDescriptors:
        descriptor = self._ports[0].take_descriptor()
        if self._witness is None:
            os.close(descriptor)
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return WithDescriptors((), (self._witness.hear(descriptor),))

    def _is_ready(self) -> Sequence[Any]:
        self._ready()
        return ()

    def _has_ended(self, code: int) -> Sequence[Any]:
        self.ended.code = code & 0xFF
        return ()

    def _has_failed(self, code: int, message: str, hint: str) -> Sequence[Any]:
        self.ended.code, self.ended.error = code & 0xFF, OperatorError(message, hint, code)
        return ()

    # -- handlers and hooks ------------------------------------------------------------------------------------

    def _hook_run(self, generation: int, option: str, status: str, iteration: int) -> Later:
        prepared = known(self._shared.generations, generation)
        hook = {"pre-exit-hook": prepared.parts.pre_exit, "exit-hook": prepared.parts.at_exit}.get(option)
        if hook is None or status not in WORDS:
            raise Refused("a hook that there is not")
        if self._hook is not None:
            raise Refused("two hooks at once")
        self._hook = hook

        async def run() -> AsyncGenerator[Sequence[Any], None]:
            try:
                await hook.run(status, iteration)
            finally:
                self._hook = None
            yield Last(())

        return Later(run(), alone=False)

    def _hook_stop(self) -> None:
        if self._hook is not None:
            self._hook.stop()

    def _ask_to_delete(self, generation: int, target: int, count: int) -> Later:
        prepared = known(self._shared.generations, generation)
        if target >= len(prepared.plans) or target in self._asking:
            raise Refused("to ask for a target that there is not, or twice")
        self._asking.add(target)

        async def asked() -> AsyncGenerator[Sequence[Any], None]:
            answer = await self._shared.access.ask_to_delete(prepared.plans[target], count)
            if answer is None:
                self._asking.discard(target)
            yield Last((answer is not None, answer is True))

        return Later(asked(), alone=False)

    # -- other settings ----------------------------------------------------------------------------------------

    def _prepare(self, keys: list[str], texts: list[str]) -> Later:
        if len(keys) != len(texts) or len(keys) > 10_000:
            raise Refused("changes that are none")
        changes = [_change(key, text) for key, text in zip(keys, texts, strict=True)]

        async def prepared() -> AsyncGenerator[Sequence[Any], None]:
            current = self._shared.now
            demand_free(changes, current.settings, self._has_said)
            files: dict[bytes, bytes | None] = {}
            through = recording(files)
            new = await self._preparation.prepare(changes, current.settings, current.plans, current.parts, through)
            for made, handler in zip(new.plans, new.handlers, strict=True):
                yield handler is not None, *_told(made)
            yield Last((self._note(new), *_told_once(new.plans[0], files)))

        return Later(prepared(), alone=False)

    def _note(self, new: Prepared) -> int:
        """Remember what may be in force soon; return its number."""
        self._shared.newest += 1
        self._shared.generations[self._shared.newest] = new
        self._forget_generations()
        self._shared.note_rules(new.plans[0].rules)
        return self._shared.newest

    def _adopt(self, generation: int) -> Sequence[Any]:
        settings = known(self._shared.generations, generation).settings
        self._shared.current = generation
        self._log.follow(settings)
        return ()

    def _forget_generations(self) -> None:
        for old in list(self._shared.generations)[:-GENERATIONS]:
            if old != self._shared.current:
                for dismissed in self._shared.generations.pop(old).handlers:
                    if dismissed is not None:
                        self._begin(dismissed.aclose())


def _told(made: Plan) -> Sequence[Any]:
    """Return what the worker is told of a plan."""
    destination, given = made.destination, made.given
    return (
        *(made.name, made.mode, made.why, made.program, made.arguments),
        *(destination.text if destination is not None else None, given.text if given is not None else None),
        made.local,
    )


def _told_once(made: Plan, files: Mapping[bytes, bytes | None]) -> Sequence[Any]:
    """Return what the worker is told of all plans; `files`: what was read for them."""
    names = [os.fsdecode(name) for name in files]
    return made.root, made.rules_read, made.rules.source_text, names, list(files.values())


def _change(key: str, text: str) -> Change:
    value = text.encode("utf-8", "surrogateescape")
    return Assignment(key, value) if key else Block(value)
