"""Files that say what is run with all rights: with --splitting=process for root, they are root's alone.

The worker has no say in what is run; who could write these files would have it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final, TypeVar

from clsync.core.paths import shown
from clsync.errors import Exit, OperatorError
from clsync.kernel import places, roles
from clsync.options import Settings

_Result = TypeVar("_Result")
_HINT: Final = (
    "with --splitting=process nobody but root may write it, nor the directories above: chown root, chmod go-w, "
    "or name another"
)


def is_demanded(settings: Settings) -> bool:
    """Tell whether files of others are refused."""
    return settings.splitting == "process" and roles.starter_ids().uid == 0


def read_config(path: bytes) -> bytes | None:
    """Return what is in a configuration file, None where there is none. Raises OSError, and OperatorError: not root's."""
    try:
        return _told(f"configuration file {shown(path)}", Exit.FILES, lambda: places.read_of_root(path))
    except (FileNotFoundError, NotADirectoryError):
        return None


def read_rules(path: bytes) -> bytes:
    """Return what is in a rules file. Raises OSError, and OperatorError: not root's."""
    return _told(f"--rules-file {shown(path)}", Exit.USAGE, lambda: places.read_of_root(path))


def demand_of_root(program: bytes, option: str) -> None:
    """Refuse a program that others can change, if it is run as root. Raises OperatorError."""
    what = f"{option} {shown(program)}"
    if roles.programs_ids().uid == 0:
        try:
            _told(what, Exit.HANDLER, lambda: os.close(places.open_of_root(program)))
        except OSError as error:
            raise OperatorError(f"{what}: {error.strerror}", "name an executable file", Exit.HANDLER) from None


def _told(what: str, code: int, act: Callable[[], _Result]) -> _Result:
    try:
        return act()
    except places.Unsafe as error:
        raise OperatorError(f"{what}: {error.strerror}", _HINT, code) from None
