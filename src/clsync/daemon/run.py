"""One run of the daemon: files, signals, background, and the mirror between them."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from typing import Any

from clsync.control.listener import Listener, Listening
from clsync.core.paths import printable, shown
from clsync.daemon import build
from clsync.daemon.access import Access, DirectAccess
from clsync.daemon.course import Leaving
from clsync.daemon.exhaustion import told_of_limits
from clsync.daemon.files import SmallFile
from clsync.daemon.handlers import is_exact, make_handler
from clsync.daemon.log import Log
from clsync.daemon.mirror import Mirror
from clsync.daemon.parts import Parts
from clsync.daemon.plan import Plan, demand_apart, make_plans, source_directory
from clsync.daemon.prepare import DirectPreparation, Preparation, Prepared, Reload
from clsync.daemon.switch import Switch
from clsync.errors import Exit, OperatorError
from clsync.handler.base import Handler
from clsync.kernel.signals import send_again
from clsync.options import MODULE_MODES, Settings
from clsync.privilege.carry import Confinement
from clsync.state.room import Place

_SIGNAL_HAND_OVER = 16
"""SIGSTKFLT on Linux; clsync 0.4 wakes its blocking calls with it."""


def run(settings: Settings, reload: Reload) -> int:
    """Run with these settings; return the exit code. Raises OperatorError for what hinders the start.

    `reload` makes the settings anew, with changes laid over them.
    """
    log = Log(settings.output, 0 if settings.quiet else settings.verbose, settings.debug)
    for warning in settings.warnings:
        log.warning(warning)
    if settings.unsplit:
        say = log.info if settings.unsplit_by_options else log.warning
        meant = "" if settings.unsplit_by_options else "; --splitting=off says that this is meant"
        say(f"one process does everything: {settings.unsplit}{meant}")
    confinement = Confinement(settings, lambda text: log.debug(1, text))
    if confinement.shares_its_user:
        log.warning("handlers are run as the user of the part without rights, which can take them over: see --uid")
    if lack := confinement.plan.sandbox.lack:
        log.warning(f"what clsync itself starts is {lack}; --sandbox=off says that this is meant")
    background: Background | None = None
    plans: list[Plan] = []
    try:
        if settings.chroot is not None or settings.mountpoints:
            log.reach_system_log()
        confinement.enter()
        with told_of_limits(settings):
            plans = make_plans(settings, log)
        for made in plans:
            _look_for_python(made, confinement)
            if settings.detach_network != "off" and made.destination is not None and made.destination.remote:
                where = shown(made.destination.text)
                log.warning(f"{where} lies behind a network, and there is none (--detach-network)")
        listener = build.make_listener(settings)
        handlers = [make_handler(made) for made in plans]
        demand_apart(plans)
        background = Background() if settings.background else None
        if background is not None and not background.split():
            confinement.forget()
            return background.wait()
        with told_of_limits(settings):
            return _run(settings, plans, handlers, log, background, reload, listener, confinement)
    except OperatorError as error:
        for made in plans[:1]:
            made.clear_away()
        if background is not None and background.tell(error):
            return error.code
        raise
    finally:
        confinement.leave()


def _look_for_python(made: Plan, confinement: Confinement) -> None:
    """See that all processes that this mode needs can be started in the new root. Raises OperatorError."""
    here = made.destination is None or not made.destination.remote
    ours = made.mode == "copy" or (here and bool(made.rules) and is_exact(made))
    scrubs = here and made.settings.scrub_rate.of(made.settings.destination_dir)
    needed = made.mode in MODULE_MODES or (ours and confinement.plan.roles.others) or scrubs
    if needed and confinement.without_python:
        raise OperatorError(
            f"{'--scrub-rate' if scrubs else f'mode {made.mode}'} needs Python in the new root: {sys.executable}",
            "let it be seen there, with clsync itself; or use another mode, or do without --uid",
            Exit.PRIVILEGE,
        )


def _run(
    settings: Settings,
    plans: Sequence[Plan],
    handlers: Sequence[Handler],
    log: Log,
    background: Background | None,
    reload: Reload,
    listener: Listener | None,
    confinement: Confinement,
) -> int:
    pid_file = SmallFile(settings.pid_file, "pid-file")
    status_file = SmallFile(settings.status_file, "status-file")
    for made in plans:
        if made.why:
            log.info(f"mode {made.mode}: {made.why}")
        to = shown(made.destination.text) if made.destination is not None else "where the handler's arguments say"
        log.info(f"syncing {shown(made.root)} to {to} in mode {made.mode}")

    def clean_up() -> None:
        if listener is not None:
            listener.remove()
        pid_file.remove()
        status_file.remove()
        plans[0].clear_away()

    # First, so that nothing of another daemon that answers there is touched.
    listening = listener.open() if listener is not None else None
    try:
        status_file.write("starting")
        pid_file.write(str(os.getpid()))
        place = build.make_room(plans, log)
        access = DirectAccess(status_file, log, place.directory if place is not None else b"")
        parts = build.make_parts(plans, access)
        if confinement.plan.identity is not None and not settings.is_split:
            for file in (status_file, pid_file):
                file.give_away()
        confinement.drop()
        source_directory(plans[0].root)  # also for who we are now
        if background is not None:
            background.let_go = lambda: _let_go_of_terminal(log)
        ready = background.ready if background is not None else lambda: None
        preparation = DirectPreparation(access, reload, log)
        mirrored = partial(_mirrored, settings, plans, place, log, listening, os.getpid())
        if not settings.is_split:
            return mirrored(handlers, parts, access, preparation, ready)
        from clsync.daemon.broker import Broker  # late: most runs need none of it
        from clsync.daemon.split import Worker, run_as_process, run_as_thread
        from clsync.daemon.witness import Witness

        worker = Worker(settings, plans, mirrored, reload, confinement, place)
        if background is not None and settings.splitting == "process":
            worker = worker._replace(begin=background.leave_to_other, let_go=background.let_go)

        def make_broker() -> Broker:
            first = Prepared(settings, plans, parts, handlers)
            state = access.for_state(plans[0]) if place is not None else None
            witness = Witness(listening) if listening is not None else None
            return Broker(first, access, preparation, log, ready, state, witness)

        if settings.splitting == "process":
            return run_as_process(worker, make_broker)
        return run_as_thread(worker, make_broker, clean_up)
    finally:
        clean_up()


def _mirrored(
    settings: Settings,
    plans: Sequence[Plan],
    place: Place | None,
    log: Log,
    listening: Listening | None,
    pid: int,
    handlers: Sequence[Handler],
    parts: Parts,
    access: Access,
    preparation: Preparation,
    ready: Callable[[], None],
) -> int:
    """Run a mirror, whatever its rights are; return the exit code. Raises OperatorError.

    `place`: that of the state. `listening`: the control socket. `pid`: the process that is sent signals.
    """
    set_status = _Status(access.write_status, log).set
    with told_of_limits(settings):
        memory = build.make_memory(plans, place, access, log)
        mirror = build.make_mirror(plans, handlers, parts, access, set_status, ready, memory)
        switch = Switch(settings, plans, parts, preparation, mirror, log)
        control = _control(listening, mirror, switch, access, pid, log)
        return asyncio.run(_follow(mirror, switch, access, log, control))


def _control(
    listening: Listening | None, mirror: Mirror, switch: Switch, access: Access, pid: int, log: Log
) -> AbstractAsyncContextManager[None]:
    """Return what answers at the control socket while it is entered; nothing where there is no socket."""
    if listening is None:
        return nullcontext()
    from clsync.control.server import serving  # late: most runs need none of it
    from clsync.daemon.instance import DaemonInstance

    return serving(listening, DaemonInstance(mirror, switch, access, pid), log.info, heard=access.heard)


class _Status:
    """The status file's word, written when it changes."""

    def __init__(self, write: Callable[[str], None], log: Log) -> None:
        self._write, self._log, self._word = write, log, "starting"

    def set(self, word: str) -> None:
        if word == self._word:
            return
        self._word = word
        self._log.debug(1, f"status: {word}")
        try:
            self._write(word)
        except OperatorError as error:
            self._log.error(error.message, error.hint)


async def _follow(
    mirror: Mirror,
    switch: Switch,
    access: Access,
    log: Log,
    control: AbstractAsyncContextManager[None],
) -> int:
    loop = asyncio.get_running_loop()
    on = loop.add_signal_handler
    tasks = set()

    def start(work: Coroutine[Any, Any, None]) -> None:
        task = loop.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def accept() -> None:
        if not mirror.accept():
            log.info("signal RTMIN: no deletions are held back")

    on(signal.SIGHUP, mirror.reread_rules)
    for number in (signal.SIGINT, signal.SIGTERM):
        on(number, lambda: mirror.leave(Leaving.NOW))
    for number in (signal.SIGQUIT, signal.SIGALRM):
        on(number, lambda: mirror.leave(Leaving.FLUSH))
    on(signal.SIGUSR1, lambda: log.debug(1, "signal USR1: no threads to collect"))
    on(signal.SIGUSR2, mirror.sync_all)
    on(_SIGNAL_HAND_OVER, mirror.hand_over_now)
    on(signal.SIGRTMIN, accept)
    on(signal.SIGIO, lambda: start(_dump(mirror, switch.settings.dump_dir, access, log)))
    for own, block in switch.settings.custom_signals.items():
        on(own, lambda own=own, block=block: start(switch.to_block(own, block)))  # type: ignore[misc]
    send_again()
    async with control:
        return await mirror.run()


async def _dump(mirror: Mirror, directory: bytes | None, access: Access, log: Log) -> None:
    """Write the state where --dump-dir says."""
    if directory is None:
        log.error("signal IO: --dump-dir is empty", "name a directory that does not exist")
        return
    try:
        await access.write_dump(directory, await mirror.states(), asked=False)
    except OSError as error:
        hint = "remove it" if error.errno == errno.EEXIST else "see that its parent is there and may be written"
        log.error(f"--dump-dir {shown(directory)}: {error.strerror}", hint)
    else:
        log.info(f"the state is written to {shown(directory)}")


def _let_go_of_terminal(log: Log) -> None:
    """Leave the terminal to its user: messages that went there go to the system log."""
    log.leave_terminal()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        if descriptor == 0 or os.isatty(descriptor):
            os.dup2(nowhere, descriptor)
    os.close(nowhere)


class Background:
    """fork(2) and setsid(2), with the outcome of the start passed on to the one who waits."""

    def __init__(self) -> None:
        self._outlet, self._inlet = os.pipe2(os.O_CLOEXEC)
        self.let_go: Callable[[], None] = lambda: None

    def split(self) -> bool:
        """Go on in a child; tell whether this is the child."""
        if os.fork():
            os.close(self._inlet)
            self._inlet = -1
            return False
        os.close(self._outlet)
        os.setsid()
        return True

    def ready(self) -> None:
        """Tell the parent that the start has succeeded."""
        self._send(b"ready")
        self.let_go()

    def leave_to_other(self) -> None:
        """Let another process that has the pipe as well tell what comes of the start."""
        if self._inlet >= 0:
            os.close(self._inlet)
            self._inlet = -1

    def tell(self, error: OperatorError) -> bool:
        """Tell the parent what hindered the start; False if it waits no longer."""
        # A line each: what a message quotes may hold line breaks, and what is no text.
        message, hint = (printable(text).encode() for text in (error.message, error.hint))
        return self._send(b"%d\n%s\n%s" % (error.code, message, hint))

    def _send(self, data: bytes) -> bool:
        if self._inlet < 0:
            return False
        os.write(self._inlet, data)
        os.close(self._inlet)
        self._inlet = -1
        return True

    def wait(self) -> int:
        """Wait for the child's answer. Raises its OperatorError."""
        with open(self._outlet, "rb") as pipe:
            answer = pipe.read()
        if answer == b"ready":
            return Exit.OK
        code, _, text = answer.partition(b"\n")
        if not code:
            return Exit.FAILURE
        message, _, hint = text.decode("utf-8", "replace").partition("\n")
        raise OperatorError(message, hint, int(code))
