"""Doing something without the privileges of root."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path

NOBODY = 65534


def without_privileges(place: Path, act: Callable[[], None]) -> None:
    """Do something as nobody, who can write in the directory `place`; as ourselves if we are not root.

    What it prints is all that comes back: an exception fails the test.
    """
    if os.geteuid() != 0:
        act()
        return
    for above in (place, *place.parents[:2]):
        above.chmod(0o755)
    os.chown(place, NOBODY, NOBODY)
    as_nobody(act)


def as_nobody(act: Callable[[], None]) -> None:
    """Do something in a process without privileges (needs root)."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            act()
            code = 0
        except BaseException:  # noqa: BLE001 - pytest is to go on in the parent only
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
