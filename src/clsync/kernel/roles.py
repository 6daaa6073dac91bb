"""Who does what, where this process is not to do everything as itself: one place, asked wherever something is started.

Nothing is assigned as long as the process stays who it was started as. Then all of this does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from clsync.kernel.credentials import Ids, assumed, ids

_Result = TypeVar("_Result")


class _Assigned:
    programs: Ids | None = None
    starter: Ids | None = None
    own: Ids | None = None
    scanning: int = 0
    keeper: Ids | None = None
    keeping: int = 0


def assign(
    *,
    own: Ids,
    programs: Ids | None,
    starter: Ids,
    scanning: int = 0,
    keeper: Ids | None = None,
    keeping: int = 0,
) -> None:
    """Say who this process is to be, who runs handlers and hooks (None: itself), and who started it.

    `scanning`: capabilities that processes of ours need to look at the watched tree. `keeper`: who keeps the state, if
    that is not this process, and `keeping`: what his processes need to look at the tree.
    """
    _Assigned.own, _Assigned.programs, _Assigned.starter, _Assigned.scanning = own, programs, starter, scanning
    _Assigned.keeper, _Assigned.keeping = keeper, keeping


def as_programs() -> AbstractContextManager[None]:
    """Be, in this thread, the one who runs handlers and hooks. Raises OSError."""
    return assumed(_Assigned.programs) if _Assigned.programs is not None else nullcontext()


def as_scanner() -> AbstractContextManager[None]:
    """Let what is started now read the watched tree as we do. Raises OSError."""
    return assumed(ids(), _Assigned.scanning) if _Assigned.scanning else nullcontext()


def as_keeper() -> AbstractContextManager[None]:
    """Let what is started now be who keeps the state, and look at the watched tree as we do. Raises OSError."""
    return assumed(_Assigned.keeper, _Assigned.keeping) if _Assigned.keeper is not None else as_scanner()


def keeper_ids() -> Ids:
    """Return who keeps the state."""
    return _Assigned.keeper or own_ids()


def programs_are_others() -> bool:
    """Tell whether handlers have rights that this process does not have."""
    return _Assigned.programs is not None


def own_ids() -> Ids:
    """Return who this process is, or is about to be."""
    return _Assigned.own or ids()


def programs_ids() -> Ids:
    """Return who runs handlers and hooks."""
    return _Assigned.programs or ids()


def starter_ids() -> Ids:
    """Return who started this process."""
    return _Assigned.starter or ids()


def by_somebody(act: Callable[[], _Result]) -> _Result:
    """Do something with a file of the operator's: as who runs programs, as ourselves, or as who started us.

    The first one who may. Raises OSError where nobody may, and the last one's error.
    """
    ways = [None] if _Assigned.starter is None else [_Assigned.programs, None, _Assigned.starter]
    for number, one in enumerate(ways, 1):
        try:
            if one is None or (one.uid, one.gid) == (os.geteuid(), os.getegid()):
                return act()
            with assumed(one):
                return act()
        except PermissionError:
            if number == len(ways):
                raise
    raise AssertionError("nobody was asked")
