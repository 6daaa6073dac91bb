"""The one option table, and everything that is made from it."""

from clsync.options.settings import HelpRequested, Settings, VersionRequested, load

__all__ = ["HelpRequested", "Settings", "VersionRequested", "load"]
