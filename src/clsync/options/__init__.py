"""The one option table, and everything that is made from it."""

from clsync.options.settings import PROGRAM_MODES, HelpRequested, Settings, VersionRequested, load, value_of

__all__ = ["PROGRAM_MODES", "HelpRequested", "Settings", "VersionRequested", "load", "value_of"]
