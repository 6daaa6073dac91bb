"""What a module is told about the daemon: from the settings to the fields of `struct ctx`."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from clsync.kernel import roles
from clsync.options import Settings
from clsync.options.table import OPTIONS, Option

_NUMBERS: Final = {
    name: 512 + number
    for number, name in enumerate(
        "have-recursive-sync rsync-inclimit rsync-prefer-include synclist-simplify one-file-system status-file"
        " skip-initialsync only-initialsync exit-on-no-events standby-file exit-hook cluster-scan-dl-max pre-exit-hook"
        " socket-auth socket-mod socket-own max-iterations ignore-failures dump-dir config-block-inherits monitor"
        " -- --- custom-signals chroot mountpoints splitting sync-handler-uid sync-handler-gid inherit-capabilities"
        " check-execvp-arguments pivot-root detach-network detach-miscellanea add-permitted-hook-files seccomp-filter"
        " forget-privthread-info secure-splitting fts-experimental-optimization forbid-devices cgroup-group-name"
        " permit-mprotect shm-mprotect modification-signature cancel-syscalls exit-on-sync-skipping detach-ipc"
        " privileged-uid privileged-gid sync-on-quit".split()
    )
}
"""Places of options without a letter in the arrays of `struct ctx`."""

_WORDS: Final = {
    "mode": ("", "simple", "direct", "shell", "rsyncshell", "rsyncdirect", "rsyncso", "so"),
    "monitor": ("auto", "fanotify", "inotify"),
    "output": ("stderr", "stdout", "syslog"),
    "threading": ("off", "safe", "full"),
}
"""Options whose words are numbers in C: the place in the list."""

_FILES: Final = {
    "config_path": "config-file",
    "pidfile": "pid-file",
    "standbyfile": "standby-file",
    "exithookfile": "exit-hook",
    "preexithookfile": "pre-exit-hook",
    "statusfile": "status-file",
    "socketpath": "socket",
    "dump_path": "dump-dir",
    "rulfpath": "rules-file",
    "listoutdir": "lists-dir",
    "chroot_dir": "chroot",
}

STATES: Final = {"exiting": 0, "starting": 1, "running": 2, "synchandler error": 3, "lastsync": 6, "initsync": 9}
"""`enum state_enum`, as far as a module is called in it."""


class Values(NamedTuple):
    """What is put into `struct ctx`; all of it is fixed for a run."""

    fields: Mapping[str, int | bytes | None]
    numbers: Mapping[int, int]
    """`flags`."""
    texts: Mapping[int, bytes]
    """`flags_values_raw`: options that were given."""
    delays: Sequence[int]
    """Seconds that the queues wait."""
    codes_done: frozenset[int]
    arguments: Sequence[Sequence[bytes]]
    """Of the handler, and of recursive runs."""


def values_of(
    settings: Settings,
    *,
    mode: str,
    module: bytes,
    root: bytes,
    destination: bytes | None,
    remote: bool,
    arguments: Sequence[Sequence[bytes]],
) -> Values:
    """Describe a run to a module. `root` and a local `destination` are absolute. Raises OSError."""
    s = settings
    own, programs, starter = roles.own_ids(), roles.programs_ids(), roles.starter_ids()
    fields: dict[str, int | bytes | None] = {
        "label": s.label,
        "config_block": s.config_block,
        "handlerfpath": module,
        "retries": s.retries,
        "bfilethreshold": s.threshold_bigfile,
        "syncdelay": _seconds(s.delay_sync),
        "synctimeout": _seconds(s.timeout_sync),
        "rsyncinclimit": s.rsync_inclimit,
        "socket": -1,
        "st_dev": os.stat(root).st_dev,
        "uid": own.uid,
        "gid": own.gid,
        "privileged_uid": starter.uid,
        "privileged_gid": starter.gid,
        "synchandler_uid": programs.uid,
        "synchandler_gid": programs.gid,
        "watchdir_dirlevel": root.rstrip(b"/").count(b"/"),
        **_directory("watchdir", root, False),
        **_directory("destdir", destination, remote),
    }
    for field, name in _FILES.items():
        text = s.text(name.encode())
        fields[field] = os.path.abspath(text) if text and b"/" in text else text or None
    fields["destproto"] = (
        destination.partition(b"://")[0] if destination and remote and b"://" in destination else None
    )
    return Values(
        fields,
        {place: number for option in OPTIONS if (place := _place(option)) for number in _number(option, s, mode)},
        {place: s.text(o.name.encode()) or b"" for o in OPTIONS if (place := _place(o)) and o.name in s.given},
        (_seconds(s.delay_collect), _seconds(s.delay_collect_bigfile), 0, 0),
        s.ignore_exitcode,
        arguments,
    )


def _seconds(time: float) -> int:
    return math.ceil(max(time, 0.0))


def _directory(name: str, path: bytes | None, remote: bool) -> dict[str, int | bytes | None]:
    """Return the fields that tell of a directory, with a slash at its end and without."""
    if path is None:
        return {}
    slashed = path if remote else path.rstrip(b"/") + b"/"
    sizes = {"len": len(path), "size": len(path) + 1, "wslashsize": len(slashed) + 1}
    return {name: path, f"{name}wslash": slashed} | {name + what: number for what, number in sizes.items()}


def _place(option: Option) -> int:
    """Return the place of an option in the arrays, 0 for those that clsync 0.4 did not have."""
    return ord(option.short) if option.short else _NUMBERS.get(option.name, 0)


def _number(option: Option, settings: Settings, mode: str) -> tuple[int, ...]:
    """Return the value of an option that is a number in C, nothing for others."""
    value = mode if option.name == "mode" else getattr(settings, option.key, None)
    words = _WORDS.get(option.name)
    if words is not None:
        return (words.index(value) if value in words else 0,)
    return (value,) if isinstance(value, int) and abs(value) < 2**31 else ()
