"""Two instead of one: a broker that keeps the rights, and a worker that has none, in a process of its own or a thread."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn, Protocol

from clsync.daemon.access import Access
from clsync.daemon.broker import ENDING, Broker, Ended
from clsync.daemon.build import make_parts
from clsync.daemon.log import Log
from clsync.daemon.parts import Parts
from clsync.daemon.plan import Plan
from clsync.daemon.prepare import Preparation, Reload
from clsync.daemon.remote.access import RemoteAccess
from clsync.daemon.remote.calls import Calls
from clsync.errors import Exit, OperatorError
from clsync.handler.base import Handler
from clsync.kernel.process import exit_text, is_stopped
from clsync.options import Settings
from clsync.privilege.carry import Confinement
from clsync.privilege.port import Caller, socket_pair
from clsync.privilege.wire import Op
from clsync.state.room import Place

if TYPE_CHECKING:
    from clsync.daemon.remote.state import OneThread

_PASSED_ON: Final = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGQUIT,
    signal.SIGALRM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGSTKFLT,
    signal.SIGIO,
    signal.SIGRTMIN,
)


class Runs(Protocol):
    """Runs a mirror with what it is given."""

    def __call__(
        self,
        handlers: Sequence[Handler],
        parts: Parts,
        access: Access,
        preparation: Preparation,
        ready: Callable[[], None],
    ) -> int:
        """Return the exit code. Raises OperatorError."""
        ...


class Worker(NamedTuple):
    """What there is to be done without rights."""

    settings: Settings
    plans: Sequence[Plan]
    mirror: Runs
    reload: Reload
    confinement: Confinement
    place: Place | None = None
    """Of the state that it keeps."""
    begin: Callable[[], None] = lambda: None
    """Called first, where it is a process."""
    let_go: Callable[[], None] = lambda: None
    """Called when the start has succeeded."""


def run_as_process(worker: Worker, make_broker: Callable[[], Broker]) -> int:
    """Run a worker in a process of its own, and serve it; return its exit code. Raises OperatorError.

    This process is the broker.
    """
    looks, runs = socket_pair(), socket_pair()
    preload(worker.place)
    # Until they are passed on, signals wait: they would end this part alone.
    signal.pthread_sigmask(signal.SIG_BLOCK, _passed_on(worker))
    gc.freeze()  # what both have is looked through by neither: that would copy it
    pid = os.fork()
    if not pid:
        for end in (looks[0], runs[0]):
            end.close()
        _work(worker, looks[1], runs[1])
    for end in (looks[1], runs[1]):
        end.close()
    with looks[0], runs[0]:
        worker.confinement.become_broker()
        ended = asyncio.run(_serve(make_broker, looks[0], runs[0], pid, _passed_on(worker)))
    return _exit_code(ended, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), worker.plans[0].log)


async def _serve(
    make_broker: Callable[[], Broker],
    looks: socket.socket,
    runs: socket.socket,
    worker: int,
    signals: Collection[int],
) -> Ended:
    loop = asyncio.get_running_loop()
    broker = make_broker()

    def pass_on(number: int) -> None:
        _pass_on(worker, number)
        if number in (signal.SIGINT, signal.SIGTERM):
            broker.expect_end()
        elif number in (signal.SIGQUIT, signal.SIGALRM):
            broker.expect_end(lambda: is_stopped(worker))

    for number in signals:
        loop.add_signal_handler(number, pass_on, number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    # Whoever has said nothing more, or what nobody should, is at its end, or does not mean to come to it.
    return await broker.serve(looks, runs, lambda: _pass_on(worker, signal.SIGKILL))


def _passed_on(worker: Worker) -> Collection[int]:
    """Return the signals that are meant for the worker."""
    return (*_PASSED_ON, *worker.settings.custom_signals)


def _pass_on(worker: int, number: int) -> None:
    try:
        os.kill(worker, number)
    except ProcessLookupError:
        pass  # not reaped yet, and its end is on the way to us


def _exit_code(ended: Ended, status: int, log: Log) -> int:
    if ended.error is not None:
        raise ended.error
    if ended.trouble:
        log.error(f"the worker was ended: it asked for {ended.trouble}", "the next start syncs again")
        return Exit.FAILURE
    if ended.late:
        log.error(f"the worker was ended: it has not ended within {ENDING:.0f} s", "the next start syncs again")
        return Exit.FAILURE
    if ended.code is None:
        log.error(f"the worker has ended ({exit_text(status)})", "the next start syncs again")
        return Exit.FAILURE
    return ended.code


def _told(ended: Ended, log: Log) -> int:
    """Say how a worker ended that is still there; return the exit code."""
    try:
        return _exit_code(ended, 0, log)
    except OperatorError as error:
        log.error(error.message, error.hint)
        return error.code


def _work(worker: Worker, looks: socket.socket, runs: socket.socket) -> NoReturn:
    """Be the worker, to the end of the process."""
    log, code = worker.plans[0].log, int(Exit.FAILURE)
    caller = Caller(looks, lambda: _alone(log))
    try:
        # Who shares a terminal with root types at it (TIOCSTI); what is typed there is for the broker to pass on.
        os.setsid()
        _be_called(b"clsync-worker")
        worker.begin()
        _mirrored(worker, caller, Calls(runs, lambda: _alone(log)), alone=True)
        code = int(Exit.OK)
    except BaseException:  # noqa: BLE001 - nothing may go on into what the broker does after the split
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _be_called(name: bytes) -> None:
    """Have a name of one's own in ps(1): signals by the name of the program are for the broker, who passes them on."""
    with suppress(OSError), open("/proc/self/comm", "wb", buffering=0) as file:
        file.write(name)


def _mirrored(worker: Worker, caller: Caller, calls: Calls, *, alone: bool) -> None:
    """Give the rights up, run the mirror, and tell the broker how it ended."""
    plans, thread = worker.plans, _thread_for(worker.place)
    access = RemoteAccess(caller, calls, worker.settings, plans, worker.reload, plans[0].log, thread)

    def ready() -> None:
        caller.call(Op.READY)
        worker.let_go()

    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _passed_on(worker))
        room = worker.place.directory if worker.place is not None else None
        worker.confinement.become_worker(alone=alone, room=room, last=thread.begin if thread is not None else None)
        code = worker.mirror(access.first_handlers(), make_parts(plans, access), access, access, ready)
    except OperatorError as error:
        caller.call(Op.FAILED, error.code, error.message, error.hint)
    except SystemExit as leaving:
        caller.call(Op.ENDED, leaving.code if isinstance(leaving.code, int) else Exit.FAILURE)
    else:
        caller.call(Op.ENDED, code)


def _thread_for(place: Place | None) -> OneThread | None:
    """Return a thread in which to wait for a disk, if there is a state: not begun yet."""
    if place is None:
        return None
    from clsync.daemon.remote.state import OneThread  # late: it needs a database

    return OneThread()


def _alone(log: Log) -> NoReturn:
    """End: without the broker nothing can be done, and all that is to be cleaned up is its own."""
    log.error("the privileged process is gone", "start clsync again; the next start syncs again")
    os._exit(Exit.FAILURE)


def preload(place: Place | None = None) -> None:
    """Import what the worker may need later: then it may have no right to read it."""
    if place is not None:
        import clsync.daemon.memory
        import clsync.daemon.remote.state
    import difflib
    import syslog

    import clsync.control.server
    import clsync.daemon.instance  # noqa: F401

    del difflib, syslog


def run_as_thread(worker: Worker, make_broker: Callable[[], Broker], clean_up: Callable[[], None]) -> int:
    """Serve in a thread that keeps the rights, and work in this one, which gives them up. Raises OperatorError.

    This is no boundary: both share their memory. `clean_up` is called with the rights, last of all.
    """
    looks, runs = socket_pair(), socket_pair()
    result: list[Ended] = []

    def serve() -> None:
        async def served() -> Ended:
            return await make_broker().serve(looks[0], runs[0])

        try:
            worker.confinement.become_broker()
            result.append(asyncio.run(served()))
        except OperatorError as error:
            result.append(Ended(error=error))
        finally:
            clean_up()
            for end in (looks[0], runs[0]):
                end.close()  # whoever waits for an answer is told

    def gone() -> NoReturn:
        thread.join()
        os._exit(_told(result[0] if result else Ended(int(Exit.FAILURE)), log))

    thread = threading.Thread(target=serve, name="privileged")
    preload(worker.place)
    thread.start()
    log = worker.plans[0].log
    try:
        _mirrored(worker, Caller(looks[1], gone), Calls(runs[1], gone), alone=False)
    finally:
        for end in (looks[1], runs[1]):
            end.close()
        thread.join()
    return _exit_code(result[0], 0, log)
