"""Whether a module may be loaded, and whether there is what it needs."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from clsync.core.paths import shown
from clsync.errors import Exit, OperatorError
from clsync.kernel import roles

_HOST = "_host.so"


def host_library() -> bytes:
    """Return the path of the library with what modules may call. Raises OperatorError where it was not built."""
    path = Path(__file__).with_name(_HOST)
    if not path.exists():
        raise OperatorError(
            "this installation of clsync cannot load modules: it was made without a C compiler",
            "install one (apt-get install gcc libc6-dev), and then clsync again: pip install --force-reinstall .",
            Exit.HANDLER,
        )
    return os.fsencode(path)


def check_module(path: bytes) -> None:
    """See that nobody but root, clsync's owner or ourselves can have put code there. Raises OperatorError."""
    where = f"--sync-handler {shown(path)}"
    try:
        found = os.stat(path)
    except OSError as error:
        raise OperatorError(
            f"{where}: {error.strerror}", "name the shared object of a module", Exit.HANDLER
        ) from None
    if not stat.S_ISREG(found.st_mode):
        raise OperatorError(f"{where} is not a regular file", "name the shared object of a module", Exit.HANDLER)
    if found.st_uid not in (0, roles.starter_ids().uid, os.stat(__file__).st_uid):
        raise OperatorError(
            f"{where} belongs to user {found.st_uid}, who could run anything as the user clsync runs as",
            f"give it to root: chown root {shown(path)}",
            Exit.HANDLER,
        )
    if found.st_mode & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX | stat.S_IWGRP | stat.S_IWOTH):
        raise OperatorError(
            f"{where} has mode {stat.S_IMODE(found.st_mode):04o}: others may write it, or it has special bits",
            f"close it: chmod 0755 {shown(path)}",
            Exit.HANDLER,
        )
