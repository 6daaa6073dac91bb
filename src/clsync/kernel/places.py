"""Paths in which others may have a hand: nothing that they have put there is followed, overwritten or given away."""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from clsync.core.paths import shown
from clsync.kernel import roles

Check = Callable[[os.stat_result, bytes], None]
"""Is given what stands on the way, and its path; raises OSError where that is not to be gone by."""
_STEP: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_TOP: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_MOST_LINKS: Final = 40
_TRIES: Final = 100
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


Identity = tuple[int, int]
"""Device and inode."""


class Unsafe(PermissionError):
    """Somebody else has a hand in what a path leads to; `strerror` says who, and in what."""

    def __init__(self, why: str) -> None:
        super().__init__(errno.EPERM, why)


def demand_own_links(found: os.stat_result, path: bytes) -> None:
    """Follow no symlink but root's and ours (a `Check`). Raises Unsafe."""
    if stat.S_ISLNK(found.st_mode) and found.st_uid not in _trusted():
        raise Unsafe(f"the symlink {shown(path)} belongs to somebody else (user {found.st_uid})")


def demand_ours_alone(found: os.stat_result, path: bytes) -> None:
    """Go by nothing that anybody but root and we may change (a `Check`). Raises Unsafe."""
    if found.st_uid not in _trusted() or not _is_closed(found.st_mode):
        raise Unsafe(f"others can change {shown(path)} ({_who(found)})")


def demand_root_alone(found: os.stat_result, path: bytes) -> None:
    """Go by nothing that anybody but root may change (a `Check`). Raises Unsafe."""
    if found.st_uid or not _is_closed(found.st_mode):
        raise Unsafe(f"others than root can change {shown(path)} ({_who(found)})")


def demand_closed(found: os.stat_result) -> None:
    """Put nothing into a directory that others may write, sticky or not. Raises Unsafe."""
    if has_strangers(found):
        raise Unsafe(f"others may write into it ({_who(found)})")


def demand_owner(found: os.stat_result, *owners: int) -> None:
    """Go by what belongs to one of some users only. Raises Unsafe."""
    if found.st_uid not in owners:
        raise Unsafe(f"it belongs to somebody else ({_who(found)})")


def has_strangers(found: os.stat_result) -> bool:
    """Tell whether others than its owner can make something in a directory: a sticky one is no exception."""
    return bool(found.st_mode & _OTHERS_WRITE)


def _is_closed(mode: int) -> bool:
    """Tell whether what stands on a way can be changed by its owner alone.

    In a sticky directory others cannot take away what is not theirs, and what is below is asked for its owner as well.
    """
    return stat.S_ISLNK(mode) or (stat.S_ISDIR(mode) and bool(mode & stat.S_ISVTX)) or not mode & _OTHERS_WRITE


def _who(found: os.stat_result) -> str:
    return f"owner {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o}"


@contextmanager
def reached(path: bytes, check: Check = demand_own_links, *, follow: bool = False) -> Iterator[tuple[int, bytes]]:
    """Give a descriptor of the directory that a path ends in, and the last name, for the time of a `with` block.

    All that is gone by is checked; the last name only with `follow`: then it is no symlink. Raises OSError.
    """
    directory, name = _reach(path, check, follow)
    try:
        yield directory, name
    finally:
        os.close(directory)


def _reach(path: bytes, check: Check, follow: bool) -> tuple[int, bytes]:
    steps = _steps(path)
    if not steps:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    where, links = b"/" if path.startswith(b"/") else b".", 0
    here = os.open(where, _TOP)
    try:
        check(os.fstat(here), where)
        while len(steps) > 1 or (follow and steps):
            step = steps.popleft()
            at = os.path.join(where, step)
            try:
                below = os.open(step, _STEP, dir_fd=here)
            except FileNotFoundError:
                if not steps:
                    return here, step
                raise
            try:
                found = os.fstat(below)
                check(found, at)
                if stat.S_ISLNK(found.st_mode):
                    links += 1
                    if links > _MOST_LINKS:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                    target = os.readlink(b"", dir_fd=below)
                    steps.extendleft(reversed(_steps(target)))
                    if target.startswith(b"/"):
                        os.close(here)
                        here, where = -1, b"/"
                        here = os.open(b"/", _TOP)
                elif not steps:
                    return here, step
                elif not stat.S_ISDIR(found.st_mode):
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
                else:
                    here, below, where = below, here, at
            finally:
                os.close(below)
    except BaseException:
        if here >= 0:
            os.close(here)
        raise
    return here, steps[0] if steps else b"."


def _steps(path: bytes) -> deque[bytes]:
    return deque(step for step in path.split(b"/") if step not in (b"", b"."))


@contextmanager
def small_file(path: bytes) -> Iterator[int]:
    """Open a file of our own to be written, made where it is not there, for the time of a `with` block.

    What stands there must be a regular file; one of somebody else, or with other names, is replaced. Raises OSError.
    """
    with reached(path) as (directory, name):
        descriptor = _small(directory, name)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def demand_place(path: bytes) -> None:
    """See that `small_file` can be had, as far as that can be told beforehand: nothing is changed. Raises OSError."""
    with reached(path) as (directory, name):
        with suppress(FileNotFoundError):
            found = os.lstat(name, dir_fd=directory)
            _demand_regular(found)
            if _is_ours(found):
                return
        demand_writable(directory)


def demand_writable(directory: int) -> None:
    """See that entries can be made in a directory. Raises OSError."""
    if not os.access(b"/proc/self/fd/%d" % directory, os.W_OK | os.X_OK, effective_ids=True):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _small(directory: int, name: bytes) -> int:
    flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    for _ in range(_TRIES):
        try:
            # Looked at first: opening a device or a FIFO may do something already.
            _demand_regular(os.lstat(name, dir_fd=directory))
            descriptor = os.open(name, flags, dir_fd=directory)
        except FileNotFoundError:
            try:
                return os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=directory)
            except FileExistsError:
                continue
        found = os.fstat(descriptor)
        if _is_ours(found):
            return descriptor
        os.close(descriptor)
        _demand_regular(found)
        try:
            os.unlink(name, dir_fd=directory)
        except FileNotFoundError:
            continue
    raise Unsafe("somebody else puts other files in its place")


def _is_ours(found: os.stat_result) -> bool:
    return stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_uid in _ours()


def _demand_regular(found: os.stat_result) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise Unsafe("it is a symlink, and none is followed there")
    if not stat.S_ISREG(found.st_mode):
        raise Unsafe("it is no regular file")


def remove(path: bytes, identity: Identity | None) -> None:
    """Remove a file if it is still the one that was written; None: nobody knows, if it is one of ours. Raises OSError."""
    with reached(path) as (directory, name):
        found = os.lstat(name, dir_fd=directory)
        if _is_ours(found) if identity is None else identity_of(found) == identity:
            os.unlink(name, dir_fd=directory)


def empty(path: bytes, identity: Identity | None) -> None:
    """Make a file empty if it is still the one that was written (see `remove`). Raises OSError."""
    with reached(path) as (directory, name):
        descriptor = os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    try:
        found = os.fstat(descriptor)
        if _is_ours(found) if identity is None else identity_of(found) == identity:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def make_directory(path: bytes, mode: int) -> int:
    """Make a directory, and open it. Raises OSError; FileExistsError where something stands there."""
    with reached(path) as (directory, name):
        os.mkdir(name, mode, dir_fd=directory)
        made = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    if os.fstat(made).st_uid != os.geteuid():
        os.close(made)
        raise Unsafe("somebody else has put another directory in its place")
    return made


def make_directories(path: bytes, mode: int, made: Callable[[int], object] = lambda directory: None) -> list[bytes]:
    """Make a directory and those above it that are missing; return what was made, the topmost first. Raises OSError.

    `made` is given a descriptor of each.
    """
    missing, at = list[bytes](), path
    while not os.path.lexists(at):
        missing.insert(0, at)
        at = os.path.dirname(at)
    for one in missing:
        try:
            directory = make_directory(one, mode)
        except FileExistsError:
            continue  # by another process, at this moment
        try:
            made(directory)
        finally:
            os.close(directory)
    return missing


def own_directory(path: bytes) -> int:
    """Open a directory in which nobody but root, us, and who clsync is to be, may put anything. Raises OSError."""
    with reached(path, follow=True) as (directory, name):
        found = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    looked = os.fstat(found)
    if looked.st_uid in _ours() and not looked.st_mode & _OTHERS_WRITE:
        return found
    os.close(found)
    raise Unsafe(f"others may write into it ({_who(looked)})")


def open_of_root(path: bytes) -> int:
    """Open a regular file that nobody but root may write, nor put another one in its place. Raises OSError."""
    with reached(os.path.abspath(path), demand_root_alone, follow=True) as (directory, name):
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    try:
        found = os.fstat(descriptor)
        demand_root_alone(found, path)
        _demand_regular(found)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_of_root(path: bytes) -> bytes:
    """Return what is in such a file (see `open_of_root`). Raises OSError."""
    with open(open_of_root(path), "rb") as file:
        return file.read()


def identity_of(found: os.stat_result) -> Identity:
    """Return what tells a file from all others that are there now."""
    return found.st_dev, found.st_ino


def _trusted() -> tuple[int, int]:
    """Return the users whose files we go by: root, who may do anything anyway, and who we are in this thread."""
    return 0, os.geteuid()


def _ours() -> tuple[int, ...]:
    """Return the users whose files are as good as our own: also who clsync is, or is about to be."""
    return (*_trusted(), roles.own_ids().uid)
