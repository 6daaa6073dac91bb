"""The one option table, and everything that is made from it."""

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
