"""A sandbox for what clsync itself starts: a thread enters it, starts a program in it, and ends.

Namespaces, rights and filters belong to threads, and a program has those of the thread that starts it: so the process
itself stays as it is, and a start costs no copy of its memory.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from clsync.kernel import credentials, landlock, namespaces, roles, seccomp
from clsync.kernel.credentials import capabilities, mask
from clsync.kernel.files import open_straight
from clsync.kernel.landlock import Allowed
from clsync.options.names import SANDBOX_LAYERS

_Result = TypeVar("_Result")
_PATIENCE: Final = 5.0
"""Seconds in which a thread that has been waited for is gone."""
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
    destination: bytes | None
    """A local one, in which all is changed: an absolute path without symlinks."""
    network: bool
    capabilities: int
    """What it has at most, as bits."""
    filter: bytes
    """System calls (`kernel.seccomp.program`)."""

    def with_files(self, names: Iterable[bytes]) -> Sandbox:
        """Return it with more files that may be read."""
        return replace(self, allowed=(*self.allowed, *(Allowed(name, landlock.READ_FILE) for name in names)))

    def for_lasting(self) -> Sandbox:
        """Return it for a program that leaves a process behind: with the first one of a namespace all others end."""
        return replace(self, layers=self.layers - {"processes"})

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
    """Do something in a thread of its own, which ends then. Raises what that raises, OSError where none can be had."""
    results: list[_Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(act())
        except BaseException as error:  # noqa: BLE001 - it is raised again where it is waited for
            errors.append(error)

    thread = threading.Thread(target=run, name="start")
    try:
        thread.start()
    except RuntimeError:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from None  # there may be no more of them
    thread.join()
    for error in errors:
        raise error
    return results[0]


def start_within(sandbox: Sandbox, cwd: int, start: Callable[[int], _Result]) -> _Result:
    """Start a program in a sandbox, as who runs handlers; `start` is given the directory to start it in.

    What is in that directory may be read. Raises OSError (ESTALE: the directory `cwd` is no longer where its path leads;
    ELOOP, ENOTDIR: neither is the destination).
    """
    own_view, own_processes = "mounts" in sandbox.layers, "processes" in sandbox.layers

    def act() -> _Result:
        with ExitStack() as stack:
            if "capabilities" in sandbox.layers:
                credentials.limit_bounding(sandbox.capabilities)
            if own_view:
                have_own_view()
            else:
                stack.enter_context(roles.as_programs())
            there = _found_again(cwd, stack) if own_view else cwd
            if own_processes:
                namespaces.unshare(namespaces.PROCESSES)
            allowed, written = _places(sandbox, there, stack)
            if own_view:
                make_read_only(written)
                stack.enter_context(roles.as_programs())
            enter(replace(sandbox, allowed=(*sandbox.allowed, *allowed)))
            return start(there)

    return apart(act)


def _places(sandbox: Sandbox, cwd: int, stack: ExitStack) -> tuple[list[Allowed], list[tuple[bytes, bytes]]]:
    """Return what is allowed in both trees, and where is written: by which name, and seen where. Raises OSError."""
    allowed = [Allowed(b"/proc/self/fd/%d" % cwd, landlock.READ)]
    written = [(path, path) for path in sandbox.writes]
    if sandbox.destination is not None:
        # No symlink that somebody puts into its path may make another place of it.
        place = open_straight(sandbox.destination, os.O_PATH | os.O_DIRECTORY)
        stack.callback(os.close, place)
        name = b"/proc/self/fd/%d" % place
        allowed.append(Allowed(name, landlock.WRITE))
        written.append((name, sandbox.destination))
    return allowed, written


def _found_again(cwd: int, stack: ExitStack) -> int:
    """Return a directory as it is seen now: its descriptor leads to mounts of before, where something can be written.

    Raises OSError.
    """
    path, wanted = os.readlink(b"/proc/self/fd/%d" % cwd), os.fstat(cwd)
    there = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    stack.callback(os.close, there)
    found = os.fstat(there)
    if (found.st_dev, found.st_ino) != (wanted.st_dev, wanted.st_ino):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)
    return there


def have_own_view() -> None:
    """Have, in this thread, a view of mounts of its own. Raises OSError."""
    namespaces.unshare(_PRIVATE)
    namespaces.make_private()


def make_read_only(but: Iterable[tuple[bytes, bytes]]) -> None:
    """Make all that this view of mounts shows read-only `but` some: by which name, seen where (Linux 5.12).

    Raises OSError.
    """
    trees: list[tuple[bytes, int]] = []
    try:
        for name, place in but:
            with suppress(FileNotFoundError):
                trees.append((place, namespaces.copy_of_mounts(name)))
        namespaces.make_read_only(b"/")
        for place, tree in trees:
            namespaces.lay(tree, place)
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


def _try_mounts() -> None:
    have_own_view()
    make_read_only(())


def _try_processes() -> None:
    namespaces.unshare(namespaces.PROCESSES)


_TRIALS: Final[dict[str, Callable[[], object]]] = {
    "landlock": _try_landlock,
    "seccomp": _try_seccomp,
    "mounts": _try_mounts,
    "processes": _try_processes,
    "capabilities": lambda: credentials.limit_bounding(0),
}


def trouble_with(layer: str) -> str:
    """Tell why a layer cannot be had here and now; empty where it can. It is tried, in a thread that ends then."""
    assert _TRIALS.keys() == set(SANDBOX_LAYERS)

    def attempt() -> int:
        _TRIALS[layer]()
        return threading.get_native_id()

    try:
        _wait_for_end(apart(attempt))
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _wait_for_end(thread: int) -> None:
    """Wait until the kernel, too, is done with a thread: none can get a filter that it shares before (EBUSY)."""
    until = time.monotonic() + _PATIENCE
    while os.path.exists(b"/proc/self/task/%d" % thread) and time.monotonic() < until:
        time.sleep(0.0005)
