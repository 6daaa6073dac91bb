"""Another root directory, and other mounts: what clsync and its programs need is seen to be there."""

from __future__ import annotations

import errno
import importlib.util
import os
import pkgutil
import stat
import sys
import time
from contextlib import suppress
from typing import Final

import clsync
from clsync.core.paths import is_below
from clsync.errors import Exit, OperatorError
from clsync.kernel import namespaces
from clsync.kernel.mounts import read_mounts
from clsync.options.values import shown

DEVICES: Final = ("null", "zero", "full", "random", "urandom")
"""What a small /dev has."""
_STAYS: Final = (b"/", b"/proc", b"/dev")
_LINKS: Final = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}
_LATE: Final = (
    "concurrent.futures.thread", "difflib", "encodings.idna", "encodings.latin_1", "encodings.unicode_escape", "json",
    "pickle", "random", "shutil", "subprocess", "syslog", "tempfile", "traceback", "unicodedata",
)  # fmt: skip
"""What the standard library and we import when it is needed."""


def import_everything() -> None:
    """Load all code now: its files may be out of reach later. So may be the time zone."""
    for module in pkgutil.walk_packages(clsync.__path__, "clsync."):
        found = importlib.util.find_spec(module.name)
        if found is not None and (found.origin or "").endswith(".py"):  # libraries for modules in C are none
            importlib.import_module(module.name)
    for name in _LATE:
        importlib.import_module(name)
    time.localtime()


def has_python() -> bool:
    """Tell whether processes of ours can be started here."""
    return os.access(sys.executable, os.X_OK) and os.path.exists(clsync.__file__)


def demand_mounts(points: tuple[bytes, ...]) -> list[bytes]:
    """See that something is mounted at each of these places; return all where something is. Raises OperatorError."""
    mounts = _points()
    for point in points:
        if point not in mounts:
            raise OperatorError(f"--mountpoints {shown(point)}: nothing is mounted there", "see: findmnt")
    return mounts


def keep_mounts(points: tuple[bytes, ...]) -> None:
    """Unmount everything that is neither at one of these places nor holds one of them. Raises OSError, OperatorError."""
    mounts = demand_mounts(points)
    kept = {m for m in mounts if m in _STAYS or any(m == p or is_below(p, m.rstrip(b"/")) for p in points)}
    while sum(_unmounted(point) for point in reversed(_points()) if point not in kept):
        pass  # one may have hidden others


def _points() -> list[bytes]:
    return [mount.point for mount in read_mounts()]


def _unmounted(point: bytes) -> bool:
    """Unmount what is mounted there; tell whether something was. Raises OSError."""
    above = os.path.dirname(point)
    if os.path.realpath(above) != above:
        return False  # what was unmounted before has hidden a symlink that leads elsewhere
    try:
        namespaces.unmount(point)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EINVAL):  # it went with what held it, or is hidden
            raise
        return False
    return True


def change_root(path: bytes, how: str) -> None:
    """Make a directory the root; `how`: see the option pivot-root. Raises OSError, OperatorError."""
    where = f"--chroot {shown(path)}"
    started = os.getcwdb()
    try:
        new = os.path.realpath(path, strict=True)
        os.chdir(new)
    except OSError as error:
        raise OperatorError(f"{where}: {error.strerror}", "name a directory", Exit.PRIVILEGE) from None
    if how == "off":
        _demand_all(where, how, b".")
        os.chroot(b".")
    else:
        _pivot(new, how, where)
    # Relative paths mean what they meant outside, where they can.
    try:
        inside = started == new or is_below(started, new.rstrip(b"/"))
        os.chdir(b"/" + os.path.relpath(started, new) if inside else b"/")
    except OSError:
        os.chdir(b"/")


def demand_root(path: bytes, how: str) -> None:
    """See that a directory can become the root, as far as that can be told beforehand. Raises OperatorError."""
    where = f"--chroot {shown(path)}"
    try:
        new = os.path.realpath(path, strict=True)
        os.close(os.open(new, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError as error:
        raise OperatorError(f"{where}: {error.strerror}", "name a directory", Exit.PRIVILEGE) from None
    if how == "direct":
        _demand_mount(new)
    _demand_all(where, how, new, filled=how in ("auto", "auto-ro") and new != b"/")


def _demand_mount(new: bytes) -> None:
    if new not in _points():
        raise OperatorError(
            f"--pivot-root=direct: {shown(new)} is no mount point",
            "use --pivot-root=auto, which takes any directory",
            Exit.PRIVILEGE,
        )


def _pivot(new: bytes, how: str, where: str) -> None:
    if how == "direct":
        _demand_mount(new)
    elif new != b"/":
        namespaces.bind(new, new)
        os.chdir(new)  # what has just been mounted there
        _fill(new)
    _demand_all(where, how, b".")
    if how == "auto-ro":
        namespaces.make_read_only(new)
        if os.path.isdir(b"tmp"):
            namespaces.mount_memory(os.path.join(new, b"tmp"), b"mode=1777")
    if new != b"/":
        namespaces.change_root()


def _fill(new: bytes) -> None:
    """Put /proc and a small /dev where there are empty directories for them."""
    if os.path.isdir(b"proc") and not os.path.exists(b"proc/self"):
        namespaces.bind(b"/proc", new + b"/proc")
    if os.path.isdir(b"dev") and not os.path.exists(b"dev/null"):
        namespaces.mount_memory(new + b"/dev", b"mode=755,size=64k")
        for name in DEVICES:
            here, there = f"/dev/{name}".encode(), new + f"/dev/{name}".encode()
            with suppress(FileNotFoundError), open(os.open(there, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600)):
                namespaces.bind(here, there)
        for name, target in _LINKS.items():
            os.symlink(target, os.path.join(new, b"dev", name.encode()))


def _demand_all(where: str, how: str, new: bytes, filled: bool = False) -> None:
    """See that a directory has what the root of clsync needs. Raises OperatorError.

    `filled`: empty directories will do, as `_fill` is to come.
    """
    proc, null = os.path.join(new, b"proc"), os.path.join(new, b"dev/null")
    if not os.path.exists(os.path.join(proc, b"self/fd")) and not (filled and os.path.isdir(proc)):
        hint = "mount one: mount -t proc proc DIR/proc" if how in ("off", "direct") else "make it: mkdir DIR/proc"
        raise OperatorError(f"{where}: there is no /proc with processes in it", hint, Exit.PRIVILEGE)
    if filled and os.path.isdir(os.path.dirname(null)) and not os.path.exists(null):
        return
    try:
        found = os.stat(null)
    except OSError:
        found = None
    if found is None or not stat.S_ISCHR(found.st_mode):
        hint = "make it: mknod -m 666 DIR/dev/null c 1 3" if how in ("off", "direct") else "make it: mkdir DIR/dev"
        raise OperatorError(f"{where}: there is no /dev/null", hint, Exit.PRIVILEGE)
