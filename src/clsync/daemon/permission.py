"""What may be changed while the daemon runs, where not everybody may change everything."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Final

from clsync.core.paths import shown
from clsync.daemon.parts import Parts
from clsync.errors import OperatorError
from clsync.options import Assignment, Change, Settings
from clsync.options.table import ARGUMENTS_KEY, BY_NAME, FREE, RECURSIVE_ARGUMENTS_KEY

HOOKS: Final = ("pre-exit-hook", "exit-hook")


def demand_free(
    changes: Sequence[Change], settings: Settings, has_said: Callable[[Assignment], bool] | None = None
) -> None:
    """Refuse what only the configuration file may decide, or may not at all. Raises OperatorError.

    `has_said` tells what root has asked for; None: nobody may ask for anything.
    """
    for change in changes:
        if isinstance(change, Assignment):
            if has_said is not None and has_said(change):
                continue
            there_is = change.key in BY_NAME or change.key in (ARGUMENTS_KEY, RECURSIVE_ARGUMENTS_KEY)
            if (
                there_is
                and change.key not in FREE
                and not (change.key in HOOKS and _says_a_permitted_one(change.text, settings))
            ):
                otherwise = (
                    "write it into the configuration file, and start clsync again or switch blocks by a signal"
                )
                raise OperatorError(
                    f"{change.key} cannot be set with --splitting: it would say what is run with all rights",
                    otherwise if has_said is None else f"let root set it, or {otherwise}",
                )
        elif change.name not in settings.custom_signals.values():
            raise OperatorError(f"block [{shown(change.name)}] is that of no signal", "name it with --custom-signals")


def demand_same_programs(old: Settings, old_parts: Parts, new: Settings, new_parts: Parts) -> None:
    """Refuse another handler or hook than that of the start (`--check-execvp-arguments`). Raises OperatorError."""
    if not old.check_execvp_arguments:
        return
    hint = "start clsync again, or leave --check-execvp-arguments out"
    if [one.same_handler for one in new_parts.outlets] != [one.same_handler for one in old_parts.outlets]:
        raise OperatorError("--check-execvp-arguments: the handler and its arguments stay as they are", hint)
    for option in HOOKS:
        name = option.replace("-", "_")
        before, after = getattr(old, name), getattr(new, name)
        if after != before and after is not None and not _is_permitted(after, old):
            raise OperatorError(f"--check-execvp-arguments: --{option} {shown(after)} is not permitted", hint)


def _says_a_permitted_one(text: bytes, settings: Settings) -> bool:
    """Tell whether a value that is still to be read is such a hook whatever it stands for: a macro may be many names."""
    return b"%" not in text and _is_permitted(text, settings)


def _is_permitted(hook: bytes, settings: Settings) -> bool:
    """Tell whether a hook is one that was configured at the start, or an additional one."""
    allowed = {settings.pre_exit_hook, settings.exit_hook, *settings.add_permitted_hook_files}
    # A name without a directory is looked for in PATH.
    return not hook or hook in allowed or (b"/" in hook and os.path.abspath(hook) in allowed)
