"""Kernel features are probed, never inferred from a version; a probe can be forced to fail.

`CLSYNC_WITHOUT=open_tree,fanotify` in the environment makes those probes answer "absent": for tests, and for
machines where a feature is there and broken.
"""

from __future__ import annotations

import errno
import os
from typing import Final

FEATURES: Final = (
    "copy_file_range",
    "fanotify",
    "fanotify_rename",
    "fanotify_target",
    "inotify",
    "landlock",
    "memfd",
    "mount_setattr",
    "open_tree",
    "openat2",
    "pidfd",
    "reflink",
    "renameat2",
    "seccomp",
)
_FORCED = frozenset(filter(None, os.environ.get("CLSYNC_WITHOUT", "").split(",")))


def forced_absent(feature: str) -> bool:
    """Tell whether a feature is not to be used."""
    return feature in _FORCED


def refuse_if_forced(feature: str) -> None:
    """Raise OSError (ENOSYS), as a kernel without it does, if a feature is not to be used."""
    if feature in _FORCED:
        raise OSError(errno.ENOSYS, f"{os.strerror(errno.ENOSYS)} (CLSYNC_WITHOUT={feature})")
