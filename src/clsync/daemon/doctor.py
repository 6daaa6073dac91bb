"""What would be done at a start, and what this machine can give: for people, and without doing anything."""

from __future__ import annotations

import os
from collections.abc import Sequence

from clsync.core.paths import shown
from clsync.daemon import build
from clsync.daemon.access import DirectAccess
from clsync.daemon.files import SmallFile
from clsync.daemon.handlers import is_exact, priority_of
from clsync.daemon.log import Log
from clsync.daemon.plan import Plan, demand_apart, make_plans
from clsync.daemon.sandboxes import is_ours, sandbox_of
from clsync.errors import OperatorError
from clsync.kernel import landlock, sandbox
from clsync.kernel.cgroups import all_hierarchies
from clsync.options import Settings
from clsync.options.names import SANDBOX_LAYERS
from clsync.privilege.accounts import SystemAccounts
from clsync.privilege.carry import this_machine
from clsync.privilege.foresight import demand_possible
from clsync.privilege.plan import Machine, make_plan
from clsync.privilege.report import Course, Own, capability_text, gain_lines, plan_lines
from clsync.privilege.splitting import trouble_with_it


def dry_run(settings: Settings) -> str:
    """Return what a start with these settings would do. Raises OperatorError for what would hinder it."""
    return _text(_plan(settings, this_machine()))


def examine(settings: Settings, known: bool) -> tuple[str, int]:
    """Return what can be had here and what would be done, and the exit code that a start would have.

    `known`: the settings name trees; else there is nothing to be said of them.
    """
    machine = this_machine()
    lines, code = [*_machine(machine), ""], 0
    try:
        lines += _plan(settings, machine, known)
    except OperatorError as error:
        lines += [f"clsync would not start: {error.message}", *([f"  {error.hint}"] if error.hint else [])]
        code = error.code
    gains = gain_lines(machine)
    return _text([*lines, *([""] if gains else []), *gains]), code


def _text(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _plan(settings: Settings, machine: Machine, known: bool = True) -> list[str]:
    plan = make_plan(settings, machine, SystemAccounts())
    sandbox.use(plan.sandbox.used)
    demand_possible(plan, machine)
    hidden = settings.chroot is not None or bool(settings.mountpoints)
    if hidden or not known:
        # The trees are looked at inside only.
        last = "collect changes only" if settings.skip_initialsync else "sync everything"
        course = Course(["look at the trees", _files(settings)], ["watch the tree", last])
        return plan_lines(plan, machine, settings, [], course)
    listener = _Listener()
    made = make_plans(settings, listener)
    _demand_startable(settings, made, listener)
    names = ", ".join(shown(m.destination.text) if m.destination is not None else m.mode for m in made)
    course = Course(
        [f"look at {shown(made[0].root)} and at what it goes to: {names}", _files(settings)],
        [
            f"watch {shown(made[0].root)} (monitor {settings.monitor})",
            "collect changes only" if settings.skip_initialsync else f"sync everything in mode {made[0].mode}",
        ],
    )
    return plan_lines(plan, machine, settings, [_own(one, listener) for one in made if is_exact(one)], course)


def _demand_startable(settings: Settings, plans: Sequence[Plan], log: Log) -> None:
    """Look for what would end the start later, in its order, and change nothing. Raises OperatorError."""
    socket = build.make_listener(settings)
    for made in plans:
        priority_of(made)
    demand_apart(plans)
    if socket is not None:
        socket.demand_place()
    status_file = SmallFile(settings.status_file, "status-file")
    for file in (status_file, SmallFile(settings.pid_file, "pid-file")):
        file.demand_place()
    build.make_parts(plans, DirectAccess(status_file, log))


def _files(s: Settings) -> str:
    if all(name is None for name in (s.pid_file, s.status_file, s.socket)):
        return "read the rules"
    return "write pid file and status file, listen at the control socket"


class _Listener(Log):
    """Keeps warnings to itself."""

    def __init__(self) -> None:
        super().__init__("stderr", 0)
        self.warnings: list[str] = []

    def warning(self, text: str) -> None:
        """Remember what the operator should know."""
        self.warnings.append(text)


def _own(made: Plan, listener: _Listener) -> Own:
    """Say what clsync itself starts for a destination; whether it can live in a sandbox is tried."""
    to = shown(made.destination.text) if made.destination is not None else "where its arguments say"
    remote = made.destination is not None and made.destination.remote
    off = "--sandbox=off" if made.settings.sandbox == {"off"} else "" if sandbox.usable() else "no layer can be had"
    if made.mode == "copy":
        return Own("processes of mode copy", to, not off, off)
    why = off
    if not why and not (made.settings.sandbox_demanded or is_ours(made)):
        why = "the program, its arguments or the remote shell are the operator's"
    if not why and made.destination is None:
        why = "where it goes is known from its arguments, at the start"
    if not why and made.destination is not None and sandbox_of(made, made.destination) is None:
        why = listener.warnings[-1]
    return Own("rsync", to, not why, why, remote)


def _machine(machine: Machine) -> list[str]:
    """Tell who we are and what there is."""
    ids, apart = machine.ids, trouble_with_it()
    layers = {layer: machine.troubles.get(layer) for layer in SANDBOX_LAYERS}
    try:
        version = f"version {landlock.version()}"
    except OSError as error:
        version = f"none: {error.strerror}"
    groups = ", ".join(
        f"version {h.version}{f' with {chr(32).join(sorted(h.controllers))}' if h.controllers else ''}"
        for h in all_hierarchies()
    )
    return [
        "This machine, and who we are here:",
        f"  kernel:        {os.uname().sysname} {os.uname().release} ({os.uname().machine})",
        f"  identity:      user {ids.uid}, group {ids.gid}, groups {','.join(map(str, ids.groups)) or 'none'}",
        f"  capabilities:  {capability_text(machine.permitted)}",
        f"  Landlock:      {version}",
        *(f"  {layer + ':':<15}{f'cannot be had: {why}' if why else 'can be had'}" for layer, why in layers.items()),
        *([] if ids.uid else [f"  splitting:     {f'cannot be had: {apart}' if apart else 'can be had'}"]),
        f"  cgroups:       {groups or 'none'}",
    ]
