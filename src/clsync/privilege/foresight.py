"""What would hinder the steps of a plan, as far as it can be told beforehand. Nothing is changed."""

from __future__ import annotations

import errno
import os
from typing import Final

from clsync.errors import Exit, OperatorError
from clsync.kernel.credentials import mask
from clsync.privilege import root
from clsync.privilege.plan import ChangeRoot, Detach, KeepMounts, LimitGroup, Machine, MakePrivate, Plan, Step

_ADMIN: Final = mask(("CAP_SYS_ADMIN",))
_CHROOT: Final = mask(("CAP_SYS_CHROOT",))


def demand_possible(plan: Plan, machine: Machine) -> None:
    """See that the steps before any path is looked at can be taken. Raises the OperatorError that the start would."""
    for step in plan.confinement:
        match step:
            case Detach() | MakePrivate():
                _demand_right(step, machine, _ADMIN)
            case KeepMounts():
                root.demand_mounts(step.points)
                _demand_right(step, machine, _ADMIN)
            case ChangeRoot():
                root.demand_root(step.path, step.how)
                _demand_right(step, machine, _CHROOT if step.how == "off" else _ADMIN)
            case LimitGroup():
                pass  # only the attempt shows it


def _demand_right(step: Step, machine: Machine, right: int) -> None:
    if not machine.permitted & right:
        raise OperatorError(
            f"--{step.option}: cannot {step.text}: {os.strerror(errno.EPERM)}",
            "start clsync as root, with all its capabilities, or leave the option out",
            Exit.PRIVILEGE,
        )
