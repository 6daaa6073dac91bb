"""What a program of clsync's own has to be able to do, and nothing else: rsync, ssh below it, the copier's processes."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from typing import Final

from clsync.kernel import landlock, sandbox, seccomp
from clsync.kernel.credentials import capabilities, mask
from clsync.kernel.landlock import READ, READ_FILE, RUN, USE, Allowed
from clsync.kernel.sandbox import Sandbox
from clsync.kernel.seccomp import Only
from clsync.privilege.seccomp import NEVER

_PROGRAMS: Final = tuple(
    Allowed(path, RUN) for path in b"/usr /bin /sbin /lib /lib32 /lib64 /libx32 /nix/store /gnu/store".split()
)
_BASICS: Final = (
    *(
        Allowed(b"/etc/" + name, READ_FILE)
        for name in b"ld.so.cache ld.so.preload passwd group nsswitch.conf localtime".split()
    ),
    *(Allowed(b"/dev/" + name, USE) for name in b"null zero full".split()),
    *(Allowed(b"/dev/" + name, READ_FILE) for name in b"random urandom".split()),
)
"""What nearly every program looks at."""
_NETWORK: Final = (
    *(
        Allowed(b"/etc/" + name, READ)
        for name in b"resolv.conf hosts host.conf gai.conf services protocols networks ssl/openssl.cnf"
        b" crypto-policies".split()
    ),
)
KEPT: Final = mask(
    (
        *("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID"),
        *("CAP_MKNOD", "CAP_SETFCAP", "CAP_LINUX_IMMUTABLE"),
    )
)
"""What making files equal takes."""
KEPT_FOR_NAMES: Final = mask(("CAP_SYS_ADMIN",))
"""For attributes whose names begin with `trusted.` (xattr(7))."""
NEEDED_BY_RSYNC: Final = frozenset(
    "execve execveat mknod mknodat setuid setgid setreuid setregid setresuid setresgid setgroups setfsuid setfsgid capset"
    " chroot personality".split()
)
"""Of calls that the worker never makes, what rsync or the start of a program may."""
NEEDED_BY_COPIES: Final = frozenset(("mknod", "mknodat"))
"""Of these, what making files equal takes."""
_OF_PROGRAMS: Final = frozenset(("mounts", "processes"))
"""Layers that only a program can have that is started in them."""
_NO_NAMESPACES: Final = Only(0, without=0x7E020000)
"""CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET."""


def rsync_sandbox(
    *, program: bytes, destination: bytes | None, xattrs: bool, more: Iterable[Allowed] = ()
) -> Sandbox | None:
    """Return what an rsync can do that is given our arguments; None where there are no sandboxes.

    The directory it is started in it can read anyway. `destination`: a local directory; None: it is elsewhere, and what
    the way there takes is in `more`.
    """
    layers = sandbox.usable()
    if not layers:
        return None
    extra = tuple(more)
    allowed = (
        *(*_PROGRAMS, *_BASICS, Allowed(os.path.realpath(program), RUN)),
        *(_NETWORK if destination is None else ()),
        *extra,
    )
    changed = tuple(path for path, access in extra if access & landlock.WRITE_FILE and not path.startswith(b"/dev/"))
    return Sandbox(
        layers,
        allowed,
        writes=changed,
        destination=destination,
        network=destination is None,
        capabilities=KEPT | (KEPT_FOR_NAMES if xattrs else 0),
        filter=_filter(layers, network=destination is None, without=NEEDED_BY_RSYNC),
    )


def copy_sandbox() -> Sandbox | None:
    """Return what a process that copies can do, besides what it copies; None where there are no sandboxes."""
    if not sandbox.usable():
        return None
    # It runs no program, so that it needs no CAP_SETPCAP to keep rights from being regained.
    layers = sandbox.usable() - _OF_PROGRAMS | {"capabilities"}
    calls = _filter(layers, network=False, without=NEEDED_BY_COPIES)
    return Sandbox(layers, _BASICS, (), None, network=False, capabilities=KEPT | KEPT_FOR_NAMES, filter=calls)


def scan_sandbox() -> Sandbox | None:
    """Return what a process that lists the watched tree can do, besides that; None where there are no sandboxes."""
    return _looking((), _listing())


def compare_sandbox(*, xattrs: bool) -> Sandbox | None:
    """Return what a process that compares two trees can do, besides reading them; None where there are no sandboxes."""
    return _looking(_BASICS, _listing() | (KEPT_FOR_NAMES if xattrs else 0))


def _listing() -> int:
    """Return what reading closed directories takes: the lesser one of two, but in containers root often has the other."""
    least = mask(("CAP_DAC_READ_SEARCH",))
    return least if capabilities().permitted & least else mask(("CAP_DAC_OVERRIDE",))


def _looking(allowed: tuple[Allowed, ...], capabilities: int) -> Sandbox | None:
    if not sandbox.usable():
        return None
    layers = sandbox.usable() - _OF_PROGRAMS | {"capabilities"}
    calls = _filter(layers, network=False, without=frozenset())
    return Sandbox(layers, allowed, (), None, network=False, capabilities=capabilities, filter=calls)


def _filter(layers: frozenset[str], *, network: bool, without: frozenset[str]) -> bytes:
    """Return the filter of what no copying needs; it is refused as if the kernel did not allow it."""
    if "seccomp" not in layers:
        return b""
    refused = {name: seccomp.error(errno.EPERM) for name in (*NEVER, "clone") if name not in without}
    refused["clone3"] = seccomp.error(errno.ENOSYS)  # its arguments cannot be seen; everybody falls back to clone
    if not network:
        refused["socket"] = seccomp.error(errno.EACCES)
    return seccomp.program(refused, {"clone": _NO_NAMESPACES}, seccomp.ALLOW, seccomp.numbers())
