"""The modes that are compared, each with the arguments it has when none are given."""

from __future__ import annotations

from typing import NamedTuple

OBJECTS = "%INCLUDE-LIST%"


class Mode(NamedTuple):
    """A mode, and how what its handler is given is to be read."""

    name: str
    """Of the directory of captures."""
    mode: str
    arguments: tuple[str, ...]
    """As far as it matters where objects and masks stand in them."""
    recursive_arguments: tuple[str, ...]
    options: tuple[str, ...] = ()

    @property
    def rsync(self) -> bool:
        """Whether its list files are the include and exclude lists of rsync."""
        return self.mode.startswith("rsync")

    @property
    def module(self) -> bool:
        """Whether its handler is a module: what it is called with stands for arguments (see `recorder.c`)."""
        return self.mode in ("so", "rsyncso")


_SIMPLE = ("sync", "%label%", "%EVENT-MASK%", OBJECTS)
_DIRECT = (OBJECTS, "%destination-dir%/")
_SHELL = ("synclist", "%label%", "%INCLUDE-LIST-PATH%")
_SO = ("clsyncapi_sync", OBJECTS)
_INCLUDE = ("--rsync-prefer-include",)

MODES = (
    Mode("simple", "simple", _SIMPLE, _SIMPLE),
    Mode("direct", "direct", _DIRECT, _DIRECT),
    Mode("shell", "shell", _SHELL, ("initialsync", "%label%", OBJECTS)),
    Mode("rsyncshell", "rsyncshell", (), ()),
    Mode("rsyncshell-include", "rsyncshell", (), (), _INCLUDE),
    Mode("rsyncdirect", "rsyncdirect", (), ()),
    Mode("rsyncdirect-include", "rsyncdirect", (), (), _INCLUDE),
    Mode("so", "so", _SO, _SO),
    Mode("rsyncso", "rsyncso", (), ()),
    Mode("rsyncso-include", "rsyncso", (), (), _INCLUDE),
)
