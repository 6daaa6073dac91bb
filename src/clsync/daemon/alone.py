"""`clsync verify` where no daemon answers: targets are compared, and mended, by this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from clsync.core.paths import shown
from clsync.daemon import build
from clsync.daemon.access import DirectAccess
from clsync.daemon.course import Leaving
from clsync.daemon.files import SmallFile
from clsync.daemon.handlers import can_compare, make_comparison, make_handler
from clsync.daemon.log import WARNING, Log
from clsync.daemon.mirror import Mirror
from clsync.daemon.plan import Plan, demand_apart, make_plans
from clsync.daemon.reports import differences, progress, summary, text
from clsync.daemon.root import Directory
from clsync.daemon.verify import Report, StillTarget, Verification, Wish
from clsync.errors import Exit, OperatorError
from clsync.handler.compare.base import ComparisonFailed
from clsync.options import Settings
from clsync.options.pertarget import PerTarget
from clsync.state.mark import Held, distrust

Tell = Callable[[Mapping[str, object]], None]


def verify_alone(settings: Settings, wish: Wish, tell: Tell) -> Mapping[str, object]:
    """Compare all destinations with the source; return what has come of it, for JSON. Raises OperatorError.

    `tell` is told how far it is, and what was found.
    """
    if settings.chroot is not None or settings.mountpoints:
        raise OperatorError(
            "clsync verify cannot look into another root (--chroot, --mountpoints)",
            "ask the daemon that is there: give it --socket",
        )
    if settings.sync_handler_uid is not None or settings.privileged_uid is not None:
        raise OperatorError(
            "clsync verify becomes nobody else (--sync-handler-uid, --privileged-uid)",
            "ask the daemon, by --socket; or leave these out, and run it as the user that runs handlers",
        )
    log = Log(settings.output, min(WARNING, 0 if settings.quiet else settings.verbose), settings.debug)
    settings = _still(settings)
    plans = make_plans(settings, log)
    for plan in plans:
        if not can_compare(plan):
            raise OperatorError(
                f"mode {plan.mode} cannot be verified: the handler alone knows what is right there",
                "use mode rsyncdirect (without list files) or copy",
            )
    demand_apart(plans)
    try:
        reports = asyncio.run(_repaired(plans, wish, tell, log) if wish.repair else _compared(plans, wish, tell))
    except OSError as error:
        raise OperatorError(
            f"the trees cannot be compared: {error}", "see the system's own log", Exit.FAILURE
        ) from None
    for report, plan in zip(reports, plans, strict=True):
        for piece in differences(report, _called(plan)):
            tell(piece)
    return {"targets": [summary(report, _called(plan)) for report, plan in zip(reports, plans, strict=True)]}


def _still(settings: Settings) -> Settings:
    """Return settings for a run that neither begins nor ends as a daemon's does."""
    return replace(
        settings,
        skip_initialsync=1,
        only_initialsync=0,
        full_initialsync=0,
        exit_on_no_events=0,
        max_iterations=0,
        sync_on_quit=0,
        pre_exit_hook=None,
        exit_hook=None,
        standby_file=None,
        background=0,
        splitting="off",
        scrub_rate=PerTarget(),
        threading="off",
    )


def _called(plan: Plan) -> str:
    return text(plan.destination.text) if plan.destination is not None else ""


async def _compared(plans: Sequence[Plan], wish: Wish, tell: Tell) -> list[Report]:
    """Compare, and change nothing. Raises OperatorError."""
    reports = []
    for plan in plans:
        comparison = await asyncio.to_thread(make_comparison, plan)
        around = StillTarget(plan.name, plan.rules or None)
        verification = Verification(Directory(plan.root), comparison, around, wish)
        try:
            await verification.run(lambda report, plan=plan: tell(progress(report, _called(plan))))  # type: ignore[misc]
        except ComparisonFailed as error:
            verification.report.trouble = str(error)
        except OSError as error:
            verification.report.trouble = f"the source cannot be looked at: {error.strerror or error}"
        finally:
            await comparison.aclose()
        reports.append(verification.report)
    return reports


async def _repaired(plans: Sequence[Plan], wish: Wish, tell: Tell, log: Log) -> list[Report]:
    """Compare, and mend by a mirror that hands over nothing but what differs, and what changes meanwhile.

    Raises OperatorError.
    """
    _demand_nobody_else(plans)
    handlers = await asyncio.to_thread(lambda: [make_handler(plan) for plan in plans])
    access = DirectAccess(SmallFile(None, "status-file"), log)
    parts = build.make_parts(plans, access)
    mirror = build.make_mirror(plans, handlers, parts, access, lambda word: None, lambda: None)
    called = {plan.name: _called(plan) for plan in plans}
    running = asyncio.create_task(mirror.run())
    verifying = asyncio.create_task(
        mirror.verify((), wish, lambda report: tell(progress(report, called[report.name])))
    )
    try:
        await asyncio.wait((running, verifying), return_when=asyncio.FIRST_COMPLETED)
        return await _first(running, verifying, mirror)
    finally:
        for task in (verifying, running):
            task.cancel()
        await asyncio.gather(running, verifying, return_exceptions=True)


async def _first(running: asyncio.Task[int], verifying: asyncio.Task[list[Report]], mirror: Mirror) -> list[Report]:
    """Return what was found, once the mirror has ended as well. Raises what has ended it before."""
    if not verifying.done():
        running.result()
        raise OperatorError("the destinations could not be compared", "see the messages before this", Exit.INCOMPLETE)
    reports = verifying.result()
    mirror.leave(Leaving.NOW)
    await running
    return reports


def _demand_nobody_else(plans: Sequence[Plan]) -> None:
    """See that no daemon keeps these targets equal: it would not know what is done here. Raises OperatorError."""
    directory = build.state_directory(plans)
    try:
        with suppress(OSError):
            distrust(directory)  # the next daemon compares everything: what is mended here is not written there
    except Held:
        raise OperatorError(
            f"a daemon keeps these destinations equal (it holds {shown(directory)}), and does not answer",
            "start it with --socket, and name the socket here: then it does the repair",
            Exit.UNREACHABLE,
        ) from None
