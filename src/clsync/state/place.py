"""Where states are kept."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Final

_SYSTEM: Final = b"/var/lib/clsync"
_LONGEST: Final = 100
_PLAIN: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


def default_directory(root: bool, environment: Mapping[bytes, bytes]) -> bytes:
    """Return the directory for the states of all sources; `root`: whether we are. `environment`: as `os.environb`."""
    given = environment.get(b"STATE_DIRECTORY", b"").partition(b":")[0]  # of a service, see systemd.exec(5)
    if os.path.isabs(given):
        return given
    if root:
        return _SYSTEM
    home = environment.get(b"XDG_STATE_HOME", b"")
    if not os.path.isabs(home):  # as the XDG Base Directory Specification says
        home = os.path.join(os.path.expanduser(b"~"), b".local", b"state")
    return os.path.join(home, b"clsync")


def directory_of(states: bytes, source: bytes, instance: bytes = b"") -> bytes:
    """Return the directory for the state of the source at an absolute path; `instance` tells two of one source apart."""
    name = bytes(c if c in _PLAIN else ord("_") for c in source.strip(b"/"))[-_LONGEST:]
    digest = hashlib.blake2b(source + b"\0" + instance, digest_size=8).hexdigest().encode()
    return os.path.join(states, (name or b"root") + b"-" + digest)
