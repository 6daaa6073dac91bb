"""What `--splitting=auto` comes to: two processes where root starts clsync, unless something speaks against it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Final

from clsync.errors import OperatorError
from clsync.kernel import credentials, sandbox
from clsync.kernel.credentials import CapabilitySets, Ids, mask, names_in
from clsync.options import Settings, check
from clsync.options.values import shown
from clsync.privilege import trust
from clsync.privilege.accounts import SystemAccounts

_NEEDED: Final = mask(("CAP_SETUID", "CAP_SETGID", "CAP_KILL"))
"""To have a part that is another user, and to send it signals."""
_IDENTITY: Final = ("uid", "gid", "preserve-capabilities", "inherit-capabilities")
"""What says who all of clsync is: with a part without rights it means something else."""
_NOBODY: Final = Ids(65534, 65534, ())
_HOW: Final = "auto"


def decided(settings: Settings, config_files: Iterable[bytes]) -> Settings:
    """Return settings in which `auto` has become a way of splitting; `config_files` were looked for.

    Raises OperatorError for what cannot be had without splitting.
    """
    if settings.splitting != _HOW:
        return settings
    if os.geteuid():
        return _checked(replace(settings, splitting="off"))
    if why := next(_options_against(settings), ""):
        return _checked(replace(settings, splitting="off", unsplit=why, unsplit_by_options=True))
    if why := next(_files_against(settings, config_files), ""):
        return _checked(replace(settings, splitting="off", unsplit=why))
    if trouble := trouble_with_it():
        told = f"one process does everything: {trouble}; --splitting=off says that this is meant"
        return _checked(replace(settings, splitting="off", warnings=(*settings.warnings, told)))
    return _checked(replace(settings, splitting="process", split_by_default=True))


def decided_as(settings: Settings, before: Settings) -> Settings:
    """Return settings with what `auto` has come to before: that is for the whole run."""
    if settings.splitting != _HOW:
        return settings
    return replace(
        settings,
        splitting=before.splitting,
        split_by_default=before.split_by_default,
        unsplit=before.unsplit,
        unsplit_by_options=before.unsplit_by_options,
    )


def _checked(settings: Settings) -> Settings:
    check(settings)
    return settings


def trouble_with_it() -> str:
    """Tell why root can have no part without rights here; empty where it can. It is tried, in a thread that ends then."""
    if lacking := names_in(_NEEDED & ~credentials.capabilities().permitted):
        return f"clsync is started without {', '.join(lacking)}"
    try:
        sandbox.apart(_be_nobody)
    except OSError as error:
        return f"user {_NOBODY.uid} cannot be had here ({error.strerror})"
    return ""


def _be_nobody() -> None:
    with credentials.dumpable_as_before():
        credentials.become(_NOBODY, CapabilitySets(0, 0, 0))


def _options_against(s: Settings) -> Iterator[str]:
    """Yield what options speak against it."""
    for name in _IDENTITY:
        if name in s.given:
            yield f"--{name} is about all of clsync"
    named = [path for path in (s.rules_file, s.pre_exit_hook, s.exit_hook) if path]
    if named and (s.chroot is not None or s.mountpoints):
        yield f"{shown(named[0])} is seen after --{'chroot' if s.chroot is not None else 'mountpoints'} only"


def _files_against(s: Settings, config_files: Iterable[bytes]) -> Iterator[str]:
    """Yield what files that say what is run speak against it: others than root can change them."""
    for path in config_files:
        yield from _not_roots(partial(trust.read_config, path))
    if s.rules_file is not None:
        yield from _not_roots(partial(trust.read_rules, s.rules_file))
    if _runs_as_root(s):
        for option, hook in (("pre-exit-hook", s.pre_exit_hook), ("exit-hook", s.exit_hook)):
            program = shutil.which(os.fsdecode(hook)) if hook else None
            if program is not None:
                yield from _not_roots(partial(trust.demand_of_root, os.fsencode(program), f"--{option}"))


def _runs_as_root(s: Settings) -> bool:
    """Tell whether hooks are run by root. Raises OperatorError."""
    for user, option in ((s.sync_handler_uid, "sync-handler-uid"), (s.privileged_uid, "privileged-uid")):
        if user is not None:
            return not SystemAccounts().user(user, option).uid
    return True


def _not_roots(look: Callable[[], object]) -> Iterator[str]:
    """Yield what is wrong with a file that says what is run; one that is not there is missed elsewhere."""
    try:
        look()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        yield str(error)
    except OperatorError as error:
        yield error.message
