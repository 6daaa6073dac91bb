"""Carries the steps of a plan out, in two parts: before any path is looked at, and before anything is watched."""

from __future__ import annotations

import errno
import os
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from clsync.errors import Exit, OperatorError
from clsync.kernel import credentials, landlock, namespaces, roles, sandbox
from clsync.kernel.cgroups import READ, WRITE, Device, Groups, Hierarchy, Share, all_hierarchies
from clsync.options import Settings
from clsync.options.names import SANDBOX_LAYERS
from clsync.options.values import shown
from clsync.privilege import root, seccomp
from clsync.privilege.accounts import SystemAccounts
from clsync.privilege.plan import (
    Become,
    ChangeRoot,
    Detach,
    GiveUp,
    KeepMounts,
    LimitGroup,
    Machine,
    MakePrivate,
    Plan,
    Step,
    make_plan,
)

DEVICES: Final = (
    Device(1, 3, READ | WRITE),  # null
    Device(1, 5, READ),  # zero
    Device(1, 7, READ | WRITE),  # full
    Device(1, 8, READ),  # random
    Device(1, 9, READ),  # urandom
    Device(5, 1, READ | WRITE),  # console
)
"""Harmless ones (admin-guide/devices of Linux)."""

_OF_WORKER: Final = (
    landlock.Allowed(b"/etc/localtime", landlock.READ_FILE),
    landlock.Allowed(b"/dev/null", landlock.USE),
)
_PATIENCE: Final = 5.0
"""Seconds in which a thread that has been waited for is gone."""

Debug = Callable[[str], None]


def this_machine(layers: bool = True) -> Machine:
    """Return who this process is and what it may do; `layers`: those of the sandbox are tried as well."""
    sets = credentials.capabilities()
    tried = {layer: sandbox.trouble_with(layer) for layer in SANDBOX_LAYERS} if layers else {}
    troubles = {layer: why for layer, why in tried.items() if why}
    return Machine(credentials.ids(), sets.permitted, sets.inheritable, credentials.ambient(), troubles)


class Confinement:
    """What the settings ask for, carried out step by step."""

    def __init__(self, settings: Settings, debug: Debug) -> None:
        """Plan it; nothing is done yet. `debug` is told of each step. Raises OperatorError."""
        self.plan: Plan = make_plan(settings, this_machine(settings.sandbox != {"off"}), SystemAccounts())
        self._debug, self._asked = debug, not settings.split_by_default
        self._group: Groups | None = None
        self._hides_code = any(isinstance(step, ChangeRoot | KeepMounts) for step in self.plan.confinement)
        identity = self.plan.identity
        self._blind = identity is not None and not identity.kept & credentials.mask(("CAP_DAC_READ_SEARCH",))
        """Our own files may be closed to who we are going to be."""

    @property
    def without_python(self) -> bool:
        """Whether processes of our own cannot be started where we are now."""
        return self._hides_code and not root.has_python()

    @property
    def shares_its_user(self) -> bool:
        """Whether the part without rights is who runs handlers and hooks, and so can take these over (ptrace(2))."""
        worker, who = self.plan.worker, self.plan.roles
        if worker is None or (worker.no_files and not self._asked):
            return False  # Landlock keeps it from that, which is enough for who has not asked for more
        return worker.ids.uid == who.programs.uid != who.starter.uid

    def enter(self) -> None:
        """Take the steps that come before any path is looked at. Raises OperatorError."""
        alone = self.plan.identity is not None and self.plan.worker is None
        self._assign(others=alone or self.plan.roles.others)
        if self._hides_code or self._blind:
            root.import_everything()
        for step in self.plan.confinement:
            self._take(step)

    def drop(self) -> None:
        """Become who clsync is to be, for good, before anything is watched. Raises OperatorError.

        Where it is to be split, that comes later: see `become_broker`, `become_worker`.
        """
        if self.plan.identity is not None:
            if self.plan.worker is None:
                threads = _threads()
                assert threads == 1, f"{threads} threads: the others would keep what this one gives up"
                self._take(self.plan.identity)
            self._assign(others=self.plan.roles.others)

    def become_broker(self) -> None:
        """Keep, in this thread and those that it starts, what the part with rights needs. Raises OperatorError."""
        if self.plan.identity is not None:
            self._take(self.plan.identity)

    def become_worker(
        self, *, alone: bool, room: bytes | None = None, last: Callable[[], None] | None = None
    ) -> None:
        """Give up, in this thread and those that it starts, all rights for good. Raises OperatorError.

        `alone`: in a process of its own, which never starts a process or a thread, unless `last` does, which is called
        while that can be done. `room`: a directory that it keeps files in.
        """
        assert self.plan.worker is not None
        self._take(replace(self.plan.worker, room=room))
        if last is not None:
            last()
        if alone:
            self.forget()
            resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        logs = self.plan.worker.logs
        if not self.plan.worker.any_call:
            self._filter("seccomp-filter", lambda: seccomp.confine(everywhere=alone, logs=logs))
        elif self.plan.worker.local:
            self._filter("sandbox", lambda: seccomp.stay_local(everywhere=alone, logs=logs))

    def _filter(self, option: str, load: Callable[[], None]) -> None:
        try:
            load()
        except OSError as error:
            raise OperatorError(f"--{option}: {error.strerror}", _hint(error), Exit.PRIVILEGE) from None

    def leave(self) -> None:
        """Remove what was made for this process."""
        if self._group is not None:
            self._group.leave()
            self._group = None

    def forget(self) -> None:
        """Leave all of it to another process that has it as well."""
        if self._group is not None:
            self._group.let_go()
            self._group = None

    def _assign(self, others: bool) -> None:
        who, worker = self.plan.roles, self.plan.worker
        roles.assign(
            own=who.own,
            programs=who.programs if others else None,
            starter=who.starter,
            scanning=who.scanning,
            keeper=worker.ids if worker is not None else None,
            keeping=who.keeping,
        )
        sandbox.use(self.plan.sandbox.used)

    def _take(self, step: Step) -> None:
        self._debug(f"--{step.option}: {step.text}")
        try:
            self._do(step)
        except OSError as error:
            raise OperatorError(
                f"--{step.option}: cannot {step.text}: {error.strerror}", _hint(error), Exit.PRIVILEGE
            ) from None

    def _do(self, step: Step) -> None:
        match step:
            case LimitGroup():
                self._group = _limited(step)
            case Detach():
                namespaces.unshare(step.flags)
            case MakePrivate():
                namespaces.make_private()
            case KeepMounts():
                root.keep_mounts(step.points)
            case ChangeRoot():
                root.change_root(step.path, step.how)
            case Become():
                _become(step)
            case GiveUp():
                _give_up(step)


def _threads() -> int:
    """Return how many threads there are; Python is done with one that ends a moment before the kernel is."""
    until = time.monotonic() + _PATIENCE
    while (found := len(os.listdir(b"/proc/self/task"))) > 1 and time.monotonic() < until:
        time.sleep(0.001)
    return found


def _hint(error: OSError) -> str:
    if error.errno in (errno.EPERM, errno.EACCES):
        return "start clsync as root, with all its capabilities, or leave the option out"
    return "leave the option out where the system cannot do it"


def _limited(step: LimitGroup) -> Groups:
    """Enter a group that can use less, the best that can be had. Raises OSError, OperatorError."""
    trouble: OSError | None = None
    for shares in _shares(step):
        try:
            return Groups(step.group, shares)
        except FileExistsError:
            raise OperatorError(
                f"--cgroup-group-name {shown(step.group)}: this group is there already",
                "name another one: %PID% makes it unique",
                Exit.PRIVILEGE,
            ) from None
        except OSError as error:
            if any(step.limits) and error.errno in (errno.EBUSY, errno.EOPNOTSUPP):
                raise OperatorError(
                    f"--{step.option}: {shown(error.filename or b'')} cannot be limited: {error.strerror}",
                    "start clsync alone in a group: by systemd with Delegate=yes, as clsync@.service, or by systemd-run",
                    Exit.PRIVILEGE,
                ) from None
            trouble = trouble or error
    assert trouble is not None
    raise trouble


def _shares(step: LimitGroup) -> Iterator[list[Share]]:
    """Yield the ways to make the group, the best first. Raises OperatorError, OSError."""
    found = all_hierarchies()
    limited: dict[Hierarchy, list[str]] = {}
    for option, value in step.limits.by_option().items() if any(step.limits) else ():
        controller = option.removeprefix("cgroup-")
        where = next((hierarchy for hierarchy in found if controller in hierarchy.controllers), None)
        if value and where is None:
            raise OperatorError(
                f"--{option}: no hierarchy of process groups has the controller {controller} here",
                "enable it (cgroup.controllers, or a unit with Delegate=yes), or leave the option out",
                Exit.PRIVILEGE,
            )
        if value and where is not None:
            limited.setdefault(where, []).append(controller)
    with_devices = [h for h in found if h.version == 2 or "devices" in h.controllers] if step.devices else [None]
    if not with_devices:
        raise OperatorError(
            f"--{step.option}: no hierarchy of process groups is mounted (cgroup2, or cgroup with devices)",
            "mount one: mount -t cgroup2 none /sys/fs/cgroup",
            Exit.PRIVILEGE,
        )
    for one in with_devices:
        places = dict.fromkeys([*([one] if one is not None else []), *limited])
        yield [
            Share(place, DEVICES if place == one else None, step.limits.of(limited.get(place, ())))
            for place in places
        ]


def _become(step: Become) -> None:
    if step.bounding is not None and credentials.capabilities().effective & credentials.mask(("CAP_SETPCAP",)):
        credentials.limit_bounding(step.bounding)
    sets = credentials.CapabilitySets(step.kept, step.kept, step.inheritable)
    if step.ids == credentials.ids():
        credentials.set_ambient(0)
        credentials.set_capabilities(sets)
        credentials.set_ambient(step.ambient)
    else:
        credentials.become(step.ids, sets, step.ambient)


def _give_up(step: GiveUp) -> None:
    if not step.network:
        namespaces.unshare(namespaces.NETWORK)
    if credentials.capabilities().effective & credentials.mask(("CAP_SETPCAP",)):
        credentials.limit_bounding(0)
    nothing = credentials.CapabilitySets(0, 0, 0)
    if step.ids == credentials.ids():
        credentials.set_ambient(0)
        credentials.set_capabilities(nothing)
    else:
        credentials.become(step.ids, nothing)
    credentials.no_new_privileges()
    if step.no_files:
        room = (landlock.Allowed(step.room, landlock.WRITE),) if step.room is not None else ()
        landlock.restrict((*_OF_WORKER, *room), network=False)
