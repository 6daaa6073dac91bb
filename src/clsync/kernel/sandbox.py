"""A sandbox for what clsync itself starts: a thread enters it, starts a program in it, and ends.

Namespaces, rights and filters belong to threads, and a program has those of the thread that starts it: so the process
itself stays as it is, and a start costs no copy of its memory.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from clsync.kernel import credentials, landlock, namespaces, roles, seccomp
from clsync.kernel.credentials import capabilities, mask
from clsync.kernel.landlock import Allowed
from clsync.options.table import SANDBOX_LAYERS

_Result = TypeVar("_Result")
_ADMIN: Final = mask(("CAP_SYS_ADMIN",))
_PRIVATE: Final = namespaces.FS | namespaces.MOUNTS


@dataclass(frozen=True, slots=True)
class Sandbox:
    """What a program of ours may do. Can be pickled."""

    layers: frozenset[str]
    """Those of `SANDBOX_LAYERS` that are to be used."""
    allowed: tuple[Allowed, ...]
    """Files and directories."""
    writes: tuple[bytes, ...]
    """Those of them in which something is changed."""
    network: bool
    capabilities: int
    """What it has at most, as bits."""
    filter: bytes
    """System calls (`kernel.seccomp.program`)."""

    def with_files(self, names: Iterable[bytes]) -> Sandbox:
        """Return it with more files that may be read."""
        return replace(self, allowed=(*self.allowed, *(Allowed(name, landlock.READ_FILE) for name in names)))

    def with_directory(self, path: bytes) -> Sandbox:
        """Return it with one more directory that may be written."""
        return replace(self, allowed=(*self.allowed, Allowed(path, landlock.WRITE)), writes=(*self.writes, path))


class _Layers:
    usable: frozenset[str] = frozenset()


def use(layers: frozenset[str]) -> None:
    """Say which layers sandboxes are to have from now on."""
    _Layers.usable = layers


def usable() -> frozenset[str]:
    """Return the layers that sandboxes are to have."""
    return _Layers.usable


def apart(act: Callable[[], _Result]) -> _Result:
    """Do something in a thread of its own, which ends then. Raises what that raises."""
    results: list[_Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(act())
        except BaseException as error:  # noqa: BLE001 - it is raised again where it is waited for
            errors.append(error)

    thread = threading.Thread(target=run, name="start")
    thread.start()
    thread.join()
    for error in errors:
        raise error
    return results[0]


def start_within(sandbox: Sandbox, cwd: int, start: Callable[[int], _Result]) -> _Result:
    """Start a program in a sandbox, as who runs handlers; `start` is given the directory to start it in.

    What is in that directory may be read. Raises OSError (ESTALE: the directory `cwd` is no longer where its path leads).
    """

    def act() -> _Result:
        with _seen(sandbox, cwd) as there:
            if "capabilities" in sandbox.layers:
                credentials.limit_bounding(sandbox.capabilities)
            here = Allowed(b"/proc/self/fd/%d" % there, landlock.READ)
            with roles.as_programs():
                enter(replace(sandbox, allowed=(*sandbox.allowed, here)))
                return start(there)

    return apart(act)


@contextmanager
def _seen(sandbox: Sandbox, cwd: int) -> Iterator[int]:
    """Have one's own view of mounts, in which only what is written can be written; give the directory in it."""
    if "mounts" not in sandbox.layers:
        yield cwd
        return
    path, wanted = os.readlink(b"/proc/self/fd/%d" % cwd), os.fstat(cwd)
    see_read_only(sandbox.writes)
    # The descriptor leads to the mounts of before, where something could be written.
    there = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(there)
        if (found.st_dev, found.st_ino) != (wanted.st_dev, wanted.st_ino):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)
        yield there
    finally:
        os.close(there)


def see_read_only(but: Iterable[bytes]) -> None:
    """Have, in this thread, a view of mounts in which all is read-only `but` some (Linux 5.12). Raises OSError."""
    namespaces.unshare(_PRIVATE)
    namespaces.make_private()
    trees: list[tuple[bytes, int]] = []
    try:
        for path in but:
            with suppress(FileNotFoundError):
                trees.append((path, namespaces.copy_of_mounts(path)))
        namespaces.make_read_only(b"/")
        for path, tree in trees:
            namespaces.lay(tree, path)
    finally:
        for _, tree in trees:
            os.close(tree)


def enter(sandbox: Sandbox) -> None:
    """Put in force, in this thread, what programs cannot gain back: files, sockets, system calls. Raises OSError."""
    gains = bool(capabilities().effective & _ADMIN)
    if not gains and {"landlock", "seccomp"} & sandbox.layers:
        credentials.no_new_privileges()
    if "landlock" in sandbox.layers:
        landlock.restrict(sandbox.allowed, network=sandbox.network)
    if "seccomp" in sandbox.layers:
        seccomp.load(sandbox.filter, everywhere=False, gains=gains)


def stay_within(sandbox: Sandbox, more: Iterable[Allowed]) -> None:
    """Enter a sandbox in which `more` is allowed, with the only thread of this process, for good. Raises OSError."""
    if "capabilities" in sandbox.layers:
        held = capabilities()
        kept = sandbox.capabilities & held.permitted
        credentials.set_ambient(0)
        credentials.set_capabilities(credentials.CapabilitySets(kept, kept, 0))
    credentials.no_new_privileges()
    enter(replace(sandbox, allowed=(*sandbox.allowed, *more)))


def _try_landlock() -> None:
    credentials.no_new_privileges()
    landlock.restrict((), network=False)


def _try_seccomp() -> None:
    seccomp.load(seccomp.program({}, {}, seccomp.ALLOW, {}), everywhere=False)


_TRIALS: Final = {
    "landlock": _try_landlock,
    "seccomp": _try_seccomp,
    "mounts": lambda: see_read_only(()),
    "capabilities": lambda: credentials.limit_bounding(0),
}


def trouble_with(layer: str) -> str:
    """Tell why a layer cannot be had here and now; empty where it can. It is tried, in a thread that ends then."""
    assert _TRIALS.keys() == set(SANDBOX_LAYERS)
    try:
        apart(_TRIALS[layer])
    except OSError as error:
        return error.strerror or str(error)
    return ""
