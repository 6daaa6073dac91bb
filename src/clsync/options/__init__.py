"""The one option table, and everything that is made from it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clsync.options.settings import (
        MODULE_MODES,
        PROGRAM_MODES,
        Assignment,
        Block,
        Change,
        HelpRequested,
        ReadFile,
        Settings,
        VersionRequested,
        check,
        load,
        value_of,
    )

__all__ = [
    "MODULE_MODES",
    "PROGRAM_MODES",
    "Assignment",
    "Block",
    "Change",
    "HelpRequested",
    "ReadFile",
    "Settings",
    "VersionRequested",
    "check",
    "load",
    "value_of",
]


def __getattr__(name: str) -> object:
    """Load the settings when they are asked for: programs of ours that need one word have no use for them."""
    if name not in __all__:
        raise AttributeError(name)
    found: object = getattr(import_module("clsync.options.settings"), name)
    return found
